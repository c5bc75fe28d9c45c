"""A run's record in the registry: published when the run starts and when it ends, or for it if it was killed."""

from __future__ import annotations

import calendar
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from reprokit.core.atomic_files import explain_os_error
from reprokit.core.canonical_json import metric_values
from reprokit.core.config import Config
from reprokit.core.digest import Digest, hash_file
from reprokit.core.logical_keys import check_logical_key
from reprokit.core.refs import RESERVED
from reprokit.environment.vault import unpacked
from reprokit.errors import DataMismatchError, Error, RegistryError, UsageError
from reprokit.recording.checkpoint_saver import Collected
from reprokit.recording.earlier import with_earlier
from reprokit.recording.input_report import InputReport, digested, programs_of
from reprokit.recording.journal import Ended, Journal, abandoned, read_lines
from reprokit.recording.kept_files import UnkeptError, keep_file
from reprokit.recording.spool import Spool
from reprokit.registry import Registry, open_registry
from reprokit.registry.base import OFFLINE, Sink
from reprokit.runs.bounded import bounded
from reprokit.runs.logged import MAX_SERIES, digests_of, is_well, series_of
from reprokit.runs.store import LOCK_KEY, RECORD_KEY
from reprokit.schema.bounds import LOGGED, LeftOut
from reprokit.schema.facts import Name, meta_of
from reprokit.schema.lock import RunLock
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.metric_log import METRICS_KEY
from reprokit.schema.notebook import FOLDER as NOTEBOOK
from reprokit.schema.record import CheckpointEntry, OutputFacts, Record

__all__ = ["Recording", "new_run_id", "now", "recover"]

_FILES = ("log.txt", METRICS_KEY)
_STAMP = "%Y%m%d-%H%M%S"
_MALFORMED = (msgspec.ValidationError, AttributeError, KeyError, TypeError, ValueError)
_NAMED = 10  # outputs that are not kept and have a warning each


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_run_id(registry: Registry) -> str:
    """Return `YYYYMMDD-HHMMSS-xxxxxx` (UTC, 6 random hex digits), later than that of every run in the registry.

    Where the clock was set back, or another machine's is ahead, the time goes on from the newest run's: by their IDs,
    runs stand in the order in which they began.
    """
    moment = time.time()
    newest = max((head.name.partition("/")[2] for head in registry.heads(RESERVED)), default="")
    stamp = time.strftime(_STAMP, time.gmtime(moment))
    if newest[:15] > stamp:
        with contextlib.suppress(ValueError, OverflowError):  # no date: nobody's run
            stamp = time.strftime(_STAMP, time.gmtime(calendar.timegm(time.strptime(newest[:15], _STAMP)) + 1))
    return f"{stamp}-{secrets.token_hex(3)}"


