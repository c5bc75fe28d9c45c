"""What everything else stands on: digests, canonical JSON, names, files; knows nothing of runs."""
