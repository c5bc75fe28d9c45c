"""Scikit-learn estimators as joblib files, without what is no state of theirs."""

from __future__ import annotations

import io
from typing import Any

from joblib.numpy_pickle import NumpyPickler

from reprokit.client.frameworks.sklearn import NO_STATE, is_no_state

__all__ = ["dump_joblib"]


def dump_joblib(estimator: Any) -> bytes:
    """Return what `joblib.dump` writes, with None for attributes that are addresses or caches."""
    out = io.BytesIO()
    _Pickler(out).dump(estimator)
    return out.getvalue()


class _Pickler(NumpyPickler):  # type: ignore[misc]
    def reducer_override(self, thing: Any) -> Any:
        held = getattr(thing, "__dict__", None)
        if isinstance(thing, type) or not isinstance(held, dict) or NO_STATE.keys().isdisjoint(held):
            return NotImplemented
        reduced = thing.__reduce_ex__(self.proto)
        if not isinstance(reduced, tuple) or len(reduced) < 3 or not isinstance(reduced[2], dict):
            return reduced  # a class that says itself what it is made of
        made, arguments, state, *more = reduced
        module = type(thing).__module__
        return made, arguments, {k: None if is_no_state(k, module) else v for k, v in state.items()}, *more
