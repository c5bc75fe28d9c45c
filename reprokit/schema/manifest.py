"""A package version as data: header, entries, top hash, and the JSON lines that Quilt reads. No I/O.

Lines in the form that `encode` writes are read by one pattern over the whole text, a million of them in seconds;
whatever else is JSON is read line by line. Either way the content must give the top hash that names it.

Source: quilt3 8.0 `Package._get_top_hash_parts`, `Package._dump`, `Package._load`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, NamedTuple, overload

from reprokit.core.canonical_json import canonical, spelled
from reprokit.core.digest import CHUNKED, Digest
from reprokit.core.logical_keys import check_logical_keys
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError, Error, NotFoundError, UsageError

__all__ = ["MAX_ENTRIES", "MAX_LINE", "MAX_MANIFEST", "Entry", "Manifest", "ManifestDiff"]

MAX_MANIFEST = 2 * 1024 * 1024 * 1024  # bytes
MAX_ENTRIES = 5_000_000
MAX_LINE = 16 * 1024 * 1024  # bytes of the header, and of an entry with its metadata
_MAX_SIZE = 10**18
_BATCH = 8192
_DUMP = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_NO_META: Mapping[str, Any] = {}

# An entry exactly as `encode` writes it: key, physical key, size, digest, metadata. Nothing in it is escaped.
_LINE = re.compile(
    r'^\{"logical_key": "([^"\\\x00-\x1f]+)", "physical_keys": \["([^"\\\x00-\x1f]+)"\], "size": (0|[1-9]\d{0,17}), '
    r'"hash": \{"type": "sha2-256-chunked", "value": "([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)"\}, "meta": (\{.*\})\}\n',
    re.MULTILINE,
)


class Entry(NamedTuple):
    """One logical key of a version. A tuple, because versions of a million entries are built of them.

    Attributes:
        size: Length of the object in bytes.
        meta: JSON metadata; part of the top hash.
        physical_keys: URLs, or paths below the registry, that hint at where the bytes are; not part of the top hash.
    """

    logical_key: str
    size: int
    digest: Digest
    meta: Mapping[str, Any] = _NO_META
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
    entries: Sequence[Entry]
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
        header: dict[str, Any] = {"version": "v0", "message": spelled(message)}
        if user_meta is not None:
            header = {"version": "v0", "user_meta": dict(user_meta), "message": spelled(message)}
        ordered = tuple(sorted(entries, key=_order))
        if len(ordered) > MAX_ENTRIES:
            raise UsageError(f"A version holds at most {MAX_ENTRIES:,} entries, not {len(ordered):,}.")
        check_logical_keys(entry.logical_key for entry in ordered)
        return cls(header, ordered)

    @classmethod
    def of_files(
        cls, header: Mapping[str, Any], keys: list[str], sizes: list[int], values: list[str], places: list[str]
    ) -> Manifest:
        """Return the version of files without metadata, given in columns; the keys are sorted and checked already."""
        return cls(header, _Rows(list(zip(keys, places, map(str, sizes), values, repeat("{}"))), {"{}": _NO_META}))

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
        return sum(self.entries.sizes() if isinstance(self.entries, _Rows) else [entry[1] for entry in self.entries])

    @cached_property
    def top_hash(self) -> str:
        """64 hex digits that name this version."""
        state = hashlib.sha256(canonical(self.header))
        for start in range(0, len(self.entries), _BATCH):
            batch = self.entries[start : start + _BATCH]
            texts = batch.identities() if isinstance(batch, _Rows) else [_identity(entry) for entry in batch]
            state.update("".join(texts).encode("ascii"))
        return state.hexdigest()

    @cached_property
    def keys(self) -> Sequence[str]:
        """The logical keys, in the order of the entries."""
        return self.entries.keys() if isinstance(self.entries, _Rows) else [entry[0] for entry in self.entries]

    @cached_property
    def by_key(self) -> Mapping[str, Entry]:
        return dict(zip(self.keys, self.entries, strict=True))

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Where each logical key stands among the entries."""
        return dict(zip(self.keys, range(len(self.keys)), strict=True))

    def __contains__(self, key: object) -> bool:
        return key in self.positions

    def __getitem__(self, key: str) -> Entry:
        return self.entries[self.position(key)]

    def position(self, key: str) -> int:
        """Return where a key stands among the entries, or raise NotFoundError."""
        try:
            return self.positions[key]
        except KeyError:
            raise NotFoundError(
                f"No entry {key!r} in version {self.top_hash[:12]}, which has {len(self.entries):,} entries.",
                hint="`reprokit show NS/NAME@HASH` lists them.",
            ) from None

    @cached_property
    def places(self) -> Sequence[str]:
        """The first physical key of each entry, "" where there is none."""
        if isinstance(self.entries, _Rows):
            return self.entries.places()
        return [entry[4][0] if entry[4] else "" for entry in self.entries]

    def placed(self, places: Sequence[str]) -> Manifest:
        """Return the same version with one physical key for each entry, in their order."""
        if places == self.places:
            return self
        entries = tuple(Entry(*entry[:4], (key,)) for entry, key in zip(self.entries, places, strict=True))
        placed = Manifest(self.header, entries, self.folders)
        placed.__dict__["top_hash"] = self.top_hash  # physical keys are not in it
        return placed

    def columns(self) -> tuple[Sequence[str], list[str], list[int]]:
        """Return first physical keys, digests in base64 ("" for one of another type) and sizes, in parallel lists."""
        if isinstance(self.entries, _Rows):
            return self.places, self.entries.values(), self.entries.sizes()
        digests = [entry.digest for entry in self.entries]
        values = [digest.value if digest.type == CHUNKED else "" for digest in digests]
        return self.places, values, [entry.size for entry in self.entries]

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
        lines += self.entries.lines() if isinstance(self.entries, _Rows) else map(_line, self.entries)
        lines.append("")
        return "\n".join(lines).encode()

    @staticmethod
    def decode_header(first_line: bytes, *, what: str) -> dict[str, Any]:
        """Return the header of an untrusted manifest whose first line this is; its hash is not checked here."""
        header = load_json(first_line, what=f"The header of {what}", max_bytes=MAX_LINE)
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
        if len(data) > MAX_MANIFEST:
            raise DataMismatchError(f"{what} is {len(data):,} bytes long; at most {MAX_MANIFEST:,} are read.")
        if (count := data.count(b"\n")) > MAX_ENTRIES + 1:
            raise DataMismatchError(f"{what} has {count:,} lines; at most {MAX_ENTRIES:,} entries are read.")
        first, _, body = data.partition(b"\n")
        if not first:
            raise DataMismatchError(f"{what} is empty.", hint="Run `reprokit verify --all`.")
        header = cls.decode_header(first, what=what)
        folders: list[tuple[str, Any]] = []
        ordered: Sequence[Entry] | None = _Rows.parse(body, what=what)
        if ordered is None:
            entries: list[Entry] = []
            for number, line in enumerate(body.splitlines(), 2):
                raw = load_json(line, what=f"Line {number} of {what}", max_bytes=MAX_LINE)
                if not isinstance(raw, dict) or not isinstance(raw.get("logical_key"), str):
                    raise DataMismatchError(f"Line {number} of {what} is not an entry.")
                if not raw.get("physical_keys"):
                    folders.append((raw["logical_key"], raw.get("meta")))
                else:
                    entries.append(_entry(raw, where=f"Line {number} of {what}"))
            ordered = tuple(sorted(entries, key=_order))
        manifest = cls(header, ordered, tuple(folders))
        if manifest.top_hash != top_hash:
            raise DataMismatchError(
                f"{what} is corrupt: expected top hash {top_hash[:12]}…, its content has {manifest.top_hash[:12]}….",
                hint="Restore it from another copy of the registry; nothing of it was used.",
            )
        try:
            check_logical_keys(manifest.keys)
        except Error as error:
            raise DataMismatchError(f"{what} is refused: {error.message}") from None
        return manifest


