"""What is said of the first tensor in which two stored checkpoints differ."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from reprokit.comparison.checkpoint_diff import Difference, first_difference
from reprokit.registry.local import LocalRegistry
from reprokit.schema.recipe import Tolerance, WeightTolerance
from tests.checkpoint.making import Tensor, make

_WEIGHT = np.arange(640, dtype="<f4").reshape(10, 64)
_LARGE = np.arange(512 * 1024, dtype="<f4").reshape(512, 1024)  # a file of its own, whose header has its name


def compared(
    base: Path, left: dict[str, Tensor], right: dict[str, Tensor], atol: float = 0.0, rtol: float = 0.0
) -> Difference:
    registry = LocalRegistry(base)
    made = [make(registry, tensors, state={"side": side}) for side, tensors in enumerate((left, right))]
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
    assert str(found) == "b [512, 1024] (and 4 more)"  # c; gone, now come; large and big, whose files have the name
    assert (found.divergence.elements, found.divergence.differing, found.divergence.ulp) == (512 * 1024, None, None)
    assert not found.within
    assert str(first_difference(left, renamed, Tolerance(), values=False)) == "gone [64], renamed to come"
    assert str(first_difference(renamed, state, Tolerance(), values=False)) == "state.json"
