"""Each piece that a pickled array is made of: what it may be, and that anything else is refused."""

from __future__ import annotations

import collections
import json
import pickle
from typing import Any

import numpy as np
import pytest

from reprokit.checkpoint.safe_pickle import arrays
from reprokit.checkpoint.safe_pickle.arrays import (
    MalformedPickle,
    PendingDtype,
    count_of,
    dtype_of,
    empty_array,
    fill,
    from_buffer,
    pending_dtype,
    ready,
    scalar,
    told,
)
from reprokit.checkpoint.safe_pickle.load import load_pickled
from reprokit.errors import DataMismatchError, RefusedError

F8, OBJECT, VOID = np.dtype("<f8"), np.dtype("O"), np.dtype("V0")


def test_what_is_told_of_something_is_short_and_never_its_own_words() -> None:
    assert told("x" * 90) == repr("x" * 80)
    assert told(dict) == "builtins.dict"
    assert told(json.dumps) == "json.dumps"
    assert told(3) == "builtins.int"
    assert told(json.JSONDecoder()) == "json.decoder.JSONDecoder"
    assert len(told(type("x" * 200, (), {}))) == 80


@pytest.mark.parametrize("spec", ["f8", "?", "O8", "U3", "S", "V2", "M8", "i", "g", "f999999999"])
def test_a_dtype_is_a_letter_and_a_size(spec: str) -> None:
    assert pending_dtype(spec, False, True).spec == spec
    assert ready(PendingDtype("f4")) == np.dtype("f4") and ready(F8) is F8


@pytest.mark.parametrize("spec", ["", "f8,f8", "<f8", "x4", "f8 ", "f1234567890", 8, None, ["f8"], b"f8", F8])
def test_what_else_a_dtype_is_made_of_is_refused(spec: Any) -> None:
    with pytest.raises(MalformedPickle, match="it has the dtype "):
        pending_dtype(spec)
    with pytest.raises(MalformedPickle, match="an array has no dtype"):
        ready(spec if not isinstance(spec, np.dtype) else "f8")


def made(spec: str, *state: Any) -> np.dtype[Any]:
    return dtype_of(PendingDtype(spec), state)


ORDER = (None, None, None, -1, -1, 0)


@pytest.mark.parametrize(
    ("spec", "state", "dtype"),
    [
        ("f8", (3, "<", *ORDER), "<f8"),
        ("f8", (3, ">", *ORDER), ">f8"),
        ("f8", (3, "|", *ORDER), "f8"),
        ("f8", (3, "=", *ORDER), "f8"),
        ("U3", (3, ">", *ORDER), ">U3"),
        ("M8", (4, "<", *ORDER, ({}, (b"ns", 1, 1, 1))), "<M8[ns]"),
        ("m8", (4, ">", *ORDER, ({}, (b"D", 7, 1, 1))), ">m8[7D]"),
        ("f8", (4, "<", *ORDER, ({}, (b"ns", 1, 1, 1))), "<f8"),
        ("M8", (4, "<", *ORDER, None), "<M8"),
        ("V16", (3, "|", (F8, (2,)), None, None, 16, 1, 0), (F8, (2,))),
        ("V16", (3, "|", None, ("a", "b"), {"a": (F8, 0), "b": (np.dtype("<f4"), 8)}, 16, 1, 0),
         {"names": ["a", "b"], "formats": ["<f8", "<f4"], "offsets": [0, 8], "itemsize": 16}),
        ("V8", (3, "|", None, ("a",), {"a": (PendingDtype("f8"), 0)}, 8, 1, 0), [("a", "f8")]),
    ],
)  # fmt: skip
def test_a_dtype_is_what_its_state_says(spec: str, state: tuple[Any, ...], dtype: Any) -> None:
    assert made(spec, *state) == np.dtype(dtype)


def test_a_dtype_of_no_items_is_one_of_nothing() -> None:
    assert made("V8", 3, "|", (F8, (0,)), None, None, 0, 1, 0) == VOID


