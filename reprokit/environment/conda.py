"""py-rattler's door: solve, fetch and install conda packages. Loaded only where an environment has some.

Source: https://conda.github.io/rattler/py-rattler; 0.28. Post-link scripts of packages are not executed, as rattler and
pixi do by default.
"""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import rattler
from rattler import exceptions
from rattler.networking import Client
from rattler.package_streaming import PackageArchive, download_to_path

from reprokit.environment.channel import conda_key
from reprokit.environment.condameta import FOLDER
from reprokit.environment.locators import clean_url
from reprokit.errors import EnvironmentMismatchError
from reprokit.lock import Archive, CondaPackage

__all__ = ["download", "install_conda", "solve_conda"]

_T = TypeVar("_T")
_PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_FAILURES: tuple[type[Exception], ...] = (
    OSError, RuntimeError, ValueError,
    *(one for one in vars(exceptions).values() if isinstance(one, type) and issubclass(one, Exception)),
)  # fmt: skip
_MALFORMED: tuple[type[Exception], ...] = (*_FAILURES, KeyError, TypeError, AttributeError, RecursionError)


def download(url: str, file: Path) -> None:
    """Write what a server has at an address into a file, with the credentials that rattler knows for its host.

    Raises:
        EnvironmentMismatchError: It serves nothing.
    """
    try:
        _wait(download_to_path(Client.authenticated_client(), url, file))
    except _FAILURES as error:
        raise EnvironmentMismatchError(
            f"{url} cannot be fetched: {_one_line(error)}.",
            hint="Where a channel has lost the file, only a vault can rebuild: `environment: {vault: all}`.",
        ) from None


def solve_conda(
    specs: Sequence[str], channels: Sequence[str], *, what: str
) -> tuple[list[CondaPackage], list[Archive]]:
    """Return the packages that satisfy specifications on this machine, and where their archives are, by name.

    Args:
        channels: Names or addresses, the first with the highest priority.
        what: Names the file that asks, for errors.
    Raises:
        EnvironmentMismatchError: A specification is none, a channel does not answer, or they cannot be met together,
            with the solver's own explanation.
    """
    try:
        wanted = [rattler.MatchSpec(spec, strict=False) for spec in specs]  # `name=1.0=build`, as conda writes it
        records = _wait(
            rattler.solve(sources=list(channels), specs=wanted, virtual_packages=rattler.VirtualPackage.detect())
        )
    except exceptions.SolverError as error:
        raise EnvironmentMismatchError(
            f"{what} cannot be solved: {_explained(error)}", hint="Loosen a version, or add the channel that has it."
        ) from None
    except exceptions.GatewayError as error:
        raise EnvironmentMismatchError(
            f"{what}: a channel does not answer: {_one_line(error)}.",
            hint="Check its address and the network.",
        ) from None
    except _FAILURES as error:
        raise EnvironmentMismatchError(f"{what} is not solved: {_one_line(error)}.") from None
    packages, archives = [], []
    for record in sorted(records, key=lambda one: one.name.normalized):
        sha256 = record.sha256.hex() if record.sha256 else None
        package = CondaPackage(
            name=record.name.normalized,
            version=str(record.version),
            build=str(record.build),
            subdir=record.subdir,
            sha256=sha256,
        )
        packages.append(package)
        url = clean_url(record.url)
        if sha256 and url:
            file = url.rpartition("/")[2]
            archives.append(
                Archive(kind="conda", name=package.name, version=package.version, file=file, url=url, sha256=sha256)
            )
    return packages, archives


def install_conda(
    packages: Sequence[CondaPackage],
    files: Mapping[str, Path],
    *,
    archives: Sequence[Archive],
    prefix: Path,
    final: Path,
) -> None:
    """Install checked archives into a new folder.

    Args:
        files: The archive of each package, by name; each has the locked SHA-256.
        archives: Where they came from, for conda-meta.
        prefix: Where to.
        final: Where `prefix` will be moved to: what the installed files name.
    Raises:
        EnvironmentMismatchError: An archive is another package than the locked one, or cannot be installed.
    """
    records = []
    for package in packages:
        file = files[package.name]
        try:
            record = _wait(rattler.RepoDataRecord.from_package_archive(file))
        except _FAILURES as error:
            raise EnvironmentMismatchError(f"{file.name} is no conda package: {_one_line(error)}.") from None
        told = f"{record.subdir}/{record.name.normalized}-{record.version}-{record.build}"
        if told != conda_key(package):
            raise EnvironmentMismatchError(f"{conda_key(package)}: its archive says that it is {told}.")
        _check_paths(file, conda_key(package))
        records.append(record)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=prefix.parent) as scratch:
        try:
            _wait(
                rattler.install(
                    records, target_prefix=prefix, cache_dir=Path(scratch), alternative_target_prefix=final,
                    show_progress=False, execute_link_scripts=False,
                )
            )  # fmt: skip
        except _FAILURES as error:
            raise EnvironmentMismatchError(f"The conda packages cannot be installed: {_one_line(error)}.") from None
    _say_where_from(prefix, {one.name: one for one in archives if one.kind == "conda"})


def _check_paths(file: Path, what: str) -> None:
    """Refuse an archive that would be installed outside its environment: rattler 0.28 does not, and may abort."""
    names = ("info/paths.json", "info/files", "info/link.json")

    async def read() -> list[bytes | None]:
        found = await (await PackageArchive.from_path(file)).read_files(names)
        return [found.get(name) for name in names]

    try:
        listed, old, link = _wait(read())
        rows = json.loads(listed)["paths"] if listed else []
        paths = [str(row["_path"]) for row in rows] + (old.decode().split("\n") if old else [])
        softlinks = {str(row["_path"]) for row in rows if row.get("path_type") == "softlink"}
        noarch = json.loads(link).get("noarch") or {} if link else {}
        programs = [str(entry).partition("=")[0].strip() for entry in noarch.get("entry_points") or []]
    except _MALFORMED as error:
        raise EnvironmentMismatchError(f"{what}: its archive does not list its files: {_one_line(error)}.") from None
    for path in paths:
        parts = path.split("/")
        inside = path.isprintable() and not path.startswith("/") and ".." not in parts and parts[0] != FOLDER
        if not inside or any("/".join(parts[:depth]) in softlinks for depth in range(1, len(parts))):
            raise EnvironmentMismatchError(
                f"{what}: its archive would write {path!r}, outside of what a package may.",
                hint="It was not installed.",
            )
    for program in programs:
        if not _PROGRAM.fullmatch(program):
            raise EnvironmentMismatchError(f"{what}: its archive would make a program called {program!r}.")


def _say_where_from(prefix: Path, archives: Mapping[str, Archive]) -> None:
    """Have conda-meta name the channels that the archives came from first, not this machine's cache."""
    for file in (prefix / FOLDER).glob("*.json"):
        record = json.loads(file.read_bytes())
        archive = archives.get(record["name"])
        if archive is not None:
            record["url"] = archive.url
            record["channel"] = archive.url.removesuffix(f"/{record['subdir']}/{archive.file}")
            record.pop("extracted_package_dir", None)
            record.pop("link", None)
            file.write_text(json.dumps(record, indent=2))


def _wait(coroutine: Coroutine[Any, Any, _T]) -> _T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:  # in a notebook a loop runs already
        return pool.submit(asyncio.run, coroutine).result()


def _explained(error: Exception) -> str:
    return str(error).removeprefix("Cannot solve the request because of: ").strip()


def _one_line(error: Exception) -> str:
    return "; ".join(dict.fromkeys(line.strip() for line in str(error).splitlines() if line.strip()))[:1000]
