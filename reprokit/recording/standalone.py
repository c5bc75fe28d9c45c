"""The writer of a script that no runner started: records its checkpoints in the default registry until it ends.

Started by `reprokit.client` as `python -m reprokit.recording.standalone FD FACTS`. Its socket's address and the run's
ID come back when it is ready, `done` when the record is complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import sys
from typing import Any

import msgspec

from reprokit._version import __version__
from reprokit.core.atomic_files import durable_write
from reprokit.core.config import Config
from reprokit.core.scratch import temporary
from reprokit.environment.capture import capture_environment
from reprokit.errors import Error, RegistryError
from reprokit.numerics.machine import machine_facts
from reprokit.recording.broadcast import Broadcast
from reprokit.recording.checkpoint_saver import Saver, SavingPolicy
from reprokit.recording.journal import Journal
from reprokit.recording.recorder import Recording, new_run_id, now, recover
from reprokit.recording.server import TOKEN_BYTES, Session
from reprokit.registry import open_registry
from reprokit.registry.package_log import writer
from reprokit.schema.notebook import FOLDER, encode, notebook_of
from reprokit.schema.record import EnvironmentFacts, Record

__all__ = ["serve"]


_WARNING = "Not started from a recipe: its code and data are not pinned, and it cannot be reproduced."
_INTERACTIVE = (
    "Recorded interactively: its environment is known, but its code and data are not pinned, and it cannot be "
    "reproduced as it is."
)
_CELLS = "The notebook has the cells as they were executed: a recipe that names it makes a run that can be reproduced."


def serve(channel: socket.socket, facts: dict[str, Any]) -> None:
    """Record what comes through `channel` as one run without a lock, until it is closed.

    Args:
        facts: `name`; of an interactive run also `params` and `registry`.
    """
    config = Config.load(registry=facts.get("registry"))
    script, interactive = str(facts["name"]), "params" in facts
    registry = open_registry(config.registry)
    recover(config.home)
    run_id = new_run_id(registry)
    stem = script if interactive else script.rpartition(".")[0] or script
    name = re.sub(r"[^A-Za-z0-9_-]", "-", stem) or "interactive"
    environment = capture_environment(config.cache)
    record = Record(
        run_id=run_id,
        name=name,
        status="running",
        lock_hash=None,
        code=None,
        environment=EnvironmentFacts(
            hash=environment.hash,
            packages=len(environment.pip) + len(environment.conda),
            python=environment.python,
        ),
        machine=machine_facts(dict(os.environ), python=environment.python),
        params=facts.get("params", {}),
        started=now(),
        by=writer(),
        warnings=[_INTERACTIVE if interactive else _WARNING],
        reprokit=__version__,
    )
    journal = Journal.create(config.home, run_id)
    policy = SavingPolicy(run_id=run_id, name=name, package=None, best={}, inputs=[], lock_hash=None)
    with (
        Recording.start(record, [], lock=None, registry=registry, journal=journal) as recording,
        temporary() as scratch,
    ):
        saver = Saver(registry=registry, journal=journal, policy=policy)
        token = secrets.token_hex(TOKEN_BYTES)
        session = Session(registry=registry, journal=journal, saver=saver, token=token)
        address = scratch / "socket"
        session.listen(address)
        channel.sendall(json.dumps([str(address), run_id, token]).encode())
        broadcast = Broadcast(registry.live(run_id), journal.file("log.txt"), session.collected)
        with broadcast.on():
            told = _listen(channel)
        session.finish()
        recording.settle = saver.settle
        with contextlib.suppress(RegistryError):  # which is said when the record is written
            saver.settle()
        collected = session.collected
        if told.get("cells"):
            durable_write(journal.file(FOLDER) / f"{name}.ipynb", encode(notebook_of(told["cells"])))
        status, failure = "finished", None
        if interactive:
            status = told.get("status", "interrupted")
            failure = told.get("failure", None if "status" in told else "Its process ended inside the block.")
        recording.end(
            msgspec.structs.replace(
                record,
                status=status,
                warnings=[*record.warnings, *collected.warnings, *([_CELLS] if told.get("cells") else [])],
                failure=failure,
                ended=now(),
                initial=collected.initial,
                checkpoints=collected.checkpoints,
                metrics=collected.metrics,
                artifacts=sorted(collected.artifacts),
                machine=msgspec.structs.replace(
                    record.machine, numeric=record.machine.numeric.updated(collected.numeric)
                ),
            ),
            collected=collected,
            outputs={},
        )
        broadcast.clear()
    journal.close(keep_workspace=False)
    with contextlib.suppress(OSError):  # who waited may be gone
        channel.sendall(b"done")


def _listen(channel: socket.socket) -> dict[str, Any]:
    """Return what is told of the run as a whole until its process closes the line, what came last counting."""
    told: dict[str, Any] = {}
    with channel.makefile("rb") as lines, contextlib.suppress(OSError):
        for line in lines:
            if line.endswith(b"\n"):
                told |= json.loads(line)
    return told


if __name__ == "__main__":
    if os.fork():  # no child of the script's any more: a Jupyter kernel ends its children with itself
        os._exit(0)
    line = socket.socket(fileno=int(sys.argv[1]))
    try:
        serve(line, json.loads(sys.argv[2]))
    except Error as error:
        if error.args:
            sys.stderr.write(f"{error}\n")
        sys.exit(1)
