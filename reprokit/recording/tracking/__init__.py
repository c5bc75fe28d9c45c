"""Runs in MLflow's tracking: sent when they are exported, and while they go on."""
