"""State as JSON: what goes in comes out, of the same types; what is not of its making is refused."""

from __future__ import annotations

import enum
import json
import math
import random
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprokit.client.plain import from_json, strict_json, to_json
from reprokit.core.canonical_json import canonical

_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(max_size=40),
    st.integers(-(2**63), 2**63 - 1).map(np.int64), st.floats(width=32).map(np.float32), st.floats().map(np.float64),
    st.booleans().map(np.bool_),
)  # fmt: skip
_KEYS = st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.text(max_size=8), st.binary(max_size=4))
_ARRAYS = st.builds(
    lambda kind, shape, seed: np.random.default_rng(seed).integers(0, 100, shape).astype(kind),
    st.sampled_from(["<f8", ">f4", "<i2", "|u1", "|b1", "<c16", "<U3", "|S4", "<M8[D]", "<m8[ns]"]),
    st.lists(st.integers(0, 3), max_size=3).map(tuple), st.integers(0, 9),
)  # fmt: skip
_VALUES = st.recursive(
    st.one_of(_SCALARS, _ARRAYS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(inner, max_size=4).map(tuple), st.dictionaries(_KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def _no_tensor(name: str, kind: str) -> Any:
    raise AssertionError(f"no tensor was stored, and {name} of kind {kind} was asked for")


def _through(value: Any) -> Any:
    return from_json(strict_json(canonical(to_json(value, "x"))), tensor=_no_tensor)


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        ours, theirs = ({repr(key): (key, value) for key, value in each.items()} for each in (one, other))
        return ours.keys() == theirs.keys() and all(_same(ours[key], theirs[key]) for key in ours)
    if isinstance(one, (float, np.floating)):
        return np.float64(one).tobytes() == np.float64(other).tobytes() or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


@settings(max_examples=300, deadline=None)
@given(_VALUES)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert _same(_through(value), value)


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["$tuple", "$dict", "$bytes", "$float", "$array", "$scalar", "$tensor", "$x", "a",
                                 "dtype", "shape", "data", "name", "kind"]),
                inner, max_size=3,
            ),
        ),
        max_leaves=10,
    )
)  # fmt: skip
def test_no_json_does_more_than_be_refused(value: Any) -> None:
    try:
        from_json(value, tensor=lambda name, kind: (name, kind))
    except ValueError as error:
        assert "state.json" in str(error)


def test_generators_go_on_where_they_were() -> None:
    generator = np.random.Generator(np.random.PCG64(3))
    generator.random(5)
    again = np.random.Generator(np.random.PCG64(0))
    again.bit_generator.state = _through(generator.bit_generator.state)
    assert again.random(9).tolist() == generator.random(9).tolist()
    other = random.Random(1)
    other.setstate(_through(random.getstate()))
    assert other.random() == random.random()


def test_what_is_a_plain_type_below_comes_back_as_that() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    class Size(str, enum.Enum):  # noqa: UP042 - str() of one is its name
        BIG = "big"

    Pair = namedtuple("Pair", "a b")
    assert _same(_through([Size.BIG, enum.IntEnum("Count", "ONE")(1)]), ["big", 1])
    assert _same(_through({Colour.RED: Colour.RED}), {"red": "red"})
    assert _same(_through(Pair(1, OrderedDict(x=2))), (1, {"x": 2}))
    assert _same(_through(np.str_("x\0")), "x\0")
    assert _same(_through(bytearray(b"x")), b"x")


def test_as_deep_as_it_writes_it_reads() -> None:
    value: Any = 1
    for level in range(48):
        value = [value] if level % 3 == 0 else (value,) if level % 3 == 1 else {(1, level): value}
    assert _same(_through(value), value)
    with pytest.raises(TypeError, match=r"x.* nests deeper than 48 levels"):
        to_json([value], "x")


class _Unknown:
    pass


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"a": [_Unknown()]}, "x.a[0] is a tests.client.test_plain._Unknown, which cannot be stored"),
        ({1, 2}, "x is a builtins.set, which cannot be stored"),
        (1j, "x is a builtins.complex, which cannot be stored"),
        (len, "x is a builtins.builtin_function_or_method, which cannot be stored"),
        (np.array([None]), "x is a numpy.ndarray, which cannot be stored"),
        (np.zeros(2, "i4,i4"), "x is a ndarray of dtype [('f0', '<i4'), ('f1', '<i4')], which cannot be stored"),
        (np.ma.masked_array([1, 2], [True, False]), "x is a MaskedArray of dtype int64, which cannot be stored"),
        (np.eye(2).view(np.matrix), "x is a matrix of dtype float64, which cannot be stored"),
        (np.array(["2020"], "M8[25s]"), "x is a ndarray of dtype datetime64[25s], which cannot be stored"),
        pytest.param(10**5000, "x has more than 14,000 bits", id="huge"),
        ({2**61: 1}, "x has the key 2305843009213693952, which cannot be stored in a checkpoint: it is too large"),
    ],
)
def test_what_has_no_faithful_form_is_refused_by_name(value: Any, why: str) -> None:
    with pytest.raises(TypeError) as caught:
        to_json(value, "x")
    assert str(caught.value).startswith(f"reprokit: {why}")


