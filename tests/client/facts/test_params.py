"""What a script reads of its parameters is noted one by one, however it reads; what it only looks at is not."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import reprokit
from reprokit import client

PARAMS = {"lr": 0.5, "epochs": 3, "name": "x"}


@dataclasses.dataclass
class Settings:
    lr: float
    epochs: int
    name: str
    more: int = 1


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[str]]]:
    """A process of a run; returns the notes so far."""
    told, asked = tmp_path / "context.json", tmp_path / "asked.txt"
    told.write_text(json.dumps({"params": PARAMS}))
    monkeypatch.setenv("REPROKIT_CONTEXT", str(told))
    monkeypatch.setenv("REPROKIT_ASKED", str(asked))
    yield lambda: sorted(asked.read_text().split("\n")[:-1]) if asked.exists() else []
    client._read.cache_clear()


def _match(params: Any) -> object:
    match params:
        case {"lr": lr}:
            return lr
    return None


ONE: dict[str, Callable[[Any], object]] = {
    "a key": lambda p: p["lr"],
    "get": lambda p: p.get("lr", 0.1),
    "pop": lambda p: p.pop("lr"),
    "setdefault": lambda p: p.setdefault("lr", 0.1),
    "a format": lambda p: "{lr}".format_map(p),
    "a percent": lambda p: "%(lr)s" % p,  # noqa: UP031
    "a pattern": _match,
}
ALL: dict[str, Callable[[Any], object]] = {
    "items": lambda p: list(p.items()),
    "values": lambda p: list(p.values()),
    "a call": lambda p: Settings(**p),
    "a namespace": lambda p: argparse.Namespace(**p).lr,
    "dict": dict,
    "copy": lambda p: p.copy(),
    "copy.copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "a union": lambda p: {"a": 1} | p,
    "an unpacking": lambda p: {"a": 1, **p},
    "update": lambda p: {"lr": 1}.update(p),
    "JSON": json.dumps,
    "YAML": yaml.safe_dump,
    "a pickle": pickle.dumps,
    "a comparison": lambda p: p == {},
    "another": lambda p: p != {},
}
NONE: dict[str, Callable[[Any], object]] = {
    "nothing": lambda _: None,
    "print": repr,
    "names": lambda p: [*p, *p.keys()],
    "a length": len,
    "a name": lambda p: "lr" in p,
    "a name of its own": lambda p: p.get("momentum"),
    "an assignment": lambda p: p.update(lr=1),
}


@pytest.mark.parametrize("how", ONE)
def test_one_that_is_read_is_noted_and_no_other(how: str, noted: Callable[[], list[str]]) -> None:
    ONE[how](reprokit.params())
    assert noted() == ["P lr"]


@pytest.mark.parametrize("how", ALL)
def test_who_takes_all_has_read_all(how: str, noted: Callable[[], list[str]]) -> None:
    ALL[how](reprokit.params())
    assert noted() == ["P epochs", "P lr", "P name"]


@pytest.mark.parametrize("how", NONE)
def test_who_reads_no_value_has_read_none(how: str, noted: Callable[[], list[str]]) -> None:
    NONE[how](reprokit.params())
    assert noted() == []


def test_each_is_noted_once_and_defaults_are_none_of_the_runs(noted: Callable[[], list[str]]) -> None:
    params = reprokit.params(lr=0.1, momentum=0.9)
    assert (params["lr"], params["momentum"], params["lr"]) == (0.5, 0.9, 0.5)
    assert noted() == ["P lr"]


def test_copies_are_plain_dictionaries_with_everything(noted: Callable[[], list[str]]) -> None:
    params = reprokit.params()
    copies = [params.copy(), copy.deepcopy(params), pickle.loads(pickle.dumps(params)), params | {}]  # noqa: S301
    assert all(type(one) is dict and one == PARAMS for one in copies)
    assert yaml.safe_load(yaml.safe_dump(reprokit.params())) == PARAMS
    assert isinstance(params, dict)
    assert noted()


def test_outside_a_run_they_are_a_plain_dictionary() -> None:
    assert type(reprokit.params(lr=1)) is dict
