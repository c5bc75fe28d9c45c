"""Compare two images by their pixels, decoded by Pillow where it is installed. Reads no files.

Both images may be a stranger's: only decoders inside Pillow are used, and an image is bounded before it is decoded.
"""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from reprokit.core.own_extras import pip_words
from reprokit.core.terminal_text import printable
from reprokit.schema.verdict import Comparison

__all__ = ["compare_pixels"]

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")  # none of them starts another program
_MAX_PIXELS = 64 * 1024 * 1024  # of all frames
_MAX_FRAMES = 1000
_BLOCK = 1 << 20  # pixels compared at once
_QUIET = logging.NullHandler()  # what Pillow has to say of a broken file is in the exception, too


def compare_pixels(path: str, left: bytes, right: bytes) -> Comparison:
    """Return how two images compare: `tolerated` if size, mode and every pixel of every frame are equal.

    Metadata is not compared: text, times, EXIF with its orientation, colour profiles, how long a frame is shown.
    """
    try:
        pillow = importlib.import_module("PIL.Image")
    except ImportError:
        detail = f"bytes differ, and pixels are compared only with Pillow: `pip install {pip_words('images')}`"
        return Comparison(what=path, result="differs", detail=detail)
    logging.getLogger("PIL").addHandler(_QUIET)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with _open(pillow, left) as one, _open(pillow, right) as other:
                found = _first_difference(one, other)
    except (pillow.DecompressionBombWarning, pillow.DecompressionBombError):
        found = f"pixels cannot be compared: more than {_MAX_PIXELS:,} are not decoded"
    except Exception as error:  # noqa: BLE001 - whatever a hostile file makes a decoder raise
        why = printable(str(error) or type(error).__name__, 200)
        found = f"bytes differ, and pixels cannot be compared: {why}"
    if found is not None:
        return Comparison(what=path, result="differs", detail=found)
    return Comparison(what=path, result="tolerated", detail="other bytes, every pixel equal (metadata is not compared)")


def _open(pillow: Any, data: bytes) -> Any:
    return pillow.open(io.BytesIO(data), formats=_FORMATS)


def _first_difference(one: Any, other: Any) -> str | None:
    """Return the first difference of two open images in words, None if there is none."""
    left = _MAX_PIXELS
    for frame in range(_MAX_FRAMES):
        there = [_seek(image, frame) for image in (one, other)]
        if not any(there):
            return None
        where = f"frame {frame}: " if frame else ""
        if not all(there):
            return f"{frame} frames, and more" if there[1] else f"more than {frame} frames, and {frame}"
        if one.size != other.size or one.mode != other.mode:
            return f"{where}{_kind(one)} → {_kind(other)}"
        left -= one.width * one.height
        if left < 0:
            raise ValueError(f"more than {_MAX_PIXELS:,} are not decoded")
        difference = _compare_frames(_decoded(one), _decoded(other), one.width)
        if difference is not None:
            return where + difference
        if one.info.get("transparency") != other.info.get("transparency") and one.mode != "P":
            return f"{where}another colour is transparent"
    raise ValueError(f"more than {_MAX_FRAMES:,} frames are not decoded")


def _seek(image: Any, frame: int) -> bool:
    try:
        image.seek(frame)
    except EOFError:
        return False
    return True


def _kind(image: Any) -> str:
    return f"{image.width} × {image.height} {image.mode}"


def _decoded(image: Any) -> npt.NDArray[Any]:
    """Return a frame's pixels, [height × width, channels]; a palette's colours in place of their numbers."""
    raw = {part for tile in image.tile for part in _words(tile[3])}
    eight_bits = not image.mode.startswith(("I", "F"))
    tiff = image.format == "TIFF"
    if any((";16" in word and eight_bits) or (tiff and (word.endswith("X") or "RGBa" in word)) for word in raw):
        raise ValueError("the image holds more bits or channels than Pillow reads")
    image.load()
    shown = image.convert("RGBA") if image.mode in ("P", "PA") else image
    return np.asarray(shown).reshape(image.width * image.height, -1)


def _words(arguments: Any) -> list[str]:
    parts = arguments if isinstance(arguments, tuple) else (arguments,)
    return [part for part in parts if isinstance(part, str)]


def _compare_frames(one: npt.NDArray[Any], other: npt.NDArray[Any], width: int) -> str | None:
    first, count, worst = "", 0, 0.0
    for start in range(0, len(one), _BLOCK):
        a, b = one[start : start + _BLOCK], other[start : start + _BLOCK]
        differ = (a != b) & ~((a != a) & (b != b))
        pixels = differ.any(axis=1)
        if not pixels.any():
            continue
        at = int(np.argmax(pixels))
        y, x = divmod(start + at, width)
        first = first or f"pixel ({x}, {y}): {_colour(a[at])} → {_colour(b[at])}"
        count += int(np.count_nonzero(pixels))
        with np.errstate(invalid="ignore"):
            delta = np.abs(a[differ].astype(np.float64) - b[differ])
        worst = max(worst, float(np.max(np.where(np.isnan(delta), np.inf, delta))))
    return f"{first} ({count:,} of {len(one):,} pixels differ, max |Δ| {worst:g})" if count else None


def _colour(pixel: npt.NDArray[Any]) -> str:
    values = [str(value) for value in pixel.tolist()]
    return values[0] if len(values) == 1 else f"({', '.join(values)})"
