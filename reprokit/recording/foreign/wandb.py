"""Runs of W&B, from the folders that it writes beside a script: `wandb/offline-run-*`, and `run-*` of those it sent.

W&B is not needed, nothing of it is changed, and nothing is asked of its servers. All is in a run's `run-ID.wandb`, a
log of records. Source of the numbers of fields: wandb_internal.proto of wandb 0.31; of the header: what that writes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from reprokit.core.canonical_json import spelled
from reprokit.core.regular_files import open_regular
from reprokit.core.safe_json import load_json
from reprokit.core.secret_scan import in_arguments
from reprokit.environment.local.clean_url import clean_url
from reprokit.errors import DataMismatchError, Error, NotFoundError
from reprokit.recording.foreign.frames import DamagedError, leveldb_frames
from reprokit.recording.foreign.runs import MAX_METRICS, MAX_NAME, ForeignRun, Found, ImportedRuns, Tool, record_runs
from reprokit.recording.foreign.wire import WireError, fields, signed, text
from reprokit.registry.context import Context
from reprokit.schema.record import Status

__all__ = ["import_wandb"]

_HEADER = b":W&B\xe1\xbe\x00"  # a magic number, and the version of the format
_RECORDS = {2: "history", 3: "summary", 5: "config", 17: "run", 18: "exit", 26: "environment"}
_NUMBER = re.compile(r"-?(?:[0-9][0-9.eE+-]*|Infinity)|NaN")
_OWN = ("config.yaml", "wandb-metadata.json", "wandb-summary.json", "output.log")  # said elsewhere, or the terminal's
_MAX_VALUE = 1 << 20  # bytes of a value of the configuration
_YEAR_10000 = 253_402_300_800_000  # ms since 1970


def import_wandb(folder: Path, *, context: Context) -> ImportedRuns:
    """Record every run in FOLDER; what came before stays as it is.

    Args:
        folder: `wandb`, or the folder of one run.
    Raises:
        NotFoundError: There is none.
    """
    files = sorted([*folder.glob("*.wandb"), *folder.glob("*run-*/*.wandb")]) if folder.is_dir() else []
    if not files:
        raise NotFoundError(
            f"No runs of W&B at {folder}.",
            hint="Name the folder `wandb` beside the script, or one of those in it: offline-run-…-ID.",
        )
    imported = ImportedRuns()
    runs = _by_run(files, imported.notes)
    return record_runs(
        (_found(run_id, *heads) for run_id, heads in runs.items()),
        tool=Tool("W&B", "wandb"), total=len(runs), context=context, imported=imported,
    )  # fmt: skip


@dataclass(kw_only=True)
class _Head:
    """What the first records of a file say of its run."""

    file: Path
    run_id: str = ""
    project: str = ""
    name: str = ""
    notes: str = ""
    tags: list[str] = field(default_factory=list)
    host: str = ""
    started: int | None = None
    commit: str = ""
    remote: str = ""


def _by_run(files: list[Path], notes: list[str]) -> dict[str, list[_Head]]:
    """Return the files of each run, in the order in which they were begun: a run that is resumed begins another."""
    found: dict[str, list[_Head]] = {}
    for file in files:
        head = _Head(file=file)
        try:
            with open_regular(file) as handle:
                for kind, data in _records(handle):
                    if kind == "run":
                        _read_run(head, data)
                        break
        except (ValueError, OverflowError, OSError, Error) as error:
            notes.append(f"{file} was left out, for it is malformed: {_why(error)}")
            continue
        if not head.run_id or head.started is None:
            notes.append(f"{file} was left out, for it does not say of which run it is")
            continue
        found.setdefault(head.run_id, []).append(head)
    return {run_id: sorted(heads, key=lambda one: one.started or 0) for run_id, heads in found.items()}


def _found(run_id: str, *heads: _Head) -> Found:
    started = heads[0].started or 0
    return Found(id=run_id, started=started, load=partial(_load, run_id, heads, started))


def _records(handle: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield the records that are read, each with its kind.

    Raises:
        DamagedError: As of `leveldb_frames`; or it is no file of W&B's.
        WireError: A record is malformed.
    """
    if handle.read(len(_HEADER)) != _HEADER:
        raise DamagedError("it does not begin as files of W&B do")
    for frame in leveldb_frames(handle, at=len(_HEADER)):
        for number, _, value in fields(frame):
            if number in _RECORDS and isinstance(value, bytes):
                yield _RECORDS[number], value


