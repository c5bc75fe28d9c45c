"""Build a version of a folder, of values in memory, of an older version and edits. What did not change is not read."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprokit.core.atomic_files import explain_os_error
from reprokit.core.canonical_json import canonical
from reprokit.core.config import Config
from reprokit.core.digest import CHUNKED, Digest
from reprokit.core.logical_keys import check_logical_key, check_logical_keys
from reprokit.core.progress import SILENT, Advance, Progress
from reprokit.core.refs import RESERVED, VERDICTS, check_package_name, check_tag
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError, UsageError
from reprokit.packages.copy import copy_objects
from reprokit.packages.package import Package
from reprokit.packages.scan import Files, Known, look_through
from reprokit.registry import Registry, open_registry
from reprokit.registry.base import Sink
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.packs import SMALL

__all__ = ["BuildResult", "build"]

_BATCH_FILES = 1024
_BATCH_BYTES = 16 * 1024 * 1024
_LARGE_AT_ONCE = 2
_MAX_META = 15 * 1024 * 1024  # bytes; a line of a manifest holds a little more
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """What a build made: `size` is of all entries, `new_bytes` what the registry did not have."""

    name: str
    top_hash: str
    entries: int
    size: int
    new_bytes: int


def build(
    source: Path | str | Mapping[str, Any] | Any,
    name: str,
    *,
    registry: Registry | str | None = None,
    message: str | None = None,
    meta: Mapping[str, Any] | None = None,
    entry_meta: Mapping[str, Mapping[str, Any]] | None = None,
    tags: tuple[str, ...] = (),
    base: Package | None = None,
    remove: Iterable[str] = (),
    progress: Progress = SILENT,
) -> BuildResult:
    """Store `source` as a new version of package `name`; if that is the latest already, nothing is published.

    Args:
        source: A folder; one file, which is the entry of its name; or a mapping from logical key to bytes, text, a
            file's `Path`, a pandas DataFrame (key ending in .csv, .json or .parquet) or anything JSON (key ending in
            .json); or one DataFrame, stored as `data.csv`.
        name: `ns/name`.
        registry: A registry or its address; the one configured if None.
        message: Says what is new; part of the version.
        meta: Metadata of the version, JSON.
        entry_meta: Metadata of entries by logical key, JSON.
        tags: Names that point at the version too, beside `latest`.
        base: A version whose entries are taken over, but for those that `source` has too.
        remove: Logical keys of `base`, or folders of it, that are left out.
        progress: Where it is shown how far that is.
    Raises:
        UsageError: The name, a key, the metadata or a value is not one that can be stored.
        RefusedError: A file that cannot be stored faithfully, or a reserved namespace.
        NotFoundError: `remove` or `entry_meta` names nothing.
        RegistryError: Reading the folder or writing the registry failed.
    """
    check_package_name(name)
    for tag in tags:
        check_tag(tag)
    space = name.partition("/")[0]
    if space in (RESERVED, VERDICTS):
        raise RefusedError(f"The namespace {space!r} is reprokit's own: {name} cannot be built by hand.")
    _check_header(message, meta)
    if registry is None or isinstance(registry, str):
        registry = open_registry(Config.load(registry=registry).registry)
    kept = _kept(base, remove, registry)
    header = Manifest.make([], message=message, user_meta=meta).header

    def publish(files: _Stored) -> BuildResult:
        if kept or entry_meta:
            manifest = Manifest.make(_merged(kept, files, entry_meta or {}), message=message, user_meta=meta)
        else:
            manifest = Manifest.of_files(header, files.keys, files.sizes, files.values, files.places)
        head = registry.head(name)
        published = head is not None and all(head.tags.get(tag) == manifest.top_hash for tag in ("latest", *tags))
        if not published or not registry.holds(manifest):
            registry.publish(name, manifest, tags=tags)
        return BuildResult(
            name=name,
            top_hash=manifest.top_hash,
            entries=len(manifest.entries),
            size=manifest.size,
            new_bytes=files.new_bytes,
        )

    if isinstance(source, (str, Path)) and Path(source).is_file():
        source = {Path(source).name: Path(source)}
    if not isinstance(source, (str, Path)):
        values = source if isinstance(source, Mapping) else {"data.csv": source}
        try:
            return publish(_store_values(values, registry))
        except NotFoundError:  # a gc of little grace was faster: everything that is gone is stored again
            return publish(_store_values(values, registry))
    folder = Path(source)
    try:
        return publish(_store_folder(folder, name, registry, progress))
    except NotFoundError:  # an object that the index promised is gone: forget what is known, and read every file
        registry.remember(_remembered(folder), b"")
        return publish(_store_folder(folder, name, registry, progress))


@dataclass
class _Stored:
    """Files whose objects are in the registry, sorted, in columns: digests in base64, and physical keys if known."""

    keys: list[str]
    sizes: list[int]
    values: list[str]
    places: list[str]
    new_bytes: int


def _check_header(message: str | None, meta: Mapping[str, Any] | None) -> None:
    """Raise UsageError for what cannot stand in a manifest, before anything is stored."""
    _check_json({"message": message, "user_meta": dict(meta or {})}, "The message or metadata")


def _check_json(value: Mapping[str, Any], what: str) -> None:
    """Raise UsageError for what could not be written, or not be read again."""
    try:
        canonical(value)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        load_json(text, what="it", max_bytes=_MAX_META, max_depth=_MAX_DEPTH)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{what} cannot be stored: {error}.", hint="Metadata is JSON in UTF-8.") from None
    except DataMismatchError as error:
        raise UsageError(f"{what} cannot be stored: {error.message}", hint="Store it as an entry of its own.") from None


def _kept(base: Package | None, remove: Iterable[str], registry: Registry) -> list[Entry]:
    """Return what is taken over from `base`, its objects in the registry."""
    wanted = [key.rstrip("/") for key in remove]
    if base is None:
        if wanted:
            raise UsageError("Nothing can be removed from nothing: name the version to start from with `base`.")
        return []
    gone: set[str] = set()
    for key in wanted:
        found = {key} if key in base.manifest else {entry.logical_key for entry in base.manifest.below(key)}
        if not found:
            raise NotFoundError(f"No entry or folder {key!r} in {base}.", hint=f"`reprokit ls {base}` lists them.")
        gone |= found
    kept = [entry for entry in base.manifest.entries if entry.logical_key not in gone]
    if base.registry.url != registry.url:
        copy_objects(base, registry.lacking(kept), registry, _uncounted)
        kept = [entry._replace(physical_keys=()) for entry in kept]
    return kept


def _uncounted(_amount: int = 1, /) -> None:
    """Stand in where copying is not shown."""


def _merged(kept: list[Entry], files: _Stored, entry_meta: Mapping[str, Mapping[str, Any]]) -> list[Entry]:
    rows = zip(files.keys, files.sizes, files.values, files.places, strict=True)
    new = {
        key: Entry(key, size, Digest(CHUNKED, value), {}, (place,) if place else ()) for key, size, value, place in rows
    }
    merged = {entry.logical_key: entry for entry in kept} | new
    for key, meta in entry_meta.items():
        if key not in merged:
            raise NotFoundError(f"Metadata was given for {key!r}, but the version has no such entry.")
        _check_json({"meta": dict(meta)}, f"The metadata of {key!r}")
        merged[key] = merged[key]._replace(meta=dict(meta))
    return list(merged.values())


def _store_values(values: Mapping[str, Any], registry: Registry) -> _Stored:
    made = _Stored([], [], [], [], 0)
    with registry.staging() as sink:
        for key in sorted(values, key=lambda key: key.replace("/", "\0")):
            check_logical_key(key)
            value = values[key]
            if isinstance(value, Path):
                digest, size = _store_file(str(value), sink)
            else:
                digest, size = sink.put_bytes(_encoded(key, value))
            made.keys.append(key)
            made.sizes.append(size)
            made.values.append(digest.value)
            made.places.append("")
    made.new_bytes = sink.new_bytes
    return made


def _encoded(key: str, value: Any) -> bytes:
    """Return a value as bytes: as they are, UTF-8, what pandas writes for the key's ending, or JSON."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, str):
        return value.encode()
    ending = key.rpartition(".")[2].lower()
    if hasattr(value, "to_csv") and ending == "csv":
        return str(value.to_csv(index=False, lineterminator="\n")).encode()
    if hasattr(value, "to_parquet") and ending == "parquet":
        return bytes(value.to_parquet(None, index=False))
    if hasattr(value, "to_json") and ending == "json":
        return str(value.to_json(orient="records")).encode()
    if ending == "json":
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True).encode()
        except (TypeError, ValueError) as error:
            raise UsageError(f"The value of {key!r} is no JSON: {error}.") from None
    raise UsageError(
        f"A {type(value).__name__} cannot be stored as {key!r}.",
        hint="Give bytes, text, a Path, a DataFrame for .csv, .json or .parquet, or JSON for .json.",
    )


