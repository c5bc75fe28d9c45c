"""What of a run stands in MLflow beside parameters and metrics: its tags, from the record and the verdicts on it."""

from __future__ import annotations

__all__ = ["RUN_TAG"]

RUN_TAG = "reprokit.run"
"""The tag that has a run's ID here: by it a run is found again in MLflow, and known when MLflow's runs are imported."""
