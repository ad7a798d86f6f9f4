"""The study itself: presets, model families, what notebooks measure, sweeps, claims."""
