"""Take what is damaged out of a registry in a folder, so that building or pulling again puts it back whole.

An object that is there by its name and length is not stored a second time; what a disk damaged would stay for ever.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from reprokit.core.atomic_files import fsync_folder, os_errors
from reprokit.core.digest import CHUNKED, Digest, hash_file
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import DataMismatchError
from reprokit.registry.local import LocalRegistry
from reprokit.store.objects import ObjectStore, is_digest_of
from reprokit.store.staging import stage

__all__ = ["DAMAGED", "SetAside", "set_aside_damaged"]

DAMAGED = "damaged"  # a folder of the registry; nothing reads it, and purge empties it


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A damaged file that was moved.

    Attributes:
        kept: Objects of a pack that were sound and lie in a new one now.
    """

    file: str
    moved_to: str
    kept: int = 0


def set_aside_damaged(registry: LocalRegistry, *, progress: Progress = SILENT) -> list[SetAside]:
    """Move every damaged pack and loose object into `damaged/`; the sound objects of a pack are packed anew first.

    What versions lack afterwards, `verify` lists; building or pulling them again restores it.

    Raises:
        RegistryError: Reading or writing failed; to do it again completes it.
    """
    if not registry.exists():
        return []
    done: list[SetAside] = []
    store = registry.objects
    with os_errors(f"Repairing {registry.root}"), store.alone():
        loose = list(store.loose())
        names = sorted(store.pack_names())
        with progress.task("Looking for damage", len(loose) + len(names), unit="files") as advance:
            for digest, path in loose:
                if _hash_of(path, digest.type) != digest.hex:
                    done.append(_move(registry.root, path, f"{digest.type}-{digest.hex}"))
                advance()
            for name in names:
                path = store.pack_path(name)
                if _hash_of(path) != name:
                    kept = _pack_anew(store, name)
                    store.close_pack(name)
                    done.append(_move(registry.root, path, f"{name}.zip", kept=kept))
                advance()
        store.catalogue()
    return done


def _hash_of(path: Path, kind: str = CHUNKED) -> str | None:
    """Return a file's hash in hex; None of what is no file."""
    try:
        return hash_file(path, kind)[0].hex
    except DataMismatchError:
        return None


def _pack_anew(store: ObjectStore, name: str) -> int:
    """Store the sound objects of a damaged pack in a new one; return how many there are."""
    try:
        pack = store.pack(name)
        pieces = [(raw, pack.read(*member)) for raw, member in pack.members.items()]
    except DataMismatchError:
        return 0  # its directory is what is damaged: no object of it is found any more
    sound = [(raw, data) for raw, data in pieces if is_digest_of(data, Digest.chunked(raw))]
    with stage(store) as staging:
        for raw, data in sound:
            staging.put_again(raw, data)
    return len(sound)


def _move(root: Path, file: Path, name: str, *, kept: int = 0) -> SetAside:
    folder = root / DAMAGED
    folder.mkdir(exist_ok=True)
    target = folder / f"{name}.{time.time_ns()}"
    file.replace(target)
    fsync_folder(folder)
    fsync_folder(file.parent)
    return SetAside(file=file.relative_to(root).as_posix(), moved_to=target.relative_to(root).as_posix(), kept=kept)
