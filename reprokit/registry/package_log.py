"""The logs of packages: what is published in which order, and where tags point.

An entry is created exclusively, names the digest of the one before, its package and its place, and seals its
own bytes: what was changed, moved or taken out shows.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import platform
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, get_args

from reprokit.core.canonical_json import canonical, spelled
from reprokit.core.refs import check_package_name
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError, RefusedError, UsageError
from reprokit.registry.base import Action, LogEntry
from reprokit.registry.seen import SeenLogs
from reprokit.store.storage import Storage

__all__ = ["LATEST", "PackageLogs", "Stamp", "check_permanent", "writer"]

LATEST = "latest"
"""The tag that every publication moves; it is never permanent."""

_MAX_LOG_ENTRY = 16 * 1024 * 1024
_DIGITS = 10
_FOLDER = "log"
_FIELDS = ("seq", "prev", "action", "top_hash", "time", "writer", "tags", "permanent", "note")
_ACTIONS = frozenset(get_args(Action))
_ENTRY = re.compile(r"[0-9]{10}")
_HASH = re.compile(r"[0-9a-f]{64}")


class Stamp(NamedTuple):
    """What a registry says of its making, for one that is to have the same bytes wherever and whenever it is written.

    Attributes:
        time: Nanoseconds since 1970 UTC.
    """

    uuid: str
    time: int
    writer: str


class _Versions(NamedTuple):
    """The versions of a package after an entry of its log, and that entry's SHA-256."""

    seq: int
    digest: str
    there: dict[str, None]


