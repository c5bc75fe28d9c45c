"""A first recipe for a script: from its text, and from running it once under observation."""
