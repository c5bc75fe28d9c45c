"""An unpickler that makes arrays, plain containers and the types that the caller names; nothing else exists for it.

It reads what pickle and joblib write, without joblib, which reads arrays of objects with `pickle.load`. Nothing is
called but by `_call`, and no state is given but by `load_build`; what would take memory or time out of proportion to
the file is refused. A named type runs its own code: name only types whose code may meet whatever a stranger passes it.
"""

from __future__ import annotations

import codecs
import collections
import copyreg
import importlib
import io
import pickle
from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar

import numpy as np

from reprokit.checkpoint.safe_pickle.arrays import (
    MalformedPickle,
    PendingDtype,
    count_of,
    dtype_of,
    empty_array,
    fill,
    from_buffer,
    pending_dtype,
    ready,
    scalar,
    told,
)

__all__ = ["Restricted"]

_SLACK = 64 * 1024 * 1024
_COPIES = 16  # times its own length that a file may have copied by its instructions
_KEY_NODES = 1000
_KEY_LIMIT = 2**61 - 1  # integers from here on share their hashes with smaller ones
_DEPTH = 16
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_OWN = (*_PLAIN, list, tuple, dict, set, frozenset, bytearray, collections.OrderedDict)
_SINGLE = (*_PLAIN, bytearray)
_MANY = (list, tuple, dict, set, frozenset, collections.OrderedDict)
_ENCODINGS = ("latin1", "latin-1", "utf-8", "ascii")
_CONTAINERS: dict[str, Any] = {
    f"builtins.{kind.__name__}": kind
    for kind in (object, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, slice)
} | {
    "builtins.long": int,  # as protocols up to 2 call them, which PyTorch writes
    "builtins.unicode": str,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
}
_SCALARS: dict[str, Any] = {
    f"numpy.{name}": getattr(np, name)
    for name in (
        "bool", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
        "float16", "float32", "float64", "longdouble", "complex64", "complex128",
    )
    if hasattr(np, name)
}  # fmt: skip
_RECONSTRUCTOR: Any = copyreg._reconstructor  # type: ignore[attr-defined]


class _Inert:
    """What stands for everything that was not named, until the whole file has been looked through."""

    def __init__(self, *_: object, **__: object) -> None: ...


class _Note:
    """joblib's note that an array's bytes follow."""


_ARRAYS: dict[str, Any] = {
    "numpy.ndarray": np.ndarray,
    "numpy.memmap": np.memmap,
    "numpy.dtype": np.dtype,
    "_codecs.encode": codecs.encode,
    "copyreg._reconstructor": _RECONSTRUCTOR,
    "joblib.numpy_pickle.NumpyArrayWrapper": _Note,
} | {
    f"numpy.{core}.{name}": stands
    for core in ("core", "_core")
    for name, stands in (
        ("multiarray._reconstruct", empty_array),
        ("multiarray.scalar", scalar),
        ("numeric._frombuffer", from_buffer),
    )
}
# the one written in Python, each of whose instructions can be replaced
_Base: Any = pickle._Unpickler


