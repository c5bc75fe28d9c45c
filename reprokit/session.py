"""The runner's side of the line: take snapshots, metrics and artifacts from a script's processes, store and publish.

It outlives the script: a snapshot that was handed over is saved even if the script is killed the next moment.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from reprokit.checkpoint.format import SnapshotMessage, encode
from reprokit.errors import DataMismatchError, Error, UsageError
from reprokit.journal import Journal
from reprokit.manifest import Entry, Manifest
from reprokit.paths import check_logical_key, explain_os_error
from reprokit.record import CheckpointEntry
from reprokit.registry import Registry

__all__ = ["Observer", "Session", "SessionPolicy"]

_MAX_FRAME = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPolicy:
    """What the run decided about its checkpoints.

    Attributes:
        package: Where they go; None leaves it to the script, with `checkpoints/<name>` as the last word.
        best: Metric → min or max; the first one moves the tag `best`.
        inputs: What each checkpoint is linked to: name, package and top hash.
        move_tags: False for a reproduction, whose versions must not become anyone's `latest`.
    """

    run_id: str
    name: str
    package: str | None
    best: dict[str, Literal["min", "max"]]
    inputs: list[dict[str, str]]
    lock_hash: str | None
    move_tags: bool = True


class Observer:
    """What a face may want to show while a run goes on; does nothing by itself."""

    def checkpoint(self, entry: CheckpointEntry, kind: str) -> None: ...

    def total_epochs(self, total: int) -> None: ...

    def epoch(self, epoch: int) -> None: ...


@dataclass
class Collected:
    """What a session gathered for the record."""

    initial: CheckpointEntry | None = None
    checkpoints: list[CheckpointEntry] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, Entry] = field(default_factory=dict)
    numeric: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


class Session:
    """Serves the processes of one run."""

    def __init__(
        self, *, registry: Registry, journal: Journal, policy: SessionPolicy, observer: Observer | None = None
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._policy = policy
        self._observer = observer or Observer()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._listener: socket.socket | None = None
        self.collected = Collected()

    def listen(self, address: Path) -> None:
        """Accept connections at a local socket until `finish`."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(address))
        listener.listen(128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                channel, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self.serve, args=(channel,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def finish(self, *, patience: float = 10.0) -> None:
        """Wait for what was handed over, then stop; a stray descendant that keeps its line open is not waited for."""
        for thread in list(self._threads):
            thread.join(patience)
            while thread.is_alive() and self._busy:
                thread.join(0.1)
        if self._listener is not None:
            self._listener.close()

    def serve(self, channel: socket.socket) -> None:
        """Answer one process until it closes its line."""
        with channel:
            while True:
                try:
                    frame, descriptor = _receive(channel)
                except (OSError, DataMismatchError):
                    return
                if frame is None:
                    return
                with self._working():
                    answer = self._answer(frame, descriptor)
                if answer is not None:
                    body = json.dumps(answer).encode()
                    with contextlib.suppress(OSError):
                        channel.sendall(len(body).to_bytes(4, "big") + body)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def _answer(self, frame: bytes, descriptor: int | None) -> dict[str, Any] | None:
        """Handle one message; every error becomes the answer, so that it is raised in the script."""
        wanted = True
        try:
            message = json.loads(frame)
            wanted = bool(message.get("answer"))
            result = self._handle(message, descriptor)
        except (Error, msgspec.ValidationError, ValueError, KeyError, TypeError) as error:
            return self._refuse(str(error), wanted)
        except OSError as error:
            return self._refuse(str(explain_os_error(error, "Storing a checkpoint")), wanted)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return result if wanted else None

    def _refuse(self, text: str, wanted: bool) -> dict[str, Any] | None:
        self.collected.errors.append(text)
        return {"error": text} if wanted else None

    def _handle(self, message: dict[str, Any], descriptor: int | None) -> dict[str, Any]:
        kind = message.get("type")
        if kind == "metrics":
            values = {str(name): float(value) for name, value in message["values"].items()}
            with self._lock:
                self.collected.metrics.update(values)
                self._journal.metrics(message.get("step"), values)
            return {}
        if kind == "epochs":
            self._observer.total_epochs(int(message["total"]))
            return {}
        if kind == "epoch":
            self._observer.epoch(int(message["epoch"]))
            return {}
        if kind == "artifact":
            return self._artifact(Path(str(message["path"])), str(message["name"]))
        if kind == "snapshot":
            if descriptor is None:
                raise UsageError("A snapshot came without its memory.")
            snapshot = msgspec.convert(message, SnapshotMessage, strict=True)
            with mmap.mmap(descriptor, max(snapshot.size, 1), prot=mmap.PROT_READ) as shared:
                view = memoryview(shared)
                try:
                    return self._checkpoint(snapshot, view)
                finally:
                    view.release()
        raise UsageError(f"The runner does not know the message {kind!r}.")

    def _artifact(self, path: Path, name: str) -> dict[str, Any]:
        key = "artifacts/" + check_logical_key(name)
        with self._registry.staging() as sink, path.open("rb") as handle:
            digest, size = sink.put_stream(handle, os.fstat(handle.fileno()).st_size)
        entry = Entry(key, size, digest)
        with self._lock:
            self.collected.artifacts[key] = entry
            self._journal.event("artifact", key=key, size=size, type=digest.type, value=digest.value)
        return {"key": key}

    def _checkpoint(self, snapshot: SnapshotMessage, memory: memoryview) -> dict[str, Any]:
        policy = self._policy
        name = policy.package or snapshot.package or f"checkpoints/{policy.name}"
        pieces, state_digest = encode(snapshot, memory)
        entries = []
        with self._registry.staging() as sink:
            for piece in pieces:
                digest, size = sink.put_bytes(piece.data)
                entries.append(Entry(piece.key, size, digest, piece.meta))
        with self._lock:  # one after the other from here: each checkpoint names the one before
            done = self.collected.checkpoints
            parent = done[-1] if done else self.collected.initial
            facts = {
                "kind": snapshot.kind,
                "framework": snapshot.framework,
                "run": policy.run_id,
                "epoch": snapshot.epoch,
                "step": snapshot.step,
                "parent": {"package": parent.package, "top_hash": parent.top_hash} if parent else None,
                "inputs": policy.inputs,
                "lock_hash": policy.lock_hash,
                "state_digest": state_digest,
                "metrics": snapshot.metrics,
            }
            where = "initial state" if snapshot.kind == "initial" else f"epoch {snapshot.epoch}"
            manifest = Manifest.make(entries, message=f"{policy.run_id} {where}", user_meta={"reprokit": facts})
            tags = self._tags(name, snapshot) if policy.move_tags and snapshot.kind == "checkpoint" else ()
            self._registry.publish(name, manifest, tags=tags, latest=policy.move_tags)
            entry = CheckpointEntry(
                package=name,
                top_hash=manifest.top_hash,
                state_digest=state_digest,
                epoch=snapshot.epoch,
                step=snapshot.step,
                metrics=snapshot.metrics,
            )
            if snapshot.kind == "initial":
                self.collected.initial = entry
            else:
                self.collected.checkpoints.append(entry)
                self.collected.metrics.update(snapshot.metrics)
                self._journal.metrics(snapshot.step, snapshot.metrics)
            self.collected.numeric = snapshot.numeric or self.collected.numeric
            self._journal.event("checkpoint", kind=snapshot.kind, entry=msgspec.to_builtins(entry))
        self._observer.checkpoint(entry, snapshot.kind)
        return {"package": name, "top_hash": manifest.top_hash, "state_digest": state_digest}

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


def _receive(channel: socket.socket) -> tuple[bytes | None, int | None]:
    """Return one frame and the descriptor that came with it; None at the end of the line."""
    data, descriptors, _, _ = socket.recv_fds(channel, 4, 1)
    descriptor = descriptors[0] if descriptors else None
    while 0 < len(data) < 4:
        more = channel.recv(4 - len(data))
        if not more:
            return None, None
        data += more
    if not data:
        return None, None
    length = int.from_bytes(data, "big")
    if length > _MAX_FRAME:
        raise DataMismatchError(f"A message of {length:,} bytes is refused.")
    body = bytearray()
    while len(body) < length:
        piece = channel.recv(min(length - len(body), 1 << 20))
        if not piece:
            return None, None
        body += piece
    return bytes(body), descriptor
