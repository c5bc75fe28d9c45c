"""Conda channels for tests, built by hand and indexed by py-rattler."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import rattler
from rattler.index import index_fs

PLACEHOLDER = "/opt/" + "placeholder_" * 8


class File(NamedTuple):
    """A file of a package; `prefix` has the placeholder in it replaced when it is installed."""

    data: bytes
    mode: int = 0o644
    prefix: bool = False


def conda_package(
    channel: Path,
    name: str,
    version: str,
    files: Mapping[str, File | str],
    *,
    links: Mapping[str, str] | None = None,
    depends: Sequence[str] = (),
    noarch: bool = False,
    build: str = "0",
) -> Path:
    """Write a package as conda-build does; `str` is the target of a symbolic link in `links` alone."""
    subdir = "noarch" if noarch else "linux-64"
    members = {path: body if isinstance(body, File) else File(body.encode()) for path, body in files.items()}
    paths: list[dict[str, object]] = []
    for path, body in members.items():
        row = {"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256(body.data).hexdigest()}
        paths.append({**row, "size_in_bytes": len(body.data)})
        if body.prefix:
            paths[-1] |= {"prefix_placeholder": PLACEHOLDER, "file_mode": "text"}
    paths += [{"_path": path, "path_type": "softlink"} for path in links or {}]
    index = {"name": name, "version": version, "build": build, "build_number": 0, "depends": list(depends)}
    index |= {"subdir": subdir, **({"noarch": "python"} if noarch else {})}
    members["info/index.json"] = File(json.dumps(index).encode())
    members["info/paths.json"] = File(json.dumps({"paths": paths, "paths_version": 1}).encode())
    members["info/files"] = File("\n".join(files).encode())
    if noarch:
        members["info/link.json"] = File(b'{"noarch": {"type": "python"}, "package_metadata_version": 1}')
    target = channel / subdir / f"{name}-{version}-{build}.tar.bz2"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w:bz2", compresslevel=1) as archive:
        for path, body in members.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(body.data), body.mode
            archive.addfile(info, io.BytesIO(body.data))
        for path, goal in (links or {}).items():
            info = tarfile.TarInfo(path)
            info.type, info.linkname = tarfile.SYMTYPE, goal
            archive.addfile(info)
    return target


def stub_python(channel: Path) -> Path:
    """Package this machine's interpreter, which finds its standard library where it is now."""
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    binary = (Path(sys.base_prefix) / "bin" / minor).resolve()
    files = {
        f"bin/{minor}": File(binary.read_bytes(), 0o755),
        "pyvenv.cfg": File(f"home = {binary.parent}\ninclude-system-site-packages = false\n".encode()),
    }
    return conda_package(
        channel, "python", ".".join(map(str, sys.version_info[:3])), files,
        links={"bin/python": minor, "bin/python3": minor},
    )  # fmt: skip


def whole_python(channel: Path) -> Path:
    """Package this machine's Python with its standard library."""
    minor = f"python{sys.version_info.major}.{sys.version_info.minor}"
    base = Path(sys.base_prefix)
    left_out = {"site-packages", "test", "tests", "__pycache__", "idlelib", "tkinter", "ensurepip", "lib2to3"}
    files = {f"bin/{minor}": File((base / "bin" / minor).read_bytes(), 0o755)}
    library = base / "lib" / minor
    for path in sorted(library.rglob("*")):
        inside = path.relative_to(library)
        if path.is_file() and left_out.isdisjoint(inside.parts) and not inside.parts[0].startswith("config-"):
            files[f"lib/{minor}/{inside.as_posix()}"] = File(path.read_bytes(), path.stat().st_mode & 0o777)
    return conda_package(
        channel, "python", ".".join(map(str, sys.version_info[:3])), files,
        links={"bin/python": minor, "bin/python3": minor}, build="whole_0",
    )  # fmt: skip


def python_package(channel: Path, name: str, version: str, text: str, **more: File) -> Path:
    """Package a module for any Python, with the metadata that makes it a distribution."""
    info = f"site-packages/{name}-{version}.dist-info"
    files = {
        f"site-packages/{name}.py": File(text.encode()),
        f"{info}/METADATA": File(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()),
        f"{info}/RECORD": File(f"{name}.py,,\n{name}-{version}.dist-info/METADATA,,\n".encode()),
        f"{info}/INSTALLER": File(b"conda\n"),
    }
    return conda_package(channel, name, version, {**files, **more}, noarch=True, depends=["python"])


def script_package(channel: Path, name: str, version: str) -> Path:
    """Package a script that names the environment that it is installed into."""
    text = f"#!{PLACEHOLDER}/bin/python\nprint('{name} {version}')\n"
    return conda_package(channel, name, version, {f"bin/{name}": File(text.encode(), 0o755, True)}, depends=["python"])


def index(channel: Path) -> str:
    """Write the channel's index, and return its address."""
    (channel / "noarch").mkdir(parents=True, exist_ok=True)
    asyncio.run(index_fs(channel))
    return channel.as_uri()


def install(prefix: Path, channel: str, *specs: str) -> Path:
    """Make an environment, as pixi or micromamba would, and return its interpreter."""

    async def make() -> None:
        found = await rattler.solve([channel], list(specs), virtual_packages=rattler.VirtualPackage.detect())
        await rattler.install(found, prefix, cache_dir=prefix.with_name(f"{prefix.name}-pkgs"), show_progress=False)

    asyncio.run(make())
    return prefix / "bin" / "python"


def contents(prefix: Path) -> dict[str, str]:
    """Return the hash of every file but what a package manager notes, with the environment's own place left out."""
    found = {}
    for path in sorted(prefix.rglob("*")):
        name = path.relative_to(prefix).as_posix()
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file() and not name.startswith("conda-meta/") and "/__pycache__/" not in name:
            data = path.read_bytes().replace(str(prefix).encode(), b"PREFIX")
            found[name] = hashlib.sha256(data).hexdigest()
    return found
