"""A run that goes on, as a screen of a terminal shows it: how far it is, its curves, the end of its log."""

from __future__ import annotations

from datetime import datetime

from reprokit.cli.text.sparks import curve_lines
from reprokit.cli.text.table import metrics_text
from reprokit.core.terminal_text import one_line, printable
from reprokit.runs.watching import Seen

__all__ = ["watched_lines"]

_COLOURS = {"finished": "green", "failed": "red", "interrupted": "yellow", "running": "cyan"}


def watched_lines(seen: Seen, *, width: int, height: int, at: datetime) -> list[tuple[str, str | None]]:
    """Return the lines of a screen, each with its colour or `bold`.

    Args:
        width, height: Of the screen, in characters.
        at: Now.
    """
    record, now = seen.record, seen.now
    lines: list[tuple[str, str | None]] = [(f"{printable(record.name)}  {record.run_id}", "bold")]
    last = record.checkpoints[-1] if record.checkpoints else None
    saved = f"  {len(record.checkpoints)} saved" + (f", the last at {last.place}" if last is not None else "")
    lines.append((f"{record.status}  {_since(record.started, at if record.ended is None else None)}{saved}",
                  _COLOURS.get(record.status)))  # fmt: skip
    metrics = now.metrics if now is not None else record.metrics
    if metrics:
        lines.append((metrics_text({printable(name): value for name, value in [*metrics.items()][:6]}), None))
    lines += [(line, None) for line in curve_lines(record, indent=0)[: max(height // 3, 1)]]
    lines.append(("─" * width if record.status == "running" else "", None))
    room = max(height - len(lines) - 1, 0)
    lines += [(line, None) for line in seen.lines[-room:]] if room else []
    lines.append(("q leaves; the training goes on" if record.status == "running" else "it has ended", "bold"))
    return [(one_line(text)[:width], colour) for text, colour in lines]


def _since(started: str, at: datetime | None) -> str:
    """Return how long a run goes on, "" of one that has ended or that began at no time."""
    try:
        seconds = int((at - datetime.fromisoformat(started)).total_seconds()) if at is not None else -1
    except (ValueError, TypeError):
        return ""
    hours, rest = divmod(max(seconds, 0), 3600)
    return "" if seconds < 0 else f"for {hours}:{rest // 60:02d}:{rest % 60:02d}"
