"""Execute a lock: lay the workspace out, start the script in its process, serve it, record it.

`run`, `resume` and `reproduce` share this; they differ in where the lock comes from, in what the execution is told
beyond it, and in what is done with the record.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from reprokit._version import __version__
from reprokit.checkpoint.claims import check_claims
from reprokit.checkpoint.reader import Checkpoint
from reprokit.core.scratch import temporary
from reprokit.environment.vault import Packing
from reprokit.errors import DataMismatchError, RegistryError
from reprokit.execution.conclude import concluded
from reprokit.execution.hermetic import open_sandbox
from reprokit.execution.inputs import ChangedInput, Laid, LaidTree, check_inputs, lay_data
from reprokit.execution.launch import Place, check_notebook, shell_of, start, variables_of
from reprokit.execution.orders import Continued, Orders
from reprokit.execution.run_secrets import secrets_of
from reprokit.execution.script_process import Outcome, signals_put_back
from reprokit.execution.variables_read import Given
from reprokit.execution.workspace import check_jail, lay_code, lay_outputs
from reprokit.locking.prepared import Prepared
from reprokit.numerics.machine import machine_facts
from reprokit.numerics.script_environ import of_the_shell
from reprokit.packages.package import Package
from reprokit.packages.tree_cache import is_protected, lay_out, moment
from reprokit.recording.broadcast import Broadcast
from reprokit.recording.checkpoint_saver import Saver, SavingPolicy
from reprokit.recording.earlier import LISTS, with_earlier
from reprokit.recording.journal import Journal, stored_as
from reprokit.recording.listener import DEAF, Listener, Unfailing
from reprokit.recording.recorder import Recording, new_run_id, now
from reprokit.recording.server import TOKEN_BYTES, Session
from reprokit.recording.tracking.live import followed
from reprokit.registry import Registry
from reprokit.registry.context import Context
from reprokit.registry.package_log import writer
from reprokit.schema.facts import InputLink
from reprokit.schema.lock import DataPin
from reprokit.schema.machine import Machine
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.metric_log import METRICS_KEY
from reprokit.schema.record import (
    Attempt,
    DataFacts,
    EnvironmentFacts,
    ExecutionFacts,
    Record,
)

__all__ = ["execute"]


def execute(
    prepared: Prepared,
    orders: Orders | None = None,
    *,
    context: Context,
    inputs: Registry | None = None,
    listener: Listener = DEAF,
    conclude: Callable[[Record, Manifest], Record] | None = None,
) -> Recording:
    """Execute a lock and record it.

    Args:
        inputs: Where the locked data is read from; the registry that is recorded into by default.
        conclude: Called with the ended record; what it returns is published as the last version.
    """
    orders, listener = orders or Orders(), Unfailing(listener)
    lock, continued = prepared.lock, orders.continues
    registry, progress = context.registry, context.progress
    registry.expect_writes()
    notebook = lock.recipe.code.notebook
    if notebook is not None:
        check_notebook(lock.environment)
    sandbox = open_sandbox(prepared) if orders.hermetic else None
    secrets_of(lock)  # one that is missing is said before anything is laid out
    run_id = continued.record.run_id if continued else new_run_id(registry)
    journal = Journal.create(context.home, run_id, files=continued.files if continued else {})
    workspace = prepared.in_place or journal.file("workspace")
    made: list[Path] = []
    ended = False
    try:
        code = Manifest.make([entry for entry in prepared.entries if entry.logical_key.startswith("code/")])
        if prepared.in_place is None:
            lay_code(code, lock.code, workspace, registry=registry, notebook=notebook, progress=progress)
        check_jail(lock, workspace, laid=False)
        facts, trees = lay_data(
            lock.data,
            workspace,
            context=context if inputs is None else replace(context, registry=inputs),
            layout=_layout(prepared, orders, context),
        )
        made = [workspace / pin.path for pin in lock.data]
        check_jail(lock, workspace, laid=True)
        resume = None
        if continued is not None:
            lay_outputs(continued.outputs, workspace)
            resume = _lay_checkpoint(continued, trees, context)
        with temporary() as scratch:
            copied = [link for link in made if not link.is_symlink()]
            seen = (*(laid.tree for laid in trees.values()), *copied)
            place = Place(workspace, scratch, journal, inputs=seen, sandbox=sandbox)
            token = secrets.token_hex(TOKEN_BYTES)
            variables = {**variables_of(prepared, orders, run_id, place, resume), "REPROKIT_TOKEN": token}
            record = _record(prepared, orders, run_id, facts, variables)
            saver = Saver(
                registry=registry,
                journal=journal,
                policy=_policy(prepared, orders, run_id),
                collected=continued.collected if continued else None,
                listener=listener,
            )
            packing = Packing(prepared.vault, registry, progress=progress, packed=partial(_note_packed, journal))
            with (
                Recording.start(record, prepared.entries, lock=lock, registry=registry, journal=journal) as recording,
                followed(orders.mlflow, run_id, journal.file(METRICS_KEY), registry=registry, note=progress.note),
                packing,
            ):
                if packing.names:
                    journal.event("packing", names=packing.names)
                saver.note_again()
                recording.settle = lambda: saver.settle(progress)
                session = Session(registry=registry, journal=journal, saver=saver, token=token)
                session.listen(scratch / "socket")
                broadcast = Broadcast(registry.live(run_id), journal.file("log.txt"), session.collected)
                with signals_put_back():
                    with broadcast.on():
                        outcome = start(prepared, place, variables, listener=listener)
                    if broadcast.stopped is not None and outcome.status == "interrupted":
                        outcome = replace(outcome, failure=f"Stopped by `reprokit stop` of {broadcast.stopped}.")
                    given = Given(shell=shell_of(prepared, orders), variables=variables)
                    session.finish()
                    with contextlib.suppress(RegistryError):  # which is said when the record is written
                        saver.settle(progress)
                    recording.keep(*packing.finish())
                    changed = check_inputs(trees)
                    outcome, spoilt = _checked(outcome, session, changed)
                    record = concluded(
                        recording, session, outcome, prepared, workspace, resumes=resume is not None, given=given,
                        home=context.home, changed=changed,
                    )  # fmt: skip
                    ended = True
                if spoilt is not None:
                    raise DataMismatchError(
                        spoilt, hint="The cache's copy was discarded: run again. See that nothing writes to inputs."
                    )
                if conclude is not None:
                    recording.amend(conclude(record, recording.manifest))
                broadcast.clear()
        return recording
    finally:
        if prepared.in_place is not None or lock.execution.layout != "copy":
            for link in made:
                if link.is_symlink():
                    link.unlink()
                elif lock.execution.layout != "copy":
                    shutil.rmtree(link, ignore_errors=True) if link.is_dir() else link.unlink(missing_ok=True)
        if ended:
            left = recording.left_behind or recording.unkept
            journal.close(keep_workspace=prepared.in_place is None and bool(left))
        elif not journal.has_begun:
            journal.close(keep_workspace=False)
        else:
            journal.leave()


def _lay_checkpoint(continued: Continued, trees: dict[str, LaidTree], context: Context) -> dict[str, Any] | None:
    """Lay the checkpoint out, verified, and return what the script's process is told of it."""
    if continued.checkpoint is None:
        return None
    what = f"the checkpoint {continued.where}"
    check_claims(Checkpoint(Package(what, continued.checkpoint, context.registry)))
    tree = lay_out(
        continued.checkpoint, registry=context.registry, cache=context.cache, what=what, look=True,
        progress=context.progress,
    )  # fmt: skip
    trees["(checkpoint)"] = LaidTree(tree, tree.stat().st_ino, moment(context.cache))
    return {"folder": str(tree), "framework": continued.framework, "carried": continued.carried}


