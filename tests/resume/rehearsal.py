"""A training script in this process: left alone, killed and gone on with. No runner, no recipe: seconds for dozens."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from reprokit.checkpoint.format import SnapshotMessage, encode
from reprokit.client import loop as client_loop
from reprokit.client import policy as client_policy
from reprokit.client.plain import to_json
from reprokit.client.restored import Restored
from reprokit.client.snapshot import Snapshot

Place = tuple[Any, ...]


class Killed(BaseException):
    """The script ends here, as by `kill -9`."""


class Rehearsal:
    """Runs one script; what it saves lies in folders.

    Args:
        source: The script. `die()` in it counts, and ends it where a run is to be killed.
        every: As in a recipe, such as `{"unit": "step", "n": 3}`.
        seed: Called before each run.
    """

    def __init__(
        self, source: str, folder: Path, *, every: dict[str, Any] | None = None, seed: Callable[[], None]
    ) -> None:
        self._code = compile(source, "script.py", "exec")
        self._folder = folder
        self._context = {"every": every or {"unit": "epoch", "n": 1}}
        self._seed = seed
        self._runs = 0
        self.said: list[str] = []

    def run(self, *, kill_at: int | None = None, resume: Path | None = None) -> dict[Place, tuple[str, Path]]:
        """Run the script; return what it saved by place: digest and folder.

        Args:
            kill_at: The call of `die()` that kills it.
            resume: A checkpoint that it goes on from.
        """
        self._runs += 1
        saved: dict[Place, tuple[str, Path]] = {}
        calls = 0

        def die() -> None:
            nonlocal calls
            calls += 1
            if calls == kill_at:
                raise Killed

        def save(snapshot: Snapshot, *, kind: str = "checkpoint", **at: Any) -> Any:
            place = (-1, 0, None) if kind == "initial" else (at["epoch"], at["step"], at["batch"])
            folder = self._folder / f"{self._runs}-{len(saved)}"
            saved[place] = (_write(snapshot, folder), folder)

        self._seed()
        with self._world(save, resume), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                exec(self._code, {"__name__": "__main__", "die": die})  # noqa: S102 - the test's own script
            except Killed:
                pass
            finally:
                self.said = [str(one.message) for one in said if "reprokit" in str(one.message)]
        self.calls = calls
        return saved

    @contextmanager
    def _world(self, save: Any, resume: Path | None) -> Iterator[None]:
        told = (lambda _framework=None: None) if resume is None else (lambda _framework=None: Restored(resume))
        fit = sys.modules.get("reprokit.callbacks.keras.fit", client_loop)  # it asks by itself
        with (
            mock.patch.object(fit, "resumed", told),
            mock.patch.object(client_policy, "context", lambda: self._context),
            mock.patch.object(client_loop, "resumed", told),
            mock.patch.multiple(client_loop.Loop, _trainings=0, _so_far=0),  # as in a process of its own
            mock.patch.object(client_loop, "connect", mock.MagicMock()),
            mock.patch.object(client_loop, "writer", mock.MagicMock()),
            mock.patch.object(Snapshot, "save", save),
        ):
            yield

    def differences(self, kills: list[int] | None = None) -> list[str]:
        """Kill the script at calls of `die()`, have it go on, and return where it ends with other bits."""
        whole = self.run()
        found = []
        for at in kills or range(2, self.calls + 1):
            before = self.run(kill_at=at)
            if {place: one for place, (one, _) in before.items()}.items() - {
                p: d for p, (d, _) in whole.items()
            }.items():
                found.append(f"killed at {at}: not the same before it was killed")
                continue
            after = self.run(resume=[*before.values()][-1][1])
            missing = whole.keys() - before.keys() - after.keys()
            unlike = [place for place, (digest, _) in after.items() if place not in whole or whole[place][0] != digest]
            found += [f"killed at {at}: {place} differs" for place in unlike]
            found += [f"killed at {at}: {place} is missing" for place in missing]
        return found


def _write(snapshot: Snapshot, folder: Path) -> str:
    """Do what callback and runner do with a snapshot; return its state digest."""
    state = to_json(snapshot.state, "state", tensor=snapshot._keep_aside)
    memory = bytearray(snapshot._size)
    for offset, nbytes, copy in snapshot._copies:
        copy(memoryview(memory)[offset : offset + nbytes])
    plain = {
        "kind": "checkpoint", "framework": snapshot.framework, "tensors": snapshot._tensors, "files": snapshot._files,
        "state": state, "config": snapshot.config,
    }  # fmt: skip
    pieces, digest = encode(msgspec.convert(json.loads(json.dumps(plain)), SnapshotMessage), memoryview(memory))
    for piece in pieces:
        (folder / piece.key).parent.mkdir(parents=True, exist_ok=True)
        (folder / piece.key).write_bytes(b"".join(piece.parts))
    return str(digest)
