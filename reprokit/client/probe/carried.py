"""What a training carries from turn to turn in variables of the script's own, which no checkpoint holds.

    lr, history = 20.0, []
    for epoch in ckpt.epochs(40):
        ...
        history.append(loss)               # grows
        if loss > best: lr /= 4.0          # what the next turn trains with

A resumed process executes what stands before the loop again: there `lr` is 20 and `history` empty, whatever they were
when the checkpoint was saved. Which names may be meant, the script's source tells; which are, what they hold now and
held when it began. Nothing of the user's code is called.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType, FunctionType, GeneratorType, ModuleType, SimpleNamespace
from typing import Any

from reprokit.client.probe.digests import UnreadableError, digest, is_generator, is_plain
from reprokit.client.probe.loop_source import attributes_in, names_in, taken_in, written_in
from reprokit.client.probe.places import generators_in, is_own_file, is_own_type, own_modules, place_of

__all__ = ["Carried", "anew", "around", "of", "taken"]

_MAX_NAMES = 200
_MAX_PLACES = 5000
_MAX_DEPTH = 5  # objects within objects
_MAX_BYTES = 1 << 20  # of a value; of what is larger, every n-th element is looked at
_MAX_TOTAL = 8 << 20
_SAMPLED = 1024  # elements of a large array
_MAX_ITEMS = 100_000  # of all containers in a value
_MAX_PARTS = 200  # of a list of objects
_ITERATOR = "iterator"
_BEGAN = time.time() - 60  # as a script may have asked before this was imported

Places = Callable[[], Iterator[tuple[str, Any]]]


class Carried:
    """The variables of one training.

    Args:
        places: Gives (name, value) of what may be carried, each time that it is called.
        held: What the callback was given, which it saves itself.
        anew: Variables, as `places` names them, that each turn of the loop sets before it uses them.

        taken: Names by which the script takes what it has put into `state`.

    Attributes:
        anew: As given.
    """

    def __init__(
        self,
        places: Places = lambda: iter(()),
        held: Iterable[Any] = (),
        anew: frozenset[str] = frozenset(),
        taken: frozenset[str] = frozenset(),
    ) -> None:
        self._taken = taken
        self.anew = anew
        self._places = places
        self._held = {id(one): one for one in held}
        self._before = dict(self._values())
        self._expected: Mapping[str, str] = {}

    def moved(self) -> dict[str, str]:
        """Return name → digest of what holds something else than at the beginning, in this process or an earlier one.

        An iterator is among them: nobody can tell how far it is.
        """
        return {
            name: value
            for name, value in self._values()
            if name in self._expected or value == _ITERATOR or self._before.get(name) != value
        }

    def lost(self, expected: Mapping[str, str], kept: Mapping[str, Any] | None = None) -> list[str]:
        """Return the names that do not hold what they held when the restored checkpoint was saved.

        Args:
            expected: What `moved` returned then.
            kept: What the checkpoint holds of the user's own, by name: a variable that is there under its own name, as
                it was, and that the script takes from there.
        """
        self._expected = expected
        now = dict(self._values())
        own = {name: value for name, value in (kept or {}).items() if name in self._taken}
        there = {name for name, value in own.items() if expected.get(name) == _told(value)}
        return [
            name
            for name in expected
            if name not in there and (now.get(name) != expected[name] or expected[name] == _ITERATOR)
        ]

    def _values(self) -> Iterator[tuple[str, str]]:
        left = _MAX_TOTAL
        for name, value in itertools.islice(self._inside(), _MAX_PLACES):
            if id(value) in self._held or _is_clock(value):
                continue
            if _is_iterator(value):
                yield name, _ITERATOR
            elif is_generator(value):
                with contextlib.suppress(UnreadableError):
                    yield name, digest(value)
            elif is_plain(value):
                if (size := _size(value)) > _MAX_BYTES:
                    value = _sample(value)
                    size = _size(value)
                if size <= min(left, _MAX_BYTES):
                    left -= size
                    with contextlib.suppress(UnreadableError):
                        yield name, digest(value)

    def _inside(self) -> Iterator[tuple[str, Any]]:
        """Yield the places, and what hangs on them."""
        seen: set[int] = set()
        for name, value in self._places():
            yield from self._below(name, value, 0, seen)
        yield from generators_in(self._places(), self._held)

    def _below(self, name: str, value: Any, depth: int, seen: set[int]) -> Iterator[tuple[str, Any]]:
        yield name, value
        if depth < _MAX_DEPTH and not is_plain(value) and id(value) not in seen:
            seen.add(id(value))
            if not self._saves_itself(value):
                for part, inner in _parts(name, value):
                    yield from self._below(part, inner, depth + 1, seen)

    def _saves_itself(self, value: Any) -> bool:
        """True for what the callback was given and has a state of its own; Python attributes of modules are in none."""
        return id(value) in self._held and hasattr(value, "state_dict") and not hasattr(value, "parameters")


def _told(value: Any) -> str | None:
    """Return the digest of a value as of a variable; None of what has none."""
    if is_plain(value) and _size(value) > _MAX_BYTES:
        value = _sample(value)
    try:
        return digest(value) if is_plain(value) else None
    except UnreadableError:
        return None


def around(frame: FrameType | None) -> Places:
    """Return the variables that the loop carries which a frame is about to begin."""
    loop = names_in(frame) if frame is not None else None
    known = set() if loop is None else {*loop.own, *loop.shared}
    others = [*_others(frame, known)] if frame is not None else []  # once: there may be thousands of modules

    def places() -> Iterator[tuple[str, Any]]:
        if frame is not None and loop is not None:
            for names, space in ((loop.own, frame.f_locals), (loop.shared, frame.f_globals)):
                yield from ((name, space[name]) for name in names[:_MAX_NAMES] if name in space)
            for module, written in others:
                yield from ((name, vars(module)[name]) for name in written if name in vars(module))

    return places


def _others(frame: FrameType, known: set[str]) -> Iterator[tuple[ModuleType, list[str]]]:
    """Yield the script's own modules but for the one that a frame is of, with the names that their functions write.

    The loop may call these, whoever hands them to it.

    Args:
        known: Names that mean something else already; filled with those that are yielded.
    """
    for module in own_modules():
        written = sorted(written_in(str(module.__file__)) - known)[:_MAX_NAMES]
        if written and vars(module) is not frame.f_globals:
            known.update(written)
            yield module, written


def anew(frame: FrameType | None) -> frozenset[str]:
    """Return the variables that each turn of the loop sets before it uses them which a frame is about to begin."""
    if frame is None:
        return frozenset()
    return frozenset(f"{place_of(frame)} `{name}`" for name in names_in(frame).anew)


def taken(frame: FrameType | None) -> frozenset[str]:
    """Return the names by which the file of a frame takes what it has put into a callback's `state`."""
    return frozenset() if frame is None else taken_in(frame.f_code.co_filename)


