"""What every registry can do. Order and tags come from its log; manifests and objects are content, named by hash."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import BinaryIO

from reprokit.digest import Digest
from reprokit.errors import NotFoundError, UsageError
from reprokit.manifest import Manifest
from reprokit.refs import PackageRef

__all__ = ["FORMAT", "LogEntry", "Registry", "Sink"]

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One commit of a package's history.

    Attributes:
        seq: 1, 2, 3, … without gaps.
        prev: SHA-256 of the entry before, in its stored bytes; None for the first.
        top_hash: The version this entry publishes or re-tags.
        time: Nanoseconds since 1970 UTC, by the writer's clock.
        writer: user@host.
        tags: All tags after this entry: name → top hash.
    """

    seq: int
    prev: str | None
    top_hash: str
    time: int
    writer: str
    tags: Mapping[str, str]


class Sink(ABC):
    """Objects on their way into a registry; durable when the context that gave it ends without an error."""

    @property
    @abstractmethod
    def new_bytes(self) -> int:
        """Bytes that were not there before."""

    @abstractmethod
    def put_bytes(self, data: bytes | memoryview) -> tuple[Digest, int]: ...

    @abstractmethod
    def put_stream(self, source: BinaryIO, size: int) -> tuple[Digest, int]: ...

    @abstractmethod
    def put_known(self, source: BinaryIO, digest: Digest, size: int, *, what: str) -> None: ...


class Registry(ABC):
    """A place that holds packages. One contract test class covers every implementation."""

    url: str

    @abstractmethod
    def staging(self) -> AbstractContextManager[Sink]:
        """Open a sink for new objects."""

    @abstractmethod
    def has_object(self, digest: Digest, size: int) -> bool: ...

    @abstractmethod
    def open_object(self, digest: Digest) -> BinaryIO:
        """Open an object unverified; raise NotFoundError if it is not there."""

    @abstractmethod
    def read_object(self, digest: Digest, size: int, *, what: str) -> bytes:
        """Return an object's bytes, verified."""

    @abstractmethod
    def copy_object(self, digest: Digest, size: int, sink: BinaryIO | None, *, what: str) -> None:
        """Copy an object, verified on the way; None for `sink` only verifies."""

    @abstractmethod
    def read_range(self, digest: Digest, offset: int, length: int) -> bytes:
        """Return part of an object, unverified."""

    @abstractmethod
    def object_url(self, digest: Digest) -> str:
        """Return the hint that a manifest carries for an object."""

    @abstractmethod
    def read_manifest(self, top_hash: str) -> Manifest:
        """Return a version, verified; raise NotFoundError if it is not there."""

    @abstractmethod
    def read_header(self, top_hash: str) -> dict[str, object]:
        """Return a version's header alone: for listings, and not verified."""

    @abstractmethod
    def publish(self, name: str, manifest: Manifest, *, tags: tuple[str, ...] = (), latest: bool = True) -> LogEntry:
        """Store the manifest, then commit it to the log with `tags` and, if `latest`, that tag pointing at it.

        Raises:
            NotFoundError: An object that the manifest names is not in the registry.
        """

    @abstractmethod
    def tag(self, name: str, top_hash: str, tags: tuple[str, ...]) -> LogEntry:
        """Point tags at a version that the log knows."""

    @abstractmethod
    def head(self, name: str) -> LogEntry | None:
        """Return the newest log entry of a package, None if there is no such package."""

    @abstractmethod
    def log(self, name: str) -> list[LogEntry]:
        """Return the whole log, oldest first, its chain of digests verified."""

    @abstractmethod
    def top_hashes(self, name: str) -> list[str]:
        """Return the top hash of every log entry, oldest first, without verifying the chain."""

    @abstractmethod
    def packages(self, namespace: str | None = None) -> Iterator[str]:
        """Yield package names, sorted."""

    @abstractmethod
    def claim(self, run_id: str) -> AbstractContextManager[None]:
        """Hold the sign that a run is alive, for as long as the context is open and this process lives."""

    @abstractmethod
    def is_claimed(self, run_id: str) -> bool:
        """True while somebody holds the sign."""

    def resolve(self, ref: PackageRef) -> str:
        """Return the top hash that a reference names.

        Raises:
            NotFoundError: No such package, tag or version.
            UsageError: A hash prefix matches two versions.
        """
        head = self.head(ref.name)
        if head is None:
            raise NotFoundError(f"No package {ref.name} in {self.url}.", hint=self._did_you_mean(ref.name))
        if ref.hash is None:
            tag = ref.tag or "latest"
            if tag not in head.tags:
                known = ", ".join(sorted(head.tags))
                raise NotFoundError(f"No tag {tag!r} on {ref.name} in {self.url}.", hint=f"Its tags are: {known}.")
            return head.tags[tag]
        matches = sorted({hash_ for hash_ in self.top_hashes(ref.name) if hash_.startswith(ref.hash)})
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
