"""The one door for a stranger's text on its way to a terminal: nothing in it moves a cursor, or begins a line."""

from __future__ import annotations

import codecs
import re

__all__ = ["Tamer", "continued", "one_line", "printable", "tame", "tame_json"]

_WILD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb]"
)
_BREAKS = re.compile("[\n\t]")


def printable(text: str, limit: int = 60) -> str:
    """Return a stranger's text for a terminal: nothing in it moves the cursor, and it is short."""
    cut = text[: limit + 1]
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def tame(text: str) -> str:
    """Return text for a terminal in which no stranger's character moves the cursor, colours, or turns the reading.

    Line feeds and tabs stay: what may have none goes through `one_line` first.
    """
    return _WILD.sub(_spelled, text)


def one_line(text: str, limit: int | None = None) -> str:
    """Return the same in one line: a line feed is spelled, so that no value of a row forges another row.

    Args:
        limit: Of characters; what is longer is cut.
    """
    cut = text if limit is None or len(text) <= limit else text[: limit - 1] + "…"
    return _BREAKS.sub(_spelled, tame(cut))


def continued(text: str) -> str:
    """Return a message of several lines, those after the first marked: none of them can pass for another message."""
    return tame(text).replace("\n", "\n  | ")


def tame_json(text: str) -> str:
    """Return JSON of the same value in which such characters are spelled as JSON spells them."""
    return _WILD.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Tamer:
    """Tames what a stranger's script writes, block by block; carriage returns, by which bars are drawn, stay."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, data: bytes) -> bytes:
        lines = self._decoder.decode(data).split("\r")
        return "\r".join(map(tame, lines)).encode()


def _spelled(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
