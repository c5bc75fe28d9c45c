"""Runs as a table: a line each, in columns that fit what is in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from reprokit.cli.text.table import metrics_text
from reprokit.core.terminal_text import one_line, printable
from reprokit.errors import UsageError
from reprokit.runs.query import FIELDS, RunRow, fields_of, value_of
from reprokit.runs.store import RunStore

__all__ = ["run_table"]

_FEW = 3  # metrics of a run that are shown where nobody asked for columns
_LONGEST = 40  # characters of a cell, but for the last
_HEAD = "bold"
_COLOURS = {"failed": "red", "interrupted": "yellow", "running": "cyan"}


def run_table(
    rows: Sequence[RunRow], runs: RunStore, *, columns: str | None = None, width: int | None = None
) -> list[tuple[str, str | None]]:
    """Return a head and a line for each run, with the colour that it has on a terminal.

    Args:
        columns: Names with commas between them: fields of FIELDS, `metrics.NAME`, `params.NAME`, `metrics`, `params`.
        width: Characters that a line may take; what is longer is cut.
    Raises:
        UsageError: A name is none, or no run has it.
    """
    titles, cells = _chosen(rows, runs, columns) if columns is not None else _usual(rows)
    table = [titles, *([*map(one_line, line)] for line in cells)]
    wide = [max((len(line[at]) for line in table), default=0) for at in range(len(titles))]
    numbers = {at for at, title in enumerate(titles) if title == "CKPT"}
    lines = []
    for line in table:
        told = [cell.rjust(wide[at]) if at in numbers else cell.ljust(wide[at]) for at, cell in enumerate(line)]
        text = "  ".join(told).rstrip()
        lines.append(text if width is None or len(text) <= width else f"{text[: max(width - 1, 1)]}…")
    return list(zip(lines, [_HEAD, *map(_colour, rows)], strict=True))


def _usual(rows: Sequence[RunRow]) -> tuple[list[str], list[list[str]]]:
    """Return what is shown of runs by default; a column that nothing is in is left out."""
    made: dict[str, Callable[[RunRow], str]] = {
        "RUN": lambda row: row.run,
        "STATUS": lambda row: row.status,
        "NAME": lambda row: _cut(printable(" ".join([row.name, *(f"[{tag}]" for tag in row.tags)]))),
        "CKPT": lambda row: str(row.checkpoints),
        "VERDICT": lambda row: printable(row.verdict or ""),
        "REPRODUCED": lambda row: "reproduced" if row.reproduced else "",
        "RESUMED": _resumed,
        "METRICS": lambda row: metrics_text({printable(name): one for name, one in [*row.metrics.items()][:_FEW]}),
    }
    cells = {title: [make(row) for row in rows] for title, make in made.items()}
    titles = [title for title, column in cells.items() if any(column) or title in ("RUN", "STATUS", "NAME", "CKPT")]
    return titles, [[cells[title][at] for title in titles] for at in range(len(rows))]


def _chosen(rows: Sequence[RunRow], runs: RunStore, columns: str) -> tuple[list[str], list[list[str]]]:
    values: list[Callable[[Mapping[str, Any]], Any]] = []
    names: set[tuple[str, str]] = set()
    titles = [title.strip() for title in columns.split(",") if title.strip()]
    if not titles:
        raise UsageError("--columns names none.", hint=f"Such as: run,{','.join([*FIELDS][1:3])},metrics.loss,params")
    for title in titles:
        if title in ("metrics", "params"):
            values.append(partial(_section, title))
            names |= {("params", name) for row in rows[:1] for name in row.params or () if title == "params"}
        else:
            value, named = value_of(title, option="--columns")
            values.append(value)
            names |= named
    found = fields_of(rows, names, runs, option="--columns")
    cells = [[_cut(_text(value(fields))) for value in values] for fields in found]
    return [printable(title.upper() if title in (*FIELDS, "metrics", "params") else title) for title in titles], cells


def _section(section: str, fields: Mapping[str, Any]) -> str:
    return "  ".join(f"{printable(name)}={_text(value)}" for name, value in fields[section].items())


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _resumed(row: RunRow) -> str:
    told = f"resumed at {printable(row.resumed[-1])}" if row.resumed else ""
    return told + (f", {len(row.resumed)} times" if len(row.resumed) > 1 else "")


def _colour(row: RunRow) -> str | None:
    if row.verdict is not None and row.verdict.startswith(("DIVERGED", "UNSUPPORTED")):
        return "red"
    return _COLOURS.get(row.status)
