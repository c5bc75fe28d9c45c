"""The numeric class: what decides floating-point bits, and in what two of them differ. Facts in, differences out.

Both sides come from records or from other processes, so nothing of their form is taken for granted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["HARMLESS", "Difference", "differences", "explanations", "kernels_compared"]

HARMLESS = {
    "LANG", "LC_ALL", "LC_NUMERIC", "TZ", "PYTHONHASHSEED", "PYTHONOPTIMIZE",
    "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK",
    "KMP_BLOCKTIME", "OMP_WAIT_POLICY", "OMP_DISPLAY_ENV", "GOMP_SPINCOUNT", "KMP_SETTINGS", "KMP_WARNINGS",
    "MKL_VERBOSE", "ONEDNN_VERBOSE", "DNNL_VERBOSE", "OPENBLAS_VERBOSE", "CUBLAS_LOGINFO_DBG",
}  # fmt: skip
"""Variables that no arithmetic reads; what a script makes of them is its own."""

_EFFECT = {
    "ATEN_CPU_CAPABILITY": "torch.capability",
    "MKL_CBWR": "torch.mkl_branch",
    "OPENBLAS_CORETYPE": "blas",
    "NPY_DISABLE_CPU_FEATURES": "numpy.simd",
    "NPY_ENABLE_CPU_FEATURES": "numpy.simd",
    "TF_ENABLE_ONEDNN_OPTS": "tensorflow.onednn",
    "KERAS_BACKEND": "keras.backend",
    "CUDA_VISIBLE_DEVICES": "torch.devices",
}
"""The fact that shows what a variable did; where both sides tell it, the variable itself says no more."""

_READERS = {
    "ATEN_": ("torch",),
    "TORCH_": ("torch",),
    "MKL_": ("torch", "tensorflow", "mkl"),
    "DNNL_": ("torch", "tensorflow"),
    "ONEDNN_": ("torch", "tensorflow"),
    "CUBLAS": ("torch", "tensorflow"),
    "CUDNN": ("torch", "tensorflow"),
    "NVIDIA_": ("torch", "tensorflow"),
    "TF_": ("tensorflow",),
    "XLA_": ("tensorflow",),
    "KERAS_": ("keras",),
    "NPY_": ("numpy",),
    "OPENBLAS": ("openblas",),
    "GOTO_": ("openblas",),
}
"""By the beginning of a variable's name, the libraries that read it: where none of them is loaded, it does nothing."""

