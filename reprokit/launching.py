"""What a recipe's code is started with: a script, a command, or a notebook in a kernel of the locked environment."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

from reprokit.determinism import as_text
from reprokit.errors import EnvironmentMismatchError, NotFoundError
from reprokit.lock import EnvironmentLock, RunLock
from reprokit.notebook import FOLDER

__all__ = ["FAILURE", "check_notebook", "command_of", "notebook_command"]

FAILURE = "failure.txt"


def check_notebook(environment: EnvironmentLock) -> None:
    """Raise unless a notebook can be executed: nbclient beside reprokit, ipykernel in the run's environment.

    Raises:
        EnvironmentMismatchError: One of them is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("nbclient", "nbformat")):
        raise EnvironmentMismatchError(
            f"Notebooks are executed with nbclient, which is not installed beside reprokit ({sys.executable}).",
            hint=f"Install it: `{sys.executable} -m pip install 'reprokit-runs[notebook]'`.",
        )
    installed = {one.name for one in environment.pip} | {one.name for one in environment.conda}
    if "ipykernel" not in installed:
        raise EnvironmentMismatchError(
            "The environment of this run has no ipykernel, which executes the cells of its notebook.",
            hint="Name it where the recipe declares its environment, or `python -m pip install ipykernel` there; lock "
            "again if there is a lock file.",
        )


def command_of(lock: RunLock, python: Path) -> list[str]:
    """Return the command that starts a script, or what the recipe gives as one, in its working directory."""
    code = lock.recipe.code
    command = [str(python), code.entrypoint] if code.entrypoint is not None else list(code.command or [])
    if code.entrypoint is not None and code.workdir != ".":
        command[1] = os.path.relpath(code.entrypoint, code.workdir)
    if lock.execution.params == "flags":
        for key, value in lock.params.items():
            command += [f"--{key}", as_text(value)]
    return command


def notebook_command(
    lock: RunLock, python: Path, *, workspace: Path, scratch: Path, folder: Path, variables: dict[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Return the command that executes the recipe's notebook, and the variables of its process.

    That process belongs to reprokit; the kernel that it starts is the run's, with the run's variables.

    Args:
        scratch: The run's own, where the kernel finds an IPython and Jupyter without anybody's settings.
        folder: Where the executed notebook is written to, and why it failed.
        variables: Those of the run.
    """
    code = lock.recipe.code
    notebook = workspace / str(code.notebook)
    if not notebook.is_file():
        raise NotFoundError(f"code.notebook: {code.notebook} is not in the run's code.")
    own = {"IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "jupyter", "JUPYTER_DATA_DIR": "jupyter"}
    own |= {"JUPYTER_RUNTIME_DIR": "jupyter", "JUPYTER_PATH": "jupyter", "JUPYTER_CONFIG_PATH": "jupyter"}
    (folder / FOLDER).mkdir(exist_ok=True)
    plan = scratch / "notebook.json"
    plan.write_text(
        json.dumps(
            {
                "python": str(python),
                "notebook": str(notebook),
                "name": str(code.notebook),
                "workdir": str(workspace / code.workdir),
                "executed": str(folder / FOLDER / notebook.name),
                "failure": str(folder / FAILURE),
                "scratch": str(scratch),
                "params": lock.params,
                "variables": variables
                | {name: str(scratch / place) for name, place in own.items()}
                | {"JUPYTER_NO_CONFIG": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
            }
        )
    )
    package = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    return [sys.executable, "-m", "reprokit.kernel", str(plan)], {**os.environ, "PYTHONPATH": path}
