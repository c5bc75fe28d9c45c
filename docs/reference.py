"""Make the reference pages from the program itself: python docs/reference.py

`docs/commands.md` from the command line, `docs/recipe.md` from the schema of recipes. A test holds both against what
this makes.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from pathlib import Path
from typing import Any

import click
import msgspec

from reprokit.cli.main import _SECTIONS, cli
from reprokit.schema import recipe as recipes

HERE = Path(__file__).resolve().parent
_COMMON = {"--registry", "-C", "--offline", "--json", "--quiet", "--verbose", "--help"}

_EXAMPLE = """\
name: cifar10-cnn
code: {entrypoint: examples/cifar10/train_torch.py}       # or command: [...], or notebook: train.ipynb
environment: {pip: requirements.txt}                      # or conda:, lock:, container:, current
data:
  images: {package: vision/cifar10, path: data/cifar10}   # a version is pinned when the recipe is locked
  labels: {package: vision/labels, entry: classes.json, path: data/classes.json}
  base: {run: cifar10-pretrained@best, path: base}
params: {epochs: 3, learning_rate: 0.001}
execution: {seed: 42, threads: 2, determinism: strict, inputs: deny}
checkpoints: {package: vision/cifar10-cnn, every: 1 epoch, best: {val_loss: min}, keep: 3}
outputs: [{path: metrics.json, compare: values}, plots/]
tolerance: {weights: {atol: 0, rtol: 0}, metrics: {accuracy: 0.005}}
"""


def commands() -> str:
    """Return the page on every command and option."""
    lines = [
        "# Commands",
        "",
        "Made from the program by `docs/reference.py`. `reprokit help COMMAND` prints the same in a terminal.",
        "",
        "Every command also has `--registry URL` (a folder, an address in an object store, or a name),",
        "`-C DIR` (work there), `--offline`, `--json` (the record, and nothing else, on stdout), `-q`/`--quiet`,",
        "`-v`/`--verbose` and `-h`/`--help`.",
    ]
    with click.Context(cli, info_name="reprokit") as context:
        for section, names in _SECTIONS.items():
            lines += ["", f"## {section}"]
            for name in names:
                lines += _command(cli.get_command(context, name), name, context)
    return "\n".join(lines) + "\n"


def _command(command: click.Command | None, name: str, context: click.Context) -> list[str]:
    if command is None:
        raise AssertionError(f"{name} is in the table and is no command")
    if isinstance(command, click.Group):
        with click.Context(command, info_name=name.rpartition(" ")[2], parent=context) as inner:
            inside = [_command(command.get_command(inner, one), f"{name} {one}", inner) for one in command.commands]
        return [line for lines in inside for line in lines]
    with click.Context(command, info_name=name, parent=None) as own:
        usage = " ".join(["reprokit", name, *(piece for piece in command.collect_usage_pieces(own))])
    lines = ["", f"### {name}", "", f"    {usage}", ""]
    text = inspect.cleandoc(command.help or "")
    lines += [_escaped(text)]
    rows = [_row(parameter, command) for parameter in command.params]
    told = [row for row in rows if row is not None]
    if told:
        lines += ["", "| option | |", "|---|---|", *told]
    return lines


def _row(parameter: click.Parameter, command: click.Command) -> str | None:
    if not isinstance(parameter, click.Option) or parameter.hidden or set(parameter.opts) & _COMMON:
        return None
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    with click.Context(command) as context:
        value = "" if parameter.is_flag else f" {parameter.make_metavar(context)}"
    return f"| {names}{_escaped(value)} | {_escaped(parameter.help or '')} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def recipe() -> str:
    """Return the page on every field of a recipe."""
    lines = [
        "# The recipe",
        "",
        "Made from the schema by `docs/reference.py`; `reprokit schema` prints it as JSON Schema, for editors.",
        "",
        "```yaml",
        _EXAMPLE.rstrip("\n"),
        "```",
        "",
        "Paths are relative to the root of the repository, which is also where the script runs unless `code.workdir`",
        "says otherwise. A key that is not listed here is refused, with the nearest one that is.",
    ]
    done: list[type] = []
    todo: list[tuple[str, type]] = [("", recipes.Recipe)]
    while todo:
        place, struct = todo.pop(0)
        if struct in done:
            continue
        done.append(struct)
        lines += ["", f"## {place or 'The whole'}", "", _plain(inspect.getdoc(struct) or ""), ""]
        lines += ["| field | takes | default |", "|---|---|---|"]
        for field in msgspec.structs.fields(struct):
            name = f"{place}.{field.encode_name}" if place else field.encode_name
            inner = _structs(field.type)
            takes = _takes(field.type)
            lines.append(f"| `{name}` | {takes} | {_default(field)} |")
            todo += [(f"{name}.NAME" if typing.get_origin(field.type) is dict else name, one) for one in inner]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    return _escaped("\n\n".join(" ".join(part.split()) for part in text.split("\n\n")))


def _structs(kind: Any) -> list[type]:
    """Return the structs that a type speaks of."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [one for inner in typing.get_args(kind) for one in _structs(inner)]


def _takes(kind: Any) -> str:
    """Return a type in words."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return _takes(inner[0])
    if origin is typing.Literal:
        return " \\| ".join(f"`{one}`" for one in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_takes(one) for one in inner if one is not type(None))
    if origin is dict:
        return f"a mapping of names to {_takes(inner[1])}"
    if origin is list:
        return f"a list of {_takes(inner[0])}"
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "a mapping, below"
    words = {str: "text", int: "a whole number", float: "a number", bool: "`true` or `false`"}
    return words.get(kind, "anything that JSON has")


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    made = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
    if isinstance(made, msgspec.Struct):
        return "those of its fields"
    if made is None:
        return "none"
    text = {True: "true", False: "false"}.get(made, made) if isinstance(made, bool) else made
    return f"`{text}`" if text not in ([], {}) else "none"


PAGES = {"commands.md": commands, "recipe.md": recipe}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (HERE / page).write_text(make(), encoding="utf-8")
    sys.stdout.write(f"made {', '.join(PAGES)}\n")
