"""How far apart two tensors of one dtype and shape are, element by element. NumPy alone; no file is opened.

What is counted, and with which answer:

- Elements differ when their bits do. Equal bits are equal, whatever they mean: NaN equals the same NaN.
- NaN and NaN of another sign or payload: the bits differ, and no distance is said of them (`nan_both`).
- NaN and a number, an infinity and anything but itself: infinitely far apart (`nan_one`, `infinite`).
- +0 and −0: the bits differ, |Δ| is 0 and so is the ULP distance (`zeros`).
- The ULP distance is the number of steps of `nextafter` from one to the other, in the tensor's own dtype.
- Integers have an exact |Δ|, also beyond 2^53, and no ULP distance. Booleans that differ are 1 apart.
- Complex numbers are compared by their parts: |Δ| is that of one part, and the counts are of parts.
- Of another dtype or shape: no distance.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from reprokit.client.tensors import StoredArray

__all__ = ["Distance", "distance", "within_tolerance"]

_Array = npt.NDArray[Any]
_Wide = Callable[[_Array, _Array], _Array]
_CHUNK = 1 << 15  # units, an even number; what is computed of them stays in a core's cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """How two tensors differ.

    Attributes:
        elements, differing: How many there are, and how many of them differ in their bits.
        max_abs: Largest |Δ|, rounded once to float64; an int for integers and booleans. Infinite where a pair is
            infinitely far apart, or too far for float64.
        relative: |Δ| / |left| of the worst element; infinite if `left` is 0 there or |Δ| is; None for booleans.
        ulp: Largest ULP distance of any pair; None for integers and booleans, and where a pair is infinitely far apart.
        index: The worst element: that of `max_abs`, the first of equals. None if no bits differ.
        left, right: The two values there.
        nan_one, nan_both, infinite, zeros: Pairs, of those that differ, with one NaN, with two; with an infinity and no
            NaN; of +0 and −0.
    """

    elements: int
    differing: int = 0
    max_abs: float = 0
    relative: float | None = 0.0
    ulp: int | None = 0
    index: tuple[int, ...] | None = None
    left: bool | int | float | complex | None = None
    right: bool | int | float | complex | None = None
    nan_one: int = 0
    nan_both: int = 0
    infinite: int = 0
    zeros: int = 0


@np.errstate(invalid="ignore", over="ignore")
def distance(left: StoredArray, right: StoredArray) -> Distance | None:
    """Return how far apart two tensors are; None if their dtypes or shapes are not the same.

    Memory does not grow with the tensors.
    """
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return None
    kind = _KINDS[left.dtype]
    elements, is_bool = math.prod(left.shape), left.dtype == "BOOL"
    seen = _Seen()
    for chunk in _differing(left, right):
        seen.differing += chunk.elements(kind.parts)
        if kind.wide is None:
            seen.integers(chunk, is_bool=is_bool)
        else:
            seen.floats(chunk, kind.wide)
    apart = seen.nan_one + seen.infinite > 0
    at = None if seen.worst is None else seen.worst // kind.parts
    return Distance(
        elements=elements,
        differing=seen.differing,
        max_abs=seen.max_abs,
        relative=None if is_bool else _relative(seen.max_abs, left, seen.worst),
        ulp=None if kind.wide is None or apart else seen.ulp,
        index=None if at is None else tuple(int(i) for i in np.unravel_index(at, left.shape)),
        left=None if at is None else _value(left, at),
        right=None if at is None else _value(right, at),
        nan_one=seen.nan_one,
        nan_both=seen.nan_both,
        infinite=seen.infinite,
        zeros=seen.zeros,
    )


@np.errstate(invalid="ignore", over="ignore")
def within_tolerance(left: StoredArray, right: StoredArray, atol: float, rtol: float) -> bool:
    """True if |left − right| ≤ atol + rtol·|left| everywhere, computed in float64.

    Zero tolerance asks for equality of bits. Else NaN is within of NaN, an infinity of itself alone; integers and
    booleans must be equal; of complex numbers the absolute value counts. Another dtype or shape is not within.
    """
    if (left.dtype, left.shape) != (right.dtype, right.shape):
        return False
    kind = _KINDS[left.dtype]
    room = _Room()
    for chunk in _differing(left, right):
        if (atol == 0 and rtol == 0) or kind.wide is None:
            return False
        a, b = chunk.left, chunk.right
        if kind.parts == 2:  # both parts of every number
            a, b = (_units(side)[chunk.start : chunk.start + _CHUNK] for side in (left, right))
        x, y = kind.wide(a, room("x", len(a))), kind.wide(b, room("y", len(a)))
        if kind.parts == 2:
            x, y = x.view("<c16"), y.view("<c16")
        size = np.abs(np.subtract(x, y, out=room("Δ", len(x), x.dtype)), out=room("|Δ|", len(x)))
        allowed = np.abs(x, out=room("|x|", len(x)))
        allowed *= rtol
        allowed += atol
        near = size <= allowed
        near &= np.isfinite(x) & np.isfinite(y)
        near |= (x == y) | (np.isnan(x) & np.isnan(y))
        if not near.all():
            return False
    return True


# --------------------------------------------------------------------------------------------------- dtypes


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a dtype is read.

    Attributes:
        unit: NumPy's dtype of its bits; of one part of a complex number. Unsigned for what is not a signed integer.
        wide: Makes float64 of the bits of floats, without rounding, in the memory given or in that of the bits.
        parts: Units of one element.
    """

    unit: str
    wide: _Wide | None = None
    parts: int = 1


