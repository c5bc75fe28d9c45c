"""What every registry can do. Order and tags come from its log; manifests and objects are content, named by hash."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import BinaryIO, Literal, TypeVar

import msgspec

from reprokit.core.digest import Digest
from reprokit.core.progress import SILENT, Progress
from reprokit.core.refs import PackageRef
from reprokit.errors import NotFoundError, RefusedError, UsageError
from reprokit.registry.live import LiveRun
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.reader import Reader

__all__ = ["FORMAT", "Action", "Head", "LogEntry", "Registry", "Sink", "both", "side_by_side"]

FORMAT = 3
OFFLINE = "offline+"
"""Before the address of a registry behind a network: what this machine has of it."""
_AT_ONCE = 16
_T = TypeVar("_T")
_R = TypeVar("_R")


Action = Literal["publish", "tag", "rollback", "delete", "note"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One commit of a package's history.

    Attributes:
        seq: 1, 2, 3, … without gaps.
        prev: SHA-256 of the entry before, in its stored bytes; None for the first.
        action: What it does to `top_hash`: publish it, point tags at it, make it the latest again, delete it,
            or say something of it.
        top_hash: The version it is about.
        time: Nanoseconds since 1970 UTC, by the writer's clock.
        writer: user@host.
        tags: All tags after this entry: name → top hash.
        permanent: Those of the tags that never move, and whose versions cannot be deleted.
        note: Why, where somebody said so.
    """

    seq: int
    prev: str | None
    action: Action
    top_hash: str
    time: int
    writer: str
    tags: Mapping[str, str]
    permanent: tuple[str, ...] = ()
    note: str | None = None


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The end of a package's log.

    Attributes:
        name: Of the package.
        stamp: What is another one when the log has grown; "" where that is not known.
        seq: Of the newest entry.
        latest: The version that counts: the tag `latest`, or without it what the newest entry is about; None if that
            was deleted.
        began: When the first entry was written, in nanoseconds since 1970.
        facts: What the header of `latest` says that it is, `packed`; not verified.
        tags: Those of its versions, but for `latest`.
    """

    name: str
    stamp: str
    seq: int
    latest: str | None
    began: int
    facts: bytes = b""
    tags: list[str] = []


class Sink(ABC):
    """Objects on their way into a registry; durable when the context that gave it ends without an error."""

    @property
    @abstractmethod
    def new_bytes(self) -> int:
        """Bytes that were not there before."""

    @abstractmethod
    def place(self, value: str) -> str:
        """Return the physical key of a stored object by its digest's value, once the context has ended; else ""."""

    @abstractmethod
    def put_bytes(self, data: bytes | memoryview) -> tuple[Digest, int]:
        """Store an object that is in memory; return its digest and length."""

    @abstractmethod
    def put_all(self, pieces: Sequence[bytes | memoryview]) -> list[Digest]:
        """Store many objects at once."""

    @abstractmethod
    def put_hashed(self, digest: Digest, parts: Sequence[memoryview], size: int) -> None:
        """Store an object in memory, given in parts, whose digest the caller has computed from these very bytes."""

    @abstractmethod
    def put_stream(self, source: BinaryIO, size: int, *, threads: int = 2) -> tuple[Digest, int]:
        """Store a stream of `size` bytes; return the digest and the number of bytes that came, one more if it grew.

        Args:
            threads: That hash beside the caller's; 1 hashes on the caller's own.
        """

    @abstractmethod
    def put_known(self, source: BinaryIO, digest: Digest, size: int, *, what: str) -> None:
        """Store a stream that must have this digest, as when an object comes from another registry."""


