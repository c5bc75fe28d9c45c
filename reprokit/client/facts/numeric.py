"""What decides floating-point bits, as the loaded libraries say it: effective, not declared. Loads none of them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from reprokit.client.facts.loaded import loaded, mapped
from reprokit.client.frameworks import frameworks

__all__ = ["note_facts", "note_parts", "noted", "numeric_facts"]

_PARTS: set[str] = set()
_NOTED: dict[str, dict[str, Any]] = {}
_BLAS = ("openblas", "mkl_rt", "libblis")


def note_parts(parts: Iterable[object]) -> None:
    """Note of what kinds a trained model's layers, optimisers and losses are: they tell which kernels were used."""
    _PARTS.update(part if isinstance(part, str) else type(part).__name__ for part in parts)


def note_facts(name: str, facts: dict[str, Any]) -> None:
    """Note what a training was told that decides a framework's bits: the library itself does not keep it."""
    _NOTED.setdefault(name, {}).update(facts)


def noted(name: str) -> dict[str, Any]:
    """Return what was noted of a framework."""
    return dict(_NOTED.get(name, {}))


def numeric_facts(*, whole: bool = False) -> dict[str, Any]:
    """Return what the loaded libraries say decides their bits: builds, instruction sets, threads, switches, devices.

    Args:
        whole: Ask the libraries below them too (BLAS, MKL); what that starts up stays, so only as a script ends.
    """
    facts: dict[str, Any] = {}
    for name, framework in frameworks().items():
        module = sys.modules.get(name) if framework.numbers.asked else None
        if module is not None and isinstance(getattr(module, "__version__", None), str):
            facts[name] = {"version": str(module.__version__), **framework.numbers.facts(module, whole), **noted(name)}
    if whole and (blas := dict(_blas())):
        facts["blas"] = blas
    if _PARTS:
        facts["parts"] = sorted(_PARTS)
    return facts


def _blas() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield, by file name, what each loaded BLAS says of itself: one file computes otherwise on another CPU."""
    for path in mapped(*_BLAS):
        library = loaded(path)
        if library is None:
            continue
        found: dict[str, Any] = {}
        for key, name, kind in (
            ("config", "get_config", ctypes.c_char_p),
            ("core", "get_corename", ctypes.c_char_p),
            ("threads", "get_num_threads", ctypes.c_int),
        ):
            for spelling in (f"{p}openblas_{name}{s}" for p in ("scipy_", "") for s in ("64_", "")):
                if hasattr(library, spelling):
                    function = library[spelling]  # not the attribute: another package's declaration of it stays its own
                    function.restype, function.argtypes = kind, ()
                    value = function()
                    found[key] = value.decode(errors="replace") if isinstance(value, bytes) else value
                    break
        if hasattr(library, "MKL_Get_Max_Threads"):
            found["threads"] = int(library.MKL_Get_Max_Threads())
        yield path.name, found
