"""The lines of `metrics.jsonl`, what a run logged: none is longer than what is read again. Reads no files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from reprokit.core.canonical_json import spelled

__all__ = ["MAX_LINE", "METRICS_KEY", "metric_lines"]

METRICS_KEY = "metrics.jsonl"
MAX_LINE = 1024 * 1024  # bytes; a name, which has at most 65,536 characters, fits
_HEAD = 200  # bytes of a line beside the values


def metric_lines(step: int | None, values: Mapping[str, float], *, time: float) -> Iterator[bytes]:
    """Yield what is logged at a step: a line, or as many as are needed for no line to be longer than `MAX_LINE`."""
    part: dict[str, Any] = {}
    room = MAX_LINE - _HEAD
    for name, value in values.items():
        told = spelled({name: value})
        size = len(json.dumps(told))
        if part and size > room:
            yield _line(step, part, time)
            part, room = {}, MAX_LINE - _HEAD
        part |= told
        room -= size
    yield _line(step, part, time)


def _line(step: int | None, values: Mapping[str, Any], time: float) -> bytes:
    return json.dumps({"time": time, "step": step, "values": values}).encode() + b"\n"
