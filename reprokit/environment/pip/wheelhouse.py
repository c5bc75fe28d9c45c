"""The wheels of a locked environment, gathered and checked: from a vault, from the cache, or from an index."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from reprokit.core.atomic_files import os_errors
from reprokit.core.progress import SILENT, Progress
from reprokit.environment.conda.archives import CondaVault
from reprokit.environment.local.archive_cache import kept
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.pip.wheels import read_wheel, wheel_name
from reprokit.errors import DataMismatchError, EnvironmentMismatchError
from reprokit.schema.lock import Archive, PipPackage

__all__ = ["Vault", "check_wheel", "fetch", "gather", "held", "keep", "pip_for", "read_name", "what_pip_said"]


class Vault(NamedTuple):
    """The archives that a run keeps, and where others were found.

    Attributes:
        wheels: What writes a wheel into a folder and returns the file, by package name.
        conda: The same of conda archives, by `conda_key`.
        archives: Addresses, of when the environment was locked.
    """

    wheels: Mapping[str, Callable[[Path], Path]] = MappingProxyType({})
    conda: CondaVault = MappingProxyType({})
    archives: Sequence[Archive] = ()


_ASK_ALONE = (
    "Where no index serves a file any more, only a vault can rebuild: `environment: {vault: all}` in the recipe."
)


def gather(
    packages: Iterable[PipPackage],
    *,
    interpreter: Interpreter,
    cache: Path,
    vault: Vault | None = None,
    offline: bool = False,
    progress: Progress = SILENT,
) -> list[Path]:
    """Return one checked wheel for each package, in the cache.

    Args:
        interpreter: For which they must be; its version and platform choose among an index's files.
        offline: Ask no index.
    Raises:
        EnvironmentMismatchError: A package has no wheel, or none that is the locked one; it is named.
    """
    store = cache / "wheels"
    found: dict[str, Path] = {}
    missing: list[PipPackage] = []
    with os_errors(f"Writing the wheels in {store}"):
        for package in packages:
            if package.record is None:
                raise EnvironmentMismatchError(
                    f"{package.name} {package.version} was installed without a RECORD of its files, so nobody can "
                    "tell a copy of it.",
                    hint="Install it with `pip install` where the run is made.",
                )
            wheel = held(store, package)
            if wheel is None and vault and package.name in vault.wheels:
                wheel = _from_vault(store, package, vault.wheels[package.name])
            if wheel is None:
                missing.append(package)
            else:
                found[package.name] = wheel
        if missing and offline:
            named = ", ".join(f"{one.name} {one.version}" for one in missing[:10])
            more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
            raise EnvironmentMismatchError(
                f"No copy here of {named}{more}, and no index is asked.",
                hint=_ASK_ALONE,
            )
        if missing:
            named = ", ".join(f"{one.name} {one.version}" for one in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            progress.note(f"Fetching what this machine has no copy of, to keep it in {store}: {named}{more}.")
            with progress.task("Fetching packages", len(missing)) as advance:
                for package, path in _from_index(store, missing, interpreter):
                    found[package.name] = path
                    advance(1)
    return [found[name] for name in sorted(found)]


def held(store: Path, package: PipPackage) -> Path | None:
    """Return a wheel that was checked before; its folder is named by what was checked."""
    file = store / str(package.record) / wheel_name(package)
    return file if file.is_file() else None


def keep(store: Path, package: PipPackage, wheel: Path) -> Path:
    """Check a wheel and move it into the cache; return where it lies."""
    check_wheel(wheel, package)
    return kept(store, str(package.record), wheel, wheel_name(package))  # whatever name it came with


def _from_vault(store: Path, package: PipPackage, write: Callable[[Path], Path]) -> Path:
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=store) as name:
        return keep(store, package, write(Path(name)))


def check_wheel(wheel: Path, package: PipPackage) -> None:
    """Raise unless a file is the locked package's wheel.

    Raises:
        EnvironmentMismatchError: It is another one, or no whole wheel.
    """
    try:
        identity = read_wheel(wheel)
    except DataMismatchError as error:
        raise EnvironmentMismatchError(
            f"{package.name} {package.version}: {error.message}", hint="It was not installed."
        ) from None
    if identity == package:
        return
    if (identity.name, identity.version) != (package.name, package.version):
        what = f"is {identity.name} {identity.version}"
    elif identity.tags != package.tags:
        what = f"is built for {', '.join(identity.tags)}, and the locked one for {', '.join(package.tags)}"
    else:
        what = "has other files than the locked one"
    raise EnvironmentMismatchError(
        f"{package.name} {package.version}: {wheel.name} {what}.", hint=f"It was not installed. {_ASK_ALONE}"
    )


def _from_index(store: Path, packages: list[PipPackage], interpreter: Interpreter) -> Iterable[tuple[PipPackage, Path]]:
    """Yield checked wheels that pip finds where it is configured to look: indexes, extra indexes, find-links."""
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tmp-", dir=store) as name:
        files = _download([f"{one.name}=={one.version}" for one in packages], interpreter, Path(name))
        for package in packages:
            if package.name not in files:
                raise EnvironmentMismatchError(f"pip fetched no wheel of {package.name} {package.version}.")
            yield package, keep(store, package, files[package.name])


def fetch(
    requirements: Mapping[str, str], *, interpreter: Interpreter, cache: Path, progress: Progress = SILENT
) -> list[PipPackage]:
    """Fetch wheels that were chosen, check their hashes and keep them; return their identities, by name.

    Args:
        requirements: One line of a requirements file for each package, exact and with its SHA-256.
    Raises:
        EnvironmentMismatchError: One is not served, has another hash, or is no whole wheel.
    """
    store = cache / "wheels"
    found = []
    with os_errors(f"Writing the wheels in {store}"), progress.task("Fetching packages", len(requirements)) as advance:
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="tmp-", dir=store) as name:
            files = _download(list(requirements.values()), interpreter, Path(name)) if requirements else {}
            for package in sorted(requirements):
                try:
                    identity = read_wheel(files[package])
                except (KeyError, DataMismatchError) as error:
                    raise EnvironmentMismatchError(
                        f"What pip fetched as {package} is no whole wheel: {error}."
                    ) from None
                keep(store, identity, files[package])
                found.append(identity)
                advance(1)
    return found


def _download(requirements: Sequence[str], interpreter: Interpreter, scratch: Path) -> dict[str, Path]:
    """Return the wheels that pip fetched for lines of a requirements file, by package name."""
    wanted = scratch / "requirements.txt"
    wanted.write_text("".join(f"{line}\n" for line in requirements))
    into = scratch / "wheels"
    command = [*pip_for(interpreter, scratch), "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, "--no-input", "--dest", into, "--requirement", wanted],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    if done.returncode:
        lost = re.search(r"No matching distribution found for (\S+)", done.stderr)
        why = f"no index serves a wheel of {lost[1].replace('==', ' ')}" if lost else what_pip_said(done.stderr)
        raise EnvironmentMismatchError(f"The environment cannot be rebuilt: {why}.", hint=_ASK_ALONE)
    return {read_name(file): file for file in sorted(into.iterdir())}


def read_name(wheel: Path) -> str:
    """Return a package's normalised name from its wheel's file name."""
    return re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()


def what_pip_said(text: str) -> str:
    """Return pip's last error, without passwords."""
    errors = [line.removeprefix("ERROR: ") for line in text.splitlines() if line.startswith("ERROR: ")]
    return re.sub(r"//[^/@\s]+@", "//", errors[-1] if errors else "pip failed").rstrip(".")


def pip_for(interpreter: Interpreter, scratch: Path) -> list[str]:
    """Return the command of a pip that chooses for an interpreter: ours, else one in an environment of its own."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "--python", str(interpreter.python)]
    done = subprocess.run(
        [interpreter.python, "-m", "venv", scratch / "pip"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise EnvironmentMismatchError(
            f"There is no pip beside reprokit, and {interpreter.python} cannot make one.",
            hint=f"`{sys.executable} -m ensurepip`, or install pip beside reprokit.",
        )
    return [str(scratch / "pip" / "bin" / "python"), "-m", "pip"]
