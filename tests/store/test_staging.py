"""A name never stands for bytes that a crash could lose: content is durable first, then it is named."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from reprokit.core.digest import PLAIN, hash_bytes
from reprokit.store.index import Index
from reprokit.store.objects import ObjectStore
from reprokit.store.packs import SMALL
from reprokit.store.staging import Staging, stage

LARGE = b"l" * SMALL


def _hashed(staging: Staging) -> None:
    staging.put_hashed(hash_bytes(LARGE), [memoryview(LARGE)], SMALL)


WAYS: dict[str, Callable[[Staging], object]] = {
    "a small object": lambda staging: staging.put_bytes(b"small"),
    "a large object": lambda staging: staging.put_bytes(LARGE),
    "a large object whose digest is known": _hashed,
    "a large stream": lambda staging: staging.put_stream(io.BytesIO(LARGE), SMALL),
    "an imported stream": lambda staging: staging.put_known(io.BytesIO(b"old"), hash_bytes(b"old", PLAIN), 3, what="x"),
    "a large stream of a known digest": lambda staging: staging.put_known(
        io.BytesIO(LARGE), hash_bytes(LARGE), SMALL, what="x"
    ),
    "a small object once more": lambda staging: staging.put_again(hash_bytes(b"again").raw, b"again"),
}


@pytest.mark.parametrize("way", WAYS)
def test_content_is_durable_before_its_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    synced: set[tuple[int, int, int]] = set()  # inodes with the length that they had
    folders: set[int] = set()
    named: list[Path] = []
    sync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        sync(descriptor)
        seen = os.fstat(descriptor)
        synced.add((seen.st_dev, seen.st_ino, seen.st_size))
        folders.add(seen.st_ino)

    def note_name(self: Path, target: Path) -> Path:
        seen = self.stat()
        assert (seen.st_dev, seen.st_ino, seen.st_size) in synced, f"{target} is named before its content is durable"
        assert seen.st_mode & 0o222 == 0
        folders.discard(target.parent.stat().st_ino)
        named.append(target)
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_name)
    store = ObjectStore(tmp_path / "registry", Index(None))
    with stage(store) as staging:
        WAYS[way](staging)
        assert named == []
    assert len(named) == 1
    assert named[0].parent.stat().st_ino in folders, "the folder was not synced after it got the name"
