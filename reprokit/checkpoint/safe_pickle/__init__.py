"""Pickles that may be a stranger's: data and named types, nothing executed."""
