"""What the versions of a registry use, as their logs stand: what gc spares."""

from __future__ import annotations

import msgspec

from reprokit.core.digest import CHUNKED, Digest
from reprokit.core.progress import Progress
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.registry.stored import StoredRegistry

__all__ = ["Marks"]

_SOURCE = "what versions use"
_FORM = 1


class _Found(msgspec.Struct, frozen=True, array_like=True):
    """What the versions of a package use, and how its log ended then: digests of 32 bytes one after the other."""

    stamp: str
    versions: list[str]
    bases: list[str]
    chunked: bytes
    others: list[tuple[str, str]]


_DECODER = msgspec.msgpack.Decoder(tuple[int, dict[str, _Found]])


class Marks:
    """What is used: top hashes, those that others are stored as differences to, and objects.

    Attributes:
        chunked: Digests of 32 bytes.
        others: Those of objects that are named by another algorithm.
    """

    def __init__(self, registry: StoredRegistry) -> None:
        self._registry = registry
        self.versions: set[str] = set()
        self.bases: set[str] = set()
        self.chunked: set[bytes] = set()
        self.others: set[Digest] = set()

    def update(self, progress: Progress) -> None:
        """Mark what versions use, and tags, that are in the logs now and were not before.

        Raises:
            DataMismatchError: A version cannot be read, so it is not known what it uses.
        """
        with progress.task("Finding what is used", None, unit="versions") as advance:
            for name in self._registry.packages():
                advance(self._add_all(name))

    def recall(self, progress: Progress) -> None:
        """Mark what versions use without reading one of a log that has not grown since it was read.

        For a look alone: what decides that something is removed reads every version. A log that was read is kept for
        the next time on this machine.

        Raises:
            DataMismatchError: As `update`.
        """
        try:
            form, kept = _DECODER.decode(self._registry.recall(_SOURCE) or b"")
        except msgspec.DecodeError:
            form, kept = _FORM, {}
        now: dict[str, _Found] = {}
        with progress.task("Finding what is used", None, unit="packages") as advance:
            for namespace in self._registry.namespaces():
                for head in self._registry.heads(namespace):
                    found = kept.get(head.name) if form == _FORM else None
                    if found is None or not head.stamp or found.stamp != head.stamp:
                        apart = Marks(self._registry)
                        apart._add_all(head.name)
                        found = _Found(
                            head.stamp,
                            sorted(apart.versions),
                            sorted(apart.bases),
                            b"".join(apart.chunked),
                            [(digest.type, digest.value) for digest in apart.others],
                        )
                    self.versions.update(found.versions)
                    self.bases.update(found.bases)
                    self.chunked.update(found.chunked[at : at + 32] for at in range(0, len(found.chunked), 32))
                    self.others.update(Digest.checked(*one) for one in found.others)
                    if head.stamp:
                        now[head.name] = found
                    advance()
        if now != kept:
            self._registry.remember(_SOURCE, msgspec.msgpack.encode((_FORM, now)))

    def _add_all(self, name: str) -> int:
        head = self._registry.head(name)
        tagged = head.tags.values() if head is not None else ()
        new = {*self._registry.top_hashes(name), *tagged} - self.versions
        for top_hash in new:
            self._add(name, top_hash)
        return len(new)

    def _add(self, name: str, top_hash: str) -> None:
        try:
            manifest = self._registry.read_manifest(top_hash)
            base = self._registry.manifests.base_of(top_hash)
        except (DataMismatchError, NotFoundError) as error:
            raise DataMismatchError(
                f"What {name}@{top_hash[:12]} uses is not known, so nothing was removed. {error.message}",
                hint=f"Restore that manifest, or give the version up: reprokit rm {name}@{top_hash[:12]}",
            ) from None
        self.versions.add(top_hash)
        if base is not None:
            self.bases.add(base)
        for entry in manifest.entries:
            if entry.digest.type == CHUNKED:
                self.chunked.add(entry.digest.raw)
            else:
                self.others.add(entry.digest)

    def uses(self, digest: Digest) -> bool:
        """True if a version has an entry of that object."""
        return digest.raw in self.chunked if digest.type == CHUNKED else digest in self.others
