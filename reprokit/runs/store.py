"""Runs in a registry: find one by what a user typed, read its record, its lock, its checkpoints."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from reprokit.core.refs import RESERVED, VERDICTS, RunRef, is_run_id
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError, UsageError
from reprokit.registry import Registry
from reprokit.registry.base import Head
from reprokit.schema.facts import CheckpointFacts, RunSummary, facts_in, unpacked
from reprokit.schema.manifest import Manifest

if TYPE_CHECKING:  # what is in a record is loaded with the first: a listing reads none
    from reprokit.schema.lock import RunLock
    from reprokit.schema.record import CheckpointEntry, Record, Status

__all__ = ["CODE_PREFIX", "LOCK_KEY", "RECORD_KEY", "RunStore", "StoredRun"]

RECORD_KEY = "record.json"
LOCK_KEY = "lock.json"
CODE_PREFIX = "code/"
_PART = re.compile(r"[0-9a-f-]{4,22}")
_RECENT = re.compile(r"@\{-(\d+)\}")


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as the registry has it: the version of its package, and the record in it."""

    record: Record
    manifest: Manifest


class RunStore:
    """The packages `runs/<run id>` of a registry."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def ids(self) -> list[str]:
        """Return all run IDs, oldest first."""
        return [_run_of(head) for head in self.heads()]

    def heads(self) -> list[Head]:
        """Return how the logs of all runs end, oldest first: an ID tells the second in which it began, its log more."""
        return sorted(self.registry.heads(RESERVED), key=lambda head: (_run_of(head)[:15], head.began, head.name))

    def find(self, text: str) -> str:
        """Return the ID that `text` names: an ID, a unique prefix or suffix, `latest`, or `@{-n}` counted from the end.

        `latest` is the newest run of a recipe; where there is none, the newest of all: imported, or of a plain script.

        What is no part of an ID is a tag of a run, or else the name of one: of the newest that has it and repeats no
        other.

        Raises:
            NotFoundError: There is no such run.
            UsageError: Two runs fit.
        """
        heads = self.heads()
        ids = [_run_of(head) for head in heads]
        if text == "latest" or (recent := _RECENT.fullmatch(text)):
            back = 1 if text == "latest" else int(recent[1]) if recent else 1
            of_recipes = [_run_of(head) for head in heads if _has_recipe(head)] if text == "latest" else []
            newest = filter(self.has, [*reversed(of_recipes), *reversed(ids)])
            found_run = next(islice(newest, back - 1, None), None) if back else None
            if found_run is None:
                count = sum(head.latest is not None for head in heads)
                raise NotFoundError(f"No run {text}: {self.registry.url} has {count} run(s).")
            return found_run
        if text in ids:
            return text
        found = [run for run in ids if run.startswith(text) or run.endswith(text)] if _PART.fullmatch(text) else []
        if not found:
            found = _tagged(text, heads) or self._named(text, heads)
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

    def tag(self, ref: RunRef, name: str, *, permanent: bool = False) -> tuple[str, str]:
        """Point a tag at a run, from where it may point now, or at the version that one of its checkpoints is.

        Returns:
            The package, and its version.
        Raises:
            NotFoundError: There is no such run, or it has no such checkpoint.
            RefusedError: The tag is another run's for good.
            UsageError: It is no tag; or it would be read as a part of a run's ID.
        """
        if ref.selector is not None:
            entry = self.checkpoint(ref)
            self.registry.tag(entry.package, entry.top_hash, (name,), permanent=permanent)
            return entry.package, entry.top_hash
        if name == "latest" or _PART.fullmatch(name):
            raise UsageError(f"A run cannot be tagged {name!r}: that is how runs are asked for without tags.")
        package = f"{RESERVED}/{self.find(ref.run)}"
        top_hash = self.latest(package.partition("/")[2])
        if top_hash is None:
            raise NotFoundError(f"Run {ref.run} was deleted from {self.registry.url}.")
        others = [head.name for head in self.heads() if name in head.tags and head.name != package]
        for other in others:
            head = self.registry.head(other)
            if head is not None and name in head.permanent:
                raise RefusedError(f"{name} is run {other.partition('/')[2]} for good.", hint="Choose another tag.")
        self.registry.tag(package, top_hash, (name,), permanent=permanent)
        for other in others:  # the new one first: a reader in between finds two, and not none
            self.registry.untag(other, name)
        return package, top_hash

    def _named(self, name: str, heads: list[Head]) -> list[str]:
        """Return the newest run of a name, as a list; one that repeats another counts where there is no other."""
        own = again = None
        for head in reversed(heads):
            summary = unpacked(head.facts, RunSummary) if head.latest is not None else None
            if summary is not None and summary.name == name and summary.run == _run_of(head):
                if summary.reproduces is None:
                    own = own or summary.run
                    break
                again = again or summary.run
        found = own or again
        return [] if found is None else [found]

    def _began(self, run_id: str) -> int:
        log = self.registry.log(f"{RESERVED}/{run_id}")
        return log[0].time if log else 0

    def has(self, run_id: str) -> bool:
        return self.latest(run_id) is not None

    def latest(self, run_id: str) -> str | None:
        """Return the version that is a run's record now; None of a run that was deleted, or that never was here."""
        head = self.registry.head(f"{RESERVED}/{run_id}")
        if head is None or "latest" in head.tags:
            return None if head is None else head.tags["latest"]
        return None if head.action == "delete" else head.top_hash

    def users(self, package: str, top_hash: str) -> list[str]:
        """Return the runs that a version matters to: whose input it was, and the one that made it."""
        found = [one.run for one in self.summaries() if (package, top_hash) in one.inputs]
        maker = self.maker(package, top_hash)
        return [*found, maker] if maker is not None and self.has(maker) else found

    def needing(self, run_id: str) -> list[str]:
        """Return the runs that need the record of a run: those that repeat it, or have its outputs as an input."""
        name = f"{RESERVED}/{run_id}"
        return [
            one.run
            for one in self.summaries()
            if one.reproduces == run_id or any(package == name for package, _ in one.inputs)
        ]

    def running_with(self, top_hashes: set[str]) -> list[str]:
        """Return the runs that go on now and have one of these versions as an input."""
        return [
            one.run
            for one in self.summaries()
            if one.status == "running" and any(top_hash in top_hashes for _, top_hash in one.inputs)
        ]

    def maker(self, package: str, top_hash: str) -> str | None:
        """Return the run that made a version, as its header says (not verified); the run itself may be gone."""
        space, _, name = package.partition("/")
        if space == RESERVED:
            return name if is_run_id(name) else None
        try:
            facts = facts_in(self.registry.read_header(top_hash).get("user_meta"), CheckpointFacts)
        except (NotFoundError, DataMismatchError):
            return None
        return facts.run if facts is not None and is_run_id(facts.run) else None

    def load(self, text: str) -> StoredRun:
        """Return a run, verified. One that says it runs, but that nobody runs, reads as interrupted.

        Raises:
            NotFoundError, UsageError: As `find`.
            DataMismatchError: Its manifest or record is corrupt.
        """
        from reprokit.schema.record import Record

        run_id = text if is_run_id(text) and self.has(text) else self.find(text)
        top_hash = self.latest(run_id)
        if top_hash is None:
            raise NotFoundError(f"Run {run_id} was deleted from {self.registry.url}.")
        manifest = self.registry.read_manifest(top_hash)
        entry = manifest[RECORD_KEY]
        what = f"{RECORD_KEY} of run {run_id}"
        record = Record.decode(self.registry.read_object(entry, what=what), what=what)
        if record.run_id != run_id:
            raise DataMismatchError(f"{what} is the record of another run, {record.run_id}.")
        if record.status == "running":
            initial, checkpoints = self._scan(run_id, record.checkpoint_package)
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
        from reprokit.schema.lock import RunLock

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

    def summaries(self, heads: list[Head] | None = None) -> Iterator[RunSummary]:
        """Yield what listings show of each run, oldest first, from manifest headers (not verified).

        Where a header says nothing that could be its run's, the record is read; a run without one is left to `verify`.

        Args:
            heads: As `heads` returned them just now.
        """
        alive: dict[str, str] | None = None
        for head in self.heads() if heads is None else heads:
            if head.latest is None:
                continue
            run_id, summary = _run_of(head), unpacked(head.facts, RunSummary)
            if summary is None or summary.run != run_id:
                try:
                    summary = self.load(run_id).record.summary()
                except (DataMismatchError, NotFoundError):
                    continue
            if summary.status == "running":
                alive = self.registry.running() if alive is None else alive
                status: Status = "running" if run_id in alive else "interrupted"
                summary = msgspec.structs.replace(summary, status=status)
                with contextlib.suppress(DataMismatchError):  # which `verify` finds, and `show` says
                    _, saved = self._scan(run_id, summary.checkpoint_package)
                    summary = msgspec.structs.replace(summary, checkpoints=len(saved))
            yield summary

    def _scan(self, run_id: str, package: str | None) -> tuple[CheckpointEntry | None, list[CheckpointEntry]]:
        """Return the checkpoints of a run that did not live to list them: each names its run.

        Args:
            package: Where they are; None where the script says it, as without a recipe: then all packages are looked
                into to which something came since the run began.
        """
        from reprokit.schema.record import CheckpointEntry

        initial: CheckpointEntry | None = None
        found: dict[str, CheckpointEntry] = {}
        for name in [package] if package is not None else self._changed_since(self._began(run_id)):
            for top_hash in self.registry.top_hashes(name) if self.registry.head(name) else []:
                try:
                    header = self.registry.read_header(top_hash)
                except NotFoundError:  # dropped while we looked
                    continue
                facts = facts_in(header.get("user_meta"), CheckpointFacts, what=f"{name}@{top_hash[:8]}")
                if facts is None or facts.run != run_id:
                    continue
                entry = CheckpointEntry.of(facts, package=name, top_hash=top_hash)
                if facts.kind == "initial":
                    initial = entry
                else:
                    found.setdefault(top_hash, entry)
        return initial, list(found.values())

    def _changed_since(self, moment: int) -> Iterator[str]:
        for space in self.registry.namespaces():
            if space not in (RESERVED, VERDICTS):
                for name in self.registry.packages(space):
                    head = self.registry.head(name)
                    if head is not None and head.time >= moment:
                        yield name


def _tagged(tag: str, heads: list[Head]) -> list[str]:
    """Return the run that has a tag, as a list; while it is moved two have it, and the newer counts."""
    found = [_run_of(head) for head in heads if tag in head.tags and head.latest is not None and tag != "latest"]
    return found[-1:]


def _has_recipe(head: Head) -> bool:
    summary = unpacked(head.facts, RunSummary) if head.latest is not None else None
    return head.latest is not None and (summary is None or summary.lock_hash is not None)


def _run_of(head: Head) -> str:
    return head.name.partition("/")[2]