class PackageLogs:
    """`log/<ns>/<name>/<seq>`.

    Attributes:
        seen: What this machine saw of them last, if that is kept.
        announce: Called with package and number before an entry is created, if somebody is to hear of it.
    """

    def __init__(self, storage: Storage, *, stamp: Stamp | None = None) -> None:
        self.storage = storage
        self.seen: SeenLogs | None = None
        self.announce: Callable[[str, int], None] | None = None
        self._stamp = stamp
        self._last: dict[str, int] = {}  # the newest entry of a log that was seen
        self._versions: dict[str, _Versions] = {}

    def head(self, name: str) -> LogEntry | None:
        """Return the newest entry of a package's log, None if there is no such package."""
        check_package_name(name)
        seq = self._last_seq(name)
        if not seq:
            return None
        raw = self._read_raw(name, seq)
        entry = self._parse(raw, name, seq)
        self._note(name, seq, raw)
        return entry

    def entry(self, name: str, seq: int) -> LogEntry | None:
        """Return an entry of a log, None if there is none of that number; it may not be the newest."""
        check_package_name(name)
        try:
            raw = self.storage.read(_key(name, seq), max_bytes=_MAX_LOG_ENTRY)
        except FileNotFoundError:
            return None
        return self._parse(raw, name, seq)

    def entries(self, name: str) -> list[LogEntry]:
        """Return the whole log of a package, oldest first, its chain of digests verified.

        Raises:
            DataMismatchError: It is corrupt, or was rewritten; or it is shorter than what this machine saw of it.
        """
        check_package_name(name)
        entries: list[LogEntry] = []
        digests: list[str] = []
        previous: str | None = None
        seen = self.seen.of(name) if self.seen is not None else []
        for seq in range(1, self._last_seq(name) + 1):
            raw = self._read_raw(name, seq)
            entry = self._parse(raw, name, seq)
            if entry.prev != previous:
                raise DataMismatchError(
                    f"The history of {name} was rewritten: log entry {seq} follows {str(entry.prev)[:12]}…, "
                    f"but the entry before it is {str(previous)[:12]}….",
                    hint="Compare with another copy of the registry before you trust either.",
                )
            _check_tags(name, entries[-1] if entries else None, entry)
            previous = hashlib.sha256(raw).hexdigest()
            digests.append(previous)
            entries.append(entry)
        if self.seen is not None:
            self.seen.check(name, digests, seen)
        return entries

    def top_hashes(self, name: str) -> list[str]:
        """Return the versions that were published and not deleted since, oldest first; the chain is not verified."""
        check_package_name(name)
        last = self._last_seq(name)
        known = self._versions.get(name)
        if known is None or known.seq > last or self._digest_at(name, known.seq) != known.digest:
            known = _Versions(0, "", {})
        versions = dict(known.there)
        raw = b""
        for seq in range(known.seq + 1, last + 1):
            raw = self._read_raw(name, seq)
            entry = self._parse(raw, name, seq)
            if entry.action == "publish":
                versions.setdefault(entry.top_hash)
            elif entry.action == "delete":
                versions.pop(entry.top_hash, None)
        if raw:
            self._versions[name] = _Versions(last, hashlib.sha256(raw).hexdigest(), versions)
        return list(versions)

    def namespaces(self) -> list[str]:
        """Return the namespaces that have packages, sorted."""
        return sorted(self.storage.names(_FOLDER))

    def packages(self, namespace: str | None = None) -> Iterator[str]:
        """Yield package names, sorted."""
        for space in [namespace] if namespace else self.namespaces():
            for name in sorted(self.storage.names(f"{_FOLDER}/{space}")):
                with contextlib.suppress(UsageError):  # not a name, so not ours
                    yield check_package_name(f"{space}/{name}")

    def append(
        self,
        name: str,
        action: Action,
        top_hash: str,
        tags: Callable[[Mapping[str, str]], dict[str, str]],
        *,
        permanent: tuple[str, ...] = (),
        note: str | None = None,
    ) -> LogEntry:
        """Append to the log, on top of whatever came before it; a writer that comes first is built upon."""
        while True:
            seq = self._last_seq(name)
            last = self._read_raw(name, seq) if seq else None
            before = self._parse(last, name, seq) if last is not None else None
            after = tags(before.tags if before else {})
            if before is not None:
                check_permanent(name, before, [tag for tag in before.permanent if after.get(tag) != before.tags[tag]])
            entry = LogEntry(
                seq=seq + 1,
                prev=hashlib.sha256(last).hexdigest() if last is not None else None,
                action=action,
                top_hash=top_hash,
                time=self._stamp.time if self._stamp else max(time.time_ns(), before.time + 1 if before else 0),
                writer=self._stamp.writer if self._stamp else writer(),
                tags=after,
                permanent=tuple(sorted({*(before.permanent if before else ()), *permanent})),
                note=note,
            )
            body = {"package": name, **{key: getattr(entry, key) for key in _FIELDS}}
            raw = _sealed(canonical(spelled(body)))
            if len(raw) > _MAX_LOG_ENTRY:
                raise UsageError(
                    f"The log of {name} takes entries of {_MAX_LOG_ENTRY:,} bytes at most, not of {len(raw):,}.",
                    hint="Give a shorter message, or take tags away that are not needed any more.",
                )
            if self.announce is not None:
                self.announce(name, entry.seq)
            try:
                self.storage.create(_key(name, entry.seq), raw)
            except FileExistsError:
                continue
            self._last[name] = entry.seq
            self._note(name, entry.seq, raw)
            return entry

    def _note(self, name: str, seq: int, raw: bytes) -> None:
        """Remember the newest entry of a log, if that is kept."""
        if self.seen is not None:
            digest = hashlib.sha256(raw).hexdigest()
            self.seen.extend(name, seq, digest, lambda at: digest if at == seq else self._digest_at(name, at))

    def _last_seq(self, name: str) -> int:
        known = self._last.get(name, 0)
        if known and self.storage.listing_is_dear and self._is_last(name, known):
            return known
        names = self.storage.names(f"{_FOLDER}/{name}")
        found = max((int(name) for name in names if _ENTRY.fullmatch(name)), default=0)
        self._last[name] = found
        return found

    def _is_last(self, name: str, seq: int) -> bool:
        return self.storage.stat(_key(name, seq)) is not None and self.storage.stat(_key(name, seq + 1)) is None

    def _read_raw(self, name: str, seq: int) -> bytes:
        try:
            return self.storage.read(_key(name, seq), max_bytes=_MAX_LOG_ENTRY)
        except FileNotFoundError:
            raise DataMismatchError(
                f"The log of {name} has a gap: entry {seq} is missing from {self._place(name)}.",
                hint="Restore the file from another copy of the registry.",
            ) from None

    def _digest_at(self, name: str, seq: int) -> str | None:
        try:
            return hashlib.sha256(self.storage.read(_key(name, seq), max_bytes=_MAX_LOG_ENTRY)).hexdigest()
        except FileNotFoundError:
            return None

    def _place(self, name: str) -> str:
        return self.storage.name(f"{_FOLDER}/{name}")

    def _parse(self, raw: bytes, name: str, seq: int) -> LogEntry:
        return _parse(raw, name, seq, self._place(name))


