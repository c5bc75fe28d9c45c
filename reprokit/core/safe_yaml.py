"""Reading YAML that a stranger wrote: YAML 1.2 scalars, capped in size, depth and aliases; no tags, no key twice."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

from reprokit.core.safe_json import check_depth
from reprokit.errors import DataMismatchError, RecipeError

__all__ = ["load_yaml"]

_MAX_ALIASES = 100
_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "bool", "int", "float", "null")}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 scalars, refusing a key twice and counting aliases.

    YAML 1.1 reads `off` as false, `1e-3` as a string, `1:30` as 90 and `2026-11-23` as a date; a recipe means none.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}  # type: ignore[misc]

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases = getattr(self, "aliases", 0) + 1
            if self.aliases > _MAX_ALIASES:
                raise yaml.YAMLError(f"more than {_MAX_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag not in _PLAIN_TAGS:
            raise yaml.YAMLError(f"the tag {node.tag!r} (line {node.start_mark.line + 1}); values are plain YAML here")
        return super().construct_object(node, deep)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            mark = key_node.start_mark
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.YAMLError(f"a key that is a list or mapping (line {mark.line + 1})")
            if key == "<<" and key_node.style is None:  # in quotes it is a text like others
                raise yaml.YAMLError(f"a merge key (line {mark.line + 1}); write the keys out")
            if key in seen:
                raise yaml.YAMLError(f"the key {key!r} stands twice (line {mark.line + 1}, column {mark.column + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def load_yaml(
    data: bytes, *, what: str, max_bytes: int = 1024 * 1024, max_depth: int = 24, max_nodes: int = 100_000
) -> Any:
    """Parse untrusted YAML with the safe loader.

    Raises:
        RecipeError: Too large, too deep, too many aliases, not UTF-8, not YAML, a tag, or a key twice.
    """
    if len(data) > max_bytes:
        raise RecipeError(f"{what} is {len(data):,} bytes long; at most {max_bytes:,} are read.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{what} is not UTF-8: {error.reason} at byte {error.start}.") from None
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader, made stricter above
    except (yaml.YAMLError, RecursionError, ValueError, LookupError) as error:
        raise RecipeError(f"{what} is not YAML that reprokit reads: {' '.join(str(error).split())}.") from None
    try:
        check_depth(value, what=what, max_depth=max_depth, max_nodes=max_nodes)
    except DataMismatchError as error:
        raise RecipeError(error.message) from None
    return value
