"""Conda environments."""
