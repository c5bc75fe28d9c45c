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
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType, GeneratorType
from typing import Any

from reprokit.client.probe.digests import UnreadableError, digest, is_generator, is_plain
from reprokit.client.probe.loop_source import attributes_in, names_in
from reprokit.client.probe.places import is_own_file, is_own_type

__all__ = ["Carried", "around", "of"]

_MAX_NAMES = 200
_MAX_PLACES = 5000
_MAX_BYTES = 1 << 20  # of a value; what is larger is data
_MAX_TOTAL = 8 << 20
_MAX_ITEMS = 100_000  # of all containers in a value
_ITERATOR = "iterator"

Places = Callable[[], Iterator[tuple[str, Any]]]


class Carried:
    """The variables of one training.

    Args:
        places: Gives (name, value) of what may be carried, each time that it is called.
        held: What the callback was given, which it saves itself.
    """

    def __init__(self, places: Places = lambda: iter(()), held: Iterable[Any] = ()) -> None:
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

    def lost(self, expected: Mapping[str, str]) -> list[str]:
        """Return the names that do not hold what they held when the restored checkpoint was saved.

        Args:
            expected: What `moved` returned then.
        """
        self._expected = expected
        now = dict(self._values())
        return [name for name in expected if now.get(name) != expected[name] or expected[name] == _ITERATOR]

    def _values(self) -> Iterator[tuple[str, str]]:
        left = _MAX_TOTAL
        for name, value in itertools.islice(self._inside(), _MAX_PLACES):
            if id(value) in self._held:
                continue
            if _is_iterator(value):
                yield name, _ITERATOR
            elif is_generator(value) or (is_plain(value) and (size := _size(value)) <= min(left, _MAX_BYTES)):
                left -= 0 if is_generator(value) else size
                with contextlib.suppress(UnreadableError):
                    yield name, digest(value)

    def _inside(self) -> Iterator[tuple[str, Any]]:
        """Yield the places, and the attributes of objects of the script's own classes, those that feed a loader too."""
        for name, value in self._places():
            yield name, value
            if is_own_type(type(value)) and not self._saves_itself(value):
                yield from _attributes(name, value)
            if type(value).__name__.endswith("DataLoader"):
                for part in ("sampler", "batch_sampler", "dataset"):
                    inner = getattr(value, "__dict__", {}).get(part)
                    if is_own_type(type(inner)) and not hasattr(inner, "state_dict"):
                        yield from _attributes(f"{name}.{part}", inner)

    def _saves_itself(self, value: Any) -> bool:
        """True for what the callback was given and has a state of its own; Python attributes of modules are in none."""
        return id(value) in self._held and hasattr(value, "state_dict") and not hasattr(value, "parameters")


def around(frame: FrameType | None) -> Places:
    """Return the variables that the loop carries which a frame is about to begin."""
    inner, outer = names_in(frame) if frame is not None else ([], [])

    def places() -> Iterator[tuple[str, Any]]:
        if frame is not None:
            for names, space in ((inner, frame.f_locals), (outer, frame.f_globals)):
                yield from ((name, space[name]) for name in names[:_MAX_NAMES] if name in space)

    return places


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


def _is_iterator(value: Any) -> bool:
    """True for what gives its items once: a generator, `iter(…)`, `zip`, `itertools.cycle`; not for an open file."""
    kind = type(value)
    if isinstance(value, GeneratorType):
        frame = value.gi_frame
        return frame is not None and not str(frame.f_globals.get("__name__", "")).startswith("reprokit.")
    known = kind.__module__ in ("builtins", "itertools") or kind.__name__.endswith("DataLoaderIter")
    return known and hasattr(kind, "__next__")
