"""Two checkpoints compared by their metadata: every tensor has one of seven answers, and no object is read for it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from reprokit.comparison.tensor_diff import TensorDiff, compare_tensors
from reprokit.errors import DataMismatchError
from reprokit.registry.local import LocalRegistry
from reprokit.schema.manifest import Manifest
from tests.checkpoint.making import Tensor, change_meta, files_of, make, store

_SMALL = np.arange(640, dtype="<f4").reshape(10, 64)
_LARGE = np.arange(512 * 1024, dtype="<f4").reshape(512, 1024)  # a file of its own, whose header has its name


def compared(base: Path, left: dict[str, Tensor], right: dict[str, Tensor]) -> TensorDiff:
    registry = LocalRegistry(base)
    manifests = [make(registry, tensors).package.manifest for tensors in (left, right)]
    for folder in ("objects", "packs"):
        shutil.rmtree(base / folder, ignore_errors=True)
    return compare_tensors(*(registry.read_manifest(manifest.top_hash) for manifest in manifests))


def test_every_tensor_has_an_answer_the_models_first(tmp_path: Path) -> None:
    left: dict[str, Tensor] = {
        "a": _SMALL, "b": _SMALL, "c": _SMALL, "d": _SMALL, "gone": _SMALL + 1, "old": _SMALL + 2,
        "large": _LARGE, "moved": _LARGE + 1, "optimizer:a": _SMALL,
    }  # fmt: skip
    right: dict[str, Tensor] = {
        "a": _SMALL, "b": -_SMALL, "c": _SMALL.astype("<f8"), "d": _SMALL.T.copy(), "come": _SMALL + 3,
        "new": _SMALL + 2, "large": -_LARGE, "elsewhere": _LARGE + 1, "optimizer:a": -_SMALL,
    }  # fmt: skip
    found = compared(tmp_path, left, right)
    answers = {row.label: row.how for row in found.rows}
    assert answers == {
        "a": "equal", "b": "differs", "c": "dtype", "d": "shape", "gone": "only left", "old": "renamed",
        "come": "only right", "large": "differs", "moved": "only left", "elsewhere": "only right",
        "optimizer:a": "differs",
    }  # fmt: skip
    assert list(answers)[-1] == "optimizer:a"
    assert (found.tensors, found.differing, found.first) == (11, 10, next(row.label for row in found.unequal))
    assert [(s.section, s.tensors, s.differing) for s in found.sections] == [("model", 10, 9), ("optimizer", 1, 1)]
    by_name = {row.label: row for row in found.rows}
    assert by_name["old"].renamed == "new"
    assert (by_name["c"].dtype, by_name["c"].right_dtype) == ("F32", "F64")
    assert (by_name["d"].shape, by_name["d"].right_shape) == ([10, 64], [64, 10])
    assert (by_name["b"].right_dtype, by_name["b"].right_shape) == (None, None)
    assert not found.equal


def test_a_checkpoint_equals_itself_and_its_state_counts(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    one = make(registry, {"a": _SMALL}, state={"epoch": 1}, config={"layers": 1}).package.manifest
    other = make(registry, {"a": _SMALL}, state={"epoch": 1}, config={"layers": 2}).package.manifest
    later = make(registry, {"a": _SMALL}, state={"epoch": 2}).package.manifest
    assert compare_tensors(one, one).equal
    described = compare_tensors(one, other)
    assert {row.key: row.how for row in described.files} == {"config.json": "differs", "state.json": "equal"}
    assert described.equal  # the state digest does not cover what the model is described by
    after = compare_tensors(one, later)
    assert {row.key: row.how for row in after.files} == {"config.json": "only left", "state.json": "differs"}
    assert (after.differing, after.equal) == (0, False)


def test_metadata_that_is_no_checkpoints_is_refused(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    files = files_of({"a": _SMALL})
    key = next(key for key in files if key.endswith(".safetensors"))

    def lie(rows: list[dict[str, object]]) -> None:
        rows[0]["shape"] = [1, 2]

    broken = store(registry, files).package.manifest
    edited = change_meta(files, key, lie)
    manifest = Manifest.make(entry._replace(meta=edited[entry.logical_key][1]) for entry in broken.entries)
    with pytest.raises(DataMismatchError, match="Tensor 'a' does not lie in"):
        compare_tensors(broken, manifest)
