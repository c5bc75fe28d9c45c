"""Take what is damaged out of a registry in an object store, so that building or pushing again puts it back whole.

What this machine has near of it is sent at once. The damaged bytes are kept under `damaged/`, which nothing reads.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress

from reprokit.core.atomic_files import os_errors
from reprokit.core.digest import Digest, Hasher, hash_bytes
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import DataMismatchError
from reprokit.registry.remote.registry import RemoteRegistry
from reprokit.registry.repair import DAMAGED, SetAside
from reprokit.store.objects import is_digest_of
from reprokit.store.packs import PACK_NAME, Member, directory_size, parse_directory
from reprokit.store.ranges import BLOCK
from reprokit.store.remote_places import PART, object_of
from reprokit.store.staging import stage
from reprokit.store.storage import Stored
from reprokit.store.upload import upload

__all__ = ["set_aside_damaged_far"]

_MAX_PACK = 2 * 1024 * 1024 * 1024  # bytes


def set_aside_damaged_far(registry: RemoteRegistry, *, progress: Progress = SILENT) -> list[SetAside]:
    """Move every damaged pack and large object to `damaged/`; the sound objects of a pack are packed anew first.

    Every byte of packs and objects is read from the store. What versions lack afterwards, `verify` lists.

    Raises:
        RegistryError: Reading or writing failed; to do it again completes it.
    """
    registry.check_online("verify --repair")
    if not registry.opened:
        return []
    with os_errors(f"Repairing {registry.url}"):
        packs = [one for one in registry.bare.walk("packs") if PACK_NAME.fullmatch(one.key[6:-4])]
        large = _large(registry)
        total = sum(one.size for one in packs) + sum(one.size for parts in large.values() for one in parts)
        done: list[SetAside] = []
        with progress.task("Looking for damage", total, unit="bytes") as advance:
            for pack in packs:
                done += _pack(registry, pack)
                advance(pack.size)
            for (kind, hexadecimal, _), parts in large.items():
                done += _object(registry, kind, hexadecimal, parts)
                advance(sum(one.size for one in parts))
        registry.objects.look_again(registry.objects.avoid)
        return done


def _large(registry: RemoteRegistry) -> dict[tuple[str, str, int], list[Stored]]:
    """Return the large objects that are there: of each generation the key, or those of its parts."""
    found: dict[tuple[str, str, int], list[Stored]] = defaultdict(list)
    for one in registry.bare.walk("objects"):
        named = object_of(one.key)
        if named is not None:
            found[named].append(one)
    return found


def _pack(registry: RemoteRegistry, pack: Stored) -> list[SetAside]:
    name = pack.key[6:-4]
    data = registry.bare.read(pack.key, max_bytes=_MAX_PACK)
    if hash_bytes(data).hex == name:
        return []
    members: Mapping[bytes, Member] = {}
    with suppress(ValueError):
        length = directory_size(data[-BLOCK:], len(data))
        members = parse_directory(data[-length:], len(data))
    pieces = {raw: data[offset : offset + size] for raw, (offset, size) in members.items()}
    sound = {raw: piece for raw, piece in pieces.items() if is_digest_of(piece, Digest.chunked(raw))}
    near = registry.objects.near
    with stage(near) as staging:
        for raw, piece in sound.items():
            staging.put_again(raw, piece)
    moved = _move(registry, pack.key, data)
    registry.objects.look_again(registry.objects.avoid)
    there = [(Digest.chunked(raw), members[raw].size) for raw in members]
    kept = [one for one in there if near.has(*one)]
    upload(registry.objects, kept)
    return [SetAside(file=pack.key, moved_to=moved, kept=len(kept))]


def _object(registry: RemoteRegistry, kind: str, hexadecimal: str, parts: list[Stored]) -> list[SetAside]:
    size = sum(one.size for one in parts)
    hasher = Hasher(size, kind)
    well = all(one.size == PART for one in parts[:-1]) or len(parts) == 1
    for one in parts:
        for at in range(0, one.size, BLOCK):
            hasher.update(registry.bare.read_range(one.key, at, min(BLOCK, one.size - at)))
    if well and hasher.digest().hex == hexadecimal:
        return []
    done = []
    for one in parts:
        data = registry.bare.read(one.key, max_bytes=max(PART, one.size))
        done.append(SetAside(file=one.key, moved_to=_move(registry, one.key, data)))
    registry.objects.look_again(registry.objects.avoid)
    digest = Digest.named(kind, hexadecimal)
    path = registry.objects.near.loose_path(digest)
    if path.exists():
        with suppress(DataMismatchError):  # that is damaged too
            upload(registry.objects, [(digest, path.stat().st_size)])
    return done


def _move(registry: RemoteRegistry, key: str, data: bytes) -> str:
    target = f"{DAMAGED}/{key.replace('/', '-')}.{time.time_ns()}"
    registry.bare.put(target, data)
    registry.bare.delete(key)
    return target
