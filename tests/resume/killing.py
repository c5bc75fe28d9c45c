"""Lies beside a training script: SIGKILL at the batch that a one-shot file names."""

import os
import signal
from pathlib import Path

_DONE = [0]


def maybe_die(marker: str) -> None:
    """Count the calls of this process; at the number in the file `marker`, remove it and die."""
    _DONE[0] += 1
    file = Path(marker)
    if file.is_file() and int(file.read_text()) == _DONE[0]:
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
