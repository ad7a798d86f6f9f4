"""Python in a process of its own."""

import os
import subprocess
import sys

from actlib.study.presets import ROOT


def python(*words, cwd=ROOT, **variables):
    """What it prints for these words, with these variables of the environment; it must end well."""
    command, own = [sys.executable, *map(str, words)], os.environ | variables
    done = subprocess.run(command, cwd=cwd, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
