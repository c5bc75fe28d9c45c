"""A package version as data: header, entries, top hash, and the JSON lines that Quilt reads. No I/O.

Source: quilt3 8.0 `Package._get_top_hash_parts`, `Package._dump`, `Package._load`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from reprokit.canonical import canonical
from reprokit.digest import Digest
from reprokit.errors import DataMismatchError, Error, NotFoundError
from reprokit.paths import check_logical_keys
from reprokit.untrusted import load_json

__all__ = ["Entry", "Manifest", "ManifestDiff"]

_MAX_LINE = 16 * 1024 * 1024
_MAX_MANIFEST = 2 * 1024 * 1024 * 1024
_DUMP = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class Entry:
    """One logical key of a version.

    Attributes:
        size: Length of the object in bytes.
        meta: JSON metadata; part of the top hash.
        physical_keys: URLs that hint at where the bytes are; not part of the top hash.
    """

    logical_key: str
    size: int
    digest: Digest
    meta: Mapping[str, Any] = field(default_factory=dict)
    physical_keys: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """The part of the entry that the top hash covers."""
        return {
            "hash": {"type": self.digest.type, "value": self.digest.value},
            "logical_key": self.logical_key,
            "meta": dict(self.meta),
            "size": self.size,
        }


@dataclass(frozen=True, slots=True)
class ManifestDiff:
    """Logical keys that differ between two versions, each list sorted."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True)
