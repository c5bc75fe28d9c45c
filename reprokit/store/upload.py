"""Sending objects that are near to where the registry lies: those that are not there yet, and nothing twice."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from reprokit.core.digest import Digest, hash_bytes, hash_file
from reprokit.core.progress import SILENT, Progress
from reprokit.core.scratch import scratch
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.store.mapping import map_file
from reprokit.store.objects import TEMPORARY, hint_of, is_digest_of
from reprokit.store.packs import Member, PackWriter
from reprokit.store.remote_objects import RemoteObjects
from reprokit.store.remote_places import PART, is_small

__all__ = ["upload"]

_AT_ONCE = 4  # each may have a part in memory


def upload(
    store: RemoteObjects,
    objects: Iterable[tuple[Digest, int]],
    *,
    fresh: Container[Digest] = (),
    progress: Progress = SILENT,
) -> tuple[int, dict[str, str]]:
    """Store objects that are near, those that are not there yet.

    Args:
        fresh: Large ones that this process hashed when it wrote them, a moment ago; others are hashed once more.
    Returns:
        Their bytes, and of those in packs the value of the digest → the physical key.
    """
    lacking = store.lacking(objects)
    if lacking:
        store.refuse_purged(digest for digest, _ in lacking)
    small = [digest for digest, size in lacking if is_small(digest, size)]
    large = [one for one in lacking if not is_small(*one)]
    total = sum(size for _, size in lacking)
    with progress.task(f"Sending to {store.storage.url}", total, unit="bytes") as advance:
        places = _upload_small(store, small, advance) if small else {}
        generations = {one: store.free(*one) for one in large}
        jobs = [
            (digest, part) for digest, size in large for part in store.parts(digest, size, generations[digest, size])
        ]
        for digest in [digest for digest, _ in large if digest not in fresh]:
            path = store.near.loose_path(digest)
            _check(hash_file(path, digest.type)[0] == digest, path)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="reprokit-send") as pool:
            for sent in pool.map(lambda job: _upload_part(store, *job), jobs):
                advance(sent)
    store.sent(generations)
    store.limit.grown(total)
    return total, places


def _check(sound: bool, path: Path) -> None:
    """Refuse to send what is not what its name says: a cache may be damaged, by a crash of the machine for one."""
    if not sound:
        path.unlink(missing_ok=True)
        raise DataMismatchError(
            f"{path} was damaged, so nothing of it was sent.", hint="It was taken out of the cache: repeat the command."
        )


def _upload_part(store: RemoteObjects, digest: Digest, part: tuple[str, int, int]) -> int:
    key, offset, length = part
    if key[-6] == "/":  # a part that an attempt before left is not sent again
        stored = store.storage.stat(key)
        if stored is not None and stored.size == length:
            return length
    store.storage.put(key, map_file(store.near.loose_path(digest))[offset : offset + length])
    return length


def _upload_small(store: RemoteObjects, digests: Sequence[Digest], advance: Callable[[int], None]) -> dict[str, str]:
    """Send packs that are near as they are where all that they hold is lacking, and what is left in new ones."""
    wanted = {digest.raw for digest in digests}
    values = {digest.raw: digest.value for digest in digests}
    near = store.near.find(digests)
    if len(near) < len(values):
        raise NotFoundError(
            f"Objects that were to be sent are gone from {store.near.root}: {len(values) - len(near):,} of them.",
            hint="Somebody emptied the cache meanwhile; repeat the command.",
        )
    by_pack: dict[str, set[bytes]] = defaultdict(set)
    for digest, (name, _) in near.items():
        by_pack[name].add(digest.raw)
    places: dict[str, str] = {}
    sending: list[tuple[str, Path, Mapping[bytes, Member]]] = []
    with scratch(store.near.root / TEMPORARY) as folder:
        writers: list[PackWriter] = []
        for name, raws in by_pack.items():
            pack = store.near.pack(name)
            if raws == pack.members.keys() and pack.size <= 2 * PART and store.pack_key(name) not in store.avoid:
                _check(hash_file(pack.path)[0].hex == name, pack.path)
                sending.append((name, pack.path, pack.members))
                continue
            for raw in raws & wanted:
                if not writers or writers[-1].is_full:
                    writers.append(PackWriter(folder / f"pack-{len(writers)}", max_bytes=PART, durable=False))
                    if store.avoid:  # one of the same members may have been condemned
                        nonce = secrets.token_bytes(16)
                        writers[-1].add(hash_bytes(nonce).raw, nonce)
                data = pack.read(*pack.members[raw])
                _check(is_digest_of(data, Digest.chunked(raw)), pack.path)
                writers[-1].add(raw, data)
        sending += [(writer.finish(), writer.path, writer.members) for writer in writers]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="reprokit-send") as pool:
            sent = pool.map(lambda job: store.storage.put(store.pack_key(job[0]), map_file(job[1])), sending)
            for (name, _, members), _ in zip(sending, sent, strict=True):
                store.sent_pack(name, members)
                for raw, member in members.items():
                    if raw in values:
                        places[values[raw]] = hint_of(name, member)
                advance(sum(member.size for member in members.values()))
    return places
