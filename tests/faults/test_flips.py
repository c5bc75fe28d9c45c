"""A byte that changed anywhere is found by whoever reads what it affects, or by `verify --all`, and never given out."""

from __future__ import annotations

import gc
import io
import random
import shutil
from collections.abc import Callable
from gzip import decompress as gunzip
from pathlib import Path

import pytest

from reprokit.core.refs import PackageRef
from reprokit.errors import Error
from reprokit.packages.build import build
from reprokit.packages.package import verify_registry
from reprokit.packages.tree_cache import lay_out
from reprokit.registry.local import LocalRegistry
from reprokit.store.packs import SMALL
from tests.faults.audit import SCALE, Content

TRIALS = 12 if SCALE < 10 else 25 * SCALE

Model = dict[str, dict[str, Content]]


def fill(base: Path) -> Model:
    """Make a registry with versions of every form in two packages; return what is in it."""
    draw = random.Random(7)
    registry = LocalRegistry(base / "registry", cache=base / "cache")
    small = {f"d/{number:02d}": draw.randbytes(draw.randrange(60)) for number in range(70)}
    first = {**small, "big": draw.randbytes(SMALL), "empty": b""}
    versions = {
        "a/b": [first, {**first, "d/07": b"new"}, {**first, "d/07": b"newer", "big": draw.randbytes(SMALL + 5)}],
        "c/d": [{"x": b"x", "é": b"1"}, {"x": b"y"}],
        "e/f": [{"x": b"z", "other": draw.randbytes(500)}],
    }
    model: Model = {}
    for name, contents in versions.items():
        for number, files in enumerate(contents):
            made = build(files, name, registry=registry, message=f"{number}", entry_meta={next(iter(files)): {"n": 1}})
            model.setdefault(name, {})[made.top_hash] = files
    folder = base / "data"
    for key, data in first.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    model["g/h"] = {build(folder, "g/h", registry=registry).top_hash: first}
    return model


def damage(draw: random.Random, path: Path, others: list[Path]) -> str:
    """Change a file in one of the ways in which files change that nobody wrote to; return how, in words."""
    data = path.read_bytes()
    path.chmod(0o644)
    match draw.choice(["flip", "flip", "flip", "truncate", "append", "swap"]):
        case "flip" if data:
            at, bit = draw.randrange(len(data)), 1 << draw.randrange(8)
            path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
            return f"byte {at} ^ {bit}"
        case "truncate" if data:
            length = draw.choice([0, len(data) - 1, draw.randrange(len(data))])
            path.write_bytes(data[:length])
            return f"cut to {length} of {len(data)}"
        case "swap" if others:
            other = draw.choice(others)
            theirs = other.read_bytes()
            other.chmod(0o644)
            other.write_bytes(data)
            path.write_bytes(theirs)
            return f"swapped with {other.name}"
    path.write_bytes(data + draw.randbytes(draw.choice([1, 100])))
    return "something appended"


def _is_harmless(before: bytes, after: bytes, kind: str) -> bool:
    """True for the bits that fill the last byte of a deflate stream, and a marker with another UUID, or white space."""
    ends = before[:-9] == after[:-9] and before[-8:] == after[-8:]
    return kind == "reprokit-registry.json" or (kind.endswith(".gz") and ends and gunzip(after) == gunzip(before))


def survey(registry: LocalRegistry, model: Model) -> list[Error]:
    """Read everything in every way; assert that what comes is right; return the errors that came instead."""
    errors: list[Error] = []

    def attempt(read: Callable[[], object], expected: object) -> None:
        try:
            found = read()
        except Error as error:
            assert error.hint, f"no hint: {error.message}"
            errors.append(error)
        else:
            assert found == expected

    for name, versions in model.items():
        attempt(lambda name=name: registry.resolve(PackageRef(name)), list(versions)[-1])
        attempt(lambda name=name: registry.top_hashes(name), list(versions))
        attempt(lambda name=name: [entry.top_hash for entry in registry.log(name)], list(versions))
        for top_hash, files in versions.items():
            try:
                manifest = registry.read_manifest(top_hash)
            except Error as error:
                assert error.hint, f"no hint: {error.message}"
                errors.append(error)
                continue
            assert sorted(manifest.keys) == sorted(files)
            reader = registry.reader(manifest, what=name)
            for position, entry in enumerate(manifest.entries):
                expected = files[entry.logical_key]
                attempt(lambda at=position, r=reader: r.read(at), expected)
                attempt(lambda at=position, r=reader: bytes(r.view(at)), expected)
                attempt(lambda entry=entry: registry.read_object(entry, what="x"), expected)
                attempt(lambda entry=entry: copied(registry, entry), expected)
                if entry.size < SMALL:
                    attempt(lambda entry=entry: registry.read_range(entry, 1, 9, what="x"), expected[1:10])
    return errors


