"""What is near of a far registry stays below its limit, and nothing that was just brought goes."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pytest

from reprokit.core.config import Config
from reprokit.errors import UsageError
from reprokit.registry import open_registry
from reprokit.registry.remote.registry import RemoteRegistry
from reprokit.store import near as module
from reprokit.store.index import Index
from reprokit.store.near import NearLimit, trim
from reprokit.store.objects import ObjectStore
from reprokit.store.staging import stage
from tests.registry.contract import store

SIZE = 1_200_000


@pytest.fixture
def near(tmp_path: Path) -> ObjectStore:
    """Ten large objects; the first was not used for ten days, the last for one."""
    made = ObjectStore(tmp_path / "near", Index(None))
    for number in range(10):
        with stage(made) as staging:
            staging.put_bytes(bytes([number]) * SIZE)
    for _, path in made.loose():
        number = path.read_bytes()[0]
        then = time.time() - (10 - number) * 24 * 3600
        os.utime(path, (then, then))
    return made


def there(near: ObjectStore) -> list[int]:
    return sorted(path.read_bytes()[0] for _, path in near.loose())


def test_what_was_not_used_for_longest_goes_first(near: ObjectStore) -> None:
    assert trim(near, 10 * SIZE) == 0
    assert trim(near, 5 * SIZE) == 6 * SIZE
    assert there(near) == [6, 7, 8, 9]
    assert trim(near, 5 * SIZE) == 0


def test_what_came_lately_stays_whatever_the_limit(near: ObjectStore) -> None:
    paths = {path.read_bytes()[0]: path for _, path in near.loose()}
    for number, path in paths.items():
        then = time.time() - (0 if number < 5 else 24 * 3600)
        os.utime(path, (then, then))
    trim(near, 1)
    assert there(near) == [0, 1, 2, 3, 4]


def test_it_is_looked_when_much_came_or_a_day_has_passed(near: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    monkeypatch.setattr(module, "trim", lambda _, limit: looked.append(limit))
    watching = NearLimit(near, 10_000)
    watching.grown(0)
    assert looked == []
    watching.grown(1)  # nobody ever looked
    watching.grown(900)
    assert looked == [10_000]
    watching.grown(200)
    assert looked == [10_000] * 2
    again = NearLimit(near, 10_000)
    again.grown(10)
    assert len(looked) == 2
    os.utime(near.root / "trimmed", (0, 0))
    NearLimit(near, 10_000).grown(10)
    assert len(looked) == 3
    NearLimit(near, 0).grown(10**12)
    assert len(looked) == 3


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GB", 20 * 10**9), ("1.5 tb", 1_500_000_000_000), ("7", 7), ("0", 0), ("3k", 3000), ("2GiB", 2 * 2**30)],
)
def test_a_limit_as_people_write_it(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("REPROKIT_CACHE_LIMIT", text)
    assert Config.near_limit() == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1PB", "1e9", "nan", "١"])
def test_what_is_no_size_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("REPROKIT_CACHE_LIMIT", text)
    with pytest.raises(UsageError, match="REPROKIT_CACHE_LIMIT must be a size such as"):
        Config.near_limit()


def test_a_registry_is_read_whole_through_a_small_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_YOUNG", -1.0)
    monkeypatch.setenv("REPROKIT_CACHE_LIMIT", "3MB")
    url = f"memory://{uuid.uuid4()}"
    files = {str(number): bytes([number]) * SIZE for number in range(8)}
    one = open_registry(url, cache=tmp_path / "one")
    manifest = store(one, files)
    one.publish("a/b", manifest)
    two = open_registry(url, cache=tmp_path / "two")
    assert isinstance(two, RemoteRegistry)
    for _ in range(2):
        for entry in two.read_manifest(manifest.top_hash).entries:
            two.fetch([entry], what="x")
            assert two.read_object(entry, what="x") == files[entry.logical_key]
    assert sum(path.stat().st_size for _, path in two.objects.near.loose()) <= 3_000_000 + SIZE
