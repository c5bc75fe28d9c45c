"""The runs of a registry as the page has them in memory: chosen, ordered, grouped, a hundred at a time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from reprokit.core.refs import RESERVED, VERDICTS
from reprokit.core.terminal_text import printable
from reprokit.errors import UsageError
from reprokit.registry import Registry
from reprokit.runs.query import RunRow, Where, fields_of, overview, value_of
from reprokit.runs.store import RunStore

__all__ = ["GROUPS", "PAGE", "Listed", "RunTable", "Snapshot", "View"]

PAGE = 100  # rows that are sent at once
_FRESH = 1.0  # seconds in which nobody looks again
_STALE = 30.0  # seconds after which a reader waits for a new look, and is not given the last one
_FEW = 4  # metrics, and parameters, that are shown where nobody chose columns
_MOST_COLUMNS = 40

GROUPS = {"": "none", "name": "name", "recipe": "recipe (lock)", "status": "status", "tag": "tag"}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What somebody looks at: all of it stands in the address, so that a link holds it.

    Attributes:
        where, sort: As `reprokit ls` has them.
        columns: `metrics.NAME` and `params.NAME`; None chooses some.
        baseline: The run that every row is measured against.
        page: From 0.
    """

    where: str = ""
    sort: str = ""
    columns: tuple[str, ...] | None = None
    baseline: str = ""
    group: str = ""
    page: int = 0

    @classmethod
    def of(cls, query: Mapping[str, str]) -> View:
        """Return the view that an address holds; what is none in it is left out."""
        columns = query.get("columns")
        page = query.get("page", "0")
        return cls(
            where=query.get("where", "").strip(),
            sort=query.get("sort", "").strip(),
            columns=None if columns is None else tuple(dict.fromkeys(filter(None, columns.split(","))))[:_MOST_COLUMNS],
            baseline=query.get("baseline", ""),
            group=query.get("group", "") if query.get("group", "") in GROUPS else "",
            page=int(page) if page.isascii() and page.isdecimal() and len(page) < 7 else 0,
        )

    def address(self, **changes: Any) -> str:
        """Return the address of this view, or of one that differs in something."""
        changed = replace(self, **changes)
        told = {
            "where": changed.where, "sort": changed.sort, "group": changed.group, "baseline": changed.baseline,
            "columns": "" if changed.columns is None else ",".join(changed.columns),
            "page": str(changed.page) if changed.page else "",
        }  # fmt: skip
        query = {name: value for name, value in told.items() if value or (name == "columns" and changed.columns == ())}
        return f"/runs?{urlencode(query)}" if query else "/runs"

    def ordered_by(self, column: str) -> str:
        """Return the address of this view ordered by a column: the largest first, then the smallest, then not."""
        after = {column: "", f"-{column}": column}.get(self.sort, f"-{column}")
        return self.address(sort=after, page=0)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All runs at a moment, newest first, and of each what can be asked of it; `stamp` moves when anything does."""

    rows: list[RunRow]
    fields: list[dict[str, Any]]
    names: dict[str, int]
    stamp: str

    def find(self, run_id: str) -> RunRow | None:
        return next((row for row in self.rows if row.run == run_id), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What a view shows.

    Attributes:
        rows: With the head of the group that each begins, "" if it begins none.
        total: Runs that were chosen; `of` of how many.
        wrong: Why what was typed is no expression, or no order.
        varied: Columns that could be shown, the commonest first.
    """

    rows: list[tuple[RunRow, str]]
    columns: tuple[str, ...]
    total: int
    of: int
    wrong: str
    varied: list[str]
    baseline: RunRow | None
    more: bool


