"""Wheels and environments for tests, made without a network: from what is installed here, and by hand."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from importlib import metadata
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from reprokit.environment.pip.wheels import repack


def wheel(
    folder: Path, name: str, version: str, files: dict[str, str], *, requires: Sequence[str] = (), **more: bytes
) -> Path:
    """Write a wheel by hand; `more` are members as they are, that its RECORD does not name."""
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    info = f"{name}-{version}.dist-info"
    members = {
        **{path: text.encode() for path, text in files.items()},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{path},{digest(body)},{len(body)}" for path, body in members.items()]
    members[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, body in {**members, **more}.items():
            archive.writestr(path, body)
    return target


def digest(body: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()


def needed_by_reprokit(*more: str) -> list[str]:
    """Return the packages that reprokit and others need in order to start, their own needs' needs among them."""
    found: dict[str, None] = {}
    pending = [
        "click",
        "rich",
        "msgspec",
        "PyYAML",
        "platformdirs",
        "numpy",
        "psutil",
        "packaging",
        "pathspec",
        *more,
    ]
    while pending:
        name = canonicalize_name(pending.pop())
        if name in found:
            continue
        found[name] = None
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending.append(requirement.name)
    return sorted(found)


def repacked(folder: Path, names: list[str]) -> list[Path]:
    """Pack installed packages into wheels."""
    folder.mkdir(parents=True, exist_ok=True)
    infos = [Path(str(distribution(name)._path)) for name in names]  # type: ignore[attr-defined]
    return [repack(info, prefix=Path(sys.prefix), into=folder) for info in infos]


def venv(folder: Path, wheels: list[Path]) -> Path:
    """Make a virtual environment with these wheels, by pip, and return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    if wheels:
        install(python, *wheels)
    return python


def copied(folder: Path, names: list[str]) -> Path:
    """Make a virtual environment with these packages, file by file as they are installed here, in about a second.

    As an installer does: bytecode is there before RECORD is.
    """
    python = venv(folder, [])
    target = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for name in names:
        found = distribution(name)
        for file in sorted(found.files or [], key=lambda file: file.name in ("INSTALLER", "RECORD")):
            source = Path(str(found.locate_file(file)))
            if ".." in file.parts or (
                file.suffix == ".pyc" and not source.is_file()
            ):  # commands; what was not compiled
                continue
            place = target.joinpath(*file.parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)
    return python


def install(python: Path, *wheels: Path) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), "--isolated", "install", "--quiet"]
    subprocess.run([*command, "--no-deps", "--no-index", "--force-reinstall", *map(str, wheels)], check=True)


def only(monkeypatch: pytest.MonkeyPatch, **options: str) -> None:
    """Have pip look here and nowhere else."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name, value in options.items():
        monkeypatch.setenv(f"PIP_{name}", value)
