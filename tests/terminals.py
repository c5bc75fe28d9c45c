"""Commands on a terminal of their own, as somebody has one before himself."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Sequence

from tests.conftest import Project

__all__ = ["on_a_terminal"]


def on_a_terminal(command: Sequence[str], project: Project, *, rows: int, columns: int) -> tuple[int, int]:
    """Start a command in a project; return its process, and the terminal that it has, to read and to type."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**project.environment(), "TERM": "xterm-256color"}
        for name in ("CI", "COLUMNS", "NO_COLOR"):
            environment.pop(name, None)
        os.chdir(project.root)
        os.execve(command[0], command, environment)  # noqa: S606
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    return pid, terminal
