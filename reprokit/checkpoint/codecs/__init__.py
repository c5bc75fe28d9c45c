"""Checkpoints as frameworks' own objects, and back."""
