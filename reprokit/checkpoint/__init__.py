"""Checkpoints: how a snapshot becomes entries of a version, and back."""
