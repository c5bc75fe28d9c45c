"""Files that somebody wrote to harm whoever reads them.

Every payload that runs anything makes the file CANARY. A name that starts with `may-` is of a file that chance changed,
or that does no harm: it may load. All others must be refused.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

__all__ = ["Call", "Corpus", "mutated"]

Corpus = Iterator[tuple[str, bytes]]


class Call:
    """Pickles as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.reduced = function, args

    def __reduce__(self) -> Any:
        return self.reduced


def mutated(whole: bytes, count: int, seed: int) -> Corpus:
    """Yield a sound file with bits turned, bytes written over, and pieces cut out, doubled or lost at its end."""
    draw = random.Random(seed)
    for number in range(count):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(len(data))
            match draw.randrange(5):
                case 0:
                    data[at] ^= 1 << draw.randrange(8)
                case 1:
                    data[at] = draw.choice(b"\0\x01\x7f\x80\xff(.Rcbtsu]}'\"0129-")
                case 2:
                    del data[at : at + draw.randrange(1, 9)]
                case 3:
                    data[at:at] = data[max(0, at - 8) : at]
                case _:
                    del data[max(at, 1) :]
            data = data or bytearray(b"\0")
        yield f"may-{number}", bytes(data)
