"""What a listing found of verdicts, kept on this machine while the logs that it was found in stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from reprokit.core.refs import RESERVED
from reprokit.registry import Registry
from reprokit.registry.base import Head

__all__ = ["Remembered"]

_SOURCE = "verdicts that are borne out"
_FORM = "1"


class _Found(msgspec.Struct, frozen=True, array_like=True):
    """What was found, the runs whose records it was found in, and how their logs ended."""

    words: list[str]
    runs: list[str]
    stamp: str


_DECODER = msgspec.msgpack.Decoder(tuple[str, dict[str, _Found]])


class Remembered:
    """See the module."""

    def __init__(self, registry: Registry, heads: Mapping[str, Head], unsure: Iterable[str]) -> None:
        """Remember in the cache of a registry.

        Args:
            heads: How its logs end now, by the names of packages.
            unsure: Runs of which it is not only the log that says how they ended.
        """
        self._registry = registry
        self._heads = heads
        self._unsure = set(unsure)
        self._kept: dict[str, _Found] = {}
        try:
            form, kept = _DECODER.decode(registry.recall(_SOURCE) or b"")
            if form == _FORM:
                self._kept = kept
        except msgspec.DecodeError:
            pass
        self._now: dict[str, _Found] = {}

    def words(self, package: str, find: Callable[[], tuple[list[str], Iterable[str] | None]]) -> list[str]:
        """Return what is found of a package.

        Args:
            find: Finds it; returns also the runs whose records decide, or None if it is to be looked at again.
        """
        known = self._kept.get(package)
        if known is not None and known.stamp and known.stamp == self._stamp(package, known.runs):
            self._now[package] = known
            return known.words
        words, runs = find()
        decisive = sorted(set(runs or ()))
        stamp = self._stamp(package, decisive)
        if stamp and runs is not None:
            self._now[package] = _Found(words, decisive, stamp)
        return words

    def keep(self) -> None:
        """Keep it for the next time."""
        if self._now != self._kept:
            self._registry.remember(_SOURCE, msgspec.msgpack.encode((_FORM, self._now)))

    def _stamp(self, package: str, runs: list[str]) -> str:
        """Return how the logs end, "" if that is not sure."""
        if not self._unsure.isdisjoint(runs):
            return ""
        heads = [self._heads.get(name) for name in (package, *(f"{RESERVED}/{run}" for run in runs))]
        stamps = ["-" if head is None else head.stamp for head in heads]
        return "|".join(stamps) if all(stamps) else ""
