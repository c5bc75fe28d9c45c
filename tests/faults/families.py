"""Trainings over all frameworks in which nothing is wrong, and of whose options one value each is drawn."""

from __future__ import annotations

import importlib.util
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.faults.reproducing import RECIPES

__all__ = ["BOOSTING", "FAMILIES", "Family", "scripts_to"]

_RESUMED = ROOT / "tests" / "resume"
_TENSORFLOW, _TORCH = {"KERAS_BACKEND": "tensorflow"}, {"KERAS_BACKEND": "torch"}


@dataclass(frozen=True)
class Family:
    """Trainings of one script; of each option one value is drawn."""

    script: str
    needs: tuple[str, ...]
    options: dict[str, list[Any]]
    variables: dict[str, str] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)

    @property
    def can_be_killed(self) -> bool:
        """True if the script dies where its parameter `marker` says."""
        return (_RESUMED / self.script).exists()

    @property
    def is_possible(self) -> bool:
        return all(importlib.util.find_spec(module) is not None for module in self.needs)

    def recipe(self, draw: random.Random) -> dict[str, Any]:
        params = {**self.fixed, **{name: draw.choice(values) for name, values in self.options.items()}}
        data = _DATA.get(self.script, {})
        return {
            "name": self.script.removesuffix(".py").replace("_", "-"),
            "code": {"entrypoint": self.script},
            "params": params,
            "execution": {
                "seed": draw.randint(0, 2**31 - 1),
                "threads": draw.choice([1, 2]),
                "inputs": "off",
                "variables": self.variables,
            },
            **({} if self in BOOSTING.values() else {"checkpoints": {"every": draw.choice(_EVERY)}}),
            **({"data": data, "outputs": ["metrics.json"]} if data else {}),
        }


_DATA = {str(recipe["code"]["entrypoint"]): recipe.get("data", {}) for recipe in RECIPES.values()}
_EPOCHS = [2, 3]
_EVERY = ["1 epoch", "1 epoch", "2 epochs"]
_RATES = [1e-3, 0.01, 0.1]
FAMILIES = {
    "torch images": Family(
        "torch_images.py",
        ("torch", "PIL"),
        {
            "epochs": _EPOCHS, "rate": _RATES, "batch": [5, 16, 48], "hidden": [8, 33], "dropout": [0.0, 0.3],
            "optimizer": ["SGD", "Adam", "AdamW", "RMSprop", "NAdam"], "dtype": ["float32", "float32", "float64"],
            "augment": [[], ["flip"], ["shift", "noise"]], "workers": [0, 0, 2], "reduction": ["mean", "sum"],
        },
    ),
    "torch": Family(
        "torch_loop.py",
        ("torch",),
        {
            "epochs": _EPOCHS, "workers": [0, 2], "accumulate": [1, 4], "own_generator": [True, False],
            "batches": [True, False],
        },
    ),
    "keras on tensorflow": Family(
        "keras_fit.py",
        ("keras", "tensorflow"),
        {"epochs": _EPOCHS, "data": ["arrays", "batches", "dataset", "tf.data"], "mixed": [False, True]},
        _TENSORFLOW,
    ),
    "keras on torch": Family(
        "keras_fit.py",
        ("keras", "torch"),
        {"epochs": _EPOCHS, "data": ["arrays", "batches", "dataset"], "native": [False, True]},
        _TORCH,
    ),
    "keras images": Family(
        "keras_images.py",
        ("keras", "tensorflow", "PIL"),
        {
            "epochs": _EPOCHS, "rate": _RATES, "batch": [5, 48], "hidden": [8, 33], "dropout": [0.0, 0.3],
            "activation": ["relu", "gelu", "tanh"], "shuffle": [True, False],
        },
    ),
    "tensorflow": Family(
        "tensorflow_loop.py",
        ("tensorflow", "keras"),
        {
            "epochs": _EPOCHS, "data": ["plain", "cached", "nested"], "optimizer": ["own", "keras"],
            "function": [True, False],
        },
    ),
    "sklearn": Family(
        "sklearn_partial.py",
        ("sklearn", "skops"),
        {
            "epochs": _EPOCHS,
            "kind": [
                "sgd", "mlp", "mlp-global", "kmeans", "naive-bayes", "pipeline", "forest", "boosting", "histogram",
            ],
        },
    ),
    "lightning": Family(
        "lightning_epochs.py",
        ("lightning",),
        {"epochs": _EPOCHS, "workers": [0, 2], "accumulate": [1, 2], "extras": [True, False]},
    ),
    "transformers": Family(
        "transformers_steps.py",
        ("transformers", "accelerate"),
        {"epochs": _EPOCHS, "workers": [0, 2], "accumulate": [1, 2], "extras": [True, False]},
    ),
}  # fmt: skip
BOOSTING = {
    "xgboost": Family(
        "xgboost_rounds.py",
        ("xgboost", "sklearn"),
        {"kind": ["plain", "early", "forest", "sampled", "dart", "ranking", "estimator"], "every": [2, 3]},
        fixed={"rounds": 6},
    ),
    "lightgbm": Family(
        "lightgbm_rounds.py",
        ("lightgbm", "sklearn"),
        {"kind": ["plain", "early", "goss", "dart", "forest", "ranking", "estimator"], "every": [2, 3]},
        fixed={"rounds": 6},
    ),
}


def scripts_to(folder: Path) -> None:
    """Copy the scripts that are not a bench's own."""
    for name in ("killing.py", *{family.script for family in (FAMILIES | BOOSTING).values()}):
        if (_RESUMED / name).exists():
            shutil.copy(_RESUMED / name, folder / name)
