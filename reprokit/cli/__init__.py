"""The command line: a thin twin of the library, one small module per group of commands."""
