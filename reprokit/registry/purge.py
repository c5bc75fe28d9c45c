"""Erase objects for good, wherever they lie in a registry in a folder."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Set
from datetime import UTC, datetime
from pathlib import Path

from reprokit.core.atomic_files import durable_write, os_errors
from reprokit.core.canonical_json import canonical, spelled
from reprokit.core.digest import CHUNKED, Digest
from reprokit.errors import DataMismatchError
from reprokit.registry.base import Registry
from reprokit.registry.gc import rewrite_packs
from reprokit.registry.local import LocalRegistry
from reprokit.registry.package_log import writer
from reprokit.registry.repair import DAMAGED
from reprokit.registry.uses import Use, versions
from reprokit.schema.manifest import Entry

__all__ = ["held_by", "purge_objects", "tombstone"]


def purge_objects(registry: LocalRegistry, digests: set[Digest], *, reason: str) -> list[tuple[Entry, Use]]:
    """Erase objects from a registry for good, and leave a tombstone for each; return the entries that held them.

    The versions stay, with what they were; reading a purged entry says when and why it was erased, and the same bytes
    are not taken in again.

    Raises:
        DataMismatchError: The directory of a pack is damaged, so it may hold them unseen; nothing was purged.
        RegistryError: Reading or writing failed; to purge again completes it.
    """
    affected = held_by(registry, digests)
    with os_errors(f"Purging in {registry.root}"), registry.objects.alone():
        members = _all_members(registry)
        for digest in sorted(digests):
            durable_write(registry.objects.tombstone_path(digest), tombstone(digest, affected, reason=reason))
        raws = {digest.raw for digest in digests if digest.type == CHUNKED}
        holding = {name: held - raws for name, held in members.items() if held & raws}
        if holding:
            rewrite_packs(registry, holding, despite_damage=True)
        for digest in digests:
            registry.objects.loose_path(digest).unlink(missing_ok=True)
        _remove(registry.root / DAMAGED)  # what was set aside may hold them too
        for folder in registry.objects.abandoned(thorough=True):  # and so may what a writer left behind that was killed
            _remove(folder)
    return affected


def _remove(folder: Path) -> None:
    """Remove a folder that its owner may be removing too; what stays is an error, since it may hold what is to go."""
    while folder.exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)


def held_by(registry: Registry, digests: Set[Digest]) -> list[tuple[Entry, Use]]:
    """Return the entries, of all versions, that hold one of these objects."""
    return [
        (entry, Use(package=name, top_hash=top_hash, logical_key=entry.logical_key))
        for name, top_hash, manifest in versions(registry)
        for entry in manifest.entries
        if entry.digest in digests
    ]


def tombstone(digest: Digest, affected: Iterable[tuple[Entry, Use]], *, reason: str) -> bytes:
    """Return what is left in the place of an object: what it was, in which versions, and when, by whom and why it went.

    Args:
        affected: As `held_by` returned them.
    """
    stone = {
        "type": digest.type,
        "digest": digest.hex,
        "reason": reason,
        "time": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "writer": writer(),
        "entries": [
            f"{use.package}@{use.top_hash} {use.logical_key}" for entry, use in affected if entry.digest == digest
        ],
    }
    return canonical(spelled(stone)) + b"\n"


def _all_members(registry: LocalRegistry) -> dict[str, Set[bytes]]:
    """Return what each pack says that it holds."""
    try:
        return {name: registry.objects.pack(name).members.keys() for name in registry.objects.pack_names()}
    except DataMismatchError as error:
        raise DataMismatchError(
            f"It is not known what all packs hold, so nothing was purged. {error.message}",
            hint="Take it out with `reprokit verify --all --repair`, and purge again.",
        ) from None
