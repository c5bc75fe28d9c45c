"""The line from a script's process to the runner: length-prefixed JSON over a local socket.

Frame: the run's token (16 bytes), 4 bytes length, big-endian, then JSON; an answer has no token. A frame that hands
over memory carries its file descriptor (SCM_RIGHTS). The token comes through the environment, which only the run's own
processes have: what a stranger sends is not heard.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "Attached",
    "Connection",
    "RunnerGoneError",
    "attach",
    "connect",
    "detach",
    "dial",
    "is_connected",
    "line",
    "reachable",
]

_LONGEST = 100  # bytes; the kernel takes a few more as a socket's address

_LOCK = threading.Lock()
_CURRENT: dict[str, Any] = {"pid": None, "connection": None, "address": None, "token": None, "keeper": None}


@contextlib.contextmanager
def reachable(address: str) -> Iterator[str]:
    """Give a local socket's address in a form that the kernel takes, however deep the temporary folder lies."""
    if len(os.fsencode(address)) <= _LONGEST or not hasattr(os, "O_PATH"):
        yield address
        return
    folder, name = os.path.split(address)
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


class RunnerGoneError(RuntimeError):
    """The runner died or closed the line; the script should not go on unrecorded."""


class Connection:
    """One process's line to the runner. Safe to use from several threads."""

    def __init__(self, channel: socket.socket, token: bytes) -> None:
        self._channel = channel
        self._token = token
        self._lock = threading.Lock()

    def close(self) -> None:
        self._channel.close()

    def send(self, message: dict[str, Any]) -> None:
        """Send a message that needs no answer."""
        with self._lock:
            self._write(message, ())

    def request(self, message: dict[str, Any], *, descriptor: int | None = None) -> dict[str, Any]:
        """Send a message, wait for the answer.

        Raises:
            RunnerGoneError: No answer will come.
            RuntimeError: The runner could not do it; its own words.
        """
        with self._lock:
            self._write({**message, "answer": True}, () if descriptor is None else (descriptor,))
            answer = self._answer()
        if "error" in answer:
            raise RuntimeError(f"reprokit: {answer['error']}")
        return answer

    def post(self, message: dict[str, Any], *, descriptor: int | None = None) -> None:
        """Send a message whose answer, if it asks for one, is taken later with `answer`."""
        with self._lock:
            self._write(message, () if descriptor is None else (descriptor,))

    def answer(self, *, wait: bool) -> dict[str, Any] | None:
        """Return the next answer to what was posted; None if there is none yet and `wait` is false.

        Raises:
            RunnerGoneError: No answer will come.
        """
        with self._lock:
            if not wait and not select.select([self._channel], [], [], 0)[0]:
                return None
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._read(int.from_bytes(self._read(4), "big")))
        return answer

    def _write(self, message: dict[str, Any], descriptors: tuple[int, ...]) -> None:
        body = json.dumps(message, allow_nan=True).encode()
        frame = self._token + len(body).to_bytes(4, "big") + body
        try:
            if descriptors:
                sent = socket.send_fds(self._channel, [frame], list(descriptors))
                frame = frame[sent:]
            self._channel.sendall(frame)
        except OSError as error:
            raise RunnerGoneError(f"reprokit: the runner is gone ({error}); the run is recorded up to here") from None

    def _read(self, length: int) -> bytes:
        pieces = bytearray()
        while len(pieces) < length:
            try:
                piece = self._channel.recv(min(length - len(pieces), 1 << 20))
            except OSError:
                piece = b""
            if not piece:
                raise RunnerGoneError("reprokit: the runner is gone; the run is recorded up to here")
            pieces += piece
        return bytes(pieces)


def connect() -> Connection:
    """Return this process's line, opening it on first use (and anew after a fork)."""
    with _LOCK:
        if _CURRENT["pid"] != os.getpid():
            if not os.environ.get("REPROKIT_SOCKET") and _CURRENT["address"] is None:
                keeper = _start_writer({})
                _CURRENT.update(keeper=keeper, address=keeper.address, token=keeper.token)
            _CURRENT.update(pid=os.getpid(), connection=dial())
        connection: Connection = _CURRENT["connection"]
        return connection


def line() -> str | None:
    """Return where what this process does is recorded, None where nothing is: another address is another run."""
    address: str | None = os.environ.get("REPROKIT_SOCKET") or _CURRENT["address"]
    return address


def is_connected() -> bool:
    """True if this very process has talked to the runner."""
    return bool(_CURRENT["pid"] == os.getpid())


def dial() -> Connection:
    """Open one more line to the runner, or to the writer process that `connect` started."""
    address, token = os.environ.get("REPROKIT_SOCKET"), os.environ.get("REPROKIT_TOKEN", "")
    if not address:
        address, token = _CURRENT["address"], _CURRENT["token"]
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with reachable(address) as short:
            channel.connect(short)
    except OSError as error:
        raise RunnerGoneError(f"reprokit: the runner at {address} does not answer ({error})") from None
    return Connection(channel, bytes.fromhex(token))


class Attached:
    """The writer process of a script that no runner started; it ends when its line is closed.

    Attributes:
        before: The line and the like that this process had when it was started.
    """

    def __init__(self, channel: socket.socket, address: str, run_id: str, token: str) -> None:
        self._channel = channel
        self.address = address
        self.token = token
        self.run_id = run_id
        self.before: dict[str, Any] = {}

    def tell(self, message: dict[str, Any]) -> None:
        """Say something about the run as a whole."""
        try:
            self._channel.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise RunnerGoneError(f"reprokit: the writer process is gone ({error})") from None

    def finish(self) -> None:
        """Wait until the run's record is complete.

        Raises:
            RunnerGoneError: It could not be completed.
        """
        with self._channel:
            self._channel.shutdown(socket.SHUT_WR)
            text = b"".join(iter(lambda: self._channel.recv(4096), b"")).decode(errors="replace")
        if text.strip() != "done":
            raise RunnerGoneError(f"reprokit: the record of run {self.run_id} is not complete: {text or 'no answer'}")


def attach(told: dict[str, Any]) -> Attached:
    """Start a writer process for a run of its own; until `detach`, `connect` leads there."""
    with _LOCK:
        attached = _start_writer(told)
        attached.before = dict(_CURRENT)
        _CURRENT.update(pid=None, connection=None, address=attached.address, token=attached.token)
        return attached


def detach(attached: Attached) -> None:
    """End what `attach` began."""
    with _LOCK:
        ours = _CURRENT["connection"] if _CURRENT["pid"] == os.getpid() else None
        _CURRENT.update(attached.before)
    if ours is not None:
        ours.close()
    attached.finish()


def _start_writer(told: dict[str, Any]) -> Attached:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    script = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "interactive"
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "reprokit.recording.standalone",
                str(theirs.fileno()),
                json.dumps({"name": script, **told}),
            ],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )
        theirs.close()
        ours.settimeout(60)
        answer = ours.recv(4096)
        ours.settimeout(None)
        process.wait(10)  # what goes on is a child of its own
        if not answer:
            errors.seek(0)
            text = errors.read().decode(errors="replace").strip()[-2000:]
            raise RunnerGoneError(f"reprokit: no writer process could be started:\n{text}")
    address, run_id, token = json.loads(answer)
    return Attached(ours, address, run_id, token)