class Recording:
    """One run being recorded: its journal here, its versions in the registry."""

    def __init__(self, record: Record, entries: list[Entry], *, registry: Registry, journal: Journal) -> None:
        self.record = record
        self._entries = entries
        self._registry = registry
        self.journal = journal
        self.manifest = Manifest.make(entries)
        self.settle: Callable[[], None] = lambda: None  # sends what the record will name
        self.left_behind: list[str] = []
        self.unkept: list[str] = []

    @classmethod
    @contextlib.contextmanager
    def start(
        cls, record: Record, entries: list[Entry], *, lock: RunLock | None, registry: Registry, journal: Journal
    ) -> Iterator[Recording]:
        """Publish the record as running and hold the sign of life; whatever happens inside, the journal stays whole.

        Args:
            entries: The code, and what else the record keeps from the start.
        """
        with registry.claim(record.run_id) as sign:
            with registry.staging() as sink:
                kept = [*entries]
                if lock is not None:
                    kept.append(_entry(LOCK_KEY, lock.encode(), sink))
            recording = cls(record, kept, registry=registry, journal=journal)
            top_hash = recording._publish([])
            journal.event("start", registry=registry.url, top_hash=top_hash, sign=sign)
            yield recording

    def end(
        self, record: Record, *, collected: Collected, outputs: dict[str, Path], workspace: Path | None = None
    ) -> Record:
        """Publish the ended record with log, metrics, outputs and artifacts.

        What cannot be kept costs nothing else: the record says so. What would be published is in the journal before,
        so that a later command can do it where this one cannot.

        Args:
            outputs: Logical key below `outputs/` → file.
            workspace: Where they lie.
        Raises:
            RegistryError: The registry cannot be written; it says where everything is meanwhile.
        """
        self.journal.ending(Ended(bounded(record).encode(), outputs, workspace, bool(self.left_behind)))
        try:
            return self._end(record, collected, outputs, workspace)
        except (Error, OSError) as error:
            told = error if isinstance(error, Error) else explain_os_error(error, "Writing the record")
            raise RegistryError(
                f"Run {record.run_id} ended ({record.status}), and its record could not be written. {told.message}",
                hint=f"Nothing is lost: log, metrics and what else is not in the registry are in {self.journal.folder}"
                f"{f', the outputs in {workspace}' if workspace is not None else ''}. "
                f"The next `reprokit ls` completes the record, once {self._registry.url} can be written again.",
            ) from error

    def _end(self, record: Record, collected: Collected, outputs: dict[str, Path], workspace: Path | None) -> Record:
        self.settle()
        facts = {output.path: output for output in record.outputs}
        extra = list(collected.artifacts.values())
        warnings = [*record.warnings]
        notebook = None
        with self._registry.staging() as sink:
            for name in _FILES:
                with _named(f"The run's {name}", warnings):
                    extra.append(keep_file(name, self.journal.file(name), sink))
            for file in sorted(self.journal.file(NOTEBOOK).glob("[!.]*")):
                with _named(f"The executed notebook {file.name}", warnings):
                    extra.append(keep_file(f"{NOTEBOOK}/{file.name}", file, sink))
                    notebook = f"{NOTEBOOK}/{file.name}"
            for key, file in outputs.items():
                try:
                    stored = keep_file(f"outputs/{key}", file, sink)
                except UnkeptError as error:
                    facts[key] = msgspec.structs.replace(facts[key], unkept=str(error))
                else:
                    extra.append(stored)
                    facts[key] = msgspec.structs.replace(facts[key], size=stored.size, digest=stored.digest.hex)
        told = list(facts.values())
        self.unkept = [output.path for output in told if output.unkept is not None]
        warnings += _of_unkept(told, workspace)
        self.record = msgspec.structs.replace(
            record, outputs=told, notebook=notebook, warnings=warnings, **self._logged(record)
        )
        self._publish(extra)
        self._entries += extra
        self._registry.tidy()
        return self.record

    def _logged(self, record: Record) -> dict[str, Any]:
        """Return the digests of what was logged; of a log that is too long to be compared, that it is not listed."""
        file = self.journal.file(METRICS_KEY)
        size = file.stat().st_size if file.exists() else 0
        if size <= MAX_SERIES:
            return {"logged": digests_of(series_of(filter(is_well, read_lines(file))), again=bool(record.attempts))}
        gone = LeftOut(what=LOGGED, count=size, digest=hash_file(file)[0].hex)
        return {"logged": None, "left_out": [*record.left_out, gone]}

    def keep(self, entries: list[Entry], warnings: list[str]) -> None:
        """Take what was stored while the run went on into its versions from here on, and what is to be said of it."""
        self._entries += entries
        self.record = msgspec.structs.replace(self.record, warnings=[*self.record.warnings, *warnings])

    def amend(self, record: Record) -> Record:
        """Publish the record once more, with what was concluded after its end."""
        self.record = record
        self._publish([])
        return record

    def _publish(self, extra: list[Entry]) -> str:
        self.record = bounded(self.record)
        with self._registry.staging() as sink:
            entry = _entry(RECORD_KEY, self.record.encode(), sink)
        entries = [old for old in [*self._entries, *extra] if old.logical_key != RECORD_KEY]
        manifest = Manifest.make(
            [*entries, entry],
            message=f"{self.record.name}: {self.record.status}",
            user_meta=meta_of(self.record.summary()),
        )
        self._registry.publish(f"{RESERVED}/{self.record.run_id}", manifest)
        self.manifest = manifest
        return manifest.top_hash


