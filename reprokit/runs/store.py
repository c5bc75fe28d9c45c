"""Runs in a registry: find one by what a user typed, read its record, its lock, its checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import msgspec

from reprokit.core.canonical_json import metric_values
from reprokit.core.refs import RunRef, is_run_id
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError, UsageError
from reprokit.packages.package import RESERVED
from reprokit.registry import Registry
from reprokit.schema.lock import RunLock
from reprokit.schema.manifest import Manifest
from reprokit.schema.record import CheckpointEntry, Record

__all__ = ["CODE_PREFIX", "LOCK_KEY", "RECORD_KEY", "RunStore", "StoredRun", "inputs_of"]

RECORD_KEY = "record.json"
LOCK_KEY = "lock.json"
CODE_PREFIX = "code/"
_RECENT = re.compile(r"@\{-(\d+)\}")


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as the registry has it: the version of its package, and the record in it."""

    record: Record
    manifest: Manifest


def inputs_of(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return package and top hash of each input that a summary names; it is from a header, and not verified."""
    found = summary.get("inputs")
    pairs = [item for item in found if isinstance(item, list) and len(item) == 2] if isinstance(found, list) else []
    return [
        (package, top_hash) for package, top_hash in pairs if isinstance(package, str) and isinstance(top_hash, str)
    ]


def _numbers(metrics: Any) -> dict[str, float]:
    """Return the metrics of a summary, which is not verified: only what is one."""
    found = metric_values(metrics)
    return {k: v for k, v in found.items() if isinstance(v, (int, float))} if isinstance(found, dict) else {}


class RunStore:
    """The packages `runs/<run id>` of a registry."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def ids(self) -> list[str]:
        """Return all run IDs, oldest first: an ID starts with the time."""
        return [name.partition("/")[2] for name in self.registry.packages(RESERVED)]

    def find(self, text: str) -> str:
        """Return the ID that `text` names: an ID, a unique prefix or suffix, `latest`, or `@{-n}` counted from the end.

        Raises:
            NotFoundError: There is no such run.
            UsageError: Two runs fit.
        """
        ids = self.ids()
        if text == "latest" or (recent := _RECENT.fullmatch(text)):
            back = 1 if text == "latest" else int(recent[1]) if recent else 1
            newest = filter(self.has, self._newest_first(ids))
            found_run = next(islice(newest, back - 1, None), None) if back else None
            if found_run is None:
                count = sum(map(self.has, ids))
                raise NotFoundError(f"No run {text}: {self.registry.url} has {count} run(s).")
            return found_run
        if text in ids:
            return text
        found = [run for run in ids if run.startswith(text) or run.endswith(text)]
        if not found:
            raise NotFoundError(
                f"No run {text} in {self.registry.url}.",
                hint="`reprokit ls` lists the runs; --registry or REPROKIT_REGISTRY chooses another registry.",
            )
        if len(found) > 1:
            raise UsageError(
                f"{text} is ambiguous: it fits {len(found)} runs ({', '.join(found[:4])}…).",
                hint="Give more of the ID.",
            )
        return found[0]

    def _newest_first(self, ids: list[str]) -> Iterator[str]:
        """Yield runs by when they began; an ID tells the second, the log the rest."""
        for _, same_second in groupby(reversed(ids), key=lambda run_id: run_id[:15]):
            runs = list(same_second)
            yield from runs if len(runs) == 1 else sorted(runs, key=self._began, reverse=True)

    def _began(self, run_id: str) -> int:
        log = self.registry.log(f"{RESERVED}/{run_id}")
        return log[0].time if log else 0

    def has(self, run_id: str) -> bool:
        head = self.registry.head(f"{RESERVED}/{run_id}")
        return head is not None and head.action != "delete"

    def users(self, package: str, top_hash: str) -> list[str]:
        """Return the runs that a version matters to: whose input it was, and the one that made it."""
        found = [run["run"] for run in self.summaries() if (package, top_hash) in inputs_of(run)]
        maker = self.maker(package, top_hash)
        return [*found, maker] if maker is not None and self.has(maker) else found

    def needing(self, run_id: str) -> list[str]:
        """Return the runs that need the record of a run: those that repeat it, or have its outputs as an input."""
        name = f"{RESERVED}/{run_id}"
        return [
            run["run"]
            for run in self.summaries()
            if run.get("reproduces") == run_id or any(package == name for package, _ in inputs_of(run))
        ]

    def maker(self, package: str, top_hash: str) -> str | None:
        """Return the run that made a version, as its header says (not verified); the run itself may be gone."""
        space, _, name = package.partition("/")
        if space == RESERVED:
            return name if is_run_id(name) else None
        try:
            meta = self.registry.read_header(top_hash).get("user_meta")
        except (NotFoundError, DataMismatchError):
            return None
        facts = meta.get("reprokit") if isinstance(meta, dict) else None
        made_by = facts.get("run") if isinstance(facts, dict) else None
        return made_by if isinstance(made_by, str) and is_run_id(made_by) else None

    def load(self, text: str) -> StoredRun:
        """Return a run, verified. One that says it runs, but that nobody runs, reads as interrupted.

        Raises:
            NotFoundError, UsageError: As `find`.
            DataMismatchError: Its manifest or record is corrupt.
        """
        run_id = self.find(text)
        head = self.registry.head(f"{RESERVED}/{run_id}")
        if head is None or head.action == "delete":
            raise NotFoundError(f"Run {run_id} was deleted from {self.registry.url}.")
        manifest = self.registry.read_manifest(head.top_hash)
        entry = manifest[RECORD_KEY]
        what = f"{RECORD_KEY} of run {run_id}"
        record = Record.decode(self.registry.read_object(entry, what=what), what=what)
        if record.run_id != run_id:
            raise DataMismatchError(f"{what} is the record of another run, {record.run_id}.")
        if record.status == "running":
            initial, checkpoints = self._scan(record)
            record = msgspec.structs.replace(record, initial=initial, checkpoints=checkpoints)
            if not self.registry.is_claimed(run_id):
                record = msgspec.structs.replace(record, status="interrupted")
        return StoredRun(record, manifest)

    def lock(self, run: StoredRun) -> RunLock:
        """Return the run's lock, verified against the hash that its record names.

        Raises:
            RefusedError: It has none, so that nothing can repeat it.
            DataMismatchError: It is corrupt, or was edited.
        """
        if LOCK_KEY not in run.manifest:
            raise RefusedError(
                f"Run {run.record.run_id} has no lock: it was not started from a recipe, so nothing can repeat it.",
                hint="Declare it in a recipe: `reprokit init SCRIPT`.",
            )
        entry = run.manifest[LOCK_KEY]
        what = f"{LOCK_KEY} of run {run.record.run_id}"
        lock = RunLock.decode(self.registry.read_object(entry, what=what), what=what)
        if lock.hash != run.record.lock_hash:
            raise DataMismatchError(
                f"{what} was edited: expected {str(run.record.lock_hash)[:12]}…, found {lock.hash[:12]}…."
            )
        return lock

    def find_lock(self, run: StoredRun) -> RunLock | None:
        """Return the run's lock, verified; None of a run that was not started from a recipe."""
        return self.lock(run) if LOCK_KEY in run.manifest else None

    def checkpoint(self, ref: RunRef) -> CheckpointEntry:
        """Return the checkpoint that `RUN@epoch=7` and the like name.

        Raises:
            NotFoundError: There is none, or its version was dropped as the run's recipe says.
        """
        return self.select(self.load(ref.run), ref.selector)

    def select(self, run: StoredRun, selector: str | None) -> CheckpointEntry:
        """Return one of a run's checkpoints; `best` is what its own recipe calls so."""
        lock = self.find_lock(run)
        best = lock.recipe.checkpoints.best if lock is not None else {}
        return run.record.select(selector, best=best)

    def summaries(self) -> Iterator[dict[str, Any]]:
        """Yield what listings show of each run, oldest first, from manifest headers alone (not verified)."""
        for run_id in self.ids():
            head = self.registry.head(f"{RESERVED}/{run_id}")
            if head is None or head.action == "delete":
                continue
            meta = self.registry.read_header(head.top_hash).get("user_meta")
            summary = meta.get("reprokit") if isinstance(meta, dict) else None
            if not isinstance(summary, dict) or summary.get("run") != run_id:
                continue
            if summary.get("status") == "running" and not self.registry.is_claimed(run_id):
                summary["status"] = "interrupted"
            summary["metrics"] = _numbers(summary.get("metrics"))
            yield summary

    def _scan(self, record: Record) -> tuple[CheckpointEntry | None, list[CheckpointEntry]]:
        """Return the checkpoints of a run that did not live to list them: each names its run."""
        initial: CheckpointEntry | None = None
        found: list[CheckpointEntry] = []
        name = record.checkpoint_package
        if name is None:
            return None, []
        for top_hash in self.registry.top_hashes(name) if self.registry.head(name) else []:
            meta = self.registry.read_header(top_hash).get("user_meta")
            facts = meta.get("reprokit") if isinstance(meta, dict) else None
            if not isinstance(facts, dict) or facts.get("run") != record.run_id:
                continue
            entry = msgspec.convert(
                {
                    "package": name,
                    "top_hash": top_hash,
                    **{key: facts.get(key) for key in ("state_digest", "epoch", "step", "batch")},
                    "metrics": metric_values(facts.get("metrics")),
                    "reason": facts.get("kind") if facts.get("kind") not in ("checkpoint", "initial") else None,
                },
                CheckpointEntry,
            )
            if facts.get("kind") == "initial":
                initial = entry
            elif all(other.top_hash != top_hash for other in found):
                found.append(entry)
        return initial, found
