"""Distances of tensors against exact arithmetic, one element at a time."""

from __future__ import annotations

import math
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprokit.client.tensors import DTYPE_BYTES, StoredArray
from reprokit.comparison import tensor_distance as module
from reprokit.comparison.tensor_distance import Distance, distance, within_tolerance

# exponent bits, mantissa bits, and whether all ones in the exponent mean infinity and NaN (of E4M3: all ones in all)
FLOATS = {
    "F64": (11, 52, True), "F32": (8, 23, True), "F16": (5, 10, True), "BF16": (8, 7, True), "F8_E5M2": (5, 2, True),
    "F8_E4M3": (4, 3, False),
}  # fmt: skip
INTEGERS = ["I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8"]


def stored(dtype: str, bits: list[int], shape: tuple[int, ...] | None = None) -> StoredArray:
    size = DTYPE_BYTES[dtype]
    data = b"".join((value % (1 << (8 * size))).to_bytes(size, "little") for value in bits)
    return StoredArray(dtype, (len(bits),) if shape is None else shape, memoryview(data))


def f32(*values: float) -> StoredArray:
    return StoredArray("F32", (len(values),), memoryview(struct.pack(f"<{len(values)}f", *values)))


def f64(*values: float) -> StoredArray:
    return StoredArray("F64", (len(values),), memoryview(struct.pack(f"<{len(values)}d", *values)))


def exactly(dtype: str, bits: int) -> tuple[int, Fraction | str]:
    """Return a float's place in the order of its dtype's values, 0 for both zeros, and its value; or NaN, inf, -inf."""
    exponent_bits, mantissa_bits, infinities = FLOATS[dtype]
    sign, rest = divmod(bits, 1 << (exponent_bits + mantissa_bits))
    exponent, mantissa = divmod(rest, 1 << mantissa_bits)
    order = -rest if sign else rest
    if infinities and exponent == 2**exponent_bits - 1:
        return order, "nan" if mantissa else "-inf" if sign else "inf"
    if not infinities and rest == 2 ** (exponent_bits + mantissa_bits) - 1:
        return order, "nan"
    size = Fraction(mantissa + (1 << mantissa_bits if exponent else 0)) * Fraction(2) ** (
        max(exponent, 1) - (2 ** (exponent_bits - 1) - 1) - mantissa_bits
    )
    return order, -size if sign else size


