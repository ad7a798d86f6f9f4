"""Evaluation through lm-evaluation-harness: tasks of local files, and one call that runs tasks."""
