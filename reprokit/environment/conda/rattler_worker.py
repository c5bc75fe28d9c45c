"""py-rattler's door: a program that solves, fetches and installs conda packages, as `engine` asks on its stdin.

It runs in a process of its own, because a hostile archive, and an answer that is still awaited at the end, abort the
process that py-rattler is in. Source: https://conda.github.io/rattler/py-rattler; 0.28. Post-link scripts of packages
are not executed, as rattler and pixi do by default.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import rattler
from rattler import exceptions
from rattler.networking import Client
from rattler.package_streaming import PackageArchive, download_to_path

from reprokit.environment.conda.meta import FOLDER, conda_key
from reprokit.environment.local.clean_url import clean_url
from reprokit.errors import EnvironmentMismatchError
from reprokit.schema.lock import Archive, CondaPackage

__all__ = ["main"]

_INDEX, _ARCHIVE = 120, 3600  # seconds that one answer of a channel may take
_AT_ONCE = 8
_PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}")
_FAILURES: tuple[type[Exception], ...] = (
    OSError, RuntimeError, ValueError,
    *(one for one in vars(exceptions).values() if isinstance(one, type) and issubclass(one, Exception)),
)  # fmt: skip
_MALFORMED: tuple[type[Exception], ...] = (*_FAILURES, KeyError, TypeError, AttributeError, RecursionError)


def main() -> None:
    """Do what one JSON object on stdin asks, and answer with one on stdout; `{"done": 1}` before it tell progress."""
    request = json.load(sys.stdin)
    actions: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]]
    actions = {"solve": _solve, "download": _download, "install": _install}
    do = actions[request.pop("do")]
    try:
        answer = asyncio.run(do(**request))
    except EnvironmentMismatchError as error:
        answer = {"error": error.message, "hint": error.hint}
    _say(answer)
    os._exit(0)  # what py-rattler still waits for would abort the interpreter's end


def _say(value: Mapping[str, Any]) -> None:
    print(json.dumps(value), flush=True)


async def _download(files: Mapping[str, str]) -> dict[str, Any]:
    """Write what servers have at addresses into files, with the credentials that rattler knows for their hosts."""
    client = Client.default_client(timeout=_ARCHIVE)
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(url: str, file: str) -> None:
        async with places:
            try:
                await download_to_path(client, url, Path(file))
            except _FAILURES as error:
                raise EnvironmentMismatchError(
                    f"{url} cannot be fetched: {_one_line(error)}.",
                    hint="Where a channel has lost the file, only a vault can rebuild: `environment: {vault: all}`.",
                ) from None
        _say({"done": 1})

    await asyncio.gather(*(one(url, file) for url, file in files.items()))
    return {}


async def _solve(specs: Sequence[str], channels: Sequence[str], cache: str, what: str) -> dict[str, Any]:
    try:
        wanted = [rattler.MatchSpec(spec, strict=False) for spec in specs]  # `name=1.0=build`, as conda writes it
        gateway = rattler.Gateway(Path(cache) / "repodata", client=Client.default_client(max_retries=1, timeout=_INDEX))
        here = rattler.VirtualPackage.detect()
        records = await rattler.solve(sources=list(channels), specs=wanted, gateway=gateway, virtual_packages=here)
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
    return {"packages": msgspec.to_builtins(packages), "archives": msgspec.to_builtins(archives)}


async def _install(
    packages: Sequence[Any], files: Mapping[str, str], archives: Sequence[Any], prefix: str, final: str
) -> dict[str, Any]:
    records = []
    for package in msgspec.convert(packages, list[CondaPackage]):
        file = Path(files[package.name])
        try:
            record = await rattler.RepoDataRecord.from_package_archive(file)
        except _FAILURES as error:
            raise EnvironmentMismatchError(f"{file.name} is no conda package: {_one_line(error)}.") from None
        told = f"{record.subdir}/{record.name.normalized}-{record.version}-{record.build}"
        if told != conda_key(package):
            raise EnvironmentMismatchError(f"{conda_key(package)}: its archive says that it is {told}.")
        await _check_paths(file, conda_key(package))
        records.append(record)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=Path(prefix).parent) as scratch:
        try:
            await rattler.install(
                records, target_prefix=prefix, cache_dir=Path(scratch), alternative_target_prefix=final,
                show_progress=False, execute_link_scripts=False,
            )  # fmt: skip
        except _FAILURES as error:
            raise EnvironmentMismatchError(f"The conda packages cannot be installed: {_one_line(error)}.") from None
    known = msgspec.convert(archives, list[Archive])
    _say_where_from(Path(prefix), {one.name: one for one in known if one.kind == "conda"})
    return {}


async def _check_paths(file: Path, what: str) -> None:
    """Refuse an archive that would be installed outside its environment: rattler 0.28 does not, and may abort."""
    names = ("info/paths.json", "info/files", "info/link.json")

    try:
        found = await (await PackageArchive.from_path(file)).read_files(names)
        listed, old, link = (found.get(name) for name in names)
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


def _explained(error: Exception) -> str:
    return str(error).removeprefix("Cannot solve the request because of: ").strip()


def _one_line(error: Exception) -> str:
    return "; ".join(dict.fromkeys(line.strip() for line in str(error).splitlines() if line.strip()))[:1000]


if __name__ == "__main__":
    main()
