"""Execute a lock: lay the workspace out, start the script in its process, serve it, record it.

`run`, `resume` and `reproduce` share this; they differ in where the lock comes from, in what the execution is told
beyond it, and in what is done with the record.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from reprokit._version import __version__
from reprokit.core.config import Config
from reprokit.core.digest import hash_file
from reprokit.core.progress import SILENT, Progress
from reprokit.environment.imported_packages import packages_behind
from reprokit.errors import DataMismatchError
from reprokit.execution.launch import Place, check_notebook, start, variables_of
from reprokit.execution.orders import Continued, Orders
from reprokit.execution.script_process import Echo, Outcome
from reprokit.execution.workspace import find_outputs, lay_code, lay_outputs, written_files
from reprokit.locking.inputs import LaidTree, check_inputs, lay_data
from reprokit.locking.prepared import Prepared
from reprokit.numerics.machine import machine_facts
from reprokit.numerics.script_environ import of_the_shell
from reprokit.packages.tree_cache import lay_out
from reprokit.recording.checkpoint_saver import Observer, Saver, SavingPolicy
from reprokit.recording.journal import Journal
from reprokit.recording.recorder import Recording, new_run_id, now
from reprokit.recording.server import Session
from reprokit.registry import Registry
from reprokit.runs.store import CODE_PREFIX
from reprokit.schema.lock import DataPin, RunLock
from reprokit.schema.manifest import Manifest
from reprokit.schema.record import Attempt, CodeFacts, DataFacts, EnvironmentFacts, OutputFacts, Record, UndeclaredFile

__all__ = ["execute"]

_MAX_UNDECLARED = 1 << 30  # bytes of them that are hashed


def execute(
    prepared: Prepared,
    orders: Orders | None = None,
    *,
    config: Config,
    registry: Registry,
    inputs: Registry | None = None,
    progress: Progress = SILENT,
    observer: Observer | None = None,
    echo: Echo | None = None,
    conclude: Callable[[Record, Manifest], Record] | None = None,
) -> Recording:
    """Execute a lock and record it.

    Args:
        inputs: Where the locked data is read from; the registry that is recorded into by default.
        conclude: Called with the ended record; what it returns is published as the last version.
    """
    orders = orders or Orders()
    lock, continued = prepared.lock, orders.continues
    notebook = lock.recipe.code.notebook
    if notebook is not None:
        check_notebook(lock.environment)
    run_id = continued.record.run_id if continued else new_run_id()
    journal = Journal.create(config.home, run_id, files=continued.files if continued else {})
    workspace = prepared.in_place or journal.file("workspace")
    made: list[Path] = []
    ended = False
    try:
        code = Manifest.make([entry for entry in prepared.entries if entry.logical_key.startswith("code/")])
        if prepared.in_place is None:
            lay_code(code, lock.code, workspace, registry=registry, notebook=notebook, progress=progress)
        facts, trees = lay_data(
            lock.data,
            workspace,
            registry=inputs or registry,
            cache=config.cache,
            layout="copy" if lock.execution.layout == "copy" else "symlink",
            progress=progress,
        )
        made = [workspace / pin.path for pin in lock.data]
        resume = None
        if continued is not None:
            lay_outputs(continued.outputs, workspace)
            resume = _lay_checkpoint(continued, trees, registry=registry, cache=config.cache, progress=progress)
        with tempfile.TemporaryDirectory(prefix="reprokit-") as name:
            scratch = Path(name)
            place = Place(workspace, scratch, journal, config.cache)
            variables = variables_of(prepared, orders, run_id, place, resume)
            record = _record(prepared, orders, run_id, facts, variables)
            saver = Saver(
                registry=registry,
                journal=journal,
                policy=_policy(prepared, orders, run_id),
                collected=continued.collected if continued else None,
                observer=observer,
            )
            with Recording.start(record, prepared.entries, lock=lock, registry=registry, journal=journal) as recording:
                saver.note_again()
                session = Session(registry=registry, journal=journal, saver=saver)
                session.listen(scratch / "socket")
                outcome = start(prepared, place, variables, echo=echo)
                session.finish()
                outcome, spoilt = _checked(outcome, session, trees)
                record = _conclude(
                    recording, session, outcome, lock, workspace, resumes=resume is not None, prepared=prepared
                )
                ended = True
                if spoilt is not None:
                    raise DataMismatchError(
                        spoilt, hint="The cache's copy was discarded: run again. See that nothing writes to inputs."
                    )
                if conclude is not None:
                    recording.amend(conclude(record, recording.manifest))
        return recording
    finally:
        if prepared.in_place is not None or lock.execution.layout != "copy":
            for link in made:
                if link.is_symlink():
                    link.unlink()
        if ended:
            journal.close(keep_workspace=prepared.in_place is None and bool(recording.left_behind))
        elif not journal.file("journal.jsonl").stat().st_size:
            journal.close(keep_workspace=False)  # nothing was started
        else:
            journal.leave()


def _lay_checkpoint(
    continued: Continued, trees: dict[str, LaidTree], *, registry: Registry, cache: Path, progress: Progress
) -> dict[str, Any] | None:
    """Lay the checkpoint out, verified, and return what the script's process is told of it."""
    if continued.checkpoint is None:
        return None
    what = f"the checkpoint {continued.where}"
    tree = lay_out(continued.checkpoint, registry=registry, cache=cache, what=what, look=True, progress=progress)
    trees["(checkpoint)"] = LaidTree(tree, tree.stat().st_ino)
    return {"folder": str(tree), "framework": continued.framework}


