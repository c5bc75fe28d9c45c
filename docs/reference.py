"""Make the reference pages from the program itself: python docs/reference.py

`docs/commands.md` from the command line, `docs/recipe.md` from the schema of recipes, `docs/api.md` from the docstrings
of public names. A test holds all three against what this makes.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

import reprokit
from reprokit import callbacks
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

FIELDS = {
    "name": "cifar10-cnn",
    "code": "{entrypoint: train.py}",
    "environment": "{pip: requirements.txt}",
    "data": "{images: {package: vision/cifar10, path: data}}",
    "params": "{epochs: 3, layers: [64, 32]}",
    "execution": "{seed: 42, threads: 2}",
    "checkpoints": "{package: vision/cifar10-cnn, keep: 3}",
    "outputs": "[metrics.json, plots/]",
    "tolerance": "{metrics: {accuracy: 0.005}}",
    "not_secret": "[params.token]",
    "code.entrypoint": "src/train.py",
    "code.command": '[python, -m, src.train, "--epochs={params.epochs}"]',
    "code.notebook": "train.ipynb",
    "code.workdir": "src",
    "environment.conda": "environment.yml",
    "environment.pip": "requirements.txt",
    "environment.lock": "pylock.toml",
    "environment.container": f"docker.io/library/python@sha256:{'5e0c' * 16}",
    "environment.extras": "[train]",
    "environment.vault": "all",
    "data.NAME.path": "data/cifar10",
    "data.NAME.package": "vision/cifar10:v1",
    "data.NAME.entry": "labels/classes.json",
    "data.NAME.run": "cifar10-cnn@best",
    "data.NAME.output": "plots/",
    "execution.seed": "42",
    "execution.threads": "2",
    "execution.determinism": "seeded",
    "execution.inputs": "deny",
    "execution.benign": "[/opt/fonts/*]",
    "execution.layout": "copy",
    "execution.params": "flags",
    "execution.flags": "{amp: switch, sizes: words}",
    "execution.variables": "{MKL_CBWR: COMPATIBLE}",
    "execution.secrets": "[HF_TOKEN]",
    "checkpoints.package": "vision/cifar10-cnn",
    "checkpoints.every": "500 steps",
    "checkpoints.best": "{val_loss: min, accuracy: max}",
    "checkpoints.keep": "3",
    "checkpoints.on": "[signal, exception]",
    "checkpoints.writer": "sync",
    "outputs.path": "metrics.json",
    "outputs.compare": "values",
    "tolerance.weights": "{atol: 1.0e-6}",
    "tolerance.metrics": "{accuracy: 0.005, seconds: ignore}",
    "tolerance.weights.atol": "1.0e-6",
    "tolerance.weights.rtol": "1.0e-5",
}
"""An example of each field; tests parse them."""


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


def _prose(text: str) -> str:
    """Return a docstring's text with what is no code in it made safe for HTML."""
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in re.split(r"(`[^`]*`)", text))


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
        lines += ["| field | takes | default | such as |", "|---|---|---|---|"]
        for field in msgspec.structs.fields(struct):
            name = f"{place}.{field.encode_name}" if place else field.encode_name
            inner = _structs(field.type)
            takes = _takes(field.type)
            lines.append(f"| `{name}` | {takes} | {_default(field)} | `{_shortened(FIELDS[name])}` |")
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


def _shortened(text: str) -> str:
    return text[:40] + "…" if "sha256:" in text else text


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


class Public(NamedTuple):
    """A public name, read from the source: frameworks need not be installed.

    Attributes:
        name: As it is written by who imports the package.
        signature: A line or more; "" for what is no function and no class.
        text: The docstring.
        arguments: What has to be told in `text`.
    """

    name: str
    signature: str
    text: str
    arguments: tuple[str, ...] = ()


_RETURNED = {
    "build": [("BuildResult", "reprokit.packages.build")],
    "Package": [("PackageEntry", "reprokit.packages.package"), ("PackageFolder", "reprokit.packages.package")],
    "load_checkpoint": [("LoadedCheckpoint", "reprokit.checkpoint.load")],
}
"""What public functions return, and is nobody's to make."""

_INNER = {
    "Package.reader", "LoadedCheckpoint.all_stored", "LoadedCheckpoint.arrays", "LoadedCheckpoint.check_files",
    "LoadedCheckpoint.check_header", "LoadedCheckpoint.decoded_state", "LoadedCheckpoint.stored", "Loop.watching",
}  # fmt: skip
"""What other rooms call of public objects, in types that are not public."""

