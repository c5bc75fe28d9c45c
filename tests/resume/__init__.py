"""Training scripts for the resume tests. Each kills itself when it is told to: see `killing.py`."""
