"""What the script's process tells of itself: numbers, kernels, packages."""