_OTHERS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "Paths": ("Code that opens files by name reads a package version.", {"reprokit.vfs": ()}),
    "Data sets": (
        "A package version as a data set, without files being written.",
        {"reprokit.sources.torch": (), "reprokit.sources.tensorflow": ()},
    ),
    "Checkpoints of anything else": (
        "For programs without a callback: [checkpoints](checkpoints.md#anything-else).",
        {"reprokit.client.restored": ("resumed", "Restored"), "reprokit.client.loop": ("Loop",)},
    ),
}
"""Headings, with a sentence and the modules whose names stand below: those listed, or `__all__`."""


@functools.cache
def _tree(module: str) -> ast.Module:
    place = HERE.parent / Path(*module.split("."))
    return ast.parse((place.with_suffix(".py") if not place.is_dir() else place / "__init__.py").read_text("utf-8"))


def _exported(module: str) -> list[str]:
    """Return `__all__` of a module."""
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def _definition(name: str, module: str) -> tuple[ast.FunctionDef | ast.ClassDef, str] | None:
    """Return what defines a name, and in which module, following imports within reprokit."""
    for node in _tree(module).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node, module
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "reprokit":
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definition(alias.name, str(node.module))
    return None


def _signature(name: str, node: ast.FunctionDef, *, bound: bool) -> tuple[str, tuple[str, ...]]:
    """Return how a function is called, and the names of its arguments."""
    arguments = node.args
    given = [*arguments.posonlyargs, *arguments.args][bound:]
    missing: list[ast.expr | None] = [None] * (len(given) - len(arguments.defaults))
    defaults = [*missing, *arguments.defaults]

    def spelled(argument: ast.arg, default: ast.expr | None, stars: str = "") -> str:
        kind = f": {ast.unparse(argument.annotation)}" if argument.annotation is not None else ""
        value = "" if default is None else f" = {ast.unparse(default)}" if kind else f"={ast.unparse(default)}"
        return stars + argument.arg + kind + value

    parts = [spelled(argument, default) for argument, default in zip(given, defaults, strict=True)]
    if arguments.vararg is not None:
        parts.append(spelled(arguments.vararg, None, "*"))
    elif arguments.kwonlyargs:
        parts.append("*")
    parts += [spelled(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg is not None:
        parts.append(spelled(arguments.kwarg, None, "**"))
    back = "" if node.returns is None or node.name == "__init__" else f" -> {ast.unparse(node.returns)}"
    line = f"{name}({', '.join(parts)}){back}"
    if len(line) > 100:
        line = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){back}"
    named = [one.arg for one in (*given, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg) if one is not None]
    return line, tuple(named)


def _members(node: ast.ClassDef, module: str) -> dict[str, ast.FunctionDef]:
    """Return the methods and properties of a class, and of reprokit's classes below it but for `Loop`.

    What a class does anew without saying so stands where it is told.
    """
    found: dict[str, ast.FunctionDef] = {}
    told: set[str] = set()
    for base in node.bases:
        below = _definition(ast.unparse(base), module)
        if below is not None and isinstance(below[0], ast.ClassDef):
            inherited = _members(below[0], below[1])
            told |= inherited.keys()
            found |= {} if below[0].name == "Loop" else inherited
    for method in node.body:
        if not isinstance(method, ast.FunctionDef) or (method.name.startswith("_") and method.name != "__init__"):
            continue
        if method.name == "__init__" or ast.get_docstring(method) is not None or method.name not in told:
            found[method.name] = method
    return found


def public(name: str, module: str, *, made: bool = True, methods: bool = True) -> Iterator[Public]:
    """Yield a name, and behind a class what can be called of its objects.

    Args:
        made: Users make objects of the class themselves.
        methods: False where a framework calls them.
    """
    definition = _definition(name.rpartition(".")[2], module)
    if definition is None:
        raise AssertionError(f"{name} is public and not found in {module}")
    node, home = definition
    text = ast.get_docstring(node) or ""
    if isinstance(node, ast.FunctionDef):
        signature, arguments = _signature(name, node, bound=False)
        yield Public(name, signature, text, arguments)
        return
    members = _members(node, home)
    first = members.pop("__init__", None)
    signature, arguments = _signature(name, first, bound=True) if first is not None and made else ("", ())
    yield Public(name, signature, text, arguments)
    short = name.removeprefix("reprokit.").removeprefix("callbacks.").removeprefix("client.loop.")
    for member, method in members.items() if methods else ():
        decorators = [ast.unparse(one) for one in method.decorator_list]
        told, called = ast.get_docstring(method) or "", f"{short}.{member}"
        if called in _INNER:
            continue
        if any("property" in one for one in decorators):
            yield Public(called, "", told)
        else:
            signature, arguments = _signature(called, method, bound="staticmethod" not in decorators)
            yield Public(called, signature, told, arguments)


def everything_public() -> dict[str, list[Public]]:
    """Return all public names by the heading that they stand below."""
    found: dict[str, list[Public]] = {"reprokit": []}
    for name in reprokit.__all__:
        home = reprokit._HOMES.get(name)
        if home is None or name == "Error":
            continue  # modules, which have a part of their own, the release, and the table of errors
        found["reprokit"] += public(f"reprokit.{name}", home, made=name != "Package")
        for other, module in _RETURNED.get(name, ()):
            found["reprokit"] += public(other, module, made=False)
    found["Callbacks"] = [
        one
        for framework in callbacks.__all__
        for name in _exported(f"reprokit.callbacks.{framework}")
        for one in public(
            f"reprokit.callbacks.{framework}.{name}",
            f"reprokit.callbacks.{framework}",
            methods=_is_loop(framework, name),
        )
    ]
    for heading, (_, modules) in _OTHERS.items():
        found[heading] = [
            one
            for module, listed in modules.items()
            for name in listed or _exported(module)
            for one in public(f"{module}.{name}", module, made=name not in ("Mapped", "Restored"))
        ]
    return found


def _is_loop(framework: str, name: str) -> bool:
    """True if users call the methods of a callback in a loop of their own."""
    definition = _definition(name, f"reprokit.callbacks.{framework}")
    return definition is not None and isinstance(definition[0], ast.ClassDef) and any(
        ast.unparse(base) == "Loop" for base in definition[0].bases
    )  # fmt: skip


def api() -> str:
    """Return the page on every public name of the library."""
    lines = [
        "# Python API",
        "",
        "Made from the docstrings by `docs/reference.py`. What stands here is public; everything else may move. Which",
        "function does what a command does is in [the library](library.md). Importing `reprokit` loads the standard",
        "library alone; each name loads its module when it is used first.",
    ]
    for heading, names in everything_public().items():
        lines += ["", f"## {heading}"]
        if heading == "Callbacks":
            lines += [
                "",
                "Those of PyTorch, TensorFlow and scikit-learn are [loops](#reprokitclientlooploop) with its methods;",
            ]
            lines += ["what stands below is theirs alone, or does more. The others are called by their frameworks.", ""]
            lines += ["What each saves: [checkpoints](checkpoints.md)."]
        if heading in _OTHERS:
            lines += ["", _OTHERS[heading][0]]
        for one in names:
            lines += ["", f"### {one.name}"]
            if one.signature:
                lines += ["", textwrap.indent(one.signature.rstrip("\n"), "    ")]
            lines += ["", *_told(one.text)]
    lines += [
        "",
        "## Errors",
        "",
        "Every error that is raised on purpose is a `reprokit.Error`, with `message` and `hint`.",
    ]
    lines += ["", "| `reprokit.errors` | is a | exit code | |", "|---|---|---|---|"]
    code = {"Exception": "1"}
    for node in _tree("reprokit.errors").body:
        if isinstance(node, ast.ClassDef):
            base = ast.unparse(node.bases[0])
            own = [ast.unparse(one.value) for one in node.body if isinstance(one, ast.Assign)]
            code[node.name] = own[0] if own else code[base]
            first = (ast.get_docstring(node) or "").partition("\n\n")[0]
            lines.append(f"| `{node.name}` | `{base}` | {code[node.name]} | {_plain(first)} |")
    return "\n".join(lines) + "\n"


_PART = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$")


def _told(text: str) -> list[str]:
    """Return a docstring as lines of Markdown: examples as blocks, arguments as a list."""
    lines: list[str] = []
    part, block = "", False
    for line in text.splitlines():
        heading = _PART.match(line)
        inside = line.startswith("    ") and not part
        if block and line and not inside:
            block = False
            while lines[-1] == "":
                lines.pop()
            lines += ["```", ""]
        if heading:
            part = heading[1]
            while lines and lines[-1] == "":
                lines.pop()
            lines += ["", f"*{part}*", ""]
        elif part and line and not line.startswith(" "):
            part = ""
            lines += ["", _prose(line)]
        elif part and re.match(r"    \S", line):
            name, colon, rest = line.strip().partition(": ")
            named = bool(colon) and part not in ("Returns", "Yields")
            lines.append(f"- {', '.join(f'`{one}`' for one in name.split(', '))}: {_prose(rest)}" if named
                         else f"- {_prose(line.strip())}")  # fmt: skip
        elif part and line:
            lines[-1] += f" {_prose(line.strip())}"
        elif inside:
            if not block:
                lines.append("```python")
                block = True
            lines.append(line[4:])
        else:
            lines.append(line if block else _prose(line))
    return [*lines, "```"] if block else lines


PAGES = {"commands.md": commands, "recipe.md": recipe, "api.md": api}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (HERE / page).write_text(make(), encoding="utf-8")
    sys.stdout.write(f"made {', '.join(PAGES)}\n")
