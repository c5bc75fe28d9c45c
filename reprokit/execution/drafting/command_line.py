"""The command line that a script reads, as it can be seen in its text: parsed, never executed.

What is found is a proposal for a recipe: which library reads it, and of the options whose defaults stand there as
numbers, text or lists, names, defaults and forms. An option that the text does not tell is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from reprokit.execution.drafting.source_text import last_name, parsed, root_name
from reprokit.schema.flags import FlagForm, from_text

__all__ = ["CommandLine", "command_line_of", "given", "imported_beside"]

_Options = dict[str, tuple[Any, FlagForm]]


@dataclass(frozen=True, kw_only=True)
class CommandLine:
    """What a script's text shows.

    Attributes:
        library: Who reads it.
        form: How flags are written, where nothing else is said of one.
        params: Options with their defaults.
        forms: Those that are written in another way.
        words: What stands before the flags: a subcommand.
    """

    library: str
    form: FlagForm = "space"
    params: dict[str, Any] = field(default_factory=dict)
    forms: dict[str, FlagForm] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def command_line_of(source: bytes) -> CommandLine | None:
    """Return the command line that a script reads; None if none of the known libraries is seen to read it."""
    tree = parsed(source)
    if tree is None:
        return None
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for reads in _READERS:
        found = reads(tree, calls)
        if found is not None:
            return found
    return None


def given(line: CommandLine | None, arguments: Sequence[str]) -> tuple[CommandLine | None, list[str]]:
    """Return a command line with the options that were given, and the words that are none.

    An option that the text does not tell becomes a parameter too, in the form in which it was given.
    """
    if line is None and not any(word.startswith("--") for word in arguments):
        return line, [*arguments]
    line = line or CommandLine(library="the script")
    params, forms, words, left = dict(line.params), dict(line.forms), list[str](), [*arguments]
    while left:
        word = left.pop(0)
        if line.form == "hydra" and "=" in word and not word.startswith("-"):
            name, _, value = word.partition("=")
            params[name.lstrip("+~")] = from_text(value)
            continue
        if not word.startswith("--") or word == "--":
            words.append(word)
            if word.startswith("-") and left and not left[0].startswith("-"):
                words.append(left.pop(0))  # `-e 5`: which option that is, the text does not tell
            continue
        name, equals, value = word[2:].partition("=")
        if name.startswith("no-") and forms.get(name[3:]) == "no":
            params[name[3:]] = False
        elif equals:
            params[name] = from_text(value)
            if name not in line.params and line.form == "space":
                forms[name] = "equals"
        elif forms.get(name, line.form) in ("switch", "no") or not left or left[0].startswith("--"):
            params[name] = True
            forms.setdefault(name, "switch")
        else:
            values = [left.pop(0)]
            while left and not left[0].startswith("--") and forms.get(name) == "words":
                values.append(left.pop(0))
            known = isinstance(line.params.get(name), list)
            params[name] = [*map(from_text, values)] if known else from_text(values[0])
    return replace(line, params=params, forms=forms), words


def imported_beside(source: bytes) -> list[str]:
    """Return the files that a script may import from beside it, where it names modules without a dot."""
    tree = parsed(source)
    names: dict[str, None] = {}
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Import):
            names |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names[node.module or ""] = None
    return [f"{name}.py" for name in names if name.isidentifier()]


def _called(calls: list[ast.Call], *names: str) -> list[ast.Call]:
    return [call for call in calls if last_name(call.func) in names]


def _imports(tree: ast.AST, *names: str) -> bool:
    """True if a module imports one of these packages."""
    for node in ast.walk(tree):
        found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        if any(name.partition(".")[0] in names for name in found):
            return True
    return False


def _keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg is not None}


def _literal(node: ast.expr | None) -> Any:
    """Return a number, text, truth or list of them that stands there; None if it is nothing of the kind."""
    if node is None:
        return None
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    if isinstance(value, tuple | list):
        plain = all(isinstance(item, str | int | float) for item in value)
        return [*value] if plain else None
    finite = not isinstance(value, float) or abs(value) < float("inf")
    return value if isinstance(value, bool | int | float | str) and finite else None


def _long(call: ast.Call) -> list[str]:
    """Return the names that begin with two dashes among a call's words."""
    words = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    return [word for word in words if isinstance(word, str) and word.startswith("--") and len(word) > 2]


def _made(library: str, options: _Options, form: FlagForm = "space", words: tuple[str, ...] = ()) -> CommandLine:
    return CommandLine(
        library=library,
        form=form,
        params={name: value for name, (value, _) in options.items()},
        forms={name: how for name, (_, how) in options.items() if how != form},
        words=words,
    )


def _argparse(tree: ast.Module, calls: list[ast.Call]) -> CommandLine | None:
    if not _called(calls, "ArgumentParser", "ArgParser") or not _called(calls, "add_argument"):
        return None
    if _called(calls, "add_subparsers"):  # which of them is to run, and what it takes, the text does not tell
        return CommandLine(library="argparse")
    apart = {  # of options that exclude each other none can be given beside the others
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and last_name(node.value) == "add_mutually_exclusive_group"
        for target in node.targets
        if (name := root_name(target))
    }
    options: _Options = {}
    for call in _called(calls, "add_argument"):
        option = _argument(call)
        inside = isinstance(call.func, ast.Attribute) and last_name(call.func.value) == "add_mutually_exclusive_group"
        if option is not None and not inside and root_name(call.func) not in apart:
            options[option[0]] = option[1:]
    return _made("argparse", options)


