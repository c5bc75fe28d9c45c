"""The safetensors parser: what the library writes is read, what has two readings is refused by name."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprokit.client.tensors import (
    DTYPES,
    MAX_HEADER,
    MalformedError,
    StoredArray,
    as_array,
    check_shape,
    is_native,
    parse,
    places_of,
)

_KINDS = ["<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "|i1", "<u8", "<u4", "<u2", "|u1", "|b1", "<c8"]


def _file(header: Any, body: bytes = b"", *, pad: int = 0) -> memoryview:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * pad
    return memoryview(struct.pack("<Q", len(text)) + text + body)


def _row(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def _arrays() -> st.SearchStrategy[np.ndarray[Any, Any]]:
    shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
    return st.builds(
        lambda kind, shape, seed: np.frombuffer(
            np.random.default_rng(seed).bytes(int(np.prod(shape)) * np.dtype(kind).itemsize), dtype=kind
        ).reshape(shape)
        if kind != "|b1"
        else np.random.default_rng(seed).integers(0, 2, shape).astype(bool),
        st.sampled_from(_KINDS), shapes, st.integers(0, 2**32),
    )  # fmt: skip


_NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(_NAMES, _arrays(), max_size=6))
def test_what_the_library_writes_is_read_bit_for_bit(tensors: dict[str, np.ndarray[Any, Any]]) -> None:
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    data = safetensors.save(tensors, metadata={"format": "np"})
    found = {name: as_array(stored) for name, stored in parse(memoryview(data)).items()}
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_what_is_read_the_library_reads_too_and_alike(data: st.DataObject) -> None:
    """Files of few mutations: reading one that the library refuses would be a second reading."""
    safetensors = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    whole = bytearray(safetensors.save({"a": np.arange(3, dtype="f4"), "b": np.zeros((2, 2), "i2")}))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(
            st.sampled_from([0, 1, 0x20, 0x22, 0x30, 0x31, 0x39, 0x2D, 0x5B, 0x7D, whole[at] ^ 1, 0xFF])
        )
    try:
        found = parse(memoryview(bytes(whole)))
    except MalformedError:
        return
    theirs = safetensors.load(bytes(whole))
    assert {name: as_array(stored).tobytes() for name, stored in found.items()} == {
        name: array.tobytes() for name, array in theirs.items()
    }


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    for whole in (data, struct.pack("<Q", len(data)) + data):
        try:
            parse(memoryview(whole))
        except MalformedError:
            pass


def test_places_count_from_the_start_of_the_file() -> None:
    data = _file({"a": _row()}, bytes(8), pad=3)
    ((_, place),) = places_of(data).items()
    assert place == ("F32", (2,), len(data) - 8, 8)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it has 0 bytes, too few for a header"),
        (b"1234567", "it has 7 bytes, too few for a header"),
        (_file({}, b"x")[:-1].tobytes()[:-1], "its header claims 2 bytes of 9"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "its header claims 18,446,744,073,709,551,615 bytes of 10"),
        (struct.pack("<Q", MAX_HEADER + 1) + b"{" + b" " * (MAX_HEADER + 1), "at most 16,777,216 are read"),
        (_file(b""), "its header is not a mapping"),
        (_file([]), "its header is not a mapping"),
        (_file(b" {}"), "its header is not a mapping"),
        (_file(b"{}{}"), "its header is not JSON: 'Extra data"),
        (_file(b"{"), "its header is not JSON"),
        (_file(b"{'a': 1}"), "its header is not JSON"),
        (_file(b'{"a": NaN}'), "its header is not JSON: 'NaN is not JSON'"),
        (_file(b'{"\xff": 1}'), "its header is not JSON"),
        (_file('{"a": 1}'.encode("utf-16")), "its header is not a mapping"),
        (_file(b"{" + "\x00\x7b".encode("utf-16-be")), "its header is not JSON"),
        (_file(b'{"\\ud800": 1}'), "its header is not JSON"),
        (_file(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "its header is not JSON: 'it nests too deeply'"),
        (_file(b'{"a": 1' + b"0" * 5000 + b"}"), "its header is not JSON"),
        (_file(b'{"a": {"dtype":"F32"}, "a": {"dtype":"F32"}}'), "a key stands twice in one object"),
        (_file(b'{"a": {"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"x"), "a key stands twice"),
        (_file({"__metadata__": {"a": 1}}), "its __metadata__ is not a mapping of text"),
        (_file({"__metadata__": []}), "its __metadata__ is not a mapping of text"),
        (_file({"a": None}), "tensor 'a' has no dtype, shape and data_offsets"),
        (_file({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "tensor 'a' has no dtype, shape and data_offsets"),
        (_file({"a": _row(more=1)}, bytes(8)), "tensor 'a' has no dtype, shape and data_offsets, or more than these"),
        (_file({"a": _row("F31")}, bytes(8)), "tensor 'a' has the dtype 'F31', which is not known"),
        (_file({"a": _row("f32")}, bytes(8)), "tensor 'a' has the dtype 'f32', which is not known"),
        (_file({"a": _row(4)}, bytes(8)), "tensor 'a' has no dtype"),
        (_file({"a": _row(shape=[True, 2])}, bytes(8)), "tensor 'a' has a malformed shape"),
        (_file({"a": _row(shape=[2.0])}, bytes(8)), "tensor 'a' has a malformed shape"),
        (_file({"a": _row(shape=["2"])}, bytes(8)), "tensor 'a' has a malformed shape"),
        (_file({"a": _row(shape=[-1, -2])}, bytes(8)), "tensor 'a' has a malformed shape"),
        (_file({"a": _row(shape=[1] * 33)}, bytes(8)), "tensor 'a' has a malformed shape"),
        (_file({"a": {**_row(), "shape": 2}}, bytes(8)), "tensor 'a' has a malformed shape"),
        (_file({"a": _row(shape=[2**32, 2**32, 2**32])}, bytes(8)), "tensor 'a' has a shape that nothing can have"),
        (_file({"a": _row(shape=[2**63])}, bytes(8)), "tensor 'a' has a malformed shape"),
        (_file({"a": _row(shape=[0, 2**62], offsets=[0, 0])}), "tensor 'a' has a shape that nothing can have"),
        (_file({"a": _row(shape=[3])}, bytes(8)), "tensor 'a' of shape [3] and dtype F32 cannot have 8 bytes"),
        (_file({"a": _row(offsets=[8, 0])}, bytes(8)), "tensor 'a' of shape [2] and dtype F32 cannot have -8 bytes"),
        (_file({"a": _row(offsets=[-8, 0])}, bytes(8)), "tensor 'a' has malformed offsets"),
        (_file({"a": _row(offsets=[0, 8, 8])}, bytes(8)), "tensor 'a' has malformed offsets"),
        (_file({"a": _row(offsets=[0, 8.0])}, bytes(8)), "tensor 'a' has malformed offsets"),
        (_file({"a": _row(offsets=[False, 8])}, bytes(8)), "tensor 'a' has malformed offsets"),
        (_file({"a": _row(offsets=[0, 2**70])}, bytes(8)), "tensor 'a' has malformed offsets"),
        (_file({"a": _row()}, bytes(7)), "tensor 'a' lies outside the file"),
        (_file({"a": _row(offsets=[8, 16])}, bytes(16)), "its tensors overlap or leave a hole at byte 0"),
        (_file({"a": _row(), "b": _row()}, bytes(8)), "its tensors overlap or leave a hole at byte 8"),
        (_file({"a": _row(), "b": _row(offsets=[4, 12])}, bytes(12)), "its tensors overlap or leave a hole at byte 8"),
        (_file({"a": _row(), "b": _row(offsets=[12, 20])}, bytes(20)), "its tensors overlap or leave a hole at byte 8"),
        (_file({"a": _row(), "b": _row(shape=[0], offsets=[4, 4])}, bytes(8)), "its tensors overlap or leave a hole"),
        (_file({"a": _row()}, bytes(9)), "1 bytes at its end belong to no tensor"),
        (_file({}, b"x"), "1 bytes at its end belong to no tensor"),
    ],
)  # fmt: skip
def test_what_has_no_one_reading_is_refused_by_name(data: bytes | memoryview, why: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse(memoryview(data))
    assert why in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_arrays_are_views_and_read_only() -> None:
    data = memoryview(bytearray(struct.pack("<2f", 1, 2))).toreadonly()
    array = as_array(StoredArray("F32", (2,), data))
    assert array.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 3


def test_bf16_widens_to_the_same_values() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    every = np.arange(2**16, dtype="<u2")
    found = as_array(StoredArray("BF16", (2**16,), memoryview(every.tobytes())))
    assert found.tobytes() == every.view(ml_dtypes.bfloat16).astype("<f4").tobytes()


def test_native_dtypes_are_those_that_numpy_gives_back() -> None:
    assert all(is_native(np.dtype(kind)) for kind in _KINDS)
    assert not any(is_native(kind) for kind in ("bfloat16", "float8_e5m2", ">f4", "complex128", "<U3"))
    assert check_shape("F32", [2], 8) is None
    assert set(DTYPES.values()) == {"F8_E4M3", "F8_E5M2", "BF16"} | {DTYPES[str(np.dtype(kind))] for kind in _KINDS}
