"""Lies beside a program: SIGKILL at the tick that the file of the parameter `marker` names; how many there were."""

import atexit
import os
import signal
from pathlib import Path

import reprokit

_MARKER = Path(reprokit.params(marker="nowhere")["marker"])
_DONE = [0]
atexit.register(lambda: print("ticks", _DONE[0]))


def tick() -> None:
    """Count the calls of this process; at the number in the marker's file, remove it and die."""
    _DONE[0] += 1
    if _MARKER.is_file() and int(_MARKER.read_text()) == _DONE[0]:
        _MARKER.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
