"""Messages are read field by field, and what is none is refused, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprokit.recording.foreign.wire import WireError, as_double, as_float, fields, signed, text
from tests.recording.foreign.writing import message, varint


def test_each_kind_of_field_comes_back() -> None:
    data = message((1, 0.5), (2, -3), (300, "ä"), (4, ("f", 0.25)), (5, b""))
    assert [(number, kind) for number, kind, _ in fields(data)] == [(1, 1), (2, 0), (300, 2), (4, 5), (5, 2)]
    found = {number: value for number, _, value in fields(data)}
    assert (as_double(found[1]), signed(found[2]), text(found[300]), as_float(found[4])) == (0.5, -3, "ä", 0.25)


@given(st.integers(-(2**63), 2**63 - 1))
def test_an_integer_comes_back(value: int) -> None:
    assert [signed(found) for _, _, found in fields(message((1, value)))] == [value]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x0a\x05abc", "a field of 5 bytes has 3"),
        (b"\x0a" + varint(2**63), "a field of 9,223,372,036,854,775,808 bytes has 0"),
        (b"\x09abc", "a field of 8 bytes has 3"),
        (b"\x08\xff", "an integer is cut off at byte 1"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "an integer at byte 1 has more than 10 bytes"),
        (b"\x00\x01", "a field without a number ends at byte 1"),
        (b"\x0b\x0b\x0b", "a field of the wire type 3 ends at byte 1"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(WireError) as caught:
        list(fields(data))
    assert str(caught.value) == told


@given(st.binary(max_size=200))
def test_any_bytes_are_fields_or_refused(data: bytes) -> None:
    try:
        found = list(fields(data))
    except WireError:
        return
    assert sum(len(value) for _, _, value in found if isinstance(value, bytes)) <= len(data)


def test_a_value_of_another_kind_is_refused() -> None:
    for read, wrong in ((signed, b"a"), (text, 1), (as_double, b"abc"), (as_float, 7)):
        with pytest.raises(WireError):
            read(wrong)  # type: ignore[operator]