@pytest.mark.parametrize(
    "state",
    [
        [3, "<", *ORDER],
        (3, "<", *ORDER[1:]),
        (3, "<", *ORDER, None, None),
        (3, "!", *ORDER),
        (3, None, *ORDER),
        None,
        (3, "|", None, ["a"], {"a": (F8, 0)}, 8, 1, 0),
        (3, "|", None, ("a", 1), {"a": (F8, 0), 1: (F8, 0)}, 8, 1, 0),
        (3, "|", None, ("a",), [("a", F8)], 8, 1, 0),
        (3, "|", None, ("a",), {"b": (F8, 0)}, 8, 1, 0),
        (3, "|", None, ("a",), {"a": (F8, 0), "b": (F8, 8)}, 16, 1, 0),
        (3, "|", None, ("a",), {"a": (F8, 0)}, 8.0, 1, 0),
        (3, "|", None, ("a",), {"a": (F8, 0.0)}, 8, 1, 0),
        (3, "|", None, ("a", "b"), {"a": (F8, 0), "b": (F8, "8")}, 16, 1, 0),
        (3, "|", None, ("a",), {"a": (OBJECT, 0)}, 8, 1, 0),
        (3, "|", None, ("a",), {"a": ("f8", 0)}, 8, 1, 0),
        (3, "|", ("f8", (2,)), None, None, 16, 1, 0),
        (3, "|", (F8, [2]), None, None, 16, 1, 0),
    ],
)
def test_another_state_of_a_dtype_is_refused(state: Any) -> None:
    with pytest.raises(MalformedPickle):
        dtype_of(PendingDtype("V8"), state)


@pytest.mark.parametrize("unit", [(b"ns]", 1), (b"", 1), (b"x" * 8, 1), (b"ns", 1.0), (b"ns", True), (b"1", 1)])
def test_a_unit_of_time_is_letters_and_a_number(unit: tuple[bytes, Any]) -> None:
    with pytest.raises(MalformedPickle, match="a dtype has a malformed unit"):
        made("M8", 4, "<", *ORDER, ({}, (*unit, 1, 1)))


def test_items_have_a_size_that_memory_bears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "_MAX_ITEM", 16)
    assert made("V16", 3, "|", *ORDER).itemsize == 16
    with pytest.raises(MalformedPickle, match="items that are too large"):
        made("V17", 3, "|", *ORDER)
    with pytest.raises(MalformedPickle, match="claims 17 items"):
        made("V17", 3, "|", (np.dtype("u1"), (17,)), None, None, 17, 1, 0)


@pytest.mark.parametrize(
    ("shape", "room", "count"),
    [((), 1, 1), ((3,), 3, 3), ((2, 3), 6, 6), ((0, 5), 0, 0), ((1,) * 32, 1, 1), ((0, 2**48 - 1), 0, 0)],
)
def test_a_shape_has_so_many_items(shape: tuple[int, ...], room: int, count: int) -> None:
    assert count_of(shape, room) == count


@pytest.mark.parametrize(
    ("shape", "room"),
    [
        ([3], 9), ((3.0,), 9), ((True,), 9), ((-1,), 9), ((1,) * 33, 9), ((0, 2**48), 9), ((4,), 3), ((2, 3), 5),
        (3, 9), (None, 9), (("3",), 9),
    ],
)  # fmt: skip
def test_no_shape_has_more_items_than_there_are_bytes(shape: Any, room: int) -> None:
    with pytest.raises(MalformedPickle):
        count_of(shape, room)


def test_an_array_begins_as_none() -> None:
    assert empty_array(np.ndarray, (0,), b"b").shape == (0,)
    for kind, shape in ((np.memmap, (0,)), (list, (0,)), (np.ndarray, (1,)), (np.ndarray, [0]), (np.ndarray, (0, 0))):
        with pytest.raises(MalformedPickle, match="it makes an array of the type "):
            empty_array(kind, shape, b"b")


def filled(shape: Any, dtype: Any, fortran: Any, raw: Any, room: int = 99) -> Any:
    array = empty_array(np.ndarray, (0,), b"b")
    return fill(array, (1, shape, dtype, fortran, raw), room), array.tolist()


def test_an_array_is_filled_with_what_its_shape_takes() -> None:
    data = np.arange(6.0)
    assert filled((6,), F8, False, data.tobytes()) == (48, data.tolist())
    assert filled((2, 3), F8, False, data.tobytes()) == (48, data.reshape(2, 3).tolist())
    assert filled((2, 3), F8, True, data.tobytes()) == (48, data.reshape(2, 3, order="F").tolist())
    assert filled((6,), PendingDtype("f8"), 0, data.tobytes()) == (48, data.tolist())
    assert filled((2,), OBJECT, False, [None, "a"]) == (2, [None, "a"])
    for shape, dtype, raw in (
        ((6,), F8, data.tobytes()[:-1]), ((6,), F8, data.tobytes() + b"x"), ((6,), F8, list(data)),
        ((6,), F8, memoryview(data.tobytes())), ((2,), OBJECT, [None]), ((2,), OBJECT, (None, None)),
        ((2,), OBJECT, bytes(16)),
    ):  # fmt: skip
        with pytest.raises(MalformedPickle, match="an array is not as long as its shape says"):
            filled(shape, dtype, False, raw)
    with pytest.raises(MalformedPickle, match="claims 6 items"):
        filled((6,), F8, False, data.tobytes(), 5)


