"""The runner's side of the line: take snapshots, metrics and artifacts from a script's processes.

It outlives the script: a snapshot that was handed over is saved even if the script is killed the next moment.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import selectors
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from reprokit.checkpoint.format import SnapshotMessage
from reprokit.core.logical_keys import check_logical_key, explain_os_error
from reprokit.errors import DataMismatchError, Error, UsageError
from reprokit.recording.checkpoint_saver import Saver
from reprokit.recording.journal import Journal
from reprokit.registry import Registry
from reprokit.schema.manifest import Entry

__all__ = ["Session"]

_MAX_FRAME = 256 * 1024 * 1024


class Session:
    """Serves the processes of one run."""

    def __init__(self, *, registry: Registry, journal: Journal, saver: Saver) -> None:
        self._registry = registry
        self._journal = journal
        self._saver = saver
        self._observer = saver.observer
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._acceptor: threading.Thread | None = None
        self._wake, self._woken = socket.socketpair()
        self.collected = saver.collected

    def listen(self, address: Path) -> None:
        """Accept connections at a local socket until `finish`."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(address))
        listener.listen(128)
        self._acceptor = threading.Thread(target=self._accept, args=(listener,), daemon=True)
        self._acceptor.start()

    def _accept(self, listener: socket.socket) -> None:
        """Accept until woken, and then whoever still waits: a process may be gone before its line was seen."""
        with listener, self._woken, selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while any(key.fileobj is listener for key, _ in selector.select()):
                try:
                    channel, _ = listener.accept()
                except OSError:
                    return
                thread = threading.Thread(target=self.serve, args=(channel,), daemon=True)
                thread.start()
                self._threads.append(thread)

    def finish(self, *, patience: float = 10.0) -> None:
        """Wait for what was handed over, then stop; a stray descendant that keeps its line open is not waited for."""
        self._wake.close()
        if self._acceptor is not None:
            self._acceptor.join()
        for thread in self._threads:
            thread.join(patience)
            while thread.is_alive() and self._busy:
                thread.join(0.1)

    def serve(self, channel: socket.socket) -> None:
        """Answer one process until it closes its line."""
        buffers: dict[int, mmap.mmap] = {}
        with channel:
            while True:
                try:
                    frame, descriptor = _receive(channel)
                except (OSError, DataMismatchError):
                    return
                if frame is None:
                    return
                with self._working():
                    answer = self._answer(frame, descriptor, buffers)
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

    def _answer(self, frame: bytes, descriptor: int | None, buffers: dict[int, mmap.mmap]) -> dict[str, Any] | None:
        """Handle one message; every error becomes the answer, so that it is raised in the script."""
        message: dict[str, Any] = {"answer": True}
        try:
            message = json.loads(frame)
            result = self._handle(message, descriptor, buffers)
        except (Error, msgspec.ValidationError, ValueError, KeyError, TypeError) as error:
            result = self._refuse(str(error), message)
        except OSError as error:
            result = self._refuse(str(explain_os_error(error, "Storing a checkpoint")), message)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return {**result, "ticket": message.get("ticket")} if message.get("answer") else None

    def _refuse(self, text: str, message: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self.collected.errors.append(text)
            self.collected.untold += message.get("type") == "snapshot"
        return {"error": text}

    def _handle(self, message: dict[str, Any], descriptor: int | None, buffers: dict[int, mmap.mmap]) -> dict[str, Any]:
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
        if kind == "resumed":
            self.collected.resumed = True
            self.collected.numeric = dict(message.get("numeric", {})) or self.collected.numeric
            return {}
        if kind == "numeric":
            self._note_numeric(message)
            return {}
        if kind == "told":
            with self._lock:
                self.collected.untold = 0
            return {}
        if kind == "snapshot":
            return self._snapshot(message, descriptor, buffers)
        raise UsageError(f"The runner does not know the message {kind!r}.")

    def _note_numeric(self, message: dict[str, Any]) -> None:
        """Keep what a process said at its end; of several, one that saved knows best."""
        with self._lock:
            self.collected.imported.update(str(name) for name in message["imported"])
            self.collected.files.update(str(name) for name in message.get("files", []))
            if message.get("saved") or not self.collected.told:
                self.collected.numeric = {**self.collected.numeric, **dict(message["numeric"])}
                self.collected.told = bool(message.get("saved"))

    def _snapshot(
        self, message: dict[str, Any], descriptor: int | None, buffers: dict[int, mmap.mmap]
    ) -> dict[str, Any]:
        """Store what lies in a shared buffer; it is mapped once and kept until its process closes the line."""
        number, size = int(message["buffer"]), int(message["size"])
        if descriptor is not None:
            buffers[number] = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        if number not in buffers:
            raise UsageError("A snapshot came without its memory.")
        with memoryview(buffers[number]) as memory:
            offset, length = int(message["offset"]), int(message["length"])
            if not 0 <= offset <= offset + length <= len(memory):
                raise UsageError("A snapshot's message lies outside its memory.")
            plain = json.loads(bytes(memory[offset : offset + length]))
            entry = self._saver.save(msgspec.convert(plain, SnapshotMessage, strict=True), memory[:offset])
        return {"package": entry.package, "top_hash": entry.top_hash, "state_digest": entry.state_digest}

    def _artifact(self, path: Path, name: str) -> dict[str, Any]:
        key = "artifacts/" + check_logical_key(name)
        with self._registry.staging() as sink, path.open("rb") as handle:
            digest, size = sink.put_stream(handle, os.fstat(handle.fileno()).st_size)
        entry = Entry(key, size, digest)
        with self._lock:
            self.collected.artifacts[key] = entry
            self._journal.event("artifact", key=key, size=size, type=digest.type, value=digest.value)
        return {"key": key}


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
