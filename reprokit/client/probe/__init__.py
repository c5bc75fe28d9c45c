"""What `reprokit doctor` sees from inside the script's process: every source of state that it finds, as digests.

Called when a checkpoint was saved, when one is about to be restored, and when it was; outside a doctor's run it returns
at once. It only looks: no random number is drawn and nothing is changed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from reprokit.client import context
from reprokit.client.frameworks import frameworks
from reprokit.client.probe.digests import UnreadableError, digest, global_generators, is_generator, shown
from reprokit.client.probe.places import Found, Living, callbacks_in_use, search
from reprokit.client.probe.source import Given, Source, read, state_of

__all__ = ["Moment", "flat", "look"]

Moment = Literal["initial", "saved", "start", "restored"]
_COUNTS = {"looks": 0, "saved": 0}


def look(moment: Moment, *, epoch: int | None = None, step: int | None = None) -> None:
    """Write down all state that this process has now, if a doctor asked for it.

    Raises:
        SystemExit: The doctor has seen enough.
    """
    orders: dict[str, Any] | None = context().get("probe")
    if not orders or os.environ.get("RANK", "0") != "0":
        return
    _COUNTS["looks"] += 1
    _COUNTS["saved"] += moment == "saved"
    if _COUNTS["saved"] > orders["most"]:  # a script that saves by itself, and does not leave as a callback would
        raise SystemExit(0)
    seen = {"moment": moment, "epoch": epoch, "step": step, **_see()}
    file = Path(orders["folder"]) / f"{_COUNTS['looks']:04d}-{moment}.json"
    file.write_text(json.dumps(seen))


def _see() -> dict[str, Any]:
    gc.collect()  # what nobody holds any more is not part of the state
    found = search()
    names = {id(thing): name for name, thing in reversed(found.objects)}
    callbacks = callbacks_in_use()
    held = [value for callback in callbacks for value in flat(vars(callback))]
    # of a framework's callback, one object at work belongs to the framework; of a hand-written loop, none does
    by_hand = [any(kind.__module__ == "reprokit.client.loop" for kind in type(one).__mro__) for one in callbacks]
    explicit = bool(by_hand) and all(by_hand)
    given, living = Given(held, explicit=explicit), Living()
    sources = _rng()
    for find in _hooks("find"):
        sources += find(names, found.objects, given, living)
    sources += _generators(found, names, given, living)
    numerics: dict[str, Any] = {}
    for facts in _hooks("facts"):
        numerics |= facts(names, found.objects, held, living)
    return {
        "by_hand": explicit,
        "sources": [source._asdict() for source in _numbered(sources) if source.parts],
        "variables": _variables(found, callbacks),
        "anew": sorted({name for one in callbacks for name in getattr(getattr(one, "_carried", None), "anew", ())}),
        "numerics": numerics,
    }


def _rng() -> list[Source]:
    """Return the global generators of everything that is loaded."""
    found = [Source("RNG", "Python RNG", None, None, state_of("Python RNG", random.getstate()))]
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        state = numpy.get_state(legacy=False)
        found.append(Source("RNG", "NumPy RNG", None, None, state_of("NumPy RNG", state)))
    for rng in _hooks("rng"):
        found += rng()
    return found


def _hooks(name: str) -> Iterator[Callable[..., Any]]:
    """Yield what each framework has of that name to look at a process with."""
    for framework in frameworks().values():
        found = getattr(importlib.import_module(framework.probe), name, None) if framework.probe else None
        if found is not None:
            yield found


def _generators(found: Found, names: dict[int, str], given: Given, living: Living) -> list[Source]:
    """Return the generators that loaders, datasets and the user's own variables hold."""
    of_loaders: dict[int, tuple[str, Any]] = {}
    for generators in _hooks("generators"):
        of_loaders |= generators(names, living)
    globals_ = {id(one) for one in global_generators()}
    every = {id(thing): (name, thing) for name, thing in reversed(found.objects) if is_generator(thing)}
    sources = []
    for key, (name, thing) in (of_loaders | every).items():
        if key not in globals_:
            part = "loader generator" if key in of_loaders else "own generator"
            sources.append(
                Source("generator", type(thing).__name__, name, given.has(thing), read(state_of, part, thing))
            )
    return sources


def _variables(found: Found, callbacks: list[Any]) -> dict[str, Any]:
    """Return the user's plain variables; what the callback itself keeps, such as `ckpt.state`, is not among them."""
    kept = {id(value) for callback in callbacks for value in flat(vars(callback))}
    variables = {}
    for name, value in found.plain.items():
        if id(value) not in kept or isinstance(value, (bool, int, str, float)):
            with contextlib.suppress(UnreadableError):
                variables[name] = {"digest": digest(value), "shown": shown(value)}
    return variables


def flat(values: dict[Any, Any], depth: int = 0) -> list[Any]:
    """Return the values of a mapping, and those in mappings and lists among them."""
    found = []
    for value in values.values():
        found.append(value)
        if depth < 2 and isinstance(value, (dict, list, tuple)):
            inner = value if isinstance(value, dict) else dict(enumerate(value))
            found += flat(inner, depth + 1)
    return found


def _numbered(sources: list[Source]) -> list[Source]:
    """Give those that no variable leads to a number by their kind, in the order of what they hold."""
    unnamed: dict[tuple[str, str], list[Source]] = {}
    for source in sources:
        if source.name is None:
            unnamed.setdefault((source.kind, source.type), []).append(source)
    named = [source for source in sources if source.name is not None]
    for group in unnamed.values():
        ordered = sorted(group, key=lambda source: sorted((part, *items) for part, items in source.parts.items()))
        named += [
            source._replace(name=None if len(ordered) == 1 else f"the {number + 1}. of {len(ordered)}")
            for number, source in enumerate(ordered)
        ]
    return named
