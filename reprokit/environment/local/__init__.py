"""This interpreter, and what is remembered of its files."""