def _read_run(head: _Head, data: bytes) -> None:
    """Read what a run's record says of it but for its configuration."""
    texts = {1: "run_id", 3: "project", 8: "name", 9: "notes", 13: "host"}
    for number, _, value in fields(data):
        if number in texts:
            setattr(head, texts[number], text(value)[:MAX_NAME])
        elif number == 10:
            head.tags.append(text(value)[:MAX_NAME])
        elif number == 17 and isinstance(value, bytes):
            head.started = _moment(value)
        elif number == 21 and isinstance(value, bytes):
            head.remote, head.commit = _git(value)


class _Reading:
    """A run as its files tell it, one record after the other."""

    def __init__(self, run: ForeignRun) -> None:
        self.run = run
        self.summary: dict[str, float] = {}
        self.told: dict[str, Any] = {}
        self.user = ""
        self.runtime = 0
        self.step, self.at = 0, run.started / 1000
        self.left = 0

    def record(self, kind: str, data: bytes) -> None:
        if kind == "history":
            self._history(data)
        elif kind == "summary":
            self._summary(data)
        elif kind == "config":
            self._config(data)
        elif kind == "run":
            for number, _, value in fields(data):
                if number == 4 and isinstance(value, bytes):
                    self._config(value)
        elif kind == "exit":
            told = {number: value for number, _, value in fields(data)}
            self.run.status = _ended(signed(told.get(1, 0)), bool(told.get(3)))
            self.runtime = max(0, min(signed(told.get(2, 0)), _YEAR_10000 // 1000))
        else:
            self._environment(data)

    def _history(self, data: bytes) -> None:
        items: list[tuple[list[str], str]] = []
        step: int | None = None
        for place, _, value in fields(data):
            if place == 1 and isinstance(value, bytes):
                items.append(_item(value))
            elif place == 2 and isinstance(value, bytes):
                step = next((signed(part) for inner, _, part in fields(value) if inner == 1), 0)
        for path, told in items:
            found = _number(told)
            if path == ["_step"] and found is not None and found.is_integer():
                step = int(found)
            elif path == ["_timestamp"] and found is not None:
                self.at = found
        self.step = self.step if step is None else step
        media = {tuple(path[:-1]) for path, _ in items if path[-1:] == ["_type"]}
        for path, told in items:
            if tuple(path[:-1]) in media:
                self.left += path[-1] == "_type"
                continue
            for name, number in _numbers(path, told):
                self.run.log(name, self.step, self.at, number)

    def _summary(self, data: bytes) -> None:
        media: set[str] = set()
        for number, _, value in fields(data):
            if number not in (1, 2) or not isinstance(value, bytes):
                continue
            path, told = _item(value)
            if number == 2:
                self.summary.pop(".".join(path), None)
                continue
            if path[-1:] == ["_type"]:
                media.add(".".join(path[:-1]))
            for name, found in _numbers(path, told):
                if len(self.summary) < MAX_METRICS and len(name) <= MAX_NAME:
                    self.summary[name] = found
        for name in [one for one in self.summary if one.rpartition(".")[0] in media]:
            del self.summary[name]

    def _config(self, data: bytes) -> None:
        for number, _, value in fields(data):
            if number not in (1, 2) or not isinstance(value, bytes):
                continue
            path, told = _item(value)
            if path[:1] == ["_wandb"] or not path:
                continue
            place = self.run.params
            for name in path[:-1][:8]:
                inner = place.setdefault(name, {})
                if not isinstance(inner, dict):
                    inner = place[name] = {}
                place = inner
            if number == 2:
                place.pop(path[-1], None)
                continue
            try:
                place[path[-1]] = spelled(
                    load_json(told.encode(), what=path[-1], max_bytes=_MAX_VALUE, constants=True, halves=True)
                )
            except DataMismatchError:
                self.run.notes.append(f"left out the parameter {'.'.join(path)[:80]!r}, which is malformed or long")

    def _environment(self, data: bytes) -> None:
        texts = {1: "os", 2: "python", 6: "program", 12: "host", 13: "user"}
        arguments = []
        for number, _, value in fields(data):
            if number in texts:
                self.told[texts[number]] = text(value)[:MAX_NAME]
            elif number == 5:
                arguments.append(text(value)[:MAX_NAME])
            elif number == 9 and isinstance(value, bytes):
                remote, commit = _git(value)
                self.told["remote"], self.run.commit = clean_url(remote) or "", commit or self.run.commit
        if arguments:
            secret = next(in_arguments(arguments, "arguments"), None)
            if secret is None:
                self.told["arguments"] = arguments
            else:
                self.run.notes.append(f"left out the command line, which holds what looks like {secret.what}")


def _load(run_id: str, heads: tuple[_Head, ...], started: int) -> ForeignRun:
    head = heads[-1]
    run = ForeignRun(name=head.name or head.project or run_id, status="interrupted", started=started)
    run.commit = head.commit
    reading = _Reading(run)
    for one in heads:
        run.status = "interrupted"
        try:
            with open_regular(one.file) as handle:
                for kind, data in _records(handle):
                    reading.record(kind, data)
        except DamagedError as error:
            run.notes.append(f"{one.file.name}: {error}; what comes before was read")
        except WireError as error:
            run.notes.append(f"{one.file.name} holds what is no record, and was not read on: {error}")
        reading.at = max(reading.at, (one.started or 0) / 1000 + reading.runtime)
    for name, value in reading.summary.items():
        if name not in run.metrics:
            run.log(name, reading.step, reading.at, value)
    if reading.left:
        run.notes.append(f"left out {reading.left:,} images, tables and other values that are no numbers")
    run.ended = int(reading.at * 1000) if reading.at * 1000 > started else started
    user, host = reading.told.get("user"), reading.told.get("host") or head.host
    run.by = f"{user}@{host}" if user and host else ""
    run.told = {
        "run": run_id, "project": head.project, "notes": head.notes, "tags": head.tags, "commit": run.commit,
        "remote": clean_url(head.remote) or "", **reading.told,
    }  # fmt: skip
    kept = [pair for one in heads for pair in _files(one.file.parent / "files")]
    run.files = [(key, file) for key, file in kept if not file.is_symlink()]
    if links := len(kept) - len(run.files):
        run.notes.append(f"left out {links:,} links to files elsewhere, as `wandb.save` makes them")
    return run


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield what W&B kept of a run's files but for its own, which say what the record does."""
    for place, inner, names in os.walk(folder):
        inner.sort()
        for name in sorted(names):
            file = Path(place, name)
            key = file.relative_to(folder).as_posix()
            if key not in _OWN:
                yield key, file


def _item(data: bytes) -> tuple[list[str], str]:
    """Return the name of an item, by its parts, and its value as JSON."""
    path: list[str] = []
    value = ""
    for number, _, part in fields(data):
        if number in (1, 2):
            path.append(text(part))
        elif number == 16:
            value = text(part)
    return [part for part in path if part], value


def _number(told: str) -> float | None:
    """Return a number as JSON has it; None of what is none."""
    if _NUMBER.fullmatch(told) is None:
        return None
    try:
        return float(told)
    except ValueError:
        return None


def _numbers(path: list[str], told: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers of an item, by their names in W&B's pages: an object's are joined by dots."""
    if not path or path[0].startswith("_"):
        return
    found = _number(told)
    if found is not None:
        yield ".".join(path), found
    elif told.startswith("{") and len(told) <= _MAX_VALUE:
        try:
            value = load_json(told.encode(), what="a value", constants=True, halves=True)
        except DataMismatchError:
            return
        if "_type" not in value:
            yield from _inside(".".join(path), value)


def _inside(name: str, value: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _inside(f"{name}.{key}", item)
        elif isinstance(item, int | float) and not isinstance(item, bool):
            try:
                yield f"{name}.{key}", float(item)
            except OverflowError:
                yield f"{name}.{key}", math.inf


def _git(data: bytes) -> tuple[str, str]:
    told = {number: text(value)[:MAX_NAME] for number, _, value in fields(data) if isinstance(value, bytes)}
    return told.get(1, ""), told.get(2, "")


def _moment(data: bytes) -> int:
    """Return a time in ms since 1970.

    Raises:
        WireError: It is none.
    """
    told = {number: signed(value) for number, _, value in fields(data)}
    found = told.get(1, 0) * 1000 + told.get(2, 0) // 1_000_000
    if not 0 <= found < _YEAR_10000:
        raise WireError(f"{found} is no time in ms since 1970")
    return found


def _ended(code: int, incomplete: bool) -> Status:
    if incomplete:
        return "interrupted"
    return "finished" if code == 0 else "failed"


def _why(error: Exception) -> str:
    return error.message if isinstance(error, Error) else str(error)
