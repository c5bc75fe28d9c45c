"""The runner's side of a run: receives metrics, artifacts and snapshots from the script's processes.

It outlives the script: a snapshot that was handed over is saved even if the script is killed the next moment. What
comes without the run's token is not read: the record says that somebody tried.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import mmap
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from reprokit.checkpoint.format import SnapshotMessage
from reprokit.client.connection import reachable
from reprokit.core.atomic_files import explain_os_error
from reprokit.core.logical_keys import check_logical_key, check_logical_keys
from reprokit.core.regular_files import open_regular
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError, Error, UsageError
from reprokit.recording.checkpoint_saver import Saver
from reprokit.recording.journal import Journal, stored_as
from reprokit.recording.messages import (
    MAX_FRAME,
    Artifact,
    Batch,
    Epoch,
    Epochs,
    HandedOver,
    LoggedMetrics,
    Lost,
    Message,
    NumericFacts,
    Resumed,
    Told,
    message_in,
    value_in,
)
from reprokit.registry import Registry
from reprokit.schema.manifest import Entry

__all__ = ["TOKEN_BYTES", "Session"]

TOKEN_BYTES = 16  # of each run, drawn anew
_SNAPSHOT_DEPTH = 256  # levels of JSON, as of a state that is read back


class _StrangerError(Exception):
    """A frame without the run's token."""


class _Line:
    """One connection. `known` once a frame with the run's token came through it."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.known = False
        self.thread: threading.Thread | None = None


class Session:
    """Serves the processes of one run.

    Args:
        token: In hex; those who have it are the run's own.
    """

    def __init__(self, *, registry: Registry, journal: Journal, saver: Saver, token: str) -> None:
        self._registry = registry
        self._journal = journal
        self._saver = saver
        self._token = bytes.fromhex(token)
        self._listener = saver.listener
        self._lock = threading.Lock()
        self._lines: list[_Line] = []
        self._busy = 0
        self._acceptor: threading.Thread | None = None
        self._wake, self._woken = socket.socketpair()
        self.collected = saver.collected

    def listen(self, address: Path) -> None:
        """Accept connections at a local socket until `finish`."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with reachable(str(address)) as short:
            listener.bind(short)
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
                line = _Line(channel)
                line.thread = threading.Thread(target=self._serve, args=(line,), daemon=True)
                line.thread.start()
                self._lines = [*(old for old in self._lines if old.thread and old.thread.is_alive()), line]

    def finish(self, *, patience: float = 2.0) -> None:
        """Wait for what was handed over, then stop; a stray descendant that keeps its line open is not waited for.

        Args:
            patience: Seconds for a process that goes on without the script to say what it has to say.
        """
        self._wake.close()
        if self._acceptor is not None:
            self._acceptor.join()
        deadline = time.monotonic() + patience
        for line in self._lines:
            if not line.known:  # what it sent already is still heard
                with contextlib.suppress(OSError):
                    line.channel.shutdown(socket.SHUT_RD)
        for line in self._lines:
            if line.thread is not None:
                line.thread.join(max(0.0, deadline - time.monotonic()))
        for line in self._lines:  # what comes now would be in no record
            with contextlib.suppress(OSError):
                line.channel.shutdown(socket.SHUT_RD)
        for line in self._lines:
            while line.thread is not None and line.thread.is_alive():
                line.thread.join(0.1)
                if not self._busy:
                    line.thread.join(1)
                    break

    def serve(self, channel: socket.socket) -> None:
        """Answer one process until it closes its line."""
        self._serve(_Line(channel))

    def _serve(self, line: _Line) -> None:
        buffers: dict[int, mmap.mmap] = {}
        channel = line.channel
        with channel:
            while True:
                try:
                    frame, descriptor = _receive(line, self._token)
                except _StrangerError:
                    self._note_stranger(channel)
                    return
                except DataMismatchError as error:
                    self._refuse(str(error), None)
                    return
                except OSError:
                    return
                if frame is None:
                    return
                with self._working():
                    try:
                        answer = self._answer(value_in(frame), descriptor, buffers)
                    except DataMismatchError as error:  # nobody can say whether an answer is waited for
                        self._refuse(str(error), None)
                        return
                    finally:
                        if descriptor is not None:
                            os.close(descriptor)
                if answer is not None:
                    body = json.dumps(answer).encode()
                    with contextlib.suppress(OSError):
                        channel.sendall(len(body).to_bytes(4, "big") + body)

    def _note_stranger(self, channel: socket.socket) -> None:
        """Note, once for each of its lines, that a process spoke that does not belong to the run."""
        number = _process_behind(channel)
        with self._lock:
            self.collected.strangers.append(number)
            self._journal.event("stranger", process=number)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        with self._lock:
            self._busy += 1
        try:
            yield
        finally:
            with self._lock:
                self._busy -= 1

    def _answer(
        self, value: dict[str, Any], descriptor: int | None, buffers: dict[int, mmap.mmap]
    ) -> dict[str, Any] | None:
        """Handle one message; every error becomes the answer, so that it is raised in the script."""
        message: Message | None = None
        try:
            message = message_in(value)
            result = self._handle(message, descriptor, buffers)
        except (Error, msgspec.ValidationError, ValueError, KeyError, TypeError, OverflowError) as error:
            result = self._refuse(str(error), message)
        except OSError as error:
            result = self._refuse(str(explain_os_error(error, "Storing a checkpoint")), message)
        return {**result, "ticket": value.get("ticket")} if value.get("answer") else None

    def _refuse(self, text: str, message: Message | None) -> dict[str, Any]:
        with self._lock:
            with contextlib.suppress(OSError):  # a full disk
                self._journal.event("error", text=text)
            self.collected.errors.append(text)
            self.collected.untold += isinstance(message, HandedOver)
        return {"error": text}

    def _handle(self, message: Message, descriptor: int | None, buffers: dict[int, mmap.mmap]) -> dict[str, Any]:
        match message:
            case HandedOver():
                return self._snapshot(message, descriptor, buffers)
            case Artifact():
                return self._artifact(Path(message.path), message.name)
            case LoggedMetrics():
                with self._lock:
                    self._journal.metrics(message.step, message.values)
                    self.collected.metrics.update(message.values)
            case Epochs():
                self._listener.total_epochs(message.total)
            case Epoch():
                self._listener.epoch(message.epoch)
            case Batch():
                self._listener.batch(message.epoch, message.batch, message.total)
            case Resumed():
                with self._lock:
                    self._journal.event("resumed")
                    self.collected.resumed = True
                    self.collected.numeric = message.numeric or self.collected.numeric
            case Lost():
                with self._lock:
                    self._journal.event("lost", names=message.names)
                    self.collected.lost = message.names
            case NumericFacts():
                self._note_numeric(message)
            case Told():
                with self._lock:
                    self.collected.untold = 0
        return {}

    def _note_numeric(self, message: NumericFacts) -> None:
        """Keep what a process said at its end; of several, one that saved knows best."""
        with self._lock:
            self.collected.imported.update(message.imported)
            self.collected.files.update(message.files)
            if message.saved or not self.collected.told:
                self.collected.numeric = {**self.collected.numeric, **message.numeric}
                self.collected.told = message.saved

    def _snapshot(self, message: HandedOver, descriptor: int | None, buffers: dict[int, mmap.mmap]) -> dict[str, Any]:
        """Store what lies in a shared buffer; it is mapped once and kept until its process closes the line."""
        if descriptor is not None:
            buffers[message.buffer] = mmap.mmap(descriptor, message.size, prot=mmap.PROT_READ)
        if message.buffer not in buffers:
            raise UsageError("A snapshot came without its memory.")
        with memoryview(buffers[message.buffer]) as memory:
            offset, length = message.offset, message.length
            if not offset <= offset + length <= len(memory):
                raise UsageError("A snapshot's message lies outside its memory.")
            plain = load_json(
                bytes(memory[offset : offset + length]), what="A snapshot's message", max_bytes=MAX_FRAME,
                max_depth=_SNAPSHOT_DEPTH, constants=True, halves=True,
            )  # fmt: skip
            entry = self._saver.save(msgspec.convert(plain, SnapshotMessage, strict=True), memory[:offset])
        return {"package": entry.package, "top_hash": entry.top_hash, "state_digest": entry.state_digest}

    def _artifact(self, path: Path, name: str) -> dict[str, Any]:
        key = "artifacts/" + check_logical_key(name)
        with self._registry.staging() as sink, open_regular(path) as handle:
            digest, size = sink.put_stream(handle, os.fstat(handle.fileno()).st_size)
        entry = Entry(key, size, digest)
        with self._lock:  # of two that clash the second is refused here: at the end it would cost the record
            check_logical_keys([*(other for other in self.collected.artifacts if other != key), key])
            self.collected.artifacts[key] = entry
            self._journal.event("artifact", **stored_as(entry))
        return {"key": key}


