"""The peak memory of a process and all its descendants, in which shared memory counts once. Linux only.

Counted is what the kernel cannot drop: anonymous pages and shared memory, not the mapped files of libraries.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psutil

__all__ = ["TreeMemory"]


class TreeMemory:
    """Samples the proportional set size (PSS) of a process tree from when `follow` is called until the block is left.

    The kernel walks all pages of a process to tell it, which holds the process up: do not time what is watched.
    """

    def __init__(self, interval: float = 0.02) -> None:
        self._interval = interval
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.peak_mib = 0.0

    def follow(self, pid: int) -> None:
        self._thread = threading.Thread(target=self._sample, args=(pid,), daemon=True)
        self._thread.start()

    def __enter__(self) -> TreeMemory:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _sample(self, pid: int) -> None:
        while not self._stop.is_set():
            try:
                root = psutil.Process(pid)
                pids = [pid, *(child.pid for child in root.children(recursive=True))]
            except psutil.NoSuchProcess:
                return
            self.peak_mib = max(self.peak_mib, sum(map(_pss, pids)) / 1024)
            time.sleep(self._interval)


def _pss(pid: int) -> int:
    """Return the PSS of memory without a file, in KiB; 0 for a process that has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    except (FileNotFoundError, ProcessLookupError):
        return 0
