"""Digests of live values: what a variable, a generator, a tensor or an estimator holds, told to another process.

Nothing is changed by looking: no random number is drawn, no iterator moved, no property of the user's called.
"""

from __future__ import annotations

import hashlib
import random
import struct
import sys
import types
from collections import deque
from collections.abc import Iterable
from typing import Any

from reprokit.client import rng
from reprokit.client.frameworks.sklearn import is_no_state

__all__ = ["UnreadableError", "digest", "global_generators", "is_generator", "is_plain", "shown", "tensor_bytes"]

_MAX_DEPTH = 40
_MAX_ITEMS = 100_000
_MAX_BYTES = 64 * 1024 * 1024  # of a plain variable: beyond, it is data and no counter
_PLAIN = (bool, int, float, complex, str, bytes, bytearray, type(None))
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)


class UnreadableError(Exception):
    """A value that has no digest here: too large, too deep, or of a kind whose state cannot be read."""


def digest(value: Any) -> str:
    """Return the digest of a value and everything in it: numbers, text, containers, arrays, tensors, generators,
    and objects by what they would be pickled as (which is done by nobody here).

    Raises:
        UnreadableError: It cannot be told.
    """
    hasher = _Hasher()
    try:
        hasher.feed(value, 0)
    except UnreadableError:
        raise
    except Exception as error:  # noqa: BLE001 - the user's own __reduce_ex__ may raise anything
        raise UnreadableError(f"{type(value).__qualname__}: {error}") from None
    return hasher.hexdigest()


def is_plain(value: Any, _depth: int = 0) -> bool:
    """True for numbers, text, arrays and tensors, and containers of them, that are not too large to be looked at."""
    if isinstance(value, _PLAIN):
        return True
    if isinstance(value, _CONTAINERS):
        if _depth > 4 or len(value) > _MAX_ITEMS:
            return False
        items: Iterable[Any] = [*value, *value.values()] if isinstance(value, dict) else value
        return all(is_plain(item, _depth + 1) for item in items)
    return _nbytes(value) is not None


def shown(value: Any) -> str | None:
    """Return a number or a short text as people write it; None for what is too large to show."""
    if isinstance(value, (bool, int, float, str)):
        text = f"{value:.6g}" if isinstance(value, float) else repr(value)
        return text if len(text) <= 40 else None
    if isinstance(value, (list, tuple, deque, dict, set)):
        return f"{len(value)} items"
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return f"{value.item():.6g}" if isinstance(value.item(), float) else repr(value.item())
    return None


def is_generator(value: Any) -> bool:
    """True for a random generator that the user may hold: of Python, NumPy or torch."""
    numpy, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    return (
        (isinstance(value, random.Random) and type(value) is not random.SystemRandom)
        or (numpy is not None and isinstance(value, (numpy.Generator, numpy.RandomState)))
        or (torch is not None and isinstance(value, torch.Generator))
    )


def global_generators() -> list[Any]:
    """Return those of Python, NumPy and torch that whoever has none of his own draws from."""
    numpy, torch = sys.modules.get("numpy.random"), sys.modules.get("torch")
    found = [getattr(random, "_inst", None), getattr(getattr(numpy, "mtrand", None), "_rand", None)]
    return [one for one in (*found, getattr(torch, "default_generator", None)) if one is not None]


def _nbytes(value: Any) -> int | None:
    """Return the size of an array or tensor with readable values, None for anything else and for large ones."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    size: int | None = None
    if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)):
        size = None if value.dtype.hasobject else int(value.nbytes)
    elif torch is not None and isinstance(value, torch.Tensor):
        size = int(value.numel() * value.element_size()) if value.layout == torch.strided else None
    return size if size is not None and size <= _MAX_BYTES else None


class _Hasher:
    """One digest in the making. Every value is preceded by its kind and length, so that no two read alike."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._seen: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no id is used twice while this lives

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def feed(self, value: Any, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise UnreadableError("nested too deeply")
        if isinstance(value, _PLAIN):
            self._feed_plain(value)
        elif self._feed_array(value) or self._feed_known(value):
            return
        elif id(value) in self._seen:
            self._add(b"again", str(self._seen[id(value)]).encode())
        else:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
            self._feed_inside(value, depth)

    def _feed_plain(self, value: Any) -> None:
        if isinstance(value, float):
            self._add(b"float", struct.pack("<d", value))  # every bit, and NaN is like itself
        elif isinstance(value, complex):
            self._add(b"complex", struct.pack("<dd", value.real, value.imag))
        elif isinstance(value, (bytes, bytearray)):
            self._add(b"bytes", bytes(value))
        else:
            self._add(type(value).__name__.encode(), str(value).encode("utf-8", "surrogatepass"))

    def _feed_array(self, value: Any) -> bool:
        numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            self._add(b"tensor", f"{value.dtype} {tuple(value.shape)}".encode())
            self._hash.update(tensor_bytes(value))
            return True
        if numpy is not None and isinstance(value, (numpy.ndarray, numpy.generic)) and not value.dtype.hasobject:
            self._add(b"array", f"{value.dtype.str} {value.shape}".encode())
            self._hash.update(value.tobytes())
            return True
        if type(value).__module__.startswith(("tensorflow.", "keras.")) and hasattr(value, "numpy"):
            self.feed(value.numpy(), 0)
            return True
        return False

    def _feed_known(self, value: Any) -> bool:
        """Feed generators, and what stands for code: by name."""
        if is_generator(value):
            self._add(b"generator", type(value).__qualname__.encode())
            self.feed(generator_state(value), 0)
            return True
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)):
            name = getattr(value, "__qualname__", value.__name__)
            self._add(b"code", f"{getattr(value, '__module__', '')}.{name}".encode())
            return True
        return False

    def _feed_inside(self, value: Any, depth: int) -> None:
        if isinstance(value, _CONTAINERS):
            if len(value) > _MAX_ITEMS:
                raise UnreadableError(f"{len(value):,} items")
            self._add(type(value).__qualname__.encode(), str(len(value)).encode())
            items: Iterable[Any] = value
            if isinstance(value, dict):  # JSON keeps no order of keys either
                pairs = sorted(value.items(), key=lambda pair: digest(pair[0]))
                items = [part for pair in pairs for part in pair]
            elif isinstance(value, (set, frozenset)):
                items = sorted(digest(item) for item in value)  # a set has no order of its own
            for item in items:
                self.feed(item, depth + 1)
            return
        reduced = value.__reduce_ex__(2)
        if isinstance(reduced, str):
            self._add(b"global", reduced.encode())
            return
        self._add(b"object", f"{type(value).__module__}.{type(value).__qualname__}".encode())
        module = type(value).__module__
        for part in reduced:
            if isinstance(part, dict):
                part = {name: one for name, one in part.items() if not is_no_state(name, module)}
            self.feed(list(part) if isinstance(part, types.GeneratorType) or hasattr(part, "__next__") else part, depth)

    def _add(self, kind: bytes, body: bytes) -> None:
        self._hash.update(b"%s:%d:" % (kind, len(body)))
        self._hash.update(body)


def tensor_bytes(tensor: Any) -> bytes:
    """Return the bytes of a torch tensor's values, in C order."""
    torch = sys.modules["torch"]
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise UnreadableError(f"a {tensor.layout} tensor")
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    if plain.is_complex():
        plain = torch.view_as_real(plain).reshape(-1)
    data: bytes = plain.view(torch.uint8).numpy().tobytes()
    return data


def generator_state(generator: Any) -> Any:
    """Return the state of a generator as plain values."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(generator, torch.Generator):
        return generator.get_state().numpy()
    return rng.generator_state(generator)
