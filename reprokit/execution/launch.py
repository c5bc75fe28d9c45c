"""Start what a recipe names in its workspace: a script, a command, or a notebook; here, or in a container."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from reprokit.core.own_extras import pip_words
from reprokit.core.package_root import IMPORT_ROOT, PACKAGE
from reprokit.errors import EnvironmentMismatchError, NotFoundError
from reprokit.execution.hermetic import Sandbox, inherited_variables, own_etc, own_variables
from reprokit.execution.orders import Orders
from reprokit.execution.run_secrets import Mask, secrets_of
from reprokit.execution.script_process import Outcome, ScriptProcess
from reprokit.locking.prepared import Prepared
from reprokit.numerics.script_environ import child_variables, lay_bootstrap
from reprokit.recording.journal import Journal
from reprokit.recording.listener import Listener
from reprokit.schema.flags import filled, words_of
from reprokit.schema.lock import EnvironmentLock, RunLock
from reprokit.schema.notebook import FOLDER

__all__ = ["Place", "check_notebook", "shell_of", "start", "variables_of"]

_FAILURE = "failure.txt"


@dataclass(frozen=True)
class Place:
    """Where a run is executed.

    Attributes:
        scratch: The run's own, gone at its end.
        inputs: Where its inputs and its checkpoint lie: trees of the cache, or copies in the workspace.
        sandbox: What it is executed in, if hermetically.
    """

    workspace: Path
    scratch: Path
    journal: Journal
    inputs: tuple[Path, ...] = ()
    sandbox: Sandbox | None = None

    @property
    def report(self) -> Path:
        """Where the watch on opened files notes them."""
        return self.journal.file("inputs.txt")

    @property
    def asked(self) -> Path:
        """Where the script's processes note which parameters they read."""
        return self.journal.file("asked.txt")


