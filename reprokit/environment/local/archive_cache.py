"""Archives in the cache, each in a folder named by what was checked of it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from reprokit.errors import EnvironmentMismatchError

__all__ = ["kept"]


def kept(store: Path, key: str, file: Path, name: str) -> Path:
    """Move a checked file into `store`/`key`/`name`; of two processes that do so, one wins, and both find it."""
    folder = store / key
    holding = Path(tempfile.mkdtemp(prefix="tmp-", dir=store))
    try:
        shutil.move(file, holding / name)
        if not folder.exists():
            holding.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process was first
            raise
    finally:
        shutil.rmtree(holding, ignore_errors=True)
    if not (folder / name).is_file():
        raise EnvironmentMismatchError(f"{folder} has lost {name}.", hint=f"Delete {folder}: it is a cache.")
    return folder / name