def of(objects: Iterable[Any]) -> Places:
    """Return the places of objects that a framework drives, each by the name of its class."""
    kept = {type(one).__name__: one for one in objects}
    return lambda: iter(kept.items())


def loop_frame() -> FrameType | None:
    """Return the innermost frame of the user's own code that waits for this one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith("reprokit.") and is_own_file(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what the script keeps in a value: attributes of its own classes and objects, names of its own modules,
    items of a list of objects, what counts in a metric, and what feeds a loader.
    """
    kind = type(value)
    if isinstance(value, (Namespace, SimpleNamespace)):
        yield from ((f"{name}.{inner}", one) for inner, one in list(vars(value).items()))
    elif isinstance(value, ModuleType):
        if is_own_file(getattr(value, "__file__", None)) and not value.__name__.startswith("reprokit"):
            yield from _named(name, vars(value))
    elif isinstance(value, FunctionType):
        yield from ((f"{name}.{inner}", one) for inner, one in list(vars(value).items()) if not inner.startswith("__"))
        if value.__module__ != "__main__" and is_own_file(value.__code__.co_filename):
            space = value.__globals__
            written = written_in(value.__code__.co_filename)
            yield from ((f"{value.__module__}.{inner}", space[inner]) for inner in sorted(written) if inner in space)
    elif isinstance(value, type):
        if is_own_type(value):
            yield from _named(name, vars(value))
    elif isinstance(value, dict):
        yield from ((f"{name}[{key!r}]", one) for key, one in itertools.islice(list(value.items()), _MAX_PARTS))
    elif isinstance(value, (list, tuple)):
        yield from ((f"{name}[{index}]", one) for index, one in enumerate(value[:_MAX_PARTS]))
    elif is_own_type(kind):
        yield from _attributes(name, value)
    elif kind.__name__.endswith("DataLoader"):
        for part in ("sampler", "batch_sampler", "dataset"):
            inner = getattr(value, "__dict__", {}).get(part)
            if is_own_type(type(inner)) and not hasattr(inner, "state_dict"):
                yield f"{name}.{part}", inner
    elif (counted := _metric(value)) is not None:
        yield name, counted


