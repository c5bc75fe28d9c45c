"""A run's record in the registry: published when the run starts and when it ends, or for it if it was killed."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from reprokit.core.canonical_json import metric_values
from reprokit.core.digest import Digest
from reprokit.core.logical_keys import os_errors
from reprokit.errors import Error
from reprokit.packages.package import RESERVED
from reprokit.recording.checkpoint_saver import Collected
from reprokit.recording.journal import Journal, abandoned, read_lines
from reprokit.registry import Registry, open_registry
from reprokit.registry.base import Sink
from reprokit.runs.store import LOCK_KEY, RECORD_KEY
from reprokit.schema.lock import RunLock
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.notebook import FOLDER as NOTEBOOK
from reprokit.schema.record import CheckpointEntry, Record

__all__ = ["Recording", "new_run_id", "now", "recover"]

_FILES = ("log.txt", "metrics.jsonl")


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_run_id() -> str:
    """Return `YYYYMMDD-HHMMSS-xxxxxx` (UTC, 6 random hex digits)."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


class Recording:
    """One run being recorded: its journal here, its versions in the registry."""

    def __init__(self, record: Record, entries: list[Entry], *, registry: Registry, journal: Journal) -> None:
        self.record = record
        self._entries = entries
        self._registry = registry
        self.journal = journal
        self.manifest = Manifest.make(entries)
        self.left_behind: list[str] = []

    @classmethod
    @contextlib.contextmanager
    def start(
        cls, record: Record, entries: list[Entry], *, lock: RunLock | None, registry: Registry, journal: Journal
    ) -> Iterator[Recording]:
        """Publish the record as running and hold the sign of life; whatever happens inside, the journal stays whole.

        Args:
            entries: The code, and what else the record keeps from the start.
        """
        with registry.claim(record.run_id):
            with registry.staging() as sink:
                kept = [*entries]
                if lock is not None:
                    kept.append(_entry(LOCK_KEY, lock.encode(), sink))
            recording = cls(record, kept, registry=registry, journal=journal)
            top_hash = recording._publish([])
            journal.event("start", registry=registry.url, top_hash=top_hash)
            yield recording

    def end(self, record: Record, *, collected: Collected, outputs: dict[str, Path]) -> Record:
        """Publish the finished record with log, metrics, outputs and artifacts.

        Args:
            outputs: Logical key below `outputs/` → file.
        """
        facts = {output.path: output for output in record.outputs}
        extra = list(collected.artifacts.values())
        notebook = None
        with self._registry.staging() as sink:
            for name in _FILES:
                extra += _file_entry(name, self.journal.file(name), sink)
            for file in sorted(self.journal.file(NOTEBOOK).glob("[!.]*")):
                notebook = f"{NOTEBOOK}/{file.name}"
                extra += _file_entry(notebook, file, sink)
            for key, file in outputs.items():
                stored = _file_entry(f"outputs/{key}", file, sink)
                extra += stored
                facts[key] = msgspec.structs.replace(facts[key], size=stored[0].size, digest=stored[0].digest.hex)
        self.record = msgspec.structs.replace(record, outputs=list(facts.values()), notebook=notebook)
        self._publish(extra)
        self._entries += extra
        return self.record

    def amend(self, record: Record) -> Record:
        """Publish the record once more, with what was concluded after its end."""
        self.record = record
        self._publish([])
        return record

    def _publish(self, extra: list[Entry]) -> str:
        with self._registry.staging() as sink:
            entry = _entry(RECORD_KEY, self.record.encode(), sink)
        entries = [old for old in [*self._entries, *extra] if old.logical_key != RECORD_KEY]
        manifest = Manifest.make(
            [*entries, entry],
            message=f"{self.record.name}: {self.record.status}",
            user_meta={"reprokit": self.record.summary()},
        )
        self._registry.publish(f"{RESERVED}/{self.record.run_id}", manifest)
        self.manifest = manifest
        return manifest.top_hash


def recover(home: Path) -> list[str]:
    """Finalise the runs that were killed on this machine; return their IDs.

    A run whose registry cannot be reached now keeps its journal for the next time.
    """
    done = []
    for journal, events in abandoned(home):
        try:
            run_id = _finalise(journal, events)
        except (Error, OSError):
            journal.leave()
            continue
        journal.close(keep_workspace=True)
        done.append(run_id)
    return done


def _finalise(journal: Journal, events: list[dict[str, Any]]) -> str:
    run_id = journal.folder.name
    started = next((event for event in events if event.get("event") == "start"), None)
    if started is None:  # killed before anything was published: nothing to tell
        return run_id
    registry = open_registry(str(started["registry"]))
    manifest = registry.read_manifest(str(started["top_hash"]))
    head = registry.head(f"{RESERVED}/{run_id}")
    if head is not None and head.top_hash != manifest.top_hash:  # its end is published already
        return run_id
    entry = manifest[RECORD_KEY]
    what = f"{RECORD_KEY} of run {run_id}"
    record = Record.decode(registry.read_object(entry, what=what), what=what)
    collected = _collect(journal, events)
    recording = Recording(record, list(manifest.entries), registry=registry, journal=journal)
    recording.end(
        msgspec.structs.replace(
            record,
            status="interrupted",
            ended=now(),
            initial=collected.initial,
            checkpoints=collected.checkpoints,
            metrics=collected.metrics,
            artifacts=sorted(collected.artifacts),
            failure="The runner was killed; the record was completed afterwards from its journal.",
        ),
        collected=collected,
        outputs={},
    )
    return run_id


def _collect(journal: Journal, events: list[dict[str, Any]]) -> Collected:
    collected = Collected()
    for event in events:
        if event.get("event") == "checkpoint":
            entry = msgspec.convert(
                {**event["entry"], "metrics": metric_values(event["entry"]["metrics"])}, CheckpointEntry
            )
            if event.get("kind") == "initial":
                collected.initial = entry
            else:
                collected.add(entry)
        elif event.get("event") == "dropped":
            collected.drop(str(event["top_hash"]))
        elif event.get("event") == "artifact":
            digest = Digest.checked(event["type"], event["value"])
            collected.artifacts[event["key"]] = Entry(event["key"], int(event["size"]), digest)
    for row in read_lines(journal.file("metrics.jsonl")):
        collected.metrics.update(metric_values(row.get("values", {})))
    return collected


def _entry(key: str, data: bytes, sink: Sink) -> Entry:
    digest, size = sink.put_bytes(data)
    return Entry(key, size, digest)


def _file_entry(key: str, file: Path, sink: Sink) -> list[Entry]:
    with os_errors(f"Keeping {file}"):
        if not file.exists():
            return []
        with file.open("rb") as handle:
            digest, size = sink.put_stream(handle, file.stat().st_size)
    return [Entry(key, size, digest)]
