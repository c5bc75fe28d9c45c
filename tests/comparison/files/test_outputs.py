"""Outputs that differ in bytes: the first place that differs, or by which kinder measure they are equal."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.files import outputs
from reprokit.comparison.files.outputs import MAX_OUTPUT, compare_output
from reprokit.comparison.ladder import Side, Terms, compare
from reprokit.core.own_extras import pip_words
from reprokit.schema.recipe import OutputMode, Tolerance
from reprokit.schema.record import CheckpointEntry, OutputFacts, Record
from tests.conftest import RECIPE, SCRIPT, Project


def told(path: str, left: bytes, right: bytes, mode: Any = "values", **tolerances: float) -> tuple[str, str]:
    found = compare_output(path, mode, left, right, tolerances)
    assert found.what == path
    return found.result, found.detail


def values(left: Any, right: Any, **tolerances: float) -> tuple[str, str]:
    return told("m.json", json.dumps(left).encode(), json.dumps(right, indent=1).encode(), **tolerances)


def npy(array: Any, **options: Any) -> bytes:
    handle = io.BytesIO()
    np.save(handle, array, **options)
    return handle.getvalue()


def npz(**arrays: Any) -> bytes:
    handle = io.BytesIO()
    np.savez_compressed(handle, **arrays)
    return handle.getvalue()


def image(array: Any, kind: str = "PNG", **options: Any) -> bytes:
    handle = io.BytesIO()
    Image.fromarray(np.asarray(array)).save(handle, kind, **options)
    return handle.getvalue()


# ── values ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_value_that_differs_is_named_by_its_place() -> None:
    one = {"history": [{"loss": 0.5}, {"loss": 0.1}], "epochs": 2}
    other = {"epochs": 2, "history": [{"loss": 0.5}, {"loss": 0.2}]}
    assert values(one, other) == ("differs", "history[1].loss: 0.1 → 0.2 (1 of 3 values differ)")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (0.0, -0.0),
        (float("nan"), float("nan")),
        (float("inf"), float("inf")),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ],
)
def test_equal_values_in_other_bytes_are_tolerated(one: Any, other: Any) -> None:
    result, detail = told("m.json", json.dumps(one).encode(), json.dumps(other).encode() + b"\n")
    assert result == "tolerated"
    assert detail.startswith("other bytes, all ")


@pytest.mark.parametrize(
    ("one", "other", "detail"),
    [
        (True, 1, "True → 1 (1 of 1 values differ)"),
        ("1", 1, "'1' → 1 (1 of 1 values differ)"),
        ({"a": None}, {}, "a: None → missing (1 of 1 values differ)"),
        ([], {}, "a list of 0 → an object of 0 (1 of 1 values differ)"),
        ([1, 2], [1], "[1]: 2 → missing (1 of 2 values differ)"),
        ({"a.b": 1}, {"a": {"b": 1}}, "a.b: 1 → missing (2 of 2 values differ)"),
        (float("nan"), 1, "nan → 1 (1 of 1 values differ)"),
        (float("inf"), float("-inf"), "inf → -inf (1 of 1 values differ)"),
        (2**64, 2**64 + 1, "18446744073709551616 → 18446744073709551617 (1 of 1 values differ)"),
        ("a\x1b[31m\ud800", "b", "'a\\x1b[31m\\ud800' → 'b' (1 of 1 values differ)"),
        ({"k\x1b\n\u202e": 1}, {}, "k\\x1b\\n\\u202e: 1 → missing (1 of 1 values differ)"),
        ("x" * 10**6, 0, f"'{'x' * 58}… → 0 (1 of 1 values differ)"),
    ],
)
def test_what_is_no_equal_value(one: Any, other: Any, detail: str) -> None:
    assert values(one, other, b=1.0) == ("differs", detail)


def test_the_tolerance_is_that_of_the_last_key() -> None:
    one, other = {"m": {"loss": 1.0, "at": 3}}, {"m": {"loss": 1.05, "at": 3}}
    assert values(one, other, loss=0.1) == ("tolerated", "other bytes, all 2 values within 0.05")
    assert values(one, other, m=0.1)[0] == "differs"
    assert values({"loss": [1, [2]]}, {"loss": [1, [2.05]]}, loss=0.1)[0] == "tolerated"
    assert values({"loss": 10**400}, {"loss": 0.5}, loss=0.1)[0] == "differs", "beyond the floats"
    assert values({"loss": True}, {"loss": 1}, loss=9)[0] == "differs"
    assert values({"loss": float("nan")}, {"loss": 1.0}, loss=9)[0] == "differs"


def test_json_lines_are_compared_line_by_line() -> None:
    one, other = b'{"loss": 1}\n\n{"loss": 2}\n', b'{"loss": 1.0}\r\n{"loss": 3}'
    assert told("m.jsonl", one, other) == ("differs", "[1].loss: 2 → 3 (1 of 2 values differ)")
    assert told("m.jsonl", b"null\n", b"") == ("differs", "[0]: None → missing (1 of 1 values differ)")


def test_a_table_names_row_and_column() -> None:
    one, other = b"epoch,loss\n0,0.50\n1,0.1\n", b"epoch,loss\r\n0,0.5\r\n1,0.2\r\n"
    assert told("m.csv", one, other) == ("differs", "row 2, loss: 0.1 → 0.2 (1 of 6 values differ)")
    assert told("m.csv", one, other, loss=0.11) == ("tolerated", "other bytes, all 6 values within 0.1")
    assert told("m.tsv", b"1\t2\n", b"1\t3\n") == ("differs", "row 1, column 2: 2 → 3 (1 of 2 values differ)")
    assert told("m.csv", b"a,b\n1,2\n", b"b,a\n1,2\n")[1].startswith("row 1, column 1: 'a' → 'b'")


@pytest.mark.parametrize(
    ("longer", "shorter", "place", "extra"),
    [
        (b"a,b\n1,2\n3,4\n", b"a,b\n1,2\n", "row 2, a: ", "3"),
        (b"1,2\n3,4\n", b"1,2\n", "row 2, column 1: ", "3"),
        (b"a,b\n1,2\n,\n", b"a,b\n1,2\n", "row 2, a: ", "''"),
        (b"a,b\n1,2,9\n", b"a,b\n1,2\n", "row 1, column 3: ", "9"),
        (b"a,b,c\n1,2,9\n", b"a,b\n1,2\n", "row 1, column 3: ", "'c'"),
        (b"a,b\n1,2,\n", b"a,b\n1,2\n", "row 1, column 3: ", "''"),
        (b"a\n", b"", "row 1, column 1: ", "'a'"),
        (b"1\n", b"\n\n", "row 1, column 1: ", "1"),
    ],
)
def test_a_row_or_a_column_more_or_fewer_is_never_equal(longer: bytes, shorter: bytes, place: str, extra: str) -> None:
    everything = {"a": 1e300, "b": 1e300, "c": 1e300, "": 1e300}
    for path, one, other in (
        ("m.csv", longer, shorter),
        ("m.tsv", *(s.replace(b",", b"\t") for s in (longer, shorter))),
    ):
        fewer, more = told(path, one, other, **everything), told(path, other, one, **everything)
        assert (fewer[0], more[0]) == ("differs", "differs")
        assert fewer[1].startswith(f"{place}{extra} → missing (")
        assert more[1].startswith(f"{place}missing → {extra} (")


def test_a_blank_line_is_no_row_wherever_it_stands() -> None:
    one, other = b"a,b\n1,2\n3,4\n", b"\na,b\n1,2\n\n3,4\n\n\n"
    assert told("m.csv", one, other) == told("m.csv", other, one) == ("tolerated", "other bytes, all 6 values equal")


@pytest.mark.parametrize(
    ("one", "other"),
    [("9007199254740993", "9007199254740992"), ("007", "7"), ("1e999", "2e999"), ("1_0", "10"), ("é", "e")],
)
def test_cells_that_a_float_would_make_equal_differ(one: str, other: str) -> None:
    assert told("m.csv", f"x\n{one}\n".encode(), f"x\n{other}\n".encode())[0] == "differs"


def test_arrays_are_compared_element_by_element() -> None:
    one = np.arange(12, dtype=np.float32).reshape(3, 4)
    other = one.copy()
    other[1, 2] = other[2, 3] = 0.5
    assert told("a.npy", npy(one), npy(other)) == ("differs", "[1, 2]: 6.0 → 0.5 (2 of 12 values differ)")
    assert told("a.npy", npy(one), npy(np.asfortranarray(one))) == ("tolerated", "other bytes, all 12 values equal")
    assert told("a.npy", npy(one), npy(one.astype(">f4")))[0] == "tolerated"
    assert told("a.npy", npy(one), npy(one.astype(np.float64)))[1] == (
        "float32 [3, 4] → float64 [3, 4] (1 of 1 values differ)"
    )
    assert told("a.npy", npy(one), npy(one.reshape(4, 3)))[0] == "differs"
    assert told("a.npy", npy(np.array(1.0)), npy(np.array(2.0)))[1] == "[]: 1.0 → 2.0 (1 of 1 values differ)"
    nan = np.array([np.nan, 1.0])
    assert told("a.npy", npy(nan), npy(nan.astype(">f8")))[0] == "tolerated"


@pytest.mark.parametrize("kind", ["<f8", "<f4", "<f2", "<c16"])
def test_nan_against_a_number_is_beyond_every_tolerance(kind: str) -> None:
    sound, broken = np.array([1.0, 2.0], kind), np.array([1.0, np.nan], kind)
    for one, other in ((sound, broken), (broken, sound)):
        assert told("a.npy", npy(one), npy(other), **{"": 1e300})[0] == "differs"
        result, detail = told("a.npz", npz(x=one), npz(x=other), x=1e300)
        assert (result, detail.endswith("(1 of 2 values differ)")) == ("differs", True)
        assert told("m.csv", f"x\n{one[1].real}\n".encode(), f"x\n{other[1].real}\n".encode(), x=1e300)[0] == "differs"
    assert told("a.npz", npz(x=broken), npz(x=broken + 0.5), x=1.0)[0] == "tolerated"


@pytest.mark.parametrize(
    ("path", "spell"),
    [
        ("m.json", lambda number: json.dumps({"x": number}).encode()),
        ("m.jsonl", lambda number: json.dumps({"x": number}).encode()),
        ("m.csv", lambda number: f"x\n{number}\n".encode()),
        ("m.npz", lambda number: npz(x=np.array([number]))),
    ],
)
def test_a_distance_of_just_the_tolerance_is_allowed_and_no_more(path: str, spell: Callable[[float], bytes]) -> None:
    for near, far in ((1.25, 1.25 + 2**-50), (0.75, 0.75 - 2**-50)):
        result, detail = told(path, spell(1.0), spell(near), x=0.25)
        assert (result, detail.endswith(" within 0.25")) == ("tolerated", True)
        assert told(path, spell(1.0), spell(far), x=0.25)[0] == "differs"
    whole = told(path, spell(7), spell(9), x=2), told(path, spell(7), spell(10), x=2)
    assert [result for result, _ in whole] == ["tolerated", "differs"]


def test_archives_of_arrays_have_tolerances_by_name() -> None:
    one, other = {"loss": np.array([1.0, 2.0])}, {"loss": np.array([1.0, 2.05])}
    assert told("a.npz", npz(**one), npz(**other)) == ("differs", "loss[1]: 2.0 → 2.05 (1 of 2 values differ)")
    assert told("a.npz", npz(**one), npz(**other), loss=0.1) == ("tolerated", "other bytes, all 2 values within 0.05")
    assert told("a.npz", npz(**one), npz(**one, more=np.zeros(3, bool))) == (
        "differs", "more: missing → bool [3] (1 of 3 values differ)",
    )  # fmt: skip
    low, high = np.array([-(2**63)]), np.array([2**63 - 1])
    assert told("a.npz", npz(n=low), npz(n=high), n=1.0)[0] == "differs", "a difference that overflows int64"


# ── what a stranger wrote ─────────────────────────────────────────────────────────────────────────────────────────────


def _header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


def _zip(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    handle = io.BytesIO()
    with zipfile.ZipFile(handle, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return handle.getvalue()


def _bomb() -> bytes:
    """An archive of 4 KB whose directory says what it unpacks to: 512 MiB."""
    data = bytearray(_zip({"a.npy": bytes(1 << 20)}))
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 512 << 20)
    return bytes(data)


@pytest.mark.parametrize(
    ("path", "data", "why"),
    [
        ("a.json", b"[" * 100_000 + b"]" * 100_000, ""),
        ("a.json", b"[" * 80 + b"]" * 80, "nests deeper than 64 levels"),
        ("a.json", b'{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ("a.json", b"9" * 5000, "digits"),
        ("a.json", b"1e999", "1e999 is out of range"),
        ("a.json", b"", "Expecting value"),
        ("a.json", b"\xff\xfe\x00", ""),
        ("a.json", b"[1" + b",1" * (33 << 20) + b"]", "more than 67,108,864 bytes are not read"),
        ("a.json", b"[" + b"[]," * 5_000_000 + b"[]]", "more than 10,000,000 values are not read"),
        ("a.jsonl", b"{}\n{", "Expecting"),
        ("a.csv", b'"' + b"x" * 200_000 + b'"', "field larger than field limit"),
        ("a.csv", b'"open', "unexpected end of data"),
        ("a.csv", b"\xff\xfe,1", "invalid start byte"),
        ("a.npy", npy(np.array([{}], dtype=object), allow_pickle=True), "objects are not unpickled"),
        ("a.npy", npy(np.zeros(3, [("x", "f4")])), "elements of type 'V' are not compared"),
        ("a.npy", _header("(1000000000000,)"), "the header does not fit the bytes that follow"),
        ("a.npy", _header("(-1, -1)") + bytes(4), "the header does not fit"),
        ("a.npy", _header("(1000000000000,)", "'<U0'"), "are not compared by value"),
        ("a.npy", _header("(" * 90), ""),
        ("a.npy", b"\x93NUMPY\x09\x00", ""),
        ("a.npy", b"", ""),
        ("a.npz", b"PK", "not an .npz file"),
        ("a.npz", _bomb(), "unpacked, the arrays have more than 268,435,456 bytes"),
        ("a.npz", _zip({"a.npy": npy(np.zeros(1))}, zipfile.ZIP_LZMA), "packed otherwise than by deflate"),
        ("a.npz", _zip({"../a.txt": b""}), "a member is no array"),
        ("a.npz", _zip({f"{i}.npy": b"" for i in range(1001)}), "more than 1,000 arrays"),
        ("a.npz", _zip({"x.npy": npy(np.zeros(9))}, zipfile.ZIP_STORED).replace(b"NUMPY", b"NUMPI"), ""),
        ("a.npz", b"PK\x01\x02" * 3000, "more than 1,000 arrays"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_differs_and_says_why(path: str, data: bytes, why: str) -> None:
    good = {"json": b"1", "jsonl": b"1", "csv": b"1", "npy": npy(np.zeros(1)), "npz": npz(a=np.zeros(1))}
    for left, right in ((data, good[path[2:]]), (data, data + b" ")):
        result, detail = told(path, left, right)
        assert result == "differs"
        assert why in detail or right != good[path[2:]]
        assert len(detail) < 400 and detail.isprintable()


def test_a_damaged_member_of_an_archive_differs() -> None:
    good = npz(a=np.arange(100.0))
    for at in range(30, len(good) - 60, 7):
        bad = good[:at] + bytes([good[at] ^ 0x55]) + good[at + 1 :]
        assert told("a.npz", good, bad)[0] in ("differs", "tolerated")  # a flipped date harms no value
    assert told("a.npz", good, good[:-30])[0] == "differs"


def test_a_nul_in_a_table_is_a_value_like_any_other() -> None:
    assert told("m.csv", b"a\x00,1\n", b"a,1\n") == (
        "differs",
        "row 1, column 1: 'a\\x00' → 'a' (1 of 2 values differ)",
    )


# ── pixels ────────────────────────────────────────────────────────────────────────────────────────────────────────────

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)
COLOURS = np.stack([GREY, GREY * 2, GREY * 3], axis=-1)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_one_pixel_of_any_format_is_found(kind: str) -> None:
    other = GREY.copy()
    other[4, 3] += 2
    options = {"lossless": True} if kind == "WEBP" else {}
    result, detail = told("p", image(GREY, kind, **options), image(other, kind, **options), "pixels")
    assert result == "differs"
    assert detail.startswith("pixel (3, 4): ")
    assert detail.endswith(" (1 of 48 pixels differ, max |Δ| 2)")


def test_equal_pixels_in_other_bytes_are_tolerated() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "another version")
    expected = ("tolerated", "other bytes, every pixel equal (metadata is not compared)")
    for array in (GREY, COLOURS, COLOURS[:, :, :2].repeat(2, 2), GREY > 9, GREY.astype(np.uint16) * 999):
        assert told("p.png", image(array), image(array, compress_level=0, pnginfo=text), "pixels") == expected
    assert told("p", image(COLOURS), image(COLOURS, "BMP"), "pixels") == expected
    jpeg = image(COLOURS, "JPEG")
    assert told("p.jpg", jpeg, image(COLOURS, "JPEG", comment=b"x"), "pixels") == expected


def test_size_mode_and_colours_count() -> None:
    assert told("p", image(GREY), image(GREY[:5]), "pixels") == ("differs", "8 × 6 L → 8 × 5 L")
    assert told("p", image(GREY), image(COLOURS), "pixels") == ("differs", "8 × 6 L → 8 × 6 RGB")
    result, detail = told("p", image(COLOURS), image(COLOURS + np.uint8([0, 0, 1])), "pixels")
    assert (result, detail) == ("differs", "pixel (0, 0): (0, 0, 0) → (0, 0, 1) (48 of 48 pixels differ, max |Δ| 1)")
    assert told("p", image(GREY), image(GREY, transparency=3), "pixels") == (
        "differs", "another colour is transparent",
    )  # fmt: skip


def test_a_palette_is_colours_and_not_numbers() -> None:
    def painted(*colours: int, numbers: list[int]) -> bytes:
        made = Image.new("P", (2, 1))
        made.putdata(numbers)
        made.putpalette(colours)
        handle = io.BytesIO()
        made.save(handle, "PNG")
        return handle.getvalue()

    one = painted(255, 0, 0, 0, 0, 255, numbers=[0, 1])
    assert told("p", one, painted(0, 0, 255, 255, 0, 0, numbers=[1, 0]), "pixels")[0] == "tolerated"
    assert told("p", one, painted(255, 0, 0, 0, 0, 254, numbers=[0, 1]), "pixels")[1].startswith("pixel (1, 0): ")


def test_every_frame_is_compared() -> None:
    def animated(*last: int) -> bytes:
        frames = [Image.fromarray(GREY + np.uint8(shift)) for shift in (0, 40, *last)]
        handle = io.BytesIO()
        frames[0].save(handle, "TIFF", save_all=True, append_images=frames[1:])
        return handle.getvalue()

    assert told("p", animated(80), animated(81), "pixels")[1].startswith("frame 2: pixel (0, 0): 80 → 81 (48 of 48 ")
    assert told("p", animated(80), animated(), "pixels") == ("differs", "more than 2 frames, and 2")


def _png(width: int, height: int, depth: int, colours: int, data: bytes) -> bytes:
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)),
        (b"IDAT", data),
        (b"IEND", b""),
    ]
    packed = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_bits_that_pillow_drops_are_not_called_equal() -> None:
    one, other = (_png(1, 1, 16, 2, zlib.compress(bytes([0, 9, 9, 9, 9, 9, low]))) for low in (1, 2))
    result, detail = told("p", one, other, "pixels")
    assert (result, detail) == (
        "differs",
        "bytes differ, and pixels cannot be compared: the image holds more bits or channels than Pillow reads",
    )


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (_png(60_000, 60_000, 8, 0, b""), "pixels cannot be compared: more than 67,108,864 are not decoded"),
        (_png(9_500, 9_500, 8, 0, b""), "pixels cannot be compared: more than 67,108,864 are not decoded"),
        (_png(8_500, 8_500, 8, 0, b""), "more than 67,108,864 are not decoded"),
        (image(COLOURS)[:-40], "truncated"),
        (_png(8, 6, 8, 0, b"junk"), ""),
        (_png(0, 6, 8, 0, b""), ""),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n", "cannot identify image file"),
        (b"", "cannot identify image file"),
    ],
)
def test_a_broken_image_or_a_bomb_differs_and_says_why(data: bytes, why: str) -> None:
    for left, right in ((data, data + b" "), (image(GREY), data), (data, image(GREY))):
        result, detail = told("p.png", left, right, "pixels")
        assert result == "differs"
        if left == data and right == data + b" ":
            assert why in detail
        assert len(detail) < 400 and detail.isprintable()


def test_without_pillow_pixels_differ_and_it_is_said_what_to_install() -> None:
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from reprokit.comparison.files.outputs import compare_output\n"
        "print(compare_output('p', 'pixels', b'1', b'2', {}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "result='differs'" in done.stdout
    assert f"pixels are compared only with Pillow: `pip install {pip_words('images')}`" in done.stdout


# ── lines and bytes ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("left", "right", "result", "detail"),
    [
        (b"a\r\nb\n", b"a\nb", "tolerated", "other bytes, all 2 lines equal (how they end is not compared)"),
        (b"a\rb", b"a\nb", "tolerated", "other bytes, all 2 lines equal (how they end is not compared)"),
        (b"a\nb\n", b"a\nc\nd\n", "differs", "line 2: 'b' → 'c' (2 of 3 lines differ)"),
        (b"a\n\n", b"a\n", "differs", "line 2: '' → missing (1 of 2 lines differ)"),
        (b"a\x0bb", b"a\nb", "differs", "line 1: 'a\\x0bb' → 'a' (2 of 2 lines differ)"),
        (b"\x1b[2J", b"\x1b[3J", "differs", "line 1: '\\x1b[2J' → '\\x1b[3J' (1 of 1 lines differ)"),
        (b"x" * 90 + b"1", b"x" * 90 + b"2", "differs",
         f"line 1: '…{'x' * 20}1' → '…{'x' * 20}2' (1 of 1 lines differ)"),
        (b"\xff\x00", b"\xff\x01", "differs", "not UTF-8 text: 2 and 2 bytes, the first difference at byte 1 (from 0)"),
        (b"a\n" * 10**6, b"a\n" * (10**6 - 1) + b"b", "differs",
         "line 1,000,000: 'a' → 'b' (1 of 1,000,000 lines differ)"),
    ],
)  # fmt: skip
def test_lines(left: bytes, right: bytes, result: str, detail: str) -> None:
    assert told("log.txt", left, right, "lines") == (result, detail)


def test_bytes_say_where_they_differ_first() -> None:
    assert told("x", b"abc", b"abd", "bytes") == ("differs", "3 and 3 bytes, the first difference at byte 2 (from 0)")
    assert told("x", b"abc", b"ab", "bytes") == ("differs", "3 and 2 bytes, the first difference at byte 2 (from 0)")
    long = bytes(40_000_000)
    assert told("x", long, long[:-1] + b"1", "bytes")[1].endswith("byte 39,999,999 (from 0)")
    assert told("x", b"abc", b"abc", "bytes") == ("match", "3 bytes")


# ── any of them, broken ───────────────────────────────────────────────────────────────────────────────────────────────

WHOLE = [
    ("a.json", "values", b'{"a": [1, 2.5e3, null, "x"], "b": {"c": NaN}}'),
    ("a.jsonl", "values", b'{"a": 1}\n[2]\n'),
    ("a.csv", "values", b'a,b\n1,2.5\n"x",nan\n'),
    ("a.npy", "values", npy(np.arange(5.0))),
    ("a.npz", "values", npz(a=np.arange(5), b=np.array(["x", "yy"]))),
    ("a.txt", "lines", "é\nb\r\n".encode()),
    *((f"a.{kind}", "pixels", image(COLOURS, kind)) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")),
]


def settled(value: Any) -> Any:
    """Return a value whose NaNs are equal."""
    if isinstance(value, float) and value != value:
        return "NaN"
    if isinstance(value, dict):
        return {key: settled(item) for key, item in value.items()}
    return [settled(item) for item in value] if isinstance(value, list | tuple) else value


def number_in(cell: str) -> Any:
    try:
        return settled(float(cell))
    except ValueError:
        return cell


def read_plainly(path: str, data: bytes) -> Any:
    """Return what a file holds as the usual reader has it."""
    kind = path.rpartition(".")[2]
    if kind == "json":
        return settled(json.loads(data))
    if kind == "jsonl":
        return [settled(json.loads(line)) for line in data.split(b"\n") if line.strip()]
    if kind == "csv":
        rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        return [[number_in(cell) for cell in row] for row in rows if row]
    if kind == "txt":
        return data.decode().splitlines()
    if kind in ("npy", "npz"):
        found = np.load(io.BytesIO(data))
        arrays = {"": found} if kind == "npy" else {name: found[name] for name in found.files}
        return {name: (array.shape, settled(array.tolist())) for name, array in arrays.items()}
    frames = []
    with Image.open(io.BytesIO(data)) as opened:
        for number in range(getattr(opened, "n_frames", 1)):
            opened.seek(number)
            frames.append(np.asarray(opened.convert("RGBA")).tobytes())
    return frames


@pytest.mark.parametrize(("path", "mode", "whole"), WHOLE, ids=[path for path, _, _ in WHOLE])
def test_bytes_changed_at_random_never_match_and_never_raise(path: str, mode: str, whole: bytes) -> None:
    rng = random.Random(path)
    for _ in range(int(200 * float(os.environ.get("REPROKIT_TEST_SCALE", "1")))):
        broken = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at, length = rng.randrange(len(broken)), rng.randint(0, 8)
            broken[at : at + rng.choice([0, 1, 1, 1, length])] = rng.randbytes(rng.choice([0, 1, 1, 1, length])) or b"x"
        if broken != whole:
            result, detail = told(path, whole, bytes(broken), mode)
            assert result == "differs" or read_plainly(path, bytes(broken)) == read_plainly(path, whole)
            assert result in ("tolerated", "differs")
            assert len(detail) < 400 and detail.isprintable()


def _side(content: bytes, **facts: Any) -> Side:
    needed = {"name": "n", "status": "finished", "lock_hash": None, "code": None, "environment": None}
    outputs = [OutputFacts(path="x", **facts)]
    record = Record(run_id="20260102-030405-aaaaaa", started="2026-01-02T03:04:05.000Z", outputs=outputs, **needed)

    def load(entry: CheckpointEntry) -> Checkpoint:
        raise AssertionError(entry)

    def output(path: str) -> bytes:
        assert content, "it was not to be read"
        return content

    return Side(record=record, lock=None, load=load, listed=load, output=output)


def test_an_output_too_large_to_read_differs_by_its_digest() -> None:
    sides = [_side(b"", size=MAX_OUTPUT + 1, digest=f"sha2-256-chunked:{n}") for n in "ab"]
    verdict = compare(*sides, Terms(tolerance=Tolerance(), relaxed=[]), causes=[])
    assert verdict.verdict == "DIVERGED"
    assert verdict.comparisons[0].detail == "268,435,457 and 268,435,457 bytes, too many to read"


def test_outputs_without_digests_are_not_equal_for_that() -> None:
    verdict = compare(_side(b"a"), _side(b"b"), Terms(tolerance=Tolerance(), relaxed=[]), causes=[])
    assert (verdict.verdict, verdict.comparisons[0].result) == ("DIVERGED", "differs")


# ── real runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────

WRITES = """
from PIL import Image, PngImagePlugin
kind = [name for name in ("kinder", "worse") if os.path.exists(os.environ["MARK"] + name)]
harm = "worse" in kind
os.makedirs("plots")
open("history.json", "w").write(json.dumps([{"loss": 0.5}, {"loss": 0.1 + harm}], indent=2 if kind else None))
text = PngImagePlugin.PngInfo()
text.add_text("kind", str(kind))
for name in "ab":
    Image.new("L", (4, 3), 7 + (harm and name == "b")).save(f"plots/{name}.png", pnginfo=text)
