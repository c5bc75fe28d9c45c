"""A bucket in memory, and the machines that work with it; a module that orders requests otherwise makes its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reprokit.registry.remote import registry
from reprokit.registry.remote.registry import RemoteRegistry

from .interleaving import Memory, Scheduler, clock_of

Machine = Callable[[str], RemoteRegistry]


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Memory:
    scheduler = Scheduler(0, longest=60.0)
    monkeypatch.setattr(registry, "time", clock_of(scheduler))
    return Memory(scheduler)


@pytest.fixture
def machine(storage: Memory, tmp_path: Path) -> Machine:
    return lambda name: RemoteRegistry(storage, cache=tmp_path / name)
