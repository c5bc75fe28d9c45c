"""What earlier attempts of a run read, were refused and executed: it made the run's bits as much as the last one's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from reprokit.schema.record import CodeFacts, Program, Record, StrayFile, UndeclaredFile, VariableRead

__all__ = ["LISTS", "with_earlier"]

LISTS = ("undeclared", "programs", "refused", "variables", "code.imported", "code.opened")
"""What `left_out` calls the lists that go on from one attempt to the next."""
_File = TypeVar("_File", UndeclaredFile, Program, StrayFile)
_SHOWN = 10


def with_earlier(record: Record, earlier: Record) -> tuple[Record, list[str]]:
    """Return a record with what an earlier one of the same run has beside it, and warnings of what was not the same.

    Of two digests of one file or variable none is kept: nobody could say which of them the run's bits are of. Where one
    of them is not known, it is not known either whether it was the same, and nothing is said.
    """
    changed: list[str] = []
    variables = _variables(record, earlier, changed)
    told: dict[str, Any] = {
        "undeclared": _files(record.undeclared, earlier.undeclared, changed),
        "programs": _files(record.programs, earlier.programs, changed),
        "refused": sorted({*record.refused, *earlier.refused}),
        "variables": variables,
        "variables_key": record.variables_key or earlier.variables_key,
        "machine": msgspec.structs.replace(
            record.machine, imported=sorted({*record.machine.imported, *earlier.machine.imported})
        ),
    }
    if record.code is not None and earlier.code is not None:
        told["code"] = _code(record.code, earlier.code, changed)
    warnings = []
    if changed:
        more = f" and {len(changed) - _SHOWN:,} more" if len(changed) > _SHOWN else ""
        warnings.append(
            f"What was read was not the same in each attempt of this run: {', '.join(changed[:_SHOWN])}{more}."
        )
    return msgspec.structs.replace(record, **told), warnings


def _files(now: Iterable[_File], before: Iterable[_File], changed: list[str]) -> list[_File]:
    found = {one.path: one for one in before}
    for one in now:
        old = found.get(one.path)
        if old is not None and old.digest != one.digest:
            changed += [one.path] if None not in (old.digest, one.digest) else []  # of one that is gone nobody knows
            one = msgspec.structs.replace(one, digest=None)
        found[one.path] = one
    return [found[path] for path in sorted(found)]


def _variables(record: Record, earlier: Record, changed: list[str]) -> list[VariableRead]:
    comparable = record.variables_key == earlier.variables_key
    found = {one.name: one for one in earlier.variables}
    for one in record.variables:
        old = found.get(one.name)
        if old is not None and (old.digest, old.unset) != (one.digest, one.unset):
            known = comparable and None not in (old.digest, one.digest)
            changed += [one.name] if known or old.unset != one.unset else []
            one = msgspec.structs.replace(one, digest=None, unset=False)
        found[one.name] = one
    return [found[name] for name in sorted(found)]


def _code(now: CodeFacts, before: CodeFacts, changed: list[str]) -> CodeFacts:
    opened = before.opened if now.opened is None else sorted({*now.opened, *(before.opened or [])})
    return msgspec.structs.replace(
        now,
        imported=sorted({*now.imported, *before.imported}),
        opened=opened,
        strays=_files(now.strays, before.strays, changed),
        dirty=now.dirty or before.dirty,
    )