def side_by_side(action: Callable[[_T], _R], items: Sequence[_T], registry: Registry) -> list[_R]:
    """Return what an action gives for each item, in their order; side by side where each waits for a network."""
    if not registry.is_far or len(items) < 2:
        return [action(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor  # with `logging`, which a look does not pay for

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="reprokit-look") as pool:
        return list(pool.map(action, items))


def both(one: Callable[[], _T], other: Callable[[], _R], registry: Registry) -> tuple[_T, _R]:
    """Return what two look up, as `side_by_side`."""
    if not registry.is_far:
        return one(), other()
    from concurrent.futures import ThreadPoolExecutor  # with `logging`, which a look does not pay for

    with ThreadPoolExecutor(1, thread_name_prefix="reprokit-look") as pool:
        later = pool.submit(other)
        return one(), later.result()


class Registry(ABC):
    """A place that holds packages. One contract test class covers every implementation."""

    url: str
    is_far = False
    """Whether what is written waits for a network."""

    def expect_writes(self) -> None:  # noqa: B027
        """Begin what comes before the first write, where that waits for a network; what fails is told by the write."""

    @abstractmethod
    def staging(self, *, progress: Progress = SILENT) -> AbstractContextManager[Sink]:
        """Open a sink for new objects.

        Args:
            progress: Where it is shown how they are sent, if they are to go far.
        """

    @abstractmethod
    def has_object(self, digest: Digest, size: int) -> bool: ...

    def lacking(self, entries: Iterable[Entry]) -> list[Entry]:
        """Return the entries whose objects are not there, one for each object; no byte of them is read."""
        every: dict[tuple[Digest, int], Entry] = {}
        for entry in entries:
            every.setdefault((entry.digest, entry.size), entry)
        return [entry for entry in every.values() if not self.has_object(entry.digest, entry.size)]

    @abstractmethod
    def read_object(self, entry: Entry, *, what: str) -> bytes:
        """Return an entry's bytes, verified."""

    @abstractmethod
    def copy_object(self, entry: Entry, sink: BinaryIO | None, *, what: str) -> None:
        """Copy an entry's bytes, verified on the way; None for `sink` only verifies."""

    def fetch(self, entries: Iterable[Entry], *, what: str, progress: Progress = SILENT) -> None:  # noqa: B027
        """Bring near what is about to be read, many at once; a registry in a folder has nothing to do.

        Raises:
            DataMismatchError, NotFoundError, RegistryError: An object is corrupt, missing, or cannot be read.
        """

    def fetch_versions(self, top_hashes: Iterable[str]) -> None:  # noqa: B027
        """Bring near the manifests that are about to be read, many at once; who reads one is told what is wrong."""

    def reader(self, manifest: Manifest, *, what: str, anew: bool = False) -> Reader:  # noqa: ARG002
        """Return what reads many entries of a version by their position.

        Args:
            anew: From where the registry lies, whatever of it is near.
        """
        return Reader(self.read_object, manifest, what=what)

    @abstractmethod
    def read_range(self, entry: Entry, offset: int, length: int, *, what: str) -> bytes:
        """Return part of an entry's bytes, unverified."""

    is_offline = False
    """Whether it is without the network, and what is written is sent later."""

    def check_online(self, what: str) -> None:
        """Raise RefusedError if something is asked for that only the network can do."""
        if self.is_offline:
            raise RefusedError(f"{what} needs the network.", hint="Leave --offline and REPROKIT_OFFLINE out.")

    @abstractmethod
    def recall(self, source: str) -> bytes | None:
        """Return what `remember` kept of a folder that versions are built from, if it is still known."""

    @abstractmethod
    def remember(self, source: str, facts: bytes) -> None:
        """Keep facts about a folder on this machine; they may be lost at any time."""

    @abstractmethod
    def read_manifest(self, top_hash: str) -> Manifest:
        """Return a version, verified; raise NotFoundError if it is not there."""

    @abstractmethod
    def holds(self, manifest: Manifest) -> bool:
        """True if the version and all its objects are there, by their names; no byte of them is read."""

    @abstractmethod
    def read_header(self, top_hash: str) -> dict[str, object]:
        """Return a version's header alone: for listings, and not verified."""

    def listing(self, top_hash: str) -> object:
        """Return what two versions that list the same files have equal, for a look at many; not verified everywhere."""
        return self.read_manifest(top_hash).entries

    @abstractmethod
    def publish(
        self,
        name: str,
        manifest: Manifest,
        *,
        tags: tuple[str, ...] = (),
        latest: bool = True,
        note: str | None = None,
    ) -> LogEntry:
        """Store the manifest, then commit it to the log with `tags` and, if `latest`, that tag pointing at it.

        Raises:
            NotFoundError: An object that the manifest names is not in the registry.
            RefusedError: A tag is permanent and points elsewhere.
        """

    @abstractmethod
    def tag(self, name: str, top_hash: str, tags: tuple[str, ...], *, permanent: bool = False) -> LogEntry:
        """Point tags at a version that the log knows; permanent ones never move again.

        Raises:
            RefusedError: A tag is permanent and points elsewhere.
        """

    @abstractmethod
    def untag(self, name: str, tag: str) -> LogEntry:
        """Take a tag away.

        Raises:
            RefusedError: It is permanent, or `latest`.
        """

    @abstractmethod
    def rollback(self, name: str, top_hash: str, *, note: str | None = None) -> LogEntry:
        """Make an older version the latest again; what came after it stays in the history."""

    @abstractmethod
    def delete(self, name: str, top_hash: str, *, note: str | None = None) -> LogEntry:
        """Take a version out of a package; its bytes stay until gc finds that nothing uses them.

        Raises:
            RefusedError: A permanent tag points at it.
        """

    @abstractmethod
    def note(self, name: str, text: str) -> LogEntry:
        """Write something about a package into its log; nothing else changes.

        Raises:
            NotFoundError: No such package.
        """

    @abstractmethod
    def head(self, name: str) -> LogEntry | None:
        """Return the newest log entry of a package, None if there is no such package."""

    @abstractmethod
    def log(self, name: str) -> list[LogEntry]:
        """Return the whole log, oldest first, its chain of digests verified."""

    @abstractmethod
    def top_hashes(self, name: str) -> list[str]:
        """Return the versions of a package, oldest first, without deleted ones and without verifying the chain."""

    @abstractmethod
    def heads(self, namespace: str) -> list[Head]:
        """Return how the logs of a namespace end, sorted by name: for listings, and no more verified than headers."""

    def tidy(self) -> None:  # noqa: B027
        """Do what keeps listings quick; it may be left undone at any time."""

    def damage(self, *, progress: Progress = SILENT) -> list[str]:  # noqa: ARG002
        """Return, in sentences, what is wrong with what objects are stored in, used by a version or not."""
        return []

    def lost(self) -> list[str]:
        """Return, in sentences, which packages this machine saw here that are not there any more."""
        return []

    @abstractmethod
    def packages(self, namespace: str | None = None) -> Iterator[str]:
        """Yield package names, sorted."""

    def namespaces(self) -> list[str]:
        """Return the namespaces of packages, sorted."""
        return sorted({name.partition("/")[0] for name in self.packages()})

    @abstractmethod
    def claim(self, run_id: str) -> AbstractContextManager[str]:
        """Hold the sign that a run is alive, for as long as the context is open and this process lives.

        The context gives the sign's name, by which `release` knows it.

        Raises:
            RefusedError: Somebody holds it; who that is, if it can be told.
        """

    def release(self, run_id: str, sign: str) -> None:  # noqa: B027
        """Take back a sign whose holder is known to be dead; one that goes with its holder needs nothing.

        Args:
            sign: Its name; the sign of who has taken the run over since has another.
        """

    @abstractmethod
    def is_claimed(self, run_id: str) -> bool:
        """True while somebody holds the sign."""

    def live(self, run_id: str) -> LiveRun | None:  # noqa: ARG002
        """Return where is told how far a run is; None where nothing can be told."""
        return None

    def running(self) -> dict[str, str]:
        """Return the runs whose sign of life somebody holds: who that is, by run ID. It is what they say."""
        return {}

    def resolve(self, ref: PackageRef) -> str:
        """Return the top hash that a reference names.

        Raises:
            NotFoundError: No such package, tag or version.
            UsageError: A hash prefix matches two versions.
        """
        head = self.head(ref.name)
        if head is None or not (head.tags or self.top_hashes(ref.name)):
            raise NotFoundError(f"No package {ref.name} in {self.url}.", hint=self._did_you_mean(ref.name))
        if ref.hash is None:
            tag = ref.tag or "latest"
            if tag not in head.tags:
                known = f"Its tags are: {', '.join(sorted(head.tags))}." if head.tags else "It has no tags."
                raise NotFoundError(f"No tag {tag!r} on {ref.name} in {self.url}.", hint=known)
            return head.tags[tag]
        matches = sorted(hash_ for hash_ in self.top_hashes(ref.name) if hash_.startswith(ref.hash))
        if not matches:
            raise NotFoundError(
                f"No version of {ref.name} starts with {ref.hash} in {self.url}.",
                hint=f"`reprokit log {ref.name}` lists its versions.",
            )
        if len(matches) > 1:
            shown = ", ".join(hash_[:16] for hash_ in matches[:4])
            raise UsageError(
                f"{ref.name}@{ref.hash} is ambiguous: {len(matches)} versions start with it ({shown}…).",
                hint="Give more digits of the hash.",
            )
        return matches[0]

    def _did_you_mean(self, name: str) -> str:
        close = get_close_matches(name, list(self.packages()), n=1)
        if close:
            return f"Did you mean {close[0]}? `reprokit ls` lists all."
        return "`reprokit ls` lists the packages; --registry or REPROKIT_REGISTRY chooses another registry."
