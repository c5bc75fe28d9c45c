"""Nothing that a stranger wrote moves a cursor, turns the reading, or begins a line of its own."""

from __future__ import annotations

import json
import unicodedata

import pytest

from reprokit.core.terminal_text import Tamer, continued, one_line, printable, tame, tame_json

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
EVERY = "".join(map(chr, range(0x20))) + "\x7f" + "".join(map(chr, range(0x80, 0xA0))) + BIDI + "\u2028\u2029\ud800"


def _moves(text: str) -> str:
    """Return what of a text a terminal would act on, by Unicode's own tables."""
    turning = {"R", "AL", "LRE", "LRO", "RLE", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return "".join(
        c for c in text
        if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")
        or (unicodedata.category(c) == "Cf" and unicodedata.bidirectional(c) in turning)
    )  # fmt: skip


@pytest.mark.parametrize("character", EVERY)
def test_every_character_that_a_terminal_acts_on_is_spelled(character: str) -> None:
    assert set(_moves(tame(f"a{character}b"))) <= {"\n", "\t"}
    for text in (one_line(f"a{character}b"), printable(f"a{character}b")):
        assert _moves(text) == ""
        assert text.startswith("a\\")
    written = json.dumps(f"a{character}b", ensure_ascii=False)
    assert _moves(tame_json(written)) == ""
    assert json.loads(tame_json(written)) == f"a{character}b"


def test_other_text_stays() -> None:
    text = "naïve 日本語 ✓ → 😀 שלום"
    assert (tame(text), one_line(text), tame_json(text)) == (text, text, text)


def test_lines_of_a_message_after_the_first_are_marked() -> None:
    assert continued("error\n  verdict BITWISE\n\x1b[A") == "error\n  |   verdict BITWISE\n  | \\x1b[A"


def test_what_a_script_writes_is_tamed_across_blocks() -> None:
    data = "50 %\r100 % é 日\x1b]0;title\x07\u202e\n".encode()
    for cut in range(len(data)):
        tamer = Tamer()
        assert (tamer(data[:cut]) + tamer(data[cut:])).decode() == "50 %\r100 % é 日\\x1b]0;title\\x07\\u202e\n"
