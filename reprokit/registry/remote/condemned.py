"""What gc has condemned in an object store: lists of keys that no new version may name any more.

    condemned/<random>.json     {"keys": […], "swept": false}

There is no lock that gc and publishers could hold, so names do the work: a key that was ever condemned is never used
again, and what is needed of it is stored anew under another. See `docs/format.md` for why nothing can be lost by it.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from reprokit.core.canonical_json import canonical
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError
from reprokit.store.storage import Storage

__all__ = ["COMMIT_WITHIN", "Condemned", "condemn", "condemned_keys", "condemned_lists", "mark_swept"]

COMMIT_WITHIN = 1800.0  # seconds between looking at what is condemned and the log entry; gc's least grace is twice that
_FOLDER = "condemned"
_MAX_LIST = 64 * 1024 * 1024
_LONGEST = 50_000  # keys of a list


class Condemned(NamedTuple):
    """A list of condemned keys.

    Attributes:
        since: Seconds since 1970, by the clock of the store; since it was swept, if it was.
    """

    key: str
    keys: frozenset[str]
    swept: bool
    since: float


def condemned_lists(storage: Storage) -> Iterator[Condemned]:
    """Yield the lists that are there.

    Raises:
        DataMismatchError: One cannot be read, so it is not known what may be named.
    """
    for name in sorted(storage.names(_FOLDER)):
        key = f"{_FOLDER}/{name}"
        with contextlib.suppress(FileNotFoundError):  # one that is old enough was removed meanwhile
            raw = storage.read(key, max_bytes=_MAX_LIST)
            stored = storage.stat(key)
            if stored is not None:
                yield Condemned(key, *_keys(raw, storage.name(key)), stored.modified)


def _keys(raw: bytes, what: str) -> tuple[frozenset[str], bool]:
    """Return the keys of a list, and whether it was swept."""
    value = load_json(raw, what=what, max_bytes=_MAX_LIST)
    keys = value.get("keys") if isinstance(value, dict) else None
    if not isinstance(keys, list) or not all(isinstance(one, str) for one in keys):
        raise DataMismatchError(
            f"{what} is no list of condemned keys, so nothing is published.",
            hint="If nobody collects garbage there, remove it and run `reprokit gc` again.",
        )
    return frozenset(keys), value.get("swept") is True


def condemned_keys(storage: Storage, known: dict[str, frozenset[str]]) -> frozenset[str]:
    """Return every key that no new version may name.

    Args:
        known: The keys of lists that were read before, by their names: the keys of a list never change. It is brought
            up to date.
    """
    names = set(storage.names(_FOLDER))
    for name in names - known.keys():
        key = f"{_FOLDER}/{name}"
        with contextlib.suppress(FileNotFoundError):  # one that is old enough was removed meanwhile
            known[name] = _keys(storage.read(key, max_bytes=_MAX_LIST), storage.name(key))[0]
    for name in known.keys() - names:
        del known[name]
    return frozenset().union(*known.values())


def condemn(storage: Storage, keys: Iterable[str]) -> None:
    """Write keys that are to be swept after the grace period into lists, which are read whole."""
    left = sorted(keys)
    for start in range(0, len(left), _LONGEST):
        storage.create(f"{_FOLDER}/{secrets.token_hex(16)}.json", _bytes(left[start : start + _LONGEST], swept=False))


def mark_swept(storage: Storage, one: Condemned) -> None:
    """Note that a list was swept; it stays, so that its keys are not used again."""
    storage.put(one.key, _bytes(one.keys, swept=True))


def _bytes(keys: Iterable[str], *, swept: bool) -> bytes:
    return canonical({"keys": sorted(keys), "swept": swept}) + b"\n"
