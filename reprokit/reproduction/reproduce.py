"""Repeat a run from nothing but the registry, compare, and keep the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from reprokit._version import __version__
from reprokit.comparison.compare_runs import compare_with
from reprokit.core.config import Config
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import RefusedError
from reprokit.execution.execute import execute
from reprokit.execution.orders import Orders
from reprokit.execution.script_process import Echo
from reprokit.recording.checkpoint_saver import Observer
from reprokit.recording.recorder import now, recover
from reprokit.registry import open_registry
from reprokit.registry.package_log import writer
from reprokit.reproduction.overrides import Overrides, prepare_with
from reprokit.runs.pairs import checkpoint_pairs
from reprokit.runs.store import RunStore, StoredRun
from reprokit.runs.verdict_store import VerdictStore
from reprokit.schema.lock import RunLock
from reprokit.schema.manifest import Manifest
from reprokit.schema.record import Record
from reprokit.schema.verdict import RunLink, Verdict, VerdictRecord

__all__ = ["reproduce"]


def reproduce(
    ref: str,
    *,
    registry: str | None = None,
    overrides: Overrides | None = None,
    command: list[str] | None = None,
    progress: Progress = SILENT,
    observer: Observer | None = None,
    echo: Echo | None = None,
) -> Verdict:
    """Repeat a run from nothing but the registry, keep the verdict as a version of `verdicts/<run id>`, and return it.

    Args:
        ref: The run: its ID, a unique part of it, `latest`.
        overrides: What to change; every one is listed in the verdict and forbids BITWISE.
        command: What was typed, for the verdict's record.
    Raises:
        NotFoundError: No such run.
        EnvironmentMismatchError: This environment is not the locked one, and that one cannot be made; both are named.
        DataMismatchError: Something in the registry is corrupt.
    """
    chosen = overrides or Overrides()
    config = Config.load(registry=registry)
    store = open_registry(config.registry)
    recover(config.home)
    original, lock = _repeatable(RunStore(store), ref)
    prepared = prepare_with(original, lock, chosen, registry=store, cache=config.cache, progress=progress)
    relaxed = list(chosen.relaxed)
    tolerance = chosen.tolerance or lock.recipe.tolerance

    def conclude(record: Record, manifest: Manifest) -> Record:
        with progress.task("Comparing", None):
            verdict = compare_with(
                original, StoredRun(record, manifest), lock, prepared.lock,
                registry=store, tolerance=tolerance, relaxed=relaxed, until=chosen.until,
            )  # fmt: skip
        VerdictStore(store).add(
            VerdictRecord(
                verdict=verdict,
                original=_link(original),
                reproduction=RunLink(run_id=record.run_id, top_hash=manifest.top_hash, lock_hash=record.lock_hash),
                by=writer(),
                at=now(),
                machine=_machine(record.machine),
                command=command or [],
                tolerance={
                    "weights": {"atol": tolerance.weights.atol, "rtol": tolerance.weights.rtol},
                    "metrics": dict(tolerance.metrics),
                },
                compared=_compared(original.record, record, chosen.until),
                reprokit=__version__,
            )
        )
        return msgspec.structs.replace(record, verdicts=[verdict])

    orders = Orders(
        reproduces=original.record.run_id, relaxed=relaxed, until=chosen.until, at=_saved_by_clock(original, lock)
    )
    recording = execute(
        prepared,
        orders,
        config=config,
        registry=store,
        progress=progress,
        observer=observer,
        echo=echo,
        conclude=conclude,
    )
    return recording.record.verdicts[-1]


def _repeatable(runs: RunStore, ref: str) -> tuple[StoredRun, RunLock]:
    original = runs.load(ref)
    run_id = original.record.run_id
    if original.record.status == "running":
        raise RefusedError(f"Run {run_id} is still running.", hint="Wait for its end.")
    return original, runs.lock(original)


def _link(run: StoredRun) -> RunLink:
    return RunLink(run_id=run.record.run_id, top_hash=run.manifest.top_hash, lock_hash=run.record.lock_hash)


def _machine(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return what a verdict says of the machine; the reproduction's record has the rest."""
    numeric = facts.get("numeric")
    cpu = numeric.get("cpu") if isinstance(numeric, dict) else None
    told = {"hostname": facts.get("hostname"), "os": facts.get("os"), "kernel": facts.get("kernel"), "cpu": cpu}
    return {name: str(value) for name, value in told.items() if value is not None}


def _compared(left: Record, right: Record, until: int | None) -> dict[str, int]:
    """Return how many things were held against each other."""
    pairs = checkpoint_pairs(left, right, until)
    outputs = [output for output in left.outputs if output.compare != "ignore"]
    return {
        "checkpoints": sum(one is not None and other is not None for _, one, other in pairs),
        "outputs": 0 if until is not None else len(outputs),
        "metrics": 0 if until is not None else len({*left.metrics, *right.metrics}),
    }


def _saved_by_clock(original: StoredRun, lock: RunLock) -> list[tuple[int, int]] | None:
    """Return after which batches the original saved because minutes had passed: a repetition saves there too."""
    if lock.recipe.every[1] != "minute":
        return None
    saved = [c for c in original.record.checkpoints if c.reason is None]
    return [(c.epoch, c.batch) for c in saved if c.epoch is not None and c.batch is not None]
