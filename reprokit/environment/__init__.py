"""Environments: what is installed, as an identity that can be compared."""
