"""scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reprokit.client.frameworks import Format, Framework, Numbers, Stored

__all__ = ["FRAMEWORK", "NO_STATE", "is_no_state"]

NO_STATE = {
    "_stop_words_id": "the id() of the list of stop words, by which a vectorizer knows whether it checked that one: an "
    "address in memory, another one in each process",
    "memory": "where steps that were fitted are cached: a place on one machine, and the same estimator without",
}
"""Attributes of scikit-learn's own classes that are memory addresses or caches, and why: no digest covers them."""


def is_no_state(attribute: str, module: str) -> bool:
    """True for such an attribute of an object whose class is of that module; what begins with `_` is inherited too."""
    return attribute in NO_STATE and (attribute.startswith("_") or module.partition(".")[0] == "sklearn")


def _lint(facts: Mapping[str, Any], determinism: str, _variables: Mapping[str, str]) -> list[str]:
    if not facts.get("unseeded"):
        return []
    source = "NumPy's global generator, so on everything drawn before" if determinism != "off" else "chance"
    return [f"Without random_state, what is drawn depends on {source}: {', '.join(facts['unseeded'][:5])}."]


FRAMEWORK = Framework(
    name="sklearn",
    rank=30,
    extra="sklearn",
    numbers=Numbers(asked=("arrays",), trained_by=("numpy", "scipy"), lint=_lint),
    stored=Stored(
        files=("model.skops",),
        formats={
            "joblib": Format("reprokit.checkpoint.codecs.sklearn:save_joblib", "model.joblib", takes_types=True),
        },
        model="reprokit.checkpoint.codecs.sklearn:estimator_of",
        opening="`reprokit.checkpoint.codecs.sklearn.estimator_of(checkpoint)` gives the estimator, without "
        "unpickling.",
        has_tensors=False,
    ),
    probe="reprokit.client.probe.sklearn",
)
