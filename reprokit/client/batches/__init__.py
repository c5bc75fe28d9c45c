"""How a script takes its batches: in a loop that can be entered again in the middle, or otherwise."""
