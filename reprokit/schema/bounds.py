"""What a record has room for: limits that hold its writer and its reader together, and lists that end with a count.

One number, `MAX_RECORD`, is what is read; the budgets of the lists, with room for the rest, stay below it together.
What a list of a run lacks, its `left_out` says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import msgspec

from reprokit.core.canonical_json import canonical, spelled

__all__ = ["LARGE", "LOGGED", "MAX_RECORD", "MAX_SHOWN", "LeftOut", "cut", "cut_metrics"]

MAX_RECORD = 128 * 1024 * 1024  # bytes
MAX_SHOWN = 4 * 1024 * 1024  # bytes of a list that is for people, and of the metrics in a header
LARGE = 32 * 1024 * 1024  # bytes of the checkpoints, and of the outputs
LOGGED = "bytes of logged values"


class LeftOut(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a list of a record lacks.

    Attributes:
        what: The list: `undeclared`, `code.opened`.
        count: How many items.
        digest: SHA-256 of their canonical JSON, a line each, in their order.
    """

    what: str
    count: int
    digest: str


def cut_metrics(metrics: dict[str, float]) -> tuple[dict[str, float], LeftOut | None]:
    """Return the metrics that a record lists, and what it leaves out, if anything."""
    rows = [[name, metrics[name]] for name in sorted(metrics)]
    kept, gone = cut(rows, MAX_SHOWN)
    if gone is None:
        return metrics, None
    return {name: metrics[name] for name, _ in kept}, LeftOut(what="metrics", count=len(rows) - len(kept), digest=gone)


def cut(items: list[Any], budget: int, *, ends: bool = False) -> tuple[list[Any], str | None]:
    """Return the items that fit, and the digest of the others: those at the end, or with `ends` those in the middle."""
    lines = [canonical(spelled(msgspec.to_builtins(item))) for item in items]
    if sum(map(len, lines)) + len(lines) <= budget:
        return items, None
    first = _fitting(map(len, lines), budget // 2 if ends else budget)
    last = _fitting(map(len, reversed(lines)), budget // 2) if ends else 0
    stop = max(first, len(items) - last)
    digest = hashlib.sha256(b"".join(b"%s\n" % line for line in lines[first:stop])).hexdigest()
    return [*items[:first], *items[stop:]], digest


def _fitting(sizes: Iterable[int], budget: int) -> int:
    return sum(total <= budget for total in accumulate(size + 1 for size in sizes))
