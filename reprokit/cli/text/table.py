"""Rows of a name and a value: the form of most that is printed, and the place where no value forges another row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reprokit.core.terminal_text import one_line

__all__ = ["lines_of", "metrics_text", "table"]


def table(rows: Iterable[tuple[str, str]], *, width: int | None = None) -> str:
    """Return a line for each row, names in a column.

    Args:
        width: Of that column; by default that of the longest name.
    """
    tamed = [(one_line(name), one_line(value)) for name, value in rows]
    wide = max((len(name) for name, _ in tamed), default=0) if width is None else width
    return "\n".join(f"  {name:<{wide}}  {value}".rstrip() for name, value in tamed)


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Return metrics for a line."""
    return "  ".join(f"{name}={value:.6g}" for name, value in metrics.items())


def lines_of(name: str, text: str) -> list[tuple[str, str]]:
    """Return rows for a text of several lines: the name stands before the first alone."""
    first, *rest = text.split("\n")
    return [(name, first), *(("", line) for line in rest)]
