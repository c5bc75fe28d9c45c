"""Where the user's script keeps things: its modules' and its running functions' variables, and what hangs on them.

Every object found has the name that a person would give it, such as ``train.py main() `trainer.scheduler` ``.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import operator
import os
import sys
import types
from argparse import Namespace
from collections import deque
from collections.abc import Container, Iterable, Iterator
from pathlib import PurePath
from typing import Any, NamedTuple

from reprokit.client.probe.digests import global_generators, is_generator, is_plain

__all__ = [
    "Found",
    "Living",
    "Objects",
    "callbacks_in_use",
    "generators_in",
    "is_own_file",
    "is_own_type",
    "place_of",
    "search",
]

_MAX_DEPTH = 8
_MAX_OBJECTS = 50_000
_MAX_ITEMS = 1000
_MAX_SEEN = 10_000  # objects that are looked through for generators
_LIBRARIES = (
    f"{os.sep}site-packages{os.sep}",
    f"{os.sep}dist-packages{os.sep}",
    f"{PurePath(os.__file__).parent}{os.sep}",
)
_LEAVES = (type(None), bool, int, float, complex, str, bytes, types.ModuleType, types.BuiltinFunctionType)
_ITERATORS: tuple[type, ...] = (
    type(iter([])),
    type(iter(())),
    type(iter(range(0))),
    type(reversed([])),
    type(iter({})),
    type(iter(set())),
)
_FOREIGN = ("reprokit.", "logging", "threading", "_thread", "_io", "concurrent.", "multiprocessing.", "socket", "click")


Objects = list[tuple[str, Any]]


class Found(NamedTuple):
    """What hangs on the user's variables.

    Attributes:
        objects: (name, object), each object once, under its first and shortest name.
        plain: Numbers, text, arrays and containers of them, by name.
    """

    objects: Objects
    plain: dict[str, Any]


def search() -> Found:
    """Look through the variables of the user's modules, then of the functions that are running, outermost first."""
    found = Found([], {})
    walk = _Walk(found)
    for module in own_modules():
        file = PurePath(str(module.__file__)).name
        walk.start(file, vars(module))
    for frame in _own_frames():
        if frame.f_code.co_name != "<module>":
            walk.start(place_of(frame), frame.f_locals)
    walk.finish()
    for thing in _held_elsewhere(walk):
        walk.start(
            PurePath(str(getattr(sys.modules.get(type(thing).__module__), "__file__", ""))).name,
            {f"{type(thing).__qualname__}(…)": thing},
        )
    walk.finish()
    return found


def place_of(frame: types.FrameType) -> str:
    """Return what stands before the names of a frame's variables: `train.py`, `train.py main()`."""
    name = PurePath(frame.f_code.co_filename).name
    return name if frame.f_code.co_name == "<module>" else f"{name} {frame.f_code.co_name}()"


def generators_in(values: Iterable[tuple[str, Any]], held: Container[int]) -> Iterator[tuple[str, Any]]:
    """Yield (name, generator) of the random generators that hang on values by name, whoever's class they are of.

    Args:
        held: What is looked at elsewhere, by `id()`.
    """
    known = {id(one) for one in global_generators()}
    seen: set[int] = set()
    queue = deque((name, value, 0) for name, value in values)
    while queue and len(seen) < _MAX_SEEN:
        path, one, depth = queue.popleft()
        if isinstance(one, _LEAVES) or id(one) in seen or id(one) in held or _is_foreign(one):
            continue
        seen.add(id(one))
        if is_generator(one):
            if id(one) not in known:
                yield path, one
        elif depth < _MAX_DEPTH and not is_plain(one):
            with contextlib.suppress(Exception):  # a proxy of the user's may raise whatever it is asked
                queue.extend((path + inner_path, inner, depth + 1) for inner_path, inner, _ in _inside(one))


def _held_elsewhere(walk: _Walk) -> list[Any]:
    """Return the living objects of the user's classes that no variable leads to: callbacks that a framework holds.

    Of a class that has several, none could be told from another, so that they are left out.
    """
    by_type: dict[type, list[Any]] = {}
    for thing in gc.get_objects():
        by_type.setdefault(type(thing), []).append(thing)
    own = [things for kind, things in by_type.items() if is_own_type(kind)]
    unseen = [[thing for thing in things if not walk.has_seen(thing)] for things in own]
    return [things[0] for things in unseen if len(things) == 1]


def callbacks_in_use() -> list[Any]:
    """Return reprokit's own objects that are at work now: those whose methods are running."""
    found: list[Any] = []
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        own = frame.f_locals.get("self")
        if (
            name.startswith(("reprokit.callbacks.", "reprokit.client.loop"))
            and own is not None
            and all(own is not other for other in found)
        ):
            found.append(own)
        frame = frame.f_back
    return found


def is_own_file(file: object) -> bool:
    """True for a file of the user's, which no environment and no standard library brought."""
    return isinstance(file, str) and not file.startswith("<") and not any(part in file for part in _LIBRARIES)


def own_modules() -> Iterator[types.ModuleType]:
    main = sys.modules.get("__main__")
    modules = [main] + [module for name, module in sorted(sys.modules.items()) if not name.startswith("reprokit")]
    for module in dict.fromkeys(modules):
        if not isinstance(module, types.ModuleType) or module.__name__ == "sitecustomize":
            continue
        file = str(getattr(module, "__file__", None))
        if is_own_file(file) and PurePath(file).is_absolute() and file.endswith(".py"):  # torch.ops says "_ops.py"
            yield module