def _key(name: str, seq: int) -> str:
    return f"{_FOLDER}/{name}/{seq:0{_DIGITS}d}"


def _check_tags(name: str, before: LogEntry | None, entry: LogEntry) -> None:
    """Raise DataMismatchError if an entry moves a tag that never moves: nobody can have written that honestly."""
    moved = [tag for tag in before.permanent if entry.tags.get(tag) != before.tags[tag]] if before is not None else []
    lost = [tag for tag in before.permanent if tag not in entry.permanent] if before is not None else []
    if moved or lost:
        tag = [*moved, *lost][0]
        raise DataMismatchError(
            f"The history of {name} was rewritten: log entry {entry.seq} moves the permanent tag {tag!r}.",
            hint="Compare with another copy of the registry before you trust either.",
        )


def _sealed(body: bytes) -> bytes:
    """Return a log entry's bytes: its JSON, and the SHA-256 of that, a line each."""
    return b"%s\n%s\n" % (body, hashlib.sha256(body).hexdigest().encode("ascii"))


def _parse(raw: bytes, name: str, seq: int, place: str) -> LogEntry:
    what = f"Log entry {seq} of {name}"
    if len(raw) > _MAX_LOG_ENTRY:
        raise DataMismatchError(f"{what} is longer than {_MAX_LOG_ENTRY:,} bytes ({place}).")
    body = raw.partition(b"\n")[0]
    if raw != _sealed(body):
        raise DataMismatchError(
            f"{what} is corrupt: its bytes are not those that were written ({place}).",
            hint="Restore the file from another copy of the registry.",
        )
    value = load_json(body, what=what, max_bytes=_MAX_LOG_ENTRY)
    if not _is_entry(value):
        raise DataMismatchError(f"{what} is malformed ({place}).", hint="Restore it from another copy of the registry.")
    if (value["package"], value["seq"]) != (name, seq):
        raise DataMismatchError(
            f"{what} is in the wrong place: it is entry {value['seq']} of {value['package']} ({place}).",
            hint="Restore the log from another copy of the registry.",
        )
    permanent = tuple(tag for tag in value["permanent"] if tag != LATEST)  # an older release allowed it: it moves again
    return LogEntry(**{**{key: value[key] for key in _FIELDS}, "permanent": permanent})


def _is_entry(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("package"), str)
        and type(value.get("seq")) is int
        and (value.get("prev") is None or _is_hash(value["prev"]))
        and isinstance(value.get("action"), str)
        and value["action"] in _ACTIONS
        and _is_hash(value.get("top_hash"))
        and type(value.get("time")) is int
        and isinstance(value.get("writer"), str)
        and isinstance(value.get("tags"), dict)
        and all(_is_hash(hash_) for hash_ in value["tags"].values())
        and isinstance(value.get("permanent"), list)
        and all(isinstance(tag, str) and tag in value["tags"] for tag in value["permanent"])
        and (value.get("note") is None or isinstance(value["note"], str))
        and set(value) == {"package", *_FIELDS}
    )


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def check_permanent(name: str, head: LogEntry, tags: Iterable[str], top_hash: str | None = None) -> None:
    """Raise RefusedError if one of the tags is permanent and would move; to `top_hash` it may, if it is there."""
    for tag in tags:
        if tag in head.permanent and head.tags[tag] != top_hash:
            raise RefusedError(
                f"The tag {tag!r} of {name} is permanent: it stays at {head.tags[tag][:12]}, and that version stays.",
                hint="Choose another tag.",
            )


def writer() -> str:
    """Return who writes: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{platform.node()}"