def _f64(bits: _Array, _: _Array) -> _Array:
    return bits.view("<f8")


def _f32(bits: _Array, out: _Array) -> _Array:
    out[:] = bits.view("<f4")
    return out


def _f16(bits: _Array, out: _Array) -> _Array:
    return np.take(_all_f16(), bits, out=out, mode="clip")


def _bf16(bits: _Array, out: _Array) -> _Array:
    return np.take(_all_bf16(), bits, out=out, mode="clip")


def _e4m3(bits: _Array, out: _Array) -> _Array:
    return np.take(_all_f8(4, 3, infinities=False), bits, out=out, mode="clip")


def _e5m2(bits: _Array, out: _Array) -> _Array:
    return np.take(_all_f8(5, 2, infinities=True), bits, out=out, mode="clip")


@functools.cache
def _all_f16() -> _Array:
    return np.arange(1 << 16, dtype="<u2").view("<f2").astype("<f8")


@functools.cache
def _all_bf16() -> _Array:
    return (np.arange(1 << 16, dtype="<u4") << 16).view("<f4").astype("<f8")


@functools.cache
def _all_f8(exponent_bits: int, mantissa_bits: int, *, infinities: bool) -> _Array:
    bias = 2 ** (exponent_bits - 1) - 1
    values = np.zeros(256)
    for bits in range(128):
        exponent, mantissa = divmod(bits, 2**mantissa_bits)
        step = 2.0 ** (max(exponent, 1) - bias - mantissa_bits)
        value = (mantissa + (2**mantissa_bits if exponent else 0)) * step
        if infinities and exponent == 2**exponent_bits - 1:
            value = math.nan if mantissa else math.inf
        elif not infinities and bits == 127:
            value = math.nan
        values[bits], values[bits + 128] = value, -value
    return values


_KINDS = {
    "F64": _Kind("<u8", _f64), "F32": _Kind("<u4", _f32), "F16": _Kind("<u2", _f16), "BF16": _Kind("<u2", _bf16),
    "F8_E4M3": _Kind("|u1", _e4m3), "F8_E5M2": _Kind("|u1", _e5m2), "C64": _Kind("<u4", _f32, parts=2),
    "I64": _Kind("<i8"), "I32": _Kind("<i4"), "I16": _Kind("<i2"), "I8": _Kind("|i1"),
    "U64": _Kind("<u8"), "U32": _Kind("<u4"), "U16": _Kind("<u2"), "U8": _Kind("|u1"), "BOOL": _Kind("|u1"),
}  # fmt: skip


def _units(stored: StoredArray) -> _Array:
    return np.frombuffer(stored.data, dtype=_KINDS[stored.dtype].unit)


def _value(stored: StoredArray, at: int) -> bool | int | float | complex:
    kind = _KINDS[stored.dtype]
    units = _units(stored)[at * kind.parts : (at + 1) * kind.parts]
    if kind.wide is None:
        return bool(units[0]) if stored.dtype == "BOOL" else int(units[0])
    values = [float(value) for value in kind.wide(units, np.empty(len(units)))]
    return complex(*values) if kind.parts == 2 else values[0]


def _relative(size: float, left: StoredArray, worst: int | None) -> float:
    if size == 0 or worst is None:
        return 0.0
    kind = _KINDS[left.dtype]
    unit = _units(left)[worst : worst + 1]
    base = int(unit[0]) if kind.wide is None else float(kind.wide(unit, np.empty(1))[0])
    return math.inf if base == 0 or math.isinf(size) else float(size / abs(base))


