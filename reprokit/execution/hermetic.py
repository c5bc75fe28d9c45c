"""Hermetic execution: a script under bubblewrap, which sees its workspace, its inputs, its environment and no more.

No network, an own PID space, no home, nothing of other runs; of /etc what the loader needs. Inputs, code of reprokit
and environment are read-only. What is computed with (processor, GPU) is this machine's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reprokit.core.package_root import PACKAGE
from reprokit.errors import EnvironmentMismatchError, RefusedError
from reprokit.locking.prepared import Prepared
from reprokit.numerics.machine import NUMERIC_VARIABLES
from reprokit.schema.variables import why_refused

__all__ = ["Sandbox", "inherited_variables", "open_sandbox", "own_etc", "own_variables"]

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
_OF_ETC = ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime")
_GPUS = ("nvidia*", "dri", "kfd")
_HOST = "reprokit"
_PATIENCE = 60.0
_ALLOW = (
    "The host has to allow user namespaces: `sysctl user.max_user_namespaces` above 0; on Debian "
    "`sysctl kernel.unprivileged_userns_clone=1`, on Ubuntu 24.04 and later "
    "`sysctl kernel.apparmor_restrict_unprivileged_userns=0` or an AppArmor profile for bwrap; in a container "
    "`--security-opt seccomp=unconfined`, with podman or docker `--cap-add SYS_ADMIN` too."
)


@dataclass(frozen=True)
class Sandbox:
    """Bubblewrap, and what every program in it sees.

    Attributes:
        program: `bwrap`.
        system: Its options for the operating system's folders and devices.
        environment: Folders of the interpreter that the script is executed by.
    """

    program: Path
    system: tuple[str, ...]
    environment: tuple[Path, ...]

    def command(
        self,
        command: Sequence[str],
        *,
        folder: Path,
        writable: Sequence[Path],
        readable: Sequence[Path],
        etc: Mapping[str, Path],
    ) -> list[str]:
        """Return bubblewrap's command for one of ours.

        Args:
            folder: Where it is executed.
            etc: Files that it sees in /etc, by name.
            writable, readable: What it sees of this machine beside the system, at the same paths; what is read-only
                may lie in what is not.
        """
        told = [str(self.program), "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
        told += ["--hostname", _HOST]
        told += [*self.system, "--tmpfs", "/tmp"]  # noqa: S108 - the sandbox's own
        for place in dict.fromkeys([*self.environment, PACKAGE]):
            told += ["--ro-bind", str(place), str(place)]
        for place in writable:
            told += ["--bind", str(place), str(place)]
        for place in readable:
            told += ["--ro-bind", str(place), str(place)]
        for name, file in etc.items():
            told += ["--ro-bind", str(file), f"/etc/{name}"]
        return [*told, "--remount-ro", "/", "--chdir", str(folder), "--", *command]


def open_sandbox(prepared: Prepared) -> Sandbox:
    """Return a sandbox in which the script of a run starts.

    Raises:
        EnvironmentMismatchError: There is no bubblewrap, or this host does not let it work.
        RefusedError: It needs secrets, or is nothing that is executed in one: a notebook, a container, the working tree
            itself.
    """
    code, secrets = prepared.lock.recipe.code, prepared.lock.execution.secrets
    if secrets:
        raise RefusedError(
            f"A hermetic run gets no secrets, and this one needs {', '.join(secrets)}.",
            hint="Run it without --hermetic if you trust its code with them.",
        )
    other = (
        "a notebook" if code.notebook is not None
        else "in a container" if prepared.container is not None
        else "in the working tree (--in-place)" if prepared.in_place is not None
        else None
    )  # fmt: skip
    if other is not None:
        raise RefusedError(
            f"This run is executed {other}, which is not done hermetically by this release.",
            hint="Leave --hermetic out, or run reprokit inside a virtual machine.",
        )
    found = shutil.which("bwrap")
    if found is None:
        raise EnvironmentMismatchError(
            "Hermetic execution is done by bubblewrap, and there is no `bwrap` on PATH.",
            hint="Install it: `apt-get install bubblewrap`, `dnf install bubblewrap`, or leave --hermetic out.",
        )
    sandbox = Sandbox(Path(found), tuple(_system()), tuple(_environment(prepared.python)))
    command = sandbox.command(
        [str(prepared.python), "-I", "-c", "pass"], folder=Path("/"), writable=[], readable=[], etc={}
    )
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL,
            timeout=_PATIENCE, env={"PATH": os.defpath},
        )  # fmt: skip
        said = (
            "" if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2][:500] or f"exit {done.returncode}"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    if said:
        raise EnvironmentMismatchError(
            f"Hermetic execution is not possible here: {found} does not start {prepared.python}: {said.rstrip('.')}.",
            hint=_ALLOW,
        )
    return sandbox


def inherited_variables() -> dict[str, str]:
    """Return what a hermetic script gets of the variables here: those that decide numbers, and none that loads code."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in NUMERIC_VARIABLES and why_refused(name, value) is None
    }


