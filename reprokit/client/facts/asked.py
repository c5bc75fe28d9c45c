"""What a process says that `env check` starts in an environment: the same facts that a run's process says at its end.

`python -m reprokit.client.facts.asked QUESTION ANSWER`: two JSON files. Only libraries that are named here are
imported.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from reprokit.client.facts.fingerprint import fingerprint
from reprokit.client.facts.numeric import numeric_facts
from reprokit.client.frameworks import Framework, frameworks

__all__ = ["ARRAYS", "answer", "families"]

ARRAYS = "arrays"
"""The process that is asked in any case: for C's own functions."""


def families() -> dict[str, list[Framework]]:
    """Return the frameworks that one process imports, in this order, and whose kernels it executes."""
    found: dict[str, list[Framework]] = {}
    for framework in frameworks().values():
        for family in framework.numbers.asked:
            found.setdefault(family, []).append(framework)
    return found


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Import what a run had imported, set what its script had set, and say what comes of it.

    Args:
        question: `family`, `libraries` (those of it that are wanted) and `switches`, as
            `reprokit.numerics.query_environment` makes them.
    """
    asked = families()[question["family"]]
    for framework in asked:
        if framework.name in question["libraries"]:
            for module in (framework.name, *framework.numbers.also):
                importlib.import_module(module)
    for framework in asked:
        if framework.name in sys.modules:
            framework.numbers.set_switches(sys.modules[framework.name], question["switches"])
    facts = numeric_facts(whole=True)
    own = {framework.name for framework in asked} | ({"blas"} if question["family"] == ARRAYS else set())
    kernels = ["libm"] if question["family"] == ARRAYS else []
    kernels += [library for framework in asked for library in framework.numbers.kernels]
    return {**{name: value for name, value in facts.items() if name in own}, "fingerprint": fingerprint(kernels)}


if __name__ == "__main__":
    os.environ.pop("REPROKIT_SOCKET", None)  # nobody listens there
    Path(sys.argv[2]).write_text(json.dumps(answer(json.loads(Path(sys.argv[1]).read_bytes()))))
