"""A restored scikit-learn estimator into the objects that the script has made, and may hold."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["put_back"]

_CODE = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type, np.ufunc)


def put_back(live: Any, stored: Any, *, draws_from: dict[str, Any] | None = None) -> None:
    """Give the script's own estimator, or several by name, the state of a stored one.

    Objects that the script may hold stay the same ones: the steps of a pipeline, a RandomState, lists.

    Args:
        draws_from: The state of NumPy's global generator, if the estimator drew from that one itself; it does again.
    """
    _Merge(draws_from).run(live, stored)


class _Merge:
    """First finds which of the script's objects stand for which stored ones, then fills them."""

    def __init__(self, draws_from: dict[str, Any] | None) -> None:
        self._global = draws_from
        self._stands: dict[int, Any] = {}  # id of a stored object → the script's
        self._taken: set[int] = set()
        self._done: dict[int, tuple[Any, Any]] = {}  # id of a stored object → what stands for it, and itself

    def run(self, live: Any, stored: Any) -> None:
        self._match(live, stored)
        self._filled(stored)

    def _match(self, old: Any, new: Any) -> None:
        if type(old) is not type(new) or id(new) in self._stands or id(old) in self._taken:
            return
        if type(new) is tuple:
            pairs = list(zip(old, new, strict=False))
        elif isinstance(new, (np.random.RandomState, np.random.Generator, list, dict)) or _has_attributes(new):
            self._stands[id(new)] = old
            self._taken.add(id(old))
            before, after = _parts(old), _parts(new)
            pairs = [(before[key], after[key]) for key in before if key in after]
        else:
            return
        for one, other in pairs:
            self._match(one, other)

    def _filled(self, new: Any) -> Any:
        """Return what stands for a stored object, with its state."""
        if id(new) in self._done:
            return self._done[id(new)][0]
        target = self._stands.get(id(new), new)
        if isinstance(new, np.random.RandomState):
            state = new.get_state(legacy=False)
            if self._global is not None and _same(state, self._global):
                target = check_random_state(None)  # the global one, which scikit-learn draws from
            target.set_state(state)
        self._done[id(new)] = (target, new)
        if isinstance(new, np.random.Generator):
            target.bit_generator.state = new.bit_generator.state
        elif isinstance(new, list):
            target[:] = [self._filled(item) for item in new]
        elif isinstance(new, dict):
            _fill(target, {key: self._filled(item) for key, item in new.items()})
        elif type(new) is tuple:
            target = tuple(self._filled(item) for item in new)
            self._done[id(new)] = (target, new)
        elif isinstance(new, np.ndarray):
            for place in np.ndindex(new.shape) if new.dtype == object else ():
                new[place] = self._filled(new[place])
        elif _has_attributes(new):
            values = {key: self._filled(item) for key, item in list(vars(new).items())}
            if "memory" in vars(target):  # where a pipeline caches is a place on this machine, no state of the model
                values["memory"] = target.memory
            _fill(vars(target), values)
        return target


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(np.array_equal(one, other))


def _has_attributes(thing: Any) -> bool:
    return isinstance(getattr(thing, "__dict__", None), dict) and not isinstance(thing, (*_CODE, np.ndarray))


def _parts(thing: Any) -> dict[Any, Any]:
    if isinstance(thing, (list, dict)):
        return dict(thing) if isinstance(thing, dict) else dict(enumerate(thing))
    return dict(vars(thing)) if _has_attributes(thing) else {}


def _fill(target: dict[Any, Any], values: dict[Any, Any]) -> None:
    target.clear()
    target.update(values)
