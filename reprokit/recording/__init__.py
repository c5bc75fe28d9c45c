"""What a run leaves: its journal, its checkpoints, its record."""
