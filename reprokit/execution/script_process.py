"""A script's process: started, listened to, stopped when its runner is told to stop."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from reprokit.core.logical_keys import os_errors
from reprokit.recording.journal import Journal
from reprokit.schema.record import Status

__all__ = ["Echo", "Outcome", "ScriptProcess", "die_with_parent"]

Echo = Callable[[str, bytes], None]
"""Called with 'stdout' or 'stderr' and the bytes that the script wrote."""

_STOPPED_FROM_OUTSIDE = {signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP}
_GRACE = 10.0
_LONGEST_LINE = 4 * 1024 * 1024  # what is longer is broken in the log: a line that never ends must not fill the memory
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a script."""

    status: Status
    exit_code: int
    failure: str | None


class ScriptProcess:
    """The script's process: started, listened to, stopped when we are told to stop."""

    def __init__(
        self, command: list[str], folder: Path, variables: dict[str, str], journal: Journal, echo: Echo | None
    ) -> None:
        self._command = command
        self._folder = folder
        self._variables = variables
        self._journal = journal
        self._echo = echo
        self._tail: list[bytes] = []
        self._stop: signal.Signals | None = None

    def run(self) -> Outcome:
        """Start the script, wait for its end and say what became of it."""
        with os_errors(f"Starting {self._command[0]} in {self._folder}"):
            process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env=self._variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,
            )
        pumps = [
            threading.Thread(target=self._pump, args=(stream, name), daemon=True)
            for stream, name in ((process.stdout, "stdout"), (process.stderr, "stderr"))
        ]
        for pump in pumps:
            pump.start()
        with self._forward_signals(process):
            self._wait(process)
        for pump in pumps:
            pump.join(5)
        return self._outcome(process.returncode)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the script; where it is being stopped, for its descendants too, and end what outlives the grace."""
        deadline: float | None = None
        told = False
        while True:
            if self._stop is not None:
                deadline = deadline or time.monotonic() + _GRACE
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
            if process.returncode is not None and (self._stop is None or not _is_there(process.pid)):
                return
            if process.returncode is not None and self._stop is not None and not told:  # what it did not pass on
                told = _send(process.pid, self._stop)
                continue
            if deadline is not None and time.monotonic() > deadline:
                _send(process.pid, signal.SIGKILL)
            time.sleep(0.02 if process.returncode is not None else 0)

    @contextlib.contextmanager
    def _forward_signals(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def forward(number: int, _frame: object) -> None:
            again = self._stop is not None
            self._stop = signal.Signals(number)
            if again:
                _send(process.pid, signal.SIGKILL)
            else:  # to the script alone: its workers are its own to end, and it may need them to come to a save
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)

        before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _pump(self, stream: IO[bytes], name: str) -> None:
        rest: list[bytes] = []  # of a line that has not ended; joined once, since it may be long
        length = 0
        while block := os.read(stream.fileno(), 65536):
            if self._echo is not None:
                self._echo(name, block)
            *lines, last = block.split(b"\n")
            for line in lines:
                self._keep(name, b"".join([*rest, line]))
                rest, length = [], 0
            rest.append(last)
            length += len(last)
            if length > _LONGEST_LINE:
                self._keep(name, b"".join(rest))
                rest, length = [], 0
        if length:
            self._keep(name, b"".join(rest))

    def _keep(self, name: str, line: bytes) -> None:
        if name == "stderr" and line.strip():
            self._tail = [*self._tail[-7:], line]
        with contextlib.suppress(OSError):  # a full disk must not stop the training; the record will say it failed
            self._journal.log(name, line)

    def _outcome(self, code: int) -> Outcome:
        if code == 0 and self._stop is None:
            return Outcome("finished", 0, None)
        number = -code if code < 0 else code - 128 if 128 < code < 160 else 0
        if self._stop is not None:
            return Outcome("interrupted", code, f"Stopped by {self._stop.name}.")
        if number and number in _STOPPED_FROM_OUTSIDE:
            name = signal.Signals(number).name
            guess = " (by a person, or by the kernel when memory ran out)" if number == signal.SIGKILL else ""
            return Outcome("interrupted", code, f"The script was killed by {name}{guess}.")
        if code < 0:
            return Outcome("failed", code, f"The script crashed with {signal.Signals(number).name}.")
        tail = b"\n".join(self._tail[-4:]).decode(errors="replace")
        return Outcome("failed", code, f"The script ended with exit code {code}." + (f"\n{tail}" if tail else ""))


def _send(group: int, number: int) -> bool:
    """Signal every process of a group; always true."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
    return True


def _is_there(group: int) -> bool:
    """True if a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def die_with_parent() -> None:
    """Have the kernel end this process when the thread that started it ends; for Linux, after the fork."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


_LIBC = ctypes.CDLL(None)
