"""Conda's work, asked of py-rattler in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from reprokit.core.own_extras import pip_words
from reprokit.core.package_root import IMPORT_ROOT
from reprokit.errors import EnvironmentMismatchError
from reprokit.schema.lock import Archive, CondaPackage

__all__ = ["download", "install_conda", "solve_conda"]


def solve_conda(
    specs: Sequence[str], channels: Sequence[str], *, cache: Path, what: str
) -> tuple[list[CondaPackage], list[Archive]]:
    """Return the packages that satisfy specifications on this machine, and where their archives are, by name.

    Args:
        channels: Names or addresses, the first with the highest priority.
        cache: Where what channels offer is kept, to be asked only for what changed.
        what: Names the file that asks, for errors.
    Raises:
        EnvironmentMismatchError: A specification is none, a channel does not answer, or they cannot be met together,
            with the solver's own explanation.
    """
    answer = _ask({"do": "solve", "specs": list(specs), "channels": list(channels), "cache": str(cache), "what": what})
    return msgspec.convert(answer["packages"], list[CondaPackage]), msgspec.convert(answer["archives"], list[Archive])


def download(files: Mapping[str, Path], *, advance: Callable[[int], None]) -> None:
    """Write what servers have at addresses into files, several at once; nothing of it is checked.

    Args:
        advance: Called after each.
    Raises:
        EnvironmentMismatchError: A server has nothing there; the address is named.
    """
    if files:
        _ask({"do": "download", "files": {url: str(file) for url, file in files.items()}}, advance)


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
        EnvironmentMismatchError: An archive is another package than the locked one, would write outside of the
            environment, or cannot be installed.
    """
    request = {"packages": msgspec.to_builtins(packages), "archives": msgspec.to_builtins(archives)}
    places = {"files": {name: str(file) for name, file in files.items()}, "prefix": str(prefix), "final": str(final)}
    _ask({"do": "install", **request, **places})


def _ask(request: dict[str, Any], advance: Callable[[int], None] | None = None) -> dict[str, Any]:
    if importlib.util.find_spec("rattler") is None:
        raise EnvironmentMismatchError(
            "Conda packages need py-rattler, which is not installed beside reprokit.",
            hint=f"Install it: `{sys.executable} -m pip install {pip_words('conda')}`.",
        )
    path = os.pathsep.join(filter(None, [str(IMPORT_ROOT), os.environ.get("PYTHONPATH")]))
    answer: dict[str, Any] | None = None
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "reprokit.environment.conda.rattler_worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, "PYTHONPATH": path},
        ) as process:  # fmt: skip
            if process.stdin is None or process.stdout is None:
                raise AssertionError("both are pipes")
            with process.stdin:
                process.stdin.write(json.dumps(request).encode())
            for line in process.stdout:
                said = json.loads(line)
                if "done" in said and advance is not None:
                    advance(1)
                else:
                    answer = said
        errors.seek(0)
        told = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    if answer is None:
        code = process.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        raise EnvironmentMismatchError(f"py-rattler ended with {how}: {' '.join(told[:3])[:1000] or 'no words'}")
    if "error" in answer:
        raise EnvironmentMismatchError(answer["error"], hint=answer["hint"])
    return answer
