"""What a project starts with: its configuration, and a recipe for a script."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from reprokit.core.config import CONFIG_FILE
from reprokit.errors import NotFoundError, RecipeError, RefusedError
from reprokit.execution.drafting.callback_lines import adopts, with_callback
from reprokit.execution.drafting.command_line import CommandLine, command_line_of, given, imported_beside
from reprokit.execution.drafting.observe import Observation, observe
from reprokit.execution.drafting.proposals import Input, Proposals, proposals
from reprokit.execution.drafting.yaml_flow import flow
from reprokit.execution.missing import lacking, wanted_by
from reprokit.locking.git_tree import Repository
from reprokit.schema.recipe import check_params
from reprokit.schema.variables import looks_secret

__all__ = ["Draft", "draft"]

_DRAFT = """\
name: {name}
code: {code}
environment: current
data:{data}
params: {params}
execution: {execution}
checkpoints: {{package: {name}/model}}
outputs:{outputs}
"""
_PLAIN_NAMES = ("main", "train", "run", "script", "__main__")
_RAISED = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)\b")
_USAGE = re.compile(r"^(?:.*: error: .*|Error: Missing .*|usage: .*)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What was drafted.

    Attributes:
        made: Files that were written, the recipe last.
        inputs: Packages that the recipe names, which are to be built.
        notes: What to know before the first run.
        patch: The script with reprokit's callback, as a unified diff; None where none is needed or none is seen.
    """

    made: list[Path] = field(default_factory=list)
    inputs: list[Input] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    patch: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        inputs = [{**asdict(one), "command": one.command} for one in self.inputs]
        return {"made": [str(path) for path in self.made], "inputs": inputs, "notes": self.notes, "patch": self.patch}


def draft(
    script: str | None = None,
    *,
    arguments: Sequence[str] = (),
    registry: str | None = None,
    folder: Path | None = None,
    limit: float = 0.0,
    screen: IO[bytes] | None = None,
    callback: bool = False,
) -> Draft:
    """Write the project's configuration, where it has none, and a recipe for a script.

    A script that reads a command line gets its parameters as flags, with the defaults that stand in its text. With a
    `limit` it is run once, where it lies: what it read that git does not have becomes inputs, what it wrote outputs.

    Args:
        script: A Python file or a notebook; None makes no recipe.
        arguments: What the script is given; they become parameters.
        registry: An address for the configuration; None makes none.
        folder: Anywhere in the repository; by default the current one. The script runs there.
        limit: How long it may run to be observed, in seconds; 0 drafts from its text alone.
        screen: Where what it prints is shown.
        callback: Its lines are wanted alone, where there is a recipe already.
    Raises:
        NotFoundError: There is no such script.
        RefusedError: There is a recipe of that name; nothing was written over.
    """
    here = (folder or Path.cwd()).resolve()
    repository = Repository(here)
    made = []
    config = repository.root / CONFIG_FILE
    if registry and not config.exists():
        config.parent.mkdir(exist_ok=True)
        config.write_text(f"registry: {json.dumps(registry)}\n")
        made.append(config)
    if script is None:
        return Draft(made=made)
    path = here / script
    if not path.is_file():
        raise NotFoundError(f"No script {script}.", hint="Name an existing Python file or notebook.")
    relative = repository.relative(path)
    name = _name(relative)
    recipe = repository.root / "recipes" / f"{name}.yaml"
    if recipe.exists() and callback and limit == 0:
        source = path.read_bytes()
        return Draft(made=[], patch=None if adopts(source) else with_callback(source, relative))
    if recipe.exists():
        raise RefusedError(
            f"{recipe} exists; nothing was written.",
            hint="Edit it, or move it away. "
            f"`reprokit init {script} --callback --no-run` writes the callback's lines alone.",
        )
    notebook = relative.endswith(".ipynb")
    line = None if notebook else _command_line(path)
    line, words = given(line, arguments)
    workdir = here.relative_to(repository.root.resolve()).as_posix()
    seen: Observation | None = None
    told: Proposals | None = None
    notes: list[str] = []
    params = {} if line is None else {key: value for key, value in line.params.items() if _is_param(key, value)}
    adopted = not notebook and adopts(path.read_bytes())
    patch = None if notebook or adopted else with_callback(path.read_bytes(), relative)
    if limit > 0 and not notebook:
        seen = observe([script, *arguments], root=repository.root, folder=here, limit=limit, screen=screen)
        pixels = importlib.util.find_spec("PIL") is not None
        told = proposals(seen, root=repository.root, name=name, workdir=workdir, params=params, pixels=pixels)
        params |= told.moved
        notes += [*_became(seen, script, repository.root), *told.notes]
        if all(mode == "ignore" for mode in told.outputs.values()) and not adopted and seen.exit_code == 0:
            wrote = "wrote nothing that can be compared" if told.outputs else "wrote no file"
            lines = "have it save checkpoints, as the lines below do" if patch else "save a checkpoint"
            notes.append(
                f"it {wrote} and saves no checkpoint, so that a repetition has nothing to be compared with: have "
                f"it write its metrics to a file, or {lines}"
            )
    facts = _facts(relative, line, words, params, workdir=workdir, notebook=notebook)
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(_DRAFT.format(name=name, data=_data(told), outputs=_outputs(told), **facts))
    if told is not None and told.ignore:
        made.append(_ignore(repository.root, told.ignore, relative))
    made.append(recipe)
    return Draft(made=made, inputs=[*told.inputs.values()] if told is not None else [], notes=notes, patch=patch)


