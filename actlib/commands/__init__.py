"""The words of the command line, a module for each group of steps.

Each module has `add_words(steps)`, which adds its steps and sets for each the function that runs
it. Heavy modules are imported by that function, so that `actlib --help` answers at once.
"""
