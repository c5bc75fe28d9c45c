"""Pixels: what is read of an image, what is refused unread, and how far apart two frames are said to be."""

from __future__ import annotations

import io
import struct
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reprokit.comparison.files import images
from reprokit.comparison.files.images import compare_pixels
from reprokit.core.own_extras import pip_words
from tests.comparison.files.test_outputs import COLOURS, GREY, image

EQUAL = "other bytes, every pixel equal (metadata is not compared)"
UNREAD = "bytes differ, and pixels cannot be compared: "
MORE = f"{UNREAD}the image holds more bits or channels than Pillow reads"


def said(left: bytes, right: bytes) -> str:
    found = compare_pixels("p", left, right)
    assert found.result == ("tolerated" if found.detail == EQUAL else "differs")
    return found.detail


def tiff(mode: str, *pixels: Any, extra: int | None = None) -> bytes:
    """Return a file of one row of pixels; `extra` says what its fourth channel is (of ExtraSamples)."""
    made = Image.new(mode, (len(pixels), 1))
    made.putdata(pixels)
    handle = io.BytesIO()
    made.save(handle, "TIFF")
    data = bytearray(handle.getvalue())
    if extra is not None:
        at = data.index(struct.pack("<HHI", 338, 3, 1))
        data[at + 8] = extra
    return bytes(data)


@pytest.mark.parametrize("last", [4, 5])
def test_a_channel_that_pillow_drops_is_not_called_equal(last: int) -> None:
    assert said(tiff("RGBX", (1, 2, 3, 4)), tiff("RGBX", (1, 2, 3, last)) + b" ") == MORE
    premultiplied = [tiff("RGBA", (0, 0, 0, alpha), extra=1) for alpha in (4, last)]
    assert said(premultiplied[0], premultiplied[1] + b" ") == MORE
    assert said(tiff("RGBX", (1, 2, 3, 4)), tiff("RGB", (1, 2, 3))) == MORE
    assert said(tiff("RGB", (1, 2, 3)), tiff("RGBX", (1, 2, 3, 4))) == MORE


def test_what_is_all_read_is_compared() -> None:
    for mode, pixel, other in (("RGBA", (1, 2, 3, 4), (1, 2, 3, 5)), ("CMYK", (1, 2, 3, 4), (1, 2, 3, 5))):
        assert said(tiff(mode, pixel), tiff(mode, pixel) + b" ") == EQUAL
        assert said(tiff(mode, pixel), tiff(mode, other)) == (
            f"pixel (0, 0): {pixel} → {other} (1 of 1 pixels differ, max |Δ| 1)"
        )
    deep = np.asarray([[1000, 2000]], np.uint16)
    for kind in ("TIFF", "PNG"):  # 16 bits of grey, all of which are kept
        assert said(image(deep, kind), image(deep, kind) + b" ") == EQUAL
        assert said(image(deep, kind), image(deep + np.uint16([0, 1]), kind)) == (
            "pixel (1, 0): 2000 → 2001 (1 of 2 pixels differ, max |Δ| 1)"
        )
    opaque = Image.new("RGBA", (2, 1), (9, 9, 9, 5))  # which BMP has no room for: the fourth byte means nothing
    handle = io.BytesIO()
    opaque.save(handle, "BMP")
    assert said(handle.getvalue(), handle.getvalue() + b" ") == EQUAL


def test_pixels_that_are_no_numbers_equal_themselves_and_are_infinitely_far_from_numbers() -> None:
    nan, inf = float("nan"), float("inf")
    one = tiff("F", nan, 1.0, 2.0)
    assert said(one, tiff("F", nan, 1.0, 2.0) + b" ") == EQUAL
    assert said(one, tiff("F", nan, 1.5, 2.0)) == "pixel (1, 0): 1.0 → 1.5 (1 of 3 pixels differ, max |Δ| 0.5)"
    assert said(one, tiff("F", 0.0, 1.0, 2.0)) == "pixel (0, 0): nan → 0.0 (1 of 3 pixels differ, max |Δ| inf)"
    assert said(one, tiff("F", nan, nan, 2.0)) == "pixel (1, 0): 1.0 → nan (1 of 3 pixels differ, max |Δ| inf)"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "max |Δ| inf" in said(tiff("F", inf), tiff("F", -inf))
        assert said(tiff("F", inf, inf), tiff("F", inf, inf) + b" ") == EQUAL
    signalling = struct.pack("<I", 0x7FA00000)  # which no arithmetic takes in silence
    loud = tiff("F", 7.0).replace(struct.pack("<f", 7.0), signalling)
    with np.errstate(all="raise"):
        assert said(loud, tiff("F", 1.0)) == "pixel (0, 0): nan → 1.0 (1 of 1 pixels differ, max |Δ| inf)"
        assert said(loud, loud + b" ") == EQUAL


