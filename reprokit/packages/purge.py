"""Erase objects for good: from a registry, and from what was laid out of it on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from reprokit.core.digest import Digest
from reprokit.packages.tree_cache import erase
from reprokit.registry.local import LocalRegistry
from reprokit.registry.purge import purge_objects
from reprokit.registry.stored import StoredRegistry
from reprokit.registry.uses import Use

__all__ = ["Purged", "purge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What was erased.

    Attributes:
        affected: The entries that held the objects.
        copies: Files and folders on this machine that are gone.
        left: What is not, and why.
    """

    affected: list[Use]
    copies: list[Path]
    left: list[tuple[Path, str]]


def purge(
    registry: StoredRegistry, digests: set[Digest], *, cache: Path, reason: str, also: Iterable[Path] = ()
) -> Purged:
    """Erase objects from a registry, with a tombstone for each, and then every copy on this machine.

    Other machines' caches, installed folders and what was pushed to other registries are out of reach.

    Args:
        cache: All that is laid out below it of these objects goes.
        also: More folders whose files go if they are one of the objects, such as the workspaces of runs.
    Raises:
        DataMismatchError: The directory of a pack is damaged, so it may hold them unseen; nothing was purged.
        RegistryError: Reading or writing failed; to purge again completes it.
    """
    if isinstance(registry, LocalRegistry):
        affected = purge_objects(registry, digests, reason=reason)
    else:  # with an object store's client, which a folder does not need
        remote = import_module("reprokit.registry.remote.purge")
        affected = remote.purge_remote_objects(registry, digests, reason=reason)
    erased = erase(digests, cache=cache, sizes={entry.size for entry, _ in affected}, also=also)
    return Purged(affected=[use for _, use in affected], copies=erased.gone, left=erased.left)
