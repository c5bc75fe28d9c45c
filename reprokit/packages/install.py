"""Write entries as files, each verified while it is copied."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from reprokit.core.logical_keys import check_logical_key
from reprokit.core.progress import SILENT, Progress
from reprokit.registry import Registry
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store.packs import SMALL

__all__ = ["write_entries"]

_THREADS = 4


def write_entries(
    registry: Registry,
    entries: Iterable[Entry],
    folder: Path,
    *,
    what: str,
    title: str,
    strip: str = "",
    mode: int = 0o644,
    progress: Progress = SILENT,
) -> None:
    """Write entries as files below an existing folder, each verified while it is copied.

    Args:
        what: Names the version in errors.
        strip: A prefix (`code/`) that logical keys lose on the way.
        mode: Permission bits of the files.
    """
    from concurrent.futures import ThreadPoolExecutor  # with `logging`, which a look does not pay for

    chosen = list(entries)
    keys = [check_logical_key(entry.logical_key.removeprefix(strip)) for entry in chosen]
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    made: dict[str, str] = {"": str(folder)}
    small = []

    def write(key: str, entry: Entry) -> None:
        with os.fdopen(os.open(folder / key, flags, mode), "wb", buffering=0) as sink:
            registry.copy_object(entry, sink, what=f"{entry.logical_key} of {what}")
        advance()

    registry.fetch([one for one in chosen if one.size < SMALL], what=what, progress=progress)
    with progress.task(title, len(chosen), unit="files") as advance, ThreadPoolExecutor(_THREADS) as pool:
        futures = []
        for key, entry in zip(keys, chosen, strict=True):
            parent = key.rpartition("/")[0]
            if parent not in made:
                (folder / parent).mkdir(parents=True, exist_ok=True)
                made[parent] = f"{folder}/{parent}"
            if entry.size < SMALL:
                small.append((key, entry))
            else:
                futures.append(pool.submit(write, key, entry))
        reader = registry.reader(Manifest({}, tuple(entry for _, entry in small)), what=what)
        try:
            for position, (key, _) in enumerate(small):
                descriptor = os.open(f"{folder}/{key}", flags, mode)
                try:
                    data = reader.read(position)
                    if os.write(descriptor, data) != len(data):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{folder}/{key}")
                finally:
                    os.close(descriptor)
                advance()
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