def _argument(call: ast.Call) -> tuple[str, Any, FlagForm] | None:
    """Return name, default and form of an `add_argument`."""
    long, told = _long(call), _keywords(call)
    if not long:
        return None
    name = long[-1].removeprefix("--")
    action = _literal(told.get("action")) or last_name(told.get("action") or ast.Constant(None))
    default = _literal(told.get("default"))
    if action in ("store_true", "store_false"):
        return name, False, "switch"
    if action == "BooleanOptionalAction":
        return (name, default, "no") if isinstance(default, bool) else None
    if action not in ("", "store", "append", "extend") or default is None:
        return None
    if action in ("append", "extend"):  # what is given is added to the default
        return None if default else (name, [], "repeat")
    if isinstance(default, list):
        return (name, default, "words") if "nargs" in told else None
    if isinstance(default, bool) and last_name(told.get("type") or ast.Constant(None)) in ("bool", ""):
        return None  # `type=bool` takes any word for true
    return name, default, "space"


def _click(_tree: ast.Module, calls: list[ast.Call]) -> CommandLine | None:
    found = [call for call in _called(calls, "option") if _long(call) and root_name(call.func) in ("click", "option")]
    if not found and not [call for call in _called(calls, "command") if root_name(call.func) == "click"]:
        return None
    if [call for call in _called(calls, "group") if root_name(call.func) in ("click", "group")]:
        return CommandLine(library="click")
    options: _Options = {}
    for call in found:
        told, name = _keywords(call), _long(call)[0].removeprefix("--")
        default = _literal(told.get("default"))
        if "/" in name:
            on, _, off = name.partition("/")
            if off.strip() == f"--no-{on.strip()}" and isinstance(default, bool):
                options[on.strip()] = default, "no"
        elif _literal(told.get("is_flag")) is True or isinstance(default, bool):
            if default in (None, False):
                options[name] = False, "switch"
        elif isinstance(default, list):
            if _literal(told.get("multiple")) is True:
                options[name] = default, "repeat"
        elif default is not None:
            options[name] = default, "space"
    return _made("click", options)


def _functions(tree: ast.Module) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def _defaults(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, ast.expr]]:
    """Yield the arguments of a function that have defaults."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    for argument, default in zip(named[len(named) - len(arguments.defaults) :], arguments.defaults, strict=True):
        yield argument.arg, default
    for argument, other in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if other is not None:
            yield argument.arg, other


def _typer(tree: ast.Module, calls: list[ast.Call]) -> CommandLine | None:
    if not _imports(tree, "typer"):
        return None
    functions = _functions(tree)
    named = [root_name(call.args[0]) for call in _called(calls, "run") if root_name(call.func) == "typer" and call.args]
    named += [
        name for name, one in functions.items() if any(last_name(how) == "command" for how in one.decorator_list)
    ]  # fmt: skip
    if not named:
        return None
    if len(named) > 1 or named[0] not in functions:
        return CommandLine(library="typer")
    options: _Options = {}
    for name, default in _defaults(functions[named[0]]):
        flag = name.replace("_", "-")
        if isinstance(default, ast.Call) and last_name(default) == "Option" and not _long(default):
            default = default.args[0] if default.args else _keywords(default).get("default", ast.Constant(None))
        value = _literal(default)
        if value is not None:
            options[flag] = value, "no" if isinstance(value, bool) else "repeat" if isinstance(value, list) else "space"
    return _made("typer", options)


def _fire(tree: ast.Module, calls: list[ast.Call]) -> CommandLine | None:
    found = [call for call in _called(calls, "Fire") if _imports(tree, "fire")]
    if not found:
        return None
    function = _functions(tree).get(root_name(found[0].args[0])) if found[0].args else None
    options: _Options = {}
    for name, default in _defaults(function) if function is not None else ():
        value = _literal(default)
        if value is not None:
            options[name] = value, "python"
    return _made("fire", options, "python")


def _absl(_: ast.Module, calls: list[ast.Call]) -> CommandLine | None:
    found = [call for call in calls if last_name(call.func).startswith("DEFINE_")]
    options: _Options = {}
    for call in found:
        name = _literal(call.args[0]) if call.args else None
        value = _literal(call.args[1] if len(call.args) > 1 else _keywords(call).get("default"))
        if isinstance(name, str) and value is not None:
            options[name] = value, "commas" if isinstance(value, list) else "equals"
    return _made("absl", options, "equals") if found else None


def _hydra(tree: ast.Module, calls: list[ast.Call]) -> CommandLine | None:
    names = ("hydra", "hydra_zen")
    roots = (*names, "hydra_main")
    found = [call for call in _called(calls, "main", "compose", "hydra_main") if root_name(call.func) in roots]
    return CommandLine(library="Hydra", form="hydra") if found and _imports(tree, *names) else None


def _lightning(_: ast.Module, calls: list[ast.Call]) -> CommandLine | None:
    found = _called(calls, "LightningCLI")
    if not found:
        return None
    run = _literal(_keywords(found[0]).get("run"))
    return CommandLine(library="Lightning's CLI", form="equals", words=() if run is False else ("fit",))


def _transformers(tree: ast.Module, calls: list[ast.Call]) -> CommandLine | None:
    found = _called(calls, "HfArgumentParser")
    if not found:
        return None
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    told = found[0].args[0] if found[0].args else ast.Tuple([])
    options: _Options = {}
    for part in told.elts if isinstance(told, ast.Tuple | ast.List) else [told]:
        for line in classes[root_name(part)].body if root_name(part) in classes else ():
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
                default = _keywords(line.value).get("default") if isinstance(line.value, ast.Call) else line.value
                value = _literal(default)
                if value is not None:
                    options[line.target.id] = value, "words" if isinstance(value, list) else "space"
    return _made("HfArgumentParser", options)


_READERS: tuple[Callable[[ast.Module, list[ast.Call]], CommandLine | None], ...] = (
    _hydra, _lightning, _transformers, _typer, _click, _fire, _absl, _argparse,
)  # fmt: skip