def _receive(line: _Line, token: bytes) -> tuple[bytes | None, int | None]:
    """Return one frame and the descriptor that came with it; None at the end of the line.

    Nothing of a frame is read before its token was compared.
    """
    head, descriptors, _, _ = socket.recv_fds(line.channel, len(token) + 4, 1)
    descriptor = descriptors[0] if descriptors else None
    try:
        if not head:
            return None, None
        head += _exactly(line.channel, len(token) + 4 - len(head))
        if len(head) < len(token) + 4 or not hmac.compare_digest(head[: len(token)], token):
            raise _StrangerError
        line.known = True
        length = int.from_bytes(head[len(token) :], "big")
        if length > MAX_FRAME:
            raise DataMismatchError(f"A message of {length:,} bytes to the runner is refused.")
        body = _exactly(line.channel, length)
        if len(body) < length:
            return None, None
        kept, descriptor = descriptor, None
        return body, kept
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _exactly(channel: socket.socket, length: int) -> bytes:
    """Return so many bytes; fewer where the line ends."""
    body = bytearray()
    while len(body) < length:
        piece = channel.recv(min(length - len(body), 1 << 20))
        if not piece:
            break
        body += piece
    return bytes(body)


def _process_behind(channel: socket.socket) -> int | None:
    """Return the ID of the process that opened a line, None where the system does not say it."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    with contextlib.suppress(OSError):
        return int(struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))[0]) or None
    return None