# Variables named …_THREADS are not compared: the runner sets them from the lock, and libraries tell what came of it.
_APART = {"fingerprint", "variables", "isa", "cpu", "machine", "parts", "unknown"}
_BELOW = {"numpy": ("blas",), "scipy": ("blas", "numpy"), "cuda": ("torch",)}
_FAMILIES = ("libm", "numpy", "scipy", "torch", "cuda", "tensorflow")
_MOST, _DEEP = 2000, 4  # names and levels that a hostile record is read for


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing in which two numeric classes differ.

    Attributes:
        kind: `kernels`: other bits were seen; `fact`: what a library says of itself; `variable`: a switch whose
            effect no library tells; `machine`: the processor; `harmless`: a variable that no loaded library reads.
        family: The library of kernels, or of the fact: `torch`, `numpy`, …
        names: The kernels that differ.
        because: The switch that made a fact another one.
    """

    kind: Literal["kernels", "fact", "variable", "machine", "harmless"]
    family: str
    what: str
    one: Any
    other: Any
    names: tuple[str, ...] = ()
    because: str = ""

    def __str__(self) -> str:
        if self.kind == "kernels":
            shown = ", ".join(self.names[:6]) + (f" and {len(self.names) - 6} more" if len(self.names) > 6 else "")
            return f"kernels of {self.family}: {shown}"
        return f"{_short(self.what)} {_short(self.one)} → {_short(self.other)}" + (
            f" ({self.because})" if self.because else ""
        )


def differences(one: Any, other: Any) -> list[Difference]:
    """Return in what two numeric classes differ: kernels first, then facts, switches, and the processor.

    A fact that only one side tells, because the other's script failed or is of an older release, is no difference.
    """
    left, right = _mapping(one), _mapping(other)
    return [
        *_kernels(left, right),
        *_facts(left, right),
        *_variables(left, right),
        *(
            Difference(kind="machine", family="", what=key, one=left.get(key), other=right.get(key))
            for key in ("machine", "cpu", "isa")
            if left.get(key) != right.get(key) and key in left and key in right
        ),
    ]


def kernels_compared(one: Any, other: Any) -> dict[str, int]:
    """Return how many kernels of each library both sides have a digest for."""
    return {family: len(pairs) for family, pairs in _digests(_mapping(one), _mapping(other))}


def explanations(differing: list[Difference], family: str) -> list[str]:
    """Return the other differences that could explain kernels of a library: its own facts, switches, the processor."""
    own = {family, *_BELOW.get(family, ())}
    return [
        str(item)
        for item in differing
        if item.kind in ("variable", "machine") or (item.kind == "fact" and item.family in own)
    ]


def _digests(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, Any, Any]]]]:
    ours, theirs = _mapping(left.get("fingerprint")), _mapping(right.get("fingerprint"))
    if ours.get("version") != theirs.get("version"):
        return
    for family in _FAMILIES:
        a, b = _mapping(ours.get(family)), _mapping(theirs.get(family))
        pairs = [(name, a[name], b[name]) for name in list(a)[:_MOST] if name in b]
        if pairs:
            yield family, pairs


def _kernels(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[Difference]:
    for family, pairs in _digests(left, right):
        names = tuple(str(name) for name, a, b in pairs if a != b)
        if names:
            yield Difference(
                kind="kernels", family=family, what=family, one=len(pairs), other=len(pairs) - len(names), names=names
            )


def _facts(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[Difference]:
    ours, theirs = dict(_flat(left)), dict(_flat(right))
    for path, value in ours.items():
        if path in theirs and theirs[path] != value and path[0] not in _APART:
            what = ".".join(path)
            because = _switch(what, left, right)
            yield Difference(kind="fact", family=path[0], what=what, one=value, other=theirs[path], because=because)


def _switch(fact: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    ours, theirs = _mapping(left.get("variables")), _mapping(right.get("variables"))
    moved = [
        f"{name} {_short(ours.get(name))} → {_short(theirs.get(name))}"
        for name, effect in _EFFECT.items()
        if ours.get(name) != theirs.get(name) and (fact == effect or fact.startswith(f"{effect}."))
    ]
    return ", ".join(moved)


def _flat(value: Mapping[str, Any], where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key in sorted(map(str, list(value)[:_MOST])):
        if isinstance(value[key], dict) and len(where) < _DEEP:
            yield from _flat(value[key], (*where, key))
        else:
            yield (*where, key), value[key]


def _variables(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[Difference]:
    ours, theirs = _mapping(left.get("variables")), _mapping(right.get("variables"))
    for name in sorted({*map(str, list(ours)[:_MOST]), *map(str, list(theirs)[:_MOST])}):
        a, b = ours.get(name), theirs.get(name)
        if a == b or name.endswith("_THREADS") or (_told(left, name) and _told(right, name)):
            continue
        idle = name in HARMLESS or not (_is_read(left, name) or _is_read(right, name))
        kind: Literal["harmless", "variable"] = "harmless" if idle else "variable"
        yield Difference(kind=kind, family="", what=name, one=a, other=b)


def _told(facts: Mapping[str, Any], variable: str) -> bool:
    section, _, key = _EFFECT.get(variable, "").partition(".")
    return section in facts and (not key or key in _mapping(facts[section])) if section else False


def _is_read(facts: Mapping[str, Any], variable: str) -> bool:
    """True if a library that reads this variable is loaded, or if nobody knows who reads it."""
    readers = next((names for start, names in _READERS.items() if variable.startswith(start)), None)
    loaded = {*facts, *(kind for kind in ("mkl", "openblas") for file in _mapping(facts.get("blas")) if kind in file)}
    return readers is None or not loaded.isdisjoint(readers)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _short(value: Any) -> str:
    text = "unset" if value is None else value if isinstance(value, str) else repr(value)
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 60 else text[:57] + "…"
