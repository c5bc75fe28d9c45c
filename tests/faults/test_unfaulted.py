"""Trainings in which nothing is wrong, over all frameworks and with drawn settings: a repetition has the same bits.

Every day the tutorials and the examples repeat a training of each; REPROKIT_TEST_SCALE=10 gives a hundred verdicts, of
which 99 have to be BITWISE.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LONG
from tests.faults.families import FAMILIES, scripts_to
from tests.faults.reproducing import Bench

pytestmark = pytest.mark.slow
pytest.importorskip("sklearn", reason="the sklearn extra is not installed")

_SCALE = float(os.environ.get("REPROKIT_TEST_SCALE", "1"))
_SEED = int(os.environ.get("REPROKIT_TEST_SEED", "1"))


def _trainings() -> list[tuple[str, dict[str, Any]]]:
    """Return the trainings to run: of every family as many, each with drawn settings."""
    each = -(-round(5.2 * _SCALE) // len(FAMILIES))
    return [
        (name, family.recipe(random.Random(f"{name} {number} {_SEED}")))
        for number in range(each)
        for name, family in FAMILIES.items()
        if family.is_possible
    ]


@LONG
def test_a_training_in_which_nothing_is_wrong_repeats_to_the_bit(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    scripts_to(bench.project.root)
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
