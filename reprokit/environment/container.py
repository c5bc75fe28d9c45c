"""Containers: a run's command inside an image that is named by its digest, by podman or docker.

The workspace, the run's socket and the bootstrap lie at the same paths inside and outside. Of the variables here none
goes in; the network is this machine's.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprokit.core.config import Config
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import EnvironmentMismatchError, RefusedError
from reprokit.schema.lock import EnvironmentLock

__all__ = ["Container", "open_container"]

_ASK = (
    "import json,platform;print(json.dumps([platform.python_version(),platform.python_implementation(),"
    "platform.system().lower()+'-'+platform.machine()]))"
)
_INSTALL = "Install podman (`apt-get install podman`) or docker, and see that `podman info` or `docker info` answers."


@dataclass(frozen=True)
class Container:
    """An image that is on this machine, and the program that runs it.

    Attributes:
        image: As `name@sha256:…`.
    """

    engine: Path
    image: str

    @property
    def digest(self) -> str:
        return self.image.partition("@")[2]

    def command(
        self,
        command: Sequence[str],
        *,
        name: str,
        folder: Path,
        writable: Sequence[Path],
        readable: Sequence[Path],
        variables: Mapping[str, str],
        passed: Collection[str] = (),
    ) -> list[str]:
        """Return the engine's command for one of the image's own.

        Args:
            name: What the container is called, so that it can be removed.
            folder: Where the command is executed.
            writable, readable: Folders of this machine that it sees, at the same paths.
            variables: What it gets beside the image's own.
            passed: Variables of the engine's own process that it gets too.
        Raises:
            RefusedError: A folder's path cannot be told to an engine.
        """
        told = [str(self.engine), "run", "--rm", "--init", "--name", name, "--pull", "never"]
        told += ["--network", "host", "--ipc", "host", "--security-opt", "label=disable"]
        told += ["--user", f"{os.getuid()}:{os.getgid()}"]
        if self.engine.name == "podman" and os.getuid() != 0:
            told += ["--userns", "keep-id"]
        for place, mode in [*((one, "") for one in writable), *((one, ",readonly") for one in readable)]:
            if "," in str(place) or '"' in str(place):
                raise RefusedError(
                    f"{place} cannot be shown to a container: its path has a comma or a quote.",
                    hint="Choose another with REPROKIT_HOME, REPROKIT_CACHE or TMPDIR.",
                )
            told += ["--mount", f"type=bind,source={place},target={place}{mode}"]
        for key, value in sorted(variables.items()):
            told += ["--env", f"{key}={value}"]
        for key in sorted(passed):  # whose values stand in no list of processes
            told += ["--env", key]
        program, *arguments = command
        return [*told, "--workdir", str(folder), "--entrypoint", program, self.image, *arguments]

    def remove(self, name: str) -> None:
        """End a container that outlived the program that started it."""
        with contextlib.suppress(OSError):
            subprocess.run([self.engine, "rm", "--force", name], capture_output=True, check=False)

    def environment(self) -> EnvironmentLock:
        """Return the environment that the image is: its digest, and what its Python says of itself.

        Raises:
            EnvironmentMismatchError: It has no `python` that starts.
        """
        options = ["--rm", "--pull", "never", "--network", "none", "--entrypoint", "python"]
        done = _run([str(self.engine), "run", *options, self.image, "-I", "-c", _ASK])
        try:
            version, implementation, system = json.loads(done.stdout)
        except ValueError:
            raise EnvironmentMismatchError(
                f"{self.image} has no `python` that starts: {_last_line(done.stderr)}.",
                hint="The image needs Python 3.11 or newer with NumPy, and `python` on its PATH.",
            ) from None
        return EnvironmentLock(python=version, implementation=implementation, platform=system, container=self.digest)


def open_container(image: str, *, progress: Progress = SILENT) -> Container:
    """Return an image that can be run, fetched if it is not on this machine.

    Raises:
        EnvironmentMismatchError: There is no engine, none that answers, or the image cannot be fetched.
    """
    engine = _engine()
    if _run([str(engine), "image", "inspect", image]).returncode == 0:
        return Container(engine, image)
    if Config.is_offline():
        raise EnvironmentMismatchError(f"{engine.name} has no {image}, and REPROKIT_OFFLINE forbids to fetch it.")
    with progress.task(f"Fetching {image.partition('@')[0]}", None):
        done = _run([str(engine), "pull", image])
    if done.returncode:
        raise EnvironmentMismatchError(f"{image} cannot be fetched: {_last_line(done.stderr)}.")
    return Container(engine, image)


def _engine() -> Path:
    """Return podman, or else docker, the first of them that answers."""
    found = [Path(path) for path in map(shutil.which, ("podman", "docker")) if path]
    said = []
    for engine in found:
        done = _run([str(engine), "info"])
        if done.returncode == 0:
            return engine
        said.append(f"{engine} does not answer: {_last_line(done.stderr)}")
    why = "; ".join(said) or "neither podman nor docker is on PATH"
    raise EnvironmentMismatchError(
        f"The environment is a container, and nothing here runs one: {why}.",
        hint=_INSTALL,
    )


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500].rstrip(".") if lines else "it said nothing"
