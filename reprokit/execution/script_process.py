"""A script's process: started, listened to, stopped when its runner is told to stop."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import psutil

from reprokit.core.atomic_files import os_errors
from reprokit.execution.run_secrets import Mask
from reprokit.recording.journal import Journal
from reprokit.recording.listener import Listener
from reprokit.schema.record import Status

__all__ = ["Outcome", "ScriptProcess", "set_up_child", "signals_put_back"]

_STOPPED_FROM_OUTSIDE = {signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP}
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE = 10.0
_LAST_WORDS = 2.0  # seconds for what is in a pipe that somebody holds open after the script has ended
_LONGEST_LINE = 4 * 1024 * 1024  # what is longer is broken in the log: a line that never ends must not fill the memory
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a script.

    Attributes:
        outlived: What of it is still there, if anything.
        unwritten: Lines that did not come into its log.
    """

    status: Status
    exit_code: int
    failure: str | None
    outlived: str | None = None
    unwritten: int = 0


@contextlib.contextmanager
def signals_put_back() -> Iterator[None]:
    """Put back, at the end, what a script's process does on signals.

    Until then it takes them: one that comes while the end of a run is recorded must not cost the record.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class ScriptProcess:
    """The script's process: started, listened to, stopped when we are told to stop.

    From its start on signals are its own, also when it has ended; see `signals_put_back`.

    Args:
        sandboxed: The command is bubblewrap's: the script is what it started, in a PID space of its own.
    """

    def __init__(
        self,
        command: list[str],
        folder: Path,
        variables: dict[str, str],
        journal: Journal,
        listener: Listener,
        *,
        mask: Mask,
        sandboxed: bool = False,
    ) -> None:
        self._sandboxed = sandboxed
        self._command = command
        self._folder = folder
        self._variables = variables
        self._journal = journal
        self._listener = listener
        self._mask = mask
        self._tail: list[bytes] = []
        self._stop: signal.Signals | None = None
        self._over: float | None = None  # when the script had ended
        self._unwritten = 0
        self._held = False  # somebody else holds its output open

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
                preexec_fn=set_up_child if sys.platform == "linux" else None,
            )
        pumps = [
            threading.Thread(target=self._pump, args=(stream, name), daemon=True)
            for stream, name in ((process.stdout, "stdout"), (process.stderr, "stderr"))
        ]
        for pump in pumps:
            pump.start()
        self._take_signals(process)
        self._wait(process)
        self._over = time.monotonic()
        for pump in pumps:
            pump.join(_LAST_WORDS + 1)
        outcome = self._outcome(process.returncode)
        return replace(outcome, outlived=self._outlived(process.pid), unwritten=self._unwritten)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the script; where it is being stopped, for its descendants too, and end what outlives the grace."""
        deadline: float | None = None
        told = False
        while True:
            if self._stop is not None:
                deadline = deadline or time.monotonic() + _GRACE
            _wait_for(process, 0.2)
            if process.returncode is not None and (self._stop is None or not _is_there(process.pid)):
                return
            if process.returncode is not None and self._stop is not None and not told:  # what it did not pass on
                told = _send(process.pid, self._stop)
                continue
            if deadline is not None and time.monotonic() > deadline:
                _send(process.pid, signal.SIGKILL)
            time.sleep(0.02 if process.returncode is not None else 0)

    def _take_signals(self, process: subprocess.Popen[bytes]) -> None:
        """Pass signals on to the script; when it has ended, they have come too late."""
        if threading.current_thread() is not threading.main_thread():
            return

        def forward(number: int, _frame: object) -> None:
            if self._over is not None:
                return
            again = self._stop is not None
            if again and number == signal.SIGHUP:  # as kernel and shell both send it; who saves is left to it
                return
            self._stop = self._stop or signal.Signals(number)
            if again:
                _send(process.pid, signal.SIGKILL)
            else:  # to the script alone: its workers are its own to end, and it may need them to come to a save
                passed = signal.SIGTERM if number == signal.SIGHUP else number  # on which scripts save
                with contextlib.suppress(ProcessLookupError):
                    if self._sandboxed and process.poll() is None:
                        os.kill(_in_sandbox(process.pid), passed)
                    else:
                        process.send_signal(passed)

        for number in _STOPPING:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, forward)

    def _outlived(self, group: int) -> str | None:
        """Name the processes that the script left behind."""
        left = []
        if _is_there(group):
            for one in psutil.process_iter(["pid", "name", "status"]):
                with contextlib.suppress(OSError):
                    if os.getpgid(one.pid) == group and one.info["status"] != psutil.STATUS_ZOMBIE:
                        left.append(f"{one.info['name']} (process {one.pid})")
        if left:
            return ", ".join(left[:5]) + (f" and {len(left) - 5} more" if len(left) > 5 else "")
        return "a process that holds its output open" if self._held else None

    def _pump(self, stream: IO[bytes], name: str) -> None:
        rest: list[bytes] = []  # of a line that has not ended; joined once, since it may be long
        length = 0
        for block in self._blocks(stream.fileno()):
            self._listener.output(name, block)
            *lines, last = block.split(b"\n")
            for line in lines:
                self._keep(name, _as_seen(b"".join([*rest, line])))
                rest, length = [], 0
            rest.append(last)
            length += len(last)
            if b"\r" in last:  # what stood on the line before is written over
                rest = [_as_seen(b"".join(rest))]
                length = len(rest[0])
            if length > _LONGEST_LINE:
                self._keep(name, b"".join(rest))
                rest, length = [], 0
        if length:
            self._keep(name, b"".join(rest))

    def _blocks(self, descriptor: int) -> Iterator[bytes]:
        """Yield what comes through a pipe to its end; where the script has ended, what is in it."""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while True:
            over = self._over
            if poll.poll(100):
                block = os.read(descriptor, 65536)
                if not block:
                    return
                yield block
            elif over is not None:
                self._held = True
                return
            if over is not None and time.monotonic() - over > _LAST_WORDS:
                self._held = True
                return

    def _keep(self, name: str, line: bytes) -> None:
        line = self._mask(line)
        if name == "stderr" and line.strip():
            self._tail = [*self._tail[-7:], line]
        try:
            self._journal.log(name, line)
        except OSError:  # a full disk must not stop the training
            self._unwritten += 1

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


def _as_seen(line: bytes) -> bytes:
    """Return the last state of a line that carriage returns begin anew, as progress bars do."""
    return line[line.rstrip(b"\r").rfind(b"\r") + 1 :]


def _wait_for(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for the end of a process; on Linux without looking again and again, which is some hundredths late."""
    if process.returncode is not None:
        return
    try:
        descriptor = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.poll(seconds * 1000)
    finally:
        os.close(descriptor)
    process.poll()


def _send(group: int, number: int) -> bool:
    """Signal every process of a group; always true."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
    return True


def _in_sandbox(pid: int) -> int:
    """Return the process that bubblewrap started, below the first one of its PID space; its own ID before that."""
    try:
        return next(script.pid for first in psutil.Process(pid).children() for script in first.children())
    except (psutil.Error, StopIteration):
        return pid


def _is_there(group: int) -> bool:
    """True if a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def set_up_child() -> None:
    """Make this process one that is stopped with its runner, and by it; for Linux, after the fork.

    The kernel ends it when the thread that started it ends. It hears SIGINT again, which a shell has what it starts in
    the background ignore.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


_LIBC = ctypes.CDLL(None)
