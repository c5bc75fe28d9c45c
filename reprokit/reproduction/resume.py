"""Resume a run, or a repetition of one: then its verdict is given at the end, on the terms that it was begun on."""

from __future__ import annotations

from reprokit.core.progress import SILENT, Progress
from reprokit.execution.orders import Orders
from reprokit.execution.resume import Conclude
from reprokit.execution.resume import resume as resume_run
from reprokit.recording.listener import DEAF, Listener
from reprokit.registry import Registry
from reprokit.registry.context import Context
from reprokit.reproduction.reproduce import concluding, orders_of
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.record import Record, RepetitionTerms

__all__ = ["resume"]


def resume(
    run: str,
    *,
    registry: Registry | str | None = None,
    hermetic: bool = False,
    progress: Progress = SILENT,
    listener: Listener = DEAF,
) -> Record:
    """Go on with an interrupted or failed run, or repetition, and return its record.

    As `reprokit.execution.resume.resume`, which refuses repetitions. The record of one has its verdict.

    Raises:
        NotFoundError: Of a repetition, the run that it repeats is not here.
    """
    return resume_run(
        run, registry=registry, hermetic=hermetic, progress=progress, listener=listener, repetition=_repetition
    )


def _repetition(found: StoredRun, context: Context) -> tuple[Orders, Conclude]:
    record, runs = found.record, RunStore(context.registry)
    original = runs.load(str(record.reproduces))
    lock, own = runs.lock(original), runs.lock(found)
    hermetic = record.execution is not None and record.execution.hermetic
    orders = orders_of(original, lock, record.terms or RepetitionTerms(), relaxed=record.relaxed, hermetic=hermetic)
    return orders, concluding(original, (lock, own), orders, context=context)