def _note_packed(journal: Journal, name: str, entry: Entry) -> None:
    journal.event("packed", name=name, **stored_as(entry))


def _layout(prepared: Prepared, orders: Orders, context: Context) -> Laid:
    """Return how inputs are laid out: linked to, where the script is kept from writing into the cache."""
    wanted = prepared.lock.execution.layout
    if wanted == "copy":
        return "copy"
    kept_off = orders.hermetic or prepared.container is not None or is_protected(context.cache)
    return "symlink" if wanted == "symlink" or kept_off else "own"


def _checked(outcome: Outcome, session: Session, changed: dict[str, ChangedInput]) -> tuple[Outcome, str | None]:
    """Return what became of the script, and what was wrong with its inputs from the beginning, if anything was."""
    spoilt = next((one.text for one in changed.values() if one.before), None)
    if spoilt is not None:
        return replace(outcome, status="failed", failure=spoilt), spoilt
    if session.collected.untold and outcome.status == "finished":
        return replace(outcome, status="failed", failure=f"Not stored: {session.collected.errors[-1]}"), None
    return outcome, None


def _record(
    prepared: Prepared, orders: Orders, run_id: str, facts: list[DataFacts], variables: dict[str, str]
) -> Record:
    lock, continued = prepared.lock, orders.continues
    before = continued.record if continued else None
    public = {name: value for name, value in variables.items() if name not in lock.execution.secrets}
    machine = machine_facts(public, python=lock.environment.python)
    record = Record(
        run_id=run_id,
        name=prepared.name,
        status="running",
        lock_hash=lock.hash,
        code=prepared.code,
        environment=EnvironmentFacts(
            hash=lock.environment.hash,
            packages=len(lock.environment.pip) + len(lock.environment.conda),
            python=lock.environment.python,
        ),
        data=facts,
        machine=machine,
        params=lock.params,
        execution=ExecutionFacts(
            **msgspec.structs.asdict(lock.execution.executed(hermetic=orders.hermetic)),
            in_place=prepared.in_place is not None,
            hermetic=orders.hermetic,
        ),
        started=before.started if before else now(),
        attempts=[*before.attempts, _attempt(before, continued)] if before and continued else [],
        by=before.by if before else writer(),
        checkpoint_package=lock.recipe.checkpoint_package,
        reproduces=orders.reproduces,
        relaxed=orders.relaxed,
        changed_inputs=before.changed_inputs if before else {},
        left_out=[one for one in before.left_out if one.what in ("attempts", "checkpoints", *LISTS)] if before else [],
        terms=orders.terms,
        warnings=[
            *prepared.warnings,
            *of_the_shell(lock, inherited=shell_of(prepared, orders), variables=public),
            *(_other_numbers(before.machine, machine) if before else []),
        ],
        reprokit=__version__,
    )
    return with_earlier(record, before)[0] if before else record


