"""The writer of a script that no runner started: records its checkpoints in the default registry until it ends.

Started by `reprokit.client` as `python -m reprokit.attached FD SCRIPT`; its socket's address comes back when it is
ready.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
from pathlib import Path

import msgspec

from reprokit._version import __version__
from reprokit.config import Config
from reprokit.environment.capture import capture_environment
from reprokit.errors import Error
from reprokit.journal import Journal
from reprokit.machine import machine_facts
from reprokit.record import EnvironmentFacts, Record
from reprokit.recording import Recording, new_run_id, now, recover
from reprokit.registry import open_registry
from reprokit.saving import Saver, SavingPolicy
from reprokit.session import Session

__all__ = ["serve"]


def serve(channel: socket.socket, script: str) -> None:
    """Record what comes through `channel` as one run without a lock, until it is closed."""
    config = Config.load()
    registry = open_registry(config.registry)
    recover(config.home)
    run_id = new_run_id()
    name = re.sub(r"[^A-Za-z0-9_-]", "-", script.rpartition(".")[0] or script) or "interactive"
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
        started=now(),
        warnings=["Not started from a recipe: its code and data are not pinned, and it cannot be reproduced."],
        reprokit=__version__,
    )
    journal = Journal.create(config.home, run_id)
    policy = SavingPolicy(run_id=run_id, name=name, package=None, best={}, inputs=[], lock_hash=None)
    with (
        Recording.start(record, [], lock=None, registry=registry, journal=journal) as recording,
        tempfile.TemporaryDirectory(prefix="reprokit-") as scratch,
    ):
        saver = Saver(registry=registry, journal=journal, policy=policy)
        session = Session(registry=registry, journal=journal, saver=saver)
        address = Path(scratch) / "socket"
        session.listen(address)
        channel.sendall(os.fsencode(address))
        channel.recv(1)  # until the script's process closes it
        session.finish()
        collected = session.collected
        recording.end(
            msgspec.structs.replace(
                record,
                status="finished",
                ended=now(),
                initial=collected.initial,
                checkpoints=collected.checkpoints,
                metrics=collected.metrics,
                artifacts=sorted(collected.artifacts),
                machine={**record.machine, "numeric": {**record.machine["numeric"], **collected.numeric}},
            ),
            collected=collected,
            outputs={},
        )
    journal.close(keep_workspace=False)


if __name__ == "__main__":
    try:
        serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
    except Error as error:
        sys.exit(str(error))
