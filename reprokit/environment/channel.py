"""The archives of locked conda packages, gathered and checked: from a vault, the cache, or a channel."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from reprokit.environment.archive_cache import kept
from reprokit.errors import EnvironmentMismatchError
from reprokit.lock import Archive, CondaPackage
from reprokit.paths import os_errors
from reprokit.progress import SILENT, Progress

__all__ = ["CondaVault", "Download", "conda_key", "gather_conda"]

CondaVault = Mapping[str, Callable[[Path], Path]]
"""`conda_key` of a package → what writes its archive into a folder, and returns the file."""

_SUFFIXES = (".conda", ".tar.bz2")


class Download(Protocol):
    """Writes what a server has at an address into a file; raises EnvironmentMismatchError if it has nothing."""

    def __call__(self, url: str, file: Path) -> None: ...


def conda_key(package: CondaPackage) -> str:
    """Return what conda calls a package's archive, without its suffix, below its platform."""
    return f"{package.subdir}/{package.name}-{package.version}-{package.build}"


def gather_conda(
    packages: Iterable[CondaPackage],
    *,
    archives: Sequence[Archive] = (),
    cache: Path,
    download: Download,
    vault: CondaVault | None = None,
    copies: Mapping[str, Sequence[Path]] | None = None,
    offline: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Path]:
    """Return one archive for each package, by name; each has the locked SHA-256 before anything reads it.

    Args:
        archives: Where they were found when the environment was locked.
        copies: Files on this machine that may still be them, by package name.
        offline: Ask no channel.
    Raises:
        EnvironmentMismatchError: A package has no archive, or none that is the locked one; it is named.
    """
    store = cache / "conda"
    known = {one.name: one for one in archives if one.kind == "conda"}
    todo = list(packages)
    found = {}
    with os_errors(f"Writing the packages in {store}"), progress.task("Gathering conda packages", len(todo)) as advance:
        store.mkdir(parents=True, exist_ok=True)
        for package in todo:
            sha256 = _rebuildable(package)
            file = _held(store, sha256)
            if file is None:
                with tempfile.TemporaryDirectory(prefix="tmp-", dir=store) as name:
                    file = _fetch(
                        package, sha256, Path(name), store,
                        url=known[package.name].url if package.name in known else None,
                        write=vault.get(conda_key(package)) if vault else None,
                        copies=(copies or {}).get(package.name, ()),
                        download=download, offline=offline,
                    )  # fmt: skip
            found[package.name] = file
            advance(1)
    return found


def _rebuildable(package: CondaPackage) -> str:
    what = f"{package.name} {package.version} {package.build}"
    if package.edited is not None:
        raise EnvironmentMismatchError(
            f"Files of {what} were edited or removed after it was installed; its archive does not have them.",
            hint="Where the run is made: `conda install --force-reinstall`, or remove what pip put over it.",
        )
    if package.sha256 is None:
        raise EnvironmentMismatchError(
            f"{what}: its channel gave no SHA-256, so nobody can tell a copy of it.",
            hint="Reinstall it with conda 4.7 or newer, or from another channel.",
        )
    return package.sha256


def _held(store: Path, sha256: str) -> Path | None:
    folder = store / sha256
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if _sha256(file) == sha256:
            return file
    shutil.rmtree(folder, ignore_errors=True)  # damaged since
    return None


def _fetch(
    package: CondaPackage,
    sha256: str,
    scratch: Path,
    store: Path,
    *,
    url: str | None,
    write: Callable[[Path], Path] | None,
    copies: Sequence[Path],
    download: Download,
    offline: bool,
) -> Path:
    what = f"{package.name} {package.version} {package.build}"
    stem = conda_key(package).rpartition("/")[2]
    for copy in copies:
        if copy.is_file() and copy.name.removeprefix(stem) in _SUFFIXES:
            file = scratch / copy.name
            shutil.copyfile(copy, file)
            if _sha256(file) == sha256:
                return kept(store, sha256, file, file.name)
            file.unlink()
    if write is not None:
        file = write(scratch)
        source = "the archive in the run's vault"
    elif url is None or offline:
        why = "no channel is asked" if url else "nobody noted where it came from"
        raise EnvironmentMismatchError(
            f"No copy here of {what}, and {why}.",
            hint="`environment: {vault: all}` in the recipe keeps every package beside the run.",
        )
    else:
        name = url.rpartition("/")[2]
        file = scratch / (stem + next((one for one in _SUFFIXES if name.endswith(one)), ".conda"))
        if url.startswith("file:"):
            _copy(Path(unquote(urlsplit(url).path)), file, what)
        else:
            download(url, file)
        source = url
    if (actual := _sha256(file)) != sha256:
        raise EnvironmentMismatchError(
            f"{what}: {source} is not the locked archive (SHA-256 {actual[:16]}…, locked {sha256[:16]}…).",
            hint="It was not installed. Where a channel has lost the file, only a vault can rebuild: "
            "`environment: {vault: all}` in the recipe.",
        )
    return kept(store, sha256, file, file.name)


def _copy(source: Path, target: Path, what: str) -> None:
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise EnvironmentMismatchError(
            f"{what}: {source} cannot be read: {error.strerror}.",
            hint="Where a channel has lost the file, only a vault can rebuild: `environment: {vault: all}`.",
        ) from None


def _sha256(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
