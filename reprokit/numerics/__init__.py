"""What decides the bits on a machine: facts, classes, predictions."""
