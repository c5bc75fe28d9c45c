"""Two runs, two checkpoints, two files: in what they differ."""
