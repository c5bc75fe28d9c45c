"""What a LightGBM model consists of, and what its parameters say about its bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["arrays_of", "facts_of"]

_ARRAYS = {
    "leaf_value": "float64",
    "threshold": "float64",
    "split_feature": "int32",
    "decision_type": "int32",
    "left_child": "int32",
    "right_child": "int32",
    "cat_threshold": "int64",
}
_THREADS = ("num_threads", "num_thread", "nthread", "nthreads", "n_jobs")


def arrays_of(text: str) -> dict[str, Any]:
    """Return the numbers of a model's text, those of all trees in one array each: a tree's follow the one's before."""
    found: dict[str, list[str]] = {}
    for line in text.partition("\nend of trees")[0].splitlines():
        name, _, values = line.partition("=")
        if name in _ARRAYS:
            found.setdefault(name, []).extend(values.split())
    return {f"trees.{name}": np.array(found[name], _ARRAYS[name]) for name in _ARRAYS if found.get(name)}


def facts_of(params: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what decides the bits of a training, as it was told; and what it consists of."""
    threads = next((params[name] for name in _THREADS if params.get(name) is not None), 0)
    row, column = bool(params.get("force_row_wise")), bool(params.get("force_col_wise"))
    facts = {
        "num_threads": int(threads),
        "deterministic": bool(params.get("deterministic")),
        "histograms": "by row" if row else "by column" if column else "as the clock says",
    }
    kinds = [params.get(name) for name in ("boosting", "boosting_type", "objective")]
    return facts, [kind for kind in kinds if isinstance(kind, str)]