def _array(dtype: Any = "<f8", shape: Any = (1,), data: Any = "AAAAAAAAAAA=") -> dict[str, Any]:
    return {"$array": {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data": data}}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"$what": 1}, "holds a '$what', which this reprokit does not know"),
        ({"$tuple": [], "a": 1}, "holds a '$tuple', which this reprokit does not know"),
        ({"a": 1, "$dict": []}, "holds a '$dict', which this reprokit does not know"),
        ({"$tuple": "abc"}, "malformed $tuple: a list is expected, not a str"),
        ({"$tuple": {"$tuple": []}}, "malformed $tuple: a list is expected, not a dict"),
        ({"$dict": ["ab"]}, "malformed $dict: a list is expected, not a str"),
        ({"$dict": {"a": 1}}, "malformed $dict: a list is expected, not a dict"),
        ({"$dict": [[1]]}, "malformed $dict: not enough values to unpack"),
        ({"$dict": [[[1], 2]]}, "malformed $dict: unhashable type: 'list'"),
        ({"$dict": [[{}, 2]]}, "malformed $dict: unhashable type: 'dict'"),
        ({"$dict": [[{"$tuple": [[1]]}, 2]]}, "malformed $dict: unhashable type: 'list'"),
        ({"$dict": [[_array(), 2]]}, "malformed $dict: unhashable type: 'numpy.ndarray'"),
        ({"$dict": [[1, 2], [True, 3]]}, "malformed $dict: the key True stands twice"),
        ({"$dict": [[2**61 - 1, 2]]}, "malformed $dict: a key is too large"),
        ({"$bytes": 1}, "malformed $bytes: a str is expected, not a int"),
        ({"$bytes": "A"}, "malformed $bytes"),
        ({"$bytes": "é=="}, "malformed $bytes"),
        ({"$float": "1e5"}, "malformed $float"),
        ({"$float": ["nan"]}, "malformed $float"),
        ({"$tensor": {"name": "a"}}, "malformed $tensor: it has no name and kind"),
        ({"$tensor": []}, "malformed $tensor"),
        ({"$tensor": {"name": ["a"], "kind": "k"}}, "malformed $tensor: a str is expected, not a list"),
        (_array("|O8"), "malformed $array: the dtype '|O8' is not one that state.json holds"),
        (_array("O"), "malformed $array: the dtype 'O' is not one"),
        (_array("<f8,<f8"), "malformed $array: the dtype '<f8,<f8' is not one"),
        (_array("|V8"), "malformed $array: the dtype '|V8' is not one"),
        (_array("<f3"), "malformed $array"),
        (_array("<f8\n"), "malformed $array: the dtype '<f8\\n' is not one"),
        (_array("|S0"), "malformed $array: itemsize cannot be zero in type"),
        (_array(["<f8"]), "malformed $array"),
        (_array(shape=(2,)), "malformed $array: cannot reshape array of size 1 into shape (2,)"),
        (_array(shape=(-1,)), "malformed $array: its shape is not a list of lengths"),
        (_array(shape=(True,)), "malformed $array: its shape is not a list of lengths"),
        (_array(shape=(1.0,)), "malformed $array: its shape is not a list of lengths"),
        (_array(shape="1"), "malformed $array: a list is expected, not a str"),
        (_array(shape=(0, 10**30), data=""), "malformed $array"),
        (_array(shape=(1,) * 70), "malformed $array"),
        (_array(data="AAAA"), "malformed $array: buffer size must be a multiple of element size"),
        (_array(data=None), "malformed $array: a str is expected, not a NoneType"),
        (_array("<U1", data="////fw=="), "malformed $array: it holds what is no character"),
        ({"$scalar": {"dtype": "<f8", "data": ""}}, "malformed $scalar"),
        ({"$scalar": {"dtype": "<f4", "data": "AAAAAAAAAAA="}}, "malformed $scalar"),
        ({"$array": {"dtype": "<f8"}}, "malformed $array"),
        ({"$array": "<f8"}, "malformed $array"),
    ],
)
def test_what_is_not_of_its_making_is_refused_by_name(value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=r"^state\.json holds a ") as caught:
        from_json({"deep": [value]}, tensor=_no_tensor)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 400


def test_depth_is_bounded_in_reading_too() -> None:
    value: Any = 1
    for _ in range(60):
        value = {"$tuple": [value]}
    with pytest.raises(ValueError, match=r"state\.json nests too deeply"):
        from_json(value, tensor=_no_tensor)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[NaN]", "NaN is not JSON"),
        (b"[Infinity]", "Infinity is not JSON"),
        (b'{"a": 1, "a": 2}', "a key stands twice in one object"),
        (b"[" * 100_000, "it nests too deeply"),
        (b"\xff", "codec can't decode"),
        ("[1]".encode("utf-16"), "codec can't decode"),
        (b"[1" + b"0" * 5000 + b"]", "Exceeds the limit"),
        (b"", "Expecting value"),
    ],
)
def test_strict_json_has_one_reading(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        strict_json(data)


def test_json_that_is_strict_is_read() -> None:
    assert strict_json(json.dumps({"a": [1, 2.5, None, "é"]}, ensure_ascii=False).encode()) == {
        "a": [1, 2.5, None, "é"]
    }
