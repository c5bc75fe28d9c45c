"""How the logs of runs and verdicts end in an object store, known from two listings, and not from one for each run.

    recent/<namespace>/<name>/<seq>      empty: entry <seq> of that log is about to be written
    heads/<namespace>/<sha256>           how logs ended, when what was recent was folded into it

An entry is announced before it is created, so no entry is missed by who lists `recent/` and then `heads/`: what is
folded stands in `heads/` before its announcement goes, and folds that are joined stand there before theirs go. Nothing
of it is needed: `gc` writes all of it anew from the logs, and whatever decides something reads a log itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import zlib
from collections.abc import Iterable, Iterator

import msgspec

from reprokit.core.atomic_files import os_errors
from reprokit.core.refs import RESERVED, VERDICTS, check_package_name
from reprokit.errors import DataMismatchError, UsageError
from reprokit.registry.base import Head, side_by_side
from reprokit.registry.heads import head_of, keep_heads, kept_heads
from reprokit.registry.remote.condemned import COMMIT_WITHIN
from reprokit.registry.stored import StoredRegistry
from reprokit.store.storage import Storage, Stored

__all__ = ["ANNOUNCED", "RemoteHeads"]

ANNOUNCED = (RESERVED, VERDICTS)
"""The namespaces of which listings are quick."""

_RECENT, _FOLDS = "recent", "heads"
_MANY = 256  # announcements that are folded
_FEW = 32  # folds beside those that are full; more are joined
_LONGEST = 20_000  # heads of a fold
_LARGEST = 16 * 1024 * 1024  # bytes of heads in a fold, but for the last
_MAX_FOLD = _MAX_HEADS = 64 * 1024 * 1024  # bytes that are read of one, and of what is in it
_ATTEMPTS = 5  # to read folds that others join meanwhile
_ANNOUNCEMENT = re.compile(r"recent/([^/]+/[^/]+)/([0-9]{10})")
_FOLD = re.compile(r"[0-9a-f]{64}")
_REMEDY = "`reprokit gc` writes that anew."
_DECODER = msgspec.msgpack.Decoder(list[Head])


class RemoteHeads:
    """See the module."""

    def __init__(self, registry: StoredRegistry, storage: Storage) -> None:
        """Tell of a registry.

        Args:
            storage: Where it lies; nothing of it is kept near.
        """
        self._registry = registry
        self._storage = storage
        self._heads: dict[str, dict[str, Head]] = {}
        self._folds: dict[str, set[str]] = {}  # those whose heads are known
        self._locks = {namespace: threading.Lock() for namespace in ANNOUNCED}

    def announce(self, name: str, seq: int) -> None:
        """Say that an entry is about to be created."""
        if name.partition("/")[0] in ANNOUNCED:
            self._storage.put(f"{_RECENT}/{name}/{seq:010d}", b"")

    def of(self, namespace: str) -> list[Head]:
        """Return the heads of a namespace as they are now, sorted by name."""
        with os_errors(f"Listing {self._registry.url}"), self._locks[namespace]:
            self._bring(namespace)
            return sorted(self._heads[namespace].values(), key=_by_name)

    def fold(self, namespace: str, *, least: int = _MANY) -> None:
        """Fold what was announced, if it is so many, into one object, and join the folds if they are many."""
        with os_errors(f"Listing {self._registry.url}"), self._locks[namespace]:
            if len(self._storage.names(f"{_RECENT}/{namespace}")) < least:  # packages, of which each has some
                return
            recent = self._bring(namespace)
            heads, folds = self._heads[namespace], self._folds[namespace]
            said = {found[1] for stored in recent if (found := _ANNOUNCEMENT.fullmatch(stored.key)) is not None}
            if len(folds) > _FEW + len(heads) // _LONGEST:
                said, gone = set(heads), sorted(folds)
            else:
                gone = []
            new = self._write(namespace, [heads[name] for name in sorted(said) if name in heads])
            self._folds[namespace] = new if gone else folds | new
            keep_heads(self._registry, namespace, heads.values(), self._folds[namespace])
            self._clear(recent, heads)
            for name in gone:
                if name not in new:
                    self._storage.delete(f"{_FOLDS}/{namespace}/{name}")

    def rebuild(self, namespace: str) -> None:
        """Write the heads of a namespace anew from the logs, whatever was kept of them."""
        with os_errors(f"Listing {self._registry.url}"), self._locks[namespace]:
            recent = list(self._storage.walk(f"{_RECENT}/{namespace}"))
            folds = self._fold_names(namespace)
            self._heads[namespace] = {}
            heads = self._heads[namespace] = self._from_logs(namespace)
            new = self._write(namespace, sorted(heads.values(), key=_by_name))
            self._folds[namespace] = new
            keep_heads(self._registry, namespace, heads.values(), new)
            self._clear(recent, heads)
            for name in folds - new:
                self._storage.delete(f"{_FOLDS}/{namespace}/{name}")

    def problems(self, namespace: str) -> list[str]:
        """Return, in sentences, where what listings are told of a namespace is not as its logs are."""
        with os_errors(f"Verifying {self._registry.url}"):
            fresh = RemoteHeads(self._registry, self._storage)
            fresh._heads[namespace], fresh._folds[namespace] = {}, set()
            logged = fresh._from_logs(namespace)
            found = []
            for name in sorted(self._fold_names(namespace)):
                try:
                    self._read(namespace, name)
                except FileNotFoundError:  # joined with others meanwhile
                    pass
                except DataMismatchError as error:
                    found.append(error.message)
            if found:
                return found
            recent = list(self._storage.walk(f"{_RECENT}/{namespace}"))
            fresh._folded(namespace)
            if not recent and not fresh._folds[namespace]:
                return []  # the logs are listed
            heads = fresh._heads[namespace]
            heads.update(fresh._announced(recent, heads))
            for name in sorted({*heads, *logged}):
                told, true = heads.get(name), logged.get(name)
                if told is not None and (true is None or told.seq > true.seq):
                    entry = self._registry.history.entry(name, told.seq)
                    true = None if entry is None else fresh._head(name, [told.seq], {})
                if told != true:
                    found.append(f"Listings of {self._registry.url} are told wrongly how {name} ended. {_REMEDY}")
            return found

    def _bring(self, namespace: str) -> list[Stored]:
        """Bring the heads up to date; return what was announced."""
        if namespace not in self._heads:
            self._heads[namespace], known = kept_heads(self._registry, namespace)
            self._folds[namespace] = set(known)
        heads, folds = self._heads[namespace], self._folds[namespace]
        before = dict(heads), set(folds)
        recent = list(self._storage.walk(f"{_RECENT}/{namespace}"))
        if not self._folded(namespace) or not (recent or folds):  # as of a folder that is served: it has neither
            logged = self._from_logs(namespace)
            heads.clear()
            heads.update(logged)
        else:
            for name, head in self._announced(recent, heads):
                heads[name] = head
        if (heads, folds) != before:
            keep_heads(self._registry, namespace, heads.values(), folds)
        return recent

    def _folded(self, namespace: str) -> bool:
        """Take in what was folded since; return whether all of it could be read."""
        heads, folds = self._heads[namespace], self._folds[namespace]
        for _ in range(_ATTEMPTS):
            there = self._fold_names(namespace)
            if not folds <= there:  # joined, or written anew because they were wrong: what was taken from them goes too
                heads.clear()
                folds.clear()
            new = sorted(there - folds)
            try:
                for found in side_by_side(lambda name: self._read(namespace, name), new, self._registry):
                    for head in found:
                        if head.name not in heads or heads[head.name].seq < head.seq:
                            heads[head.name] = head
            except FileNotFoundError:  # it was joined with others meanwhile
                continue
            except DataMismatchError:  # which `verify` tells
                return False
            folds.clear()
            folds.update(there)
            return True
        return False  # it is listed, and is not there

    def _fold_names(self, namespace: str) -> set[str]:
        return {name for name in self._storage.names(f"{_FOLDS}/{namespace}") if _FOLD.fullmatch(name)}

    def _read(self, namespace: str, name: str) -> list[Head]:
        key = f"{_FOLDS}/{namespace}/{name}"
        data = self._storage.read(key, max_bytes=_MAX_FOLD)
        if hashlib.sha256(data).hexdigest() != name:
            raise DataMismatchError(f"{self._storage.name(key)} is corrupt. {_REMEDY}")
        unpacking = zlib.decompressobj()
        try:
            heads = _DECODER.decode(unpacking.decompress(data, _MAX_HEADS))
            well = unpacking.eof and all(_is_well(head, namespace) for head in heads)
        except (zlib.error, msgspec.DecodeError, UsageError):
            well = False
        if not well:
            raise DataMismatchError(f"{self._storage.name(key)} is malformed. {_REMEDY}")
        return heads

    def _write(self, namespace: str, heads: list[Head]) -> set[str]:
        """Store heads; return the names of what they are in. One that is not sure of itself is announced on."""
        names = set()
        for part in _parts([head for head in heads if head.stamp]):
            data = zlib.compress(msgspec.msgpack.encode(part))
            name = hashlib.sha256(data).hexdigest()
            self._storage.put(f"{_FOLDS}/{namespace}/{name}", data)
            names.add(name)
        return names

    def _clear(self, recent: Iterable[Stored], heads: dict[str, Head]) -> None:
        """Take announcements back that are folded, or of which nothing came and nothing can come any more."""
        now: float | None = None
        gone = []
        for stored in recent:
            found = _ANNOUNCEMENT.fullmatch(stored.key)
            head = heads.get(found[1]) if found is not None else None
            if found is not None and head is not None and head.stamp and int(found[2]) <= head.seq:
                gone.append(stored.key)
                continue
            now = self._storage.now() if now is None else now
            if now - stored.modified > 2 * COMMIT_WITHIN and (head is None or head.stamp):
                gone.append(stored.key)
        side_by_side(self._storage.delete, gone, self._registry)

    def _announced(self, recent: Iterable[Stored], heads: dict[str, Head]) -> Iterator[tuple[str, Head]]:
        """Yield the heads of logs that have grown."""
        newest: dict[str, list[int]] = {}
        for stored in recent:
            found = _ANNOUNCEMENT.fullmatch(stored.key)
            if found is not None:
                known = heads.get(found[1])
                if known is None or not known.stamp or known.seq < int(found[2]):
                    newest.setdefault(found[1], []).append(int(found[2]))
        read = side_by_side(lambda name: self._head(name, newest[name], heads), list(newest), self._registry)
        for name, head in zip(newest, read, strict=True):
            if head is not None:
                yield name, head

    def _head(self, name: str, seqs: list[int], heads: dict[str, Head]) -> Head | None:
        """Return the newest head among these entries, as far as there are any."""
        for seq in sorted(seqs, reverse=True):
            entry = self._registry.history.entry(name, seq)
            if entry is None:  # it was announced, and is still to come, or never came
                continue
            known = heads.get(name)
            if known is not None:
                began = known.began
            else:
                first = entry if seq == 1 else self._registry.history.entry(name, 1)
                began = first.time if first is not None else entry.time
            return head_of(self._registry, entry, name, stamp=str(seq), began=began)
        return None

    def _from_logs(self, namespace: str) -> dict[str, Head]:
        """Return the heads as the logs are, whatever was announced or folded."""
        newest: dict[str, list[int]] = {}
        for stored in self._storage.walk(f"log/{namespace}"):
            _, space, name, seq = [*stored.key.split("/"), "", "", ""][:4]
            with contextlib.suppress(UsageError, ValueError):
                newest[check_package_name(f"{space}/{name}")] = [int(seq)]
        known = self._heads.get(namespace, {})
        left = [name for name, (seq,) in newest.items() if name not in known or known[name].stamp != str(seq)]
        found = {name: known[name] for name in newest if name in known}
        read = side_by_side(lambda name: self._head(name, newest[name], {}), left, self._registry)
        for name, head in zip(left, read, strict=True):
            if head is not None:
                found[name] = head
        return found


def _parts(heads: list[Head]) -> Iterator[list[Head]]:
    """Yield what goes into one fold each: neither too many nor too much."""
    part: list[Head] = []
    size = 0
    for head in heads:
        part.append(head)
        size += len(head.facts)
        if len(part) >= _LONGEST or size > _LARGEST:
            yield part
            part, size = [], 0
    if part:
        yield part


def _is_well(head: Head, namespace: str) -> bool:
    """True if a head can be one of the namespace; UsageError if its name is none."""
    return head.seq > 0 and head.stamp == str(head.seq) and check_package_name(head.name).startswith(f"{namespace}/")


def _by_name(head: Head) -> str:
    return head.name
