"""Records and verdicts that can be read again: long lists end with a count and a digest of what is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from reprokit.core.canonical_json import canonical, spelled
from reprokit.schema.bounds import LARGE, MAX_SHOWN, LeftOut, cut, cut_metrics
from reprokit.schema.machine import Machine, Numeric
from reprokit.schema.record import Record
from reprokit.schema.verdict import Comparison, Verdict

__all__ = ["bounded", "bounded_verdict"]

_MAX_TEXT, _ENDS = 11_000, 5_000  # characters of a warning or a reason, and of each end of one that was longer
_MOST_LINES = 1000  # of a cause


def bounded(record: Record) -> Record:
    """Return a record of which everything that is written can be read; it is the same one wherever that is so."""
    left: list[LeftOut] = [*record.left_out]

    def listed(what: str, items: list[Any], budget: int, *, ends: bool = False) -> list[Any]:
        kept, gone = cut(items, budget, ends=ends)
        if gone is not None:
            left.append(LeftOut(what=what, count=len(items) - len(kept), digest=gone))
        return kept

    changes: dict[str, Any] = {
        "undeclared": listed("undeclared", record.undeclared, MAX_SHOWN),
        "variables": listed("variables", record.variables, MAX_SHOWN),
        "programs": listed("programs", record.programs, MAX_SHOWN),
        "refused": listed("refused", record.refused, MAX_SHOWN),
        "warnings": listed("warnings", [_short(text) for text in record.warnings], MAX_SHOWN),
        "artifacts": listed("artifacts", record.artifacts, MAX_SHOWN),
        "attempts": listed(
            "attempts", [msgspec.structs.replace(one, machine=_small(one.machine)) for one in record.attempts],
            MAX_SHOWN, ends=True,
        ),
        "checkpoints": listed("checkpoints", record.checkpoints, LARGE, ends=True),
        "outputs": listed("outputs", record.outputs, LARGE),
        "verdicts": [bounded_verdict(one) for one in record.verdicts],
        "machine": _small(record.machine),
        "failure": None if record.failure is None else _short(record.failure),
    }  # fmt: skip
    changes["metrics"], gone = cut_metrics(record.metrics)
    if gone is not None and record.logged is not None:
        changes["logged"] = {name: record.logged[name] for name in changes["metrics"] if name in record.logged}
    left += [gone] if gone is not None else []
    if record.code is not None:
        opened = record.code.opened
        changes["code"] = msgspec.structs.replace(
            record.code,
            imported=listed("code.imported", record.code.imported, MAX_SHOWN),
            opened=None if opened is None else listed("code.opened", opened, MAX_SHOWN),
        )
    return msgspec.structs.replace(record, left_out=left, **changes)


def bounded_verdict(verdict: Verdict) -> Verdict:
    """Return a verdict that can be read again; the last of too many comparisons says how many more there were."""
    kept, gone = cut(verdict.comparisons, 2 * MAX_SHOWN)
    if gone is not None:
        kept, _ = cut(kept, 2 * MAX_SHOWN - 1000)
        detail = f"{len(verdict.comparisons) - len(kept):,} more were compared than are listed"
        kept = [*kept, Comparison(what="…", result="ignored", detail=detail)]
    causes = [
        msgspec.structs.replace(one, lines=[_short(line) for line in one.lines[:_MOST_LINES]])
        for one in verdict.explanations
    ]
    return msgspec.structs.replace(verdict, comparisons=kept, explanations=cut(causes, MAX_SHOWN)[0])


def _short(text: str) -> str:
    """Return a text with its middle cut out, where it is very long."""
    if len(text) <= _MAX_TEXT:
        return text
    return f"{text[:_ENDS]} […{len(text) - 2 * _ENDS:,} characters…] {text[-_ENDS:]}"


def _small(machine: Machine) -> Machine:
    size: Callable[[Any], int] = lambda value: len(canonical(spelled(msgspec.to_builtins(value))))  # noqa: E731
    if size(machine) <= MAX_SHOWN:
        return machine
    said = Numeric(unknown=f"what the script's process said of it takes {size(machine.numeric):,} bytes")
    smaller = msgspec.structs.replace(machine, numeric=said)
    return smaller if size(smaller) <= MAX_SHOWN else Machine(python=machine.python[:100], numeric=said)
