"""A virtual environment, and wheels installed into one or into a conda environment."""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.utils import canonicalize_name

from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.pip.installed import rows_of, spell
from reprokit.environment.pip.wheelhouse import read_name
from reprokit.errors import EnvironmentMismatchError
from reprokit.schema.lock import EnvironmentLock

__all__ = ["install_wheels", "make_venv", "name_the_final_place"]


def make_venv(base: Interpreter, folder: Path) -> None:
    """Make an empty virtual environment, without pip."""
    _run([str(base.python), "-m", "venv", "--without-pip", str(folder)], "Making a virtual environment")


def install_wheels(lock: EnvironmentLock, wheels: list[Path], building: Path) -> None:
    """Install checked wheels into an environment, without an index and without resolving."""
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=building.parent) as name:
        links = Path(name) / "wheels"
        links.mkdir()
        versions = {package.name: package.version for package in lock.pip}
        wanted = Path(name) / "requirements.txt"
        lines = []
        for wheel in wheels:
            (links / wheel.name).symlink_to(wheel)
            key = canonicalize_name(read_name(wheel))
            lines.append(f"{key}=={versions[key]}\n")
        wanted.write_text("".join(lines))
        python = str(building / "bin" / "python")
        uv = _uv()
        common = ["--no-deps", "--no-index", "--find-links", str(links), "--requirement", str(wanted)]
        if uv is not None:
            command = [uv, "pip", "install", "--quiet", "--python", python, "--no-cache", "--no-config", *common]
        else:
            own = [sys.executable, "-m", "pip", "--python", python, "--isolated", "install"]
            command = [*own, "--quiet", "--no-compile", "--no-warn-script-location", *common]
        _run(command, "Installing the locked packages")


def _uv() -> str | None:
    """Return uv's program: that of the package beside reprokit, or the one on PATH."""
    if importlib.util.find_spec("uv") is not None:
        beside = Path(sys.executable).parent / "uv"
        if beside.is_file():
            return str(beside)
    return shutil.which("uv")


def _run(command: list[str], what: str) -> None:
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **quiet})
    if done.returncode:
        raise EnvironmentMismatchError(f"{what} failed: {done.stderr.strip()[-2000:] or done.stdout.strip()[-2000:]}")


def name_the_final_place(building: Path, target: Path) -> None:
    """Have scripts and activation name the folder that the environment will have, and RECORDs say so."""
    before, after = str(building).encode(), str(target).encode()
    named = {}
    for file in [*(building / "bin").iterdir(), building / "pyvenv.cfg"]:
        if file.is_file() and not file.is_symlink():
            with file.open("rb") as handle:
                head = handle.read(2)
            if head != b"\x7fE" and before in (data := file.read_bytes()):
                named[file] = data.replace(before, after)
                file.write_bytes(named[file])
    for record in building.glob("lib/python*/site-packages/*.dist-info/RECORD"):
        _record_again(record, named)


def _record_again(record: Path, named: dict[Path, bytes]) -> None:
    text = record.read_text(encoding="utf-8", errors="surrogateescape")
    if "/bin/" not in text:
        return
    rows = []
    for path, digest, size in rows_of(text):
        data = named.get(Path(os.path.normpath(record.parent.parent / path)))
        told = spell(io.BytesIO(data), digest) if data is not None and digest else None
        rows.append((path, digest, size) if data is None or told is None else (path, told, str(len(data))))
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    record.write_text(written.getvalue(), encoding="utf-8", errors="surrogateescape")
