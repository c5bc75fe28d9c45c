"""Runs that other tools recorded: read from what those keep, recorded here without a lock."""
