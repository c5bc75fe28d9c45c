"""Send a stored run to MLflow: what its record says, what it logged, its small outputs, the verdict on it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from reprokit.core.canonical_json import metric_values
from reprokit.core.logical_keys import safe_join
from reprokit.recording.tracking.client import Tracked, Tracking
from reprokit.recording.tracking.tags import verdict_tags
from reprokit.registry import Registry
from reprokit.runs.logged import logged_rows
from reprokit.runs.store import RunStore, StoredRun
from reprokit.runs.verdict_store import VerdictStore
from reprokit.schema.manifest import Entry
from reprokit.schema.metric_log import METRICS_KEY

__all__ = ["send_run", "send_verdicts"]

_FOLDERS = ("outputs/", "artifacts/")
_LARGE = 10_000_000  # bytes of a file that stays in the registry
_METRICS_TAG = "reprokit.metrics"  # which log of metrics is there as a whole


def send_run(
    run: StoredRun,
    tracking: Tracking,
    *,
    registry: Registry,
    experiment: str | None = None,
    tracked: Tracked | None = None,
) -> tuple[str, list[str]]:
    """Send what a store of MLflow's does not have of a run; return its ID there, and what was left out.

    Args:
        experiment: Where it is made if it is new; the recipe's name unless given.
        tracked: The run there, if it is known.
    """
    record, notes = run.record, list[str]()
    lock = RunStore(registry).find_lock(run)
    names = tracked.names if tracked is not None else None
    known = tracked.known if tracked is not None else {}
    tracked = tracking.begin(record, lock, experiment=experiment)
    tracked.known |= known
    tracked.names = names or tracked.names
    entry = run.manifest.by_key.get(METRICS_KEY)
    if entry is not None and tracked.tags.get(_METRICS_TAG) != entry.digest.hex:
        rows = logged_rows(entry, registry, what=f"{METRICS_KEY} of run {record.run_id}")
        tracking.log(tracked, ({**row, "values": metric_values(row["values"])} for row in rows))
        tracking.tag(tracked, {_METRICS_TAG: entry.digest.hex})
    notes += [f"{name!r} is {told!r} there" for name, told in tracked.names.changed.items()]
    notes += _send_files(run, tracked, tracking, registry)
    tracking.end(tracked, record)
    send_verdicts(record.run_id, tracking, registry=registry, tracked=tracked)
    if record.reproduces is not None:
        send_verdicts(record.reproduces, tracking, registry=registry)
    return tracked.id, notes


def send_verdicts(run_id: str, tracking: Tracking, *, registry: Registry, tracked: Tracked | None = None) -> None:
    """Set the tags that say what was found of a run's repetitions, where it is in the store."""
    tags = verdict_tags(VerdictStore(registry).of(run_id))
    tracked = tracked or (tracking.find(run_id) if tags else None)
    if tracked is not None:
        tracking.tag(tracked, tags)


def _send_files(run: StoredRun, tracked: Tracked, tracking: Tracking, registry: Registry) -> list[str]:
    """Send the outputs and artifacts that are small and not there; return the names of the others."""
    notes = []
    sizes: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory(prefix="reprokit-") as scratch:
        for entry in run.manifest.entries:
            if not entry.logical_key.startswith(_FOLDERS):
                continue
            if entry.size > _LARGE:
                notes.append(f"{entry.logical_key} has {entry.size:,} bytes, and stays in the registry")
                continue
            folder = entry.logical_key.rpartition("/")[0]
            if folder not in sizes:
                sizes[folder] = {} if tracked.new else tracking.sizes(tracked, folder)
            if sizes[folder].get(entry.logical_key) != entry.size:
                tracking.keep(tracked, _written(entry, Path(scratch), run.record.run_id, registry), folder)
    return notes


def _written(entry: Entry, scratch: Path, run_id: str, registry: Registry) -> Path:
    file = safe_join(scratch, entry.logical_key)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as sink:
        registry.copy_object(entry, sink, what=f"{entry.logical_key} of run {run_id}")
    return file
