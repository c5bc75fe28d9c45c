"""The variables of a run's process: threads, seeds, determinism switches, and what the bootstrap needs to know."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Mapping
from pathlib import Path

from reprokit.client.frameworks import frameworks
from reprokit.core.package_root import PACKAGE
from reprokit.numerics.machine import NUMERIC_VARIABLES
from reprokit.numerics.numeric_class import HARMLESS
from reprokit.schema.flags import as_text, variable_of
from reprokit.schema.lock import RunLock
from reprokit.schema.variables import of_platform

__all__ = ["BENIGN", "child_variables", "is_platforms", "lay_bootstrap", "of_the_shell", "platform_places"]

BENIGN = (
    "/etc", "/usr/lib", "/usr/lib64", "/usr/share", "/usr/local/lib", "/usr/local/share/fonts", "/lib", "/lib64",
    "/var/cache/fontconfig",
)  # fmt: skip
"""Places whose files may be read without a declaration: the operating system's own, fonts among them.

What the kernel shows (/proc, /sys, /dev without /dev/shm) may be too: `reprokit.client.boot.reprokit_watch`.
"""

_FONTS = (".fonts", ".local/share/fonts", ".cache/fontconfig", ".cache/matplotlib")  # its list of fonts
_FRAMEWORKS = [framework.variables for framework in frameworks().values()]
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    *(name for variables in _FRAMEWORKS for name in variables.threads),
)
_STRICT = {name: value for variables in _FRAMEWORKS for name, value in variables.strict.items()}


def child_variables(
    lock: RunLock,
    *,
    inherited: Mapping[str, str],
    run_id: str,
    scratch: Path,
    report: Path,
    python_path: list[Path],
    locked: list[Path],
    own: list[Path],
    python: Path | None = None,
) -> dict[str, str]:
    """Return the whole environment of the script's process.

    Args:
        inherited: The runner's own environment; PYTHON* and REPROKIT_* do not reach the script, nor with `inputs: deny`
            what is not the platform's.
        scratch: A folder of this run alone, for what frameworks would look for in HOME.
        python_path: Folders to put first on the module search path; the bootstrap is the first of them.
        locked: Folders whose files the environment's lock stands for, by whatever link they are reached.
        own: Folders whose files are the run's: the workspace and its inputs. A link out of them leads to others.
        python: The interpreter of the script, by default this process's own.
    """
    execution = lock.execution
    variables = {
        key: value
        for key, value in inherited.items()
        if not key.startswith(("PYTHON", "REPROKIT_", "__PYVENV")) and (execution.inputs != "deny" or is_platforms(key))
    }
    variables["PYTHONPATH"] = os.pathsep.join(str(path) for path in python_path)
    variables["PYTHONUNBUFFERED"] = "1"
    if not site.ENABLE_USER_SITE or python not in (None, Path(sys.executable)):
        variables["PYTHONNOUSERSITE"] = "1"  # of a locked environment it is no part
    variables |= {name: str(scratch / folder) for one in _FRAMEWORKS for name, folder in one.scratch.items()}
    if execution.determinism != "off":
        variables["PYTHONHASHSEED"] = str(execution.seed)
    if execution.determinism == "strict":
        variables |= _STRICT
    variables |= {name: str(execution.threads or 1) for name in _THREAD_VARIABLES}
    variables |= {name: value for one in _FRAMEWORKS for name, value in one.fixed.items()}
    variables |= execution.variables
    if execution.params == "variables":
        variables |= {variable_of(key): as_text(value) for key, value in lock.params.items()}
    variables |= {
        "REPROKIT_RUN_ID": run_id,
        "REPROKIT_SOCKET": str(scratch / "socket"),
        "REPROKIT_CONTEXT": str(scratch / "context.json"),
        "REPROKIT_SEED": str(execution.seed),
        "REPROKIT_DETERMINISM": execution.determinism,
        "REPROKIT_PROCESS": "0",
        "REPROKIT_INPUTS": execution.inputs,
        "REPROKIT_INPUTS_REPORT": str(report),
        "REPROKIT_BENIGN": os.pathsep.join(execution.benign),
        "REPROKIT_OWN": os.pathsep.join(map(str, [*own, scratch, PACKAGE])),
        "REPROKIT_ALLOWED": os.pathsep.join(dict.fromkeys([*map(str, locked), *platform_places(inherited)])),
    }
    return variables


def platform_places(inherited: Mapping[str, str]) -> list[str]:
    """Return folders whose files are nobody's inputs: the system's, lists of fonts, this environment's packages."""
    home = Path(inherited.get("HOME", "/nowhere"))
    packages = [place for place in sys.path if place and Path(place).is_dir() and "site-packages" in place]
    return [*BENIGN, *(str(home / fonts) for fonts in _FONTS), *packages]


def is_platforms(name: str) -> bool:
    """True for a variable that is no input: the platform's, or one that decides numbers and is recorded as such."""
    return name in NUMERIC_VARIABLES or of_platform(name)


def of_the_shell(lock: RunLock, *, inherited: Mapping[str, str], variables: Mapping[str, str]) -> list[str]:
    """Return warnings: switches that a run has from the shell alone, and threads that the shell asked for in vain.

    Args:
        inherited: The runner's own environment.
        variables: What the script gets, by `child_variables`.
    """
    switches = [
        f"{name}={value}"
        for name, value in sorted(inherited.items())
        if name in NUMERIC_VARIABLES
        and variables.get(name) == value
        and name not in {*HARMLESS, *_THREAD_VARIABLES, *_STRICT, *lock.execution.variables, "CUDA_VISIBLE_DEVICES"}
    ]
    found = []
    if switches:
        found.append(
            f"The shell decides how numbers are computed: {', '.join(switches)}. A reproduction has it only where its "
            "shell says so too; declare it under execution.variables."
        )
    ignored = [
        f"{name}={inherited[name]}"
        for name in _THREAD_VARIABLES
        if name in inherited
        and name not in lock.execution.secrets
        and inherited[name] != variables.get(name)
        and lock.recipe.execution.threads is None
    ]
    if ignored:
        found.append(
            f"The run has {lock.execution.threads} threads, whatever the shell says ({', '.join(ignored)}); "
            "execution.threads sets them."
        )
    return found


def lay_bootstrap(scratch: Path) -> Path:
    """Make the folder that is first on the script's module search path: what starts with it, and the client."""
    boot = scratch / "boot"
    boot.mkdir()
    for module in sorted((PACKAGE / "client" / "boot").glob("*.py")):
        (boot / module.name).symlink_to(module)
    (boot / "reprokit").symlink_to(PACKAGE, target_is_directory=True)
    return boot
