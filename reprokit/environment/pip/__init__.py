"""Wheels, indexes and venvs."""
