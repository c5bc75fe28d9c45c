"""Hand snapshots to the process that stores them: reused shared buffers, a bounded queue, errors at the next save.

A snapshot is copied into a buffer that the runner has mapped too; that copy is all that the training waits for. The
message about it lies in the same buffer, so that handing over never waits for a socket's room. With both buffers full
the next save waits for one of them. What was handed over survives the death of this process.
"""

from __future__ import annotations

import atexit
import mmap
import os
import sys
import tempfile
from typing import Any

from reprokit.client import context
from reprokit.client.connection import Connection, connect, dial

__all__ = ["Buffer", "Saving", "Writer", "set_aside", "take_up", "writer"]

_BUFFERS = 2
_CURRENT: dict[str, Any] = {"pid": None, "writer": None}


class Buffer:
    """Memory that both processes see; `busy` while the other one reads it."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.busy = False
        self.descriptor: int | None = _memory(size)  # until it was handed over
        # MAP_POPULATE: one call for all pages costs less than a fault for each while copying
        populate = getattr(mmap, "MAP_POPULATE", 0)
        self.memory = memoryview(mmap.mmap(self.descriptor, size, flags=mmap.MAP_SHARED | populate))

    def forget_descriptor(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    __del__ = forget_descriptor


class Saving:
    """One checkpoint on its way into the registry."""

    def __init__(self, owner: Writer, ticket: int) -> None:
        self._owner = owner
        self._ticket = ticket

    def result(self) -> dict[str, Any]:
        """Wait until it is stored; return {"package", "top_hash", "state_digest"}.

        Raises:
            RuntimeError: It could not be stored; the runner's own words.
        """
        return self._owner.result(self._ticket)


class Writer:
    """One process's way to hand snapshots over."""

    def __init__(self) -> None:
        connect()
        self._line: Connection = dial()
        self._sync = _is_sync()
        self._buffers: list[Buffer] = []
        self._pending: dict[int, Buffer] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._tickets = 0
        self._failed: dict[str, Any] | None = None
        self._made = 0

    def reserve(self, size: int) -> Buffer:
        """Return a buffer that nobody reads, of at least `size` bytes; wait for one if all are read.

        Raises:
            RuntimeError: An earlier checkpoint could not be stored.
        """
        self._collect(wait=False)
        while True:
            self._raise_failure()
            free = [buffer for buffer in self._buffers if not buffer.busy]
            fitting = next((buffer for buffer in free if buffer.size >= size), None)
            if fitting is not None:
                return fitting
            if free or len(self._buffers) < _BUFFERS:
                for buffer in free:  # too small for this model: never again of use
                    self._buffers.remove(buffer)
                self._made += 1
                self._buffers.append(Buffer(self._made, size))
                return self._buffers[-1]
            self._collect(wait=True)

    def submit(self, buffer: Buffer, offset: int, length: int) -> Saving:
        """Hand over the snapshot whose message lies in `buffer` at `offset`."""
        self._tickets += 1
        message = {
            "type": "snapshot", "ticket": self._tickets, "buffer": buffer.number, "size": buffer.size,
            "offset": offset, "length": length, "answer": True,
        }  # fmt: skip
        buffer.busy = True
        self._pending[self._tickets] = buffer
        self._line.post(message, descriptor=buffer.descriptor)
        buffer.forget_descriptor()
        saving = Saving(self, self._tickets)
        if self._sync:
            self.drain()
        return saving

    def result(self, ticket: int) -> dict[str, Any]:
        while ticket not in self._answers:
            self._collect(wait=True)
        answer = self._answers[ticket]
        if "error" in answer:
            self._raise_failure()
            raise RuntimeError(f"reprokit: {answer['error']}")
        return {key: answer[key] for key in ("package", "top_hash", "state_digest")}

    def drain(self, *, last: bool = False) -> None:
        """Wait until everything handed over is stored.

        Args:
            last: The process ends: raising an error changes nothing any more, so the runner records the run as failed.
        Raises:
            RuntimeError: Something was not; raised once.
        """
        while self._pending:
            self._collect(wait=True)
        self._raise_failure(told=not last)

    def _collect(self, *, wait: bool) -> None:
        """Take the answers that are there; with `wait`, at least one."""
        while self._pending and (answer := self._line.answer(wait=wait)) is not None:
            buffer = self._pending.pop(int(answer["ticket"]))
            buffer.busy = False
            self._answers = {int(answer["ticket"]): answer} | dict(list(self._answers.items())[-63:])
            if "error" in answer and self._failed is None:
                self._failed = answer
            wait = False

    def _raise_failure(self, *, told: bool = True) -> None:
        if self._failed is None:
            return
        text, self._failed = self._failed["error"], None
        if told:
            self._line.post({"type": "told"})
        raise RuntimeError(f"reprokit: a checkpoint was not stored: {text}")


def writer() -> Writer:
    """Return this process's writer, made at the first snapshot (and anew after a fork)."""
    if _CURRENT["pid"] != os.getpid():
        _CURRENT.update(pid=os.getpid(), writer=Writer())
        atexit.register(_drain_at_exit, os.getpid())
    found: Writer = _CURRENT["writer"]
    return found


def set_aside() -> dict[str, Any]:
    """Return what this process saves with, and begin without it."""
    before = dict(_CURRENT)
    _CURRENT.update(pid=None, writer=None)
    return before


def take_up(before: dict[str, Any]) -> None:
    """Go back to what `set_aside` returned, once everything handed over since is stored.

    Raises:
        RuntimeError: Something was not.
    """
    now = dict(_CURRENT)
    _CURRENT.update(before)
    if now["pid"] == os.getpid():
        now["writer"].drain()


def _drain_at_exit(pid: int) -> None:
    if os.getpid() != pid or _CURRENT["pid"] != pid:
        return
    try:
        writer().drain(last=True)
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")


def _is_sync() -> bool:
    """True if saves should wait: the recipe says so, or no core is there on which storing could go on meanwhile."""
    mode = context().get("writer", "auto")
    if mode == "auto":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return cores == 1
    return bool(mode == "sync")


def _memory(size: int) -> int:
    """Return a descriptor of `size` bytes that lives in memory (Linux) or in an unlinked file."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("reprokit-snapshot", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
