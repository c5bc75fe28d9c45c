"""Which tensor of one checkpoint is which of another: from metadata, and with their bytes where these alone tell."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.checkpoint_diff import TensorDiff, compare_tensors, first_difference
from reprokit.comparison.tensor_pairs import pair_tensors
from reprokit.errors import DataMismatchError
from reprokit.packages.package import Package
from reprokit.registry.local import LocalRegistry
from reprokit.schema.manifest import Manifest
from reprokit.schema.recipe import Tolerance, WeightTolerance
from tests.checkpoint.making import Tensor, change_meta, files_of, make, store

_SMALL = np.arange(640, dtype="<f4").reshape(10, 64)
_LARGE = np.arange(512 * 1024, dtype="<f4").reshape(512, 1024)  # a file of its own, whose header has its name


def compared(base: Path, left: dict[str, Tensor], right: dict[str, Tensor], *, values: bool = False) -> TensorDiff:
    registry = LocalRegistry(base)
    one, other = (make(registry, tensors) for tensors in (left, right))
    if not values:
        for folder in ("objects", "packs"):
            shutil.rmtree(base / folder, ignore_errors=True)
    return compare_tensors(one, other, values=values)


@pytest.mark.parametrize("values", [False, True])
def test_every_tensor_has_an_answer_the_models_first(tmp_path: Path, values: bool) -> None:
    left: dict[str, Tensor] = {
        "a": _SMALL, "b": _SMALL, "c": _SMALL, "d": _SMALL, "gone": _SMALL + 1, "old": _SMALL + 2,
        "large": _LARGE, "moved": _LARGE + 1, "optimizer:a": _SMALL, "flat": _LARGE.reshape(-1),
    }  # fmt: skip
    right: dict[str, Tensor] = {
        "a": _SMALL, "b": -_SMALL, "c": _SMALL.astype("<f8"), "d": _SMALL.T.copy(), "come": _SMALL + 3,
        "new": _SMALL + 2, "large": -_LARGE, "elsewhere": _LARGE + 1, "optimizer:a": -_SMALL,
    }  # fmt: skip
    found = compared(tmp_path, left, right, values=values)
    answers = {row.label: row.how for row in found.rows}
    moved = {"moved": "renamed"} if values else {"moved": "unknown", "elsewhere": "unknown"}
    assert answers == {
        "a": "equal", "b": "differs", "c": "dtype", "d": "shape", "gone": "only left", "old": "renamed",
        "come": "only right", "large": "differs", "optimizer:a": "differs", "flat": "only left", **moved,
    }  # fmt: skip
    assert list(answers)[-1] == "optimizer:a"
    assert (found.tensors, found.differing) == (len(answers), len(answers) - 1)
    assert found.first == next(row.label for row in found.unequal)
    assert [(s.section, s.tensors, s.differing) for s in found.sections] == [
        ("model", len(answers) - 1, len(answers) - 2), ("optimizer", 1, 1),
    ]  # fmt: skip
    by_name = {row.label: row for row in found.rows}
    assert by_name["old"].renamed == "new"
    assert by_name["moved"].renamed == ("elsewhere" if values else None)
    assert {name: row.side for name, row in by_name.items() if row.side} == (
        {} if values else {"moved": "left", "elsewhere": "right"}
    )
    assert (by_name["c"].dtype, by_name["c"].right_dtype) == ("F32", "F64")
    assert (by_name["d"].shape, by_name["d"].right_shape) == ([10, 64], [64, 10])
    assert (by_name["b"].right_dtype, by_name["b"].right_shape) == (None, None)
    assert {name for name, row in by_name.items() if row.distance} == (
        {"b", "large", "optimizer:a"} if values else set()
    )
    assert not found.equal


@pytest.mark.parametrize("array", [_SMALL, _LARGE])
def test_equal_bytes_of_another_dtype_shape_or_section_are_no_rename_and_not_equal(
    tmp_path: Path, array: np.ndarray
) -> None:
    integers = array.view("<i4")
    for number, (left, right, how) in enumerate(
        [
            ("a", {"a": integers}, {"a": "dtype"}),
            ("a", {"b": integers}, {"a": "only left", "b": "only right"}),
            ("a", {"b": array.reshape(-1)}, {"a": "only left", "b": "only right"}),
            ("a", {"ema:a": array}, {"a": "only left", "ema:a": "only right"}),
            ("optimizer:a", {"ema:b": array}, {"optimizer:a": "only left", "ema:b": "only right"}),
        ]
    ):
        found = compared(tmp_path / str(number), {left: array}, dict(right), values=True)
        assert {row.label: row.how for row in found.rows} == how
        assert not found.equal
        registry = LocalRegistry(tmp_path / str(number))
        one, other = make(registry, {left: array}), make(registry, dict(right))
        huge = Tolerance(weights=WeightTolerance(atol=1e300, rtol=1e300))
        assert not first_difference(one, other, huge).within


def test_tensors_are_read_only_where_they_may_be_one_under_two_names(tmp_path: Path) -> None:
    left: dict[str, Tensor] = {"same": _LARGE, "a": _LARGE + 1, "lone": _LARGE.reshape(-1), "small": _SMALL}
    right: dict[str, Tensor] = {"same": -_LARGE, "b": _LARGE + 1, "c": _LARGE + 2, "little": _SMALL}
    registry = LocalRegistry(tmp_path)
    one, other = make(registry, left), make(registry, right)
    asked: list[tuple[str, str]] = []

    def content(side: str, stored) -> str:  # type: ignore[no-untyped-def]
        asked.append((side, stored.name))
        return "alike" if stored.name in "ab" else stored.name

    pairs = pair_tensors(
        one.all_stored(), other.all_stored(), (lambda stored: content("left", stored), lambda s: content("right", s))
    )
    assert sorted(asked) == [("left", "a"), ("right", "b"), ("right", "c")]
    assert {(pair.label, pair.how, pair.renamed) for pair in pairs} == {
        ("same", "differs", None), ("a", "renamed", "b"), ("c", "only right", None), ("lone", "only left", None),
        ("small", "renamed", "little"),
    }  # fmt: skip


def test_of_several_that_are_alike_each_is_paired_once(tmp_path: Path) -> None:
    found = compared(tmp_path, {"a": _SMALL, "b": _SMALL, "c": _SMALL}, {"x": _SMALL, "y": _SMALL})
    assert [(row.label, row.how, row.renamed) for row in found.rows] == [
        ("a", "renamed", "x"), ("b", "renamed", "y"), ("c", "only left", None),
    ]  # fmt: skip


def test_a_checkpoint_equals_itself_and_its_state_counts(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    one = make(registry, {"a": _SMALL}, state={"epoch": 1}, config={"layers": 1})
    other = make(registry, {"a": _SMALL}, state={"epoch": 1}, config={"layers": 2})
    later = make(registry, {"a": _SMALL}, state={"epoch": 2})
    assert compare_tensors(one, one).equal
    described = compare_tensors(one, other)
    assert {row.key: row.how for row in described.files} == {"config.json": "differs", "state.json": "equal"}
    assert not described.equal  # another model, with the same weights
    after = compare_tensors(one, later)
    assert {row.key: row.how for row in after.files} == {"config.json": "only left", "state.json": "differs"}
    assert (after.differing, after.equal) == (0, False)


def test_metadata_that_is_no_checkpoints_is_refused(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    files = files_of({"a": _SMALL})
    key = next(key for key in files if key.endswith(".safetensors"))

    def lie(rows: list[dict[str, object]]) -> None:
        rows[0]["shape"] = [1, 2]

    honest = store(registry, files)
    edited = change_meta(files, key, lie)
    entries = honest.package.manifest.entries
    manifest = Manifest.make(entry._replace(meta=edited[entry.logical_key][1]) for entry in entries)
    with pytest.raises(DataMismatchError, match="Tensor 'a' does not lie in"):
        compare_tensors(honest, Checkpoint(Package("t/m", manifest, registry)))
