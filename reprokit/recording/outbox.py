"""Sends what was published without the network, in the order in which it was published.

Each commit is made once more in the registry itself, on top of what others committed meanwhile: versions and deletions
as they were, and tags where nobody moved them. What was sent is noted, so that a kill loses nothing and repeats little.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from reprokit.core.atomic_files import os_errors
from reprokit.core.progress import SILENT, Progress
from reprokit.core.refs import PackageRef
from reprokit.core.regular_files import open_lock
from reprokit.errors import DataMismatchError, Error, NotFoundError, RefusedError
from reprokit.packages.copy import copy_objects
from reprokit.packages.package import Package
from reprokit.recording.spool import Best, best_tags, publish_tagged
from reprokit.registry import Registry, open_registry
from reprokit.registry.base import LogEntry
from reprokit.registry.remote.offline import SENT, OfflineRegistry, unsent
from reprokit.registry.stored import StoredRegistry
from reprokit.runs.store import RunStore
from reprokit.schema.facts import CheckpointFacts, facts_in

__all__ = ["send_unsent"]

_LATEST, _BEST = "latest", "best"


def send_unsent(
    home: Path, cache: Path, *, note: Callable[[str], None] = lambda _: None, progress: Progress = SILENT
) -> int:
    """Send what was published offline from this home; return how many commits were sent.

    What cannot be sent now is noted, and stays for the next time.
    """
    sent = 0
    for address, folder in unsent(home):
        with _alone(folder) as alone:
            if not alone:  # somebody writes to it, or sends it
                continue
            try:
                sent += _send(address, folder, cache=cache, home=home, note=note, progress=progress)
            except (Error, OSError) as error:
                why = error.message if isinstance(error, Error) else str(error)
                note(f"What was published offline is still to be sent to {address} ({folder}): {why}")
    return sent


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    try:
        handle = open_lock(folder / "lock")
    except (OSError, Error):
        yield False
        return
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _send(
    address: str, folder: Path, *, cache: Path, home: Path, note: Callable[[str], None], progress: Progress
) -> int:
    source = OfflineRegistry(address, cache=cache, home=home)
    if source.folder != folder:
        raise DataMismatchError(f"{address} is another registry now.", hint="Nothing of it was sent.")
    target = open_registry(address, cache=cache, offline=False)
    if not isinstance(target, StoredRegistry) or target.uuid != folder.name:
        raise DataMismatchError(f"{address} is not the registry {folder.name} any more.")
    done = _sent(folder / SENT)
    waiting = [one for one in _commits(source) if (one[0], one[1].seq) not in done]
    with progress.task(f"Sending to {address}", len(waiting), unit="commits") as advance:
        for name, entry, before in waiting:
            try:
                for told in _repeat(name, entry, before, source, target, progress):
                    note(told)
            except (NotFoundError, RefusedError) as error:
                if entry.action == "publish":  # what is not there yet is not given up
                    raise
                note(f"What was done offline to {name} ({entry.action}) cannot be done any more: {error.message}")
            with os_errors(f"Noting what was sent to {address}"), (folder / SENT).open("a", encoding="utf-8") as file:
                file.write(f"{name} {entry.seq}\n")
            advance()
    target.tidy()
    with os_errors(f"Removing {folder}"):
        for child in sorted(folder.iterdir(), key=lambda path: path.name == SENT):  # the note of it last
            if child.name != "lock":
                shutil.rmtree(child) if child.is_dir() else child.unlink()
    if waiting:
        note(f"{len(waiting):,} commit(s) that were made offline are in {address} now.")
    return len(waiting)


def _sent(file: Path) -> set[tuple[str, int]]:
    found = set()
    with suppress(FileNotFoundError):
        for line in file.read_text(encoding="utf-8").splitlines():
            name, _, seq = line.partition(" ")
            if seq.isdigit():
                found.add((name, int(seq)))
    return found


def _commits(source: OfflineRegistry) -> list[tuple[str, LogEntry, Mapping[str, str]]]:
    """Return what was committed offline, oldest first, each with the tags that it found."""
    own = source.unsent_entries()
    commits = []
    for name, seqs in own.items():
        for seq in seqs:
            entry = source.history.entry(name, seq)
            if entry is not None:
                before = source.history.entry(name, seq - 1) if seq > 1 else None
                commits.append((name, entry, before.tags if before is not None else {}))
    return sorted(commits, key=lambda one: (one[1].time, one[0], one[1].seq))


def _repeat(
    name: str, entry: LogEntry, before: Mapping[str, str], source: Registry, target: Registry, progress: Progress
) -> Iterator[str]:
    """Make a commit in the registry itself, and yield what of it is other there."""
    head = target.head(name)
    there = head.tags if head is not None else {}
    own = {_LATEST, _BEST} if entry.action == "publish" else set()  # these are decided anew
    moved = {tag for tag, top_hash in entry.tags.items() if before.get(tag) != top_hash}
    free = {tag for tag in moved if there.get(tag) in (before.get(tag), entry.tags[tag])}
    for tag in sorted(moved - free - own):
        now = f"stays at {there[tag][:12]}" if tag in there else "is gone"
        yield f"The tag {tag!r} of {name} was moved by somebody else meanwhile, and {now}."
    if entry.action == "publish":
        if entry.top_hash in target.top_hashes(name):  # it was there before, or whoever sent it was killed
            if missing_tags := sorted(tag for tag in free - {_BEST} if there.get(tag) != entry.top_hash):
                target.tag(name, entry.top_hash, tuple(missing_tags))
            return
        package = Package.open(PackageRef(name, hash=entry.top_hash), registry=source)
        missing = target.lacking(package.manifest.entries)
        copy_objects(package, missing, target, lambda _=1, /: None, progress=progress)
        tags = (free - own) | set(_best(package, source, target) if _BEST in moved else ())
        latest = entry.tags.get(_LATEST) == entry.top_hash
        told = publish_tagged(target, name, package.manifest, tuple(sorted(tags)), latest=latest)
        if told is not None:
            yield told
    elif entry.action == "tag":
        gone = [tag for tag in before if tag not in entry.tags and there.get(tag) == before[tag]]
        if free:
            for_good = free & set(entry.permanent)
            for some, permanent in ((free - for_good, False), (for_good, True)):
                if some:
                    target.tag(name, entry.top_hash, tuple(sorted(some)), permanent=permanent)
        for tag in gone:
            target.untag(name, tag)
    elif entry.action == "rollback":
        target.rollback(name, entry.top_hash, note=entry.note)
    elif entry.action == "note":
        if head is None or head.action != "note" or head.note != entry.note:
            target.note(name, entry.note or "")
    elif entry.top_hash in target.top_hashes(name):
        target.delete(name, entry.top_hash, note=entry.note)


def _best(package: Package, source: Registry, target: Registry) -> tuple[str, ...]:
    """Return `best` if a checkpoint is the best by its own run's recipe, of all that are there."""
    facts = facts_in(package.manifest.user_meta, CheckpointFacts)
    if facts is None or facts.run is None:
        return ()
    runs = RunStore(source)
    with suppress(NotFoundError):
        lock = runs.find_lock(runs.load(facts.run))
        wanted = lock.recipe.checkpoints.best if lock is not None and lock.recipe.checkpoints is not None else {}
        for metric, sense in [*wanted.items()][:1]:
            if metric in facts.metrics:
                return best_tags(target, package.name, Best(metric=metric, value=facts.metrics[metric], sense=sense))
    return ()