def copied(registry: LocalRegistry, entry: object) -> bytes:
    sink = io.BytesIO()
    registry.copy_object(entry, sink, what="x")
    return sink.getvalue()


@pytest.fixture
def base(room) -> tuple[Path, Model]:
    (room / "start").mkdir()
    model = fill(room / "start")
    gc.collect()  # closes the index
    return room / "start", model


@pytest.mark.parametrize(
    "kind", ["packs/*.zip", "objects/*/*/*", "manifests/*.jsonl.gz", "log/*/*/*", "reprokit-registry.json"]
)
def test_damage_is_found_and_never_given_out(base, kind):
    start, model = base
    seed = f"flips {kind}"
    draw = random.Random(seed)
    root = start / "registry"
    files = sorted(root.glob(kind))
    for number in range(TRIALS):
        path = draw.choice(files)
        kept = {file: file.read_bytes() for file in files}
        how = damage(draw, path, [file for file in files if file != path and file.read_bytes() != kept[path]])
        try:
            found: list[object] = []
            try:
                registry = LocalRegistry(root, cache=start / "cache" if number % 2 else None)
            except Error as error:
                assert error.hint, f"no hint: {error.message}"
                found.append(error)
            else:
                found += survey(registry, model)
                found += verify_registry(LocalRegistry(root))[1]
            assert found or _is_harmless(kept[path], path.read_bytes(), kind)
        except BaseException as error:
            error.add_note(f"seed {seed!r}, trial {number}: {path.relative_to(root)}, {how}")
            raise
        for file, data in kept.items():
            if file.read_bytes() != data:
                file.write_bytes(data)
    registry = LocalRegistry(root)
    assert survey(registry, model) == []
    assert verify_registry(registry) == (sum(map(len, model.values())), [])


def test_an_index_that_lies_gives_no_wrong_data_and_needs_no_help(base, room):
    start, model = base
    draw = random.Random("flips index")
    (index,) = (start / "cache" / "index").glob("*.sqlite")
    whole = index.read_bytes()
    for number in range(TRIALS):
        trial = room / "trial"
        shutil.copytree(start, trial)
        own = trial / "cache" / "index" / index.name
        used = [at for at in range(len(whole)) if whole[at]]
        if number % 3:
            at, value = draw.choice(used), draw.randrange(256)
            own.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            how = f"byte {at} → {value}"
        else:
            how = damage(draw, own, [])
        try:
            registry = LocalRegistry(trial / "registry", cache=trial / "cache")
            assert survey(registry, model) == []
            for key, data in model["g/h"][next(iter(model["g/h"]))].items():
                path = trial / "data" / key
                assert path.read_bytes() == data
            (trial / "data" / "one more").write_bytes(b"%d" % number)
            made = build(trial / "data", "g/h", registry=registry).top_hash
            files = {**next(iter(model["g/h"].values())), "one more": b"%d" % number}
            for cache in (trial / "cache", None):  # None: an index made anew
                registry = LocalRegistry(trial / "registry", cache=cache)
                assert survey(registry, {**model, "g/h": {**model["g/h"], made: files}}) == []
                assert verify_registry(registry) == (sum(map(len, model.values())) + 1, [])
        except BaseException as error:
            error.add_note(f"seed 'flips index', trial {number}: {how}")
            raise
        shutil.rmtree(trial)


def test_a_tree_that_was_changed_is_laid_out_again(base):
    start, model = base
    draw = random.Random("flips tree")
    registry = LocalRegistry(start / "registry")
    top_hash, files = next(iter(model["a/b"].items()))
    manifest = registry.read_manifest(top_hash)
    (start / "cache" / "trees").mkdir()
    (start / "cache" / "trees" / f"{top_hash}.json").write_bytes(b"null")  # as if there were none, and that is so
    for number in range(TRIALS):
        tree = lay_out(manifest, registry=registry, cache=start / "cache", what="v")
        facts = tree.parent / f"{top_hash}.json"
        path = facts if number % 4 == 0 else tree / draw.choice(sorted(files))
        how = damage(draw, path, [tree / key for key in files if path != facts and files[key] != path.read_bytes()])
        again = lay_out(manifest, registry=registry, cache=start / "cache", what="v")
        found = {str(path.relative_to(again)): path.read_bytes() for path in again.rglob("*") if path.is_file()}
        assert found == files, f"seed 'flips tree', trial {number}: {path.name}, {how}"
