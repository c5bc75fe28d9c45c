"""A file has its name only when its content is durable, and another writer's file stays."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reprokit.core.atomic_files import durable_write


@pytest.mark.parametrize("exclusive", [False, True])
def test_content_is_durable_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exclusive: bool
) -> None:
    path = tmp_path / "folder" / "x"
    synced: list[tuple[int, bool]] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_size, path.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    durable_write(path, b"content", exclusive=exclusive)
    assert (7, False) in synced, "all of it was synced while it had no name"
    assert synced[-1][1], "and its folder after it had one"
    assert path.read_bytes() == b"content"
    assert os.listdir(path.parent) == ["x"]


def test_who_comes_second_finds_the_file_of_the_first(tmp_path: Path) -> None:
    durable_write(tmp_path / "x", b"first", exclusive=True)
    with pytest.raises(FileExistsError):
        durable_write(tmp_path / "x", b"second", exclusive=True)
    assert (tmp_path / "x").read_bytes() == b"first"
    durable_write(tmp_path / "x", b"third")
    assert (tmp_path / "x").read_bytes() == b"third"
    assert os.listdir(tmp_path) == ["x"]
