"""A layer in memory, and an overlay of it in a working folder of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reprokit.client.overlay.install import Overlay, install, remove

FILES = {
    "labels.csv": b"name,label\ncat.jpg,0\r\ndog.jpg,1\n",
    "meta.json": b'{"a": "\xc3\xa9"}',
    "train/cat/1.bin": bytes(range(256)) * 12,
    "train/cat/2.bin": b"",
    "train/dog/1.bin": b"dog",
    "train-more.bin": b"sorts between train and train/",
    "train/cat.bin": b"beside a folder of nearly its name",
}


class Memory:
    """A layer over a dictionary."""

    def __init__(self, files: dict[str, Any]) -> None:
        self.files = files

    def keys(self) -> Any:
        return self.files

    def size(self, key: str) -> int:
        return memoryview(self.files[key]).nbytes

    def read(self, key: str) -> Any:
        value = self.files[key]
        if isinstance(value, OSError):
            raise value
        return value


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `data/real.txt` in it."""
    folder = Path(os.path.realpath(tmp_path)) / "work"
    (folder / "data").mkdir(parents=True)
    (folder / "data/real.txt").write_text("real")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def overlay(here: Path) -> Iterator[Overlay]:
    """FILES at `data/set`, installed."""
    made = Overlay()
    made.mount("data/set", Memory(dict(FILES)), mtime=1_700_000_000.25)
    install(made)
    yield made
    remove(made)
