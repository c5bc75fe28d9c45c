"""What a build reads, what it stores, and what it refuses."""

import json
import os
import threading
import time

import pandas as pd
import pytest

from reprokit.errors import NotFoundError, RefusedError, UsageError
from reprokit.packages import build as building
from reprokit.packages.build import build
from reprokit.packages.package import Package
from reprokit.registry.local import LocalRegistry
from reprokit.store.packs import SMALL
from tests.conftest import lies_at, overwrite


@pytest.fixture
def registry(tmp_path):
    return LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for number in range(100):
        (root / f"{number:02d}").write_text(f"file {number}")
    (root / "big").write_bytes(b"b" * SMALL)
    time.sleep(0.15)  # older than the clock's granularity
    return root


@pytest.fixture
def read(monkeypatch):
    """The files that are read, in order."""
    names = []
    for function in ("_read_steady", "_store_large"):
        real = getattr(building, function)

        def noting(path, *rest, real=real):
            names.append(os.path.basename(path))
            return real(path, *rest)

        monkeypatch.setattr(building, function, noting)
    return names


def again(registry):
    return LocalRegistry(registry.root, cache=registry._cache)


def test_unchanged_files_are_not_read_again(registry, folder, read):
    first = build(folder, "a/b", registry=registry)
    assert len(read) == 101
    read.clear()
    assert build(folder, "a/b", registry=again(registry)).top_hash == first.top_hash
    assert read == []
    (folder / "07").write_text("file X")
    (folder / "big").write_bytes(b"c" * SMALL)
    (folder / "08").unlink()
    (folder / "new").write_text("new")
    second = build(folder, "a/b", registry=again(registry))
    assert sorted(read) == ["07", "big", "new"]
    assert second.new_bytes == SMALL + len("file X") + 3
    package = Package.open("a/b", registry=registry)
    assert package["07"].read() == b"file X"
    assert package["09"].read() == b"file 9"
    assert package["big"].read() == b"c" * SMALL
    assert "08" not in package


def test_nothing_changed_publishes_nothing(registry, folder):
    build(folder, "a/b", registry=registry, tags=("v1",))
    assert build(folder, "a/b", registry=again(registry), tags=("v1",)).new_bytes == 0
    assert len(registry.log("a/b")) == 1
    build(folder, "a/b", registry=registry, tags=("v2",))
    build(folder, "a/b", registry=registry, message="why")
    build(folder, "a/other", registry=registry)
    assert len(registry.log("a/b")) == 3
    assert len(registry.log("a/other")) == 1


@pytest.mark.parametrize("lost", ["pack", "loose", "manifest", "everything"])
def test_a_registry_that_lost_something_gets_it_again(registry, folder, lost):
    top_hash = build(folder, "a/b", registry=registry).top_hash
    package = Package.open("a/b", registry=registry)
    if lost in ("pack", "everything"):
        lies_at(registry, package.manifest["00"])[0].unlink()
    if lost in ("loose", "everything"):
        lies_at(registry, package.manifest["big"])[0].unlink()
    if lost in ("manifest", "everything"):
        registry.manifest_path(top_hash).unlink()
    assert build(folder, "a/b", registry=again(registry)).top_hash == top_hash
    assert Package.open("a/b", registry=again(registry)).verify() == []


def test_a_stat_cache_of_another_registry_is_not_believed(registry, folder, tmp_path, read):
    build(folder, "a/b", registry=registry)
    other = LocalRegistry(tmp_path / "other", cache=tmp_path / "cache")
    build(folder, "a/b", registry=other)
    assert len(read) == 202
    assert Package.open("a/b", registry=other).verify() == []


def test_a_damaged_index_is_done_without(registry, folder, tmp_path):
    top_hash = build(folder, "a/b", registry=registry).top_hash
    (index,) = (tmp_path / "cache" / "index").glob("*.sqlite")
    overwrite(index, 0, os.urandom(index.stat().st_size))
    assert build(folder, "a/b", registry=again(registry)).top_hash == top_hash
    assert build(folder, "a/b", registry=again(registry)).top_hash == top_hash