def _other_numbers(before: Machine, now_: Machine) -> list[str]:
    """Return a warning if a run goes on where floating-point numbers may come out otherwise."""
    one, other = before.numeric, now_.numeric
    moved = (("machine", one.machine, other.machine), ("cpu", one.cpu, other.cpu))
    found = [f"{name} {there} → {here}" for name, there, here in moved if there != here]
    gone = sorted(set(one.isa or []) ^ set(other.isa or []))
    found += [f"instructions {', '.join(gone)}"] if gone else []
    if not found:
        return []
    return [
        f"This machine is not the one that the run began on ({'; '.join(found)}): its bits may differ from here on."
    ]


def _attempt(record: Record, continued: Continued) -> Attempt:
    return Attempt(
        started=record.attempts[-1].resumed if record.attempts else record.started,
        ended=record.ended,
        status=record.status,
        failure=record.failure,
        machine=record.machine,
        resumed=now(),
        resumed_from=continued.where,
        resumed_at=None if continued.place is None else continued.place.following,
    )


def _policy(prepared: Prepared, orders: Orders, run_id: str) -> SavingPolicy:
    lock = prepared.lock
    return SavingPolicy(
        run_id=run_id,
        name=prepared.name,
        package=lock.recipe.checkpoint_package,
        best=lock.recipe.checkpoints.best,
        inputs=[_input_link(pin) for pin in lock.data],
        lock_hash=lock.hash,
        keep=lock.recipe.checkpoints.keep,
        move_tags=orders.reproduces is None,
    )


def _input_link(pin: DataPin) -> InputLink:
    """Return what a checkpoint says of an input that it was made from."""
    return InputLink(name=pin.name, package=pin.package, top_hash=pin.top_hash, within=pin.within)
