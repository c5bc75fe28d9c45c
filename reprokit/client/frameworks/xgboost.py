"""XGBoost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reprokit.client.facts.loaded import loaded
from reprokit.client.frameworks import Format, Framework, Numbers, Stored

__all__ = ["FRAMEWORK", "find"]


def _facts(xgboost: Any, whole: bool) -> dict[str, Any]:
    if not whole or not hasattr(xgboost, "build_info"):
        return {}
    build = xgboost.build_info()
    found: dict[str, Any] = {"openmp": bool(build.get("USE_OPENMP")), "cuda": bool(build.get("USE_CUDA"))}
    library = loaded(Path(str(build.get("libxgboost", ""))))
    if library is not None and hasattr(library, "omp_get_max_threads"):
        found["threads"] = int(library.omp_get_max_threads())
    return found


def _kernels() -> dict[str, Callable[[], Any]]:
    xgboost, np = sys.modules.get("xgboost"), sys.modules.get("numpy")
    if xgboost is None or np is None or not hasattr(xgboost, "Booster"):
        return {}

    def trained(**params: Any) -> list[Any]:
        """Train three rounds, none of which draws a number."""
        from reprokit.client.facts.fingerprint import arrays

        values = arrays.make(np, 400, 6, dtype="float32")
        target = values[:, 0] * 2 + values[:, 1] * values[:, 2]
        label = target if params["objective"].startswith("reg") else np.digitize(target, [-0.3, 0.3])
        data = xgboost.DMatrix(values, label=label % 2 if "binary" in params["objective"] else label)
        booster = xgboost.Booster({"max_depth": 4, "verbosity": 0, **params}, [data])
        for number in range(3):
            booster.update(data, number)
        return [bytes(booster.save_raw("ubj")), booster.predict(data)]

    return {
        "hist squared error": lambda: trained(objective="reg:squarederror", tree_method="hist"),
        "hist logistic": lambda: trained(objective="binary:logistic", tree_method="hist"),
        "hist softmax": lambda: trained(objective="multi:softprob", num_class=3, tree_method="hist"),
        "exact logistic": lambda: trained(objective="binary:logistic", tree_method="exact"),
    }


def find(names: Mapping[int, str], _objects: Any, _given: Any, living: Any) -> Iterator[Any]:
    """Yield the boosters that are alive."""
    from reprokit.client.probe.source import Source, read, told

    xgboost = sys.modules.get("xgboost")
    for booster in living.of(xgboost.Booster) if xgboost is not None and hasattr(xgboost, "Booster") else ():
        parts = read(lambda one: {"parameters": {"trees": told(bytes(one.save_raw("ubj")))}}, booster)
        yield Source("model", "Booster", names.get(id(booster)), None, parts)


FRAMEWORK = Framework(
    name="xgboost",
    rank=90,
    extra="xgboost",
    numbers=Numbers(asked=("xgboost",), facts=_facts, kernels={"xgboost": _kernels}, trained_by=("xgboost",)),
    stored=Stored(
        files=("model.ubj",),
        formats={
            "ubj": Format("reprokit.checkpoint.codecs.xgboost:save_ubj", "model.ubj"),
            "xgboost-json": Format("reprokit.checkpoint.codecs.xgboost:save_json", "model.json"),
        },
        model="reprokit.checkpoint.codecs.xgboost:booster_of",
        opening="`checkpoint.model()` gives the `xgboost.Booster`; `checkpoint.tensors()` has the numbers of its "
        "trees.",
    ),
    probe="reprokit.client.frameworks.xgboost",
)