def _named(name: str, space: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what is no code of the names in a class or module."""
    for inner, one in list(space.items()):
        if not inner.startswith("__") and not isinstance(one, (FunctionType, ModuleType, property, classmethod)):
            yield f"{name}.{inner}", one


def _metric(value: Any) -> list[Any] | None:
    """Return what a metric of Keras or torchmetrics has counted so far; None of anything else."""
    for kind in type(value).__mro__:
        if kind.__name__ == "Metric" and kind.__module__.startswith(("keras.", "torchmetrics.")):
            with contextlib.suppress(Exception):  # a library's own property
                if kind.__module__.startswith("torchmetrics."):
                    return [*value.metric_state.items()]
                return [sys.modules["keras"].ops.convert_to_numpy(one) for one in value.variables]
    return None


def _sample(value: Any, left: int = _MAX_ITEMS) -> Any:
    """Return every n-th element of large arrays and texts, in containers too, with what they are."""
    if isinstance(value, (str, bytes, bytearray)):
        return value[:: max(1, len(value) // _SAMPLED)]
    if isinstance(value, dict):
        return [*map(str, value), _sample([*value.values()], left)]
    if isinstance(value, (list, tuple)):
        return [_sample(item, left - len(value)) for item in value] if len(value) <= left else len(value)
    shape = getattr(value, "shape", None)
    if not shape:
        return value
    step = max(1, math.prod(shape) // _SAMPLED)
    part = value.flat[::step] if hasattr(value, "flat") else value.detach().flatten()[::step]
    return [str(value.dtype), [*shape], part]


def _attributes(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield those attributes of an object that its class's file speaks of; a library's base class has others."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return
    known = attributes_in(str(getattr(sys.modules.get(type(value).__module__), "__file__", "")))
    for attribute, inner in list(attributes.items()):
        if attribute in known:
            yield f"{name}.{attribute}", inner


def _size(value: Any, left: int = _MAX_ITEMS) -> int:
    """Return the bytes of a value's text and arrays; more than allowed if it has too many parts."""
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    if isinstance(value, dict):
        return _size([*value.values()], left)
    if isinstance(value, (list, tuple, set, frozenset)):
        if len(value) > left:
            return _MAX_BYTES + 1
        return sum(_size(item, left - len(value)) for item in value)
    size = getattr(value, "nbytes", 0)
    return size if isinstance(size, int) else 0


def _is_clock(value: Any) -> bool:
    """True for a time of day since this process began, which no resumed run can have again."""
    if type(value) not in (int, float):
        return False
    return bool(_BEGAN <= value <= time.time() or _BEGAN * 1e9 <= value <= time.time_ns())


def _is_iterator(value: Any) -> bool:
    """True for what gives its items once: a generator, `iter(…)`, `zip`, `itertools.cycle`; not for an open file."""
    kind = type(value)
    if isinstance(value, GeneratorType):
        frame = value.gi_frame
        return frame is not None and not str(frame.f_globals.get("__name__", "")).startswith("reprokit.")
    known = kind.__module__ in ("builtins", "itertools") or kind.__name__.endswith("DataLoaderIter")
    return known and hasattr(kind, "__next__")
