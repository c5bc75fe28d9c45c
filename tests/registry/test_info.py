"""What a registry is, in numbers that its files bear out."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprokit.errors import NotFoundError
from reprokit.packages.build import build
from reprokit.registry import open_registry
from reprokit.registry.info import info
from reprokit.registry.local import LocalRegistry
from tests.conftest import put_run

RUN, GONE = "20260101-000000-aaaaa1", "20260101-000000-aaaaa2"


def test_it_counts_what_is_there(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "large").write_bytes(bytes(2_000_000))
    build(tmp_path / "data", "a/b", registry=registry)
    for run in (RUN, GONE):
        put_run(registry, run)
    registry.delete(f"runs/{GONE}", registry.top_hashes(f"runs/{GONE}")[0])
    with registry.claim(RUN):
        found = info(registry)
    assert (found.kind, found.packages, found.runs, found.verdicts, found.running) == ("folder", 1, 1, 0, 1)
    assert found.versions == 3
    stored = [p for f in ("manifests", "packs", "objects") for p in (registry.root / f).rglob("*") if p.is_file()]
    assert (found.files, found.size) == (len(stored), sum(path.stat().st_size for path in stored))
    assert found.plain()["uuid"] == registry.uuid


def test_what_is_no_registry_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no registry"):
        info(LocalRegistry(tmp_path / "none"))


def test_of_an_object_store_too(tmp_path: Path) -> None:
    registry = open_registry("memory://counted", cache=tmp_path / "cache")
    put_run(registry, RUN)  # type: ignore[arg-type]
    found = info(registry)
    assert (found.kind, found.runs, found.running) == ("memory", 1, 0)
    assert found.size > 0
