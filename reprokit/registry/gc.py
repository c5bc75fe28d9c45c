"""What keeps a registry in a folder small: gc, which removes what no version uses."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reprokit.core.atomic_files import fsync_folder, os_errors
from reprokit.core.digest import Digest, hash_file
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import DataMismatchError
from reprokit.registry.live import sweep_live
from reprokit.registry.local import LocalRegistry
from reprokit.registry.marks import Marks
from reprokit.store.objects import is_digest_of
from reprokit.store.staging import stage

__all__ = ["GRACE", "Swept", "collect_garbage", "rewrite_packs"]

GRACE = 24 * 3600  # seconds
_DEAD_SHARE = 0.2  # of a pack's bytes; with more of it unused, a pack is written anew
_SMALL_PACK = 1024 * 1024
_MANY_SMALL = 32  # packs; more of them are joined
_UNOWNED = 60  # seconds that a temporary file may take to get its name


@dataclass(kw_only=True)
class Swept:
    """What gc removed, or would: numbers of things, and the bytes that they take on disk.

    Attributes:
        versions: Manifests that no package names any more.
        packs: Packs of which nothing is used, and those that were written anew without what is not.
        kept: What is unused but younger than the grace period, and stays for now.
    """

    versions: int = 0
    objects: int = 0
    packs: int = 0
    rewritten: int = 0
    temporary: int = 0
    bytes: int = 0
    kept: int = 0
    dry_run: bool = False
    notes: list[str] = field(default_factory=list)


def collect_garbage(
    registry: LocalRegistry,
    *,
    grace: float = GRACE,
    dry_run: bool = False,
    thorough: bool = False,
    progress: Progress = SILENT,
) -> Swept:
    """Remove what no version uses.

    Marks what is used; then, with everybody who publishes held off, marks what came since and sweeps. What is younger
    than the grace period stays, and so does whatever was stored since the oldest run that is still alive began: it may
    hold objects that no version names yet.

    Args:
        grace: Seconds.
        thorough: Write every pack anew that holds anything unused, however little.
    Raises:
        DataMismatchError: A version cannot be read, so it is not known what is used; nothing was removed.
        RegistryError: Reading or removing failed.
    """
    swept = Swept(dry_run=dry_run)
    if not registry.exists():
        return swept
    limit = min([time.time() - grace, *registry.signs.alive_since()])
    marks = Marks(registry)
    with os_errors(f"Collecting garbage in {registry.root}"):
        if dry_run:
            marks.recall(progress)
        else:
            marks.update(progress)
        with registry.objects.alone():
            if not dry_run:
                marks.update(SILENT)
            _Sweep(registry, marks, limit=limit, grace=grace, thorough=thorough, swept=swept).run(progress)
    return swept


class _Sweep:
    def __init__(
        self, registry: LocalRegistry, marks: Marks, *, limit: float, grace: float, thorough: bool, swept: Swept
    ) -> None:
        self._registry = registry
        self._store = registry.objects
        self._marks = marks
        self._limit = limit
        self._grace = grace
        self._thorough = thorough
        self._swept = swept

    def run(self, progress: Progress) -> None:
        self._temporary()  # first what is surely nobody's: writing packs anew takes space
        self._manifests()
        self._loose()
        self._packs(progress)

    def _old(self, path: Path) -> os.stat_result | None:
        """Return the stat of something older than the limit; None leaves it alone."""
        try:
            seen = path.stat()
        except FileNotFoundError:
            return None
        if seen.st_mtime > self._limit:
            self._swept.kept += 1
            return None
        return seen

    def _remove(self, path: Path, seen: os.stat_result) -> None:
        self._swept.bytes += seen.st_size
        if not self._swept.dry_run:
            path.unlink(missing_ok=True)

    def _manifests(self) -> None:
        store = self._registry.manifests
        for top_hash in sorted(store.names() - self._marks.versions - self._marks.bases):
            path = self._registry.manifest_path(top_hash)
            if (seen := self._old(path)) is not None:
                self._remove(path, seen)
                self._swept.versions += 1

    def _loose(self) -> None:
        for digest, path in self._store.loose():
            if not self._marks.uses(digest) and (seen := self._old(path)) is not None:
                self._remove(path, seen)
                self._swept.objects += 1

    def _packs(self, progress: Progress) -> None:
        rewrite: dict[str, set[bytes]] = {}
        small: dict[str, set[bytes]] = {}
        held: dict[bytes, str] = {}  # used objects → the pack that keeps them
        for name in self._largest_first():
            path = self._store.pack_path(name)
            try:
                members = self._store.pack(name).members
            except DataMismatchError as error:
                self._swept.notes.append(f"{error.message} It was left alone.")
                continue
            kept = {
                raw
                for raw in members
                if raw in self._marks.chunked and not (raw in held and self._sound(held[raw], raw))
            }
            dead = len(members) - len(kept)
            if not kept:
                if (seen := self._old(path)) is not None and self._is_whole(name):
                    self._remove(path, seen)
                    self._swept.packs += 1
                    self._swept.objects += dead
                continue
            held.update(dict.fromkeys(kept - held.keys(), name))
            wasted = sum(member.size for raw, member in members.items() if raw not in kept)
            size = path.stat().st_size
            if dead and (self._thorough or wasted > _DEAD_SHARE * size) and self._old(path) is not None:
                rewrite[name] = kept
                self._swept.objects += dead
                if self._swept.dry_run:
                    self._swept.bytes += wasted
            elif not dead and size < _SMALL_PACK and path.stat().st_mtime <= self._limit:
                small[name] = kept
        if len(small) >= _MANY_SMALL:
            rewrite |= small
        if rewrite:
            self._swept.rewritten += len(rewrite)
            if not self._swept.dry_run:
                before = sum(self._store.pack_path(name).stat().st_size for name in rewrite)
                after, spared = rewrite_packs(self._registry, rewrite, progress=progress)
                self._swept.notes += spared
                self._swept.bytes += max(before - after, 0)

    def _largest_first(self) -> list[str]:
        """Return the packs so that one whose objects all lie in another too, as after a kill, comes after that."""
        sizes = {name: self._store.pack_path(name).stat().st_size for name in self._store.pack_names()}
        return sorted(sizes, key=lambda name: (-sizes[name], name))

    def _sound(self, name: str, raw: bytes) -> bool:
        pack = self._store.pack(name)
        return is_digest_of(pack.read(*pack.members[raw]), Digest.chunked(raw))

    def _is_whole(self, name: str) -> bool:
        """True unless a pack is damaged: then what its directory does not name may be used all the same."""
        whole = _is_whole(self._store.pack_path(name))
        if not whole:
            self._swept.notes.append(_spared(name))
        return whole

    def _temporary(self) -> None:
        for folder in self._store.abandoned():
            with contextlib.suppress(FileNotFoundError):  # its owner is removing it at this moment
                size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                self._swept.temporary += 1
                self._swept.bytes += size
                if not self._swept.dry_run:
                    shutil.rmtree(folder, ignore_errors=True)
        root = self._registry.root
        for path in self._registry.signs.dead_runs():
            self._swept.temporary += 1
            self._remove(path, path.stat())
        if not self._swept.dry_run:
            sweep_live(self._registry.storage, is_alive=self._registry.is_claimed, before=self._limit)
        places = (".", "manifests", "tombstones", "log/*/*")
        for path in [path for place in places for path in root.glob(f"{place}/.tmp-*")]:
            if self._grace <= 0 or _age(path) > _UNOWNED:  # nobody publishes now; the folder of the log may be made
                self._swept.temporary += 1
                self._remove(path, path.stat())


def rewrite_packs(
    registry: LocalRegistry,
    packs: Mapping[str, Collection[bytes]],
    *,
    despite_damage: bool = False,
    progress: Progress = SILENT,
) -> tuple[int, list[str]]:
    """Write packs anew with those of their members that are named; return new bytes and notes.

    Every member is verified on the way. A damaged pack stays as it is, and a note says so.
    """
    store = registry.objects
    notes: list[str] = []
    done: list[str] = []
    moved: set[bytes] = set()
    with stage(store) as staging, progress.task("Rewriting packs", None, unit="packs") as advance:
        for name, wanted in packs.items():
            pack = store.pack(name)
            pieces = [(raw, pack.read(*member)) for raw, member in pack.members.items() if raw in wanted]
            bad = {raw for raw, data in pieces if not is_digest_of(data, Digest.chunked(raw))}
            if not despite_damage and (bad or not _is_whole(store.pack_path(name))):
                notes.append(_spared(name, *bad))
                continue
            for raw, data in pieces:
                if raw not in moved:
                    staging.put_again(raw, data)
            moved |= {raw for raw, _ in pieces} - bad
            done.append(name)
            advance()
        staging.settle()
        new_names = set(staging.written)
    for name in done:
        if name not in new_names:  # written anew to the same bytes
            store.pack_path(name).unlink(missing_ok=True)
            store.close_pack(name)
    if done:
        fsync_folder(store.root / "packs")
    store.catalogue()
    return sum(store.pack_path(name).stat().st_size for name in new_names), notes


def _is_whole(pack: Path) -> bool:
    """True if a pack's bytes are those that it is named by."""
    try:
        return hash_file(pack)[0].hex == pack.stem
    except DataMismatchError:  # no file
        return False


def _spared(name: str, *bad: bytes) -> str:
    why = f"its object {bad[0].hex()[:12]} is corrupt" if bad else "its bytes are not those that it is named by"
    return f"Pack {name[:12]} was left alone: {why}."


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime
