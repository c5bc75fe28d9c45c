"""Will it be the same here? A run, or a lock, against an environment of this machine, without running it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from reprokit.environment.capture import capture
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.pip.wheelhouse import Vault
from reprokit.environment.realise import realise
from reprokit.errors import DataMismatchError, EnvironmentMismatchError, NotFoundError
from reprokit.numerics.machine import machine_facts
from reprokit.numerics.prediction import Prediction, Recorded, predict
from reprokit.numerics.query_environment import ask
from reprokit.registry import Registry
from reprokit.registry.context import Context
from reprokit.schema.facts import CheckpointFacts, facts_in
from reprokit.schema.lock import EnvironmentLock, PackageChange, RunLock
from reprokit.schema.machine import Numeric
from reprokit.schema.record import Record

__all__ = ["Check", "check_lock", "check_run"]

_SHOWN = ("os", "kernel", "libc", "python", "cores", "gpus", "driver", "virtual")
PATIENCE = 180.0


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """How an environment of this machine compares with a locked one.

    Attributes:
        run_id: The run that was compared; None for a lock.
        python: The interpreter that was compared; None if there is none to compare.
        hash: Of the locked environment.
        compared: How many packages the locked one has.
        packages: In what the environment here differs.
        files: Of that, which files here are not what a package brought, and what to do.
        machine: What differs of the machine, for people: name → there and here.
        failure: Why the locked environment cannot be had here.
        prediction: Of the run's bits; None for a lock, which has no numbers to compare with.
    """

    run_id: str | None
    python: str | None
    hash: str
    compared: int
    packages: list[PackageChange]
    files: list[str] = []
    machine: dict[str, tuple[Any, Any]] = {}
    failure: str | None = None
    prediction: Prediction | None = None

    @property
    def exit_code(self) -> int:
        """0 equal, 5 no such environment, 7 other bits (of a lock: other packages), 8 open."""
        if self.failure is not None:
            return EnvironmentMismatchError.exit_code
        if self.prediction is None:
            return 7 if self.packages else 0
        return {"EQUAL": 0, "DIFFERENT": 7}.get(self.prediction.prediction, 8)


def check_lock(locked: EnvironmentLock, *, context: Context, exact: bool, vault: Vault | None = None) -> Check:
    """Compare a locked environment with the one here, or with `exact` have it made and compare what came of it."""
    if locked.container is not None:
        image = PackageChange(name="container", kind="container", locked=locked.container, found=None)
        return Check(run_id=None, python=None, hash=locked.hash, compared=1, packages=[image])
    python: Path | None = Path(sys.executable)
    failure = None
    cache = context.cache
    found = capture(cache)
    if exact and locked.changes_to(found.lock):
        try:
            python = realise(locked, cache=cache, vault=vault, progress=context.progress)
            found = capture(cache, interpreter=Interpreter.at(python))
        except EnvironmentMismatchError as error:
            python, failure = None, error.message
    return Check(
        run_id=None,
        python=str(python) if python else None,
        hash=locked.hash,
        compared=locked.size,
        packages=(changes := locked.changes_to(found.lock)),
        files=found.files({change.name for change in changes}),
        failure=failure,
    )


def check_run(
    record: Record,
    lock: RunLock,
    *,
    context: Context,
    exact: bool,
    threads: int | None = None,
    vault: Vault | None = None,
) -> Check:
    """Compare a run with what it would find here, and predict whether its bits can be had.

    Args:
        exact: Make the run's own environment, if it is not this one, and ask that; otherwise this one is asked.
        threads: Instead of those that the run was given.
    """
    registry = context.registry
    compared = check_lock(lock.environment, context=context, exact=exact, vault=vault)
    recorded = record.machine.numeric
    was = lock.execution.threads
    changed: dict[str, tuple[Any, Any]] = {} if threads is None or threads == was else {"threads": (was, threads)}
    wanted = msgspec.structs.replace(lock, execution=msgspec.structs.replace(lock.execution, threads=threads or was))
    here: Numeric | None = None
    unasked = compared.failure and f"the run's environment cannot be made here: {compared.failure}"
    if lock.environment.container is not None:
        unasked = "the run's environment is an image, which is not asked"
    if compared.python is not None:
        try:
            with context.progress.task("Asking the environment", None):
                here = ask(wanted, recorded, python=Path(compared.python), was=was, patience=PATIENCE)
        except (EnvironmentMismatchError, DataMismatchError) as error:
            unasked = error.message
    run = Recorded(
        imported=record.machine.imported,
        numeric=recorded,
        framework=_framework(record, registry),
        metrics=record.metrics,
        unseeded=lock.execution.determinism == "off",
    )
    packages = [] if compared.python is None else compared.packages
    prediction = predict(run, here, packages=packages, changed=changed, unasked=unasked)
    return msgspec.structs.replace(
        compared, run_id=record.run_id, machine=_machine(record, lock), prediction=prediction
    )


def _framework(record: Record, registry: Registry) -> str | None:
    """Return whose callback saved the run's checkpoints, as one of them says; None if there is none to ask."""
    for entry in [*record.checkpoints[-1:], *([record.initial] if record.initial else [])]:
        try:
            facts = facts_in(registry.read_header(entry.top_hash).get("user_meta"), CheckpointFacts)
        except (NotFoundError, DataMismatchError):
            continue
        if facts is not None:
            return facts.framework
    return None


def _machine(record: Record, lock: RunLock) -> dict[str, tuple[Any, Any]]:
    here, there = machine_facts({}, python=lock.environment.python), record.machine
    found = {key: (getattr(there, key), getattr(here, key)) for key in _SHOWN}
    found["cpu"] = (there.numeric.cpu, here.numeric.cpu)
    return {key: (one, other) for key, (one, other) in found.items() if one not in (None, "", [], {}) and one != other}