def _name(script: str) -> str:
    """Return a recipe's name: the script's, with its folder's where it has the name that many have."""
    *folders, file = script.split("/")
    name = Path(file).stem
    if name in _PLAIN_NAMES and folders and name != "train":
        name = f"{folders[-1]}-{name}"
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "script"


def _became(seen: Observation, script: str, root: Path) -> list[str]:
    """Return what to know of the observed run itself."""
    if seen.exit_code is None:
        return [
            f"{script} was stopped after {seen.seconds:.0f} s: what it writes later is not among the outputs "
            "(`--for SECONDS` gives it longer; arguments after `--`, such as `-- --epochs 1`, make it shorter)"
        ]
    if seen.exit_code == 0:
        return []
    if (lacks := lacking(seen.said, root)) is not None:
        if lacks.own is not None:
            return [
                f"{script} imports {lacks.module}, which lies in this repository and is not on its path: "
                "`python -m pip install -e .` puts it there, where the project can be installed; then `init` again"
            ]
        install = f"{sys.executable} -m pip install {wanted_by(lacks.module)}"
        return [f"{script} imports {lacks.module}, which this environment lacks: `{install}`, and `init` again"]
    usage = _USAGE.findall(seen.said)
    if seen.exit_code == 2 and usage:
        return [f"{script} wants arguments ({usage[-1].strip()[:200]}): `reprokit init {script} -- ARGUMENTS`"]
    lines = [line for line in reversed(seen.said.splitlines()) if line.strip()]
    last = next((line for line in lines if _RAISED.match(line)), lines[0] if lines else "it said nothing")
    return [f"{script} failed (exit code {seen.exit_code}): {last.strip()[:300]}"]


def _ignore(root: Path, places: Sequence[str], script: str) -> Path:
    """Have git ignore what runs are given or make: else the working tree is not clean."""
    file = root / ".gitignore"
    before = file.read_text() if file.exists() else ""
    gap = "" if not before or before.endswith("\n") else "\n"
    file.write_text(f"{before}{gap}# inputs and outputs of {script}\n" + "".join(f"{place}\n" for place in places))
    return file


def _command_line(script: Path) -> CommandLine | None:
    """Return the command line that a script reads, or that a module beside it does which it imports."""
    source = script.read_bytes()
    beside = (script.with_name(name) for name in imported_beside(source))
    sources = (source, *(file.read_bytes() for file in beside if file.is_file()))
    return next((found for text in sources if (found := command_line_of(text)) is not None), None)


def _facts(
    script: str, line: CommandLine | None, words: Sequence[str], params: dict[str, Any], *, workdir: str, notebook: bool
) -> dict[str, str]:
    """Return how code, parameters and execution are written, those on one line as YAML takes them.

    Args:
        words: What stands on the command line before the parameters.
    """
    place = {} if workdir == "." else {"workdir": workdir}
    code: dict[str, Any] = {"notebook" if notebook else "entrypoint": script, **place}
    execution: dict[str, Any] = {"seed": 42, "determinism": "strict"}
    words = [*(line.words if line is not None else ()), *words]
    if words:
        code = {"command": ["python", os.path.relpath(script, workdir), *words], **place}
    if line is None:
        told = "{}                      # epochs: 3; the script reads them with reprokit.params()"
        return {"code": flow(code), "params": told, "execution": flow(execution)}
    execution["params"] = "flags"
    forms = {name: line.forms.get(name, line.form) for name in params}
    kinds = set(forms.values()) or {line.form}
    if len(kinds) > 1:
        execution["flags"] = {name: form for name, form in forms.items() if form != "space"}
    elif kinds != {"space"}:
        execution["flags"] = kinds.pop()
    example = {"hydra": "lr=0.1", "equals": "--lr=0.1", "python": "--lr=0.1"}.get(line.form, "--lr 0.1")
    told = f"{{}}                      # lr: 0.1; given as `{example}` to {line.library}"
    return {"code": flow(code), "params": flow(params) if params else told, "execution": flow(execution)}


def _data(told: Proposals | None) -> str:
    if told is None or not told.inputs:
        return " {}                        # images: {package: vision/cifar10, path: data/cifar10}"
    lines = []
    for name, item in told.inputs.items():
        entry = {"entry": item.entry} if item.entry is not None else {}
        declared = flow({"package": item.package, **entry, "path": item.path})
        lines.append(f"  {name}: {declared}  # {item.told} read")
    return "".join(f"\n{line}" for line in lines)


def _outputs(told: Proposals | None) -> str:
    if told is None or not told.outputs:
        return " []                     # files that the script writes, such as metrics.json"
    rows = [path if how == "bytes" else {"path": path, "compare": how} for path, how in told.outputs.items()]
    return "".join(f"\n  - {flow(row)}" for row in rows)


def _is_param(name: str, value: Any) -> bool:
    """True for an option that a recipe can have: by its name, and not as a secret."""
    try:
        check_params({name: value})
    except RecipeError:
        return False
    return not looks_secret(name.replace("-", "_"))