open("log.txt", "w", newline="").write(("one\\r\\ntwo" if kind else "one\\ntwo\\n") + "!" * harm)
open("raw.bin", "wb").write(bytes([1, 2, 3 + harm]))
open("time.txt", "w").write(str(kind))
if harm:
    os.makedirs("odd")
open("odd/x" if harm else "odd", "w").close()
"""
DECLARED = """[metrics.json, {path: history.json, compare: values}, {path: plots/, compare: pixels},
  {path: log.txt, compare: lines}, raw.bin, {path: time.txt, compare: ignore}, odd]"""


def test_a_run_is_reproduced_by_the_modes_that_its_recipe_declares(project: Project) -> None:
    project.python = sys.executable  # which has Pillow
    mark = project.base / "mark-"
    recipe = RECIPE.replace("threads: 1", f"threads: 1, variables: {{MARK: {mark}}}")
    project.write("recipe.yaml", recipe.replace("[metrics.json]", DECLARED))
    project.write("train.py", SCRIPT.replace("HOOK", "pass") + WRITES)
    project.commit()
    first = project.json("run", "recipe.yaml")["run_id"]
    (project.base / "mark-kinder").touch()
    verdict = project.json("reproduce", first)
    found = {line["what"]: (line["result"], line["detail"]) for line in verdict["comparisons"]}
    assert verdict["verdict"] == "TENSOR-TOLERANCE", "equal by a kinder measure is not bitwise"
    assert found["checkpoints"] == ("match", "3 of 3 equal in every bit")
    assert found["history.json"] == ("tolerated", "other bytes, all 2 values equal")
    assert found["plots/a.png"] == ("tolerated", "other bytes, every pixel equal (metadata is not compared)")
    assert found["log.txt"][0] == "tolerated"
    assert found["raw.bin"] == ("match", "3 bytes")
    assert found["time.txt"][0] == "ignored"
    (project.base / "mark-worse").touch()
    second = project.json("run", "recipe.yaml")["run_id"]
    verdict = project.json("diff", first, second)
    assert verdict["verdict"] == "DIVERGED"
    assert verdict["first_divergence"]["what"] == "output history.json"
    found = {line["what"]: (line["result"], line["detail"]) for line in verdict["comparisons"]}
    assert found["history.json"] == ("differs", "[1].loss: 0.1 → 1.1 (1 of 2 values differ)")
    assert found["plots/a.png"][0] == "tolerated"
    assert found["plots/b.png"] == ("differs", "pixel (0, 0): 7 → 8 (12 of 12 pixels differ, max |Δ| 1)")
    assert found["log.txt"] == ("differs", "line 2: 'two' → 'two!' (1 of 2 lines differ)")
    assert found["raw.bin"] == ("differs", "3 and 3 bytes, the first difference at byte 2 (from 0)")
    assert found["odd"] == ("missing", "the repetition has a folder there")
    assert found["odd/x"] == ("missing", "the original has a file odd instead")


@pytest.mark.parametrize("mode", [mode for mode in get_args(OutputMode) if mode != "ignore"])
def test_every_word_of_the_recipe_compares_what_is_not_equal(mode: OutputMode) -> None:
    assert compare_output("x", mode, b"\xff1", b"\xff1", {}).result == "match"
    assert compare_output("x", mode, b"\xff1", b"\xff2", {}).result == "differs"


def test_too_long_texts_are_compared_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MAX_TEXT", 4)
    assert told("a.txt", b"abc\n", b"abd\n", "lines") == ("differs", "line 1: 'abc' → 'abd' (1 of 1 lines differ)")
    for one, other in ((b"abc\n", b"abdd\n"), (b"abdd\n", b"abc\n")):
        result, detail = told("a.txt", one, other, "lines")
        assert (result, detail.startswith("more than 4 bytes are not read as lines: ")) == ("differs", True)


def test_no_time_equals_no_time_and_nothing_else() -> None:
    def again(array: Any) -> bytes:
        handle = io.BytesIO()
        np.lib.format.write_array(handle, array, version=(2, 0))
        return handle.getvalue()

    nat = np.array(["NaT", "2026-01-02"], "M8[D]")
    assert told("a.npy", npy(nat), again(nat))[0] == "tolerated"
    assert told("a.npy", npy(nat), npy(nat[::-1].copy()))[0] == "differs"
    empty = np.zeros((0, 3))
    assert told("a.npy", npy(empty), again(empty))[0] == "tolerated"


def test_a_list_against_less_of_one_and_against_none() -> None:
    assert values([], [1]) == ("differs", "[0]: missing → 1 (1 of 1 values differ)")
    assert values({}, {"a": 1}) == ("differs", "a: missing → 1 (1 of 1 values differ)")
    for one, other, detail in (
        (3, [1], "3 → a list of 1"),
        ([1], 3, "a list of 1 → 3"),
        ({"a": 1}, [1], "an object of 1"),
    ):
        result, told_ = values(one, other)
        assert result == "differs" and told_.startswith(detail)


def test_a_tolerance_is_about_numbers_alone() -> None:
    for one, other in ((["x"], ["y"]), ([True], [False])):
        result, detail = told("a.npz", npz(a=np.array(one)), npz(a=np.array(other)), a=9.0)
        assert (result, detail.startswith("a[0]: ")) == ("differs", True)
