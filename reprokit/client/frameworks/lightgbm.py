"""LightGBM."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reprokit.client.facts.loaded import loaded
from reprokit.client.frameworks import Format, Framework, Numbers, Stored

__all__ = ["FRAMEWORK", "facts", "find"]


def _facts(lightgbm: Any, whole: bool) -> dict[str, Any]:
    library = loaded(Path(lightgbm.__file__).parent / "lib" / "lib_lightgbm.so") if whole else None
    if library is None or not hasattr(library, "omp_get_max_threads"):
        return {}
    return {"threads": int(library.omp_get_max_threads())}


def _kernels() -> dict[str, Callable[[], Any]]:
    lightgbm, np = sys.modules.get("lightgbm"), sys.modules.get("numpy")
    if lightgbm is None or np is None or not hasattr(lightgbm, "Booster"):
        return {}

    def trained(**params: Any) -> list[Any]:
        """Train three rounds, none of which draws a number."""
        from reprokit.client.facts.fingerprint import arrays

        values = arrays.make(np, 400, 6)
        target = values[:, 0] * 2 + values[:, 1] * values[:, 2]
        label = {"regression": target, "binary": target > 0, "multiclass": np.digitize(target, [-0.3, 0.3])}
        told = {"verbosity": -1, "force_row_wise": True, "num_leaves": 15, **params}
        data = lightgbm.Dataset(values, label=label[params["objective"]].astype("float64"), params=told)
        booster = lightgbm.Booster(told, data)
        for _ in range(3):
            booster.update()
        trees = booster.model_to_string().partition("\nparameters:")[0]
        return [trees.encode(), booster.predict(values)]

    return {
        "regression": lambda: trained(objective="regression"),
        "binary": lambda: trained(objective="binary"),
        "multiclass": lambda: trained(objective="multiclass", num_class=3),
    }


def _lint(told: Mapping[str, Any], _determinism: str, _variables: Mapping[str, str]) -> list[str]:
    noted = told.get("lightgbm")
    if not noted or noted["deterministic"] or noted["histograms"] != "as the clock says" or noted["num_threads"] == 1:
        return []
    return [
        "LightGBM tries at its start whether it is faster by row or by column, and adds in that order. Give "
        "force_row_wise=True (or force_col_wise) and deterministic=True, or expect other bits now and then."
    ]


def find(names: Mapping[int, str], _objects: Any, _given: Any, living: Any) -> Iterator[Any]:
    """Yield the boosters that are alive."""
    from reprokit.client.probe.source import Source, read, told

    lightgbm = sys.modules.get("lightgbm")
    for booster in living.of(lightgbm.Booster) if lightgbm is not None and hasattr(lightgbm, "Booster") else ():
        parts = read(
            lambda one: {"parameters": {"trees": told(one.model_to_string(num_iteration=-1))}} if one._handle else {},
            booster,
        )
        yield Source("model", "Booster", names.get(id(booster)), None, parts)


def facts(_names: Mapping[int, str], _objects: Any, _held: list[Any], _living: Any) -> dict[str, Any]:
    """Return what the training was told that decides its bits."""
    from reprokit.client.facts.numeric import noted

    found = noted("lightgbm")
    return {"lightgbm": found} if found else {}


FRAMEWORK = Framework(
    name="lightgbm",
    rank=100,
    extra="lightgbm",
    numbers=Numbers(
        asked=("lightgbm",), facts=_facts, kernels={"lightgbm": _kernels}, trained_by=("lightgbm",), lint=_lint
    ),
    stored=Stored(
        files=("model.txt",),
        formats={"lightgbm": Format("reprokit.checkpoint.codecs.lightgbm:save_text", "model.txt")},
        model="reprokit.checkpoint.codecs.lightgbm:booster_of",
        opening="`checkpoint.model()` gives the `lightgbm.Booster`; `checkpoint.tensors()` has the numbers of its "
        "trees.",
    ),
    probe="reprokit.client.frameworks.lightgbm",
)
