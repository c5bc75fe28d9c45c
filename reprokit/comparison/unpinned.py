"""What two runs used that no lock pins, and that could explain that they differ. Reads no files.

Variables of the shell that nobody declared, and files of the working tree in which a run was executed.
"""

from __future__ import annotations

from collections.abc import Iterator

from reprokit.schema.record import Record, VariableRead
from reprokit.schema.verdict import Cause

__all__ = ["unpinned_causes"]

_MOST = 8  # names in a line
_PINNED = "it was read, and nothing pins it"


def unpinned_causes(left: Record, right: Record) -> Iterator[Cause]:
    """Yield what either run used, or both, and that changed between them or may have."""
    yield from _in_place(left, right)
    yield from _variables(left, right)


def _in_place(left: Record, right: Record) -> Iterator[Cause]:
    """Yield that a run was executed in the working tree, and what it used there that the other did not."""
    in_place = [record.execution is not None and record.execution.in_place for record in (left, right)]
    if not any(in_place):
        return
    which = "both runs were" if all(in_place) else f"the {'first' if in_place[0] else 'second'} run was"
    text = f"code: {which} executed in the working tree (--in-place)"
    ours, theirs = (
        {(one.path, one.how, one.digest) for one in record.code.strays} if record.code is not None else set()
        for record in (left, right)
    )
    names = sorted({f"{path} ({how})" for path, how, _ in ours ^ theirs})
    if names:
        text += f", and used what is not the recorded code: {_listed(names)}"
        yield Cause(kind="inputs", what="inputs.working_tree", text=text, why=_PINNED)
    else:
        why = "nothing is known to be used there that is not the recorded code; what native code reads is not seen"
        yield Cause(kind="inputs", what="inputs.in_place", text=text, why=why)


def _variables(left: Record, right: Record) -> Iterator[Cause]:
    """Yield variables that both runs read and that changed, or may have.

    Digests of one key tell whether a value changed; of two keys, made by two homes, they say nothing.
    """
    ours, theirs = ({one.name: one for one in record.variables} for record in (left, right))
    known = left.variables_key == right.variables_key
    both = [name for name in ours if name in theirs]
    taken = []
    for name in both:
        how = _change(ours[name], theirs[name], known)
        if how is None:
            continue
        if ours[name].taken and theirs[name].taken:
            taken.append(name)
            continue
        yield Cause(kind="inputs", what=f"variables.{name}", text=f"environment variable {name} {how}", why=_PINNED)
    if taken and known:
        text = f"environment variables changed between the runs, and are not declared: {_listed(taken)}"
        why = "the scripts took the whole environment, or started a program with it"
        yield Cause(kind="inputs", what="variables", text=text, why=why)


def _change(one: VariableRead, other: VariableRead, known: bool) -> str | None:
    """Return how the values of a variable differ, as far as that is known; None if they do not."""
    if one.unset or other.unset:
        if one.unset and other.unset:
            return None
        there = "second" if one.unset else "first"
        return f"was set for the {there} run alone, and is not declared"
    if one.digest is None or other.digest is None:
        return None  # a secret
    if known:
        return None if one.digest == other.digest else "has another value, and is not declared"
    if one.platform:
        return None
    return "is not declared, and the runs were recorded with two keys: whether it has another value is not known"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST:,} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more