class Manifest:
    """An immutable version: `header` as hashed, `entries` sorted per folder level, `folders` with their metadata."""

    header: Mapping[str, Any]
    entries: tuple[Entry, ...]
    folders: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def make(
        cls,
        entries: Iterable[Entry],
        *,
        message: str | None = None,
        user_meta: Mapping[str, Any] | None = None,
    ) -> Manifest:
        """Return the version of these entries; without metadata the header has no `user_meta`, as in quilt3.

        Raises:
            UsageError: A key is not legal, or two clash.
        """
        header: dict[str, Any] = {"version": "v0", "message": message}
        if user_meta is not None:
            header = {"version": "v0", "user_meta": dict(user_meta), "message": message}
        ordered = tuple(sorted(entries, key=lambda entry: entry.logical_key.split("/")))
        check_logical_keys(entry.logical_key for entry in ordered)
        return cls(header, ordered)

    @property
    def message(self) -> str | None:
        value = self.header.get("message")
        return value if isinstance(value, str) else None

    @property
    def user_meta(self) -> Mapping[str, Any]:
        value = self.header.get("user_meta")
        return value if isinstance(value, dict) else {}

    @property
    def size(self) -> int:
        """Bytes of all entries together."""
        return sum(entry.size for entry in self.entries)

    @cached_property
    def top_hash(self) -> str:
        """64 hex digits that name this version."""
        state = hashlib.sha256(canonical(self.header))
        for entry in self.entries:
            state.update(canonical(entry.identity()))
        return state.hexdigest()

    @cached_property
    def by_key(self) -> Mapping[str, Entry]:
        return {entry.logical_key: entry for entry in self.entries}

    def __getitem__(self, key: str) -> Entry:
        try:
            return self.by_key[key]
        except KeyError:
            raise NotFoundError(
                f"No entry {key!r} in version {self.top_hash[:12]}, which has {len(self.entries):,} entries.",
                hint="`reprokit show NS/NAME@HASH` lists them.",
            ) from None

    def below(self, folder: str) -> tuple[Entry, ...]:
        """Entries under `folder/`."""
        prefix = folder.rstrip("/") + "/"
        return tuple(entry for entry in self.entries if entry.logical_key.startswith(prefix))

    def diff(self, newer: Manifest) -> ManifestDiff:
        """Return which keys `newer` adds, removes and changes (bytes or metadata)."""
        old, new = self.by_key, newer.by_key
        changed = [
            key
            for key, entry in old.items()
            if (other := new.get(key)) is not None and (entry.digest != other.digest or entry.meta != other.meta)
        ]
        return ManifestDiff(tuple(sorted(new.keys() - old)), tuple(sorted(old.keys() - new)), tuple(sorted(changed)))

    def encode(self) -> bytes:
        """Return the manifest as JSON lines, header first, as quilt3 writes them."""
        lines = [_DUMP(dict(self.header))]
        lines += [_DUMP({"logical_key": key, "meta": meta}) for key, meta in self.folders]
        lines += [
            _DUMP(
                {
                    "logical_key": entry.logical_key,
                    "physical_keys": list(entry.physical_keys),
                    "size": entry.size,
                    "hash": {"type": entry.digest.type, "value": entry.digest.value},
                    "meta": dict(entry.meta),
                }
            )
            for entry in self.entries
        ]
        return ("\n".join(lines) + "\n").encode()

    @staticmethod
    def decode_header(first_line: bytes, *, what: str) -> dict[str, Any]:
        """Return the header of an untrusted manifest whose first line this is; its hash is not checked here."""
        header = load_json(first_line, what=f"The header of {what}", max_bytes=_MAX_LINE)
        if not isinstance(header, dict) or header.get("version") != "v0":
            raise DataMismatchError(f"{what} is not a manifest of version 'v0'.")
        header.pop("top_hash", None)  # written by very old quilt3, never hashed
        return header

    @classmethod
    def decode(cls, data: bytes, *, top_hash: str, what: str) -> Manifest:
        """Parse an untrusted manifest and check that its content is what `top_hash` names.

        Raises:
            DataMismatchError: Malformed, an illegal or repeated key, or another top hash than expected.
        """
        if len(data) > _MAX_MANIFEST:
            raise DataMismatchError(f"{what} is {len(data):,} bytes long; at most {_MAX_MANIFEST:,} are read.")
        lines = data.splitlines()
        if not lines:
            raise DataMismatchError(f"{what} is empty.", hint="Run `reprokit verify --all`.")
        header = cls.decode_header(lines[0], what=what)
        entries: list[Entry] = []
        folders: list[tuple[str, Any]] = []
        for number, line in enumerate(lines[1:], 2):
            raw = load_json(line, what=f"Line {number} of {what}", max_bytes=_MAX_LINE)
            if not isinstance(raw, dict) or not isinstance(raw.get("logical_key"), str):
                raise DataMismatchError(f"Line {number} of {what} is not an entry.")
            if not raw.get("physical_keys"):
                folders.append((raw["logical_key"], raw.get("meta")))
            else:
                entries.append(_entry(raw, where=f"Line {number} of {what}"))
        ordered = tuple(sorted(entries, key=lambda entry: entry.logical_key.split("/")))
        manifest = cls(header, ordered, tuple(folders))
        if manifest.top_hash != top_hash:
            raise DataMismatchError(
                f"{what} is corrupt: expected top hash {top_hash[:12]}…, its content has {manifest.top_hash[:12]}….",
                hint="Restore it from another copy of the registry; nothing of it was used.",
            )
        try:
            check_logical_keys(entry.logical_key for entry in ordered)
        except Error as error:
            raise DataMismatchError(f"{what} is refused: {error.message}") from None
        return manifest


def _entry(raw: dict[str, Any], *, where: str) -> Entry:
    size, meta, keys, hash_ = raw.get("size"), raw.get("meta"), raw["physical_keys"], raw.get("hash")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise DataMismatchError(f"{where}: size must be a number of bytes, not {size!r}.")
    if not isinstance(hash_, dict):
        raise DataMismatchError(f"{where}: hash must be an object with type and value.")
    if (
        not (meta is None or isinstance(meta, dict))
        or not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
    ):
        raise DataMismatchError(f"{where}: meta must be an object and physical_keys a list of strings.")
    return Entry(
        raw["logical_key"], size, Digest.checked(hash_.get("type"), hash_.get("value")), meta or {}, tuple(keys)
    )
