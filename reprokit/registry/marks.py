"""What the versions of a registry use, as their logs stand: what gc spares."""

from __future__ import annotations

from reprokit.core.digest import CHUNKED, Digest
from reprokit.core.progress import Progress
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.registry.stored import StoredRegistry

__all__ = ["Marks"]


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
                head = self._registry.head(name)
                tagged = head.tags.values() if head is not None else ()
                for top_hash in {*self._registry.top_hashes(name), *tagged} - self.versions:
                    self._add(name, top_hash)
                    advance()

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
