"""What the pages write for others to type: commands, Python, recipes. Held against the program, and not executed."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import yaml

import reprokit
from reprokit.cli.main import cli
from reprokit.core.safe_yaml import load_yaml
from reprokit.errors import Error
from reprokit.schema.recipe import Recipe, from_plain
from tests.conftest import ROOT

_FOLDERS = [*sorted((ROOT / "docs").glob("**/*.md")), *sorted((ROOT / "examples").glob("**/*.md"))]
PAGES = [*_FOLDERS, *(ROOT / f"{n}.md" for n in ("README", "CONTRIBUTING", "CHANGELOG"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?:(?:    .*)?\n)+", re.MULTILINE)
_CODE = re.compile(r"(?<![`\w])`([^`]+)`(?!`)")
_FIELDS = {field.encode_name for field in msgspec.structs.fields(Recipe)}
_OPERATORS = set("|&;<>()")
_NO_COMMANDS = {"reprokit listing 1", "reprokit notebook 1"}  # the first lines of files


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def inline(text: str) -> list[str]:
    """Return what stands between back quotes in a page's sentences and tables."""
    return [" ".join(found.replace("\\|", "|").split()) for found in _CODE.findall(FENCE.sub("", text))]


def unreadable(text: str) -> list[str]:
    """Return the blocks of Python and YAML that are neither, each by its beginning and what is wrong."""
    found = []
    for language, block in FENCE.findall(text):
        try:
            if language == "python":
                compile(block, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            elif language == "yaml":
                list(yaml.safe_load_all(block))
        except (SyntaxError, yaml.YAMLError) as error:
            found.append(f"{block[:40]!r}: {error}")
    return found


# ---- Python


def unknown_names(text: str) -> list[str]:
    """Return the names below `reprokit` that a page imports or speaks of, and that are not there."""
    named: set[str] = {found for code in inline(text) for found in re.findall(r"^(reprokit(?:\.\w+)+)", code)}
    for language, block in FENCE.findall(text):
        if language == "python":
            named |= set(_named(ast.parse(block)))
        elif language == "console":  # scripts that a block writes, some of them not in Python
            named |= {f"{module}.{name}" for module, names in re.findall(r"^from (reprokit[\w.]*) import (.+)$", block,
                      re.MULTILINE) for name in re.findall(r"\w+", names.partition("#")[0])}  # fmt: skip
            named |= set(re.findall(r"\b(reprokit(?:\.[a-z]\w*)+)(?=\()", block))
    return sorted(name for name in named if not exists(name) and not _is_tag(name))


def _is_tag(name: str) -> bool:
    """True of a tag that a run has in MLflow: they are spelled like modules."""
    return any(name == tag or (tag.endswith(".") and name.startswith(tag)) for tag in _tags())


@functools.cache
def _tags() -> set[str]:
    source = "".join(file.read_text("utf-8") for file in (ROOT / "reprokit" / "recording" / "tracking").glob("*.py"))
    return set(re.findall(r'"(reprokit\.[a-z.]+)', source))


def _named(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "reprokit":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "reprokit")
        elif isinstance(node, ast.Attribute):
            spelled = ast.unparse(node)
            if re.fullmatch(r"reprokit(\.\w+)+", spelled):
                yield spelled


def exists(dotted: str) -> bool:
    """True if a module of reprokit's has this name, or is one. It is looked up in the source, without frameworks."""
    place, parts = ROOT, dotted.split(".")
    while parts:
        below = place / parts[0]
        if below.is_dir():
            place = below
        elif below.with_suffix(".py").is_file():
            place = below.with_suffix(".py")
        else:
            break
        parts.pop(0)
    if not parts:
        return True
    if place == ROOT / "reprokit" and parts[0] in reprokit._HOMES:
        return exists(".".join([reprokit._HOMES[parts[0]], *parts]))
    scope = _scope(place / "__init__.py" if place.is_dir() else place)
    return parts[0] in scope and (len(parts) == 1 or scope[parts[0]] is None or parts[1] in (scope[parts[0]] or ()))


@functools.cache
def _scope(file: Path) -> dict[str, set[str] | None]:
    """Return the names of a module; of classes without bases with their members, None where these are not known."""
    found: dict[str, set[str] | None] = {}
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            members = {one.name for one in node.body if isinstance(one, (ast.FunctionDef, ast.ClassDef))}
            fields = {one.target.id for one in node.body
                      if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)}  # fmt: skip
            found[node.name] = None if node.bases else members | fields
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = None
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name): None for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: None for target in targets if isinstance(target, ast.Name)}
    return found


# ---- recipes


