"""What listings show of every run: its summary, and what came of repeating it. From headers, which are not verified."""

from __future__ import annotations

from typing import Any

from reprokit.runs import RunStore
from reprokit.verdicts import VerdictStore

__all__ = ["overview"]

_REPRODUCED = {"BITWISE", "TENSOR-TOLERANCE", "METRIC-TOLERANCE"}


def overview(runs: RunStore) -> list[dict[str, Any]]:
    """Return the summaries of all runs, oldest first, and in each what came of repeating it: as far as headers say.

    `reproductions` counts the runs that repeated it and were given a verdict; it is `reproduced` if one of them kept to
    a tolerance at least.
    """
    summaries = list(runs.summaries())
    verdicts = VerdictStore(runs.registry)
    told: dict[str, dict[str, str]] = {}

    def hear(original: Any, reproduction: Any, verdict: Any) -> None:
        if isinstance(original, str) and isinstance(reproduction, str) and isinstance(verdict, str):
            told.setdefault(original, {})[reproduction] = verdict

    for summary in summaries:
        hear(summary.get("reproduces"), summary["run"], summary.get("verdict"))
    for original in verdicts.originals():
        for found in verdicts.summaries(original):
            hear(original, found.get("reproduction"), found.get("verdict"))
    for summary in summaries:
        about = told.get(summary["run"], {})
        summary["reproduced"] = not _REPRODUCED.isdisjoint(about.values())
        summary["reproductions"] = len(about)
    return summaries
