"""Checkpoints read back: every byte verified, none read that nobody asked for, none twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprokit.checkpoint.load import load_checkpoint
from reprokit.checkpoint.reader import Checkpoint
from reprokit.client.tensors import DTYPES
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.packages.package import Package
from reprokit.registry.local import LocalRegistry
from reprokit.registry.quilt.writer import QuiltWriter
from reprokit.runs.transfer import push
from reprokit.store import mapping
from tests.checkpoint.making import Files, change_meta, files_of, make, store
from tests.conftest import ROOT, Project, lies_at, overwrite

MIB = 1024 * 1024


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")


def _noise(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=count).astype("f4")


def _large() -> dict[str, Any]:
    """One tensor with a file of its own, one with a small file, and a file of 1.6 MiB that eight share."""
    return {"big.w": _noise(MIB // 2), "small.w": _noise(5)} | {f"many.{i}.w": _noise(MIB // 20, i) for i in range(8)}


def test_every_dtype_and_shape_comes_back(registry: LocalRegistry) -> None:
    rng = np.random.default_rng(0)
    native = {
        name: rng.integers(0, 2, (3, 5)).astype(name)
        for name in DTYPES
        if name not in ("bfloat16",) and "float8" not in name
    }
    shapes = {"scalar": np.array(2.5), "empty": np.zeros((0, 3), "f4"), "one": np.zeros((1,), "i8")}
    tensors = {**native, **shapes, "optimizer:x.exp_avg": _noise(3), "é/ü 1": _noise(2)}
    tensors["brain"] = ("BF16", (2,), b"\x80\x3f\x00\xc0")
    tensors["eight"] = ("F8_E4M3", (2,), b"\x38\x40")
    found = make(registry, tensors)
    assert found.sections == ["model", "optimizer"]
    for name, value in found.tensors().items():
        if name not in ("brain", "eight"):
            assert (value.dtype, value.shape) == (tensors[name].dtype, tensors[name].shape)
            assert value.tobytes() == tensors[name].tobytes()
    assert found.tensor("brain").tolist() == [1.0, -2.0]
    assert found.tensor("eight").tolist() == [0x38, 0x40]
    assert found.tensor("x.exp_avg", "optimizer").tobytes() == tensors["optimizer:x.exp_avg"].tobytes()
    assert found.raw("brain") == b"\x80\x3f\x00\xc0"
    with pytest.raises(NotFoundError, match="has no model tensor 'nothing'"):
        found.tensor("nothing")


def test_tied_weights_come_under_each_name_and_stay_one(registry: LocalRegistry) -> None:
    found = make(registry, {"embed": _noise(4), "big": _noise(MIB)}, aliases={"head": "embed", "also": "big"})
    tensors = found.tensors()
    assert tensors["head"] is tensors["embed"]
    assert tensors["also"] is tensors["big"]
    assert found.tensor("head").tobytes() == found.tensor("embed").tobytes()
    assert list(found.tensors(names=["head"])) == ["head"]
    assert found.aliases() == {"head": "embed", "also": "big"}
    assert found.aliases("optimizer") == {}  # which has no tensors
    assert make(registry, {"w": _noise(4)}).aliases() == {}


def test_arrays_cannot_be_written_to(registry: LocalRegistry) -> None:
    for name, value in make(registry, _large()).tensors().items():
        with pytest.raises(ValueError, match="read-only"):
            value[0] = 1
        assert not value.flags.owndata, name


def test_state_comes_back_as_it_was_saved_and_as_it_is_stored(registry: LocalRegistry) -> None:
    state = {
        "epoch": 3,
        "user": {"pair": {"$tuple": [1, {"$float": "nan"}]}, "raw": {"$bytes": "eA=="}},
        "rng": {"$tensor": {"name": "state.rng", "kind": "numpy"}},
        "mask": {"$tensor": {"name": "mask", "kind": "torch"}},
    }
    tensors = {"state:state.rng": np.arange(9, dtype="u4"), "state:mask": np.array([True, False])}
    found = make(registry, tensors, state=state, config={"a": 1})
    assert found.raw_state == state
    assert found.state["user"]["pair"][0] == 1
    assert found.state["user"]["raw"] == b"x"
    assert found.state["rng"].tolist() == list(range(9))
    assert found.state["mask"].tolist() == [True, False]
    assert found.decoded_state({"torch": lambda stored: stored.dtype})["mask"] == "BOOL"
    assert found.config == {"a": 1}


def _spoil(registry: LocalRegistry, found: Checkpoint, key: str, offset: int) -> Path:
    path, start = lies_at(registry, found.package.manifest[key])
    with path.open("rb") as handle:
        handle.seek(start + offset)
        byte = handle.read(1)
    overwrite(path, start + offset, bytes([byte[0] ^ 1]))
    return path


def test_a_corrupt_byte_of_a_large_tensor_is_found_and_nothing_given_out(registry: LocalRegistry) -> None:
    found = make(registry, _large())
    _spoil(registry, found, "model/big.w.safetensors", MIB)
    for read in (lambda: found.tensors(), lambda: found.tensor("big.w"), lambda: found.arrays(own=True)):
        with pytest.raises(DataMismatchError) as caught:
            read()
        assert caught.value.message.startswith(f"model/big.w.safetensors of {found.package} is corrupt: expected ")
    assert found.tensor("small.w").shape == (5,)


def test_named_tensors_of_a_shared_file_are_read_by_their_range_alone(registry: LocalRegistry) -> None:
    tensors = _large()
    found = make(registry, tensors)
    places = {name: found.stored(name) for name in found.names()}
    assert places["many.7.w"].key == "model/many.trainable.safetensors"
    _spoil(registry, found, "model/many.trainable.safetensors", places["many.7.w"].offset + 4)
    assert found.tensor("many.0.w").tobytes() == tensors["many.0.w"].tobytes()
    assert list(found.tensors(names=["many.1.w", "many.2.w"])) == ["many.1.w", "many.2.w"]
    with pytest.raises(DataMismatchError, match=r"^many\.7\.w in model/many\.trainable\.safetensors of .* is corrupt"):
        found.tensor("many.7.w")
    with pytest.raises(DataMismatchError, match=r"^model/many\.trainable\.safetensors of .* is corrupt"):
        found.tensors()


def test_what_is_read_may_be_written_to_by_whoever_asks_for_that(registry: LocalRegistry) -> None:
    found = make(registry, tensors := _large())
    for names in (None, ["many.0.w"], ["big.w"], ["small.w"]):
        for own in (False, True):
            for array in found.arrays(names=names, own=own).values():
                assert array.data.readonly is not own
    data = found.arrays(names=["many.0.w"], own=True)["many.0.w"].data
    data[:4] = b"mine"
    assert found.raw("many.0.w") == tensors["many.0.w"].tobytes()


def test_a_truncated_or_missing_object_is_named(registry: LocalRegistry) -> None:
    found = make(registry, _large())
    path, _ = lies_at(registry, found.package.manifest["model/big.w.safetensors"])
    path.chmod(0o644)
    os.truncate(path, MIB)
    with pytest.raises(DataMismatchError, match=r"is corrupt: expected .* read 1,048,576 bytes instead of 2,097,"):
        found.tensors()
    path.unlink()
    with pytest.raises(NotFoundError, match=r"model/big\.w\.safetensors of .*: its object .* is missing"):
        found.tensors()


def _remembered(registry: LocalRegistry, found: Checkpoint) -> dict[str, str]:
    digest = found.package.manifest["model/big.w.safetensors"].digest
    return registry.objects.index.verified([f"{digest.type}/{digest.hex}"])


def test_what_was_just_written_is_not_remembered_as_verified(registry: LocalRegistry) -> None:
    found = make(registry, _large())
    found.tensors()
    assert _remembered(registry, found) == {}


def test_what_was_verified_is_not_read_again_until_its_stat_changes(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "_TICK", 0)  # or the test would have to wait
    found = make(registry, _large())
    found.tensors()
    (name,) = _remembered(registry, found)
    path = _spoil(registry, found, "model/big.w.safetensors", MIB)
    with pytest.raises(DataMismatchError):
        found.tensors()
    seen = path.stat()
    stamp = f"{seen.st_dev} {seen.st_ino} {seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns}"
    registry.objects.index.keep_verified({name: stamp})  # as if it had been sound: nothing looks at the bytes now
    elsewhere = LocalRegistry(registry.root, cache=registry.root.parent / "cache")
    package = Package.open(f"t/model@{found.package.top_hash}", registry=elsewhere)
    assert Checkpoint(package).tensor("big.w").shape == (MIB // 2,)
    assert [problem.logical_key for problem in package.verify()] == ["model/big.w.safetensors"]  # it always reads
    path.touch()
    with pytest.raises(DataMismatchError):
        Checkpoint(package).tensors()


def test_with_few_descriptors_the_largest_are_mapped_and_the_rest_read(registry: LocalRegistry) -> None:
    found = make(registry, {f"w{i}": _noise(MIB // 4 + i, i) for i in range(90)})
    code = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from reprokit.checkpoint.load import load_checkpoint
from reprokit.registry.local import LocalRegistry
found = load_checkpoint(sys.argv[1], registry=LocalRegistry(Path(sys.argv[2])))
print(len(found.tensors()), sum(float(value.sum()) for value in found.tensors().values()))
"""
    expected = sum(float(value.sum()) for value in found.tensors().values())
    done = subprocess.run(
        [sys.executable, "-c", code, f"t/model@{found.package.top_hash}", str(registry.root)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["90", str(expected)], done.stderr[-2000:]


def test_a_checkpoint_in_a_folder_of_quilts_reads_alike(registry: LocalRegistry, tmp_path: Path) -> None:
    found = make(registry, _large())
    push("t/model", source=registry, target=QuiltWriter(tmp_path / "quilt"))
    other = load_checkpoint("t/model", registry=str(tmp_path / "quilt"))
    assert other.package.top_hash == found.package.top_hash
    ours, theirs = found.tensors(), other.tensors()
    assert {name: value.tobytes() for name, value in ours.items()} == {n: v.tobytes() for n, v in theirs.items()}
    assert other.tensor("many.3.w").tobytes() == ours["many.3.w"].tobytes()


@pytest.fixture
def kept(tmp_path: Path) -> Project:
    """A run of three epochs that keeps its last checkpoint and the best."""
    project = Project(tmp_path)
    project.build()
    recipe = (project.root / "recipe.yaml").read_text()
    project.write("recipe.yaml", recipe.replace("best: {loss: min}", "keep: 1"))
    project.commit()
    project.reprokit("run", "recipe.yaml", "-q")
    return project


def test_a_dropped_checkpoint_is_named_and_the_others_are_listed(kept: Project) -> None:
    run = kept.json("ls")["runs"][0]["run_id"]
    with pytest.raises(NotFoundError) as caught:
        load_checkpoint("latest@epoch=0", registry=str(kept.registry))
    assert caught.value.message == (f"The checkpoint 'epoch=0' of run {run} was dropped, as `checkpoints.keep` says.")
    assert "was dropped" in kept.reprokit("checkpoint", "get", "latest@epoch=1", expect=10).stderr
    listed = kept.json("ls", "latest")["checkpoints"]
    assert [(row["epoch"], row["dropped"], row["size"] is None) for row in listed] == [
        (0, True, True),
        (1, True, True),
        (2, False, False),
    ]
    lines = kept.reprokit("ls", "latest").stdout.splitlines()
    assert [" dropped " in line for line in lines] == [True, True, False]
    assert " KB  loss=" in lines[2]
    assert load_checkpoint("latest@last", registry=str(kept.registry)).names()


def _other(files: Files, key: str, data: bytes) -> Files:
    return {**files, key: (data, files[key][1])}


def test_a_version_that_contradicts_itself_is_refused_where_it_is_read(registry: LocalRegistry) -> None:
    files = files_of(_large(), aliases={"tied": "small.w"}, state={"a": 1})
    sound = store(registry, files)
    assert (sound.aliases(), sound.raw_state) == ({"tied": "small.w"}, {"a": 1})
    for data in (b"[]", b"3", b"null"):
        with pytest.raises(DataMismatchError, match=r"^state\.json of .* is not a mapping"):
            _ = store(registry, _other(files, "state.json", data)).raw_state
    index = "model.safetensors.index.json"
    value = json.loads(files[index][0])
    names = value["weight_map"]
    for change in (
        {key: file for key, file in names.items() if key != "small.w"},
        {**names, "more": names["small.w"]},
        {**names, "small.w": names["big.w"]},
    ):
        other = json.dumps({**value, "weight_map": change}).encode()
        with pytest.raises(DataMismatchError, match=r"does not list the tensors|is malformed|names|says"):
            store(registry, _other(files, index, other)).aliases()
    big, small = names["big.w"], names["small.w"]
    head = len(files[small][0]) - 20
    for key, change in (
        (big, {"digest": "0" * 64}), (big, {"name": "other"}), (small, {"offset": head - 8}), (small, {"dtype": "I32"}),
        (small, {"shape": [5, 1]}),
    ):  # fmt: skip
        lying = store(registry, change_meta(files, key, lambda rows, change=change: rows[0].update(change)))
        with pytest.raises(DataMismatchError):
            lying.tensors()
    for data in (files[small][0][:-1], files[small][0] + b"x", b"\xff" * 40):
        with pytest.raises(DataMismatchError):
            store(registry, _other(files, small, data)).tensors()
