"""Trainings in which nothing is wrong, over all frameworks and with drawn settings: a repetition has the same bits.

The everyday run repeats two; REPROKIT_TEST_SCALE=10 gives a hundred verdicts, of which 99 have to be BITWISE.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.faults.reproducing import RECIPES, Bench

pytestmark = pytest.mark.slow
pytest.importorskip("sklearn", reason="the sklearn extra is not installed")

_SCALE = float(os.environ.get("REPROKIT_TEST_SCALE", "1"))
_SEED = int(os.environ.get("REPROKIT_TEST_SEED", "1"))
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
            "checkpoints": {"every": draw.choice(["1 epoch", "1 epoch", "2 epochs"])},
            **({"data": data, "outputs": ["metrics.json"]} if data else {}),
        }


_DATA = {str(recipe["code"]["entrypoint"]): recipe.get("data", {}) for recipe in RECIPES.values()}
_EPOCHS = [2, 3]
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
_EVERYDAY = ["torch images", "torch"]


def _can(name: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in FAMILIES[name].needs)


def _trainings() -> list[tuple[str, dict[str, Any]]]:
    """Return the trainings to run: of every family as many, each with drawn settings."""
    if _SCALE <= 1:
        return [(name, FAMILIES[name].recipe(random.Random(f"{name} {_SEED}"))) for name in _EVERYDAY if _can(name)]
    each = -(-round(5.2 * _SCALE) // len(FAMILIES))
    return [
        (name, family.recipe(random.Random(f"{name} {number} {_SEED}")))
        for number in range(each)
        for name, family in FAMILIES.items()
        if _can(name)
    ]


def test_a_training_in_which_nothing_is_wrong_repeats_to_the_bit(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for name in ("killing.py", *{family.script for family in FAMILIES.values()}):
        if (_RESUMED / name).exists():
            shutil.copy(_RESUMED / name, bench.project.root / name)
    trainings = _trainings()
    for number, (_, recipe) in enumerate(trainings):
        bench.project.write(f"{number}.yaml", json.dumps(recipe))
    bench.project.commit()

    def repeated(number: int) -> list[tuple[str, str]]:
        """Run one training and repeat it; at full scale twice. The last time from nothing but the registry."""
        name, recipe = trainings[number]
        run = bench.project.json("run", f"{number}.yaml", patience=600)
        empty = f"empty-{number}"
        told = []
        for home in ["home", empty] if _SCALE > 1 else [empty]:
            verdict = bench.said("reproduce", run["run_id"], home=home)
            how = f"{name}, {recipe['execution']['threads']} threads, {json.dumps(recipe['params'])}"
            told.append((verdict["verdict"], f"{how}: {verdict['first_divergence']} {verdict['causes']}"))
        for folder in (empty, f"{empty}-cache"):
            shutil.rmtree(bench.base / folder)
        return told

    with ThreadPoolExecutor(2) as pool:
        told = [one for some in pool.map(repeated, range(len(trainings))) for one in some]
    other = [f"{rung}: {what}" for rung, what in told if rung != "BITWISE"]
    print(f"{len(told) - len(other)} of {len(told)} verdicts are BITWISE", *other, sep="\n")
    assert len(told) >= (100 if _SCALE >= 10 else len(trainings))
    assert len(other) <= 0.01 * len(told), "\n".join(other)
