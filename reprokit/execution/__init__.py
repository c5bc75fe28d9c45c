"""Lock → world: one run, from its workspace to its record."""