class Restricted(_Base):  # type: ignore[misc]
    """Unpickles `data`.

    Args:
        named: Full names of types that exist.
        storages: References to something outside, as `.pt` files have them to their storages, are let pass.

    Attributes:
        unnamed: Full names that the file asked for and that were not among `named`; with any, its result is void.
    """

    dispatch: ClassVar[dict[int, Any]] = dict(_Base.dispatch)

    def __init__(
        self, data: bytes, named: Collection[str], *, storages: bool = False, outer: Restricted | None = None
    ) -> None:
        self._data = data
        self._storages = storages
        self._root: Restricted = outer._root if outer is not None else self
        self._source: io.BytesIO = outer._source if outer is not None else io.BytesIO(data)
        super().__init__(self._source)
        self._named = named
        self._depth: int = outer._depth + 1 if outer is not None else 0
        self._found: dict[int, Any] = {}  # what was named, by `id()`
        self._left = _SLACK + _COPIES * len(data)
        self.unnamed: set[str] = set()
        self._makers: dict[int, Callable[..., Any]] = {
            id(empty_array): empty_array,
            id(scalar): self._scalar,
            id(from_buffer): self._from_buffer,
            id(np.dtype): pending_dtype,
            id(_Note): _Note,
            id(codecs.encode): self._encode,
            id(_RECONSTRUCTOR): self._reconstructor,
            id(collections.defaultdict): self._defaultdict,
        }
        if self._depth > _DEPTH:
            raise MalformedPickle("arrays of objects nest too deeply")

    # what a name means

    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        full = f"{module}.{name}"
        for known in (_CONTAINERS, _SCALARS, _ARRAYS):
            if full in known:
                return known[full]
        if full not in self._named:
            self._root.unnamed.add(full)
            return _Inert
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        self._root._found[id(found)] = found
        return found

    def _is_named(self, thing: Any) -> bool:
        return id(thing) in self._root._found

    def persistent_load(self, pid: Any) -> Any:
        if not self._storages or type(pid) is not tuple:
            raise MalformedPickle(f"it refers to something outside: {told(pid)}")
        return _Inert()

    def load_ext(self, *_: object) -> None:
        raise MalformedPickle("it uses the extension registry")

    dispatch[pickle.EXT1[0]] = dispatch[pickle.EXT2[0]] = dispatch[pickle.EXT4[0]] = load_ext

    # calls

    def _call(self, made: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
        """Return what calling something that `find_class` gave returns; nothing else is called."""
        if type(args) is not tuple:
            raise MalformedPickle("it passes what are no arguments")
        if made is _Inert:
            return _Inert()
        if id(made) in self._makers:
            return self._makers[id(made)](*args)
        if any(made is kind for kind in _CONTAINERS.values()):
            return self._container(made, args)
        if any(made is kind for kind in _SCALARS.values()) and all(type(a) in _PLAIN for a in args):
            return made(*args)
        if self._is_named(made):
            return made(*args, **(kwargs or {}))
        raise MalformedPickle(f"it calls {told(made)}")

    def _new(self, kind: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if isinstance(kind, type) and self._is_named(kind) and type(args) is tuple:
            return kind.__new__(kind, *args, **kwargs)
        return self._call(kind, args)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], args)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._new(self.stack[-1], args, {})

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        kwargs = self.stack.pop()
        args = self.stack.pop()
        if type(kwargs) is not dict:
            raise MalformedPickle("it passes what are no arguments")
        self.stack[-1] = self._new(self.stack[-1], args, kwargs)

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def _instantiate(self, klass: Any, args: Any) -> None:  # OBJ and INST, of protocol 0
        self.append(self._call(klass, tuple(args)))

    def _container(self, kind: Any, args: tuple[Any, ...]) -> Any:
        single = kind not in _MANY
        for value in args:
            self._spend(len(value) if hasattr(value, "__len__") else 1)
            if type(value) not in (_SINGLE if single else _OWN):  # str() of a list that shares its parts never ends
                raise MalformedPickle(f"it makes a {kind.__name__} of a {type(value).__name__}")
        if kind in (bytes, bytearray) and args and not isinstance(args[0], bytes | bytearray | str):
            raise MalformedPickle(f"it makes {kind.__name__} of a number")  # as many zeros
        if kind in (str, bytes, bytearray) and not all(encoding in _ENCODINGS for encoding in args[1:]):
            raise MalformedPickle("it uses an encoding that is not plain")
        if kind in (dict, collections.OrderedDict) and args and not isinstance(args[0], dict):
            args = ([(_hashable(key), value) for key, value in args[0]],)
        elif kind in (set, frozenset):
            args = tuple(_all_hashable(value) for value in args)
        return kind(*args)

    def _defaultdict(self, factory: Any = None, *args: Any) -> Any:
        known = factory is None or factory is _Inert or self._is_named(factory)
        if not known and not any(factory is kind for kind in _CONTAINERS.values()):
            raise MalformedPickle("a defaultdict has a factory that is no type")
        return collections.defaultdict(factory, *[self._container(dict, (value,)) for value in args])

    def _encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in _ENCODINGS[:2]:
            raise MalformedPickle("it encodes something that is not bytes")
        self._spend(len(text))
        return text.encode("latin1")

    def _reconstructor(self, kind: Any, base: Any, state: Any) -> Any:
        if kind is _Inert or kind is _Note:
            return kind()
        if not self._is_named(kind) or base not in (object, dict, list, tuple, int, float, str):
            raise MalformedPickle(f"it makes a {told(kind)}")
        if base is object:
            return object.__new__(kind)
        value = self._container(base, (state,))
        made = base.__new__(kind, value)
        if base.__init__ != object.__init__:  # a list and a dict are filled by it
            base.__init__(made, value)
        return made

    def _scalar(self, dtype: Any, raw: Any) -> Any:
        self._spend(len(raw))
        return scalar(dtype, raw)

    def _from_buffer(self, raw: Any, *rest: Any) -> Any:
        if not isinstance(raw, bytes | bytearray):
            raise MalformedPickle("an array has no bytes")
        self._spend(len(raw))
        return from_buffer(raw, *rest)

    # state

    def load_build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, _Inert) or made is _Inert:
            return
        if isinstance(made, PendingDtype):
            self._replace(made, dtype_of(made, state))
        elif isinstance(made, _Note):
            self._replace(made, self._array_that_follows(state))
        elif type(made) is np.ndarray:
            self._spend(fill(made, state, len(self._data)))
        elif isinstance(made, (type, np.generic, np.dtype, *_PLAIN)):
            raise MalformedPickle(f"it gives a state to a {type(made).__name__}")
        elif callable(made) and not self._is_named(type(made)):  # a function, whose attributes are everybody's
            raise MalformedPickle(f"it gives a state to {told(made)}")
        else:
            self.stack.append(state)
            super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    def _replace(self, before: Any, now: Any) -> None:
        self.stack[-1] = now
        for key in reversed(self.memo):  # it was noted a moment ago
            if self.memo[key] is before:
                self.memo[key] = now
                return

    def _array_that_follows(self, state: Any) -> Any:
        """Return an array from the bytes after joblib's note; of objects, from a pickle there."""
        if type(state) is not dict or state.get("subclass") not in (np.ndarray, np.memmap):
            raise MalformedPickle("joblib's note of an array is malformed")
        dtype = ready(state.get("dtype"))
        if dtype.hasobject:
            found = Restricted(self._data, self._named, outer=self).load()
            if not isinstance(found, np.ndarray | _Inert):
                raise MalformedPickle("an array of objects is none")
            return found
        if state.get("numpy_array_alignment_bytes") is not None:
            (padding,) = self._source.read(1)
            self._source.read(padding)
        start = self._source.tell()
        size = count_of(state.get("shape"), len(self._data)) * dtype.itemsize
        raw = memoryview(self._data)[start : start + size]
        self._source.seek(start + len(raw))
        return from_buffer(raw, dtype, state["shape"], state.get("order"))

    # containers

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], [key, value])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _put(self.stack[-1], items)

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        found: dict[Any, Any] = {}
        _put(found, self.pop_mark())
        self.append(found)

    dispatch[pickle.DICT[0]] = load_dict

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._extend(self.stack[-1], items)

    dispatch[pickle.APPENDS[0]] = load_appends

    def load_append(self) -> None:
        item = self.stack.pop()
        self._extend(self.stack[-1], [item])

    dispatch[pickle.APPEND[0]] = load_append

    def _extend(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, list) or self._is_named(type(target)):
            target.extend(items)
        elif not isinstance(target, _Inert):
            raise MalformedPickle(f"it appends to a {type(target).__name__}")

    def load_additems(self) -> None:
        items = _all_hashable(self.pop_mark())
        if type(self.stack[-1]) is not set:
            raise MalformedPickle(f"it adds to a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(items)

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        items = _all_hashable(self.pop_mark())
        self.append(frozenset(items))

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        if size > len(self._data):
            raise MalformedPickle(f"it claims {size:,} bytes, and has {len(self._data):,}")
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def _spend(self, count: int) -> None:
        self._root._left -= count
        if self._root._left < 0:
            raise MalformedPickle("it copies the same over and over")


def _put(target: Any, items: list[Any]) -> None:
    if len(items) % 2:
        raise MalformedPickle("a key has no value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(target, _Inert):
            target[_hashable(key)] = value


def _all_hashable(keys: Iterable[Any]) -> list[Any]:
    return [_hashable(key) for key in keys]


def _hashable(key: Any) -> Any:
    """Return a key; refuse what takes long to hash: tuples that share their parts, integers of equal hashes."""
    pending, count = [key], 0
    while pending:
        part = pending.pop()
        count += 1
        if isinstance(part, tuple):
            pending.extend(part)
        if count > _KEY_NODES or (type(part) is int and abs(part) >= _KEY_LIMIT):
            raise MalformedPickle("a key is too large")
    return key
