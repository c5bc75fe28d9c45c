"""What a script's process says as it ends: what its numbers were computed with, and what it had imported."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

from reprokit.client import context
from reprokit.client.connection import RunnerGoneError, dial, is_connected
from reprokit.client.facts.fingerprint import fingerprint
from reprokit.client.facts.numeric import numeric_facts
from reprokit.client.frameworks import frameworks

__all__ = ["imported", "imported_files", "report"]

_MOST_FILES = 5000


def report() -> None:
    """Tell the runner. Called when nothing more is computed, so that what it starts up can change no bit.

    A script that failed is spared the workload: it may have ended because memory ran out.
    """
    if not os.environ.get("REPROKIT_SOCKET"):
        return
    numeric: dict[str, Any] = {}
    try:
        numeric = numeric_facts(whole=True)
    except Exception as error:  # noqa: BLE001 - a library that cannot be asked must not spoil a run that is over
        numeric["unknown"] = f"{type(error).__name__}: {error}"[:500]
    if not hasattr(sys, "last_type"):
        numeric["fingerprint"] = fingerprint(_in_use())
    try:
        told = {"numeric": numeric, "imported": imported(), "files": imported_files(context().get("workspace"))}
        dial().send({"type": "numeric", **told, "saved": is_connected()})
    except (OSError, RunnerGoneError):  # the runner has other words for its end
        return


def _in_use() -> list[str]:
    """Return the libraries whose kernels are tried."""
    used = (one.numbers for one in frameworks().values() if one.numbers.computed())
    return ["libm", *(library for numbers in used for library in numbers.kernels)]


def imported() -> list[str]:
    """Return the top-level modules that this process imported and that are not Python's own."""
    modules = [
        name
        for name, module in list(sys.modules.items())  # not by getattr: a lazy module would import for it
        if not isinstance(module, ModuleType) or module.__dict__.get("__spec__") is not None
    ]
    names = {name.partition(".")[0] for name in modules}
    boot = {"sitecustomize", "reprokit_variables", "reprokit_watch", "reprokit_commands"}
    ours = {"__main__", "__mp_main__", "reprokit", *boot}
    return sorted(names - sys.stdlib_module_names - ours)


def imported_files(workspace: str | None) -> list[str]:
    """Return the files of the run's own code that this process imported, the script among them: paths in the tree."""
    if workspace is None:
        return []
    root = os.path.realpath(workspace) + os.sep
    files = [file for file in sys.orig_argv[1:] if file.endswith(".py")]  # a script that has ended has no __file__
    for module in list(sys.modules.values()):
        told = module.__dict__ if isinstance(module, ModuleType) else {}
        files.append(told.get("__file__") or getattr(told.get("__spec__"), "origin", None) or "")
    real = {os.path.realpath(file) for file in files if isinstance(file, str) and file}
    own = {file.removeprefix(root) for file in real if file.startswith(root)}
    return sorted(file for file in own if "/site-packages/" not in file)[:_MOST_FILES]
