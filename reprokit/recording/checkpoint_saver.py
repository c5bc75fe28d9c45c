"""From a snapshot in shared memory to a published checkpoint: stored, linked to its run, tagged, old ones dropped."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from reprokit.checkpoint.format import Piece, SnapshotMessage, encode
from reprokit.core.canonical_json import spelled
from reprokit.recording.journal import Journal
from reprokit.registry import Registry
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import CheckpointEntry

__all__ = ["Collected", "Observer", "Saver", "SavingPolicy"]


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
    inputs: list[dict[str, str]]
    lock_hash: str | None
    keep: int | None = None
    move_tags: bool = True


class Observer:
    """What a face may want to show while a run goes on; does nothing by itself."""

    def checkpoint(self, entry: CheckpointEntry, kind: str) -> None: ...

    def total_epochs(self, total: int) -> None: ...

    def epoch(self, epoch: int) -> None: ...


@dataclass
class Collected:
    """What a session gathered for the record.

    Attributes:
        untold: Checkpoints that could not be stored, and whose script went on without learning it.
        resumed: The script restored the checkpoint that it was given.
        imported: Top-level modules that the script's processes had imported at their ends.
        files: Files of the run's own code that they had imported.
        told: What is known of the numbers comes from a process that saved, at its end.
    """

    initial: CheckpointEntry | None = None
    checkpoints: list[CheckpointEntry] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, Entry] = field(default_factory=dict)
    numeric: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    untold: int = 0
    resumed: bool = False
    imported: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    told: bool = False

    def add(self, entry: CheckpointEntry) -> None:
        """Add a checkpoint; one of the same epoch and step, as a resumed run may save again, replaces the older."""
        place = entry.place
        if place[:2] != (None, None):
            self.checkpoints = [old for old in self.checkpoints if old.place != place]
        self.checkpoints.append(entry)

    def drop(self, top_hash: str) -> None:
        """Note that a checkpoint's version was deleted."""
        self.checkpoints = [
            msgspec.structs.replace(entry, dropped=True) if entry.top_hash == top_hash else entry
            for entry in self.checkpoints
        ]


class Saver:
    """Stores the checkpoints of one run. Safe to use from several threads."""

    def __init__(
        self,
        *,
        registry: Registry,
        journal: Journal,
        policy: SavingPolicy,
        collected: Collected | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._policy = policy
        self._lock = threading.Lock()
        self.collected = collected or Collected()
        self.observer = observer or Observer()

    def note_again(self) -> None:
        """Write what is known from an earlier attempt into the journal, so that a kill loses none of it."""
        collected = self.collected
        entries = [("initial", collected.initial)] if collected.initial else []
        for kind, entry in [*entries, *(("checkpoint", entry) for entry in collected.checkpoints)]:
            self._journal.event("checkpoint", kind=kind, entry=spelled(msgspec.to_builtins(entry)))
        for key, kept in collected.artifacts.items():
            self._journal.event("artifact", key=key, size=kept.size, type=kept.digest.type, value=kept.digest.value)

    def save(self, snapshot: SnapshotMessage, memory: memoryview) -> CheckpointEntry:
        """Store and publish a snapshot.

        Args:
            memory: The tensors; not needed any more when this returns.
        Raises:
            DataMismatchError: The snapshot does not fit its memory.
            OSError: The registry cannot be written.
        """
        name = self._policy.package or snapshot.package or f"checkpoints/{self._policy.name}"
        pieces, state_digest = encode(snapshot, memory)
        with self._registry.staging() as sink, ThreadPoolExecutor(2) as pool:  # two: while one waits for the disk

            def put(piece: Piece) -> None:
                sink.put_hashed(piece.digest, piece.parts, piece.size)

            for done in [pool.submit(put, piece) for piece in pieces]:
                done.result()
        entries = [Entry(piece.key, piece.size, piece.digest, piece.meta) for piece in pieces]
        with self._lock:  # one after the other from here: each checkpoint names the one before
            manifest = self._manifest(snapshot, entries, state_digest)
            tags = self._tags(name, snapshot) if self._policy.move_tags and snapshot.kind == "checkpoint" else ()
            latest = self._policy.move_tags and snapshot.kind != "exception"
            self._registry.publish(name, manifest, tags=tags, latest=latest)
            entry = CheckpointEntry(
                package=name,
                top_hash=manifest.top_hash,
                state_digest=state_digest,
                epoch=snapshot.epoch,
                step=snapshot.step,
                batch=snapshot.batch,
                metrics=snapshot.metrics,
                reason=None if snapshot.kind in ("checkpoint", "initial") else snapshot.kind,
            )
            self._note(entry, snapshot)
            self._drop_old()
        self.observer.checkpoint(entry, snapshot.kind)
        return entry

    def _manifest(self, snapshot: SnapshotMessage, entries: list[Entry], state_digest: str) -> Manifest:
        policy, done = self._policy, self.collected.checkpoints
        parent = done[-1] if done else self.collected.initial
        facts = {
            "kind": snapshot.kind,
            "framework": snapshot.framework,
            "run": policy.run_id,
            "epoch": snapshot.epoch,
            "step": snapshot.step,
            "batch": snapshot.batch,
            "parent": {"package": parent.package, "top_hash": parent.top_hash} if parent else None,
            "inputs": policy.inputs,
            "lock_hash": policy.lock_hash,
            "state_digest": state_digest,
            "metrics": spelled(snapshot.metrics),
        }
        where = "initial state" if snapshot.kind == "initial" else f"epoch {snapshot.epoch}"
        if snapshot.batch is not None:
            where += f", batch {snapshot.batch}"
        return Manifest.make(entries, message=f"{policy.run_id} {where}", user_meta={"reprokit": facts})

    def _note(self, entry: CheckpointEntry, snapshot: SnapshotMessage) -> None:
        collected = self.collected
        if snapshot.kind == "initial":
            collected.initial = entry
        else:
            collected.add(entry)
            collected.metrics.update(snapshot.metrics)
            self._journal.metrics(snapshot.step, snapshot.metrics)
        collected.numeric = snapshot.numeric or collected.numeric
        self._journal.event("checkpoint", kind=snapshot.kind, entry=spelled(msgspec.to_builtins(entry)))

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
        for entry in done:
            if entry.dropped or entry.top_hash in spared or self._is_tagged(entry):
                continue
            self._registry.delete(entry.package, entry.top_hash, note=f"keep: {keep}")
            self.collected.drop(entry.top_hash)
            self._journal.event("dropped", top_hash=entry.top_hash)

    def _is_tagged(self, entry: CheckpointEntry) -> bool:
        head = self._registry.head(entry.package)
        return head is not None and entry.top_hash in head.tags.values()

    def _tags(self, name: str, snapshot: SnapshotMessage) -> tuple[str, ...]:
        """Return `best` if this checkpoint beats the one so tagged, over all runs of the package."""
        for metric, sense in list(self._policy.best.items())[:1]:
            value = snapshot.metrics.get(metric)
            if value is None or value != value:
                return ()
            before = self._best_so_far(name, metric)
            if before is None or (value < before if sense == "min" else value > before):
                return ("best",)
        return ()

    def _best_so_far(self, name: str, metric: str) -> float | None:
        head = self._registry.head(name)
        if head is None or "best" not in head.tags:
            return None
        meta = self._registry.read_header(head.tags["best"]).get("user_meta")
        facts = meta.get("reprokit") if isinstance(meta, dict) else None
        metrics = facts.get("metrics") if isinstance(facts, dict) else None
        value = metrics.get(metric) if isinstance(metrics, dict) else None
        return float(value) if isinstance(value, (int, float)) else None