def _checked(outcome: Outcome, session: Session, trees: dict[str, LaidTree]) -> tuple[Outcome, str | None]:
    """Return what became of the script, and what is wrong with its inputs, if anything is."""
    spoilt = check_inputs(trees)
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
    machine = machine_facts(variables, python=lock.environment.python)
    return Record(
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
        execution={**msgspec.to_builtins(lock.execution), "in_place": prepared.in_place is not None},
        started=before.started if before else now(),
        attempts=[*before.attempts, _attempt(before, continued.where)] if before and continued else [],
        checkpoint_package=lock.recipe.checkpoint_package,
        reproduces=orders.reproduces,
        relaxed=orders.relaxed,
        warnings=[
            *prepared.warnings,
            *of_the_shell(lock, inherited={} if prepared.container else os.environ, variables=variables),
            *(_other_numbers(before.machine, machine) if before else []),
        ],
        reprokit=__version__,
    )


def _other_numbers(before: dict[str, Any], now_: dict[str, Any]) -> list[str]:
    """Return a warning if a run goes on where floating-point numbers may come out otherwise."""
    one, other = before.get("numeric", {}), now_.get("numeric", {})
    found = [f"{k} {one.get(k)} → {other.get(k)}" for k in ("machine", "cpu") if one.get(k) != other.get(k)]
    gone = sorted(set(one.get("isa", [])) ^ set(other.get("isa", [])))
    found += [f"instructions {', '.join(gone)}"] if gone else []
    if not found:
        return []
    return [
        f"This machine is not the one that the run began on ({'; '.join(found)}): its bits may differ from here on."
    ]