def test_a_file_that_keeps_changing_is_refused_by_name(registry, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    path = root / "log"
    path.write_bytes(b"x" * (SMALL * 8))
    stop = threading.Event()

    def grow():
        with path.open("ab", buffering=0) as handle:
            while not stop.is_set():
                handle.write(b"y" * 4096)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(RefusedError) as caught:
            build(root, "a/b", registry=registry)
    finally:
        stop.set()
        writer.join()
    assert caught.value.message.startswith(f"{path} changed while it was read (")
    assert list(registry.packages()) == []


def test_a_file_that_changed_between_the_look_and_the_reading_is_stored_as_it_is(registry, folder, monkeypatch):
    real = building.look_through

    def look(root, advance):
        files = real(root, advance)
        (root / "00").write_text("changed since")
        (root / "big").write_bytes(b"z" * (SMALL + 5))
        return files

    monkeypatch.setattr(building, "look_through", look)
    build(folder, "a/b", registry=registry)
    package = Package.open("a/b", registry=registry)
    assert package["00"].read() == b"changed since"
    assert package["big"].read() == b"z" * (SMALL + 5)
    assert package.verify() == []


def test_values_in_memory_become_a_version(registry, folder):
    frame = pd.DataFrame({"name": ["é", "b"], "value": [1.5, 2]})
    values = {
        "raw.bin": b"\0\1",
        "text.txt": "é",
        "labels.json": {"b": [1, None], "a": "é"},
        "table.csv": frame,
        "table.json": frame,
        "d/file": folder / "big",
    }
    result = build(values, "a/b", registry=registry, entry_meta={"raw.bin": {"kind": "x"}})
    package = Package.open("a/b", registry=registry)
    assert result.entries == 6
    assert package["raw.bin"].read() == b"\0\1"
    assert package["raw.bin"].entry.meta == {"kind": "x"}
    assert json.loads(package["labels.json"].read()) == {"b": [1, None], "a": "é"}
    assert package["table.csv"].read() == "name,value\né,1.5\nb,2.0\n".encode()
    pd.testing.assert_frame_equal(package["table.csv"].to_pandas(), frame)
    pd.testing.assert_frame_equal(package["table.json"].to_pandas(), frame)
    assert package["d/file"].read() == (folder / "big").read_bytes()
    build(frame, "a/frame", registry=registry)
    assert list(Package.open("a/frame", registry=registry)) == ["data.csv"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("x", 5, "A int cannot be stored as 'x'."),
        ("x.txt", {"a": 1}, "A dict cannot be stored as 'x.txt'."),
        ("x.json", {"a": float("nan")}, "The value of 'x.json' is no JSON: "),
        ("../x", b"", "Not a legal logical key: '../x' (it has the part '..')."),
    ],
)
def test_values_that_cannot_be_stored_are_named(registry, key, value, message):
    with pytest.raises(UsageError) as caught:
        build({key: value}, "a/b", registry=registry)
    assert caught.value.message.startswith(message)
    assert list(registry.packages()) == []


def test_an_older_version_and_edits_become_a_new_one(registry, folder, tmp_path):
    build(folder, "a/b", registry=registry)
    base = Package.open("a/b", registry=registry)
    build({"00": "new", "d/x": "x", "d/y": "y"}, "a/b", registry=registry, base=base, remove=["01", "big"])
    edited = Package.open("a/b", registry=registry)
    assert set(edited) == (set(base) | {"d/x", "d/y"}) - {"01", "big"}
    assert edited["00"].read() == b"new"
    build({}, "a/b", registry=registry, base=edited, remove=["d"])
    assert "d/x" not in Package.open("a/b", registry=registry)
    elsewhere = LocalRegistry(tmp_path / "elsewhere")
    build({"more": "m"}, "c/d", registry=elsewhere, base=base)
    copied = Package.open("c/d", registry=elsewhere)
    assert copied.verify() == []
    assert copied["big"].read() == base["big"].read()
    with pytest.raises(NotFoundError) as caught:
        build({}, "a/b", registry=registry, base=base, remove=["nothing"])
    assert caught.value.message == f"No entry or folder 'nothing' in {base}."
    with pytest.raises(NotFoundError):
        build({"x": b""}, "a/b", registry=registry, entry_meta={"y": {}})
    with pytest.raises(UsageError):
        build({"x": b""}, "a/b", registry=registry, remove=["x"])


def test_folders_of_a_package_are_mappings_and_entries_have_paths(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("REPROKIT_CACHE", str(tmp_path / "cache"))
    build({"train/cat/1": b"one", "train/dog/2": b"two", "test/3": b"three"}, "a/b", registry=registry)
    package = Package.open("a/b", registry=registry)
    assert {key: entry.read() for key, entry in package["train"].items()} == {"cat/1": b"one", "dog/2": b"two"}
    assert package["train/cat/"]["1"].read() == b"one"
    path = package["test/3"].path()
    assert (path.name, path.read_bytes()) == ("3", b"three")
    path.chmod(0o644)
    path.write_bytes(b"edited")
    assert package["test/3"].path().read_bytes() == b"three"
    with pytest.raises(NotFoundError):
        package["tra"]


def test_an_empty_folder_on_a_base_is_the_base_however_often(registry, tmp_path):
    (tmp_path / "empty").mkdir()
    build({"a": "x"}, "a/b", registry=registry)
    base = Package.open("a/b", registry=registry)
    for _ in range(2):
        result = build(tmp_path / "empty", "a/b", registry=again(registry), base=base)
        assert (result.top_hash, result.entries) == (base.top_hash, 1)
