"""A fixed small workload, digested kernel by kernel: where two processes have equal digests, they compute alike.

It runs in the libraries that are loaded already, from values that come out alike on any machine (integers, and one
division of IEEE 754), and draws no random number. A kernel that a library does not have, or refuses, is left out.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Collection
from typing import Any

from reprokit.client.frameworks import frameworks

__all__ = ["VERSION", "fingerprint"]

VERSION = 1
"""Fingerprints of different versions are not compared."""


def fingerprint(families: Collection[str] | None = None) -> dict[str, Any]:
    """Return a digest, 12 hex digits, for each kernel of the loaded libraries, or of those among `families`."""
    makers: dict[str, Callable[[], dict[str, Callable[[], Any]]]] = {"libm": _libm}
    for framework in frameworks().values():
        makers |= framework.numbers.kernels
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for family in makers if families is None else families:
            digests: dict[str, str] = {}
            for name, kernel in makers[family]().items():
                try:
                    digests[name] = _digest(kernel())
                except Exception:  # noqa: BLE001, S112 - whatever a library says of a kernel that it cannot do
                    continue
            if digests:
                found[family] = digests
    return {"version": VERSION, **found}


def _digest(parts: list[Any]) -> str:
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part if isinstance(part, bytes) else part.tobytes())
    return hasher.hexdigest()[:12]


def _libm() -> dict[str, Callable[[], Any]]:
    """The C library's own functions, as Python calls them."""
    points = [4 * (index * 2741 % 8191 - 4095) / 8191 for index in range(512)]

    def over(function: Callable[[float], float]) -> Callable[[], Any]:
        return lambda: [function(point).hex().encode() for point in points]

    return {
        **{name: over(getattr(math, name)) for name in ("exp", "sin", "tanh", "erf")},
        "log1p": over(lambda value: math.log1p(value * value)),
        "pow": over(lambda value: math.pow(abs(value) + 0.5, 2.7)),
    }