def recover(home: Path, *, note: Callable[[str], None] = lambda _: None) -> list[str]:
    """Finalise the runs that were killed on this machine; return their IDs.

    A run whose registry cannot be reached now keeps its journal for the next time, and is noted.
    """
    done = []
    for journal, events in abandoned(home):
        if Config.is_offline() and _is_far(events):
            journal.leave()
            continue
        try:
            keep = _finalise(journal, events)
        except (Error, OSError) as error:
            journal.leave()
            why = error.message if isinstance(error, Error) else str(error)
            note(f"The record of run {journal.folder.name} is still to be completed from {journal.folder}: {why}")
            continue
        journal.close(keep_workspace=keep)
        _clear_live(events, journal.folder.name)
        done.append(journal.folder.name)
    return done


def _is_far(events: list[dict[str, Any]]) -> bool:
    """True of a run whose registry is behind a network."""
    address = next((str(event.get("registry")) for event in events if event.get("event") == "start"), "")
    return "://" in address and not address.startswith(("file:", OFFLINE))


def _clear_live(events: list[dict[str, Any]], run_id: str) -> None:
    """Take back that a killed run is alive, and what it told while it was."""
    started = next((event for event in events if event.get("event") == "start"), None)
    with contextlib.suppress(Error, OSError):
        if started is not None:
            registry = open_registry(str(started["registry"]))
            registry.release(run_id, str(started.get("sign")))
            live = registry.live(run_id)
            if live is not None:
                live.clear()


def _finalise(journal: Journal, events: list[dict[str, Any]]) -> bool:
    """Complete a record; return whether the workspace holds what nobody kept."""
    run_id = journal.folder.name
    started = next((event for event in events if event.get("event") == "start"), None)
    if started is None:  # killed before anything was published: nothing to tell
        return True
    registry = open_registry(str(started["registry"]))
    manifest = registry.read_manifest(str(started["top_hash"]))
    head = registry.head(f"{RESERVED}/{run_id}")
    if head is not None and head.top_hash != manifest.top_hash:  # its end is published already
        return True
    entry = manifest[RECORD_KEY]
    what = f"{RECORD_KEY} of run {run_id}"
    record = Record.decode(registry.read_object(entry, what=what), what=what)
    spool = Spool.left(registry, journal, events)
    spool.told = events.append
    spool.settle()
    collected = _collect(journal, events)
    for gone in registry.lacking(collected.artifacts.values()):
        collected.artifacts = {key: kept for key, kept in collected.artifacts.items() if kept.digest != gone.digest}
        collected.notes.append(f"What the journal calls {gone.logical_key} is not in the registry.")
    recording = Recording(record, list(manifest.entries), registry=registry, journal=journal)
    recording.keep(*_packed(registry, events))
    ended = journal.ended()
    if ended is not None:  # its script had ended, and all that was missing was a registry
        told = Record.decode(ended.record, what=f"The end of run {run_id}")
        dropped = {entry.top_hash for entry in collected.checkpoints if entry.dropped}  # when what was left was sent
        kept = [msgspec.structs.replace(c, dropped=c.dropped or c.top_hash in dropped) for c in told.checkpoints]
        recording.end(
            msgspec.structs.replace(told, checkpoints=kept),
            collected=collected,
            outputs=ended.outputs,
            workspace=ended.workspace,
        )
        return ended.left or bool(recording.unkept)
    workspace = journal.file("workspace")
    given = bool(record.attempts) and record.attempts[-1].resumed_at is not None
    began_anew = given and collected.went_on and not collected.resumed
    attempts, resumption = collected.attempts(record.attempts, not_restored=began_anew)
    left = f" What its script wrote is in {workspace}." if workspace.is_dir() else ""
    noted = InputReport.read(journal.file("inputs.txt"))
    told, otherwise = with_earlier(
        msgspec.structs.replace(
            record,
            status="interrupted",
            ended=now(),
            initial=collected.initial,
            checkpoints=collected.checkpoints,
            metrics=collected.metrics,
            artifacts=sorted(collected.artifacts),
            attempts=attempts,
            undeclared=digested(noted),
            programs=programs_of(noted),
            refused=noted.refused,
            failure=f"The runner was killed; the record was completed afterwards from its journal.{left}",
        ),
        record,
    )
    warnings = [*recording.record.warnings, *resumption, *otherwise, *collected.warnings]
    recording.end(msgspec.structs.replace(told, warnings=warnings), collected=collected, outputs={})
    return True


