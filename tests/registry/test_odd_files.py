"""Pipes and folders in the place of a registry's files block nobody; who may read its files is the umask's to say."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

import pytest

from reprokit.core.canonical_json import spelled
from reprokit.core.progress import SILENT
from reprokit.errors import Error
from reprokit.packages.package import verify_registry
from reprokit.registry.gc import collect_garbage
from reprokit.registry.local import LocalRegistry
from reprokit.registry.quilt.registry import QuiltRegistry
from reprokit.registry.quilt.writer import QuiltWriter
from reprokit.registry.repair import set_aside_damaged
from reprokit.store.packs import SMALL

from .contract import store

RUN = "20261123-101500-7c1e9f"


def filled(root: Path) -> LocalRegistry:
    registry = LocalRegistry(root)
    manifest = store(registry, {"small": b"one", "large": bytes(SMALL)})
    registry.publish("a/b", manifest, tags=("v1",))
    (root / "running").mkdir()
    (root / "running" / RUN).touch()
    return registry


def every_question(registry: LocalRegistry, top_hash: str) -> None:
    """Ask everything of a registry that reads its files; each may be refused, and none may wait."""
    asked = [
        lambda: registry.log("a/b"),
        lambda: registry.top_hashes("a/b"),
        lambda: registry.is_claimed(RUN),
        lambda: registry.claim(RUN).__enter__(),
        lambda: verify_registry(registry, progress=SILENT),
        lambda: [registry.read_object(entry, what="x") for entry in registry.read_manifest(top_hash).entries],
        lambda: registry.read_header(top_hash),
        lambda: registry.publish("c/d", store(registry, {"new": b"new"})),
        lambda: collect_garbage(registry, grace=0),
        lambda: set_aside_damaged(registry, progress=SILENT),
    ]
    for ask in asked:
        with contextlib.suppress(Error):
            ask()


@pytest.mark.parametrize("odd", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_refused_wherever_a_file_belongs(tmp_path, odd):
    def hang(*_):
        raise AssertionError(f"{place} blocks")

    before = signal.signal(signal.SIGALRM, hang)
    whole = tmp_path / "whole"
    top_hash = filled(whole).top_hashes("a/b")[0]
    places = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert {str(place).partition("/")[0] for place in places} >= {
        "lock", "log", "manifests", "objects", "packs", "reprokit-registry.json", "running",
    }  # fmt: skip
    for number, place in enumerate(places):
        root = tmp_path / str(number)
        shutil.copytree(whole, root)
        (root / place).unlink()
        odd(root / place)
        signal.alarm(20)
        try:
            with contextlib.suppress(Error):
                every_question(LocalRegistry(root), top_hash)
        finally:
            signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002], ids=oct)
def test_files_of_a_registry_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        registry = filled(tmp_path / "registry")
        manifest = registry.read_manifest(registry.top_hashes("a/b")[0])
        quilt = QuiltRegistry(tmp_path / "quilt")
        writer = QuiltWriter(quilt.root)
        writer.copy(manifest, source=registry, what="a/b", advance=lambda *_: None)
        writer.publish("a/b", manifest, moves_latest=lambda: True)
    finally:
        os.umask(before)
    for path in [*(tmp_path / "registry").rglob("*"), *(tmp_path / "quilt").rglob("*")]:
        mode = path.stat().st_mode & 0o777
        fixed = path.relative_to(tmp_path).parts[:2] in (("registry", "packs"), ("registry", "objects"))
        wanted = 0o777 if path.is_dir() else 0o444 if fixed else 0o666
        assert oct(mode) == oct(wanted & ~umask), path


def test_half_of_a_character_is_written_as_its_escape():
    assert spelled({"a\udcff": ["\ud800", 1, "é"]}) == {"a\\udcff": ["\\ud800", 1, "é"]}


def test_a_note_that_is_no_text_leaves_a_log_that_can_be_read(tmp_path):
    registry = LocalRegistry(tmp_path / "registry")
    manifest = store(registry, {"x": b"1"}, "caf\udce9")
    registry.publish("a/b", manifest)
    registry.delete("a/b", manifest.top_hash, note="\ud800")
    assert [entry.note for entry in registry.log("a/b")] == [None, "\\ud800"]
    assert registry.read_manifest(manifest.top_hash).message == "caf\\udce9"
