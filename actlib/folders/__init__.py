"""Models and patches as files, never loaded whole."""
