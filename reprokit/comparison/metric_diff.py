"""How the metrics of two runs differ: numbers, what is tolerated of them, and what was logged between checkpoints.

Reads no files; what was logged comes from the caller, who is asked only if the digests of two records differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import NamedTuple

from reprokit.comparison.record_check import same_number
from reprokit.errors import NotFoundError
from reprokit.runs.logged import Series, counted, logged_apart
from reprokit.schema.bounds import LOGGED
from reprokit.schema.record import Record

__all__ = ["LoggedDiff", "apart", "is_inside", "logged_differences", "numbers"]

Logged = Callable[[], Mapping[str, Series]]


class LoggedDiff(NamedTuple):
    """A metric of which two runs logged other values.

    Attributes:
        first: Which, and at which step.
        steps: At how many they differ.
        inside: All of it is tolerated.
    """

    name: str
    first: str
    steps: int
    inside: bool


def logged_differences(
    records: tuple[Record, Record], logged: tuple[Logged, Logged], limits: Mapping[str, float]
) -> Iterator[LoggedDiff]:
    """Yield the metrics of which two finished runs logged other values at some step.

    Args:
        logged: Reads what each of them logged.
        limits: What each metric may be off by.
    """
    if any(one.what == LOGGED for record in records for one in record.left_out):
        return  # which a proviso says
    told = logged_apart(*records)
    names = None if told is None else [name for name in told if not _is_ignored(name, limits)]
    if names == []:
        return
    again = any(record.attempts for record in records)
    try:
        ours, theirs = (read() for read in logged)
    except NotFoundError as error:
        yield from (LoggedDiff(name, f"its digests differ; {error.message}", 1, inside=False) for name in names or [])
        return
    for name in ours if names is None else names:
        if name not in ours or name not in theirs or _is_ignored(name, limits):
            continue  # one that a run lacks altogether is missing at its end too
        one, other = counted(ours[name], again=again), counted(theirs[name], again=again)
        found = [*_steps_apart(one, other, limits.get(name))]
        if found:
            yield LoggedDiff(name, found[0][0], len(found), all(inside for _, inside in found))


def _is_ignored(name: str, limits: Mapping[str, float]) -> bool:
    return limits.get(name) == math.inf


def _steps_apart(one: Series, other: Series, limit: float | None) -> Iterator[tuple[str, bool]]:
    for step in dict.fromkeys([*one, *other]):
        pairs = [*zip_longest(one.get(step, []), other.get(step, []))]
        differing = [(a, b) for a, b in pairs if not same_number(a, b)]
        if differing:
            at = "" if step is None else f" at step {step}"
            yield f"{numbers(*differing[0])}{at}", all(is_inside(a, b, limit) for a, b in differing)


def is_inside(one: float | None, other: float | None, allowed: float | None) -> bool:
    """True if two metrics that differ are within what is declared; one that is not declared, or not there, never is."""
    return allowed is not None and one is not None and other is not None and abs(one - other) <= allowed


def apart(one: Mapping[str, float], other: Mapping[str, float], limits: Mapping[str, float]) -> list[str]:
    """Return the metrics that are not the same, without those that may be anything."""
    return [
        name
        for name in dict.fromkeys([*one, *other])
        if not _is_ignored(name, limits) and not same_number(one.get(name), other.get(name))
    ]


def numbers(one: float | None, other: float | None) -> str:
    """Return two metrics in words: in as many digits as it takes to tell them apart."""
    told: list[str] = []
    for digits in (6, 17):
        told = ["none" if value is None else f"{value:.{digits}g}" for value in (one, other)]
        if told[0] != told[1] or same_number(one, other):
            break
    return " → ".join(told)
