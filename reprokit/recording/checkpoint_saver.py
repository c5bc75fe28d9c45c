"""From a snapshot in shared memory to a published checkpoint: stored, linked to its run, tagged, old ones dropped."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from reprokit.checkpoint.format import Piece, SnapshotMessage, encode
from reprokit.core.atomic_files import explain_os_error
from reprokit.core.canonical_json import spelled
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import RegistryError
from reprokit.recording.journal import UNSAVED, Journal, stored_as
from reprokit.recording.listener import DEAF, Listener
from reprokit.recording.spool import Best, Delivery, Spool, best_tags, is_tagged, publish_tagged
from reprokit.registry import Registry
from reprokit.registry.local import LocalRegistry
from reprokit.schema.facts import CheckpointFacts, InputLink, VersionLink, meta_of
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import Attempt, CheckpointEntry

__all__ = ["Collected", "Saver", "SavingPolicy"]

_BEGAN_ANEW = "The script did not restore the checkpoint that it was given: it started from its beginning."


@dataclass(frozen=True, slots=True, kw_only=True)
class SavingPolicy:
    """What the run decided about its checkpoints.

    Attributes:
        package: Where they go; None leaves it to the script, with `checkpoints/<name>` as the last word.
        best: Metric → min or max; the first one moves the tag `best`.
        keep: How many of the last ones stay, beside the best of each metric; None keeps all.
        inputs: What each checkpoint is linked to: name, package and top hash.
        move_tags: False for a reproduction, whose versions must not become anyone's `latest`.
    """

    run_id: str
    name: str
    package: str | None
    best: dict[str, Literal["min", "max"]]
    inputs: list[InputLink]
    lock_hash: str | None
    keep: int | None = None
    move_tags: bool = True


@dataclass
class Collected:
    """What a session gathered for the record.

    Attributes:
        errors: What could not be stored.
        notes: What else is to be said.
        untold: Checkpoints that could not be stored, and whose script went on without learning it.
        resumed: The script restored the checkpoint that it was given.
        went_on: It saved one of its own.
        lost: Variables of the script that do not hold what they held when that checkpoint was saved.
        imported: Top-level modules that the script's processes had imported at their ends.
        files: Files of the run's own code that they had imported.
        told: What is known of the numbers comes from a process that saved, at its end.
        strangers: Processes that spoke to the runner and are not the run's, by ID where it is known.
    """

    initial: CheckpointEntry | None = None
    checkpoints: list[CheckpointEntry] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, Entry] = field(default_factory=dict)
    numeric: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    untold: int = 0
    resumed: bool = False
    went_on: bool = False
    lost: list[str] = field(default_factory=list)
    imported: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    told: bool = False
    strangers: list[int | None] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """What the record has to say of what was not kept."""
        found = [*(f"Not stored: {text}" for text in self.errors), *dict.fromkeys(self.notes)]
        if self.strangers:
            known = ", ".join(str(number) for number in dict.fromkeys(self.strangers) if number is not None)
            found.append(
                f"A process that does not belong to the run spoke to its runner {len(self.strangers)} time(s)"
                f"{f' (process {known[:200]})' if known else ''}: nothing of it was kept."
            )
        return found

    def add(self, entry: CheckpointEntry) -> None:
        """Add a checkpoint; one of the same epoch and step, as a resumed run may save again, replaces the older."""
        place = entry.place
        if place.is_counted:
            self.checkpoints = [old for old in self.checkpoints if old.place != place]
        self.checkpoints.append(entry)

    def attempts(self, before: list[Attempt], *, not_restored: bool) -> tuple[list[Attempt], list[str]]:
        """Return the attempts of a run with what became of the last resumption, and warnings that say it.

        Args:
            not_restored: The script began anew, though it was given a checkpoint.
        """
        warnings = []
        if not_restored:
            before = [*before[:-1], msgspec.structs.replace(before[-1], restored=False)]
            warnings.append(_BEGAN_ANEW)
        if before and self.lost:
            before = [*before[:-1], msgspec.structs.replace(before[-1], lost=self.lost)]
            warnings.append(before[-1].not_restored)
        return before, warnings

    def drop(self, top_hash: str) -> None:
        """Note that a checkpoint's version was deleted."""
        self.checkpoints = [
            msgspec.structs.replace(entry, dropped=True) if entry.top_hash == top_hash else entry
            for entry in self.checkpoints
        ]


