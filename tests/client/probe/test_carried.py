"""What a training carries beside its checkpoints: which values count, and what of them did not come back."""

from __future__ import annotations

import itertools
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from reprokit.client.probe import carried
from reprokit.client.probe.carried import Carried, of

_CLASSES = """
class Stopper:
    def __init__(self):
        self.left, self.seen, self.big = 3, [], None
    def __call__(self):
        self.left -= 1

class Saved(Stopper):
    def state_dict(self):
        return {"left": self.left}

class Net(Saved):
    def parameters(self):
        return []

class Trainer:
    def __init__(self):
        self.stopper, self.all = Stopper(), {"late": [Stopper()]}

class Rates:
    now = 0.5

count = 0
def turn():
    global count
    count += 1

class Sampler:
    def __init__(self):
        self.epoch, self.turns = 0, 0
    def set_epoch(self, epoch):
        self.epoch = epoch
    def turn(self):
        self.turns += 1
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the user's, with classes of his own."""
    file = tmp_path / "train.py"
    file.write_text(_CLASSES)
    module = ModuleType("train_of_this_test")
    module.__file__ = str(file)
    exec(compile(_CLASSES, str(file), "exec"), vars(module))  # noqa: S102 - a script of this test
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def over(space: dict[str, Any]) -> carried.Places:
    return lambda: iter(space.items())


def test_what_moved_and_did_not_come_back_is_lost() -> None:
    space = {"lr": 8.0, "seen": [1], "fixed": "a", "drawn": np.random.default_rng(1), "weight": np.ones(3)}
    first = Carried(over(space))
    assert first.moved() == {}
    space["seen"].append(2)
    space.update(lr=4.0)
    space["drawn"].random()
    space["weight"][1] = 2
    moved = first.moved()
    assert [*moved] == ["lr", "seen", "drawn", "weight"]
    anew = {"lr": 8.0, "seen": [1, 2], "drawn": np.random.default_rng(1), "weight": np.array([1.0, 2.0, 1.0])}
    resumed = Carried(over(anew))
    assert resumed.lost(moved) == ["lr", "drawn"]
    assert [*resumed.moved()] == ["lr", "seen", "drawn", "weight"], "the next checkpoint tells them again"
    assert Carried(over({})).lost(moved) == [*moved]


def test_a_time_of_day_is_nothing_that_could_come_back() -> None:
    space = {"began": time.time(), "nanoseconds": time.time_ns(), "seconds": int(time.time()), "count": 1, "early": 1e9}
    seen = Carried(over(space))
    space.update(began=time.time(), nanoseconds=time.time_ns(), seconds=int(time.time()) - 1, count=2, early=1.1e9)
    assert [*seen.moved()] == ["count", "early"]


@pytest.mark.parametrize(
    "make", [lambda: iter([1]), lambda: zip([1]), lambda: itertools.cycle([1]), lambda: (one for one in [1])]
)
def test_nobody_can_tell_where_an_iterator_stands(make: Any) -> None:
    assert Carried(over({"it": make()})).moved() == {"it": "iterator"}
    assert Carried(over({"it": make()})).lost({"it": "iterator"}) == ["it"]


def test_what_is_of_no_plain_kind_is_not_looked_at() -> None:
    space: dict[str, Any] = {"text": "x" * (1 << 21), "file": object()}
    seen = Carried(over(space))
    space["text"], space["file"] = "y", object()
    assert [*seen.moved()] == ["text"]


def test_of_large_arrays_every_nth_element_is_looked_at() -> None:
    space: dict[str, Any] = {"average": {"w": np.ones((700, 700)), "b": np.ones(3)}, "data": np.zeros(1 << 20)}
    seen = Carried(over(space))
    space["average"]["w"] *= 0.9
    moved = seen.moved()
    assert [*moved] == ["average"]
    anew = {"average": {"w": np.full((700, 700), 0.9), "b": np.ones(3)}, "data": np.zeros(1 << 20)}
    assert Carried(over(anew)).lost(moved) == []
    anew["average"]["b"][0] = 2  # type: ignore[index]
    assert Carried(over(anew)).lost(moved) == ["average"]


