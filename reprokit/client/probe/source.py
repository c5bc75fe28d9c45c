"""One place in the script's process where state lives, as two processes can compare it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from reprokit.client.probe.digests import UnreadableError, digest

__all__ = ["Given", "Parts", "Source", "read", "state_of", "told"]

Parts = dict[str, dict[str, str]]


class Source(NamedTuple):
    """What was found.

    Attributes:
        kind: `RNG`, `generator`, `model`, `optimiser`, `scheduler`, …
        type: The name of its class, or of what it is.
        name: Where the user keeps it; None if no variable leads there.
        held: Whether the callback was given it; None where that is not the user's to do.
        parts: Part → item (a tensor, a value) → what it holds: a number as it is, or `#` and a digest.
    """

    kind: str
    type: str
    name: str | None
    held: bool | None
    parts: Parts


class Given:
    """What a callback was given, by identity.

    Args:
        held: The values of its attributes.
        explicit: The user gives it each object, so that one which it does not hold is one that was forgotten.
    """

    def __init__(self, held: Iterable[Any], *, explicit: bool) -> None:
        self.held = list(held)
        self.explicit = explicit
        self._ids = {id(thing) for thing in self.held}
        for thing in self.held:  # what a wrapper, such as accelerate's optimiser, has inside
            if not type(thing).__module__.startswith("torch."):
                self._ids |= {id(inner) for inner in getattr(thing, "__dict__", {}).values()}

    def has(self, thing: Any) -> bool | None:
        return id(thing) in self._ids if self.explicit else None


def told(value: Any) -> str:
    """Return what stands for a value: a number as it is, anything else as its digest."""
    if isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) < 40):
        return repr(value)
    return "#" + digest(value)


def state_of(part: str, value: Any) -> Parts:
    """Return a generator's state, or another single value, as the parts of a source."""
    return {part: {"state": told(value)}}


def read(parts: Callable[..., Parts], *arguments: Any) -> Parts:
    """Return the parts that have items; none if they cannot be read, as in the middle of being made."""
    try:
        return {name: items for name, items in parts(*arguments).items() if items}
    except (UnreadableError, AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return {}
