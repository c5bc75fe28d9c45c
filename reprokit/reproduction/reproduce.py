"""Repeat a run from nothing but the registry, compare, and keep the verdict."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import msgspec

from reprokit._version import __version__
from reprokit.comparison.compare_runs import compare_with
from reprokit.comparison.ladder import Terms
from reprokit.comparison.record_check import check_record
from reprokit.core.config import mlflow_store
from reprokit.core.progress import SILENT, Progress
from reprokit.core.secret_scan import in_arguments
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError
from reprokit.execution.execute import execute
from reprokit.execution.orders import Orders
from reprokit.locking.secret_check import refuse_secrets
from reprokit.recording.listener import DEAF, Listener
from reprokit.recording.recorder import now, recover
from reprokit.registry import Registry
from reprokit.registry.context import Context
from reprokit.registry.package_log import writer
from reprokit.reproduction.overrides import Overrides, prepare_with
from reprokit.runs.pairs import checkpoint_pairs
from reprokit.runs.store import RunStore, StoredRun
from reprokit.runs.verdict_store import VerdictStore
from reprokit.schema.lock import RunLock
from reprokit.schema.machine import Machine
from reprokit.schema.manifest import Manifest
from reprokit.schema.record import Record, RepetitionTerms
from reprokit.schema.verdict import RunLink, Verdict, VerdictRecord
from reprokit.store.packs import SMALL

__all__ = ["concluding", "orders_of", "reproduce"]

_MADE = ("outputs/", "artifacts/")  # of a run, which a repetition does not need


def reproduce(
    ref: str,
    *,
    registry: Registry | str | None = None,
    overrides: Overrides | None = None,
    command: list[str] | None = None,
    hermetic: bool = False,
    sent: bool = True,
    progress: Progress = SILENT,
    listener: Listener = DEAF,
) -> Verdict:
    """Repeat a run from nothing but the registry, keep the verdict as a version of `verdicts/<run id>`, and return it.

    Args:
        ref: The run: its ID, a unique part of it, `latest`.
        overrides: What to change; every one is listed in the verdict and forbids BITWISE.
        command: What was typed, for the verdict's record.
        hermetic: Execute it under bubblewrap, as for `run`.
        sent: Send it to MLflow, where the project says so.
    Raises:
        NotFoundError: No such run.
        EnvironmentMismatchError: This environment is not the locked one, and that one cannot be made; both are named.
        DataMismatchError: Something in the registry is corrupt, or the record contradicts what it names: its lock, the
            headers of its checkpoints, what it logged and wrote, its history. Nothing is executed then.
    """
    chosen = overrides or Overrides()
    context = Context.open(registry, progress=progress)
    store = context.registry
    recover(context.home, note=progress.note)
    original, lock = _repeatable(RunStore(store), ref)
    check_record(original, lock, store)
    refuse_secrets(in_arguments(_without_overrides(command or []), "command line"), allowed=lock.recipe.not_secret)
    prepared = prepare_with(original, lock, chosen, context=context)
    told = RepetitionTerms(until=chosen.until, tolerance=chosen.tolerance, command=command or [])
    orders = orders_of(original, lock, told, relaxed=list(chosen.relaxed), hermetic=hermetic)
    orders = replace(orders, mlflow=mlflow_store() if sent else None)
    conclude = concluding(original, (lock, prepared.lock), orders, context=context)
    recording = execute(prepared, orders, context=context, listener=listener, conclude=conclude)
    return recording.record.verdicts[-1]


def orders_of(
    original: StoredRun, lock: RunLock, told: RepetitionTerms, *, relaxed: list[str], hermetic: bool
) -> Orders:
    """Return what a repetition of `original`, which has this lock, is told beyond its own."""
    return Orders(
        reproduces=original.record.run_id, relaxed=relaxed, terms=told, until=told.until,
        at=_saved_by_clock(original, lock), hermetic=hermetic,
    )  # fmt: skip


def concluding(
    original: StoredRun, locks: tuple[RunLock, RunLock], orders: Orders, *, context: Context
) -> Callable[[Record, Manifest], Record]:
    """Return what gives the verdict on a repetition when it has ended, and keeps it.

    Args:
        locks: Of the original, and of the repetition.
    """
    told, registry = orders.terms or RepetitionTerms(), context.registry
    tolerance = told.tolerance or locks[0].recipe.tolerance
    terms = Terms(tolerance=tolerance, relaxed=orders.relaxed, until=told.until, thorough=True)

    def conclude(record: Record, manifest: Manifest) -> Record:
        with context.progress.task("Comparing", None):
            verdict = compare_with(original, StoredRun(record, manifest), locks, terms, registry=registry)
        VerdictStore(registry).add(
            VerdictRecord(
                verdict=verdict,
                original=_link(original),
                reproduction=RunLink(run_id=record.run_id, top_hash=manifest.top_hash, lock_hash=record.lock_hash),
                by=writer(),
                at=now(),
                machine=_machine(record.machine),
                command=told.command,
                tolerance={
                    "weights": {"atol": tolerance.weights.atol, "rtol": tolerance.weights.rtol},
                    "metrics": dict(tolerance.metrics),
                },
                compared=_compared(original.record, record, told.until),
                reprokit=__version__,
            )
        )
        return msgspec.structs.replace(record, verdicts=[verdict])

    return conclude


def _without_overrides(command: list[str]) -> list[str]:
    """Return a command's words but for what is overridden: that is looked into by its own names."""
    return [word for before, word in pairwise(["", *command]) if before != "--with" and not word.startswith("--with=")]


def _repeatable(runs: RunStore, ref: str) -> tuple[StoredRun, RunLock]:
    original = runs.load(ref)
    run_id = original.record.run_id
    if original.record.status == "running":
        raise RefusedError(f"Run {run_id} is still running.", hint="Wait for its end.")
    needed = [one for one in original.manifest.entries if one.size < SMALL and not one.logical_key.startswith(_MADE)]
    with contextlib.suppress(DataMismatchError, NotFoundError):  # who reads it is told, if anybody does
        runs.registry.fetch(needed, what=f"run {run_id}")
    return original, runs.lock(original)


def _link(run: StoredRun) -> RunLink:
    return RunLink(run_id=run.record.run_id, top_hash=run.manifest.top_hash, lock_hash=run.record.lock_hash)


def _machine(facts: Machine) -> dict[str, str]:
    """Return what a verdict says of the machine; the reproduction's record has the rest."""
    told = {"hostname": facts.hostname, "os": facts.os, "kernel": facts.kernel, "cpu": facts.numeric.cpu}
    return {name: value for name, value in told.items() if value}


def _compared(left: Record, right: Record, until: int | None) -> dict[str, int]:
    """Return how many things were held against each other."""
    pairs = checkpoint_pairs(left, right, until)
    outputs = [output for output in left.outputs if output.compare != "ignore"]
    return {
        "checkpoints": sum(one is not None and other is not None for _, one, other in pairs),
        "outputs": 0 if until is not None else len(outputs),
        "metrics": 0 if until is not None else len({*left.metrics, *right.metrics}),
    }


def _saved_by_clock(original: StoredRun, lock: RunLock) -> list[tuple[int, int | None]] | None:
    """Return after which batches, or epochs, the original saved because minutes had passed: a repetition does too."""
    if lock.recipe.every[1] != "minute":
        return None
    saved = [c for c in original.record.checkpoints if not c.place.is_by_chance]
    return [(c.epoch, c.batch) for c in saved if c.epoch is not None]
