"""Runs into a store of MLflow's, by MLflow's own client; exported again, what is there is brought up to date."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reprokit.errors import RefusedError
from reprokit.recording.tracking.client import Tracking
from reprokit.recording.tracking.send import send_run
from reprokit.registry.context import Context
from reprokit.runs.store import RunStore, StoredRun

__all__ = ["SentRuns", "export_to_mlflow"]


@dataclass(frozen=True, kw_only=True)
class SentRuns:
    """What is in the store now.

    Attributes:
        store: Its address, without a password.
        runs: The runs' IDs there, by those here.
        notes: What was left out, and why.
    """

    store: str
    runs: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"store": self.store, "runs": self.runs, "notes": self.notes}


def export_to_mlflow(refs: Sequence[str], store: str, *, context: Context, experiment: str | None = None) -> SentRuns:
    """Send runs to a store of MLflow's: parameters, metrics by step, tags, small outputs, the verdict.

    Args:
        store: A folder, an SQLite file, or an address as MLflow has it.
        experiment: Where those that are new are made; that of each one's recipe unless given.
    Raises:
        NotFoundError: There is no such run.
        RefusedError: A run is one of MLflow's, that was imported.
        UsageError: MLflow's client is not installed.
        RegistryError: The store cannot be read or written.
    """
    found = [RunStore(context.registry).load(ref) for ref in refs]
    for run in found:
        _refuse_theirs(run)
    tracking = Tracking(store)
    sent = SentRuns(store=tracking.shown)
    with context.progress.task(f"Exporting to {tracking.shown}", len(found), unit="runs") as advance:
        for run in found:
            their, notes = send_run(run, tracking, registry=context.registry, experiment=experiment)
            sent.runs[run.record.run_id] = their
            sent.notes.extend(f"{run.record.run_id}: {note}" for note in notes)
            advance(1)
    return sent


def _refuse_theirs(run: StoredRun) -> None:
    if run.record.lock_hash is None and "artifacts/mlflow.json" in run.record.artifacts:
        raise RefusedError(
            f"Run {run.record.run_id} was imported from MLflow, and would be there twice.",
            hint="Export runs of recipes; MLflow's own are where they came from.",
        )
