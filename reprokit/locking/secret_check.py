"""What looks like a secret in a recipe and its code is refused before any of it is stored: records are for others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reprokit.core.secret_scan import Finding, in_arguments, in_file, in_text, in_value
from reprokit.errors import RefusedError
from reprokit.schema.recipe import Recipe, to_plain

__all__ = ["SecretCheck", "refuse_secrets"]

_SHOWN = 20
_SIDES = re.compile(rb"(?:---|\+\+\+) (?:[ab]/(.+)|/dev/null)\Z")


def refuse_secrets(found: Iterable[Finding], *, allowed: Iterable[str] = ()) -> None:
    """Raise RefusedError for what looks like a secret and is not allowed by its place."""
    spared = set(allowed)
    left = [one for one in dict.fromkeys(found) if one.where not in spared]
    if not left:
        return
    shown = "".join(f"\n  {one}" for one in left[:_SHOWN])
    more = f"\n  … and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    places = ", ".join(dict.fromkeys(one.where for one in left[:_SHOWN]))
    raise RefusedError(
        f"What looks like a secret would be recorded; nothing was stored:{shown}{more}",
        hint="Take it out: what a script needs as a secret, `execution: {secrets: [NAME]}` gives it from your "
        f"environment, unrecorded. If it is none, allow it in the recipe: `not_secret: [{places}]`.",
    )


class SecretCheck:
    """Collects findings in one run's recipe and code.

    Args:
        recipe: What the run is locked from; its `not_secret` names what is allowed.
        file: The path of the recipe in the repository: what is found in its values is not found there again.
    """

    def __init__(self, recipe: Recipe, *, file: str | None = None) -> None:
        self._allowed = recipe.not_secret
        self._file = file
        self._found: list[Finding] = []
        plain = to_plain(recipe)
        plain.pop("not_secret", None)
        plain.get("execution", {}).pop("secrets", None)
        self._values = sorted(_texts(plain), key=len, reverse=True)
        self._found += in_arguments(recipe.code.command or [], "code.command")
        plain["code"].pop("command", None)
        self._found += in_value(plain, "")

    def text(self, text: str | None, where: str) -> None:
        """Look into a text that is recorded."""
        self._found += in_text(text or "", where)

    def file(self, path: str, data: bytes, *, where: str) -> None:
        """Look into a file of the repository."""
        self._found += self._in_file(path, data, where)

    def _in_file(self, path: str, data: bytes, where: str) -> Iterator[Finding]:
        if path != self._file:
            return in_file(data, path, where)
        for value in self._values:
            data = data.replace(value, b"")
        return in_file(data, path, where, names=False)

    def patch(self, patch: bytes) -> None:
        """Look into the lines that an uncommitted change takes away: the patch has them, the files have not."""
        removed: dict[str, list[bytes]] = {}
        path = ""
        for line in patch.split(b"\n"):
            if side := _SIDES.match(line):
                path = side[1].decode("utf-8", "replace") if side[1] else path
            elif line.startswith(b"-"):
                removed.setdefault(path, []).append(line[1:])
        for path, lines in removed.items():
            for one in self._in_file(path, b"\n".join(lines), f"code/{path}"):
                self._found.append(Finding(one.where, None, f"{one.what}, in a line that code.patch takes away"))

    def refuse(self) -> None:
        """Raise RefusedError if something was found that the recipe does not allow."""
        refuse_secrets(self._found, allowed=self._allowed)


def _texts(value: Any) -> list[bytes]:
    """Return the texts of a recipe's values, those that are long enough to be a secret."""
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value.encode("utf-8", "replace")] if isinstance(value, str) and len(value) >= 8 else []