def _own_frames() -> list[types.FrameType]:
    found: list[types.FrameType] = []
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        ours = str(frame.f_globals.get("__name__", "")).startswith("reprokit")
        if not ours and is_own_file(frame.f_code.co_filename):
            found.append(frame)
        frame = frame.f_back
    return found[::-1]


class _Walk:
    """Breadth first, so that the shortest name is found first."""

    def __init__(self, found: Found) -> None:
        self._found = found
        self._seen: set[int] = set()
        self._kept: list[Any] = []
        self._queue: deque[tuple[str, str, Any, int, bool]] = deque()

    def start(self, where: str, variables: dict[str, Any]) -> None:
        for name, value in list(variables.items()):
            if not name.startswith("__") and name != "_":
                self._queue.append((where, name, value, 0, True))

    def has_seen(self, value: Any) -> bool:
        return id(value) in self._seen

    def finish(self) -> None:
        while self._queue and len(self._seen) < _MAX_OBJECTS:
            with contextlib.suppress(Exception):  # a proxy of the user's may raise whatever it is asked
                self._visit(*self._queue.popleft())

    def _visit(self, where: str, name: str, value: Any, depth: int, own: bool) -> None:
        place = _place_of(value)
        if place is not None or (is_plain(value) and not _is_parameter(value)):
            if own:
                self._found.plain.setdefault(f"{where} `{name}`", value if place is None else place)
            return
        if isinstance(value, _LEAVES) or id(value) in self._seen or _is_foreign(value):
            return
        self._seen.add(id(value))
        self._kept.append(value)
        self._found.objects.append((f"{where} `{name}`", value))
        if depth < _MAX_DEPTH and not is_generator(value):
            for path, inner, inner_own in _inside(value):
                self._queue.append((where, name + path, inner, depth + 1, inner_own))


def _place_of(value: Any) -> tuple[Any, ...] | None:
    """Return where an iterator over plain values stands, moving nothing; None for anything else."""
    if isinstance(value, itertools.count):
        return ("count", repr(value))
    if isinstance(value, _ITERATORS):
        return (type(value).__name__, operator.length_hint(value, -1))
    return None


def _is_foreign(value: Any) -> bool:
    return f"{type(value).__module__}.".startswith(_FOREIGN)


def _is_parameter(value: Any) -> bool:
    """True for a tensor that belongs to something which is looked at as a whole."""
    return type(value).__name__ in ("Parameter", "Buffer", "UninitializedParameter")


def _inside(value: Any) -> Iterator[tuple[str, Any, bool]]:
    """Yield (path, object, whether it is the user's own variable) of what a value holds, running none of its code."""
    if isinstance(value, dict):
        for key, item in list(value.items())[:_MAX_ITEMS]:
            yield f"[{key!r}]", item, True
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        for index, item in enumerate(list(value)[:_MAX_ITEMS]):
            yield f"[{index}]", item, True
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func, False), (".args", value.args, False), (".keywords", value.keywords, False))
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__, False
    elif isinstance(value, types.FunctionType):
        if is_own_file(value.__code__.co_filename):
            yield from _enclosed(value)
    elif isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        if frame is not None and is_own_file(frame.f_code.co_filename):
            yield "", (value.gi_code.co_name, frame.f_lasti), True  # where it stands
            yield from ((f".{name}", item, True) for name, item in list(frame.f_locals.items()))
    elif isinstance(value, type):
        if is_own_type(value):
            yield from (
                (f".{name}", item, True) for name, item in list(vars(value).items()) if not name.startswith("__")
            )
    else:
        yield from _attributes(value)


def _enclosed(function: types.FunctionType) -> Iterator[tuple[str, Any, bool]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f".{name}", cell.cell_contents, True
        except ValueError:  # not assigned yet
            continue
    for index, item in enumerate(function.__defaults__ or ()):
        yield f".__defaults__[{index}]", item, True


def is_own_type(kind: type) -> bool:
    """True for a class that such a file defines."""
    module = sys.modules.get(str(kind.__module__))
    return is_own_file(getattr(module, "__file__", None)) and not str(kind.__module__).startswith("reprokit")


def _attributes(value: Any) -> Iterator[tuple[str, Any, bool]]:
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return
    if not isinstance(attributes, dict):
        return
    own = is_own_type(type(value)) or isinstance(value, (Namespace, types.SimpleNamespace))
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.nn.Module):
        internal = vars(torch.nn.Module())
        yield from ((f".{name}", item, False) for name, item in list(value._modules.items()))
        if not own:
            return
        attributes = {name: item for name, item in attributes.items() if name not in internal}
    for name, item in list(attributes.items()):
        public = not name.startswith("_") or is_generator(item)  # an environment's `_np_random`
        if (own and not name.startswith("_self_")) or public:  # TensorFlow tracks in `_self_…`
            yield f".{name}", item, own


class Living:
    """All objects that are alive, whether a variable of the user's leads to them or not."""

    def __init__(self) -> None:
        self._by_type: dict[type, list[Any]] = {}
        for thing in gc.get_objects():
            self._by_type.setdefault(type(thing), []).append(thing)

    def of(self, kind: type) -> list[Any]:
        """Return those of a class and its subclasses."""
        return [thing for type_, things in self._by_type.items() if issubclass(type_, kind) for thing in things]
