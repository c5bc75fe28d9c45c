"""What keeps a registry in an object store small, without a lock: condemn, wait, look again, sweep.

1. What no version uses, and is older than the grace period, is condemned: a list of its keys is written.
2. Whoever publishes reads those lists, names none of their keys, and commits within half of the least grace period.
3. When a list is older than the grace period, its keys are swept, but for those that a version names by now. The list
   stays for a month, so that a sweeper that was asleep finds nothing of that name that anybody uses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from reprokit.core.atomic_files import os_errors
from reprokit.core.digest import Digest
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import DataMismatchError, RefusedError
from reprokit.registry.gc import GRACE, Swept
from reprokit.registry.live import sweep_live
from reprokit.registry.marks import Marks
from reprokit.registry.remote.condemned import COMMIT_WITHIN, Condemned, condemn, condemned_lists, mark_swept
from reprokit.registry.remote.heads import ANNOUNCED
from reprokit.registry.remote.purge import erase_purged
from reprokit.registry.remote.registry import RemoteRegistry
from reprokit.store.packs import PACK_NAME, Member
from reprokit.store.remote_places import object_of

__all__ = ["collect_remote_garbage"]

_KEPT = 30 * 24 * 3600.0  # seconds that a list stays after it was swept
_MANIFEST = re.compile(r"manifests/([0-9a-f]{64})(?:~[0-9])?\.jsonl\.gz")
_PASSING = ("probe", "clock")  # folders of what is there for a moment


def collect_remote_garbage(
    registry: RemoteRegistry, *, grace: float = GRACE, dry_run: bool = False, progress: Progress = SILENT
) -> Swept:
    """Sweep what was condemned long enough ago, and condemn what no version uses.

    Args:
        grace: Seconds; at least an hour, since who publishes is given half of that.
    Raises:
        RefusedError: The grace period is too short.
        DataMismatchError: A version cannot be read, so it is not known what is used; nothing was removed.
    """
    if grace < 2 * COMMIT_WITHIN:
        raise RefusedError(
            f"A grace period of {grace:,.0f} seconds is too short where nobody holds a lock: who publishes is given "
            f"{COMMIT_WITHIN:,.0f} seconds between looking and committing, and it is at least twice that.",
            hint=f"Give {2 * COMMIT_WITHIN:,.0f} seconds or more.",
        )
    registry.check_online("gc")
    swept = Swept(dry_run=dry_run)
    if not registry.opened:
        return swept
    with os_errors(f"Collecting garbage in {registry.url}"):
        _Collection(registry, grace=grace, swept=swept, progress=progress).run()
    return swept


class _Collection:
    def __init__(self, registry: RemoteRegistry, *, grace: float, swept: Swept, progress: Progress) -> None:
        self._registry = registry
        self._storage = registry.bare
        self._grace = grace
        self._swept = swept
        self._progress = progress

    def run(self) -> None:
        now = self._storage.now()
        lists = list(condemned_lists(self._storage))
        known = frozenset().union(*(one.keys for one in lists))
        for one in lists:
            if not one.swept and now - one.since >= self._grace:
                self._sweep(one, known)
            elif one.swept and now - one.since >= _KEPT and not self._swept.dry_run:
                self._storage.delete(one.key)
        new = self._unused(now, known)
        for folder in _PASSING:
            for stored in list(self._storage.walk(folder)):
                if now - stored.modified >= self._grace and not self._swept.dry_run:
                    self._storage.delete(stored.key)
        if new:
            self._swept.notes.append(
                f"{len(new):,} objects, packs and versions ({sum(new.values()):,} bytes) are used by nothing. They are "
                f"condemned{' then' if self._swept.dry_run else ''}, and a gc in {self._grace / 3600:g} hours removes "
                "them if they still are."
            )
            if not self._swept.dry_run:
                condemn(self._storage, new)
        if not self._swept.dry_run:
            try:
                erase_purged(self._registry)
            except DataMismatchError as error:
                self._swept.notes.append(error.message)
            sweep_live(self._storage, is_alive=self._registry.is_claimed, before=now - self._grace)
            for namespace in ANNOUNCED:
                self._registry.ends.rebuild(namespace)

    def _sweep(self, one: Condemned, known: frozenset[str]) -> None:
        """Remove what a list condemns, but for what is used and lies nowhere but under condemned keys.

        Another gc may be sweeping another list at this moment: what lies under its keys is not counted on.
        """
        used = _Used(self._registry, self._progress, dry_run=self._swept.dry_run)
        for key in sorted(one.keys):
            if used.needs(key, known):
                continue
            stored = self._storage.stat(key)
            if stored is None:
                continue
            self._swept.bytes += stored.size
            self._count(key)
            if not self._swept.dry_run:
                self._storage.delete(key)
                self._registry.forget(key)
        if not self._swept.dry_run:
            mark_swept(self._storage, one)

    def _count(self, key: str) -> None:
        if key.startswith("manifests/"):
            self._swept.versions += 1
        elif key.startswith("packs/"):
            self._swept.packs += 1
        else:
            self._swept.objects += 1

    def _unused(self, now: float, known: frozenset[str]) -> Mapping[str, int]:
        """Return what is to be condemned, with its sizes: old, used by nothing, and not condemned already."""
        found: dict[str, int] = {}
        listed = [stored for folder in ("manifests", "packs", "objects") for stored in self._storage.walk(folder)]
        old = [one for one in listed if now - one.modified >= self._grace and one.key not in known]
        used = _Used(self._registry, self._progress, dry_run=self._swept.dry_run)
        self._swept.kept = sum(now - one.modified < self._grace and not used.needs(one.key, known) for one in listed)
        for one in old:
            if not used.needs(one.key, known | found.keys()):
                found[one.key] = one.size
        return found


class _Used:
    """What versions use, as their logs stand now."""

    def __init__(self, registry: RemoteRegistry, progress: Progress, *, dry_run: bool) -> None:
        registry.look_again()
        self._marks = Marks(registry)
        if dry_run:
            self._marks.recall(progress)
        else:
            self._marks.update(progress)
        registry.objects.catalogue()
        self._members: Mapping[str, Mapping[bytes, Member]] = registry.objects.index.members()
        self._holding: dict[bytes, set[str]] = {}
        for pack, members in self._members.items():
            for raw in members:
                if raw in self._marks.chunked:
                    self._holding.setdefault(raw, set()).add(pack)

    def needs(self, key: str, but: frozenset[str] | set[str]) -> bool:
        """True if what lies under a key is used, and in no pack that is not among the keys `but`.

        What is not understood is taken to be used.
        """
        if (found := _MANIFEST.fullmatch(key)) is not None:
            return found[1] in self._marks.versions or found[1] in self._marks.bases
        if (named := object_of(key)) is not None:
            kind, hexadecimal, _ = named
            return self._marks.uses(Digest.named(kind, hexadecimal))
        name = key[6:-4]
        members = self._members.get(name)
        if not key.startswith("packs/") or not PACK_NAME.fullmatch(name) or members is None:
            return True
        return any(
            raw in self._marks.chunked
            and not any(other != name and f"packs/{other}.zip" not in but for other in self._holding[raw])
            for raw in members
        )
