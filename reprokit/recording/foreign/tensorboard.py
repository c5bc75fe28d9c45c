"""Runs of TensorBoard: each folder with event files is one, as TensorBoard shows them.

TensorBoard is not needed, and nothing of it is changed. Read are scalars, those of TensorFlow 2 too, and the parameters
of the hparams plugin. Source of the numbers of fields: event.proto, summary.proto, tensor.proto of TensorFlow,
plugin_data.proto of TensorBoard's hparams, struct.proto of protobuf.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from reprokit.core.regular_files import open_regular
from reprokit.errors import Error, NotFoundError
from reprokit.recording.foreign.frames import DamagedError, tf_frames
from reprokit.recording.foreign.runs import MAX_METRICS, ForeignRun, Found, ImportedRuns, Tool, record_runs
from reprokit.recording.foreign.wire import BYTES, DOUBLE, FLOAT, WireError, as_double, as_float, fields, signed, text
from reprokit.registry.context import Context

__all__ = ["import_tensorboard"]

_EVENT_FILE = "tfevents"  # in its name
_OTHERS = {4: "images", 5: "histograms", 6: "audio"}  # by their field in a value of a summary
_SHORT = 4096  # bytes of a tensor that may be a scalar

# By the number of its type: how a tensor's content is spelled, and in which field else a value of it stands.
_NUMBERS: dict[int, tuple[str, int]] = {
    1: ("<f", 5), 2: ("<d", 6), 3: ("<i", 7), 4: ("<B", 7), 5: ("<h", 7), 6: ("<b", 7), 9: ("<q", 10), 10: ("<?", 11),
    14: ("bfloat16", 13), 17: ("<H", 7), 19: ("<e", 13), 22: ("<I", 16), 23: ("<Q", 17),
}  # fmt: skip


def import_tensorboard(logdir: Path, *, context: Context) -> ImportedRuns:
    """Record each folder at or below LOGDIR that has event files as a run; what came before stays as it is.

    Raises:
        NotFoundError: There is no such folder, or no event file in it.
    """
    folders = [*_folders(logdir)] if logdir.is_dir() else []
    if not folders:
        raise NotFoundError(
            f"No event files at {logdir}.",
            hint="Name the folder that TensorBoard is given as --logdir: files in it are called events.out.tfevents.….",
        )
    imported = ImportedRuns()
    found = (one for folder, files in folders for one in _found(folder, files, logdir, imported.notes))
    return record_runs(
        found, tool=Tool("TensorBoard", "tensorboard"), total=len(folders), context=context, imported=imported
    )


def _folders(logdir: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield the folders that have event files, with these in the order of their names, which is that of time."""
    for folder, inner, names in os.walk(logdir):
        inner.sort()
        files = [Path(folder, name) for name in sorted(names) if _EVENT_FILE in name]
        if files:
            yield Path(folder), files


def _found(folder: Path, files: list[Path], logdir: Path, notes: list[str]) -> Iterator[Found]:
    """Yield the run of a folder: it is named for ever by its first file's name and the first record in it."""
    relative = folder.relative_to(logdir).as_posix()
    shown = logdir.resolve().name if relative == "." else relative
    for file in files:
        try:
            with open_regular(file) as handle:
                first = next(tf_frames(handle), None)
            if first is None:
                continue
            moment = next((as_double(value) for number, _, value in fields(first) if number == 1), 0.0)
            started = int(moment * 1000)
        except (ValueError, OverflowError, OSError, Error) as error:
            notes.append(f"{file} was left out, for it is malformed: {_why(error)}")
            continue
        load = partial(_load, files, shown, started)
        yield Found(id=f"{file.name} {hashlib.sha256(first).hexdigest()}", started=started, load=load, shown=shown)
        return


class _Reading:
    """A run as its event files tell it, one event after the other."""

    def __init__(self, run: ForeignRun) -> None:
        self.run = run
        self.left: Counter[str] = Counter()
        self.plugins: dict[str, str] = {}  # of each tag; only its first value says it
        self.ended = run.started / 1000

    def event(self, data: bytes) -> None:
        at, step, summaries = 0.0, 0, []
        for number, kind, value in fields(data):
            if number == 1:
                at = as_double(value)
            elif number == 2:
                step = signed(value)
            elif number == 5 and kind == BYTES and isinstance(value, bytes):
                summaries.append(value)
        for summary in summaries:
            for number, _, value in fields(summary):
                if number == 1 and isinstance(value, bytes):
                    self._value(value, step, at)
        if math.isfinite(at):
            self.ended = max(self.ended, at)

    def _value(self, data: bytes, step: int, at: float) -> None:
        tag, scalar, tensor, plugin, other = "", None, b"", None, None
        for number, kind, value in fields(data):
            if number == 1:
                tag = text(value)
            elif number == 2 and kind == FLOAT:
                scalar = as_float(value)
            elif number == 8 and isinstance(value, bytes):
                tensor = value
            elif number == 9 and isinstance(value, bytes):
                plugin, content = _plugin(value)
                if plugin == "hparams":
                    self._hparams(content)
                    return
            elif number in _OTHERS:
                other = _OTHERS[number]
        if plugin is not None and tag not in self.plugins and len(self.plugins) < MAX_METRICS:
            self.plugins[tag] = plugin
        if tensor:
            plugin = self.plugins.get(tag) or "scalars"
            scalar = _scalar(tensor) if plugin == "scalars" and len(tensor) <= _SHORT else None
            other = "tensors" if plugin == "scalars" else plugin
        if scalar is not None:
            self.run.log(tag, step, at, scalar)
        elif other is not None:
            self.left[other[:40]] += 1

    def _hparams(self, content: bytes) -> None:
        for number, _, value in fields(content):
            if not isinstance(value, bytes):
                continue
            if number == 3:  # the start of a session
                for inner, _, part in fields(value):
                    if inner == 1 and isinstance(part, bytes):
                        self._parameter(part)
            elif number == 4:  # its end
                told = {inner: part for inner, _, part in fields(value)}
                if told.get(1) == 2:
                    self.run.status = "failed"
                elif told.get(1) == 3:
                    self.run.status = "interrupted"

    def _parameter(self, data: bytes) -> None:
        told = {number: value for number, _, value in fields(data)}
        name, value = text(told.get(1, b"")), told.get(2)
        if not isinstance(value, bytes):
            return
        for number, kind, part in fields(value):
            if number == 2 and kind == DOUBLE:
                self.run.params[name] = _number(as_double(part))
            elif number == 3:
                self.run.params[name] = text(part)
            elif number == 4:
                self.run.params[name] = bool(part)
            elif number != 1:
                self.left["lists of parameters"] += 1


def _load(files: list[Path], shown: str, started: int) -> ForeignRun:
    run = ForeignRun(name=shown, status="finished", started=started)
    reading, told = _Reading(run), []
    for file in files:
        try:
            with open_regular(file) as handle:
                told.append({"name": file.name, "size": os.fstat(handle.fileno()).st_size})
                for frame in tf_frames(handle):
                    reading.event(frame)
        except DamagedError as error:
            run.notes.append(f"{file.name}: {error}; what comes before was read")
        except WireError as error:
            run.notes.append(f"{file.name} holds what is no event, and was not read on: {error}")
    if not run.metrics and not run.params:
        raise ValueError("it has neither scalars nor parameters")
    run.notes += [f"left out {count:,} {kind}" for kind, count in sorted(reading.left.items())]
    run.ended = int(reading.ended * 1000)
    run.told = {"run": shown, "files": told}
    return run


def _plugin(metadata: bytes) -> tuple[str, bytes]:
    """Return which plugin's a value is, and what that says of it."""
    name, content = "", b""
    for number, _, value in fields(metadata):
        if number == 1 and isinstance(value, bytes):
            for inner, _, part in fields(value):
                if inner == 1:
                    name = text(part)
                elif inner == 2 and isinstance(part, bytes):
                    content = part
    return name, content


def _scalar(tensor: bytes) -> float | None:
    """Return the number that a tensor of no dimension holds; None of another."""
    kind, content, values = 0, b"", dict[int, tuple[int, int | bytes]]()
    for number, wire, value in fields(tensor):
        if number == 1:
            kind = signed(value)
        elif number == 2 and value:  # it has dimensions
            return None
        elif number == 4 and isinstance(value, bytes):
            content = value
        else:
            values[number] = (wire, value)
    form, place = _NUMBERS.get(kind, ("", 0))
    if not form:
        return None
    if content:
        return _spelled(form, content)
    wire, value = values.get(place, (BYTES, b""))
    if place in (5, 6):
        return _spelled(form, value) if isinstance(value, bytes) and value else 0.0
    if isinstance(value, bytes):  # packed: a varint, of which a message's field is made
        value = next((found for _, _, found in fields(b"\x08" + value)), 0) if value else 0
    number = signed(value)
    return _spelled(form, struct.pack("<H", number & 0xFFFF)) if place == 13 else float(number)


def _spelled(form: str, content: bytes) -> float | None:
    if form == "bfloat16":
        form, content = "<f", b"\0\0" + content
    if len(content) != struct.calcsize(form):
        return None
    found = struct.unpack(form, content)[0]
    return float(found)


def _number(value: float) -> Any:
    """Return a parameter: the plugin has no integers, and what is one is one."""
    return int(value) if value.is_integer() and abs(value) < 1 << 53 else value


def _why(error: Exception) -> str:
    return error.message if isinstance(error, Error) else str(error)