# --------------------------------------------------------------------------------------------------- chunks


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Units of two tensors, each pair different: all from `start` on, or those at `chosen`, counted from there."""

    start: int
    chosen: _Array | None
    left: _Array
    right: _Array

    def place(self, number: int) -> int:
        return self.start + (number if self.chosen is None else int(self.chosen[number]))

    def elements(self, parts: int) -> int:
        if parts == 1:
            return len(self.left)
        return len(self.left) // parts if self.chosen is None else len(np.unique(self.chosen // parts))


def _differing(left: StoredArray, right: StoredArray) -> Iterator[_Chunk]:
    ours, theirs = _units(left), _units(right)
    for start in range(0, len(ours), _CHUNK):
        a, b = ours[start : start + _CHUNK], theirs[start : start + _CHUNK]
        differ = a != b
        count = int(np.count_nonzero(differ))
        if count == len(a):
            yield _Chunk(start, None, a, b)
        elif count:
            chosen = np.flatnonzero(differ)
            yield _Chunk(start, chosen, a[chosen], b[chosen])


class _Room:
    """Memory for what is computed of a chunk, used again for the next: the kernel would take as long to give new."""

    def __init__(self) -> None:
        self._made: dict[tuple[str, str], _Array] = {}

    def __call__(self, use: str, count: int, dtype: npt.DTypeLike = "<f8") -> _Array:
        key = use, np.dtype(dtype).str
        if key not in self._made:
            self._made[key] = np.empty(_CHUNK, dtype)
        return self._made[key][:count]


@dataclass(slots=True)
class _Seen:
    """What was seen in the chunks so far; `worst` is a place among the units."""

    differing: int = 0
    max_abs: float = 0
    worst: int | None = None
    ulp: int = 0
    nan_one: int = 0
    nan_both: int = 0
    infinite: int = 0
    zeros: int = 0
    room: _Room = field(default_factory=_Room)

    def integers(self, chunk: _Chunk, *, is_bool: bool) -> None:
        if is_bool:
            self._worst(1, chunk, 0)
            return
        sizes = _apart(chunk.left, chunk.right, self.room)
        at = int(np.argmax(sizes))
        self._worst(int(sizes[at]), chunk, at)

    def floats(self, chunk: _Chunk, wide: _Wide) -> None:
        count = len(chunk.left)
        x, y = wide(chunk.left, self.room("x", count)), wide(chunk.right, self.room("y", count))
        sizes = np.subtract(x, y, out=self.room("|Δ|", count))
        np.abs(sizes, out=sizes)
        at = int(np.argmax(sizes))  # of NaN, if there is one
        a, b = chunk.left, chunk.right
        if not math.isfinite(sizes[at]):
            nan_x, nan_y = np.isnan(x), np.isnan(y)
            one, both = nan_x ^ nan_y, nan_x & nan_y
            infinite = (np.isinf(x) | np.isinf(y)) & ~one
            self.nan_one += int(np.count_nonzero(one))
            self.nan_both += int(np.count_nonzero(both))
            self.infinite += int(np.count_nonzero(infinite))
            sizes[one], sizes[both] = math.inf, 0
            at = int(np.argmax(sizes))
            numbers = ~(one | both | infinite)
            self.zeros -= int(np.count_nonzero(both))
            a, b = a[numbers], b[numbers]
        self.zeros += len(sizes) - int(np.count_nonzero(sizes))
        self._worst(float(sizes[at]), chunk, at)
        if len(a) and self.nan_one + self.infinite == 0:
            self.ulp = max(self.ulp, _ulps(a, b, self.room))

    def _worst(self, size: float, chunk: _Chunk, at: int) -> None:
        if self.worst is None or size > self.max_abs:
            self.max_abs, self.worst = size, chunk.place(at)


def _apart(left: _Array, right: _Array, room: _Room) -> _Array:
    """Return the exact |Δ| of integers: what wraps in a signed subtraction is right when read as unsigned."""
    greater = np.maximum(left, right, out=room("greater", len(left), left.dtype))
    less = np.minimum(left, right, out=room("less", len(left), left.dtype))
    return np.subtract(greater, less, out=greater).view(f"u{left.itemsize}")


def _ulps(left: _Array, right: _Array, room: _Room) -> int:
    """Return the greatest ULP distance of finite floats, given as their bits.

    Without the sign, bits are in the order of the values, and count the steps from 0. Two such counts fit into the
    dtype together, as no finite float has an exponent of ones alone (of E4M3, not all bits).
    """
    sign = left.dtype.type(1 << (8 * left.itemsize - 1))
    a = np.bitwise_and(left, ~sign, out=room("a", len(left), left.dtype))
    b = np.bitwise_and(right, ~sign, out=room("b", len(left), left.dtype))
    across = np.bitwise_xor(left, right, out=room("less", len(left), left.dtype)) >= sign
    if not across.any():
        return int(_apart(a, b, room).max())
    kind = f"<i{left.itemsize}"
    for bits, steps in ((left, a.view(kind)), (right, b.view(kind))):  # counted downwards below 0
        mask = np.right_shift(bits.view(kind), 8 * left.itemsize - 1, out=room("mask", len(left), kind))
        steps ^= mask
        steps -= mask
    return int(_apart(a.view(kind), b.view(kind), room).max())
