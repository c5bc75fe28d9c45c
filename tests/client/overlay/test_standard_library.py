"""The overlay under the standard library, threads and forks; and against the same tree on disk."""

from __future__ import annotations

import bz2
import csv
import glob
import gzip
import io
import json
import lzma
import os
import pickle
import re
import shutil
import stat
import tarfile
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reprokit.client.overlay.install import Overlay, install, remove
from tests.client.conftest import FILES, Memory

_NATIVE = "is laid over by reprokit.vfs; native code and processes cannot see it: use reprokit mount or install"


def test_glob_and_pathlib(overlay: Overlay, here: Path) -> None:
    assert sorted(glob.glob("data/**/*.bin", recursive=True)) == [
        "data/set/train-more.bin", "data/set/train/cat.bin",
        "data/set/train/cat/1.bin", "data/set/train/cat/2.bin", "data/set/train/dog/1.bin",
    ]  # fmt: skip
    assert sorted(glob.glob("*/*/*.csv")) == ["data/set/labels.csv"]
    assert glob.glob("set/meta.*", root_dir="data") == ["set/meta.json"]
    root = Path("data/set")
    assert sorted(p.name for p in root.iterdir()) == ["labels.csv", "meta.json", "train", "train-more.bin"]
    assert sorted(map(str, Path("data").rglob("1.bin"))) == ["data/set/train/cat/1.bin", "data/set/train/dog/1.bin"]
    assert sorted(map(str, root.glob("*/*/1.*"))) == ["data/set/train/cat/1.bin", "data/set/train/dog/1.bin"]
    assert (root.is_dir(), root.exists(), (root / "meta.json").is_file(), (root / "x").exists()) == (
        True,
        True,
        True,
        False,
    )
    assert (root / "meta.json").read_text("utf-8") == '{"a": "é"}'
    with (root / "train/dog/1.bin").open("rb") as file:
        assert file.read() == b"dog"
    assert (root / "train").resolve() == here / "data/set/train"
    assert not root.is_symlink() and root.samefile(here / "data/set")


def test_copies_are_whole_with_their_times(overlay: Overlay, here: Path) -> None:
    shutil.copytree("data", "copy")
    assert {str(p.relative_to("copy")): p.read_bytes() for p in Path("copy").rglob("*") if p.is_file()} == {
        "real.txt": b"real",
        **{f"set/{key}": value for key, value in FILES.items()},
    }
    assert os.stat("copy/set/meta.json").st_mtime == 1_700_000_000.25
    shutil.copyfile("data/set/train/cat/1.bin", "one")
    assert Path("one").read_bytes() == FILES["train/cat/1.bin"]
    with pytest.raises(OSError, match="read-only"):
        shutil.move("data/set/meta.json", "moved")
    with pytest.raises(OSError, match=re.escape(_NATIVE)):
        shutil.rmtree("data/set")


def test_formats_of_the_standard_library(overlay: Overlay) -> None:
    bundle, archive = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(bundle, "w") as written:
        written.writestr("in/side.txt", "zipped")
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        tar.addfile(info := tarfile.TarInfo("x"), io.BytesIO()) or setattr(info, "size", 0)
    packed = {
        "a.gz": gzip.compress(b"gz"), "a.bz2": bz2.compress(b"bz"), "a.xz": lzma.compress(b"xz"),
        "a.zip": bundle.getvalue(), "a.tgz": archive.getvalue(), "a.pkl": pickle.dumps([1, 2]),
    }  # fmt: skip
    overlay.mount("packed", Memory(packed))
    assert gzip.open("packed/a.gz").read() == b"gz"
    assert gzip.open("packed/a.gz", "rt").read() == "gz"
    assert bz2.open("packed/a.bz2").read() == b"bz"
    assert lzma.open("packed/a.xz").read() == b"xz"
    assert zipfile.is_zipfile("packed/a.zip") and tarfile.is_tarfile("packed/a.tgz")
    assert zipfile.ZipFile("packed/a.zip").read("in/side.txt") == b"zipped"
    assert tarfile.open("packed/a.tgz").getnames() == ["x"]
    assert pickle.load(open("packed/a.pkl", "rb")) == [1, 2]  # noqa: S301
    assert json.load(open("data/set/meta.json", encoding="utf-8")) == {"a": "é"}
    assert list(csv.reader(open("data/set/labels.csv", newline=""))) == [
        ["name", "label"],
        ["cat.jpg", "0"],
        ["dog.jpg", "1"],
    ]


def test_threads_read_while_places_come_and_go(overlay: Overlay) -> None:
    stop, wrong = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            for key, value in FILES.items():
                if open(f"data/set/{key}", "rb").read() != value:
                    wrong.append(key)
            if sorted(os.listdir("data/set/train/cat")) != ["1.bin", "2.bin"]:
                wrong.append("listing")

    def guarded() -> None:
        try:
            read()
        except Exception as error:  # noqa: BLE001
            wrong.append(repr(error))

    threads = [threading.Thread(target=guarded) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(100):
        overlay.mount(f"data/other{number % 3}", Memory({"x": b"1"}))
        install(overlay)
        remove(overlay)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_forked_child_sees_the_overlay_and_can_change_it(overlay: Overlay) -> None:
    child = os.fork()
    if child == 0:
        try:
            overlay.mount("more", Memory({"x": b"1"}))
            same = open("more/x").read() == "1" and open("data/set/train/dog/1.bin").read() == "dog"
            os._exit(0 if same else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not os.path.exists("more")


# The same tree, laid over and on disk

_NAME = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=6).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)
_KEY = st.lists(st.one_of(st.sampled_from(["a", "b", "a-", "a.b", "0"]), _NAME), min_size=1, max_size=4).map("/".join)


def _is_tree(files: dict[str, bytes]) -> bool:
    folders = {key.rsplit("/", depth)[0] for key in files for depth in range(1, key.count("/") + 1)}
    return bool(files) and folders.isdisjoint(files)


def _observed(root: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for folder, folders, files in os.walk(root):
        names = sorted([*folders, *files])
        assert names == sorted(os.listdir(folder)) == sorted(os.fsdecode(n) for n in os.listdir(os.fsencode(folder)))
        with os.scandir(folder) as entries:
            kinds = {e.name: (e.is_dir(), e.is_file(), e.path, stat.S_IFMT(e.stat().st_mode)) for e in entries}
        for name in names:
            path = os.path.join(folder, name)
            shown = os.lstat(path)
            assert kinds[name] == (name in folders, name in files, path, stat.S_IFMT(shown.st_mode))
            content = open(path, "rb").read() if name in files else None
            seen[os.path.relpath(path, root)] = (
                shown.st_size if name in files else None,
                content,
                os.path.islink(path),
            )
    found = {
        os.path.relpath(path, root)
        for path in glob.glob(f"{glob.escape(root)}/**", recursive=True, include_hidden=True)
    }
    assert found - {"."} == set(seen)
    assert {str(path.relative_to(root)) for path in Path(root).rglob("*")} == set(seen)
    return seen


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=st.dictionaries(_KEY, st.binary(max_size=40), min_size=1, max_size=12).filter(_is_tree))
def test_a_tree_laid_over_equals_the_same_tree_on_disk(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as base:
        for key, value in files.items():
            path = Path(base, "disk", key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value)
        overlay = Overlay()
        overlay.mount(os.path.join(base, "laid"), Memory(files))
        install(overlay)
        try:
            assert _observed(os.path.join(base, "laid")) == _observed(os.path.join(base, "disk"))
        finally:
            remove(overlay)
