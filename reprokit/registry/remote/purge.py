"""Erase objects for good from a registry in an object store, where nobody holds a lock.

1. A tombstone is written for each: from then on who looks stores these bytes no more.
2. Every pack that holds what any tombstone names is written anew without it, and the old one goes; large objects go.
3. That is repeated until a pass that began after the last write finds nothing: of two purges at once each erases what
   the other's packs brought along.

Who had looked before the tombstone was there may bring the bytes once more; `gc` does the second and third step again.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from reprokit.core.atomic_files import os_errors
from reprokit.core.digest import CHUNKED, Digest, hash_bytes
from reprokit.errors import DataMismatchError
from reprokit.registry.purge import held_by, tombstone
from reprokit.registry.remote.registry import RemoteRegistry
from reprokit.registry.uses import Use
from reprokit.schema.manifest import Entry
from reprokit.store.manifests import GENERATIONS
from reprokit.store.packs import Member, PackWriter

__all__ = ["erase_purged", "purge_remote_objects"]


def purge_remote_objects(registry: RemoteRegistry, digests: set[Digest], *, reason: str) -> list[tuple[Entry, Use]]:
    """Erase objects from a registry for good, and leave a tombstone for each; return the entries that held them.

    The versions stay, with what they were; reading a purged entry says when and why it was erased.

    Raises:
        RefusedError: There is no network.
        DataMismatchError: The directory of a pack is damaged, so it may hold them unseen; what could be erased is.
        RegistryError: Reading or writing failed; to purge again completes it.
    """
    registry.check_online("purge")
    affected = held_by(registry, digests)
    with os_errors(f"Purging in {registry.url}"):
        for digest in sorted(digests):
            registry.bare.put(registry.objects.tombstone_key(digest), tombstone(digest, affected, reason=reason))
        erase_purged(registry)
    return affected


def erase_purged(registry: RemoteRegistry) -> int:
    """Erase what tombstones name and is there all the same, and what of it is near; return the packs and objects.

    Raises:
        DataMismatchError: The directory of a pack is damaged, so it may hold something unseen; the rest is erased.
    """
    objects, done = registry.objects, 0
    with os_errors(f"Purging in {registry.url}"):
        while True:
            purged = {Digest.named(kind, hexadecimal) for kind, hexadecimal in objects.purged_now()}
            if not purged:
                return done
            registry.forget_objects(purged)
            known = objects.catalogue()
            unknown = objects.listed - known
            members: Mapping[str, Mapping[bytes, Member]] = objects.index.members()
            raws = {digest.raw for digest in purged if digest.type == CHUNKED}
            holding = [name for name in sorted(known) if not raws.isdisjoint(members[name])]
            for name in holding:
                _write_anew(registry, name, {raw: one for raw, one in members[name].items() if raw not in raws})
            keys = [key for digest in purged for key in _large(registry, digest)]
            for key in keys:
                registry.bare.delete(key)
            done += len(holding) + len(keys)
            if not holding and not keys:
                break
    if unknown:
        raise DataMismatchError(
            f"The directory of {len(unknown)} pack(s) of {registry.url} is damaged ({min(unknown)[:12]}…), so they may "
            "hold what was to be erased. What is known to hold it was erased.",
            hint="If nothing needs them, remove those files from the bucket, and purge again.",
        )
    return done


def _write_anew(registry: RemoteRegistry, name: str, left: Mapping[bytes, Member]) -> None:
    """Store a pack with these of its members alone, and remove it; the new one has a name that never was."""
    objects, old = registry.objects, registry.objects.pack_key(name)
    if left:
        with TemporaryDirectory(prefix="reprokit-purge-") as folder:
            pack = PackWriter(Path(folder) / "pack", durable=False)
            nonce = secrets.token_bytes(16)
            pack.add(hash_bytes(nonce).raw, nonce)
            try:
                for raw, (offset, size) in sorted(left.items(), key=lambda one: one[1].offset):
                    pack.add(raw, registry.bare.read_range(old, offset, size))
            except FileNotFoundError:  # another purge was faster, or gc
                pack.close()
                return
            new = pack.finish()
            registry.bare.put(objects.pack_key(new), pack.path.read_bytes())
            objects.sent_pack(new, pack.members)
    registry.bare.delete(old)


def _large(registry: RemoteRegistry, digest: Digest) -> Iterable[str]:
    """Return the keys at which a large object lies, whole or in parts, in whatever generation."""
    first = registry.objects.object_key(digest)
    folder, _, name = first.rpartition("/")
    wanted = {name, *(f"{name}~{generation}" for generation in range(1, GENERATIONS))}
    there = wanted.intersection(registry.bare.names(folder, after=name[:-1]))
    found = [stored.key for one in there for stored in registry.bare.walk(f"{folder}/{one}")]
    return [*found, *(f"{folder}/{one}" for one in there if registry.bare.stat(f"{folder}/{one}") is not None)]
