"""Resume a run that was stopped: the same run ID, the same lock, on from one of its checkpoints."""

from __future__ import annotations

from dataclasses import replace

from reprokit.core.config import Config
from reprokit.core.progress import SILENT, Progress
from reprokit.core.refs import parse_run
from reprokit.environment.vault import kept_entries, open_vault
from reprokit.errors import RefusedError
from reprokit.execution.execute import execute
from reprokit.execution.orders import Continued, Orders
from reprokit.execution.script_process import Echo
from reprokit.execution.workspace import find_outputs
from reprokit.locking.prepared import Prepared
from reprokit.locking.recipe_lock import ready_for
from reprokit.recording.checkpoint_saver import Collected, Observer
from reprokit.recording.recorder import recover
from reprokit.registry import Registry, open_registry
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.manifest import Entry
from reprokit.schema.record import CheckpointEntry, CodeFacts, Record

__all__ = ["continued_from", "prepared_again", "resume"]

_KEPT = ("code.patch", "recipe.yaml")
_MAX_OUTPUT = 1024 * 1024 * 1024


def resume(
    run: str,
    *,
    registry: str | None = None,
    progress: Progress = SILENT,
    observer: Observer | None = None,
    echo: Echo | None = None,
) -> Record:
    """Go on with an interrupted or failed run and return its record, whatever becomes of the script.

    Args:
        run: Which run, and if not from the last one, from which of its checkpoints: `RUN@epoch=3`.
    Raises:
        RefusedError: The run finished, still runs, was not started from a recipe, or repeats another one.
        EnvironmentMismatchError: The environment here is not the locked one, and that one cannot be made.
        NotFoundError: No such run or checkpoint, or its version was dropped.
    """
    config = Config.load(registry=registry)
    store = open_registry(config.registry)
    recover(config.home)
    ref = parse_run(run)
    runs = RunStore(store)
    found = runs.load(ref.run)
    _check(found)
    lock = runs.lock(found)
    ready = ready_for(
        lock.environment, cache=config.cache, what=f"run {found.record.run_id}",
        vault=open_vault(found.manifest, store), image=lock.recipe.image, progress=progress,
    )  # fmt: skip
    best = lock.recipe.checkpoints.best
    chosen = found.record.select(ref.selector, best=best) if ref.selector else last_checkpoint(found.record)
    left = config.home / "runs" / found.record.run_id / "workspace"
    continued = continued_from(found, chosen, registry=store)
    if left.is_dir():
        files = {name: file for _, name, file in find_outputs(lock.recipe.declared_outputs, left) if file is not None}
        outputs = {name: file.read_bytes() for name, file in files.items() if file.stat().st_size <= _MAX_OUTPUT}
        continued = replace(continued, outputs=outputs)
    progress.note(f"Run {found.record.run_id} goes on from {continued.where}.")
    prepared = replace(prepared_again(found, runs), python=ready.python, container=ready.container)
    orders = Orders(continues=continued)
    return execute(
        prepared, orders, config=config, registry=store, progress=progress, observer=observer, echo=echo
    ).record


def _check(run: StoredRun) -> None:
    record = run.record
    if record.status == "running":
        raise RefusedError(f"Run {record.run_id} is still running.", hint="Wait for its end, or stop it.")
    if record.status == "finished":
        raise RefusedError(
            f"Run {record.run_id} has finished: there is nothing left to resume.",
            hint="To train on from its result, declare it as an input: `data: {base: {run: RUN@last, path: base}}`.",
        )
    if record.reproduces is not None:
        raise RefusedError(
            f"Run {record.run_id} repeats run {record.reproduces}; an interrupted repetition proves nothing.",
            hint=f"Start another: `reprokit reproduce {record.reproduces}`.",
        )


def last_checkpoint(record: Record) -> CheckpointEntry | None:
    """Return the last checkpoint that a run can go on from; the initial state, or None, if it has none."""
    usable = [entry for entry in record.checkpoints if entry.reason != "exception" and not entry.dropped]
    return usable[-1] if usable else record.initial


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
    facts = manifest.user_meta.get("reprokit") if manifest is not None else None
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
        framework=str(facts.get("framework")) if isinstance(facts, dict) else "",
        where=_where(record, checkpoint),
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


def _where(record: Record, checkpoint: CheckpointEntry | None) -> str:
    if checkpoint is None:
        return "the beginning"
    if checkpoint == record.initial:
        return "its initial state"
    place = f"epoch {checkpoint.epoch}" if checkpoint.epoch is not None else "its last checkpoint"
    return f"{place}, step {checkpoint.step}" if checkpoint.step is not None else place
