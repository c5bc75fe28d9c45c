"""At the edges of what is read by value: limits, empty sides, tables with and without a head, arrays of every kind."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from typing import Any

import numpy as np
import pytest

from reprokit.comparison.files import npy as arrays
from reprokit.comparison.files import outputs, values
from reprokit.comparison.files.npy import Archive, read_array
from reprokit.comparison.files.tables import compare_tables, value_of
from tests.comparison.files.test_outputs import npy, npz, told
from tests.comparison.files.test_outputs import values as compared

UNREAD = "bytes differ, and values cannot be read: "


def equal(count: str, how: str = "equal") -> tuple[str, str]:
    return "tolerated", f"other bytes, all {count} values {how}"


@pytest.mark.parametrize(
    ("one", "other", "detail"),
    [
        ({}, {"a": 1}, "a: missing → 1 (1 of 1 values differ)"),
        ({"a": 1}, {}, "a: 1 → missing (1 of 1 values differ)"),
        ([], [1], "[0]: missing → 1 (1 of 1 values differ)"),
        ([1], [], "[0]: 1 → missing (1 of 1 values differ)"),
        ({"a": []}, {"a": {}}, "a: a list of 0 → an object of 0 (1 of 1 values differ)"),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "a.b[1]: 2 → 3 (1 of 2 values differ)"),
        ([[1], [2], 3], [[1], [4], 5], "[1][0]: 2 → 4 (2 of 3 values differ)"),
        (True, 1, "True → 1 (1 of 1 values differ)"),
        (None, 0, "None → 0 (1 of 1 values differ)"),
        (1, "1", "1 → '1' (1 of 1 values differ)"),
        (math.nan, 1.0, "nan → 1.0 (1 of 1 values differ)"),
        (10**400, 10**400 + 1, None),
    ],
)
def test_what_is_on_one_side_or_of_another_type_differs(one: Any, other: Any, detail: str | None) -> None:
    found = compared(one, other, a=9.0)
    assert found[0] == "differs"
    if detail is not None:
        assert found[1] == detail


def test_empty_sides_and_equal_numbers_of_two_types_are_equal() -> None:
    assert told("m.json", b"{}", b"{ }") == equal("1")
    assert told("m.json", b"[1, 0, NaN, 5]", b"[1.0,-0.0,NaN,5]") == equal("4")
    assert told("m.json", b'{"a": 1, "b": 2}', b'{"b":2,"a":1}') == equal("2")


def test_the_largest_distance_that_was_allowed_is_told() -> None:
    assert compared({"a": 1.0, "b": 1.0}, {"a": 1.25, "b": 1.5}, a=0.5, b=0.5) == equal("2", "within 0.5")
    assert compared({"a": 1.0, "b": 1.0}, {"a": 1.5, "b": 1.25}, a=0.5, b=0.5) == equal("2", "within 0.5")
    assert compared({"a": 1.0}, {"a": 1.5}, a=0.25) == ("differs", "a: 1.0 → 1.5 (1 of 1 values differ)")
    assert compared({"a": 10**400}, {"a": 1}, a=1e300)[0] == "differs"  # further apart than any float says
    assert compared({"a": 10**400}, {"a": 10**400 + 1}, a=1.0) == equal("1", "within 1")
    stacked = npy(np.array([1.0, 2.0, 3.0])), npy(np.array([1.25, 2.0, 3.125]))
    assert told("m.npy", *stacked, **{"": 0.25}) == equal("3", "within 0.25")


@pytest.mark.parametrize(
    ("left", "right", "detail"),
    [
        (b"a,b\n1,2\n", b"a,b\n1,3\n", "row 1, b: 2 → 3 (1 of 4 values differ)"),
        (b"a,b\n1,2\n", b"a,c\n1,2\n", "row 1, column 2: 'b' → 'c' (1 of 4 values differ)"),
        (b"a,a\n1,2\n", b"a,a\n1,3\n", "row 2, column 2: 2 → 3 (1 of 4 values differ)"),  # no names: twice the same
        (b"a,1\n1,2\n", b"a,1\n1,3\n", "row 2, column 2: 2 → 3 (1 of 4 values differ)"),  # nor with a number
        (b"1,2\n3,4\n", b"1,2\n3,5\n", "row 2, column 2: 4 → 5 (1 of 4 values differ)"),
        (b"a\n", b"", "row 1, column 1: 'a' → missing (1 of 1 values differ)"),
        (b"", b"a\n", "row 1, column 1: missing → 'a' (1 of 1 values differ)"),
        (b"a,b\n1,2\n", b"a,b\n1,2,3\n", "row 1, column 3: missing → 3 (1 of 5 values differ)"),
        (b"a\nx\n", b"a\ny\n", "row 1, a: 'x' → 'y' (1 of 2 values differ)"),
        (b"1\n2\n", b"1\n3\n", "row 2, column 1: 2 → 3 (1 of 2 values differ)"),
    ],
)
def test_cells_are_told_by_row_and_column_or_by_name_where_there_are_names(
    left: bytes, right: bytes, detail: str
) -> None:
    assert told("m.csv", left, right) == ("differs", detail)


def test_the_tolerance_of_a_column_is_that_of_its_name() -> None:
    assert told("m.csv", b"a,b\n1,2.0\n", b"a,b\n1,2.5\n", b=0.5) == equal("4", "within 0.5")
    assert told("m.csv", b"a,b\n1,2.0\n", b"a,b\n1,2.5\n", a=0.5)[0] == "differs"
    assert told("m.csv", b"a,a\n1,2.0\n", b"a,a\n1,2.5\n", a=0.5)[0] == "differs"
    assert told("m.csv", b"b,1\n1,2.0\n", b"b,1\n1,2.5\n", b=0.5)[0] == "differs"
    assert told("m.csv", b"a,b\n1,2\n", b"a,b\n1.0, 2\n") == equal("4")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("-1", -1), (" 1 ", 1), ("0", 0), ("007", "007"), ("1.0", 1.0), ("1e3", 1000.0), ("1E3", 1000.0),
        (".5", 0.5), ("5.", 5.0), ("+1.5", 1.5), ("+1", "+1"), ("inf", math.inf), ("-Infinity", -math.inf),
        ("INF", math.inf), ("1e999", "1e999"), ("-1e999", "-1e999"), ("", ""), ("a", "a"), ("1_0", "1_0"), ("١", "١"),
        ("9" * 300, int("9" * 300)), ("9" * 301, "9" * 301), (" a ", " a "),
    ],
)  # fmt: skip
def test_a_cell_is_the_number_that_it_spells_or_text(text: str, value: object) -> None:
    found = value_of(text)
    assert (found, type(found)) == (value, type(value))
    assert math.isnan(float(value_of("NaN")))


def test_limits_are_inclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "MAX_TEXT", 8)
    assert told("m.json", b"[1, 2]", b"[1,2   ]") == equal("2")
    for sides in ((b"[1, 2]", b"[1,2    ]"), (b"[1,2    ]", b"[1, 2]")):
        assert told("m.json", *sides) == ("differs", f"{UNREAD}more than 8 bytes are not read")
    monkeypatch.undo()
    monkeypatch.setattr(values, "_MAX_VALUES", 3)
    assert told("m.json", b"[1,2,3]", b"[1,2,3] ") == equal("3")
    assert told("m.json", b"[1,2,3,4]", b"[1,2,3,4] ") == ("differs", f"{UNREAD}more than 3 values are not read")
    assert told("m.json", b'{"a":{"b":{"c":{}}}}', b"1")[1] == f"{UNREAD}more than 3 values are not read"
    monkeypatch.undo()
    small, large = npy(np.zeros(2)), npy(np.zeros(3))
    monkeypatch.setattr(values, "MAX_BYTES", len(small))
    assert told("m.npy", small, npy(np.ones(2)))[1] == "[0]: 0.0 → 1.0 (2 of 2 values differ)"
    for sides in ((small, large), (large, small)):
        assert told("m.npy", *sides) == ("differs", f"{UNREAD}more than {len(small)} bytes are not read")
    monkeypatch.undo()
    monkeypatch.setattr(outputs, "MAX_TEXT", 4)
    assert told("m", b"a\nb\n", b"a\nb", "lines")[0] == "tolerated"
    assert told("m", b"a\nb\nc", b"a\nb", "lines")[1].startswith("more than 4 bytes are not read as lines: ")
    assert told("m", b"a\nb", b"a\nb\nc", "lines")[1].startswith("more than 4 bytes are not read as lines: ")


def zipped(*members: tuple[str, bytes], how: int = zipfile.ZIP_STORED) -> bytes:
    handle = io.BytesIO()
    with zipfile.ZipFile(handle, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that comes twice
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=how)
    return handle.getvalue()


ONE = npy(np.ones(2))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (zipped(("a.npy", ONE), ("b.txt", b"x")), "not an .npz file: a member is no array, or is there twice"),
        (zipped(("b.txt", b"x"), ("a.npy", ONE)), "not an .npz file: a member is no array, or is there twice"),
        (zipped(("a.npy", ONE), ("a.npy", ONE)), "not an .npz file: a member is no array, or is there twice"),
        (zipped(("a.npy", ONE), ("b.npy", ONE), how=zipfile.ZIP_BZIP2), "packed otherwise than by deflate"),
        (b"no zip", "not an .npz file ("),
    ],
)
def test_what_is_no_archive_of_arrays_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=r".*") as caught:
        Archive(data)
    assert why in str(caught.value)


def test_one_member_that_is_packed_otherwise_is_enough() -> None:
    handle = io.BytesIO()
    with zipfile.ZipFile(handle, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.npy"), ONE, compress_type=zipfile.ZIP_STORED)
        archive.writestr(zipfile.ZipInfo("b.npy"), ONE, compress_type=zipfile.ZIP_LZMA)
    with pytest.raises(ValueError, match="packed otherwise than by deflate"):
        Archive(handle.getvalue())


def test_archives_are_bounded_before_they_are_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = zipped(*((f"{name}.npy", ONE) for name in "abc"))
    monkeypatch.setattr(arrays, "_MAX_MEMBERS", 3)
    assert list(Archive(data).names) == ["a", "b", "c"]
    monkeypatch.setattr(arrays, "_MAX_MEMBERS", 2)
    with pytest.raises(ValueError, match="more than 2 arrays are not read"):
        Archive(data)
    monkeypatch.setattr(arrays, "_MAX_MEMBERS", 1)
    opened: list[object] = []
    monkeypatch.setattr(zipfile, "ZipFile", lambda *some: opened.append(some))
    with pytest.raises(ValueError, match="more than 1 arrays are not read"):
        Archive(data)
    assert opened == []  # zipfile makes an object of each member
    monkeypatch.undo()
    monkeypatch.setattr(arrays, "MAX_BYTES", 3 * len(ONE))
    assert len(Archive(data).names) == 3
    monkeypatch.setattr(arrays, "MAX_BYTES", 3 * len(ONE) - 1)
    with pytest.raises(ValueError, match="unpacked, the arrays have more than"):
        Archive(data)


def header(text: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    told_ = text.encode("latin1") + b"\n"
    size = len(told_).to_bytes(2 if version[0] == 1 else 4, "little")
    return b"\x93NUMPY" + version + size + told_ + data


def test_headers_of_arrays_are_read_quietly_and_only_of_versions_that_numpy_writes() -> None:
    whole = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }"
    data = np.array([1.5]).tobytes()
    assert read_array(header(whole, data)).tolist() == [1.5]
    assert read_array(header(whole, data, b"\x02\x00")).tolist() == [1.5]
    for version in (b"\x03\x00", b"\x01\x01", b"\x00\x00"):
        with pytest.raises(ValueError, match=r"version \d\.\d of the format is not read"):
            read_array(header(whole, data, version))
    odd = "{'descr': '<f8', 'fortran_order': False, 'shape': (1L,), }"  # as Python 2 wrote it, of which NumPy warns
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_array(header(odd, data)).tolist() == [1.5]
    empty = "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 3), }"
    assert read_array(header(empty)).shape == (0, 3)
    for shape, more in (("(2,)", data), ("(1,)", data + b"x"), ("(-1,)", b""), ("(1,)", b"")):
        with pytest.raises(ValueError, match="the header does not fit the bytes that follow"):
            read_array(header(whole.replace("(1,)", shape), more))
    for kind in ("|O", "|V8", "|S0"):
        with pytest.raises(ValueError, match="not compared by value"):
            read_array(header(whole.replace("<f8", kind), data))


def test_arrays_of_one_name_are_compared_and_of_others_it_is_said_who_has_them() -> None:
    one, two = npz(a=np.ones(2), b=np.zeros(3)), npz(a=np.ones(2))
    assert told("m.npz", one, two) == ("differs", "b: float64 [3] → missing (1 of 3 values differ)")
    assert told("m.npz", two, one) == ("differs", "b: missing → float64 [3] (1 of 3 values differ)")
    order = npz(b=np.zeros(3), a=np.ones(2))
    assert told("m.npz", one, order) == equal("5")


@pytest.mark.parametrize(
    ("one", "other", "allowed", "found"),
    [
        (np.uint64([2**64 - 1, 0]), np.uint64([2**64 - 2, 0]), 1.0, equal("2", "within 1")),
        (np.int64([-(2**63), 5]), np.int64([2**63 - 1, 5]), 1e18, ("differs", None)),
        (np.int8([127]), np.int8([-128]), 254.0, ("differs", "[0]: 127 → -128 (1 of 1 values differ)")),
        (np.int8([127]), np.int8([-128]), 255.0, equal("1", "within 255")),
        (np.uint8([0, 9]), np.uint8([255, 9]), 254.0, ("differs", "[0]: 0 → 255 (1 of 2 values differ)")),
        (np.float16([6e4]), np.float16([-6e4]), 1.2e5, equal("1", "within 1.2e+05")),
        (np.float64([1e308]), np.float64([-1e308]), 1.0, ("differs", "[0]: 1e+308 → -1e+308 (1 of 1 values differ)")),
        (np.float64([np.inf, 1]), np.float64([np.inf, 2]), 1.0, equal("2", "within 1")),
        (np.float64([np.inf]), np.float64([-np.inf]), 1e300, ("differs", "[0]: inf → -inf (1 of 1 values differ)")),
        (np.float64([np.nan, 1]), np.float64([np.nan, 2]), 1.0, equal("2", "within 1")),
        (np.float64([np.nan]), np.float64([1]), 1e300, ("differs", "[0]: nan → 1.0 (1 of 1 values differ)")),
        (np.complex128([1 + 1j]), np.complex128([1 + 2j]), 1.0, equal("1", "within 1")),
        (np.array([True, False]), np.array([True, True]), 9.0, ("differs", "[1]: False → True (1 of 2 values differ)")),
        (np.array(["a", "b"]), np.array(["a", "c"]), 9.0, ("differs", "[1]: 'b' → 'c' (1 of 2 values differ)")),
        (np.float64([[0, 0], [0, 0]]), np.float64([[0, 0], [7, 9]]), 8.0,
         ("differs", "[1, 1]: 0.0 → 9.0 (1 of 4 values differ)")),
        (np.float64([[0, 0], [0, 0]]), np.float64([[0, 0], [7, 9]]), 0.0,
         ("differs", "[1, 0]: 0.0 → 7.0 (2 of 4 values differ)")),
        (np.float64([1]), np.float32([1]), 9.0, ("differs", "float64 [1] → float32 [1] (1 of 1 values differ)")),
        (np.ones((1, 2)), np.ones((2, 1)), 9.0, ("differs", "float64 [1, 2] → float64 [2, 1] (1 of 1 values differ)")),
        (np.array([1.5], "<f8"), np.array([1.5], ">f8"), 0.0, equal("1")),
        (np.asfortranarray([[1, 2], [3, 4]]), np.ascontiguousarray([[1, 2], [3, 4]]), 0.0, equal("4")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("block", [1 << 20, 1])
def test_arrays_of_every_kind(
    one: Any, other: Any, allowed: float, found: tuple[str, str | None], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "_BLOCK", block)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result, detail = told("m.npy", npy(one), npy(other), **{"": allowed})
    assert result == found[0]
    if found[1] is not None:
        assert detail == found[1]


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        (b"k,v\na,1\nb,2\n", b"k,v\nb,2\na,3\n", (("a", "v", "1", "3"),)),
        (b"k,v\na,1\na,2\n", b"k,v\na,2\na,1\n", (("1", "v", "1", "2"), ("2", "v", "2", "1"))),  # a key twice
        (b"k,v\na,1\nb,2\n", b"k,v\nb,2\nb,3\n", (("1", "k", "a", "b"), ("1", "v", "1", "2"), ("2", "v", "2", "3"))),
        (b"k,v\na,1\na,2\n", b"k,v\na,1\nb,2\n", (("2", "k", "a", "b"),)),
        (b"k,v\na,1\nb,2\n", b"j,v\nb,1\na,2\n", ()),  # other keys: by number
        (b"k,v\na,\n", b"k,v\na,1\n", (("a", "v", "", "1"),)),
    ],
)
def test_rows_of_tables_are_paired_by_their_first_column_where_it_tells_them_apart(
    before: bytes, after: bytes, named: tuple[tuple[str, str, str, str], ...]
) -> None:
    found = compare_tables(before, after, ",")
    assert found is not None
    assert found.cells == named


@pytest.mark.parametrize("table", [b"", b"a,a\n1,2\n", b"a,b\n1\n", b"\xff", b'a\n"'])
def test_what_has_no_head_of_names_is_no_table(table: bytes) -> None:
    assert compare_tables(table, b"a,b\n1,2\n", ",") is None
    assert compare_tables(b"a,b\n1,2\n", table, ",") is None


def test_a_line_is_cut_down_to_where_it_differs() -> None:
    for same, left, right in ((40, "x" * 40 + "1", "x" * 40 + "2"), (41, f"…{'x' * 20}1", f"…{'x' * 20}2")):
        one, other = (b"x" * same + last for last in (b"1", b"2"))
        assert told("m", one, other, "lines")[1] == f"line 1: '{left}' → '{right}' (1 of 1 lines differ)"
    longer = told("m", b"x" * 50, b"x" * 60, "lines")[1]
    assert longer == f"line 1: '…{'x' * 20}' → '…{'x' * 30}' (1 of 1 lines differ)"
    assert told("m", b"", b"a", "lines")[1] == "line 1: missing → 'a' (1 of 1 lines differ)"
    assert told("m", b"x" * 50, b"", "lines")[1] == f"line 1: '{'x' * 50}' → missing (1 of 1 lines differ)"


def test_bytes_are_told_by_the_first_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_BLOCK", 2)
    for left, right, at in ((b"abcdef", b"abcdeX", 5), (b"abc", b"abcd", 3), (b"Xbc", b"abc", 0), (b"", b"a", 0)):
        said = f"{len(left)} and {len(right)} bytes, the first difference at byte {at} (from 0)"
        assert told("m", left, right, "bytes") == ("differs", said)
