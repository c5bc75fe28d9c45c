"""What a registry is, wherever it lies: the order of publishing, the log with its tags, versions.

What is published is durable from the bottom up: objects, then the manifest, then the log entry, which is the commit.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from abc import abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from reprokit.core.atomic_files import explain_os_error, os_errors
from reprokit.core.canonical_json import canonical
from reprokit.core.refs import check_package_name, check_tag
from reprokit.core.safe_json import load_json
from reprokit.errors import NotFoundError, RefusedError, RegistryError
from reprokit.registry.base import FORMAT, LogEntry, Registry
from reprokit.registry.package_log import LATEST, PackageLogs, Stamp, check_permanent
from reprokit.schema.manifest import Manifest
from reprokit.store.manifests import ManifestStore
from reprokit.store.storage import Storage

__all__ = ["MARKER", "StoredRegistry"]

MARKER = "reprokit-registry.json"
_MAX_MARKER = 64 * 1024
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class StoredRegistry(Registry):
    """See the module. Where bytes rest and how objects are found is for the classes below."""

    def __init__(self, storage: Storage, *, stamp: Stamp | None = None) -> None:
        """Open a registry.

        Args:
            stamp: Written instead of the time and who writes.
        """
        self.storage = storage
        self.url = storage.url
        self.manifests = ManifestStore(storage)
        self.history = PackageLogs(storage, stamp=stamp)
        self._uuid: str | None = None
        self.opened = False  # it is a registry, of the format that is read here
        self._stamp = stamp

    # the place

    @property
    def uuid(self) -> str:
        """What the registry is called wherever it lies."""
        if self._uuid is None:
            with os_errors(f"Opening the registry {self.url}"):
                self._check_format()
        return str(self._uuid)

    def exists(self) -> bool:
        """True if the place is a registry by now."""
        with os_errors(f"Opening the registry {self.url}"):
            return self.storage.stat(MARKER) is not None

    def _open(self) -> None:
        """Look whether the place is a registry; nothing is made."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._check_format()

    def _ensure(self) -> None:
        """Make the place a registry before the first write."""
        if self.opened:
            if not self.exists():
                raise RegistryError(
                    f"The registry {self.url} is gone: it has no {MARKER} any more.",
                    hint="Put it back where it was. Nothing was written in its place.",
                )
            return
        with os_errors(f"Creating the registry {self.url}"), contextlib.suppress(FileExistsError):
            marker = {"format": FORMAT, "uuid": self._stamp.uuid if self._stamp else str(uuid.uuid4())}
            self.storage.create(MARKER, canonical(marker) + b"\n")
        self._check_format()
        self._created()

    def _marker(self, storage: Storage) -> dict[str, Any]:
        try:
            raw = storage.read(MARKER, max_bytes=_MAX_MARKER)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise explain_os_error(error, f"Opening the registry {self.url}") from error
        content = load_json(raw, what=storage.name(MARKER), max_bytes=_MAX_MARKER)
        return content if isinstance(content, dict) else {}

    def _check_format(self) -> None:
        self._uuid = self._named(self.storage)
        self.opened = True
        self._opened()

    def _named(self, storage: Storage) -> str:
        """Return the UUID of the registry in a storage.

        Raises:
            FileNotFoundError: There is none.
            RegistryError: Its format is not read here.
        """
        marker = self._marker(storage)
        version = marker.get("format")
        if version != FORMAT:
            raise RegistryError(
                f"{self.url} is a registry of format {version!r}; this reprokit reads format {FORMAT}.",
                hint="Use the release of reprokit that wrote it, or a newer one.",
            )
        if not (isinstance(marker.get("uuid"), str) and _UUID.fullmatch(marker["uuid"])):
            raise RegistryError(
                f"{self.storage.name(MARKER)} names no UUID.", hint="Restore it from a copy of the registry."
            )
        return str(marker["uuid"])

    @abstractmethod
    def _opened(self) -> None:
        """Do what can be done once the UUID is known."""

    def _created(self) -> None:
        """Do what is to be done once the place has become a registry."""

    @abstractmethod
    def _publishing(self) -> AbstractContextManager[Callable[[Manifest], Manifest]]:
        """Hold off, in whatever way, that what is named now is swept before the log names it.

        The context gives what returns a version with the physical keys of its objects, all of which exist; it raises
        NotFoundError for the first that does not.
        """

    def _avoided(self) -> Container[str]:
        """Return keys that no new version may name."""
        return ()

    def _commits(self) -> None:
        """Raise RegistryError if it is too late for the log entry: what was found to be there may be gone."""

    # versions

    def read_manifest(self, top_hash: str) -> Manifest:
        with os_errors(f"Reading manifest {top_hash[:12]} from {self.url}"):
            return self.manifests.read(top_hash)

    def read_header(self, top_hash: str) -> dict[str, object]:
        with os_errors(f"Reading manifest {top_hash[:12]} from {self.url}"):
            return self.manifests.header(top_hash)

    def listing(self, top_hash: str) -> object:
        with os_errors(f"Reading manifest {top_hash[:12]} from {self.url}"):
            return self.manifests.listing(top_hash)

    # the log

    def publish(
        self,
        name: str,
        manifest: Manifest,
        *,
        tags: tuple[str, ...] = (),
        latest: bool = True,
        note: str | None = None,
    ) -> LogEntry:
        check_package_name(name)
        wanted = (LATEST, *tags) if latest else tags
        for tag in wanted:
            check_tag(tag)
        self._ensure()
        with os_errors(f"Publishing {name} to {self.url}"), self._publishing() as locate:
            head = self.head(name)
            if head is not None:
                check_permanent(name, head, wanted, manifest.top_hash)
            try:
                manifest = locate(manifest)
            except NotFoundError as error:
                raise NotFoundError(f"{name} cannot be published. {error.message}", hint=error.hint) from None
            self.manifests.write(manifest, near=head.top_hash if head else None, avoid=self._avoided())
            self._commits()
            return self.history.append(
                name,
                "publish",
                manifest.top_hash,
                lambda before: {**before, **dict.fromkeys(wanted, manifest.top_hash)},
                note=note,
            )

    def tag(self, name: str, top_hash: str, tags: tuple[str, ...], *, permanent: bool = False) -> LogEntry:
        for tag in tags:
            check_tag(tag)
        if permanent and LATEST in tags:
            raise RefusedError(
                f"'{LATEST}' of {name} cannot be permanent: every build and every run into {name} moves it.",
                hint=f"Give the version a name of its own: `reprokit tag {name}@{top_hash[:12]} NAME --permanent`.",
            )
        self._ensure()
        with os_errors(f"Tagging {name} in {self.url}"), self._publishing():
            self._require(name, top_hash)
            self._commits()
            return self.history.append(
                name,
                "tag",
                top_hash,
                lambda before: {**before, **dict.fromkeys(tags, top_hash)},
                permanent=tags if permanent else (),
            )

    def untag(self, name: str, tag: str) -> LogEntry:
        self._ensure()
        with os_errors(f"Tagging {name} in {self.url}"), self._publishing():
            head = self.head(name)
            if head is None or tag not in head.tags:
                raise NotFoundError(f"No tag {tag!r} on {name} in {self.url}.")
            if tag == LATEST:
                raise RefusedError(f"'latest' cannot be taken from {name}.", hint="`reprokit rollback` moves it.")
            return self.history.append(name, "tag", head.tags[tag], lambda before: _without(before, {tag}))

    def rollback(self, name: str, top_hash: str, *, note: str | None = None) -> LogEntry:
        self._ensure()
        with os_errors(f"Rolling back {name} in {self.url}"), self._publishing():
            self._require(name, top_hash)
            self._commits()
            return self.history.append(
                name, "rollback", top_hash, lambda before: {**before, LATEST: top_hash}, note=note
            )

    def delete(self, name: str, top_hash: str, *, note: str | None = None) -> LogEntry:
        self._ensure()
        with os_errors(f"Deleting {name}@{top_hash[:12]} in {self.url}"), self._publishing():
            self._require(name, top_hash)

            def tags(before: Mapping[str, str]) -> dict[str, str]:
                left = [hash_ for hash_ in self.top_hashes(name) if hash_ != top_hash]
                kept = _without(before, {tag for tag, hash_ in before.items() if hash_ == top_hash})
                if left:
                    kept.setdefault(LATEST, left[-1])
                return kept

            return self.history.append(name, "delete", top_hash, tags, note=note)

    def note(self, name: str, text: str) -> LogEntry:
        self._ensure()
        with os_errors(f"Writing a note on {name} into {self.url}"), self._publishing():
            head = self.head(name)
            if head is None:
                raise NotFoundError(f"No package {name} in {self.url}.")
            self._commits()
            return self.history.append(name, "note", head.top_hash, dict, note=text)

    def _require(self, name: str, top_hash: str) -> None:
        if top_hash not in self.top_hashes(name):
            raise NotFoundError(f"{name} has no version {top_hash[:12]} in {self.url}.")

    def head(self, name: str) -> LogEntry | None:
        with os_errors(f"Reading the log of {name} in {self.url}"):
            return self.history.head(name)

    def log(self, name: str) -> list[LogEntry]:
        with os_errors(f"Reading the log of {name} in {self.url}"):
            return self.history.entries(name)

    def top_hashes(self, name: str) -> list[str]:
        with os_errors(f"Reading the log of {name} in {self.url}"):
            return self.history.top_hashes(name)

    def packages(self, namespace: str | None = None) -> Iterator[str]:
        with os_errors(f"Listing {self.url}"):
            yield from self.history.packages(namespace)

    def namespaces(self) -> list[str]:
        with os_errors(f"Listing {self.url}"):
            return self.history.namespaces()

    def lost(self) -> list[str]:
        with os_errors(f"Listing {self.url}"):
            return [] if self.history.seen is None else self.history.seen.gone(self.history.packages)


def _without(tags: Mapping[str, str], gone: set[str]) -> dict[str, str]:
    return {tag: hash_ for tag, hash_ in tags.items() if tag not in gone}
