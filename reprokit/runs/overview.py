"""What listings show of every run: its summary, and what came of repeating it. From headers, which are not verified."""

from __future__ import annotations

from typing import Any

from reprokit.runs.store import RunStore
from reprokit.runs.verdict_store import VerdictStore

__all__ = ["overview"]

_REPRODUCED = {"BITWISE", "TENSOR-TOLERANCE", "METRIC-TOLERANCE"}


def overview(runs: RunStore) -> list[dict[str, Any]]:
    """Return the summaries of all runs, oldest first, and in each what came of repeating it: as far as headers say.

    `reproductions` counts the verdicts on runs that repeated it with nothing relaxed; it is `reproduced` if one of them
    kept to a tolerance at least. What a bisection tried, or `--with` changed, is an experiment and no reproduction.
    """
    summaries = list(runs.summaries())
    store = VerdictStore(runs.registry)
    told = {
        original: [one.get("verdict") for one in store.summaries(original) if one.get("relaxed") == []]
        for original in store.originals()
    }
    for summary in summaries:
        about = told.get(summary["run"], [])
        summary["reproduced"] = any(isinstance(rung, str) and rung in _REPRODUCED for rung in about)
        summary["reproductions"] = len(about)
    return summaries