class _Rows(Sequence[Entry]):
    """Entries as the text of a manifest has them, made into `Entry` when they are looked at."""

    def __init__(self, rows: list[tuple[str, str, str, str, str]], metas: Mapping[str, Mapping[str, Any]]) -> None:
        self._rows = rows
        self._metas = metas

    @classmethod
    def parse(cls, body: bytes, *, what: str) -> _Rows | None:
        """Return the entries if every line is in the form that `encode` writes, else None."""
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise DataMismatchError(f"{what} is not UTF-8: {error}.") from None
        rows = _LINE.findall(text)
        if len(rows) != text.count("\n") or (text and text[-1] != "\n"):
            return None
        metas: dict[str, Mapping[str, Any]] = {"{}": _NO_META}  # equal metadata, such as labels, is parsed once
        for raw in {row[4] for row in rows} - {"{}"}:
            try:
                metas[raw] = load_json(raw.encode(), what="metadata", max_bytes=MAX_LINE)
            except DataMismatchError:
                return None  # the other reader says what is wrong, and where
        rows.sort(key=_row_order)
        return cls(rows, metas)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int, /) -> Entry: ...
    @overload
    def __getitem__(self, at: slice, /) -> _Rows: ...
    def __getitem__(self, at: int | slice, /) -> Entry | _Rows:
        if isinstance(at, slice):
            return _Rows(self._rows[at], self._metas)
        return self._entry(self._rows[at])

    def __iter__(self) -> Iterator[Entry]:
        return map(self._entry, self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_same, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{len(self):,} entries>"

    def _entry(self, row: tuple[str, str, str, str, str]) -> Entry:
        key, place, size, value, meta = row
        return Entry(key, int(size), Digest(CHUNKED, value), self._metas[meta], (place,) if place else ())

    def keys(self) -> list[str]:
        return [row[0] for row in self._rows]

    def places(self) -> list[str]:
        return [row[1] for row in self._rows]

    def values(self) -> list[str]:
        return [row[3] for row in self._rows]

    def sizes(self) -> list[int]:
        return [int(row[2]) for row in self._rows]

    def lines(self) -> list[str]:
        """Return the lines that `encode` writes."""
        if self._are_plain:
            return [
                f'{{"logical_key": "{key}", "physical_keys": ["{place}"], "size": {size}, '
                f'"hash": {{"type": "{CHUNKED}", "value": "{value}"}}, "meta": {{}}}}'
                for key, place, size, value, _ in self._rows
            ]
        return [_line(self._entry(row)) for row in self._rows]

    def identities(self) -> list[str]:
        """Return the canonical JSON that the top hash covers, entry by entry."""
        if self._are_plain:
            return [
                f'{{"hash":{{"type":"{CHUNKED}","value":"{value}"}},"logical_key":"{key}","meta":{{}},"size":{size}}}'
                for key, _, size, value, _ in self._rows
            ]
        return [_identity(self._entry(row)) for row in self._rows]

    @cached_property
    def _are_plain(self) -> bool:
        """True if nothing in any row is escaped in JSON, and no entry has metadata."""
        texts = "".join([text for row in self._rows for text in row[:2]])
        return _is_plain(texts) and all(row[4] == "{}" and row[1] for row in self._rows)


def _same(left: object, right: object) -> bool:
    return left == right


def _row_order(row: tuple[str, ...]) -> str:
    return row[0].replace("/", "\0")


def _order(entry: Entry) -> str:
    """Sort by `logical_key.split("/")`: no legal key holds a NUL, so it stands for the end of a part."""
    return entry.logical_key.replace("/", "\0")


def _is_plain(text: str) -> bool:
    """True if JSON writes `text` as it is, ASCII or not."""
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def _identity(entry: Entry) -> str:
    """Return the canonical JSON of `entry.identity()`."""
    key, size, (type_, value), meta, _ = entry
    if meta or not _is_plain(key):
        return canonical(entry.identity()).decode("ascii")
    return f'{{"hash":{{"type":"{type_}","value":"{value}"}},"logical_key":"{key}","meta":{{}},"size":{size}}}'


def _line(entry: Entry) -> str:
    key, size, (type_, value), meta, places = entry
    name = f'"{key}"' if _is_plain(key) else _DUMP(key)
    where = f'["{places[0]}"]' if len(places) == 1 and _is_plain(places[0]) else _DUMP(list(places))
    facts = _DUMP(dict(meta)) if meta else "{}"
    return (
        f'{{"logical_key": {name}, "physical_keys": {where}, "size": {size}, '
        f'"hash": {{"type": "{type_}", "value": "{value}"}}, "meta": {facts}}}'
    )


def _entry(raw: dict[str, Any], *, where: str) -> Entry:
    size, meta, keys, hash_ = raw.get("size"), raw.get("meta"), raw["physical_keys"], raw.get("hash")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < _MAX_SIZE:
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
