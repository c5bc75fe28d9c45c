"""reprokit itself as wheels, with everything that it needs: what runs here, whatever it was installed from.

No index is asked: what is installed is packed again, and of reprokit the very files that run.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from reprokit._version import __version__
from reprokit.core.package_root import PACKAGE
from reprokit.environment.capture import capture, packages_of
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.pip.wheelhouse import Vault, gather
from reprokit.environment.pip.wheels import repack
from reprokit.errors import EnvironmentMismatchError
from reprokit.schema.lock import PipPackage

__all__ = ["NEEDS", "installed_wheels", "tool_wheels", "write_own_wheel"]

NEEDS = (
    "click>=8.1",
    "rich>=13",
    "msgspec>=0.19",
    "PyYAML>=6",
    "platformdirs>=4",
    "numpy>=1.26",
    "psutil>=5.9",
    "packaging>=26.1",
    "pathspec>=0.12",
)
"""As pyproject.toml has them, which is not there where reprokit runs; a test compares the two."""

_NAME = "reprokit_runs"
_TIME = (1980, 1, 1, 0, 0, 0)


def tool_wheels(*more: str, cache: Path, own: Path) -> list[Path]:
    """Return wheels of reprokit and of all that it needs, for the Python that it runs in.

    Args:
        more: What else it needs for the task.
        cache: Where packed ones are kept.
        own: Folder for reprokit's own.
    Raises:
        EnvironmentMismatchError: Something it needs is not installed as a whole; it is named.
    """
    here = Interpreter.here()
    needed = _closure([*NEEDS, *more], dict(packages_of(here)))
    locked = [package for package in capture(cache).lock.pip if package.name in needed]
    vault = Vault(wheels=installed_wheels(locked, cache=cache))
    wheels = gather(locked, interpreter=here, cache=cache, vault=vault, offline=True)
    return [write_own_wheel(own), *wheels]


def installed_wheels(packages: Iterable[PipPackage], *, cache: Path) -> dict[str, Callable[[Path], Path]]:
    """Return what packs those of the packages that are installed beside reprokit, and are the very same, into wheels.

    Args:
        cache: Where it is remembered what the installed files are.
    """
    here = Interpreter.here()
    wanted = {package.name: package for package in packages}
    same = {package.name for package in capture(cache).lock.pip if package == wanted.get(package.name)}

    def packer(distribution: Distribution) -> Callable[[Path], Path]:
        return lambda folder: repack(_info(distribution), prefix=here.prefix, into=folder)

    return {name: packer(one) for name, one in packages_of(here) if name in same}


def _info(distribution: Distribution) -> Path:
    return Path(str(getattr(distribution, "_path", "")))


def _closure(needs: Iterable[str], distributions: Mapping[str, Distribution]) -> set[str]:
    """Return the names of what is needed, and of what those need."""
    found: set[str] = set()
    pending = [(text, "reprokit") for text in needs]
    while pending:
        text, by = pending.pop()
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        if name not in distributions:
            raise EnvironmentMismatchError(
                f"{name}, which {by} needs, is not installed beside it, so it cannot be packed.",
                hint="Install it with `pip install`.",
            )
        found.add(name)
        pending += [(text, name) for text in distributions[name].requires or []]
    return found


def write_own_wheel(folder: Path) -> Path:
    """Write the wheel of reprokit from the files that run here, and return it; equal files give equal bytes."""
    target = folder / f"{_NAME}-{__version__}-py3-none-any.whl"
    info = f"{_NAME}-{__version__}.dist-info"
    files = {f"{PACKAGE.name}/{file.relative_to(PACKAGE).as_posix()}": file.read_bytes() for file in _own_files()}
    needs = "".join(f"Requires-Dist: {text}\n" for text in NEEDS)
    about = f"Metadata-Version: 2.1\nName: reprokit-runs\nVersion: {__version__}\nLicense: Apache-2.0\n{needs}"
    files |= {
        f"{info}/METADATA": about.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: reprokit\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": b"[console_scripts]\nreprokit = reprokit.cli.main:main\n",
    }
    record = io.StringIO()
    rows = [(name, _digest(files[name]), len(files[name])) for name in sorted(files)]
    csv.writer(record, lineterminator="\n").writerows([*rows, (f"{info}/RECORD", "", "")])
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in [*sorted(files.items()), (f"{info}/RECORD", record.getvalue().encode())]:
            row = zipfile.ZipInfo(name, _TIME)
            row.compress_type = zipfile.ZIP_DEFLATED
            row.external_attr = 0o100644 << 16
            archive.writestr(row, body)
    return target


def _own_files() -> list[Path]:
    found = [file for file in PACKAGE.rglob("*") if file.suffix == ".py" or file.name == "py.typed"]
    return [file for file in found if file.is_file() and not file.name.startswith(".")]


def _digest(body: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
