"""The table of loan applications, its split by time, and what a score is worth. Trains nothing, writes nothing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

__all__ = ["Part", "curves", "drift", "measure", "split"]

# `application`, `month` and `age` are in the table, and no model gets them.
numbers = ["income", "employed", "amount", "term", "debt_to_income", "utilisation", "delinquencies", "inquiries"]
kinds = {
    "home": ["mortgage", "own", "rent"],
    "purpose": ["car", "consolidation", "home", "other", "small business"],
    "channel": ["branch", "broker", "online"],
}

Scores = NDArray[np.float64]  # [N], probabilities of default
Defaults = NDArray[np.int64]  # [N], 0 or 1


@dataclass(frozen=True)
class Part:
    """Applications of some months: what a model gets of each, and what became of it."""

    table: pd.DataFrame  # [N, 15], as in the file
    x: pd.DataFrame  # [N, 11], the columns of `numbers` and `kinds`
    default: Defaults


def split(file: Path, *, validation_from: str, test_from: str) -> tuple[Part, Part, Part]:
    """Return the applications to train on, to choose by, and the later ones that a model is judged by.

    Args:
        file: `applications.csv`, in order of time.
        validation_from, test_from: Months, YYYY-MM: the first of the second and of the third part.
    Raises:
        ValueError: A part has no default, or nothing else.
    """
    table = pd.read_csv(file)
    for name, values in kinds.items():
        table[name] = pd.Categorical(table[name], categories=values)
    early, late = table["month"] < validation_from, table["month"] >= test_from
    parts = []
    for name, chosen in (("training", early), ("validation", ~early & ~late), ("test", late)):
        part = table[chosen].reset_index(drop=True)
        default = part["default"].to_numpy(dtype=np.int64)
        if len(set(default.tolist())) != 2:
            raise ValueError(
                f"{name}: {len(part)} applications, {default.sum()} in default; expected some of each kind."
            )
        parts.append(Part(part, part[[*numbers, *kinds]], default))
    return parts[0], parts[1], parts[2]


def measure(default: Defaults, score: Scores) -> dict[str, float]:
    """Return area under the ROC curve, Kolmogorov-Smirnov distance and Brier score, each 0…1."""
    false, true, _ = roc_curve(default, score)
    return {
        "auc": float(roc_auc_score(default, score)),
        "ks": float(np.max(true - false)),
        "brier": float(brier_score_loss(default, score)),
    }


def drift(before: Scores, after: Scores) -> float:
    """Return the population stability index of the second scores against the first, by the first ones' tenths.

    Rules of thumb: below 0.1 the population is what it was, above 0.25 it is another one.
    """
    edges = np.quantile(before, np.linspace(0.1, 0.9, 9))
    shares = [np.bincount(np.searchsorted(edges, one), minlength=10) / len(one) for one in (before, after)]
    expected, found = (np.maximum(share, 1e-4) for share in shares)
    return float(np.sum((found - expected) * np.log(found / expected)))


def curves(default: Defaults, scores: dict[str, Scores]) -> pd.DataFrame:
    """Return the points of two pictures, in columns `panel`, `line`, `x` and `y`.

    `ROC`: share of the good that a cut-off refuses, and of the bad. `calibration`: mean score of a tenth of the
    applications, and how many of them defaulted. Both in parts of one.
    """
    rows = []
    for name, score in scores.items():
        false, true, _ = roc_curve(default, score)
        grid = np.linspace(0, 1, 51)
        rows += [("ROC", name, x, y) for x, y in zip(grid, np.interp(grid, false, true), strict=True)]
        for tenth in np.array_split(np.argsort(score, kind="stable"), 10):
            rows.append(("calibration", name, score[tenth].mean(), default[tenth].mean()))
    return pd.DataFrame(rows, columns=["panel", "line", "x", "y"])
