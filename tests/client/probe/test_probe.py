"""What a doctor sees inside a process: everything, under the names that the user gave, and without a trace."""

from __future__ import annotations

import functools
import itertools
import json
import logging
import math
import random
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprokit.client.probe.digests import UnreadableError, digest, is_plain
from reprokit.client.probe.places import search
from tests.conftest import ROOT

_PAIRS = [
    (1, 1.0),
    (0.0, -0.0),
    ("1", 1),
    (True, 1),
    ([1, 2], (1, 2)),
    ([[1], 2], [[1, 2]]),
    (b"a", "a"),
    (np.zeros(2), np.zeros((2, 1))),
    (np.zeros(2), np.zeros(2, dtype=np.float32)),
    (np.random.default_rng(1), np.random.default_rng(2)),
    (np.random.RandomState(1), np.random.RandomState(2)),
    (random.Random(1), random.Random(2)),
    (functools.partial(max, 1), functools.partial(max, 2)),
    ({1, 2}, {1, 3}),
    (math.nan, struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]),
]


@pytest.mark.parametrize(("one", "other"), _PAIRS, ids=lambda value: type(value).__name__)
def test_what_differs_in_kind_shape_or_a_single_bit_has_another_digest(one: Any, other: Any) -> None:
    assert digest(one) != digest(other)
    assert digest(one) == digest(one)


def test_the_order_of_keys_and_of_sets_does_not_count() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"x", "y", "z"}) == digest({"z", "y", "x"})


def test_a_value_that_contains_itself_has_a_digest() -> None:
    loop: list[Any] = [1]
    loop.append(loop)
    assert digest(loop) == digest(loop)


def test_what_has_no_readable_state_is_said_to_have_none() -> None:
    with pytest.raises(UnreadableError), Path(__file__).open() as handle:
        digest({"file": handle})
    assert not is_plain([object()])
    assert is_plain({"losses": deque([1.0]), "best": None, "grid": np.zeros((2, 2))})


_SCRIPT = """\
import functools, json, random, sys
import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset
from reprokit.client import probe

class Augment:
    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.calls = 3
    def __call__(self, batch):
        return batch

def main():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    net.register_buffer("passing", torch.zeros(1), persistent=False)
    frozen = torch.nn.Linear(1, 1).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters())
    parts = {"sched": torch.optim.lr_scheduler.StepLR(optimizer, 1)}
    loader = DataLoader(TensorDataset(torch.zeros(4, 2)), shuffle=True, generator=torch.Generator(),
                        collate_fn=functools.partial(Augment()))
    net(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    history = [0.5]
    before = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
    seen = probe._see()
    after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()
    assert before == after
    assert seen["sources"] == probe._see()["sources"]
    json.dump(seen, sys.stdout)

main()
"""


def test_everything_is_found_by_name_and_nothing_is_moved_by_looking(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    script = tmp_path / "train.py"
    script.write_text(_SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    found = {(source["kind"], source["type"], source["name"]): source["parts"] for source in seen["sources"]}
    place = "train.py main() "
    assert found["model", "Sequential", place + "`net`"].keys() == {
        "parameters", "buffers", "non-persistent buffers", "gradients", "training flags",
    }  # fmt: skip
    assert found["model", "Linear", place + "`frozen`"].keys() == {"parameters", "training flags"}
    assert found["optimiser", "Adam", place + "`optimizer`"]["optimiser step"] == {
        f"{name}.step": "1.0" for name in ("0.weight", "0.bias", "1.weight", "1.bias")
    }
    assert found["scheduler", "StepLR", place + "`parts['sched']`"]["scheduler"]["last_epoch"] == "0"
    assert "loader generator" in found["generator", "Generator", place + "`loader.generator`"]
    assert "own generator" in found["generator", "Generator", place + "`loader.collate_fn.func.rng`"]
    assert {name for kind, name, _ in found if kind == "RNG"} == {"Python RNG", "NumPy RNG", "torch RNG"}
    assert seen["variables"][place + "`history`"]["shown"] == "1 items"
    assert seen["variables"][place + "`loader.collate_fn.func.calls`"]["shown"] == "3"


class _Patience:
    def __init__(self) -> None:
        self.bad = 3


def _numbers() -> Iterator[int]:
    yield 1
    yield 2


def test_where_iterators_stand_and_what_only_a_framework_holds_is_seen_and_nothing_is_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging, "held", _Patience(), raising=False)
    listed, ranged, counted, yielding = iter([1, 2, 3]), iter(range(5)), itertools.count(7), _numbers()

    def seen() -> dict[str, Any]:
        found = search().plain
        return {name.partition("`")[2].rstrip("`"): value for name, value in found.items()}

    names = ("listed", "ranged", "counted", "yielding")
    before = seen()
    assert before["_Patience(…).bad"] == 3
    assert {name: seen()[name] for name in names} == {name: before[name] for name in names}
    assert [next(listed), next(ranged), next(counted), next(yielding)] == [1, 0, 7, 1]
    after = seen()
    assert [name for name in names if after[name] == before[name]] == []
