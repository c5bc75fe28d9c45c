"""A version as a read-only file system."""
