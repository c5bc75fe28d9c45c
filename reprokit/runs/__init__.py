"""Runs in a registry: their records, verdicts on them, queries, lineage, transfer."""
