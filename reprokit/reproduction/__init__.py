"""Repeat a run, and find what is guilty where bits differ."""