def test_a_scalar_has_the_bytes_of_its_dtype() -> None:
    assert scalar(F8, np.float64(1.5).tobytes()) == 1.5
    assert scalar(PendingDtype("f4"), bytearray(np.float32(1.5).tobytes())) == np.float32(1.5)
    for dtype, raw in ((F8, bytes(7)), (F8, bytes(9)), (F8, [0] * 8), (OBJECT, bytes(8)), (VOID, b"")):
        with pytest.raises(MalformedPickle, match="a scalar does not have the bytes of its dtype"):
            scalar(dtype, raw)


def test_an_array_of_a_buffer_is_as_long_as_its_shape_says() -> None:
    data = np.arange(6.0)
    for order in ("C", "F"):
        found = from_buffer(data.tobytes(), F8, (2, 3), order)
        assert found.tolist() == data.reshape((2, 3), order=order).tolist()  # type: ignore[call-overload]
        assert found.flags.writeable and (found.flags.c_contiguous == (order == "C"))
    assert from_buffer(b"", F8, (0, 3), "C").shape == (0, 3)
    assert from_buffer(b"", VOID, (1,), "C").shape == (1,)
    with pytest.raises(MalformedPickle, match="claims 2 items"):
        from_buffer(b"", VOID, (2,), "C")  # as many as there are bytes, or one
    for raw, dtype, shape in ((bytes(47), F8, (6,)), (bytes(49), F8, (6,)), (bytes(48), OBJECT, (6,))):
        with pytest.raises(MalformedPickle, match="an array is not as long as its shape says"):
            from_buffer(raw, dtype, shape, "C")
    for order, axes in (("K", None), (None, None), ("A", None), ("C", (0, 1)), ("C", 0), ("F", ())):
        with pytest.raises(MalformedPickle, match="an order that is not known"):
            from_buffer(data.tobytes(), F8, (6,), order, axes)


# What is called: the same as pickle makes of it, or nothing


class Called:
    """Pickles as a call of something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "call",
    [
        (dict,), (dict, {"a": 1}), (dict, [("a", 1), ("b", 2)]), (list, (1, 2)), (tuple, [1, 2]), (set, [1, 2]),
        (frozenset, (1, "a")), (str, "a"), (str, b"ab", "utf-8"), (bytes, b"a"), (bytes, "a", "latin1"),
        (bytearray, b"a"), (int, "7"), (int, 7), (float, "1.5"), (complex, 1, 2), (bool, 1), (slice, 1, 2, 3),
        (collections.OrderedDict, [("a", 1)]), (collections.OrderedDict, {"b": 1, "a": 2}), (object,),
        (np.float32, 1.5), (np.int64, 7), (np.complex64, 1j), (collections.defaultdict, list, {"a": [1]}),
        (collections.defaultdict, None), (collections.defaultdict, int, [("a", 1)]),
    ],

)  # fmt: skip
def test_plain_types_are_made_as_pickle_makes_them(call: tuple[Any, ...], protocol: int) -> None:
    data = pickle.dumps(Called(*call), protocol)
    found, expected = load_pickled(data), pickle.loads(data)  # noqa: S301 - of what stands above
    assert type(found) is type(expected)
    if call[0] is not object:
        assert found == expected
    if isinstance(expected, collections.defaultdict):
        assert found.default_factory is expected.default_factory


@pytest.mark.parametrize(
    "call",
    [
        (bytes, 5), (bytearray, 5), (str, b"a", "idna"), (bytes, "a", "utf-16"), (str, [1]), (int, [1]), (str, (1,)),
        (dict, [({}, 1)]), (set, [[1]]), (np.float32, [1.5]), (np.float32, np.float32(1)), (list, object()),
        (collections.defaultdict, len), (collections.defaultdict, json.dumps),
    ],

)  # fmt: skip
def test_what_pickle_would_make_and_nobody_writes_is_refused(call: tuple[Any, ...]) -> None:
    with pytest.raises((DataMismatchError, RefusedError)):
        load_pickled(pickle.dumps(Called(*call), 2))
