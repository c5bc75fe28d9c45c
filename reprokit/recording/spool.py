"""Checkpoints on their way into a registry that is far: stored here first, and sent behind the training.

`<journal>/unsaved/<n>` are registries in folders that have them, each of a gigabyte or so; the journal says what is to
be done with each, in order (`spooled`), and what was done (`sent`). What a killed runner had not sent, the next command
sends.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from reprokit.core.atomic_files import explain_os_error
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import Error, RefusedError, RegistryError
from reprokit.packages.copy import copy_objects
from reprokit.packages.package import Package
from reprokit.recording.journal import UNSAVED, Journal
from reprokit.registry import Registry
from reprokit.registry.local import LocalRegistry
from reprokit.schema.facts import CheckpointFacts, facts_in
from reprokit.schema.manifest import Manifest

__all__ = ["Best", "Delivery", "Spool", "best_tags", "is_tagged", "publish_tagged"]

_FULL = 1024 * 1024 * 1024  # bytes in one of the folders; then the next one is begun
_MOMENT = 10.0  # seconds in which a network that was away is not asked again
_FIRST, _LONGEST = 2.0, 60.0  # seconds until it is tried again
_FAILURES = (RegistryError, OSError)


class Best(msgspec.Struct, frozen=True, kw_only=True):
    """The metric that decides which checkpoint of a package is tagged `best`, and this one's value."""

    metric: str
    value: float
    sense: Literal["min", "max"]


