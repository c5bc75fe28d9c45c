"""Two runs side by side, what could explain their difference, and how to check it all again: text alone.

Everything here comes from records, which are a stranger's: it is cut and made printable on its way into a page, and
quoted where it becomes part of a command.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from reprokit.core.terminal_text import printable
from reprokit.numerics.numeric_class import differences
from reprokit.runs.store import StoredRun
from reprokit.schema.lock import RunLock
from reprokit.schema.record import Record
from reprokit.schema.verdict import Cause

__all__ = ["Row", "Table", "check_again", "hashes_of", "moment", "sides", "text"]

_MOST = 60  # rows of one kind
_WIDE = 400  # characters of one value


def text(value: Any, limit: int = _WIDE) -> str:
    """Return a stranger's value as text for a page: short, on one line, and no letter that turns the writing around."""
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, str):
        return printable(value, limit)
    if isinstance(value, (list, dict)):
        shown = repr(list(islice(value, 100)) if isinstance(value, list) else dict(islice(value.items(), 100)))
        return printable(shown, limit)
    return printable(str(value), limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One fact of both runs; `same` None where there is one run alone, or equality means nothing."""

    name: str
    one: str
    other: str = ""
    same: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    title: str
    rows: list[Row]
    note: str = ""


def sides(left: StoredRun, right: StoredRun | None, locks: tuple[RunLock | None, RunLock | None]) -> list[Table]:
    """Return the facts of both runs by what they are about."""
    ours, theirs = left.record, right.record if right is not None else None

    def facts(about: Callable[[Record], dict[str, Any]], *, matters: bool = True) -> list[Row]:
        return _rows(about(ours), about(theirs) if theirs is not None else None, matters=matters)

    found = [
        Table(title="Run", rows=facts(_run, matters=False)),
        Table(title="Code", rows=facts(_code)),
        Table(title="Environment", rows=facts(_environment) + _packages(*locks)),
        _many("Data", _data(ours), _data(theirs) if theirs else None),
        _many("Parameters", _params(ours), _params(theirs) if theirs else None),
        _many("Execution", _execution(ours), _execution(theirs) if theirs else None),
        _many("Machine", _machine(ours), _machine(theirs) if theirs else None),
    ]
    numeric = _numeric(ours, theirs)
    if numeric:
        found.append(Table(title="What computes the numbers", rows=numeric))
    return [table for table in found if table.rows]


def _rows(one: Mapping[str, Any], other: Mapping[str, Any] | None, *, matters: bool = True) -> list[Row]:
    if other is None:
        return [Row(name=text(name, 80), one=text(value)) for name, value in one.items()]
    return [
        Row(
            name=text(name, 80),
            one=text(one.get(name)),
            other=text(other.get(name)),
            same=_same(one, other, name) if matters else None,
        )
        for name in dict.fromkeys([*one, *other])
    ]


def _same(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool:
    return name in one and name in other and bool(one[name] == other[name])


def _many(title: str, one: Mapping[str, Any], other: Mapping[str, Any] | None) -> Table:
    """Return a table of facts that may be many: those that differ come first, and are the last to be left out."""
    names = list(dict.fromkeys([*one, *(other or {})]))
    if other is not None:
        names.sort(key=lambda name: _same(one, other, name))
    shown = names[:_MOST]
    rest = names[_MOST:]
    note = ""
    if rest:
        unlike = sum(not _same(one, other, name) for name in rest) if other is not None else 0
        note = f"and {len(rest):,} more" + (
            f", of which {unlike:,} differ" if unlike else ", all equal" if other is not None else ""
        )
    chosen = {name: one[name] for name in shown if name in one}
    theirs = None if other is None else {name: other[name] for name in shown if name in other}
    rows = _rows(chosen, theirs)
    return Table(title=title, rows=sorted(rows, key=lambda row: row.same is not False), note=note)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _params(record: Record) -> Mapping[str, Any]:
    return {name: f"{value!r} (unused)" if name in record.unused else value for name, value in record.params.items()}


def _run(record: Record) -> dict[str, Any]:
    return {
        "run ID": record.run_id,
        "name": record.name,
        "status": record.status + (f": {' '.join(record.failure.split())}" if record.failure else ""),
        "started": moment(record.started),
        "took": _duration(record.started, record.ended),
        "stopped and resumed": "; ".join(map(str, record.attempts[:_MOST])) or "no",
        "checkpoints": f"{len(record.checkpoints):,}",
    }


def moment(iso: str) -> str:
    """Return an ISO 8601 time in UTC to the second."""
    return text(iso, 40).replace("T", " ").partition(".")[0] + " UTC" if len(iso) > 18 else text(iso, 40)


def _duration(started: str, ended: str | None) -> str:
    try:
        begin, end = (datetime.datetime.fromisoformat(moment) for moment in (started, ended or ""))
        seconds = (end - begin).total_seconds()
    except (ValueError, TypeError):
        return "—"
    if not 0 <= seconds < 1e9:
        return "—"
    hours, rest = divmod(round(seconds), 3600)
    return (
        f"{hours} h {rest // 60} min"
        if hours
        else f"{rest // 60} min {rest % 60} s"
        if rest >= 60
        else f"{seconds:.1f} s"
    )


def _code(record: Record) -> dict[str, Any]:
    if record.code is None:
        return {"code": "not recorded"}
    code = record.code
    return {
        "commit": code.commit or "none",
        "tree (digest of all files)": code.tree,
        "changes that were not committed": "yes, they are in the record" if code.dirty else "none",
        **({"repository": code.remote} if code.remote else {}),
    }


def _environment(record: Record) -> dict[str, Any]:
    if record.environment is None:
        return {"environment": "not recorded"}
    found = record.environment
    return {"digest": found.hash, "packages": f"{found.packages:,}", "Python": found.python}


def _packages(one: RunLock | None, other: RunLock | None) -> list[Row]:
    """Return the packages that differ."""
    if one is None or other is None:
        return []
    changes = one.environment.changes_to(other.environment)
    rows = [
        Row(name=text(change.name, 80), one=text(change.locked), other=text(change.found), same=False)
        for change in changes[:_MOST]
    ]
    if len(changes) > _MOST:
        rows.append(Row(name=f"and {len(changes) - _MOST:,} more packages", one="", other="", same=False))
    return rows


def _data(record: Record) -> dict[str, Any]:
    return {
        data.name: f"{text(data.package, 100)}@{text(data.top_hash, 64)}"
        + (f", {text(data.within, 100)}" if data.within else "")
        + f" ({data.entries:,} file{'s'[: data.entries != 1]}, {data.size / 1e6:,.1f} MB)"
        for data in islice(record.data, 10_000)
    }


def _execution(record: Record) -> dict[str, Any]:
    return {
        str(key): value
        for key, value in (msgspec.to_builtins(record.execution) or {}).items()
        if value not in ({}, [], None)
    }


def _machine(record: Record) -> dict[str, Any]:
    machine = record.machine
    memory = machine.memory_bytes
    found = {
        "name": machine.hostname,
        "processor": machine.numeric.cpu,
        "cores": machine.cores,
        "memory": f"{memory / 2**30:.0f} GiB" if memory is not None and abs(memory) < 2**60 else None,
        "GPUs": ", ".join(text(gpu, 60) for gpu in machine.gpus[:16]),
        "GPU driver": machine.driver,
        "system": " ".join(text(part, 60) for part in (machine.os, machine.kernel) if part),
        "C library": machine.libc,
    }
    return {name: value for name, value in found.items() if value not in (None, "", " ")}


def _numeric(one: Record, other: Record | None) -> list[Row]:
    """Return in what the numeric classes differ."""
    if other is None:
        return []
    found = differences(one.machine.numeric, other.machine.numeric)
    rows = []
    for item in found[:_MOST]:
        name, values = text(item.what, 80), (text(item.one, 120), text(item.other, 120))
        if item.kind == "kernels":
            name, values = f"kernels of {text(item.family, 40)}", (text(list(item.names[:12])), "give other bits")
        rows.append(Row(name=name, one=values[0], other=values[1], same=False))
    return rows


# ------------------------------------------------------------------------------------------- check it again


def check_again(left: Record, right: Record | None, last: str | None) -> list[tuple[str, str]]:
    """Return commands with what they do; nothing of a stranger's in them is more than a word to a shell."""
    one = shlex.quote(left.run_id)
    found = [
        (
            f"reprokit verify {one}",
            "reads every byte of the run's record, code and outputs, and compares it with its hash",
        ),
        (f"reprokit show {one}", "shows the record of the run"),
    ]
    if last is not None:
        found.append((f"reprokit verify {shlex.quote(last)}", "the same for its last checkpoint"))
    if right is not None:
        other = shlex.quote(right.run_id)
        found.append(
            (
                f"reprokit diff {one} {other}",
                "compares the two runs again, from what is stored, without running anything",
            )
        )
        if right.reproduces == left.run_id:
            found.append((f"reprokit export {other} --as report -o report.html", "writes this page again"))
    found.append(
        (
            f"reprokit reproduce {one}",
            "runs it again from its recorded code, environment and data, and gives a verdict of its own",
        )
    )
    return found


def hashes_of(left: StoredRun, right: StoredRun | None) -> list[Row]:
    """Return what identifies both runs, whole: to compare by eye, or to keep elsewhere."""
    return _rows(_identity(left), _identity(right) if right is not None else None, matters=False)


def _identity(run: StoredRun) -> dict[str, Any]:
    record = run.record
    kept = [entry for entry in record.checkpoints if not entry.place.is_by_chance]
    return {
        "record (top hash of its package)": run.manifest.top_hash,
        "lock: all that was declared": record.lock_hash,
        "code tree": record.code.tree if record.code else None,
        "environment": record.environment.hash if record.environment else None,
        **{f"data {text(data.name, 60)}": data.top_hash for data in islice(record.data, 20)},
        **({"last checkpoint (state digest)": kept[-1].state_digest} if kept else {}),
        **{f"output {text(out.path, 80)}": out.digest for out in islice(record.outputs, 20) if out.digest},
    }


def experiments(causes: Iterable[Cause], left: Record) -> list[tuple[str, str]]:
    """Return commands that would settle what the cause is: the original, with one factor of the other run each."""
    one = shlex.quote(left.run_id)
    return [
        (f"reprokit reproduce {one} --with {shlex.quote(option)}", cause.text)
        for cause in causes
        if cause.factor is not None and "\n" not in (option := cause.factor.option) and len(option) < 500
    ][:5]
