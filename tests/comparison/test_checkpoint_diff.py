"""What is said of the first tensor in which two stored checkpoints differ."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.checkpoint_diff import Difference, compare_tensors, first_difference
from reprokit.core.digest import hash_bytes
from reprokit.registry.local import LocalRegistry
from reprokit.schema.recipe import Tolerance, WeightTolerance
from tests.checkpoint.making import Tensor, change_meta, files_of, make, store

_WEIGHT = np.arange(640, dtype="<f4").reshape(10, 64)
_LARGE = np.arange(512 * 1024, dtype="<f4").reshape(512, 1024)  # a file of its own, whose header has its name


def compared(
    base: Path, left: dict[str, Tensor], right: dict[str, Tensor], atol: float = 0.0, rtol: float = 0.0
) -> Difference:
    registry = LocalRegistry(base)
    made = [make(registry, tensors) for tensors in (left, right)]
    return first_difference(made[0], made[1], Tolerance(weights=WeightTolerance(atol=atol, rtol=rtol)))


def changed(array: np.ndarray, *places: tuple[int, ...]) -> np.ndarray:
    copy = array.copy()
    for place in places:
        copy[place] = np.nextafter(copy[place], np.float32(np.inf))
    return copy


def test_where_and_by_how_much_the_first_tensor_differs_is_said(tmp_path: Path) -> None:
    right: dict[str, Tensor] = {"fc.weight": changed(_WEIGHT, (0, 3), (4, 17), (2, 2)), "fc.zero": _WEIGHT[1]}
    found = compared(tmp_path, {"fc.weight": _WEIGHT, "fc.zero": _WEIGHT[2]}, right)
    assert str(found) == (
        "fc.weight [10, 64], 3 of 640 elements differ, max |Δ| 3.05e-05 at [4, 17], at most 1 ulp (and 1 more)"
    )
    assert not found.within


@pytest.mark.parametrize("array", [_WEIGHT, _LARGE])
def test_a_tensor_under_another_name_is_renamed_not_missing(tmp_path: Path, array: np.ndarray) -> None:
    found = compared(tmp_path, {"fc.weight": array, "fc.bias": _WEIGHT[0]}, {"head.w": array, "fc.bias": _WEIGHT[0]})
    assert str(found) == f"fc.weight {list(array.shape)}, renamed to head.w"
    assert (found.count, found.within) == (1, False)


def test_other_values_under_another_name_are_missing(tmp_path: Path) -> None:
    found = compared(tmp_path / "a", {"a": _LARGE}, {"b": changed(_LARGE, (0, 0))})
    assert str(found) == "a [512, 1024], missing from the second of the two (and 1 more)"
    extra = compared(tmp_path / "b", {"a": _WEIGHT}, {"a": _WEIGHT, "b": _WEIGHT[0]})
    assert (str(extra), extra.within) == ("b [64], missing from the first of the two", False)


def test_other_dtypes_and_shapes_are_named(tmp_path: Path) -> None:
    found = compared(tmp_path / "a", {"a": _WEIGHT}, {"a": _WEIGHT.astype("<f8")})
    assert str(found) == "a [10, 64], F32 [10, 64] → F64 [10, 64]"
    assert not compared(tmp_path / "b", {"a": _WEIGHT}, {"a": _WEIGHT.T.copy()}, atol=9e9).within


def test_what_cannot_be_subtracted_is_said_and_stays_json(tmp_path: Path) -> None:
    right = _WEIGHT.copy()
    right[1, 2], right[3, 4], right[0, 0] = np.nan, np.inf, -0.0
    found = compared(tmp_path, {"a": _WEIGHT}, {"a": right})
    assert str(found) == (
        "a [10, 64], 3 of 640 elements differ, infinite |Δ| at [1, 2], "
        "1 × NaN against a value, 1 × infinity against another value, 1 × +0 against −0"
    )
    assert (found.divergence.max_abs, found.divergence.relative, found.divergence.ulp) == (None, None, None)


def test_eight_bits_and_brain_floats_are_compared_in_their_own_steps(tmp_path: Path) -> None:
    left: dict[str, Tensor] = {"a": ("BF16", (2,), b"\x80\x3f\x80\x3f")}  # 1 and 1
    found = compared(tmp_path / "a", left, {"a": ("BF16", (2,), b"\x80\x3f\x82\x3f")})
    assert str(found) == "a [2], 1 of 2 elements differ, max |Δ| 0.0156 at [1], at most 2 ulp"
    eight = compared(tmp_path / "b", {"a": ("F8_E4M3", (1,), b"\x38")}, {"a": ("F8_E4M3", (1,), b"\x39")})
    assert str(eight) == "a [1], 1 of 1 elements differ, max |Δ| 0.125 at [0], at most 1 ulp"
    assert compared(
        tmp_path / "c", {"a": ("F8_E4M3", (1,), b"\x38")}, {"a": ("F8_E4M3", (1,), b"\x39")}, rtol=0.2
    ).within


def test_the_tolerance_covers_all_tensors_not_the_first_alone(tmp_path: Path) -> None:
    left: dict[str, Tensor] = {"a": _WEIGHT, "b": _WEIGHT}
    right: dict[str, Tensor] = {"a": changed(_WEIGHT, (9, 9)), "b": _WEIGHT + 1}
    assert not compared(tmp_path / "a", left, right, atol=1e-3).within
    found = compared(tmp_path / "b", left, right, atol=1.0)
    assert found.within and found.divergence.tensor == "a" and found.count == 2


def test_from_metadata_alone_no_object_is_needed(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    shared: dict[str, Tensor] = {"a": _WEIGHT, "optimizer:c": _WEIGHT}
    left = make(registry, {**shared, "b": _LARGE, "gone": _WEIGHT[0], "large": _LARGE + 1})
    right = make(registry, {"a": _WEIGHT, "b": -_LARGE, "optimizer:c": -_WEIGHT, "come": _WEIGHT[0], "big": _LARGE + 1})
    renamed = make(registry, {**shared, "b": _LARGE, "come": _WEIGHT[0], "large": _LARGE + 1})
    state = make(registry, {**shared, "b": _LARGE, "come": _WEIGHT[0], "large": _LARGE + 1}, state={"epoch": 1})
    for folder in ("objects", "packs"):
        shutil.rmtree(tmp_path / folder)
    found = first_difference(left, right, Tolerance(), values=False)
    assert str(found) == "b [512, 1024] (and 4 more)"  # c; gone, now come; large and big, which may be one
    assert (found.divergence.elements, found.divergence.differing, found.divergence.ulp) == (512 * 1024, None, None)
    assert not found.within
    assert str(first_difference(left, renamed, Tolerance(), values=False)) == "gone [64], renamed to come"
    assert str(first_difference(renamed, state, Tolerance(), values=False)) == "state.json"


_HUGE = Tolerance(weights=WeightTolerance(atol=1e300, rtol=1e300))


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("key", ["state", "config"])
def test_what_is_no_tensor_is_never_within(tmp_path: Path, values: bool, key: str) -> None:
    registry = LocalRegistry(tmp_path)
    more = [{key: {"epoch": 0, "rng": [side]}} for side in range(2)]
    left, right = (make(registry, {"a": _WEIGHT}, **one) for one in more)
    found = first_difference(left, right, _HUGE, values=values)
    assert str(found) == (f"{key}.json:rng[0]" if values else f"{key}.json")
    assert (found.within, found.count) == (False, 1)
    near = make(registry, {"a": _WEIGHT + 1}, **more[0])
    assert first_difference(left, near, _HUGE).within
    beside = first_difference(left, make(registry, {"a": _WEIGHT + 1}, **more[1]), _HUGE)
    assert str(beside).endswith(f"max |Δ| 1 at [0, 0], at most 1,065,353,216 ulp; beside it {key}.json:rng[0]")
    assert not beside.within


def test_without_a_declared_tolerance_nothing_is_within(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    left, right = (make(registry, {"a": _WEIGHT}, state={"epoch": side}) for side in range(2))
    assert not first_difference(left, right, Tolerance()).within
    assert not compared(tmp_path / "b", {"a": _WEIGHT}, {"a": changed(_WEIGHT, (0, 0))}).within


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        ({"z": 1, "a": 2}, {"a": 2, "z": 1}, ["user.lots (order of keys)"]),
        ({"z": 1, "a": 2, "new": 0}, {"a": 3, "z": 1}, ["user.lots.a", "user.lots.new", "user.lots (order of keys)"]),
        ({"z": [{"b": 1, "a": 1}]}, {"z": [{"a": 1, "b": 1}]}, ["user.lots.z[0] (order of keys)"]),
        ({"$dict": [[10, "a"], [9, "b"]]}, {"$dict": [[9, "b"], [10, "a"]]}, ["user.lots (order of keys)"]),
        ({"$dict": [[10, "a"], ["10", "b"]]}, {"$dict": [[10, "a"], ["10", "c"]]}, ['user.lots["10"]']),
        ({"$dict": [[1]]}, {"$dict": [[2]]}, ["user.lots.$dict[0][0]"]),
    ],
)
def test_keys_in_another_order_differ_and_are_named(tmp_path: Path, left: Any, right: Any, said: list[str]) -> None:
    registry = LocalRegistry(tmp_path)
    one, other = (make(registry, {"a": _WEIGHT}, state={"user": {"lots": lots}}) for lots in (left, right))
    found = first_difference(one, other, Tolerance())
    assert str(found) == f"state.json:{said[0]}"
    assert found.divergence.state == said
    assert one.raw_state["user"]["lots"] == left and list(one.raw_state["user"]["lots"]) == list(left)


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("state", [{"epoch": 0}, {"epoch": 1}])
def test_a_file_that_is_kept_whole_is_never_within(tmp_path: Path, values: bool, state: dict[str, int]) -> None:
    registry = LocalRegistry(tmp_path)
    plain: dict[str, Tensor] = {"a": _WEIGHT}
    left = make(registry, plain, state={"epoch": 0}, files={"model.joblib": b"one", "other.joblib": b"same"})
    right = make(registry, plain, state=state, files={"model.joblib": b"two", "other.joblib": b"same"})
    lacking = make(registry, plain, state=state, files={"other.joblib": b"same"})
    nothing = "differs; nothing looks into it"
    for other, said in ((right, f"model.joblib, {nothing}"), (lacking, "model.joblib, only left")):
        found = first_difference(left, other, _HUGE, values=values)
        assert (str(found), found.divergence.shard, found.within) == (said, "model.joblib", False)
    files = {"model.joblib": b"two", "other.joblib": b"same"}
    near = make(registry, {"a": _WEIGHT + 1}, state={"epoch": 0}, files=files)
    beside = first_difference(left, near, _HUGE)
    assert (beside.divergence.tensor, beside.within) == ("a", False)
    assert str(beside).endswith(f"; beside it model.joblib, {nothing}")


@pytest.mark.parametrize("values", [False, True])
def test_weights_that_are_tied_otherwise_are_never_within(tmp_path: Path, values: bool) -> None:
    registry = LocalRegistry(tmp_path)
    plain: dict[str, Tensor] = {"a": _WEIGHT, "b": _WEIGHT + 1}
    left, right = (make(registry, plain, aliases={"head": name}) for name in "ab")
    found = first_difference(left, right, Tolerance(weights=WeightTolerance(atol=9.0)), values=values)
    assert str(found) == "model.safetensors.index.json, other names of tied weights"
    assert not found.within


def test_a_file_that_differs_in_its_arrays_is_judged_by_these(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)

    def estimator(head: bytes, value: float) -> Checkpoint:
        body = np.array([value]).tobytes()
        row = {"name": "coef", "dtype": "F64", "shape": [1], "offset": len(head), "nbytes": len(body)}
        files = files_of({}, files={"model.skops": head + body})
        changed = change_meta(files, "model.skops", lambda rows: rows.append({**row, "digest": hash_bytes(body).hex}))
        return store(registry, changed)

    near = Tolerance(weights=WeightTolerance(atol=0.5))
    found = first_difference(estimator(b"one", 1.0), estimator(b"one", 1.25), near)
    assert (found.divergence.tensor, found.within) == ("coef", True)
    assert not first_difference(estimator(b"one", 1.0), estimator(b"one", 2.0), near).within
    beside = first_difference(estimator(b"one", 1.0), estimator(b"two", 1.0), near)
    assert str(beside) == "model.skops:what is no array"
    assert not beside.within
    both = first_difference(estimator(b"one", 1.0), estimator(b"two", 1.25), near)
    assert str(both).endswith("; beside it model.skops:what is no array") and not both.within


def test_the_tensor_that_is_told_first_is_the_first_whatever_the_others_do(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    tensors = {name: np.arange(3.0) for name in "abc"}
    one = make(registry, tensors)
    tolerance = Tolerance(weights=WeightTolerance(atol=1.0))
    for change, within in (
        ({"a": tensors["a"] + 0.5, "b": tensors["b"] + 0.25}, True),
        ({"a": tensors["a"] + 0.5, "b": tensors["b"] + 2}, False),
        ({"a": tensors["a"] + 0.5, "b": tensors["b"].astype("<f4")}, False),
        ({"a": tensors["a"] + 2, "b": tensors["b"] + 0.5}, False),
    ):
        other = make(registry, {**tensors, **change})
        found = first_difference(one, other, tolerance)
        assert (found.divergence.tensor, found.count, found.within) == ("a", 2, within)
        unread = first_difference(one, other, tolerance, values=False)
        assert (unread.divergence.tensor, unread.divergence.elements, unread.within) == ("a", 3, False)


def test_what_cannot_be_subtracted_says_why(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    large = np.arange(512 * 1024, dtype="<f4")
    one = make(registry, {"w": np.ones(3)})
    for tensors, how in (
        ({"w": np.ones(3, "<f4")}, "F64 [3] → F32 [3]"),
        ({"w": np.ones((3, 1))}, "F64 [3] → F64 [3, 1]"),
        ({"v": np.ones(3)}, "renamed to v"),
        ({"v": np.zeros(3)}, "missing from the second of the two"),
    ):
        found = first_difference(one, make(registry, tensors), Tolerance())
        assert (found.divergence.tensor, found.divergence.how, found.within) == ("w", how, False)
        (row, *_) = compare_tensors(one, make(registry, tensors)).rows
        assert (row.renamed, row.right_dtype, row.right_shape) == (
            "v" if how == "renamed to v" else None,
            {"F64 [3] → F32 [3]": "F32", "F64 [3] → F64 [3, 1]": "F64"}.get(how),
            {"F64 [3] → F32 [3]": [3], "F64 [3] → F64 [3, 1]": [3, 1]}.get(how),
        )
    more = first_difference(make(registry, {}, state={"a": 1}), make(registry, {"w": np.ones(3)}), Tolerance())
    assert more.divergence.how == "missing from the first of the two"
    moved = make(registry, {"old": large}), make(registry, {"new": large})
    unread = first_difference(*moved, Tolerance(), values=False)
    assert unread.divergence.how == "missing from the second of the two, or renamed: its values were not read"
    assert first_difference(*moved, Tolerance()).divergence.how == "renamed to new"
