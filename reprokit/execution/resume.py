"""Resume a run that was stopped: the same run ID, the same lock, on from one of its checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from reprokit.comparison.record_check import check_record
from reprokit.core.config import mlflow_store
from reprokit.core.progress import SILENT, Progress
from reprokit.core.refs import parse_run
from reprokit.environment.vault import kept_entries, open_vault
from reprokit.errors import RefusedError
from reprokit.execution.execute import execute
from reprokit.execution.orders import Continued, Orders
from reprokit.execution.workspace import find_outputs
from reprokit.locking.prepared import Prepared
from reprokit.locking.recipe_lock import ready_for
from reprokit.recording.checkpoint_saver import Collected
from reprokit.recording.listener import DEAF, Listener
from reprokit.recording.recorder import recover
from reprokit.registry import Registry
from reprokit.registry.context import Context
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.facts import CheckpointFacts, facts_in
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import CheckpointEntry, CodeFacts, Record

__all__ = ["Conclude", "continued_from", "prepared_again", "resume"]

Conclude = Callable[[Record, Manifest], Record]
"""What is done with an ended record and its version: the record that is returned is published as the last."""

_KEPT = ("code.patch", "code.submodules", "recipe.yaml")
_MAX_OUTPUT = 1024 * 1024 * 1024


def resume(
    run: str,
    *,
    registry: Registry | str | None = None,
    hermetic: bool = False,
    progress: Progress = SILENT,
    listener: Listener = DEAF,
    repetition: Callable[[StoredRun, Context], tuple[Orders, Conclude]] | None = None,
) -> Record:
    """Go on with an interrupted or failed run and return its record, whatever becomes of the script.

    Args:
        run: Which run, and if not from the last one, from which of its checkpoints: `RUN@epoch=3`.
        hermetic: Execute it under bubblewrap, as for `run`; a run that was begun so goes on so.
        repetition: Of a run that repeats another, returns what it is told beside its lock, and what gives the verdict;
            without, such a run is refused.
    Raises:
        RefusedError: The run finished, still runs, was not started from a recipe, or repeats another one; or its
            checkpoint cannot be gone on from, as was said when it was saved.
        EnvironmentMismatchError: The environment here is not the locked one, and that one cannot be made.
        NotFoundError: No such run or checkpoint, or its version was dropped.
        DataMismatchError: The record contradicts what it names; nothing of it is executed then.
    """
    context = Context.open(registry, progress=progress)
    store = context.registry
    recover(context.home, note=progress.note)
    ref = parse_run(run)
    runs = RunStore(store)
    found = runs.load(ref.run)
    _check(found, repeats=repetition is not None)
    lock = runs.lock(found)
    check_record(found, lock, store)
    vault = open_vault(found.manifest, store)
    what = f"run {found.record.run_id}"
    ready = ready_for(lock.environment, context=context, what=what, vault=vault, image=lock.recipe.image)
    best = lock.recipe.checkpoints.best
    chosen = found.record.select(ref.selector, best=best) if ref.selector else found.record.last
    _check_resumable(found.record, chosen)
    left = context.home / "runs" / found.record.run_id / "workspace"
    continued = continued_from(found, chosen, registry=store)
    if left.is_dir():
        there = find_outputs(lock.recipe.declared_outputs, left)
        files = {one.path: one.file for one in there if one.file is not None}
        outputs = {name: file.read_bytes() for name, file in files.items() if file.stat().st_size <= _MAX_OUTPUT}
        continued = replace(continued, outputs=outputs)
    progress.note(f"Run {found.record.run_id} goes on from {continued.where}.")
    prepared = replace(prepared_again(found, runs), python=ready.python, container=ready.container)
    execution = found.record.execution
    orders, conclude = Orders(), None
    if repetition is not None and found.record.reproduces is not None:
        orders, conclude = repetition(found, context)
    bound = hermetic or (execution is not None and execution.hermetic)
    orders = replace(orders, continues=continued, hermetic=bound, mlflow=mlflow_store())
    return execute(prepared, orders, context=context, listener=listener, conclude=conclude).record


def _check(run: StoredRun, *, repeats: bool) -> None:
    record = run.record
    if record.status == "running":
        raise RefusedError(f"Run {record.run_id} is still running.", hint="Wait for its end, or stop it.")
    if record.status == "finished":
        raise RefusedError(
            f"Run {record.run_id} has finished: there is nothing left to resume.",
            hint="To train on from its result, declare it as an input: `data: {base: {run: RUN@last, path: base}}`.",
        )
    if record.reproduces is not None and not repeats:
        raise RefusedError(
            f"Run {record.run_id} repeats run {record.reproduces}, and its end is a verdict.",
            hint=f"Go on with it by `reprokit resume {record.run_id}`, or reprokit.reproduction.resume.",
        )


def _check_resumable(record: Record, chosen: CheckpointEntry | None) -> None:
    """Refuse a checkpoint of which the script's callback said, when it was saved, that nothing can go on from it."""
    if chosen is None or not chosen.unresumable:
        return
    usable = [entry for entry in record.checkpoints if entry.kind != "exception" and not entry.dropped]
    free = [entry for entry in usable if not entry.unresumable]
    names = filter(None, map(record.selector_of, free[-5:]))
    others = ", ".join(f"{record.run_id}@{name}" for name in names)
    raise RefusedError(
        f"Run {record.run_id} cannot be resumed from {chosen.place.exact} with the same bits: "
        f"{'; '.join(chosen.unresumable)}.",
        hint=f"It can be resumed from {others}."
        if others
        else "Change the script as that says and start it anew with `reprokit run`; its checkpoints are kept: "
        f"`reprokit ls {record.run_id}`.",
    )


