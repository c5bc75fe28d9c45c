"""The archives of locked conda packages, gathered and checked: from a vault, the cache, or a channel."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from reprokit.core.atomic_files import os_errors
from reprokit.core.progress import SILENT, Progress
from reprokit.environment.conda.meta import conda_key
from reprokit.environment.conda.rattler import download
from reprokit.environment.local.archive_cache import kept
from reprokit.errors import EnvironmentMismatchError
from reprokit.schema.lock import Archive, CondaPackage

__all__ = ["CondaVault", "gather_conda"]

CondaVault = Mapping[str, Callable[[Path], Path]]
"""`conda_key` of a package → what writes its archive into a folder, and returns the file."""

_SCHEMES = ("http:", "https:", "file:")
_SUFFIXES = (".conda", ".tar.bz2")


def gather_conda(
    packages: Iterable[CondaPackage],
    *,
    archives: Sequence[Archive] = (),
    cache: Path,
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
    known = {one.name: one.url for one in archives if one.kind == "conda" and one.url.startswith(_SCHEMES)}
    todo = list(packages)
    found: dict[str, Path] = {}
    served: list[CondaPackage] = []
    with os_errors(f"Writing the packages in {store}"), progress.task("Gathering conda packages", len(todo)) as advance:
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=store) as name:
            scratch = Path(name)
            for package in todo:
                write = vault.get(conda_key(package)) if vault else None
                file = _held(store, _rebuildable(package)) or _copied(
                    package, (copies or {}).get(package.name, ()), scratch, store
                )
                if file is None and write is not None:
                    file = _checked(package, write(scratch), store, source="the archive in the run's vault")
                if file is None:
                    _check_served(package, known.get(package.name), offline=offline)
                    served.append(package)
                else:
                    found[package.name] = file
                    advance(1)
            files = {known[one.name]: scratch / f"{_stem(one)}{_suffix(known[one.name])}" for one in served}
            download({url: file for url, file in files.items() if not url.startswith("file:")}, advance=advance)
            for package in served:
                url = known[package.name]
                if url.startswith("file:"):
                    _copy(Path(unquote(urlsplit(url).path)), files[url], _shown(package))
                found[package.name] = _checked(package, files[url], store, source=url)
    return found


def _rebuildable(package: CondaPackage) -> str:
    what = _shown(package)
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


def _copied(package: CondaPackage, copies: Sequence[Path], scratch: Path, store: Path) -> Path | None:
    """Return an archive that a package manager still has on this machine."""
    for copy in copies:
        if copy.is_file() and copy.name.removeprefix(_stem(package)) in _SUFFIXES:
            file = scratch / copy.name
            shutil.copyfile(copy, file)
            if _sha256(file) == package.sha256:
                return kept(store, str(package.sha256), file, file.name)
            file.unlink()
    return None


def _check_served(package: CondaPackage, url: str | None, *, offline: bool) -> None:
    if url is None or (offline and not url.startswith("file:")):
        why = "no channel is asked" if url else "nobody noted where it came from"
        raise EnvironmentMismatchError(
            f"No copy here of {_shown(package)}, and {why}.",
            hint="`environment: {vault: all}` in the recipe keeps every package beside the run.",
        )


def _checked(package: CondaPackage, file: Path, store: Path, *, source: str) -> Path:
    if (actual := _sha256(file)) != package.sha256:
        raise EnvironmentMismatchError(
            f"{_shown(package)}: {source} is not the locked archive (SHA-256 {actual[:16]}…, "
            f"locked {str(package.sha256)[:16]}…).",
            hint="It was not installed. Where a channel has lost the file, only a vault can rebuild: "
            "`environment: {vault: all}` in the recipe.",
        )
    return kept(store, actual, file, file.name)


def _shown(package: CondaPackage) -> str:
    return f"{package.name} {package.version} {package.build}"


def _stem(package: CondaPackage) -> str:
    return conda_key(package).rpartition("/")[2]


def _suffix(url: str) -> str:
    return next((one for one in _SUFFIXES if url.endswith(one)), ".conda")


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
