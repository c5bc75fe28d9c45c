"""What `init` says of a drafted recipe: what to know, and what is next."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

from reprokit.execution.drafting.draft import Draft

__all__ = ["draft_text"]


def draft_text(made: Draft, script: str, *, built: Collection[str], applied: bool) -> str:
    """Return what was made, what it is worth knowing, and the commands that come next, in their order."""
    here = Path.cwd()
    names = [_shown(path, here) for path in made.made]
    lines = [f"made {name}" for name in names]
    lines += [f"built {name}" for name in built]
    lines += [f"note: {note}" for note in made.notes]
    recipe = shlex.quote(names[-1])
    if made.patch is not None and applied:
        lines.append(f"{script} saves its checkpoints now: look at `git diff {shlex.quote(script)}`.")
    elif applied:
        lines.append(f"{script} has no loop, fit or trainer that lines are known for, or has them: it is as it was.")
    elif made.patch is not None:
        lines += [
            "",
            "With these lines it saves its checkpoints, and can be resumed. To have them written:",
            f"  reprokit init {shlex.quote(script)} --callback --no-run",
            "",
            made.patch.rstrip("\n"),
            "",
        ]
    lines += [f"Look through {recipe}, then:"]
    lines += [f"  {item.command}" for item in made.inputs if item.package not in built]
    added = shlex.join(dict.fromkeys([*names, *_unignored(here), script]))
    lines += [f"  git add {added} && git commit -m 'a recipe for {script}'"]
    lines += [f"  reprokit run {recipe}"]
    return "\n".join(lines)


def _unignored(here: Path) -> list[str]:
    """Return the project's .gitignore, if it lies here: a second recipe is committed with what the first one noted."""
    return [".gitignore"] if (here / ".gitignore").is_file() else []


def _shown(path: Path, here: Path) -> str:
    import os

    return os.path.relpath(path, here)