def test_objects_within_objects_namespaces_classes_and_modules_are_looked_into(script: Any) -> None:
    script.Rates.now, script.count = 0.5, 0
    trainer = script.Trainer()
    options = Namespace(lr=20.0, inner=SimpleNamespace(rate=1))
    space = {"options": options, "trainer": trainer, "module": script, "kind": script.Rates, "turn": script.turn}
    seen = Carried(over(space))
    options.lr /= 4
    options.inner.rate = 2
    trainer.stopper.left = 1
    trainer.all["late"][0].seen.append(1)
    script.Rates.now = 0.25
    script.turn()
    moved = seen.moved()
    assert [*moved] == [
        "options.lr", "options.inner.rate", "trainer.stopper.left", "trainer.all['late'][0].seen", "module.Rates.now",
        "module.count", "train_of_this_test.count",
    ]  # fmt: skip
    assert Carried(over(space)).lost(moved) == []


def test_generators_that_hang_on_a_library_s_objects_count(script: Any) -> None:
    rng, given = np.random.default_rng(1), np.random.default_rng(2)
    library = type("Environment", (), {"__module__": "numpy"})()
    library._np_random, library.given, library.steps = rng, given, 0
    library.numpys = np.random.mtrand._rand
    wrapper = type("Wrapper", (), {"__module__": "numpy"})()
    wrapper.env = library
    seen = Carried(over({"env": wrapper}), held=[given])
    rng.random(), given.random(), np.random.random()
    library.steps = 1
    assert [*seen.moved()] == ["env.env._np_random"]


def test_what_a_metric_has_counted_so_far_is_looked_at() -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("torchmetrics")
    mean = metrics.MeanMetric()
    seen = Carried(over({"mean": mean}))
    assert seen.moved() == {}
    mean.update(torch.tensor(3.0))
    moved = seen.moved()
    assert [*moved] == ["mean"]
    assert Carried(over({"mean": metrics.MeanMetric()})).lost(moved) == ["mean"]


def test_more_places_than_fit_into_a_checkpoint_s_header_are_not_looked_at() -> None:
    state = {"turn": 0}
    every = Carried(lambda: ((f"n{number}", state["turn"]) for number in range(20_000)))
    state["turn"] = 1
    assert len(every.moved()) == 5000


def test_attributes_count_that_the_script_s_own_classes_speak_of(script: Any) -> None:
    stopper, other = script.Stopper(), script.Sampler()
    stopper.unknown = 0  # as a library's base class would have
    seen = Carried(of([stopper, other]))
    stopper()
    stopper.seen.append(1)
    stopper.unknown = 1
    other.turn()
    other.set_epoch(3)  # which the script sets anew for each epoch
    assert [*seen.moved()] == ["Stopper.left", "Stopper.seen", "Sampler.turns"]


def test_what_the_callback_saves_is_not_lost_and_python_attributes_of_a_model_are(script: Any) -> None:
    saved, net, held = script.Saved(), script.Net(), [1]
    seen = Carried(over({"saved": saved, "net": net, "held": held}), [saved, net, held])
    saved()
    net()
    held.append(2)
    assert [*seen.moved()] == ["net.left"]


def test_what_feeds_a_loader_is_looked_at(script: Any) -> None:
    class DataLoader:
        def __init__(self, sampler: Any) -> None:
            self.sampler = sampler

        def __iter__(self) -> Iterator[int]:
            yield 1

    loader = DataLoader(script.Sampler())
    seen = Carried(over({"loader": loader}), [loader])
    loader.sampler.turn()
    assert [*seen.moved()] == ["loader.sampler.turns"]


def test_what_the_script_takes_from_its_state_is_not_lost() -> None:
    values: dict[str, Any] = {"n": 0, "x": np.zeros(3), "rate": 1.0}

    def carries() -> Carried:
        return Carried(lambda: iter(list(values.items())), taken=frozenset({"n", "x"}))

    before = carries()
    values.update(n=3, x=np.ones(3), rate=0.5)
    moved = before.moved()
    kept = {"n": 3, "x": np.ones(3), "rate": 0.5}
    values.update(n=0, x=np.zeros(3), rate=1.0)  # as a resumed process begins
    assert carries().lost(moved) == ["n", "x", "rate"]
    assert carries().lost(moved, kept) == ["rate"]  # which is put there, and never taken
    assert carries().lost(moved, {**kept, "n": 2}) == ["n", "rate"]  # of another moment
