"""Figures from tables, without torch."""