def _remembered(folder: Path) -> str:
    """Return the name under which the index knows a folder."""
    return str(folder.resolve())


def _store_folder(folder: Path, name: str, registry: Registry, progress: Progress) -> _Stored:
    """Store what changed in a folder since it was last built from: everything, the first time."""
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is not a folder, and no file.", hint="`reprokit package build DIR NAME` takes what is there."
        )
    with progress.task(f"Looking through {folder}", None, unit="files") as advance:
        files = look_through(folder, advance)
    started = time.time_ns()
    blob = registry.recall(_remembered(folder))
    known = Known.decode(blob) if blob else None
    if known is None or known.keys != files.keys:  # else they were checked when they became known
        check_logical_keys(files.keys)
    positions = known.unchanged(files) if known else [-1] * len(files.keys)
    sizes = [stat[0] for stat in files.stats]
    if known and positions is None:
        values = [known.values[at : at + 44] for at in range(0, len(known.values), 44)]
        return _Stored(files.keys, sizes, values, known.all_places(), 0)
    positions = positions or []
    places = known.all_places() if known else []
    values = [known.value(at) if known and at >= 0 else "" for at in positions]
    hints = [places[at] if at >= 0 else "" for at in positions]
    changed = [number for number, at in enumerate(positions) if at < 0]
    with (
        registry.staging(progress=progress) as sink,
        progress.task(f"Storing {name}", len(changed), unit="files") as advance,
    ):
        for number, digest, stat in _store_files(files, changed, sink, advance):
            values[number], files.stats[number], sizes[number] = digest.value, stat, stat[0]
    for number in changed:
        hints[number] = sink.place(values[number])
    registry.remember(_remembered(folder), Known.of(files, values, hints, now=started).encode())
    return _Stored(files.keys, sizes, values, hints, sink.new_bytes)


