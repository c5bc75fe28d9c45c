"""A folder for sweeps of thousands of files, in memory where there is such a file system; and runs that tests share."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.reproducing import Bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Trainings whose original runs all tests share."""
    pytest.importorskip("sklearn", reason="the sklearn extra is not installed")
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture
def room() -> Iterator[Path]:
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    made = Path(tempfile.mkdtemp(prefix="reprokit-", dir=memory if os.access(memory, os.W_OK) else None))
    yield made
    shutil.rmtree(made, ignore_errors=True)