def test_the_first_pixel_is_named_and_all_that_differ_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    other = GREY.copy()
    other[1, 2] += 3
    other[4, 7] -= 9
    expected = "pixel (2, 1): 10 → 13 (2 of 48 pixels differ, max |Δ| 9)"
    assert said(image(GREY), image(other)) == expected
    for block in (1, 10, 11, 40, 48):  # however many are looked at at once
        monkeypatch.setattr(images, "_BLOCK", block)
        assert said(image(GREY), image(other)) == expected
    far = GREY.copy()
    far[0, 1] += 1  # a |Δ| below 1 is no |Δ| of 1
    assert said(tiff("F", 0.25), tiff("F", 0.5)).endswith("max |Δ| 0.25)")


def frames(count: int, shift: int = 0) -> bytes:
    pictures = [Image.fromarray(GREY + np.uint8(10 * number)) for number in range(count)]
    pictures[-1] = Image.fromarray(GREY + np.uint8(10 * (count - 1) + shift))
    handle = io.BytesIO()
    pictures[0].save(handle, "TIFF", save_all=True, append_images=pictures[1:])
    return handle.getvalue()


def test_a_side_with_more_frames_differs_and_it_is_said_which() -> None:
    assert said(frames(3), frames(2)) == "more than 2 frames, and 2"
    assert said(frames(2), frames(3)) == "2 frames, and more"
    assert said(frames(3), frames(3, 1)).startswith("frame 2: pixel (0, 0): 20 → 21")


def test_frames_and_pixels_are_bounded_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MAX_FRAMES", 3)
    assert said(frames(2), frames(2) + b" ") == EQUAL
    assert said(frames(3), frames(3) + b" ") == f"{UNREAD}more than 3 frames are not decoded"
    monkeypatch.undo()
    monkeypatch.setattr(images, "_MAX_PIXELS", 2 * 48)  # of all frames together
    assert said(frames(2), frames(2) + b" ") == EQUAL
    assert said(frames(3), frames(3) + b" ") == f"{UNREAD}more than 96 are not decoded"
    monkeypatch.setattr(images, "_MAX_PIXELS", 47)
    assert said(image(GREY), image(GREY) + b" ") == f"{UNREAD}more than 47 are not decoded"
    monkeypatch.setattr(images, "_MAX_PIXELS", 48)
    assert said(image(GREY), image(GREY) + b" ") == EQUAL


def test_of_a_palette_its_colours_count_and_not_which_number_is_transparent() -> None:
    def painted(*numbers: int, transparent: int) -> bytes:
        made = Image.new("P", (2, 1))
        made.putdata(numbers)
        made.putpalette((9, 9, 9, 9, 9, 9, 0, 0, 0))
        handle = io.BytesIO()
        made.save(handle, "PNG", transparency=transparent)
        return handle.getvalue()

    assert said(painted(0, 2, transparent=0), painted(1, 2, transparent=1)) == EQUAL
    assert said(painted(0, 2, transparent=0), painted(0, 2, transparent=2)).startswith("pixel (0, 0): (9, 9, 9, 0)")
    assert said(image(COLOURS), image(COLOURS, transparency=(0, 0, 0))) == "another colour is transparent"


def test_a_large_image_is_refused_before_pillow_s_own_warning_is_heard(recwarn: pytest.WarningsRecorder) -> None:
    handle = io.BytesIO()
    Image.new("1", (10_000, 9_000)).save(handle, "PNG")
    data = handle.getvalue()
    assert said(data, data + b" ") == "pixels cannot be compared: more than 67,108,864 are not decoded"
    assert [str(one.message) for one in recwarn.list] == []


def test_what_pillow_says_of_a_broken_file_is_not_heard_and_whatever_is_said_next_is() -> None:
    handle = io.BytesIO()
    Image.fromarray(GREY).save(handle, "TIFF", software="x" * 20)
    data = handle.getvalue()
    at = data.index(struct.pack("<HHI", 305, 2, 21))
    broken = data[: at + 8] + struct.pack("<I", len(data)) + data[at + 12 :]  # the name lies beyond its end
    with pytest.warns(UserWarning, match="Truncated"), Image.open(io.BytesIO(broken)):
        pass
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert said(data, broken) == EQUAL
        warnings.warn("something else", stacklevel=1)
    assert [str(one.message) for one in heard] == ["something else"]


def test_without_pillow_nothing_is_called_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    found = compare_pixels("p", image(GREY), image(GREY) + b" ")
    assert found.result == "differs" and f"pip install {pip_words('images')}" in found.detail


def test_an_error_without_words_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_first_difference", fail)
    assert said(image(GREY), image(GREY) + b" ") == f"{UNREAD}MemoryError"