_Stat = tuple[int, int, int, int]


def _store_files(files: Files, chosen: list[int], sink: Sink, advance: Advance) -> Iterator[tuple[int, Digest, _Stat]]:
    """Store the chosen files; yield number, digest and stat of each: small ones in batches, large ones two at once."""
    large = [number for number in chosen if files.stats[number][0] >= SMALL]
    batch: list[tuple[int, bytes, _Stat]] = []
    filled = 0
    keys, stats, links, root = files.keys, files.stats, files.links, files.root
    for number in chosen:
        stat = stats[number]
        if stat[0] >= SMALL:
            continue
        key = keys[number]
        data, stat = _read_steady(links.get(key) or f"{root}/{key}", stat)
        batch.append((number, data, stat))
        filled += stat[0]
        if len(batch) >= _BATCH_FILES or filled >= _BATCH_BYTES:
            yield from _store_batch(batch, sink, advance)
            batch.clear()
            filled = 0
    yield from _store_batch(batch, sink, advance)
    with ThreadPoolExecutor(_LARGE_AT_ONCE) as pool:
        threads = 1 if len(large) > 1 else 2  # that hash beside each that reads and writes
        jobs = [pool.submit(_store_large, files.path(files.keys[number]), sink, threads) for number in large]
        try:
            for number, job in zip(large, jobs, strict=True):
                digest, stat = job.result()
                advance()
                yield number, digest, stat
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _store_batch(
    batch: list[tuple[int, bytes, _Stat]], sink: Sink, advance: Advance
) -> Iterator[tuple[int, Digest, _Stat]]:
    digests = sink.put_all([data for _, data, _ in batch])
    advance(len(batch))
    for (number, _, stat), digest in zip(batch, digests, strict=True):
        yield number, digest, stat


def _read_steady(path: str, expected: _Stat) -> tuple[bytes, _Stat]:
    """Return a small file's bytes, and its stat after they were read, which is the one before."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            data = os.read(descriptor, expected[0] + 1)
            seen = os.fstat(descriptor)
            stat = seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino
            if stat != expected or len(data) != expected[0]:  # changed since the folder was looked through: once more
                before = stat
                os.lseek(descriptor, 0, os.SEEK_SET)
                with os.fdopen(os.dup(descriptor), "rb") as handle:
                    data = handle.read()
                stat = _stat_of(descriptor)
                if stat != before or len(data) != stat[0]:
                    raise _changing(path, before, stat)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise explain_os_error(error, f"Reading {path}") from error
    return data, stat


def _store_large(path: str, sink: Sink, threads: int) -> tuple[Digest, _Stat]:
    try:
        handle = open(path, "rb", buffering=0)  # noqa: SIM115, PTH123 - errors of reading are told apart from storing's
    except OSError as error:
        raise explain_os_error(error, f"Reading {path}") from error
    with handle:
        before = _stat_of(handle.fileno())
        digest, size = sink.put_stream(handle, before[0], threads=threads)
        after = _stat_of(handle.fileno())
    if before != after or size != before[0]:
        raise _changing(path, before, after)
    return digest, after


def _store_file(path: str, sink: Sink) -> tuple[Digest, int]:
    digest, stat = _store_large(path, sink, 2)
    return digest, stat[0]


def _stat_of(descriptor: int) -> _Stat:
    seen = os.fstat(descriptor)
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino


def _changing(path: str, before: _Stat, after: _Stat) -> RefusedError:
    return RefusedError(
        f"{path} changed while it was read ({before[0]:,} → {after[0]:,} bytes).",
        hint="Build again when nothing writes to the folder.",
    )
