"""What a project starts with: its configuration, and a recipe for a script."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from reprokit.core.config import CONFIG_FILE
from reprokit.core.safe_yaml import load_yaml
from reprokit.errors import NotFoundError, RecipeError, RefusedError
from reprokit.locking.command_line import CommandLine, command_line_of, imported_beside
from reprokit.locking.git_tree import Repository
from reprokit.schema.recipe import check_params
from reprokit.schema.variables import looks_secret

__all__ = ["draft"]

_DRAFT = """\
name: {name}
code: {code}
environment: current
data: {{}}                        # images: {{package: vision/cifar10, path: data/cifar10}}
params: {params}
execution: {execution}
checkpoints: {{package: {name}/model}}
outputs: []                     # files that the script writes, such as metrics.json
"""
_PLAIN = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)


def draft(script: str | None = None, *, registry: str | None = None, folder: Path | None = None) -> list[Path]:
    """Write the project's configuration, where it has none, and a recipe for a script; return what was made.

    A script that reads a command line gets its parameters as flags, with the defaults that stand in its text.

    Args:
        script: A Python file or a notebook; None makes no recipe.
        registry: An address for the configuration; None makes none.
        folder: Anywhere in the repository; by default the current one.
    Raises:
        NotFoundError: There is no such script.
        RefusedError: There is a recipe of that name; nothing was written over.
    """
    repository = Repository(folder or Path.cwd())
    made = []
    config = repository.root / CONFIG_FILE
    if registry and not config.exists():
        config.parent.mkdir(exist_ok=True)
        config.write_text(f"registry: {json.dumps(registry)}\n")
        made.append(config)
    if script is not None:
        if not Path(script).is_file():
            raise NotFoundError(f"No script {script}.", hint="Name an existing Python file or notebook.")
        relative = repository.relative(Path(script))
        name = Path(script).stem.replace(".", "-")
        recipe = repository.root / "recipes" / f"{name}.yaml"
        if recipe.exists():
            raise RefusedError(f"{recipe} exists; nothing was written.", hint="Edit it, or move it away.")
        recipe.parent.mkdir(exist_ok=True)
        kind = "notebook" if relative.endswith(".ipynb") else "entrypoint"
        line = None if kind == "notebook" else _command_line(Path(script))
        recipe.write_text(_DRAFT.format(name=name, **_facts(kind, relative, line)))
        made.append(recipe)
    return made


def _command_line(script: Path) -> CommandLine | None:
    """Return the command line that a script reads, or that a module beside it does which it imports."""
    source = script.read_bytes()
    beside = (script.with_name(name) for name in imported_beside(source))
    sources = (source, *(file.read_bytes() for file in beside if file.is_file()))
    return next((found for text in sources if (found := command_line_of(text)) is not None), None)


def _facts(kind: str, script: str, line: CommandLine | None) -> dict[str, str]:
    """Return how code, parameters and execution are written, those on one line as YAML takes them."""
    code = f"{{{kind}: {script}}}"
    execution: dict[str, Any] = {"seed": 42, "determinism": "strict"}
    if line is None:
        told = "{}                      # epochs: 3; the script reads them with reprokit.params()"
        return {"code": code, "params": told, "execution": _flow(execution)}
    execution["params"] = "flags"
    if line.words:
        code = _flow({"command": ["python", script, *line.words]})
    params = {name: value for name, value in line.params.items() if _is_param(name, value)}
    forms = {name: form for name, form in line.forms.items() if name in params}
    if line.form != "space" and not forms:
        execution["flags"] = line.form
    elif line.form != "space" or forms:
        given = {name: line.forms.get(name, line.form) for name in params}
        execution["flags"] = {name: form for name, form in given.items() if form != "space"}
    example = {"hydra": "lr=0.1", "equals": "--lr=0.1", "python": "--lr=0.1"}.get(line.form, "--lr 0.1")
    told = f"{{}}                      # lr: 0.1; given as `{example}` to {line.library}"
    return {"code": code, "params": _flow(params) if params else told, "execution": _flow(execution)}


def _is_param(name: str, value: Any) -> bool:
    """True for an option that a recipe can have: by its name, and not as a secret."""
    try:
        check_params({name: value})
    except RecipeError:
        return False
    return not looks_secret(name.replace("-", "_"))


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    text = json.dumps(value)
    if isinstance(value, float) and "e" in text and "." not in text:
        return text.replace("e", ".0e")  # which YAML takes for a number
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and load_yaml(value.encode(), what="a default") == value
    return str(value) if plain else text
