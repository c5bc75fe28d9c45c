"""What a script asked for of what it was given: parameters and variables, as its processes noted it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from reprokit.errors import RecipeError
from reprokit.schema.flags import named_in, variable_of
from reprokit.schema.lock import RunLock
from reprokit.schema.notebook import Notebook

__all__ = ["Asked", "handed_over"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the processes of a run noted.

    Attributes:
        params: Names of parameters that were read through `reprokit.params()`.
        variables: By name of a variable that was read, the digest of its value by the run's token; None of no value.
        taken: What took all variables: `os.environ`, or a program.
    """

    params: frozenset[str] = frozenset()
    variables: dict[str, str | None] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()

    @classmethod
    def read(cls, file: Path) -> Asked:
        """Return what a file of notes says; nothing if there is none."""
        try:
            lines = file.read_bytes().decode("utf-8", "replace").split("\n")
        except FileNotFoundError:
            lines = []
        variables: dict[str, str | None] = {}
        for line in lines:
            if line.startswith("V "):
                digest, _, name = line[2:].partition(" ")
                told = None if digest == "-" else digest
                variables[name] = variables.get(name) or told  # where one process has it and another not, it counts
        return cls(
            params=frozenset(line[2:] for line in lines if line.startswith("P ")),
            variables=variables,
            taken=frozenset(line[2:] for line in lines if line.startswith("W ")),
        )

    def unused(self, lock: RunLock, workspace: Path) -> list[str]:
        """Return the declared parameters that reached the script in no way: it computed without them."""
        arrived = self.params | handed_over(lock, workspace)
        if lock.execution.params == "variables":
            seen = lock.recipe.code.command is None and lock.execution.inputs != "off" and not self.taken
            arrived |= {name for name in lock.params if not seen or variable_of(name) in self.variables}
        return [name for name in lock.params if name not in arrived]


def handed_over(lock: RunLock, workspace: Path) -> set[str]:
    """Return the parameters that the script was given unasked: in its command line or its cells."""
    if lock.execution.params == "flags":
        return {*lock.params}
    name = lock.recipe.code.notebook
    if name is None:
        return named_in(lock.recipe.code.command or [])
    try:
        return Notebook.parse((workspace / name).read_bytes(), what=name).assigned(lock.params)
    except (OSError, RecipeError):  # the script's own doing: it was a notebook when it was started
        return set()
