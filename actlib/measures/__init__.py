"""Statistics of scores, masks and results; nothing here runs a model."""