class RunTable:
    """Looks at a registry now and then, and answers from memory. Safe for several threads."""

    def __init__(self, registry: Registry) -> None:
        self._runs = RunStore(registry)
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._seen: tuple[Any, ...] = ()
        self._at = 0.0

    def now(self) -> Snapshot:
        """Return the runs as they were a moment ago; a new look is begun behind that if it is time."""
        with self._lock:
            snapshot, age = self._snapshot, time.monotonic() - self._at
        if snapshot is None or age > _STALE:
            return self._look()
        if age > _FRESH and not self._looking.locked():
            threading.Thread(target=self._look, name="runs", daemon=True).start()
        return snapshot

    def _look(self) -> Snapshot:
        with self._looking:
            with self._lock:
                before, age = self._snapshot, time.monotonic() - self._at
            if before is not None and age < _FRESH:
                return before
            registry = self._runs.registry
            heads = [head for space in (RESERVED, VERDICTS)
                     for head in registry.heads(space)]  # fmt: skip
            alive = sorted(registry.running())
            seen = (heads, alive)
            if before is None or seen != self._seen or alive:
                rows = overview(self._runs)[::-1]
                if before is None or rows != before.rows:
                    before = _snapshot(rows, self._runs, str(time.time_ns()))
            with self._lock:
                self._snapshot, self._seen, self._at = before, seen, time.monotonic()
            return before

    def listed(self, view: View) -> Listed:
        """Return what a view shows of the runs as they are now."""
        snapshot = self.now()
        wrong = ""
        chosen = [*range(len(snapshot.rows))]
        names = set(snapshot.names)
        try:
            if view.where:
                where = Where.parse(view.where)
                _check(where.names, names)
                chosen = [at for at in chosen if where.matches(snapshot.fields[at])]
            if view.sort:
                value, named = value_of(view.sort.removeprefix("-"), option="sort")
                _check(named, names)
                chosen = _ordered(chosen, [value(fields) for fields in snapshot.fields], view.sort.startswith("-"))
        except UsageError as error:
            wrong = f"{error.message} {error.hint or ''}".replace("--where ", "").strip()
        heads = [""] * len(chosen)
        if view.group:
            chosen, heads = _grouped(chosen, snapshot.rows, view.group)
        varied = _varied(snapshot)
        first = view.page * PAGE
        part = chosen[first : first + PAGE]
        return Listed(
            rows=[(snapshot.rows[at], head) for at, head in zip(part, heads[first : first + PAGE], strict=True)],
            columns=_usual(snapshot, varied) if view.columns is None else view.columns,
            total=len(chosen),
            of=len(snapshot.rows),
            wrong=wrong,
            varied=varied,
            baseline=snapshot.find(view.baseline) if view.baseline else None,
            more=first + PAGE < len(chosen),
        )


def _snapshot(rows: list[RunRow], runs: RunStore, stamp: str) -> Snapshot:
    fields = fields_of(rows, (), runs)
    names: Counter[str] = Counter()
    for one in fields:
        names.update(f"metrics.{name}" for name in one["metrics"])
        names.update(f"params.{name}" for name in one["params"])
    return Snapshot(rows, fields, dict(names), stamp)


def _check(named: Iterable[tuple[str, str]], known: set[str]) -> None:
    for section, name in sorted(named):
        if known and f"{section}.{name}" not in known:
            raise UsageError(f"No run has {section}.{printable(name)}.")


def _ordered(chosen: Sequence[int], values: Sequence[Any], down: bool) -> list[int]:
    """Return runs by their values: numbers before texts, those without one last."""
    having = [at for at in chosen if values[at] is not None]
    having.sort(key=lambda at: _rank(values[at]), reverse=down)
    return having + [at for at in chosen if values[at] is None]


def _rank(value: Any) -> tuple[int, Any]:
    if isinstance(value, int | float):
        return (0, value) if value == value else (1, 0)
    return (2, str(value))


def _grouped(chosen: Sequence[int], rows: Sequence[RunRow], group: str) -> tuple[list[int], list[str]]:
    """Return runs by their groups, the group with the newest run first, and the head of each that begins one."""
    found: dict[str, list[int]] = {}
    for at in chosen:
        row = rows[at]
        key = {
            "name": row.name, "recipe": (row.lock_hash or "no recipe")[:12], "status": row.status,
            "tag": ", ".join(tag for tag in row.tags if tag != "latest") or "no tag",
        }[group]  # fmt: skip
        found.setdefault(key, []).append(at)
    heads = [f"{printable(key, 80)} ({len(members):,})" if not number else ""
             for key, members in found.items() for number, _ in enumerate(members)]  # fmt: skip
    return [at for members in found.values() for at in members], heads


def _varied(snapshot: Snapshot) -> list[str]:
    """Return all metrics and parameters, those that most runs have first."""
    return sorted(snapshot.names, key=lambda name: (name.startswith("params."), -snapshot.names[name], name))[:400]


def _usual(snapshot: Snapshot, varied: Sequence[str]) -> tuple[str, ...]:
    """Return the columns where nobody chose: the commonest metrics, and parameters that differ between runs."""
    metrics = [name for name in varied if name.startswith("metrics.")][:_FEW]
    params: list[str] = []
    for name in varied:
        if name.startswith("params.") and len(params) < _FEW:
            values = {repr(fields["params"].get(name[7:])) for fields in snapshot.fields[:500]}
            if len(values) > 1:
                params.append(name)
    return (*metrics, *params)
