"""Where the objects of a registry in an object store lie.

    packs/<hex>.zip                            as in a folder, of some 64 MiB at most
    objects/<algorithm>/<2 hex>/<rest>         an object of 1 MiB or more
    objects/<algorithm>/<2 hex>/<rest>/<part>  one of more than 64 MiB, in parts of that size, 00000, 00001, …
    tombstones/<algorithm>-<hex>.json          one that was erased for good

What gc has condemned is never used again: it is stored anew, a pack with one member more, an object as `<rest>~1`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from typing import TypeVar

from reprokit.core.digest import CHUNKED, Digest
from reprokit.core.safe_json import load_json
from reprokit.errors import NotFoundError, RefusedError
from reprokit.schema.manifest import Manifest
from reprokit.store.index import Index, PackPlace
from reprokit.store.manifests import GENERATIONS
from reprokit.store.objects import hint_of, purged_sentence
from reprokit.store.packs import PACK_NAME, SMALL, Member, directory_size, parse_directory
from reprokit.store.storage import Storage

__all__ = ["PART", "RemotePlaces", "fits", "is_small", "later_of", "object_of"]

PART = 64 * 1024 * 1024  # bytes; of a part, and of a pack but for its last member
_THREADS = 16
_TAIL = 64 * 1024  # bytes; a pack's directory is often no longer
_MAX_TOMBSTONE = 1024 * 1024
_OBJECT = re.compile(r"objects/([A-Za-z0-9-]+)/([0-9a-f]{2})/([0-9a-f]+)(?:~([1-7]))?(?:/[0-9]{5})?")
_TOMBSTONE = re.compile(r"[A-Za-z0-9-]+-[0-9a-f]{16,128}\.json")
_MANY = 64  # large objects; of more, all that are there are listed
_T = TypeVar("_T")
_R = TypeVar("_R")


class RemotePlaces:
    """See the module. Safe for several threads.

    Attributes:
        avoid: Keys that gc has condemned: no new version may name them.
    """

    def __init__(self, storage: Storage, index: Index) -> None:
        """Look into a storage.

        Args:
            index: Of what lies where in it.
        """
        self.storage = storage
        self.index = index
        self._stored: dict[tuple[Digest, int], int] = {}  # large ones that are there → their generation
        self._listed: set[str] | None = None  # packs that were there when it was last looked
        self._purged: set[tuple[str, str]] | None = None
        self.avoid: frozenset[str] = frozenset()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_THREADS, thread_name_prefix="reprokit-fetch")

    def pack_key(self, name: str) -> str:
        return f"packs/{name}.zip"

    def object_key(self, digest: Digest, generation: int = 0) -> str:
        hexadecimal = digest.hex
        later = f"~{generation}" if generation else ""
        return f"objects/{digest.type}/{hexadecimal[:2]}/{hexadecimal[2:]}{later}"

    def parts(self, digest: Digest, size: int, generation: int = 0) -> list[tuple[str, int, int]]:
        """Return key, offset and length of each part of a large object; one that is not in parts is one."""
        key = self.object_key(digest, generation)
        if size <= PART:
            return [(key, 0, size)]
        return [(f"{key}/{at // PART:05d}", at, min(PART, size - at)) for at in range(0, size, PART)]

    def pack_names(self) -> set[str]:
        """Return the packs that are there now."""
        names = self.storage.names("packs")
        found = {name[:-4] for name in names if name.endswith(".zip") and PACK_NAME.fullmatch(name[:-4])}
        self._listed = set(found)
        return found

    @property
    def listed(self) -> set[str]:
        """The packs that were there when it was last looked."""
        return set(self._listed or ())

    def look_again(self, avoid: frozenset[str]) -> None:
        """Take note of what gc has condemned, and look anew for what is there when it is asked for next."""
        self.avoid = avoid
        self._listed = None
        self._purged = None
        self._stored.clear()

    def catalogue(self) -> set[str]:
        """Bring the index up to date with the packs that are there, and return those that are in it.

        A damaged pack is left out: nothing is in it.
        """
        there: dict[str, int] = {}
        for stored in self.storage.walk("packs"):
            name = stored.key[6:-4]
            if stored.key.endswith(".zip") and PACK_NAME.fullmatch(name):
                there[name] = stored.size
        self._listed = set(there)
        known = self.index.packs()
        self.index.drop_packs(known - there.keys())
        new = sorted(there.keys() - known)
        listed = known & there.keys()
        for name, members in zip(new, self._map(lambda name: self._directory(name, there[name]), new), strict=True):
            if members is not None:
                self.index.add_pack(name, members)
                listed.add(name)
        return listed

    def _directory(self, name: str, size: int) -> Mapping[bytes, Member] | None:
        key = self.pack_key(name)
        with suppress(FileNotFoundError, ValueError):
            tail = self.storage.read_range(key, max(0, size - _TAIL), min(_TAIL, size))
            length = directory_size(tail, size)
            if length > len(tail):
                tail = self.storage.read_range(key, size - length, length)
            if len(tail) >= length:
                return parse_directory(tail[-length:], size)
        return None

    def find(
        self, digests: Iterable[Digest], *, but: Container[str] = (), hasty: bool = False
    ) -> dict[Digest, PackPlace]:
        """Return where objects lie in packs, for those that do; only packs that exist are named.

        Args:
            but: Keys of packs that do not count.
            hasty: What came since it was last looked need not be found.
        """
        wanted = {digest.raw: digest for digest in digests if digest.type == CHUNKED}
        if not wanted:
            return {}
        looked = self._listed is None
        found = self._known(wanted, self._listed, but)
        if len(found) < len(wanted) and not (looked or hasty):
            found = self._known(wanted, self.pack_names(), but)
        return {wanted[raw]: place for raw, place in found.items() if raw in wanted}

    def _known(self, raws: Iterable[bytes], there: set[str] | None, but: Container[str]) -> dict[bytes, PackPlace]:
        if there is None or there - self.index.packs():
            there = self.catalogue()
        return self.index.places(raws, {name for name in there if self.pack_key(name) not in but} if but else there)

    def stored(self, objects: Iterable[tuple[Digest, int]]) -> dict[tuple[Digest, int], int]:
        """Return which objects of 1 MiB or more are there, whole by their lengths and not condemned.

        Returns:
            The generation of each.
        """
        asked = set(objects)
        known = {
            one: generation
            for one, generation in self._stored.items()
            if one in asked and not self._is_condemned(*one, generation)
        }
        unknown = sorted(asked - known.keys(), key=lambda one: (one[0].type, one[0].hex))
        if len(unknown) > _MANY:
            lengths = {one.key: one.size for one in self.storage.walk("objects")}
            found = [self._whole(*one, range(GENERATIONS), lambda _: lengths) for one in unknown]
        else:
            found = list(self._map(self._looked_for, unknown))
        known |= {one: generation for one, generation in zip(unknown, found, strict=True) if generation is not None}
        self._stored |= known
        return known

    def _is_condemned(self, digest: Digest, size: int, generation: int) -> bool:
        return bool(self.avoid) and any(key in self.avoid for key, _, _ in self.parts(digest, size, generation))

    def _looked_for(self, one: tuple[Digest, int]) -> int | None:
        found = self._whole(*one, (0,), self._lengths)
        if found is None:  # few have a later generation
            folder, _, name = self.object_key(one[0]).rpartition("/")
            listed = self.storage.names(folder, after=name)
            later = (int(rest) for rest in (later_of(there, name) for there in listed) if rest)
            found = self._whole(*one, sorted(later), self._lengths)
        return found

    def _whole(
        self,
        digest: Digest,
        size: int,
        generations: Iterable[int],
        lengths_of: Callable[[list[str]], Mapping[str, int]],
    ) -> int | None:
        """Return the first of these generations of an object that is there whole, None if none is."""
        for generation in generations:
            if not self._is_condemned(digest, size, generation):
                parts = self.parts(digest, size, generation)
                lengths = lengths_of([key for key, _, _ in parts])
                if all(lengths.get(key) == length for key, _, length in parts):
                    return generation
        return None

    def _lengths(self, keys: list[str]) -> Mapping[str, int]:
        if len(keys) == 1:
            stored = self.storage.stat(keys[0])
            return {} if stored is None else {stored.key: stored.size}
        return {one.key: one.size for one in self.storage.walk(keys[0].rpartition("/")[0])}

    def free(self, digest: Digest, size: int) -> int:
        """Return the first generation that nothing of was condemned."""
        return next(number for number in range(GENERATIONS) if not self._is_condemned(digest, size, number))

    def sent(self, generations: Mapping[tuple[Digest, int], int]) -> None:
        """Take note of large objects that are there now."""
        self._stored |= generations

    def sent_pack(self, name: str, members: Mapping[bytes, Member]) -> None:
        """Take note of a pack that is there now."""
        self.index.add_pack(name, members)
        if self._listed is not None:
            self._listed.add(name)

    def lacking(self, objects: Iterable[tuple[Digest, int]]) -> list[tuple[Digest, int]]:
        """Return those that are not there."""
        asked = list(dict.fromkeys(objects))
        packed = self.find((digest for digest, size in asked if is_small(digest, size)), but=self.avoid, hasty=True)
        large = self.stored(one for one in asked if not is_small(*one))
        return [
            (digest, size)
            for digest, size in asked
            if ((digest, size) not in large if not is_small(digest, size) else not fits(packed.get(digest), size))
        ]

    def locate(self, manifest: Manifest) -> Manifest:
        """Return the version with the physical key of each entry's object, which exists.

        Raises:
            NotFoundError: One is not there; the first such entry is named.
        """
        listed = self.pack_names() if self._listed is None else self._listed
        packs = {name for name in listed if self.pack_key(name) not in self.avoid}
        places = list(manifest.places)
        missing: list[int] = []
        for position, place in enumerate(places):
            if not (place[:6] == "packs/" and place[6:70] in packs):
                missing.append(position)
        entries = [manifest.entries[position] for position in missing]
        small = [entry.digest for entry in entries if is_small(entry.digest, entry.size)]
        found = self.find(small, but=self.avoid)
        large = self.stored((one.digest, one.size) for one in entries if not is_small(one.digest, one.size))
        for position, entry in zip(missing, entries, strict=True):
            there = found.get(entry.digest)
            if (entry.digest, entry.size) in large:
                places[position] = self.object_key(entry.digest, large[entry.digest, entry.size])
            elif there is not None and fits(there, entry.size):
                places[position] = hint_of(*there)
            else:
                raise NotFoundError(
                    f"The object of {entry.logical_key!r} ({entry.digest.hex[:12]}…, {entry.size:,} bytes) "
                    f"is not in {self.storage.url}.",
                    hint="Build the version again.",
                )
        return manifest.placed(places)

    def tombstone_key(self, digest: Digest) -> str:
        return f"tombstones/{digest.type}-{digest.hex}.json"

    def purged_now(self) -> set[tuple[str, str]]:
        """Return kind and hex of every digest that a tombstone names."""
        found = {
            tuple(name.removesuffix(".json").rpartition("-")[::2])
            for name in self.storage.names("tombstones")
            if _TOMBSTONE.fullmatch(name)
        }
        self._purged = {(kind, hexadecimal) for kind, hexadecimal in found}
        return set(self._purged)

    def refuse_purged(self, digests: Iterable[Digest]) -> None:
        """Raise RefusedError for the first of these that was erased for good."""
        if self._purged is None:
            self.purged_now()
        for digest in digests:
            if (digest.type, digest.hex) in (self._purged or ()):
                raise RefusedError(
                    f"Object {digest.hex[:12]}… is not stored again. {self.tombstone(digest)}",
                    hint="Leave the file out, or remove the tombstone from the registry if it may be kept after all.",
                )

    def tombstone(self, digest: Digest) -> str | None:
        """Return when and why an object was erased, as a sentence; None if it was not."""
        key = self.tombstone_key(digest)
        try:
            raw = self.storage.read(key, max_bytes=_MAX_TOMBSTONE)
        except FileNotFoundError:
            return None
        return purged_sentence(load_json(raw, what=self.storage.name(key), max_bytes=_MAX_TOMBSTONE))

    def _map(self, action: Callable[[_T], _R], items: Sequence[_T]) -> Iterator[_R]:
        """Yield the results in order; never more than some are waiting to be taken."""
        waiting: list[Future[_R]] = []
        for item in items:
            waiting.append(self._pool.submit(action, item))
            if len(waiting) >= _THREADS:
                yield waiting.pop(0).result()
        for one in waiting:
            yield one.result()


def later_of(name: str, first: str) -> str:
    """Return the digit of a later generation of a name, "" if it is none."""
    stem, sign, rest = name.rpartition("~")
    return rest if sign and stem == first and len(rest) == 1 and "1" <= rest < str(GENERATIONS) else ""


def object_of(key: str) -> tuple[str, str, int] | None:
    """Return kind, hex and generation of the large object that a key is of; None if it is of none."""
    found = _OBJECT.fullmatch(key)
    if found is None or len(found[3]) % 2:
        return None
    return found[1], found[2] + found[3], int(found[4] or 0)


def is_small(digest: Digest, size: int) -> bool:
    """True if the object lies in a pack."""
    return size < SMALL and digest.type == CHUNKED


def fits(place: PackPlace | None, size: int) -> bool:
    """True if something of that size lies there."""
    return place is not None and place[1].size == size
