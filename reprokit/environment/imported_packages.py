"""Which installed packages the modules that a script imported came from."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import Distribution
from pathlib import Path

from packaging.utils import canonicalize_name

from reprokit.environment.capture import packages_of
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.pip.installed import rows_of
from reprokit.errors import EnvironmentMismatchError

__all__ = ["packages_behind"]


def packages_behind(modules: Collection[str], python: Path) -> list[str]:
    """Return the packages of an interpreter, by normalised name, that top-level modules belong to.

    Modules of no package are left out; if the interpreter is gone, nobody knows whose they were.
    """
    wanted = {name for name in modules if name}
    by_name = {canonicalize_name(name) for name in wanted}
    try:
        interpreter = Interpreter.of(python) if wanted else None
    except EnvironmentMismatchError:
        return []
    return (
        []
        if interpreter is None
        else sorted(
            name
            for name, distribution in packages_of(interpreter)
            if name in by_name or not wanted.isdisjoint(_modules(distribution))
        )
    )


def _modules(distribution: Distribution) -> set[str]:
    """Return the top-level modules of a package: as it says itself, else those that its RECORD names."""
    told = distribution.read_text("top_level.txt")
    if told and told.strip():
        return set(told.split())
    record = Path(str(getattr(distribution, "_path", ""))) / "RECORD"
    try:
        rows = rows_of(record.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError:
        return set()
    found = {path.partition("/")[0] for path, _, _ in rows}
    return {name.partition(".")[0] for name in found if not name.endswith((".dist-info", ".pth"))} - {"", "__pycache__"}