def own_etc(scratch: Path) -> dict[str, Path]:
    """Write what a hermetic script finds in /etc of reprokit's: by it `localhost` has an address, and nothing else."""
    texts = {"hosts": f"127.0.0.1 localhost {_HOST}\n::1 localhost\n", "nsswitch.conf": "hosts: files\n"}
    folder = scratch / "etc"
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {name: folder / name for name in texts}


def own_variables(python: Path, scratch: Path) -> Mapping[str, str]:
    """Return the variables that say where a hermetic script is and who; its home is empty, and gone at the end."""
    home = scratch / "home"
    home.mkdir(exist_ok=True)
    path = os.pathsep.join([str(python.parent), "/usr/local/bin", "/usr/bin", "/bin"])
    return {"PATH": path, "HOME": str(home), "USER": "reprokit", "LOGNAME": "reprokit", "TMPDIR": "/tmp"}  # noqa: S108


def _system() -> Iterator[str]:
    """Yield the options for the operating system's own: programs, libraries, devices."""
    for place in map(Path, _SYSTEM):
        if place.is_symlink():
            yield from ("--symlink", str(place.readlink()), str(place))
        elif place.is_dir():
            yield from ("--ro-bind", str(place), str(place))
    for name in _OF_ETC:
        yield from ("--ro-bind-try", name, name)
    yield from ("--proc", "/proc", "--dev", "/dev")
    gpus = [str(device) for pattern in _GPUS for device in sorted(Path("/dev").glob(pattern))]
    for device in gpus:
        yield from ("--dev-bind-try", device, device)
    shown = "/sys" if gpus else "/sys/devices/system"  # topology of the processor; of a GPU its driver reads more
    yield from ("--ro-bind-try", shown, shown)


def _environment(python: Path) -> Iterator[Path]:
    """Yield the folders of an interpreter and its packages that the system's do not cover.

    Raises:
        RefusedError: One of them holds the home.
    """
    places = [*_prefixes(python)]
    if python == Path(sys.executable):
        places += [Path(place) for place in (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix)]
        places += [Path(place) for place in sys.path if "site-packages" in place or "dist-packages" in place]
    home = Path.home().resolve()
    for place in dict.fromkeys(places):
        real = place.resolve()
        if not place.is_dir() or any(real.is_relative_to(system) for system in _SYSTEM):
            continue
        if home.is_relative_to(real):
            raise RefusedError(
                f"The environment of this run lies in {place}, which holds the home of who executes it.",
                hint="Make an environment in a folder of its own (`python -m venv`), and run reprokit from there.",
            )
        yield place


def _prefixes(python: Path) -> Iterator[Path]:
    """Yield the folder above `bin` of an interpreter, and of whatever its links lead to."""
    for _ in range(40):
        yield python.parent.parent
        with contextlib.suppress(OSError, UnicodeDecodeError):  # of a venv whose interpreter is a copy
            for line in (python.parent.parent / "pyvenv.cfg").read_text(encoding="utf-8").splitlines():
                key, _, value = line.partition("=")
                if key.strip() == "home":
                    yield Path(value.strip()).parent
        if not python.is_symlink():
            return
        python = Path(os.path.normpath(python.parent / python.readlink()))
