"""One thing of a run that a repetition can be given instead: as data, and as the option of `--with` that says it."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec

__all__ = ["SETTINGS", "Factor", "FactorKind"]

FactorKind = Literal["code", "environment", "data", "param", "execution", "variable"]

SETTINGS = ("threads", "seed", "determinism", "inputs", "layout")
"""Fields of `execution` that a repetition can be given."""


class Factor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that a repetition is given.

    Attributes:
        name: Of the input, parameter, variable, or setting of `execution`; empty for code and environment.
        value: Of code, a folder or run; of the environment, `current` or a run; of data, a reference; of a variable its
            text, None to unset it; of a parameter or setting, any JSON value.
    """

    kind: FactorKind
    name: str = ""
    value: Any = None

    @property
    def option(self) -> str:
        """What stands after `--with` for it; `parse_factor` reads it back as it is."""
        if self.kind in ("code", "environment"):
            return f"{'code' if self.kind == 'code' else 'env'}={self.value}"
        if self.kind == "data":
            return f"data.{self.name}={self.value}"
        if self.kind == "variable":
            return f"variable.{self.name}={'' if self.value is None else self.value}"
        return f"{'param.' if self.kind == 'param' else ''}{self.name}={_spelled(self.value)}"


def _spelled(value: Any) -> str:
    """Return JSON that YAML reads as the same value: JSON's pairs of \\u escapes are two characters to it."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
