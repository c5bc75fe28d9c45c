"""Run a recipe: lock it as it stands, store its code, execute the lock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from reprokit.client.interactive import InteractiveRun
from reprokit.core.canonical_json import canonical
from reprokit.core.config import mlflow_store
from reprokit.core.progress import SILENT, Progress
from reprokit.core.scratch import sweep
from reprokit.core.secret_scan import in_value
from reprokit.errors import InterruptedRunError, RefusedError, UsageError, UserCodeError
from reprokit.execution.execute import execute
from reprokit.execution.orders import Orders
from reprokit.locking.prepare import Choices, prepare
from reprokit.locking.secret_check import refuse_secrets
from reprokit.recording.listener import DEAF, Listener
from reprokit.recording.recorder import recover
from reprokit.registry.context import Context
from reprokit.runs.store import RunStore
from reprokit.schema.record import Record

__all__ = ["brief_failure", "raise_for_status", "run", "start_run"]


def run(
    recipe: str | Path,
    *,
    registry: str | None = None,
    reuse: bool = False,
    hermetic: bool = False,
    progress: Progress = SILENT,
    listener: Listener = DEAF,
    **choices: Unpack[Choices],
) -> Record:
    """Run a recipe and return its record, whatever became of the script: look at `record.status`.

    Args:
        registry: Address; the configured one if None.
        reuse: Return a finished run with the same lock hash, if there is one, instead of repeating it.
        hermetic: Execute it under bubblewrap: no network, no home, nothing that is not declared.
        progress: Where it is shown what is done, and how far it is.
        listener: Is told what the script writes, and of each checkpoint and epoch.
        choices: `params`, `seed`, `env`, `allow_dirty`, `in_place` and `name`; see `Choices`.
    Raises:
        Error: Before the script was started: a recipe, code, data, environment or registry that is not in order.
    """
    path = Path(recipe)
    context = Context.open(registry, folder=path.absolute().parent, progress=progress)
    progress.note(f"registry: {context.registry.url}")
    recover(context.home, note=progress.note)
    swept, freed = sweep()
    if swept:
        progress.note(f"{swept} scratch folder(s) of runs that were killed are removed: {freed / 1e6:.1f} MB.")
    prepared = prepare(path, choices, context=context)
    runs = RunStore(context.registry)
    twin = same_lock(runs, prepared.lock.hash)
    if twin is not None and reuse:
        progress.note(f"Run {twin} has the same lock: nothing was executed, this is its record.")
        return runs.load(twin).record
    if twin is not None:
        progress.note(f"Run {twin} has the same lock; --reuse returns it instead of repeating it.")
    orders = Orders(hermetic=hermetic, mlflow=mlflow_store(folder=path.absolute().parent))
    return execute(prepared, orders, context=context, listener=listener).record


def start_run(
    *, name: str = "interactive", params: Mapping[str, Any] | None = None, registry: str | None = None
) -> InteractiveRun:
    """Return what `with reprokit.start_run(name=…, params=…):` records: all that is saved and logged inside the block.

    For notebooks and consoles. Its record says that it cannot be reproduced, and why.

    Args:
        name: The run's.
        params: Its parameters, which `reprokit.params()` returns inside the block.
        registry: Address; the one configured if None.
    Raises:
        UsageError: A parameter is not JSON.
        RefusedError: A parameter looks like a secret.
    """
    return InteractiveRun(name=name, params=_json_params(params or {}), registry=registry)


def _json_params(params: Mapping[str, Any]) -> dict[str, Any]:
    try:
        canonical(dict(params))
    except (ValueError, TypeError) as error:
        raise UsageError(f"params: a value is not JSON, NaN or infinite: {error}.") from None
    refuse_secrets(in_value(dict(params), "params"))
    return dict(params)


def same_lock(runs: RunStore, lock_hash: str) -> str | None:
    """Return the newest finished run of this declared experiment, None if there is none."""
    found = None
    for summary in runs.summaries():
        if summary.lock_hash == lock_hash and summary.status == "finished":
            found = summary.run
    return found


def raise_for_status(record: Record) -> None:
    """Raise the error whose exit code tells what became of a run; nothing if it finished."""
    if record.status == "finished":
        return
    hint = f"The record is kept: `reprokit show {record.run_id}`, `reprokit logs {record.run_id}`."
    last = record.last
    if last is not None and last.unresumable:
        hint += f" It cannot be resumed from its last checkpoint: {'; '.join(last.unresumable)}."
    elif record.lock_hash and last is not None:
        hint += f" `reprokit resume {record.run_id}` goes on from its last checkpoint."
    why = brief_failure(record)
    if record.status == "interrupted":
        raise InterruptedRunError(f"Run {record.run_id} was interrupted. {why}".strip(), hint=hint)
    if record.refused:
        more = f" and {len(record.refused) - 3} more" if len(record.refused) > 3 else ""
        refused = f"{', '.join(record.refused[:3])}{more}"
        raise RefusedError(
            f"Run {record.run_id} was refused what it does not declare: {refused}. {why}".strip(),
            hint=hint,
        )
    raise UserCodeError(f"Run {record.run_id} failed. {why}".strip(), hint=hint)


def brief_failure(record: Record) -> str:
    """Return why a run failed in a line: what became of its script, and the last thing that it said."""
    first, *more = (record.failure or "").strip().splitlines() or [""]
    last = next((line.strip() for line in reversed(more) if line.strip()), None)
    return first if last is None else f"{first.rstrip('.')}: {last}"