def rounded(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def expected(dtype: str, left: list[int], right: list[int]) -> dict[str, Any]:
    """Return what `distance` must say of floats given as their bits, from fractions."""
    sizes: dict[int, float] = {}
    steps = [0]
    counts = dict.fromkeys(("nan_one", "nan_both", "infinite", "zeros"), 0)
    for at, (a, b) in enumerate(zip(left, right, strict=True)):
        if a == b:
            continue
        (place, x), (other, y) = exactly(dtype, a), exactly(dtype, b)
        sizes[at] = math.inf
        if x == "nan" or y == "nan":
            counts["nan_both" if x == y else "nan_one"] += 1
            sizes[at] = 0.0 if x == y else math.inf
        elif isinstance(x, str) or isinstance(y, str):
            counts["infinite"] += 1
        else:
            sizes[at] = rounded(abs(x - y))
            steps.append(abs(place - other))
            counts["zeros"] += x == y
    worst = min(sizes, key=lambda at: (-sizes[at], at)) if sizes else None
    apart = counts["nan_one"] + counts["infinite"] > 0
    return counts | {
        "elements": len(left),
        "differing": len(sizes),
        "max_abs": 0 if worst is None else sizes[worst],
        "ulp": None if apart else max(steps),
        "index": None if worst is None else (worst,),
    }


def said(found: Distance | None) -> dict[str, Any]:
    assert found is not None
    keys = ("elements", "differing", "max_abs", "ulp", "index", "nan_one", "nan_both", "infinite", "zeros")
    return {key: getattr(found, key) for key in keys}


@st.composite
def pairs_of_bits(draw: st.DrawFn, dtype: str) -> tuple[list[int], list[int]]:
    width = 8 * DTYPE_BYTES[dtype]
    exponent_bits, mantissa_bits, _ = FLOATS[dtype]
    sign, top = 1 << (width - 1), (2**exponent_bits - 1) << mantissa_bits
    special = [0, sign, 1, sign | 1, top, sign | top, top - 1, top | 1, sign | top | 1, 2 * sign - 1, sign - 1]
    one = st.sampled_from(special) | st.integers(0, 2**width - 1)
    near = st.tuples(one, st.integers(-3, 3)).map(lambda pair: (pair[0], (pair[0] + pair[1]) % 2**width))
    pairs = draw(st.lists(st.tuples(one, one) | near | one.map(lambda bits: (bits, bits)), max_size=20))
    return [a for a, _ in pairs], [b for _, b in pairs]


@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=50)
@given(data=st.data())
def test_distances_of_floats_are_those_of_exact_arithmetic(dtype: str, data: st.DataObject) -> None:
    left, right = data.draw(pairs_of_bits(dtype))
    chunk = data.draw(st.sampled_from([1, 2, 3, 64]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)  # so that few elements have many borders
        assert said(distance(stored(dtype, left), stored(dtype, right))) == expected(dtype, left, right)


@pytest.mark.parametrize("dtype", FLOATS)
@settings(max_examples=50)
@given(data=st.data())
def test_tolerance_is_that_of_the_formula_in_float64(dtype: str, data: st.DataObject) -> None:
    left, right = data.draw(pairs_of_bits(dtype))
    values = [(exactly(dtype, a)[1], exactly(dtype, b)[1]) for a, b in zip(left, right, strict=True)]
    apart = {rounded(abs(x - y)) for x, y in values if not isinstance(x, str) and not isinstance(y, str)}
    limits = [one for size in sorted(apart - {math.inf}) for one in (math.nextafter(size, 0), size)]
    atol = data.draw(st.sampled_from([0.0, 1e-3, 1.0, *limits]))  # that of a pair, or just too little for it
    rtol = data.draw(st.sampled_from([0.0, 1e-6, 0.5]))

    def near(a: int, b: int) -> bool:
        x, y = exactly(dtype, a)[1], exactly(dtype, b)[1]
        if a == b or atol == rtol == 0:
            return a == b
        if isinstance(x, str) or isinstance(y, str):
            return x == y
        if rounded(abs(x)) * rtol + atol == math.inf:
            return True
        return rounded(abs(x - y)) <= atol + rtol * float(abs(x))

    wanted = all(near(a, b) for a, b in zip(left, right, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", data.draw(st.sampled_from([1, 2, 3, 64])))
        assert within_tolerance(stored(dtype, left), stored(dtype, right), atol, rtol) == wanted


def test_the_tolerance_itself_is_within_and_is_relative_to_the_left() -> None:
    def near(left: float, right: float, atol: float, rtol: float) -> bool:
        one, other = (StoredArray("F64", (1,), memoryview(np.array([x]).tobytes())) for x in (left, right))
        return within_tolerance(one, other, atol, rtol)

    assert near(1.0, 1.25, 0.25, 0.0) and near(1.25, 1.0, 0.25, 0.0)
    assert not near(1.0, 1.25 + 2**-50, 0.25, 0.0)
    assert near(4.0, 2.0, 0.0, 0.5) and not near(2.0, 4.0, 0.0, 0.5), "2 is half of 4, and all of 2"
    assert near(-4.0, -2.0, 0.0, 0.5) and near(4.0, 1.5, 0.5, 0.5) and not near(4.0, 1.5 - 2**-50, 0.5, 0.5)


@pytest.mark.parametrize("dtype", INTEGERS)
@settings(max_examples=50)
@given(data=st.data())
def test_distances_of_integers_are_exact(dtype: str, data: st.DataObject) -> None:
    width = 8 * DTYPE_BYTES[dtype]
    low = -(1 << (width - 1)) if dtype[0] == "I" else 0
    one = st.sampled_from([low, low + 2**width - 1]) | st.integers(low, low + 2**width - 1)
    pairs = data.draw(st.lists(st.tuples(one, one) | one.map(lambda value: (value, value)), min_size=1, max_size=9))
    sizes = [abs(a - b) for a, b in pairs]
    worst = sizes.index(max(sizes))
    found = distance(stored(dtype, [a for a, _ in pairs]), stored(dtype, [b for _, b in pairs]))
    assert found is not None
    assert (found.max_abs, type(found.max_abs), found.ulp) == (max(sizes), int, None) or sizes[worst] == 0
    assert found.differing == sum(size > 0 for size in sizes)
    if sizes[worst]:
        assert (found.index, found.left, found.right) == ((worst,), *pairs[worst])
        assert found.relative == (max(sizes) / abs(pairs[worst][0]) if pairs[worst][0] else math.inf)


@settings(max_examples=200)
@given(value=st.floats(allow_nan=False, allow_infinity=False), steps=st.integers(0, 50))
def test_ulps_are_steps_of_nextafter(value: float, steps: int) -> None:
    after = value
    for _ in range(steps):
        after = math.nextafter(after, math.inf)
    if math.isfinite(after):
        found = distance(f64(value), f64(after))
        assert found is not None and found.ulp == steps


def test_ulps_are_counted_across_zero_and_all_the_way() -> None:
    tiny, most = 5e-324, 1.7976931348623157e308
    assert distance(f64(-tiny), f64(tiny)).ulp == 2  # type: ignore[union-attr]
    whole = distance(f64(-most), f64(most))
    assert whole is not None and whole.ulp == 2 * (0x7FF0_0000_0000_0000 - 1)
    assert (whole.max_abs, whole.infinite) == (math.inf, 0)  # 2 × the largest is too far for float64


@pytest.mark.parametrize(
    ("left", "right", "answer"),
    [
        (f32(math.nan), f32(math.nan), {"differing": 0, "nan_both": 0, "max_abs": 0, "ulp": 0, "index": None}),
        (stored("F32", [0x7FC00000]), stored("F32", [0xFFC00001]),
         {"differing": 1, "nan_both": 1, "max_abs": 0, "ulp": 0}),
        (f32(1, math.nan), f32(1, 2),
         {"nan_one": 1, "max_abs": math.inf, "relative": math.inf, "ulp": None, "index": (1,)}),
        (f32(0.0), f32(-0.0), {"differing": 1, "zeros": 1, "max_abs": 0, "relative": 0, "ulp": 0, "index": (0,)}),
        (f32(math.inf), f32(math.inf), {"differing": 0, "infinite": 0}),
        (f32(math.inf), f32(-math.inf), {"infinite": 1, "max_abs": math.inf, "ulp": None}),
        (f32(3e38), f32(math.inf), {"infinite": 1, "max_abs": math.inf, "relative": math.inf, "ulp": None}),
        (f32(math.inf), f32(math.nan), {"infinite": 0, "nan_one": 1, "max_abs": math.inf}),
        (f32(0, 8), f32(2, 6), {"max_abs": 2, "relative": math.inf, "index": (0,), "left": 0, "right": 2}),
        (f32(), f32(), {"elements": 0, "differing": 0, "max_abs": 0, "ulp": 0, "index": None, "left": None}),
        (stored("I32", [], (0, 4)), stored("I32", [], (0, 4)),
         {"elements": 0, "max_abs": 0, "ulp": None, "index": None}),
        (stored("I64", [2**53], ()), stored("I64", [2**53 + 1], ()), {"max_abs": 1, "index": (), "right": 2**53 + 1}),
        (stored("BOOL", [0, 1, 1]), stored("BOOL", [1, 1, 0]),
         {"differing": 2, "max_abs": 1, "relative": None, "ulp": None, "index": (0,), "left": False, "right": True}),
        (stored("BOOL", [1, 0]), stored("BOOL", [1, 255]),  # any byte but 0 is true
         {"differing": 1, "max_abs": 1, "index": (1,), "left": False, "right": True}),
    ],
)  # fmt: skip
def test_every_special_value_has_its_answer(left: StoredArray, right: StoredArray, answer: dict[str, Any]) -> None:
    found = distance(left, right)
    assert {key: getattr(found, key) for key in answer} == answer


def test_other_dtypes_and_shapes_have_no_distance() -> None:
    zeros = [0] * 6
    assert distance(stored("I32", zeros), stored("U32", zeros)) is None
    assert distance(stored("I32", zeros, (2, 3)), stored("I32", zeros, (3, 2))) is None
    assert not within_tolerance(stored("F16", zeros), stored("BF16", zeros), 1.0, 1.0)


def test_complex_numbers_are_compared_by_their_parts() -> None:
    ours = np.array([[1 + 2j, 3 + 4j], [5 + 6j, 7]], "<c8")
    theirs = np.array([[1 + 2j, 3 + 4j], [5.5 + 6.25j, 7 + 1e-3j]], "<c8")
    left, right = (StoredArray("C64", (2, 2), memoryview(a.tobytes())) for a in (ours, theirs))
    found = distance(left, right)
    assert found is not None
    assert (found.elements, found.differing, found.max_abs, found.relative) == (4, 2, 0.5, 0.1)
    assert (found.index, found.left, found.right) == ((1, 0), 5 + 6j, 5.5 + 6.25j)
    assert within_tolerance(left, right, 0.56, 0) and not within_tolerance(left, right, 0.55, 0)  # |0.5 + 0.25j|
    assert within_tolerance(left, right, 0, 0.1) and not within_tolerance(left, right, 0, 0.01)


def test_complex_numbers_are_compared_across_the_borders_of_chunks() -> None:
    ours = np.random.default_rng(1).standard_normal(200_002).astype("<f4").view("<c8")
    theirs = ours.copy()
    theirs[[16383, 16384]] += np.array([1, 2j], "<c8")
    left = StoredArray("C64", ours.shape, memoryview(ours.tobytes()))
    right = StoredArray("C64", ours.shape, memoryview(b"..." + theirs.tobytes())[3:])  # no aligned memory
    found = distance(left, right)
    assert found is not None
    assert (found.differing, found.index, found.right) == (2, (16384,), complex(theirs[16384]))
    assert within_tolerance(left, right, 2.0001, 0) and not within_tolerance(left, right, 1.9999, 0)


def test_integers_and_booleans_are_within_no_tolerance_unless_equal() -> None:
    assert within_tolerance(stored("I8", [1]), stored("I8", [1]), 5.0, 5.0)
    assert not within_tolerance(stored("I8", [1]), stored("I8", [2]), 5.0, 5.0)
    assert not within_tolerance(stored("BOOL", [0]), stored("BOOL", [1]), 5.0, 5.0)


@pytest.mark.parametrize("at", [0, 1, 32767, 32768, 65535, 65536, 69999])
def test_one_element_is_found_wherever_it_is(at: int) -> None:
    left = np.random.default_rng(5).standard_normal((7, 10_000)).astype("<f4")
    right = left.copy()
    right.flat[at] = np.nextafter(left.flat[at], np.float32(9))
    found = distance(*(StoredArray("F32", a.shape, memoryview(a.tobytes())) for a in (left, right)))
    assert found is not None
    assert (found.elements, found.differing, found.ulp) == (70_000, 1, 1)
    assert found.index == divmod(at, 10_000)
    assert found.max_abs == abs(float(left.flat[at]) - float(right.flat[at]))


def test_complex_numbers_that_all_differ_are_counted_once_each() -> None:
    one, other = np.array([1 + 1j, 2 + 2j], "<c8"), np.array([2 + 2j, 3 + 3j], "<c8")
    sides = [StoredArray("C64", (2,), memoryview(side.tobytes())) for side in (one, other)]
    found = distance(*sides)
    assert found is not None and (found.elements, found.differing, found.max_abs) == (2, 2, 1.0)
