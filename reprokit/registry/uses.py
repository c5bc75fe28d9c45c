"""Which versions hold an object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reprokit.core.digest import Digest
from reprokit.core.refs import PackageRef
from reprokit.errors import Error, NotFoundError, RefusedError, UsageError
from reprokit.registry.base import Registry
from reprokit.schema.manifest import Manifest

__all__ = ["Use", "find_object", "find_objects", "uses", "versions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One entry, of one version, that holds an object."""

    package: str
    top_hash: str
    logical_key: str


def find_object(registry: Registry, prefix: str) -> Digest:
    """Return the digest whose hex starts with `prefix`, among all that versions name.

    Raises:
        NotFoundError: None does.
        RefusedError: Two do.
    """
    found = {
        entry.digest
        for _, _, manifest in versions(registry)
        for entry in manifest.entries
        if entry.digest.hex.startswith(prefix.lower())
    }
    if not found:
        raise NotFoundError(f"No version in {registry.url} holds an object {prefix}.")
    if len(found) > 1:
        raise RefusedError(f"{prefix} is ambiguous: {len(found)} objects start with it.", hint="Give more digits.")
    return found.pop()


def find_objects(registry: Registry, prefixes: Iterable[str], entries: Iterable[str] = ()) -> set[Digest]:
    """Return the digests that are meant: by the start of their hex, or as those of entries, `ns/name@hash:key`.

    Raises:
        NotFoundError: There is no such object, version or key.
        RefusedError: A start is ambiguous.
        UsageError: That is no entry.
    """
    found = {find_object(registry, prefix) for prefix in prefixes}
    for place in entries:
        ref, separator, key = _split_entry(place)
        if not separator:
            raise UsageError(f"Not an entry: {place!r}.", hint="Write NS/NAME@HASH:KEY.")
        found.add(registry.read_manifest(registry.resolve(PackageRef.parse(ref)))[key].digest)
    return found


def _split_entry(place: str) -> tuple[str, str, str]:
    """Split NS/NAME@HASH:KEY, NS/NAME:TAG:KEY or NS/NAME:KEY."""
    ref, separator, rest = place.partition(":")
    if "@" not in ref and ":" in rest:
        tag, _, rest = rest.partition(":")
        ref = f"{ref}:{tag}"
    return ref, separator, rest


def uses(registry: Registry, prefix: str) -> list[Use]:
    """Return every entry of every version whose object's hex digest starts with `prefix`."""
    return [
        Use(package=name, top_hash=top_hash, logical_key=entry.logical_key)
        for name, top_hash, manifest in versions(registry)
        for entry in manifest.entries
        if entry.digest.hex.startswith(prefix.lower())
    ]


def versions(registry: Registry) -> Iterator[tuple[str, str, Manifest]]:
    for name in registry.packages():
        for top_hash in registry.top_hashes(name):
            try:
                yield name, top_hash, registry.read_manifest(top_hash)
            except Error:
                continue  # `verify` names it
