"""Python interpreters of this machine: what they are, where they install to, and which one has a given version."""

from __future__ import annotations

import json
import os
import platform
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reprokit.errors import EnvironmentMismatchError

__all__ = ["Interpreter", "find_interpreter"]

# asked of an interpreter that is not this one; -I: nothing of the user's comes in
_ASK = (
    "import json,platform,site,sys,sysconfig;"
    "print(json.dumps([platform.python_version(),platform.python_implementation(),"
    "platform.system().lower()+'-'+platform.machine(),sys.prefix,site.getsitepackages(),"
    "sys.implementation.cache_tag,sysconfig.get_path('stdlib')]))"
)
_PATIENCE = 60.0


@dataclass(frozen=True)
class Interpreter:
    """One interpreter, and the folders that a plain `python script.py` of it imports packages from.

    Attributes:
        platform: As `linux-x86_64`.
        places: All of them, those that `.pth` files add among them.
        sites: Those that are installed to, and whose `.pth` files are executed.
        tag: What it calls its bytecode: `cpython-311`.
        library: Where its own library is.
    """

    python: Path
    version: str
    implementation: str
    platform: str
    prefix: Path
    places: tuple[str, ...]
    sites: tuple[str, ...]
    tag: str
    library: str

    @classmethod
    def here(cls) -> Interpreter:
        """Return the one that this process runs in."""
        return cls(
            python=Path(sys.executable),
            version=platform.python_version(),
            implementation=platform.python_implementation(),
            platform=f"{platform.system().lower()}-{platform.machine()}",
            prefix=Path(sys.prefix),
            places=tuple(_places_here()),
            sites=tuple(place for place in _sites_here() if Path(place).is_dir()),
            tag=str(sys.implementation.cache_tag),
            library=sysconfig.get_path("stdlib"),
        )

    @classmethod
    def of(cls, python: Path) -> Interpreter:
        """Return this process's own if that is it, else another one; raises as `at`."""
        return cls.here() if python == Path(sys.executable) else cls.at(python)

    @classmethod
    def at(cls, python: Path) -> Interpreter:
        """Return another one, by asking it.

        Raises:
            EnvironmentMismatchError: It does not start.
        """
        try:
            done = subprocess.run(
                [python, "-I", "-c", _ASK], capture_output=True, text=True, timeout=_PATIENCE, check=True
            )
            version, implementation, system, prefix, places, tag, library = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise EnvironmentMismatchError(f"{python} is no Python that starts: {error}.") from None
        known = tuple(place for place in places if Path(place).is_dir())  # Debian names some that it has not made
        return cls(python, version, implementation, system, Path(prefix), known, known, str(tag), library)


def _sites_here() -> list[str]:
    own = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    return [*own, *site.getsitepackages()]


def _places_here() -> Iterator[str]:
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    wanted = {*site.getsitepackages(), site.getusersitepackages()}
    own = {entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
    script = sys.path[0] if sys.path else ""
    for place in sys.path:
        installed_to = place in wanted or (place not in own and place != script)
        if place and installed_to and place not in standard and Path(place).is_dir():
            yield place


def find_interpreter(*, version: str, implementation: str, system: str) -> Interpreter:
    """Return an interpreter of exactly this version: this process's own, one on PATH, or one that uv knows.

    Raises:
        EnvironmentMismatchError: There is none; those that were found are named.
    """
    seen: dict[str, Interpreter] = {}
    for candidate in _candidates(version):
        try:
            found = Interpreter.at(candidate)
        except EnvironmentMismatchError:
            continue
        if (found.version, found.implementation, found.platform) == (version, implementation, system):
            return found
        seen[str(candidate)] = found
    told = "; ".join(f"{one.implementation} {one.version} for {one.platform} ({path})" for path, one in seen.items())
    raise EnvironmentMismatchError(
        f"{implementation} {version} for {system} is not on this machine. Found: {told or 'none'}.",
        hint=f"Install it, for example with `uv python install {version}` or pyenv, and have it on PATH.",
    )


def _candidates(version: str) -> Iterator[Path]:
    given: list[str | None] = [getattr(sys, "_base_executable", None), sys.executable]
    minor = ".".join(version.split(".")[:2])
    given += [shutil.which(name) for name in (f"python{minor}", "python3", "python")]
    seen: set[Path] = set()
    for path in [Path(one) for one in given if one]:
        if (real := path.resolve()) not in seen:
            seen.add(real)
            yield path
    uv = shutil.which("uv")
    if uv is not None:
        done = subprocess.run(
            [uv, "python", "find", "--offline", "--no-project", version], capture_output=True, text=True, check=False
        )
        if done.returncode == 0 and Path(done.stdout.strip()).resolve() not in seen:
            yield Path(done.stdout.strip())