def _attempt(record: Record, where: str) -> Attempt:
    return Attempt(
        started=record.attempts[-1].resumed if record.attempts else record.started,
        ended=record.ended,
        status=record.status,
        failure=record.failure,
        machine=record.machine,
        resumed=now(),
        resumed_from=where,
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


def _input_link(pin: DataPin) -> dict[str, str]:
    """Return what a checkpoint says of an input that it was made from."""
    link = {"name": pin.name, "package": pin.package, "top_hash": pin.top_hash}
    return {**link, "within": pin.within} if pin.within else link


def _conclude(
    recording: Recording,
    session: Session,
    outcome: Outcome,
    lock: RunLock,
    workspace: Path,
    *,
    resumes: bool,
    prepared: Prepared,
) -> Record:
    """Publish the end of a run: what it wrote, what it logged, what went wrong."""
    collected = session.collected
    record = recording.record
    warnings = [*record.warnings]
    outputs: dict[str, Path] = {}
    facts = []
    for declared, path, file in find_outputs(lock.recipe.declared_outputs, workspace):
        facts.append(OutputFacts(path=path, compare=declared.compare, missing=file is None))
        if file is not None:
            outputs[path] = file
        elif outcome.status == "finished":
            warnings.append(f"The declared output {path!r} was not written.")
    undeclared = _undeclared(recording.journal.file("inputs.txt"))
    if undeclared:
        shown = ", ".join(file.path for file in undeclared[:10])
        shown += f" and {len(undeclared) - 10} more" if len(undeclared) > 10 else ""
        warnings.append(f"Files were read that are not declared inputs: {shown}.")
    if not collected.checkpoints and outcome.status == "finished":
        warnings.append("No checkpoint was saved: a reproduction can compare only the outputs.")
    if resumes and not collected.resumed:
        warnings.append("The script did not restore the checkpoint that it was given: it started from its beginning.")
    warnings += [f"Not stored: {text}" for text in collected.errors]
    left = _left_behind(recording, workspace, set(outputs), lock) if outcome.status == "finished" else ["(all)"]
    if left and outcome.status == "finished":
        warnings.append(
            f"Files were written that are not declared outputs ({', '.join(left[:5])}{'…' if len(left) > 5 else ''}); "
            f"they stay in {workspace}."
        )
    recording.left_behind = left
    machine = {
        **record.machine,
        "imported": [] if prepared.container else packages_behind(collected.imported, prepared.python),
        "numeric": {**record.machine["numeric"], **collected.numeric},
    }
    return recording.end(
        msgspec.structs.replace(
            record,
            status=outcome.status,
            ended=now(),
            machine=machine,
            code=record.code and _used(record.code, recording, collected.files, watched=lock.execution.inputs != "off"),
            undeclared=undeclared,
            initial=collected.initial,
            checkpoints=collected.checkpoints,
            metrics=collected.metrics,
            artifacts=sorted(collected.artifacts),
            outputs=facts,
            warnings=warnings,
            failure=outcome.failure,
            exit_code=outcome.exit_code,
        ),
        collected=collected,
        outputs=outputs,
    )


def _used(code: CodeFacts, recording: Recording, imported: set[str], *, watched: bool) -> CodeFacts:
    """Return what of the code was used: the modules that were imported, and the files that were opened."""
    opened = {os.fsdecode(line[1:]) for line in _noted(recording.journal.file("inputs.txt")) if line[:1] == b"\0"}
    of_tree = [
        sorted(name for name in names if f"{CODE_PREFIX}{name}" in recording.manifest) for names in (imported, opened)
    ]
    return msgspec.structs.replace(code, imported=of_tree[0], opened=of_tree[1] if watched else None)


def _noted(report: Path) -> list[bytes]:
    try:
        return [line for line in report.read_bytes().split(b"\n") if line]
    except FileNotFoundError:
        return []


def _undeclared(report: Path) -> list[UndeclaredFile]:
    """Return the files that were read and not declared, with the digests that they have now, the smaller ones."""
    names = sorted({os.fsdecode(line) for line in _noted(report) if line[:1] != b"\0"})
    found, room = [], _MAX_UNDECLARED
    for name in names:
        facts = UndeclaredFile(path=name.encode("utf-8", "replace").decode())
        with contextlib.suppress(OSError):
            size = Path(name).stat().st_size
            facts = msgspec.structs.replace(facts, size=size)
            if size <= room and not name.startswith(("/proc/", "/sys/", "/dev/")):
                facts = msgspec.structs.replace(facts, digest=hash_file(Path(name))[0].hex)
                room -= size
        found.append(facts)
    return found


def _left_behind(recording: Recording, workspace: Path, outputs: set[str], lock: RunLock) -> list[str]:
    if recording.record.execution.get("in_place"):
        return []
    known = {entry.logical_key.removeprefix("code/") for entry in recording.manifest.below("code")} | outputs
    data = tuple(pin.path + "/" for pin in lock.data)
    return [name for name in written_files(workspace, known) if not f"{name}/".startswith(data)]
