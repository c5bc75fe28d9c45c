"""Parameters as words of a command line: `params: flags`, and `{params.NAME}` in a command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal

from reprokit.errors import RecipeError

__all__ = ["FlagForm", "Flags", "as_text", "check_flags", "filled", "from_text", "named_in", "variable_of", "words_of"]

FlagForm = Literal["space", "equals", "hydra", "python", "switch", "no", "words", "repeat", "commas", "bare"]
"""How a parameter stands on the command line:

`space` `--lr 0.5` · `equals` `--lr=0.5` · `hydra` `lr=0.5` · `python` `--lr=0.5`, the value as Python writes it ·
`switch` `--amp` where it is true, else nothing · `no` `--amp` or `--no-amp` · `words` `--sizes 1 2` · `repeat`
`--sizes 1 --sizes 2` · `commas` `--sizes=1,2` · `bare` the value alone.
"""

Flags = FlagForm | dict[str, FlagForm]
"""One form for all parameters, or some by name; the others have `space`."""

_LISTS = ("words", "repeat", "commas", "bare")
_PLACE = re.compile(r"\{params\.([A-Za-z_][\w.-]{0,99})\}", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z_/][\w./:@%+-]*", re.ASCII)  # what Hydra reads as a text without quotes
_WORDS_OF_YAML = {"true", "false", "null", "nan", "inf"}


def from_text(text: str) -> int | float | str:
    """Return a word as the number that it spells in the one way in which that is written, or as it is."""
    for read in (int, float):
        try:
            value = read(text)
        except ValueError:
            continue
        if str(value) == text and value - value == 0:  # infinities and NaN are no numbers of JSON
            return value
    return text


def as_text(value: object) -> str:
    """Return a parameter as a command line or a variable carries it."""
    return value if isinstance(value, str) else json.dumps(value)


def variable_of(name: str) -> str:
    """Return the variable that `params: variables` gives a parameter in."""
    return f"REPROKIT_PARAM_{name.upper().replace('-', '_').replace('.', '_')}"


def words_of(params: Mapping[str, Any], flags: Flags) -> Iterator[str]:
    """Yield the words of the command line that give a script its parameters, in their order.

    Null is not given: the script has its own value then. Only `hydra` and `python` have a word for it.
    """
    for name, value in params.items():
        yield from _words(name, value, _form(name, flags))


def filled(command: Sequence[str], params: Mapping[str, Any]) -> list[str]:
    """Return a command with the values of parameters where it names them."""
    return [_PLACE.sub(lambda at: as_text(params[at[1]]) if at[1] in params else at[0], word) for word in command]


def named_in(command: Sequence[str]) -> set[str]:
    """Return the parameters that a command names."""
    return {found[1] for word in command for found in _PLACE.finditer(word)}


def check_flags(params: Mapping[str, Any], flags: Flags, *, used: bool, command: Sequence[str]) -> None:
    """Raise for forms that no parameter has, that do not fit its value, or that are not used.

    Args:
        used: The recipe has `params: flags`.
    """
    if flags != "space" and not used:
        raise RecipeError("execution.flags: it says how flags are written; write `params: flags` beside it.")
    for name in flags if isinstance(flags, dict) else ():
        _check_declared(f"execution.flags.{name}", name, params)
    for name in sorted(named_in(command)):
        _check_declared(f"code.command: {{params.{name}}}", name, params)
    for name, value in params.items() if used else ():
        form, where = _form(name, flags), f"params.{name}"
        if form in ("switch", "no") and not isinstance(value, bool | None):
            raise RecipeError(f"{where}: {value!r} is not true or false, and execution.flags makes it a switch.")
        nested = isinstance(value, dict) or (isinstance(value, list) and any(isinstance(v, dict | list) for v in value))
        if form in _LISTS and nested:
            raise RecipeError(f"{where}: execution.flags writes it as words, and {value!r} is more than a list.")


def _check_declared(where: str, name: str, params: Mapping[str, Any]) -> None:
    if name not in params:
        close = get_close_matches(name, params, n=1)
        guess = f"Did you mean {close[0]!r}? " if close else ""
        raise RecipeError(
            f"{where}: the recipe declares no parameter {name!r}.",
            hint=f"{guess}Declared: {', '.join(params) or 'none'}.",
        )


def _form(name: str, flags: Flags) -> FlagForm:
    return flags.get(name, "space") if isinstance(flags, dict) else flags


def _words(name: str, value: Any, form: FlagForm) -> list[str]:
    flag = f"--{name}"
    if form == "hydra":
        return _for_hydra(name, value)
    if form == "python":
        return [f"{flag}={value!r}"]
    if value is None:
        return []
    items = [as_text(item) for item in value] if isinstance(value, list) else [as_text(value)]
    match form:
        case "switch":
            return [flag] if value else []
        case "no":
            return [flag if value else f"--no-{name}"]
        case "equals":
            return [f"{flag}={as_text(value)}"]
        case "commas":
            return [f"{flag}={','.join(items)}"]
        case "bare":
            return items
        case "words":
            return [flag, *items]
        case "repeat":
            return [word for item in items for word in _spaced(flag, item)]
    return _spaced(flag, as_text(value))


def _spaced(flag: str, text: str) -> list[str]:
    """Return a flag and its value; one that looks like a flag itself is joined to it, which is read either way."""
    return [f"{flag}={text}"] if text.startswith("-") and not text[1:2].isdigit() else [flag, text]


def _for_hydra(name: str, value: Any) -> list[str]:
    if isinstance(value, dict) and value:
        return [word for key, inner in value.items() for word in _for_hydra(f"{name}.{key}", inner)]
    return [f"{name}={_hydra(value)}"]


def _hydra(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_hydra, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_hydra(inner)}" for key, inner in value.items()) + "}"
    if not isinstance(value, str):
        return json.dumps(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _WORDS_OF_YAML:
        return value
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
