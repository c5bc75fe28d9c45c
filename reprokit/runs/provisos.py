"""What stands beside a verdict, and forbids its bare word: what a comparison of two runs cannot vouch for.

A sentence each, from the two records alone, so that whoever reads a verdict can compute it again. Reads no files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from reprokit.runs.pairs import checkpoint_pairs
from reprokit.schema.bounds import LOGGED
from reprokit.schema.record import Record

__all__ = ["is_benign", "provisos", "resumptions"]

_NAMES = {
    "checkpoints": "checkpoints",
    "outputs": "outputs",
    "metrics": "metrics",
    "undeclared": "undeclared files",
    LOGGED: LOGGED,
}
_MOST = 5  # names in a sentence


def provisos(left: Record, right: Record) -> list[str]:
    """Return what has to be said of two runs beside the verdict on the second, a repetition of the first."""
    return [
        *_unfinished(left, right), *_undeclared(left, right), *_variables(left, right), *_unkept(left, right),
        *_unlisted(left, right), *_in_place(left, right), *_changed(left, right), *_unused(left, right),
    ]  # fmt: skip


def resumptions(left: Record, right: Record) -> list[str]:
    """Return how the two runs were stopped and resumed, a sentence each; it forbids no word."""
    sides = (("original", left), ("repetition", right))
    return [f"The {side} was {attempt}." for side, record in sides for attempt in record.attempts]


def is_benign(path: str, patterns: Iterable[str]) -> bool:
    """True if a recipe says of a file that it decides nothing: `execution.benign`."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _undeclared(left: Record, right: Record) -> Iterator[str]:
    """Name what was read and is no declared input: nothing says that it was the same, or will be again."""
    names = _by_whom(_not_benign(left), _not_benign(right))
    if names:
        yield f"Read without being declared as an input: {_listed(names)}."


def _changed(left: Record, right: Record) -> Iterator[str]:
    """Name the inputs that changed while a run went on: it is not known which bytes it read."""
    names = _by_whom(list(left.changed_inputs), list(right.changed_inputs))
    if names:
        yield f"Changed on disk while a run went on: input {_listed(names)}."


def _unkept(left: Record, right: Record) -> Iterator[str]:
    """Name the outputs that were written and could not be kept: nothing was compared with them."""
    names = _by_whom(
        *([out.path for out in one.outputs if out.unkept and out.compare != "ignore"] for one in (left, right))
    )
    if names:
        yield f"Written as an output, not kept and so not compared: {_listed(names)}."


def _unlisted(left: Record, right: Record) -> Iterator[str]:
    """Say how much a record does not list of what is compared."""
    told = [
        f"{one.count:,} {_NAMES[one.what]} of the {which} run"
        for which, record in (("first", left), ("second", right))
        for one in record.left_out
        if one.what in _NAMES
    ]
    if told:
        yield f"Too many for a record, and not compared: {_listed(told)}."


def _by_whom(ours: list[str], theirs: list[str]) -> list[str]:
    """Return what either run has, with whose it is where it is not both's."""
    sides = set(ours), set(theirs)
    return [
        name if name in sides[0] and name in sides[1]
        else f"{name} (by the {'first' if name in sides[0] else 'second'} run alone)"
        for name in dict.fromkeys([*ours, *theirs])
    ]  # fmt: skip


def _unfinished(left: Record, right: Record) -> Iterator[str]:
    """Say of what the verdict is, if the original did not come to its end."""
    how = {"interrupted": ("was interrupted", "the interruption"), "failed": ("failed", "the failure")}.get(left.status)
    if how is None:
        return
    pairs = [pair for pair in checkpoint_pairs(left, right) if not pair.place.is_initial]
    equal = sum(pair.state == "equal" for pair in pairs)
    told = (
        f"{equal:,} of {len(pairs):,} checkpoints until {how[1]} are equal in every bit" if pairs else "it saved none"
    )
    yield f"The original {how[0]}: {told}; what it would have ended with is not known."


def _variables(left: Record, right: Record) -> Iterator[str]:
    """Name what was read of the environment and is declared nowhere."""
    names = sorted({one.name for record in (left, right) for one in record.variables if one.is_input})
    if names:
        yield f"Environment variables were read without being declared: {_listed(names)}."


def _in_place(left: Record, right: Record) -> Iterator[str]:
    """Say of a run that was executed in the working tree what it used there that is not in its record."""
    for side, record in (("first", left), ("second", right)):
        if record.execution is None or not record.execution.in_place:
            continue
        strays = [f"{one.path} ({one.how})" for one in record.code.strays] if record.code is not None else []
        used = f", where it used what is not the recorded code: {_listed(strays)}" if strays else ""
        yield f"The {side} run was executed in the working tree (--in-place){used or ', not in a clean workspace'}."


def _unused(left: Record, right: Record) -> Iterator[str]:
    """Name parameters that differ and reached neither script: the runs are not what these say."""
    both = {*left.unused} & {*right.unused}
    names = sorted(name for name in both if left.params.get(name) != right.params.get(name))
    if names:
        yield f"Parameters differ that never reached the script: {_listed(names)}."


def _not_benign(record: Record) -> list[str]:
    patterns = record.execution.benign if record.execution is not None else []
    return [file.path for file in record.undeclared if not is_benign(file.path, patterns)]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST:,} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more