def check_notebook(environment: EnvironmentLock) -> None:
    """Raise unless a notebook can be executed: nbclient beside reprokit, ipykernel in the run's environment.

    Raises:
        EnvironmentMismatchError: One of them is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("nbclient", "nbformat")):
        raise EnvironmentMismatchError(
            f"Notebooks are executed with nbclient, which is not installed beside reprokit ({sys.executable}).",
            hint=f"Install it: `{sys.executable} -m pip install {pip_words('notebook')}`.",
        )
    installed = {one.name for one in environment.pip} | {one.name for one in environment.conda}
    if "ipykernel" not in installed:
        raise EnvironmentMismatchError(
            "The environment of this run has no ipykernel, which executes the cells of its notebook.",
            hint="Name it where the recipe declares its environment, or `python -m pip install ipykernel` there; lock "
            "again if there is a lock file.",
        )


def _command_of(lock: RunLock, python: Path) -> list[str]:
    """Return the command that starts a script, or what the recipe gives as one, in its working directory."""
    code = lock.recipe.code
    command = [str(python), code.entrypoint] if code.entrypoint is not None else filled(code.command or [], lock.params)
    if code.entrypoint is not None and code.workdir != ".":
        command[1] = os.path.relpath(code.entrypoint, code.workdir)
    if lock.execution.params == "flags":
        command += words_of(lock.params, lock.execution.flags)
    return command


def _notebook_command(
    lock: RunLock, python: Path, place: Place, variables: dict[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Return the command that executes the recipe's notebook, and the variables of its process.

    That process belongs to reprokit; the kernel that it starts is the run's, with the run's variables. In the scratch
    folder the kernel finds an IPython and Jupyter without anybody's settings; into the journal's folder the executed
    notebook is written, and why it failed.
    """
    workspace, scratch, folder = place.workspace, place.scratch, place.journal.folder
    code = lock.recipe.code
    notebook = workspace / str(code.notebook)
    if not notebook.is_file():
        raise NotFoundError(f"code.notebook: {code.notebook} is not in the run's code.")
    own = {"IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "jupyter", "JUPYTER_DATA_DIR": "jupyter"}
    own |= {"JUPYTER_RUNTIME_DIR": "jupyter", "JUPYTER_PATH": "jupyter", "JUPYTER_CONFIG_PATH": "jupyter"}
    (folder / FOLDER).mkdir(exist_ok=True)
    inherited = sorted(
        name for name, value in variables.items() if os.environ.get(name) == value and name != "PYTHONPATH"
    )
    plan = scratch / "notebook.json"
    plan.write_text(
        json.dumps(
            {
                "python": str(python),
                "notebook": str(notebook),
                "name": str(code.notebook),
                "workdir": str(workspace / code.workdir),
                "executed": str(folder / FOLDER / notebook.name),
                "failure": str(folder / _FAILURE),
                "scratch": str(scratch),
                "params": lock.params,
                "secrets": lock.execution.secrets,
                "inherited": inherited,  # whose values are the caller's, and written nowhere
                "variables": {name: value for name, value in variables.items() if name not in inherited}
                | {name: str(scratch / place) for name, place in own.items()}
                | {"JUPYTER_NO_CONFIG": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"},
            }
        )
    )
    path = os.pathsep.join([str(IMPORT_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return [sys.executable, "-m", "reprokit.execution.notebook_host", str(plan)], {**os.environ, "PYTHONPATH": path}


def start(prepared: Prepared, place: Place, variables: dict[str, str], *, listener: Listener) -> Outcome:
    """Start the script or notebook here, or the script in its container, and return what became of it."""
    lock, python = prepared.lock, prepared.python
    mask = Mask(variables[name] for name in lock.execution.secrets)
    folder = place.workspace / lock.recipe.code.workdir
    if lock.recipe.code.notebook is not None:
        command, given = _notebook_command(lock, python, place, variables)
        return _told(ScriptProcess(command, folder, given, place.journal, listener, mask=mask).run(), place.journal)
    command = _command_of(lock, python)
    container = prepared.container
    if place.sandbox is not None:
        for file in (place.report, place.asked):
            file.touch()
        command = place.sandbox.command(
            command,
            folder=folder,
            writable=[place.workspace, place.scratch, place.report, place.asked],
            readable=place.inputs,
            etc=own_etc(place.scratch),
        )
        return ScriptProcess(command, Path("/"), variables, place.journal, listener, mask=mask, sandboxed=True).run()
    if container is None:
        return ScriptProcess(command, folder, variables, place.journal, listener, mask=mask).run()
    passed = ["REPROKIT_TOKEN", *lock.execution.secrets]
    name = f"reprokit-{variables['REPROKIT_RUN_ID']}-{secrets.token_hex(4)}"
    command = container.command(
        command,
        name=name,
        folder=folder,
        writable=[
            *dict.fromkeys([place.journal.folder, *([place.workspace] if prepared.in_place else [])]),
            place.scratch,
        ],
        readable=[PACKAGE, *(tree for tree in place.inputs if not tree.is_relative_to(place.workspace))],
        variables={key: value for key, value in variables.items() if key not in passed},
        passed=passed,
    )
    told = os.environ | {key: variables[key] for key in passed}
    try:
        return ScriptProcess(command, folder, told, place.journal, listener, mask=mask).run()
    finally:
        container.remove(name)


def _told(outcome: Outcome, journal: Journal) -> Outcome:
    """Return what became of a notebook in the words of the process that executed it, if it left any."""
    file = journal.file(_FAILURE)
    if outcome.status == "finished" or not file.exists():
        return outcome
    return replace(outcome, failure=file.read_text(encoding="utf-8"))


def variables_of(
    prepared: Prepared, orders: Orders, run_id: str, place: Place, resume: dict[str, Any] | None
) -> dict[str, str]:
    """Write what the script's process needs into the scratch folder, and return its variables."""
    execution = prepared.lock.execution.executed(hermetic=orders.hermetic)
    lock, workspace, scratch = (
        msgspec.structs.replace(prepared.lock, execution=execution),
        place.workspace,
        place.scratch,
    )
    boot = lay_bootstrap(scratch)
    context = scratch / "context.json"
    told = {
        "run_id": run_id,
        "workspace": str(workspace),
        "params": lock.params,
        "every": dict(zip(("n", "unit"), lock.recipe.every, strict=True)),
        "on": lock.recipe.checkpoints.on,
        "writer": lock.recipe.checkpoints.writer,
        "until": orders.until,
        "at": orders.at,
        "stop_after": orders.stop_after,
        "resume": resume,
        "data": [
            {"name": pin.name, "package": pin.package, "top_hash": pin.top_hash, "folder": str(workspace / pin.path)}
            for pin in lock.data
        ],
        **orders.told,
    }
    context.write_text(json.dumps(told))
    contained = prepared.container is not None
    root = Path(os.path.realpath(workspace))
    variables = child_variables(
        lock,
        inherited=shell_of(prepared, orders),
        run_id=run_id,
        scratch=scratch,
        report=place.report,
        python_path=[boot, *(workspace / folder for folder in lock.code.python_path)],
        locked=[Path("/")] if contained else _libraries(prepared.python),
        own=[workspace, *place.inputs],
        python=prepared.python,
    )
    variables |= {**secrets_of(lock), "REPROKIT_ASKED": str(place.asked)}
    variables["REPROKIT_TREE"] = os.pathsep.join(map(str, [root, *(root / pin.path for pin in lock.data)]))
    if contained:  # it sees the image, and what it is shown: nothing that was not declared
        (scratch / "home").mkdir()
        return {**variables, "HOME": str(scratch / "home")}
    if orders.hermetic:
        return {**variables, **own_variables(prepared.python, scratch)}
    variables["PATH"] = os.pathsep.join([str(prepared.python.parent), variables.get("PATH", os.defpath)])
    return variables


def shell_of(prepared: Prepared, orders: Orders) -> Mapping[str, str]:
    """Return what of the runner's own variables a script may get."""
    if prepared.container is not None:
        return {}
    return inherited_variables() if orders.hermetic else os.environ


def _libraries(python: Path) -> list[Path]:
    """Return where an environment made for this run has its packages; this process's own are allowed anyhow."""
    return [] if python == Path(sys.executable) else [python.parent.parent / "lib"]