def prepared_again(run: StoredRun, runs: RunStore) -> Prepared:
    """Return a recorded run as it was prepared: the same lock, the same code."""
    kept: list[Entry] = [*run.manifest.below("code"), *kept_entries(run.manifest)]
    kept += [run.manifest[key] for key in _KEPT if key in run.manifest]
    lock = runs.lock(run)
    code = run.record.code or CodeFacts(tree=lock.code.tree)
    return Prepared(lock=lock, entries=kept, code=code, name=run.record.name)


def continued_from(run: StoredRun, checkpoint: CheckpointEntry | None, *, registry: Registry) -> Continued:
    """Return what an execution needs in order to go on with `run` from one of its checkpoints."""
    record = run.record
    manifest = registry.read_manifest(checkpoint.top_hash) if checkpoint is not None else None
    facts = facts_in(manifest.user_meta, CheckpointFacts) if manifest is not None else None
    files = {}
    for name in ("log.txt", "metrics.jsonl"):
        if name in run.manifest:
            files[name] = registry.read_object(run.manifest[name], what=f"{name} of run {record.run_id}")
    outputs = {
        entry.logical_key.removeprefix("outputs/"): registry.read_object(entry, what=entry.logical_key)
        for entry in run.manifest.below("outputs")
        if entry.size <= _MAX_OUTPUT
    }
    return Continued(
        record=record,
        collected=_collected(run, checkpoint),
        checkpoint=manifest,
        framework="" if facts is None else facts.framework,
        carried={} if facts is None else facts.carried,
        place=None if checkpoint is None else checkpoint.place,
        files=files,
        outputs=outputs,
    )


def _collected(run: StoredRun, checkpoint: CheckpointEntry | None) -> Collected:
    record = run.record
    kept: list[CheckpointEntry] = []
    if checkpoint is not None and checkpoint != record.initial:
        place = record.checkpoints.index(checkpoint)
        kept = record.checkpoints[: place + 1]
    return Collected(
        initial=record.initial,
        checkpoints=kept,
        metrics=dict(record.metrics),
        artifacts={entry.logical_key: entry for entry in run.manifest.below("artifacts")},
    )
