"""Signs of life of runs, in an object store: an object that is written anew every 20 seconds.

    running/<run id>/<generation>     who executes the run; the newest generation counts

One that was not renewed for 90 seconds reads as dead. Only the store's own clock is asked, so that it does not matter
what the machines' clocks say. Who takes a dead one over creates the next generation, which one alone can.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator

from reprokit.errors import Error, RefusedError
from reprokit.registry.liveness import in_use_by, signature, signed
from reprokit.store.storage import Storage, Stored

__all__ = ["RENEWED", "STALE", "RemoteSigns"]

RENEWED = 20.0  # seconds
STALE = 90.0  # seconds
_MAX_SIGN = 1000  # bytes
_GENERATION = re.compile(r"[0-9]{6}")


class RemoteSigns:
    """See the module."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @contextlib.contextmanager
    def claim(self, run_id: str) -> Iterator[str]:
        """Hold the sign of a run for as long as the context is open, which gives its generation.

        Raises:
            RefusedError: Somebody holds it.
        """
        key = self._claimed(run_id)
        ended = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(key, ended), name="reprokit-sign", daemon=True)
        renewing.start()
        try:
            yield key.rpartition("/")[2]
        finally:
            ended.set()
            renewing.join(RENEWED)
            with contextlib.suppress(Error):
                self._storage.delete(key)

    def release(self, run_id: str, sign: str) -> None:
        """Take back the sign of a holder that is dead; who took the run over since holds another generation."""
        if _GENERATION.fullmatch(sign):
            self._storage.delete(self._key(run_id, int(sign)))

    def is_claimed(self, run_id: str) -> bool:
        """True while somebody holds the sign."""
        newest = self._newest(run_id)
        return newest is not None and self._age(self._key(run_id, newest)) < STALE

    def holders(self) -> dict[str, str]:
        """Return who says that they execute the runs that are alive."""
        newest: dict[str, Stored] = {}
        for stored in self._storage.walk("running"):
            _, run_id, generation = [*stored.key.split("/"), "", ""][:3]
            if _GENERATION.fullmatch(generation):
                newest[run_id] = stored  # they come in their order
        now = self._storage.now() if newest else 0.0
        found = {}
        for run_id, stored in newest.items():
            if now - stored.modified < STALE:
                with contextlib.suppress(FileNotFoundError):
                    found[run_id] = signed(self._storage.read(stored.key, max_bytes=_MAX_SIGN))
        return found

    def _claimed(self, run_id: str) -> str:
        while True:
            newest = self._newest(run_id)
            if newest is not None and self._age(self._key(run_id, newest)) < STALE:
                raise self._in_use(run_id, newest)
            key = self._key(run_id, (newest or 0) + 1)
            try:
                self._storage.create(key, signature())
            except FileExistsError:
                continue
            for generation in range(1, (newest or 0) + 1):
                self._storage.delete(self._key(run_id, generation))
            return key

    def _renew(self, key: str, ended: threading.Event) -> None:
        while not ended.wait(RENEWED):
            with contextlib.suppress(Error, OSError):  # the next time, or the run reads as interrupted
                self._storage.put(key, signature())

    def _in_use(self, run_id: str, generation: int) -> RefusedError:
        said = b""
        with contextlib.suppress(FileNotFoundError):
            said = self._storage.read(self._key(run_id, generation), max_bytes=_MAX_SIGN)
        return in_use_by(run_id, said)

    def _newest(self, run_id: str) -> int | None:
        names = self._storage.names(f"running/{run_id}")
        return max((int(name) for name in names if _GENERATION.fullmatch(name)), default=None)

    def _age(self, key: str) -> float:
        """Return the seconds since a sign was written, by the store's clock."""
        sign = self._storage.stat(key)
        if sign is None:
            return STALE
        return self._storage.now() - sign.modified

    @staticmethod
    def _key(run_id: str, generation: int) -> str:
        return f"running/{run_id}/{generation:06d}"