def _put(pieces: list[Piece], registry: Registry) -> None:
    with registry.staging() as sink, ThreadPoolExecutor(2) as pool:  # two: while one waits for the disk

        def put(piece: Piece) -> None:
            sink.put_hashed(piece.digest, piece.parts, piece.size)

        for done in [pool.submit(put, piece) for piece in pieces]:
            done.result()


class Saver:
    """Stores the checkpoints of one run. Safe to use from several threads."""

    def __init__(
        self,
        *,
        registry: Registry,
        journal: Journal,
        policy: SavingPolicy,
        collected: Collected | None = None,
        listener: Listener = DEAF,
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._policy = policy
        self._lock = threading.Lock()
        self.collected = collected or Collected()
        self.listener = listener
        self._spool = Spool(registry, journal, told=self._take) if registry.is_far else None
        self._given_up: set[str] = set()

    def note_again(self) -> None:
        """Write what is known from an earlier attempt into the journal, so that a kill loses none of it."""
        collected = self.collected
        for entry in [*([collected.initial] if collected.initial else []), *collected.checkpoints]:
            self._journal.event("checkpoint", entry=spelled(msgspec.to_builtins(entry)), again=True)
        for kept in collected.artifacts.values():
            self._journal.event("artifact", **stored_as(kept))

    def save(self, snapshot: SnapshotMessage, memory: memoryview) -> CheckpointEntry:
        """Store and publish a snapshot.

        Args:
            memory: The tensors; not needed any more when this returns.
        Raises:
            DataMismatchError: The snapshot does not fit its memory.
            RegistryError: The registry cannot be written; the checkpoint is kept aside, and it says where.
        """
        name = self._policy.package or snapshot.package or f"checkpoints/{self._policy.name}"
        pieces, state_digest = encode(snapshot, memory)
        entries = [Entry(piece.key, piece.size, piece.digest, piece.meta) for piece in pieces]
        try:
            return self._store(name, snapshot, pieces, entries, state_digest)
        except (RegistryError, OSError) as error:
            raise self._kept_aside(name, snapshot, pieces, entries, state_digest, error) from error

    def _store(
        self, name: str, snapshot: SnapshotMessage, pieces: list[Piece], entries: list[Entry], state_digest: str
    ) -> CheckpointEntry:
        if self._spool is None:
            return self._store_in(self._registry, None, name, snapshot, pieces, entries, state_digest)
        with self._spool.room(sum(piece.size for piece in pieces)) as (place, local):
            return self._store_in(local, place, name, snapshot, pieces, entries, state_digest)

    def _store_in(
        self,
        registry: Registry,
        place: str | None,
        name: str,
        snapshot: SnapshotMessage,
        pieces: list[Piece],
        entries: list[Entry],
        state_digest: str,
    ) -> CheckpointEntry:
        _put(pieces, registry)
        with self._lock:  # one after the other from here: each checkpoint names the one before
            facts = self._facts(snapshot, state_digest)
            manifest = Manifest.make(entries, message=self._message(snapshot), user_meta=meta_of(facts))
            self._publish(name, manifest, snapshot, registry, place)
            entry = CheckpointEntry.of(facts, package=name, top_hash=manifest.top_hash)
            entry = msgspec.structs.replace(entry, unresumable=snapshot.unresumable)
            self._note(entry, snapshot)
            self._drop_old()
        self.listener.checkpoint(entry)
        return entry

    def _kept_aside(
        self,
        name: str,
        snapshot: SnapshotMessage,
        pieces: list[Piece],
        entries: list[Entry],
        state_digest: str,
        error: RegistryError | OSError,
    ) -> RegistryError:
        """Keep a checkpoint that its registry does not take in one beside the journal; return what to say of it."""
        told = error if isinstance(error, RegistryError) else explain_os_error(error, "Storing a checkpoint")
        if self._spool is not None:  # this machine's disk is what does not take it
            return told
        aside = LocalRegistry(self._journal.file(UNSAVED))
        manifest = Manifest.make(
            entries, message=self._message(snapshot), user_meta=meta_of(self._facts(snapshot, state_digest))
        )
        try:
            _put(pieces, aside)
            aside.publish(name, manifest)
        except (RegistryError, OSError):
            return told
        bring = f"reprokit push {name}@{manifest.top_hash[:12]} {self._registry.url} --registry {aside.url}"
        return RegistryError(f"{told.message} The checkpoint of {snapshot.place} is kept: `{bring}`.", hint=told.hint)

    def _publish(
        self, name: str, manifest: Manifest, snapshot: SnapshotMessage, registry: Registry, place: str | None
    ) -> None:
        """Publish a checkpoint, or have it sent behind the training from its place."""
        best = self._best(snapshot) if self._policy.move_tags and snapshot.kind == "checkpoint" else None
        latest = self._policy.move_tags and snapshot.kind != "exception"
        if self._spool is not None:
            registry.publish(name, manifest)
            told = Delivery(name=name, top_hash=manifest.top_hash, place=place, latest=latest, best=best)
            self._spool.add(told)
            return
        tags = best_tags(self._registry, name, best)
        if (note := publish_tagged(self._registry, name, manifest, tags, latest=latest)) is not None:
            self.collected.notes.append(note)

    def _facts(self, snapshot: SnapshotMessage, state_digest: str) -> CheckpointFacts:
        policy, done = self._policy, self.collected.checkpoints
        parent = done[-1] if done else self.collected.initial
        return CheckpointFacts(
            kind=snapshot.kind,
            framework=snapshot.framework,
            run=policy.run_id,
            epoch=snapshot.epoch,
            step=snapshot.step,
            batch=snapshot.batch,
            parent=VersionLink(package=parent.package, top_hash=parent.top_hash) if parent else None,
            inputs=policy.inputs,
            lock_hash=policy.lock_hash,
            state_digest=state_digest,
            metrics=snapshot.metrics,
            carried=snapshot.carried,
        )

    def _message(self, snapshot: SnapshotMessage) -> str:
        saves = sum(not one.place.is_counted for one in self.collected.checkpoints) + 1
        where = snapshot.place if snapshot.place.is_counted else msgspec.structs.replace(snapshot.place, save=saves)
        return f"{self._policy.run_id} {where}"

    def _note(self, entry: CheckpointEntry, snapshot: SnapshotMessage) -> None:
        collected = self.collected
        if snapshot.kind == "initial":
            collected.initial = entry
        else:
            collected.add(entry)
            self._journal.metrics(snapshot.step, snapshot.metrics)
            collected.metrics.update(snapshot.metrics)
        collected.numeric = snapshot.numeric or collected.numeric
        self._journal.event("checkpoint", entry=spelled(msgspec.to_builtins(entry)))

    def _drop_old(self) -> None:
        """Delete the versions that `keep` does not keep; their digests stay in the record, their bytes until `gc`."""
        keep = self._policy.keep
        if keep is None:
            return
        done = self.collected.checkpoints
        spared = {entry.top_hash for entry in done[-keep:]}
        for metric, sense in self._policy.best.items():
            having = [entry for entry in done if entry.metrics.get(metric) == entry.metrics.get(metric, float("nan"))]
            if having:
                chosen = (min if sense == "min" else max)(having, key=lambda entry: entry.metrics[metric])
                spared.add(chosen.top_hash)
        note = f"keep: {keep}"
        for entry in done:
            if entry.dropped or entry.top_hash in spared:
                continue
            if self._spool is not None:
                if entry.top_hash not in self._given_up:
                    self._given_up.add(entry.top_hash)
                    told = Delivery(name=entry.package, top_hash=entry.top_hash, note=note)
                    self._spool.add(told)
            elif not is_tagged(self._registry, entry.package, entry.top_hash):
                self._registry.delete(entry.package, entry.top_hash, note=note)
                self.collected.drop(entry.top_hash)
                self._journal.event("dropped", top_hash=entry.top_hash)

    def _best(self, snapshot: SnapshotMessage) -> Best | None:
        """Return what decides whether a checkpoint is tagged `best`."""
        for metric, sense in list(self._policy.best.items())[:1]:
            value = snapshot.metrics.get(metric)
            if value is not None:
                return Best(metric=metric, value=value, sense=sense)
        return None

    def settle(self, progress: Progress = SILENT) -> None:
        """Send what was not sent yet; nothing to do where checkpoints go into their registry at once.

        Raises:
            RegistryError: The registry cannot be reached; what is left stays beside the journal.
        """
        if self._spool is not None:
            self._spool.settle(progress)

    def _take(self, event: dict[str, Any]) -> None:
        """Note what became of a checkpoint that was sent behind the training."""
        if event["event"] == "dropped":
            self.collected.drop(event["top_hash"])
        elif event["event"] == "error":
            self.collected.errors.append(event["text"])
        elif event["event"] == "note":
            self.collected.notes.append(event["text"])