def _collect(journal: Journal, events: list[dict[str, Any]]) -> Collected:
    """Return what a journal says; what in it is malformed costs nothing else, and is counted."""
    collected, malformed = Collected(), 0
    for event in events:
        try:
            _take(event, collected)
        except (
            msgspec.ValidationError,
            DataMismatchError,
            UsageError,
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
        ):
            malformed += 1
    for row in read_lines(journal.file(METRICS_KEY)):
        values = metric_values(row.get("values", {}))
        if isinstance(values, dict):
            collected.metrics.update({name: value for name, value in values.items() if isinstance(value, (int, float))})
    if malformed:
        collected.notes.append(f"{malformed:,} line(s) of the run's journal are malformed: what they said is missing.")
    return collected


def _packed(registry: Registry, events: list[dict[str, Any]]) -> tuple[list[Entry], list[str]]:
    """Return the packages of the environment that a killed runner had stored, and a warning for each it had not."""
    names: dict[str, None] = {}
    packed: dict[str, Entry] = {}
    for event in events:
        with contextlib.suppress(*_MALFORMED, DataMismatchError, UsageError):
            if event.get("event") == "packing":
                names = dict.fromkeys(msgspec.convert(event["names"], list[Name]))
            elif event.get("event") == "packed":
                packed[str(event["name"])] = _stored(event)
    gone = {entry.digest for entry in registry.lacking(packed.values())}
    kept = {name: entry for name, entry in packed.items() if entry.digest not in gone}
    lost = [f"{name} was not packed when the runner was killed" for name in names if name not in kept]
    return [*kept.values()], [unpacked(why) for why in lost]


def _take(event: dict[str, Any], collected: Collected) -> None:
    kind = event.get("event")
    if kind == "checkpoint":
        entry = msgspec.convert(
            {**event["entry"], "metrics": metric_values(event["entry"]["metrics"])}, CheckpointEntry
        )
        collected.went_on |= not event.get("again", False)
        if entry.place.is_initial:
            collected.initial = entry
        else:
            collected.add(entry)
    elif kind == "dropped":
        collected.drop(str(event["top_hash"]))
    elif kind == "note":
        collected.notes.append(str(event["text"]))
    elif kind == "error":
        collected.errors.append(str(event["text"]))
    elif kind == "resumed":
        collected.resumed = True
    elif kind == "lost":
        collected.lost = msgspec.convert(event["names"], list[Name])
    elif kind == "stranger":
        collected.strangers.append(event.get("process"))
    elif kind == "artifact":
        collected.artifacts[event["key"]] = _stored(event)


def _stored(event: dict[str, Any]) -> Entry:
    """Return what an event says that it stored; see `stored_as`."""
    digest = Digest.checked(event["type"], event["value"])
    return Entry(check_logical_key(event["key"]), int(event["size"]), digest)


def _entry(key: str, data: bytes, sink: Sink) -> Entry:
    digest, size = sink.put_bytes(data)
    return Entry(key, size, digest)


@contextlib.contextmanager
def _named(what: str, warnings: list[str]) -> Iterator[None]:
    try:
        yield
    except UnkeptError as error:
        warnings.append(f"{what} is not kept: {error}.")


def _of_unkept(outputs: list[OutputFacts], workspace: Path | None) -> list[str]:
    """Return a warning for each output that was written and is not kept, and one for those beyond the tenth."""
    unkept = [output for output in outputs if output.unkept is not None]
    found = [f"The output {output.path!r} was written and is not kept: {output.unkept}." for output in unkept[:_NAMED]]
    if len(unkept) > _NAMED:
        found.append(f"{len(unkept) - _NAMED:,} more outputs were written and are not kept.")
    return [*found, f"What is not kept stays in {workspace}."] if found and workspace is not None else found
