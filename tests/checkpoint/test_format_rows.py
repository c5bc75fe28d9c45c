"""What a version says of the tensors in its files, row by row; and how files are divided and named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from reprokit.checkpoint import format as form
from reprokit.checkpoint.format import Piece, stored_tensors
from reprokit.core.digest import hash_bytes
from reprokit.errors import DataMismatchError
from reprokit.schema.manifest import Entry, Manifest
from tests.checkpoint.making import encoded

ROW: dict[str, Any] = {"name": "w", "dtype": "F32", "shape": [2], "offset": 8, "nbytes": 8, "digest": "0" * 64}
SHARD = "model/w.safetensors"


def told(rows: Any, key: str = SHARD, size: int = 16) -> dict[tuple[str, str], form.StoredTensor]:
    """Return what a version with one file says, if the metadata of that is this."""
    entry = Entry(key, size, hash_bytes(b""), {"reprokit": {"tensors": rows}})
    return stored_tensors(Manifest.make([entry]))


def test_a_row_says_where_a_tensor_lies() -> None:
    (one,) = told([ROW]).values()
    assert (one.key, one.section, one.name, one.dtype, one.shape) == (SHARD, "model", "w", "F32", (2,))
    assert (one.offset, one.nbytes, one.digest, one.alone, one.order) == (8, 8, "0" * 64, False, "C")
    assert list(told([ROW, {**ROW, "name": "v"}])) == [("model", "w"), ("model", "v")]
    assert list(told([ROW], "optimizer/w.safetensors")) == [("optimizer", "w")]
    assert list(told([ROW], "model.skops")) == [("model", "w")]


def test_what_says_nothing_of_tensors_has_none() -> None:
    for meta in ({}, {"reprokit": {}}, {"reprokit": 1}, {"reprokit": {"mode": "100644"}}, {"other": {"tensors": 1}}):
        assert stored_tensors(Manifest.make([Entry("a", 1, hash_bytes(b""), meta)])) == {}
    assert told([]) == {}


@pytest.mark.parametrize("rows", ["w", {"w": 1}, 1, None, [1], ["w"], [None], [[]], [{}]])
def test_what_is_no_list_of_rows_is_refused(rows: Any) -> None:
    with pytest.raises(DataMismatchError, match=f"The tensors of '{SHARD}' are malformed: "):
        told(rows)


@pytest.mark.parametrize("lacking", list(ROW))
def test_each_field_of_a_row_has_to_be_there(lacking: str) -> None:
    with pytest.raises(DataMismatchError, match="are malformed: "):
        told([{name: value for name, value in ROW.items() if name != lacking}])


@pytest.mark.parametrize(
    "lie",
    [
        {"name": 1}, {"name": None}, {"name": "\ud800"}, {"dtype": 1}, {"dtype": None}, {"shape": (2,)}, {"shape": 2},
        {"shape": "2"}, {"offset": 8.0}, {"offset": True}, {"offset": "8"}, {"nbytes": 8.0}, {"nbytes": True},
        {"nbytes": None}, {"digest": "0" * 63}, {"digest": "0" * 65}, {"digest": "G" * 64}, {"digest": None},
        {"digest": "A" * 64}, {"order": "F"}, {"order": "K"}, {"order": None},
    ],
)  # fmt: skip
def test_each_field_of_a_row_has_its_type(lie: dict[str, Any]) -> None:
    with pytest.raises(DataMismatchError, match="are malformed: "):
        told([{**ROW, **lie}])


@pytest.mark.parametrize(
    ("lie", "fits"),
    [
        ({}, True),
        ({"offset": 0}, True),
        ({"offset": 9}, False),
        ({"offset": -1}, False),
        ({"offset": -8}, False),
        ({"nbytes": 7}, False),
        ({"shape": [3]}, False),
        ({"shape": [3], "nbytes": 12}, False),
        ({"shape": [3], "nbytes": 12, "offset": 4}, True),
        ({"shape": [0], "nbytes": 0, "offset": 16}, True),
        ({"shape": [0], "nbytes": 0, "offset": 17}, False),
        ({"shape": [], "nbytes": 4}, True),
        ({"dtype": "F33"}, False),
        ({"shape": [-2], "nbytes": -8}, False),
    ],
)
def test_a_tensor_lies_in_its_file(lie: dict[str, Any], fits: bool) -> None:
    if fits:
        assert len(told([{**ROW, **lie}])) == 1
        return
    with pytest.raises(DataMismatchError, match=f"Tensor 'w' does not lie in '{SHARD}' as it says"):
        told([{**ROW, **lie}])


def test_a_name_is_of_one_tensor_of_its_section() -> None:
    with pytest.raises(DataMismatchError, match="The model tensor 'w' is in two places"):
        told([ROW, ROW])
    assert len(told([ROW, ROW], "model.skops")) == 1  # of one that stands in the object twice
    entries = [
        Entry(key, 16, hash_bytes(b""), {"reprokit": {"tensors": [ROW]}})
        for key in ("model/a.safetensors", "model/b.safetensors")
    ]
    with pytest.raises(DataMismatchError, match="is in two places"):
        stored_tensors(Manifest.make(entries))


def test_only_in_a_file_that_is_kept_whole_an_array_lies_column_by_column() -> None:
    (one,) = told([{**ROW, "order": "F"}], "model.skops").values()
    assert one.order == "F"
    with pytest.raises(DataMismatchError, match="are malformed"):
        told([{**ROW, "order": "K"}], "model.skops")


@pytest.mark.parametrize(("nbytes", "key", "alone"), [
    (16, SHARD, True), (12, SHARD, False), (16, "model.skops", False),
])  # fmt: skip
def test_a_large_tensor_has_a_file_of_its_own(
    monkeypatch: pytest.MonkeyPatch, nbytes: int, key: str, alone: bool
) -> None:
    monkeypatch.setattr(form, "_OWN_FILE", 16)
    (one,) = told([{**ROW, "shape": [nbytes // 4], "nbytes": nbytes}], key, size=99).values()
    assert one.alone is alone


# How a state is divided into files


def files(tensors: dict[str, Any], **more: Any) -> dict[str, Piece]:
    return {piece.key: piece for piece in encoded(tensors, **more)[0]}


def rows(piece: Piece) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = piece.meta["reprokit"]["tensors"]
    return found


def test_tensors_of_one_module_share_a_file_and_large_ones_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "_OWN_FILE", 32)
    found = files({"a.w": np.zeros(4), "a.b": np.zeros(3), "b": np.zeros(3), "c.d.e": np.zeros(1), "m/k": np.ones(1)})
    assert [key for key in found if key.endswith(".safetensors")] == [
        "model/a.trainable.safetensors", "model/a.w.safetensors", "model/c.trainable.safetensors",
        "model/m.trainable.safetensors", "model/trainable.safetensors",
    ]  # fmt: skip
    (large,) = rows(found["model/a.w.safetensors"])
    assert large["digest"] == found["model/a.w.safetensors"].digest.hex, "the file is this tensor"
    (small,) = rows(found["model/a.trainable.safetensors"])
    assert small["digest"] == hash_bytes(np.zeros(3).tobytes()).hex


def test_rows_say_where_in_its_file_each_tensor_begins() -> None:
    values = {"m.a": np.arange(3, dtype="<f4"), "m.b": np.arange(2, dtype="<f8"), "m.c": np.arange(5, dtype="<f4")}
    piece = files(values)["model/m.trainable.safetensors"]
    data = b"".join(piece.parts)
    assert [row["name"] for row in rows(piece)] == ["m.b", "m.a", "m.c"]  # the widest first
    for row in rows(piece):
        held = data[row["offset"] : row["offset"] + row["nbytes"]]
        assert held == values[row["name"]].tobytes() and row["digest"] == hash_bytes(held).hex
        assert row["shape"] == list(values[row["name"]].shape)
    assert piece.size == len(data)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("a b/c", "a_b_c"),
        ("é", "_"),
        ("..a..", "a"),
        ("...", "_"),
        ("x" * 120, "x" * 120),
        ("x" * 121, f"{'x' * 100}-{'H' * 12}"),
        ("A_-.9", "A_-.9"),
    ],
)
def test_a_file_is_named_for_what_it_holds_in_letters_that_are_legal_everywhere(
    monkeypatch: pytest.MonkeyPatch, name: str, key: str
) -> None:
    monkeypatch.setattr(form, "_OWN_FILE", 1)
    (found,) = (one for one in files({name: np.zeros(1)}) if one.endswith(".safetensors"))
    expected = f"model/{key}.safetensors"
    if "H" in key:
        assert found[: -12 - len(".safetensors")] == expected[: -12 - len(".safetensors")]
        assert len(found) == len(expected)
    else:
        assert found == expected


def test_names_that_are_alike_have_files_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "_OWN_FILE", 1)
    names = ["w", "W", "a b", "a_b", "a/b"]
    found = files({name: np.full(1, n, "f8") for n, name in enumerate(names)} | {"optimizer:w": np.zeros(1)})
    keys = [key for key in found if key.endswith(".safetensors")]
    assert len(keys) == len({key.casefold() for key in keys}) == 6
    assert {"model/W.safetensors", "optimizer/w.safetensors"} <= set(keys)
    assert sorted(row["name"] for key in keys for row in rows(found[key])) == sorted([*names, "w"])


def test_a_file_whose_header_nobody_would_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    head = len(bytes(files({"w": np.zeros(1)})["model/trainable.safetensors"].parts[0]))
    monkeypatch.setattr(form, "MAX_HEADER", head)
    assert files({"w": np.zeros(1)})
    monkeypatch.setattr(form, "MAX_HEADER", head - 1)
    with pytest.raises(DataMismatchError, match=r"model/trainable\.safetensors would have 1 tensors, too many"):
        files({"w": np.zeros(1)})


def inner(offset: int, array: Any, **more: Any) -> dict[str, Any]:
    row = {"section": "model", "name": "i", "dtype": "F64", "shape": list(array.shape), "offset": offset}
    return {**row, "nbytes": array.nbytes, **more}


def test_arrays_in_a_file_are_digested_by_rows_whatever_their_order() -> None:
    array = np.arange(6.0).reshape(2, 3)
    for order in ("C", "F"):
        data = b"12345678" + array.tobytes(order=order)
        more = {"order": "F"} if order == "F" else {}
        piece = files({}, files={"m.skops": (data, [inner(8, array, **more)])})["m.skops"]
        (row,) = rows(piece)
        assert row == {**inner(8, array, **more), "digest": hash_bytes(array.tobytes()).hex}
        assert (piece.digest, b"".join(piece.parts)) == (hash_bytes(data), data)


@pytest.mark.parametrize(("offset", "shape", "fits"), [
    (0, 1, True), (8, 1, True), (9, 1, False), (-1, 1, False), (0, 2, True), (1, 2, False), (16, 0, True),
    (0, 3, False), (17, 0, False), (0, 0, True),
])  # fmt: skip
def test_an_array_in_a_file_ends_where_the_file_does(offset: int, shape: int, fits: bool) -> None:
    told_ = {"m.skops": (bytes(16), [inner(offset, np.zeros(shape))])}
    if fits:
        assert len(rows(files({}, files=told_)["m.skops"])) == 1
        return
    with pytest.raises(DataMismatchError, match=r"An array of 'm\.skops' lies outside it"):
        files({}, files=told_)
