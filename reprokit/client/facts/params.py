"""A run's parameters as its script gets them, and the note of which it read: one that nobody asks for decides nothing.

A note is a line of the file that REPROKIT_ASKED names, appended at the first read: `P` and the name. It is there
whoever reads, and however the process ends.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["Params", "of_run"]


class Params(dict[str, Any]):
    """A dictionary that notes which of its keys are read.

    Names alone are no values: `in`, `keys()`, `len` and printing read nothing. Whoever takes all values has read all:
    by `items()`, `**params`, a copy, a comparison, a pickle. A copy is a plain dictionary.
    """

    _unread: set[str]

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return dict.__getitem__(self, key)

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key)
        return dict.get(self, key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self._note(key)
        return dict.pop(self, key, *default)

    def setdefault(self, key: str, default: Any = None) -> Any:
        self._note(key)
        return dict.setdefault(self, key, default)

    def popitem(self) -> tuple[str, Any]:
        key, value = dict.popitem(self)
        self._note(key)
        return key, value

    def __iter__(self) -> Any:  # with one of its own, `dict(params)` and `**params` ask for each key, as is seen here
        return dict.__iter__(self)

    def items(self) -> Any:
        self._note(*self)
        return dict.items(self)

    def values(self) -> Any:
        self._note(*self)
        return dict.values(self)

    def copy(self) -> dict[str, Any]:
        return dict(self)

    def __or__(self, other: Any) -> Any:
        return dict(self) | other

    def __ror__(self, other: Any) -> Any:
        return other | dict(self)

    def __eq__(self, other: object) -> bool:
        self._note(*self)
        return dict.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def _note(self, *keys: object) -> None:
        unread = getattr(self, "_unread", None)
        new = [key for key in keys if key in unread] if unread else []
        if new:
            self._unread -= {*new}
            _append(str(key) for key in new)


def of_run(params: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of the run that this process is of, and defaults for names that it does not set."""
    found = Params({**defaults, **params})
    found._unread = {*params}
    yaml: Any = sys.modules.get("yaml")
    if yaml is not None:  # which writes dictionaries and nothing derived from them
        yaml.add_representer(Params, yaml.representer.SafeRepresenter.represent_dict, Dumper=yaml.SafeDumper)
        yaml.add_representer(Params, yaml.representer.SafeRepresenter.represent_dict)
    return found


def _append(names: Iterable[str]) -> None:
    report = os.environ.get("REPROKIT_ASKED")
    if report is None:
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(report, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, b"".join(b"P " + name.encode() + b"\n" for name in names))
        finally:
            os.close(descriptor)
