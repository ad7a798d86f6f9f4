"""Judging through lm-evaluation-harness: `judging.judge`, and tasks of local files for it."""
