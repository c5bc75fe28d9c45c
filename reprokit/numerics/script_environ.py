"""The variables of a run's process: threads, seeds, determinism switches, and what the bootstrap needs to know."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from reprokit.numerics.machine import NUMERIC_VARIABLES
from reprokit.numerics.numeric_class import HARMLESS
from reprokit.schema.lock import RunLock

__all__ = ["BENIGN", "BENIGN_VERSION", "as_text", "child_variables", "lay_bootstrap", "of_the_shell"]

BENIGN_VERSION = 1
BENIGN = ("/proc", "/sys", "/dev", "/etc", "/usr/lib", "/usr/lib64", "/usr/share", "/usr/local/lib", "/lib", "/lib64")
"""Places whose files may be read without a declaration: the operating system's own. HOME is never one."""

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)
_STRICT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "TF_DETERMINISTIC_OPS": "1",
    "TF_CUDNN_DETERMINISTIC": "1",
    "NVIDIA_TF32_OVERRIDE": "0",
}


def child_variables(
    lock: RunLock,
    *,
    inherited: Mapping[str, str],
    run_id: str,
    scratch: Path,
    socket: Path,
    context: Path,
    report: Path,
    python_path: list[Path],
    readable: list[Path],
) -> dict[str, str]:
    """Return the whole environment of the script's process.

    Args:
        inherited: The runner's own environment; PYTHON* and REPROKIT_* do not reach the script.
        scratch: A folder of this run alone, for what frameworks would look for in HOME.
        python_path: Folders to put first on the module search path; the bootstrap is the first of them.
        readable: Folders whose files are declared: the workspace and the data.
    """
    execution = lock.execution
    variables = {
        key: value for key, value in inherited.items() if not key.startswith(("PYTHON", "REPROKIT_", "__PYVENV"))
    }
    variables["PYTHONPATH"] = os.pathsep.join(str(path) for path in python_path)
    variables["PYTHONUNBUFFERED"] = "1"
    variables["KERAS_HOME"] = str(scratch / "keras")
    if execution.determinism != "off":
        variables["PYTHONHASHSEED"] = str(execution.seed)
    if execution.determinism == "strict":
        variables |= _STRICT
    variables |= {name: str(execution.threads or 1) for name in _THREAD_VARIABLES}
    variables["TF_NUM_INTEROP_THREADS"] = "1"
    variables |= execution.variables
    if execution.params == "variables":
        variables |= {
            f"REPROKIT_PARAM_{key.upper().replace('-', '_').replace('.', '_')}": as_text(value)
            for key, value in lock.params.items()
        }
    allowed = [*map(str, readable), *(str(path.resolve()) for path in readable), str(scratch), *BENIGN]
    allowed += [place for place in sys.path if place and Path(place).is_dir() and "site-packages" in place]
    variables |= {
        "REPROKIT_RUN_ID": run_id,
        "REPROKIT_SOCKET": str(socket),
        "REPROKIT_CONTEXT": str(context),
        "REPROKIT_SEED": str(execution.seed),
        "REPROKIT_DETERMINISM": execution.determinism,
        "REPROKIT_PROCESS": "0",
        "REPROKIT_INPUTS": execution.inputs,
        "REPROKIT_INPUTS_REPORT": str(report),
        "REPROKIT_ALLOWED": os.pathsep.join(dict.fromkeys(allowed)),
    }
    return variables


def of_the_shell(lock: RunLock, *, inherited: Mapping[str, str], variables: Mapping[str, str]) -> list[str]:
    """Return warnings: switches that a run has from the shell alone, and threads that the shell asked for in vain.

    Args:
        inherited: The runner's own environment.
        variables: What the script gets, by `child_variables`.
    """
    switches = [
        f"{name}={value}"
        for name, value in sorted(inherited.items())
        if NUMERIC_VARIABLES.match(name)
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
        if name in inherited and inherited[name] != variables.get(name) and lock.recipe.execution.threads is None
    ]
    if ignored:
        found.append(
            f"The run has {lock.execution.threads} threads, whatever the shell says ({', '.join(ignored)}); "
            "execution.threads sets them."
        )
    return found


def lay_bootstrap(scratch: Path) -> Path:
    """Make the folder that is first on the script's module search path: our `sitecustomize`, and the client."""
    package = Path(__file__).resolve().parents[1]
    boot = scratch / "boot"
    boot.mkdir()
    (boot / "sitecustomize.py").symlink_to(package / "client" / "boot" / "sitecustomize.py")
    (boot / "reprokit").symlink_to(package, target_is_directory=True)
    return boot


def as_text(value: object) -> str:
    """Return a parameter as a command line or a variable carries it."""
    return value if isinstance(value, str) else json.dumps(value)
