"""A registry in an object store without the network: what this machine has of it, and what is to be sent.

    <home>/offline/<uuid>/   what was published meanwhile, in the layout of a registry, and `address`

Addresses of such are those of the registry behind `offline+`.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import IO

from reprokit.core.atomic_files import durable_write, os_errors
from reprokit.core.canonical_json import canonical
from reprokit.core.progress import SILENT, Progress
from reprokit.core.refs import check_package_name
from reprokit.core.regular_files import open_lock, read_regular
from reprokit.errors import DataMismatchError, NotFoundError, RegistryError
from reprokit.registry.base import FORMAT, OFFLINE, Head, LogEntry
from reprokit.registry.heads import head_of, kept_heads
from reprokit.registry.remote.addresses import kept_uuid
from reprokit.registry.remote.heads import ANNOUNCED
from reprokit.registry.remote.offline_storage import OfflineStorage
from reprokit.registry.remote.registry import RemoteRegistry
from reprokit.registry.stored import MARKER
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.index import Index
from reprokit.store.objects import ObjectStore
from reprokit.store.reader import Reader
from reprokit.store.remote_objects import RemoteObjects
from reprokit.store.remote_places import PART, fits, is_small
from reprokit.store.upload import upload

__all__ = ["SENT", "OfflineRegistry", "unsent"]

SENT = "sent"
"""What was sent of what is here: a line for each commit, its package and number."""
_ADDRESS = "address"
_LOCK = "lock"
_MAX_NOTE = 64 * 1024


def unsent(home: Path) -> Iterator[tuple[str, Path]]:
    """Yield the addresses for which something waits to be sent, and the folder that it is in."""
    base = home / "offline"
    for folder in sorted(base.iterdir()) if base.is_dir() else []:
        try:
            address = read_regular(folder / _ADDRESS, max_bytes=_MAX_NOTE).decode("utf-8")
        except (OSError, UnicodeDecodeError, DataMismatchError):
            continue
        if (folder / "log").is_dir():
            yield address, folder


class OfflineRegistry(RemoteRegistry):
    """See the module. Nothing of it is far, and nothing that it says is newer than what this machine saw last."""

    is_far = False
    is_offline = True

    def __init__(self, address: str, *, cache: Path, home: Path) -> None:
        """Open what this machine has of the registry at an address.

        Raises:
            RegistryError: It was never opened here.
        """
        named = kept_uuid(home, address)
        if named is None:
            raise RegistryError(
                f"Nothing of {address} is on this machine, so it cannot be used offline.",
                hint="Use it once with the network: `reprokit ls`, without --offline and REPROKIT_OFFLINE.",
            )
        self.address = address
        self.folder = home / "offline" / named
        self._held: IO[bytes] | None = None
        storage = OfflineStorage(
            f"{OFFLINE}{address}",
            self.folder,
            cache / "near" / named,
            marker=(MARKER, canonical({"format": FORMAT, "uuid": named})),
        )
        self._offline = storage
        super().__init__(storage, cache=cache)
        self.history.announce = None

    def _opened(self) -> None:
        self.manifests.many = True  # as in the registry itself

    @cached_property
    def objects(self) -> RemoteObjects:
        index = self._cache / "index"
        near = ObjectStore(
            self._cache / "near" / self.uuid, Index(index / f"{self.uuid}-near.sqlite"), pack_bytes=PART, durable=False
        )
        return RemoteObjects(self.bare, near, Index(index / f"{self.uuid}-offline.sqlite"))

    @cached_property
    def _known(self) -> Index:
        """What is known of the registry itself."""
        return Index(self._cache / "index" / f"{self.uuid}.sqlite")

    def recall(self, source: str) -> bytes | None:
        return self._known.source(source)

    def remember(self, source: str, facts: bytes) -> None:
        """Keep nothing: what is found without the network is not what is found with it."""

    def expect_writes(self) -> None:
        return

    def tidy(self) -> None:
        return

    def _ensure(self) -> None:
        """Begin what is to be sent; nobody sends it while this process writes to it."""
        with self._preparing:
            if self._held is not None:
                return
            with os_errors(f"Writing into {self.folder}"):
                self.folder.mkdir(parents=True, exist_ok=True)
                held = open_lock(self.folder / _LOCK)
                fcntl.flock(held, fcntl.LOCK_SH)
                if not (
                    self.folder / "log"
                ).exists():  # what a sender noted of commits that are gone means none of ours
                    (self.folder / SENT).unlink(missing_ok=True)
                self._held = held
                durable_write(self.folder / _ADDRESS, self.address.encode())
            self._ensured = True

    def unsent_entries(self) -> dict[str, list[int]]:
        """Return the entries of logs that were written here: package → numbers, in order."""
        found: dict[str, list[int]] = {}
        for stored in self._offline.own.walk("log"):
            folder, _, number = stored.key.removeprefix("log/").rpartition("/")
            if folder.count("/") == 1 and number.isdigit():
                found.setdefault(folder, []).append(int(number))
        return found

    # objects

    def lacking(self, entries: Iterable[Entry]) -> list[Entry]:
        return [one for one in super().lacking(entries) if not self._is_near(one)]

    def _is_near(self, entry: Entry) -> bool:
        near = self.objects.near
        if is_small(entry.digest, entry.size):
            return fits(near.find([entry.digest]).get(entry.digest), entry.size)
        return near.is_loose(entry.digest, entry.size)

    def _locate(self, manifest: Manifest) -> Manifest:
        wanted = [one for one in RemoteRegistry.lacking(self, manifest.entries) if self._is_near(one)]
        upload(self.objects, [(one.digest, one.size) for one in wanted])  # it may not stay near
        return self.objects.locate(manifest)

    def reader(self, manifest: Manifest, *, what: str, anew: bool = False) -> Reader:
        if anew:
            self.check_online("Verifying what is stored")
        return super().reader(manifest, what=what)

    def damage(self, *, progress: Progress = SILENT) -> list[str]:
        self.check_online("Verifying what is stored")
        return super().damage(progress=progress)

    # logs

    def heads(self, namespace: str) -> list[Head]:
        found = kept_heads(self, namespace)[0] if namespace in ANNOUNCED else {}
        for name in super().packages(namespace):  # of which an entry is here
            entry = super().head(name)
            if entry is not None and (name not in found or found[name].seq < entry.seq):
                began = found[name].began if name in found else entry.time
                found[name] = head_of(self, entry, name, stamp="", began=began)
        return [found[name] for name in sorted(found)]

    def packages(self, namespace: str | None = None) -> Iterator[str]:
        found = set(super().packages(namespace))
        for space in ANNOUNCED if namespace is None else (namespace,):
            if space in ANNOUNCED:
                found |= kept_heads(self, space)[0].keys()
        yield from sorted(found)

    def namespaces(self) -> list[str]:
        return sorted({*super().namespaces(), *(space for space in ANNOUNCED if kept_heads(self, space)[0])})

    def head(self, name: str) -> LogEntry | None:
        found = super().head(name)
        if found is None and name in kept_heads(self, name.partition("/")[0])[0]:
            raise self._absent(name)
        return found

    def log(self, name: str) -> list[LogEntry]:
        try:
            return super().log(name)
        except DataMismatchError as error:
            if self._is_whole(name):
                raise
            raise self._absent(f"All of the history of {name}") from error

    def top_hashes(self, name: str) -> list[str]:
        """Return the versions that are known here, oldest first: the log reaches back as far as it came near."""
        check_package_name(name)
        if self._is_whole(name):
            return super().top_hashes(name)
        entries: list[LogEntry] = []
        newest = super().head(name)
        while newest is not None:
            entries.append(newest)
            newest = self.history.entry(name, newest.seq - 1)
        versions: dict[str, None] = {}
        for entry in reversed(entries):
            if entry.action == "publish":
                versions.setdefault(entry.top_hash)
            elif entry.action == "delete":
                versions.pop(entry.top_hash, None)
        tagged = dict.fromkeys(entries[0].tags.values()) if entries else {}
        return list(tagged | versions)

    def _is_whole(self, name: str) -> bool:
        newest = super().head(name)
        return newest is None or len(self.bare.names(f"log/{name}")) >= newest.seq

    def _absent(self, what: str) -> NotFoundError:
        return NotFoundError(f"{what} is not on this machine.", hint=OfflineStorage.absence)