class Delivery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be done with a checkpoint in its registry.

    Attributes:
        place: The folder that it is in until it is published; None: it is dropped, unless a tag points at it.
        best: Tag it `best` if it is.
        note: Why it is dropped.
    """

    name: str
    top_hash: str
    place: str | None = None
    latest: bool = True
    best: Best | None = None
    note: str | None = None


def best_tags(registry: Registry, name: str, best: Best | None) -> tuple[str, ...]:
    """Return `best` if a checkpoint beats the one so tagged, over all runs of the package."""
    if best is None or best.value != best.value:
        return ()
    head = registry.head(name)
    before: float | None = None
    if head is not None and "best" in head.tags:
        facts = facts_in(registry.read_header(head.tags["best"]).get("user_meta"), CheckpointFacts)
        before = None if facts is None else facts.metrics.get(best.metric)
    if before is None or (best.value < before if best.sense == "min" else best.value > before):
        return ("best",)
    return ()


def publish_tagged(
    registry: Registry, name: str, manifest: Manifest, tags: tuple[str, ...], *, latest: bool
) -> str | None:
    """Publish a checkpoint; a tag that somebody made permanent stays where it is, which is returned in words."""
    try:
        registry.publish(name, manifest, tags=tags, latest=latest)
    except RefusedError as error:
        if not tags:
            raise
        registry.publish(name, manifest, latest=latest)
        return f"A better checkpoint was saved, and is not tagged so. {error.message}"
    return None


def is_tagged(registry: Registry, name: str, top_hash: str) -> bool:
    """True if a tag points at a version."""
    head = registry.head(name)
    return head is not None and top_hash in head.tags.values()


class Spool:
    """See the module. Safe to use from several threads.

    Attributes:
        told: Called with each event that is written to the journal.
    """

    def __init__(
        self,
        registry: Registry,
        journal: Journal,
        *,
        told: Callable[[dict[str, Any]], None] = lambda _: None,
        pending: Iterable[Delivery] = (),
    ) -> None:
        """Send to a registry.

        Args:
            pending: What is still to be done.
        """
        self._registry = registry
        self._journal = journal
        self.told = told
        self._pending = deque(pending)
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._ending = False
        self._thread: threading.Thread | None = None
        self._failed: tuple[float, Error] | None = None
        self._number = 0
        self._filled = 0
        self._rooms: dict[str, LocalRegistry] = {}
        self._open: dict[str, int] = {}
        self._refused: set[str] = set()  # folders with what the registry does not take
        self._unsure = {one.top_hash for one in self._pending}  # whoever sent it was killed before it could say so

    @classmethod
    def left(cls, registry: Registry, journal: Journal, events: Iterable[Mapping[str, Any]]) -> Spool:
        """Return what a killed runner left, by the events of its journal."""
        pending: list[Delivery] = []
        for event in events:
            with contextlib.suppress(msgspec.ValidationError):
                if event.get("event") == "spooled":
                    pending.append(msgspec.convert(event.get("delivery"), Delivery))
                elif event.get("event") == "sent":
                    done = msgspec.convert(event.get("delivery"), Delivery)
                    if done in pending:
                        pending.remove(done)
        return cls(registry, journal, pending=pending)

    @contextlib.contextmanager
    def room(self, size: int) -> Iterator[tuple[str, LocalRegistry]]:
        """Give the folder in which a checkpoint of so many bytes is kept; it stays while the context is open."""
        with self._changed:
            if self._filled > _FULL:
                self._number, self._filled = self._number + 1, 0
            self._filled += size
            place = str(self._number)
            self._open[place] = self._open.get(place, 0) + 1
        try:
            yield place, self._local(place)
        finally:
            with self._changed:
                self._open[place] -= 1

    def _local(self, place: str) -> LocalRegistry:
        if place not in self._rooms:
            self._rooms[place] = LocalRegistry(self._journal.file(UNSAVED) / place)
        return self._rooms[place]

    def _leave(self, place: str) -> None:
        """Remove a folder of which everything was sent, unless it is the one that is filled."""
        with self._changed:
            used = any(one.place == place for one in self._pending) or self._open.get(place) or place in self._refused
            if used or place == str(self._number):
                return
            self._rooms.pop(place, None)
        shutil.rmtree(self._journal.file(UNSAVED) / place, ignore_errors=True)

    @property
    def pending(self) -> int:
        """How much is still to be done."""
        return len(self._pending)

    def add(self, delivery: Delivery) -> None:
        """Do something when what came before is done."""
        self._journal.event("spooled", delivery=msgspec.to_builtins(delivery))
        with self._changed:
            self._pending.append(delivery)
            self._changed.notify_all()
            if self._thread is None and not self._ending:
                self._thread = threading.Thread(target=self._run, name="reprokit-spool", daemon=True)
                self._thread.start()

    def settle(self, progress: Progress = SILENT) -> None:
        """Do now what is still to be done.

        Raises:
            RegistryError: The registry cannot be reached, or could not a moment ago; what is left stays here.
        """
        if self._failed is not None and time.monotonic() - self._failed[0] < _MOMENT:
            raise self._failed[1]
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        with self._sending, progress.task("Sending checkpoints", len(self._pending), unit="checkpoints") as advance:
            while self._pending:
                try:
                    self._next(progress)
                except _FAILURES as error:
                    told = error if isinstance(error, Error) else explain_os_error(error, "Sending a checkpoint")
                    self._failed = time.monotonic(), told
                    raise told from error
                advance()
        if not self._refused:
            shutil.rmtree(self._journal.file(UNSAVED), ignore_errors=True)

    def _run(self) -> None:
        wait = _FIRST
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._ending)
                if self._ending:
                    return
            try:
                with self._sending:
                    if not self._ending and self._pending:
                        self._next(SILENT)
                wait = _FIRST
            except _FAILURES:  # the network is away: again, later, or at the run's end
                with self._changed:
                    self._changed.wait_for(lambda: self._ending, timeout=wait)
                wait = min(2 * wait, _LONGEST)

    def _next(self, progress: Progress) -> None:
        """Do the first thing that is to be done."""
        delivery = self._pending[0]
        try:
            self._deliver(delivery, progress)
        except _FAILURES:
            self._unsure.add(delivery.top_hash)  # it may have arrived all the same
            raise
        except Error as error:  # it will not be taken another time either
            self._event("error", text=f"{error.message}{self._kept(delivery)}")
        self._event("sent", delivery=msgspec.to_builtins(delivery))
        self._pending.popleft()
        if delivery.place is not None:
            self._leave(delivery.place)

    def _kept(self, delivery: Delivery) -> str:
        if delivery.place is None:
            return ""
        self._refused.add(delivery.place)
        place = self._journal.file(UNSAVED) / delivery.place
        bring = f"reprokit push {delivery.name}@{delivery.top_hash[:12]} {self._registry.url} --registry {place}"
        return f" The checkpoint is kept: `{bring}`."

    def _deliver(self, delivery: Delivery, progress: Progress) -> None:
        registry, name, top_hash = self._registry, delivery.name, delivery.top_hash
        if delivery.place is None:
            if top_hash in registry.top_hashes(name) and not is_tagged(registry, name, top_hash):
                registry.delete(name, top_hash, note=delivery.note)
                self._event("dropped", top_hash=top_hash)
            return
        if top_hash in self._unsure and registry.head(name) is not None and top_hash in registry.top_hashes(name):
            return
        local = self._local(delivery.place)
        package = Package(name, local.read_manifest(top_hash), local)
        bare = package.manifest.placed([""] * len(package))
        missing = registry.lacking(bare.entries)
        _, places = copy_objects(package, missing, registry, lambda _=1, /: None, progress=progress)
        placed = bare.placed([places.get(value, "") for value in bare.columns()[1]])
        tags = best_tags(registry, name, delivery.best)
        if (note := publish_tagged(registry, name, placed, tags, latest=delivery.latest)) is not None:
            self._event("note", text=note)

    def _event(self, event: str, **facts: Any) -> None:
        self._journal.event(event, **facts)
        self.told({"event": event, **facts})
