"""A script's process, by itself: signals reach it as they should, and what it leaves behind holds nothing up."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprokit.execution.run_secrets import Mask
from reprokit.execution.script_process import Outcome, ScriptProcess, signals_put_back
from reprokit.recording.journal import Journal
from reprokit.recording.listener import Listener, Unfailing

_SAVES = """\
import os, signal, sys, time
def save(number, frame):
    os.write(1, f"told {signal.Signals(number).name}\\n".encode())  # a print may be what was interrupted
    time.sleep(0.6)
    os.write(1, b"saved\\n")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
os.write(1, b"ready\\n")
time.sleep(60)
"""
_DEAF = """\
import signal, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
_CHILD = """\
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", CODE], start_new_session=OWN)
print("child", child.pid, flush=True)
print("last words", flush=True)
"""


class _Sends(Listener):
    """Sends this process signals as soon as the script is ready."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers

    def output(self, stream: str, data: bytes) -> None:  # noqa: ARG002
        if b"ready" in data:
            threading.Thread(target=self._send, daemon=True).start()

    def _send(self) -> None:
        for number in self._numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.1)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal.create(tmp_path, "20260102-030405-abcdef")
    yield made
    made.leave()


@pytest.fixture(autouse=True)
def _hears() -> Iterator[None]:
    """A terminal that goes away is heard, also where these tests were started with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def _run(script: str, journal: Journal, listener: Listener) -> Outcome:
    command = [sys.executable, "-c", script]
    process = ScriptProcess(command, journal.folder, dict(os.environ), journal, listener, mask=Mask([]))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with signals_put_back():
        outcome = process.run()
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # while the end is recorded
            os.kill(os.getpid(), number)
            time.sleep(0.01)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    return outcome


@pytest.mark.parametrize("numbers", [[signal.SIGHUP], [signal.SIGHUP] * 3, [signal.SIGTERM, signal.SIGHUP]])
def test_a_terminal_that_goes_away_lets_the_script_save_however_often_it_is_said(
    journal: Journal, numbers: list[int]
) -> None:
    outcome = _run(_SAVES, journal, _Sends(*numbers))
    assert (outcome.status, outcome.failure) == ("interrupted", f"Stopped by {signal.Signals(numbers[0]).name}.")
    log = journal.file("log.txt").read_text()
    assert log.count("told SIGTERM") == 1
    assert "saved" in log


@pytest.mark.parametrize("numbers", [[signal.SIGINT, signal.SIGINT], [signal.SIGHUP, signal.SIGTERM]])
def test_who_asks_a_second_time_does_not_wait_for_the_script(journal: Journal, numbers: list[int]) -> None:
    began = time.monotonic()
    outcome = _run(_DEAF, journal, _Sends(*numbers))
    assert (outcome.status, outcome.failure) == ("interrupted", f"Stopped by {signal.Signals(numbers[0]).name}.")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("code", ["import time; time.sleep(60)", "while True: print('more', flush=True)"])
def test_a_child_that_outlives_its_run_is_named_and_not_waited_for(journal: Journal, own: bool, code: str) -> None:
    began = time.monotonic()
    outcome = _run(_CHILD.replace("CODE", repr(code)).replace("OWN", str(own)), journal, Listener())
    taken = time.monotonic() - began
    log = journal.file("log.txt").read_text()
    pid = int(log.partition("child ")[2].split()[0])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    assert outcome.status == "finished"
    assert taken < 6
    assert "last words" in log
    named = f"(process {pid})" if not own else "a process that holds its output open"
    assert named in str(outcome.outlived)
    size = journal.file("log.txt").stat().st_size
    time.sleep(0.2)
    assert journal.file("log.txt").stat().st_size == size  # and the log has come to rest


def test_a_listener_whose_terminal_is_gone_costs_no_line(journal: Journal) -> None:
    class Gone(Listener):
        def output(self, stream: str, data: bytes) -> None:
            raise BrokenPipeError(stream, data)

    outcome = _run("for n in range(3000): print(n)", journal, Unfailing(Gone()))
    assert outcome.status == "finished"
    assert journal.file("log.txt").read_text().endswith("stdout 2999\n")


def test_of_a_line_that_is_written_over_the_log_keeps_the_last_state(journal: Journal) -> None:
    script = """
import sys
for percent in range(101):
    print(f"\\rdone {percent}%", end="", file=sys.stderr, flush=True)
print(file=sys.stderr)
print("from Windows", end="\\r\\n")
print("one\\rtwo\\rthree")
print("\\rnever ended", end="")
"""
    assert _run(script, journal, Listener()).status == "finished"
    kept = [line.split(" ", 2)[1:] for line in journal.file("log.txt").read_bytes().decode().split("\n")[:-1]]
    assert [text for stream, text in kept if stream == "stderr"] == ["done 100%"]
    assert [text for stream, text in kept if stream == "stdout"] == ["from Windows", "three", "never ended"]
