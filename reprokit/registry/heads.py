"""How the logs of a namespace end: what a listing of thousands of runs shows, without a file being opened for each.

What is kept of it is for listings alone, and is checked against what says that a log has grown. Whatever decides
something reads the log itself.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from reprokit.core.atomic_files import os_errors
from reprokit.core.refs import check_package_name
from reprokit.errors import DataMismatchError, NotFoundError, UsageError
from reprokit.registry.base import Head, LogEntry, Registry
from reprokit.schema.facts import packed

__all__ = ["FolderHeads", "head_of", "heads_by_log", "keep_heads", "kept_heads"]

_FORM = 2
_UNSURE = 2.0  # seconds; a folder that changed since may change again without another time stamp


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    form: int
    heads: list[Head]
    known: list[str] = []


_DECODER = msgspec.msgpack.Decoder(_Kept)


def head_of(registry: Registry, entry: LogEntry, name: str, *, stamp: str, began: int) -> Head:
    """Return the end of a log, by its newest entry.

    A version whose header cannot be read has no facts, and no stamp: it is looked at again.
    """
    latest = entry.tags.get("latest") or (None if entry.action == "delete" else entry.top_hash)
    facts = b""
    try:
        facts = packed(registry.read_header(latest).get("user_meta")) if latest is not None else b""
    except (DataMismatchError, NotFoundError):
        stamp = ""
    return Head(name, stamp, entry.seq, latest, began, facts, sorted(entry.tags.keys() - {"latest"}))


def heads_by_log(registry: Registry, namespace: str) -> list[Head]:
    """Return how the logs of a namespace end, sorted by name; each is read."""
    found = []
    for name in registry.packages(namespace):
        entry = registry.head(name)
        if entry is not None:
            began = entry.time if entry.seq == 1 else registry.log(name)[0].time
            found.append(head_of(registry, entry, name, stamp="", began=began))
    return found


def kept_heads(registry: Registry, namespace: str) -> tuple[dict[str, Head], list[str]]:
    """Return what this machine keeps of a namespace, by name, and what was kept beside it; nothing is as good."""
    try:
        kept = _DECODER.decode(registry.recall(_source(namespace)) or b"")
    except msgspec.DecodeError:
        return {}, []
    return ({head.name: head for head in kept.heads}, kept.known) if kept.form == _FORM else ({}, [])


def keep_heads(registry: Registry, namespace: str, heads: Iterable[Head], known: Iterable[str] = ()) -> None:
    """Keep the heads of a namespace on this machine."""
    registry.remember(_source(namespace), msgspec.msgpack.encode(_Kept(_FORM, list(heads), sorted(known))))


def _source(namespace: str) -> str:
    return f"heads:{namespace}"  # no path that is built from begins so: those are absolute


class FolderHeads:
    """Of a registry in a folder: the log of a package is a folder, whose time stamp says that it has grown."""

    def __init__(self, registry: Registry, root: Path) -> None:
        self._registry = registry
        self._root = root
        self._heads: dict[str, dict[str, Head]] = {}

    def of(self, namespace: str) -> list[Head]:
        """Return the heads of a namespace as they are now, sorted by name."""
        registry = self._registry
        with os_errors(f"Listing {registry.url}"):
            stamps = dict(self._stamps(namespace))
        if namespace not in self._heads:
            self._heads[namespace] = kept_heads(registry, namespace)[0]
        before = self._heads[namespace]
        now: dict[str, Head] = {}
        for name in sorted(stamps):
            known = before.get(name)
            if known is not None and known.stamp == stamps[name] != "":
                now[name] = known
                continue
            entry = None
            with contextlib.suppress(UsageError):  # not a name, so not ours
                entry = registry.head(check_package_name(name))
            if entry is None:
                continue
            began = known.began if known is not None else entry.time if entry.seq == 1 else registry.log(name)[0].time
            now[name] = head_of(registry, entry, name, stamp=stamps[name], began=began)
        self._heads[namespace] = now
        if now != before:
            keep_heads(registry, namespace, now.values())
        return list(now.values())

    def _stamps(self, namespace: str) -> Iterator[tuple[str, str]]:
        late = time.time() - _UNSURE
        try:
            with os.scandir(self._root / "log" / namespace) as found:
                for one in found:
                    seen = one.stat()
                    sure = seen.st_mtime < late
                    stamp = f"{seen.st_mtime_ns}.{seen.st_ctime_ns}.{seen.st_ino}.{seen.st_size}" if sure else ""
                    yield f"{namespace}/{one.name}", stamp
        except (FileNotFoundError, NotADirectoryError):
            return