def no_recipes(text: str) -> list[str]:
    """Return what a page writes as a recipe, or a part of one, and the schema does not take; with what it says."""
    written = [block for language, block in FENCE.findall(text) if language == "yaml"]
    written += re.findall(r"<<'?END'?\n(name: .*?)^END$", text, re.MULTILINE | re.DOTALL)
    written += [code for code in inline(text) if re.match(r"\w+: ?[{\[]", code) and "…" not in code]
    written += [block for block in _INDENTED.findall(text) if re.match(r"\s*\w+: [{\[]", block)]
    found = []
    for block in written:
        block = block.replace("$RUN", "latest")
        try:
            told = load_yaml(block.encode(), what="block")
        except Error:
            continue  # told by `unreadable`, where it was to be YAML
        if not isinstance(told, dict) or not (told.keys() & _FIELDS) or "…" in block:
            continue
        params = dict.fromkeys(re.findall(r"\{params\.(\w+)\}", block), 1)
        try:
            from_plain({"name": "x", "code": {"entrypoint": "x.py"}, "params": params, **told}, what="block")
        except Error as error:
            found.append(f"{' '.join(block.split())[:60]}: {error}")
    return found


# ---- commands


def wrong_commands(text: str) -> list[str]:
    """Return the lines with a call of reprokit that its command line would not take, with what it says."""
    lines = [line for _, block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines += [line.strip() for block in _INDENTED.findall(FENCE.sub("", text)) for line in block.splitlines()]
    spoken = [code for code in inline(text) if code.startswith("reprokit ") and code not in _NO_COMMANDS]
    found = []
    for line in [*lines, *spoken]:
        for words in calls(line) if "[OPTIONS]" not in line else ():  # how the reference page says what there is
            if fault := wrong(words, whole=line not in spoken):
                found.append(f"{line.strip()}: {fault}")
    return found


def calls(line: str) -> Iterator[list[str]]:
    """Yield the words behind each `reprokit` that a line of shell starts; of a line that is none, nothing."""
    line = line.strip().removeprefix("$ ")
    for inner in re.findall(r"\$\((reprokit [^|)]*)", line):
        yield from calls(inner)
    if not re.match(r"(reprokit |[A-Z_]+=\S+ reprokit |until |\w[^'\"]* (&&|\|\|) reprokit )", line):
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:
        return
    command: list[str] = []
    skip = False
    for word in [*words, ";"]:
        if skip:
            skip = False
        elif set(word) <= _OPERATORS:
            skip = word[0] in "<>"
            if skip:
                if command and command[-1].isdigit():
                    command.pop()
                continue
            while command and (command[0] == "until" or re.fullmatch(r"[A-Z_]+=.*", command[0])):
                command.pop(0)
            if command[:1] == ["reprokit"] and len(command) > 1:
                yield command[1:]
            command = []
        else:
            command.append(word)


def wrong(words: list[str], *, whole: bool = True) -> str | None:
    """Return what is wrong with a command, its options, the words that they take, or the number of its arguments.

    Args:
        whole: All arguments have to be there; a sentence may speak of `reprokit run` without them.
    """
    words = [word for word in words if word not in ("…", "...")]
    with click.Context(cli, info_name="reprokit") as context:
        rest = cli._options_last(context, [*words])
        if rest[:1] in (["--version"], ["--help"], ["-h"]):
            return None
        command: click.Command = cli
        while isinstance(command, click.Group):
            if not rest:
                return None if command is not cli else "no command"
            below = command.get_command(context, rest[0].partition("|")[0])
            if below is None:
                return f"no command {rest[0]}"
            command, rest = below, rest[1:]
        with click.Context(command, parent=context) as own:
            try:
                given, loose, _ = command.make_parser(own).parse_args([*rest])
                for parameter in command.params:
                    value = given.get(parameter.name or "")
                    if isinstance(parameter.type, click.Choice) and isinstance(value, str) and not value.isupper():
                        parameter.type.convert(value, parameter, own)
            except click.UsageError as error:
                return error.message
        if "--help" in rest or "-h" in rest:
            return None
        if loose:
            return f"too many words: {' '.join(loose)}"
        return _missing(command, given) if whole else None


def _missing(command: click.Command, given: dict[str, object]) -> str | None:
    for parameter in command.params:
        empty = given.get(parameter.name or "") in (None, (), "") or not _set(given.get(parameter.name or ""))
        if isinstance(parameter, click.Argument) and parameter.required and empty:
            return f"{parameter.human_readable_name} is missing"
    return None


def _set(value: object) -> bool:
    return not (value is None or type(value).__name__ == "Sentinel")
