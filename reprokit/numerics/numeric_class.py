"""The numeric class: what decides floating-point bits, and in what two of them differ. Facts in, differences out.

Both sides come from records or from other processes, so nothing of their form is taken for granted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reprokit.client.frameworks import frameworks
from reprokit.schema.machine import Numeric

__all__ = ["HARMLESS", "Difference", "differences", "explanations", "kernels_compared"]

HARMLESS = {
    "LANG", "LC_ALL", "LC_NUMERIC", "TZ", "PYTHONHASHSEED", "PYTHONOPTIMIZE",
    "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK",
    "KMP_BLOCKTIME", "OMP_WAIT_POLICY", "OMP_DISPLAY_ENV", "GOMP_SPINCOUNT", "KMP_SETTINGS", "KMP_WARNINGS",
    "MKL_VERBOSE", "ONEDNN_VERBOSE", "DNNL_VERBOSE", "OPENBLAS_VERBOSE", "CUBLAS_LOGINFO_DBG",
}  # fmt: skip
"""Variables that no arithmetic reads; what a script makes of them is its own."""

_READERS = {"MKL_": ("mkl",), "OPENBLAS": ("openblas",), "GOTO_": ("openblas",)}
"""By the beginning of a variable's name, the libraries below the frameworks that read it."""

# Variables named …_THREADS are not compared: the runner sets them from the lock, and libraries tell what came of it.
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


def differences(left: Numeric, right: Numeric) -> list[Difference]:
    """Return in what two numeric classes differ: kernels first, then facts, switches, and the processor.

    A fact that only one side tells, because the other's script failed or is of an older release, is no difference.
    """
    return [
        *_kernels(left, right),
        *_facts(left, right),
        *_variables(left, right),
        *(
            Difference(kind="machine", family="", what=key, one=one, other=other)
            for key in ("machine", "cpu", "isa")
            if (one := getattr(left, key)) != (other := getattr(right, key)) and None not in (one, other)
        ),
    ]


def kernels_compared(left: Numeric, right: Numeric) -> dict[str, int]:
    """Return how many kernels of each library both sides have a digest for."""
    return {family: len(pairs) for family, pairs in _digests(left, right)}


def explanations(differing: list[Difference], family: str) -> list[str]:
    """Return the other differences that could explain kernels of a library: its own facts, switches, the processor."""
    own = {family}
    for framework in frameworks().values():
        own.update(framework.numbers.below.get(family, ()))
    return [
        str(item)
        for item in differing
        if item.kind in ("variable", "machine") or (item.kind == "fact" and item.family in own)
    ]


def _digests(left: Numeric, right: Numeric) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    ours, theirs = left.fingerprint, right.fingerprint
    if ours.get("version") != theirs.get("version"):
        return
    for family in ("libm", *(family for one in frameworks().values() for family in one.numbers.kernels)):
        a, b = left.kernels(family), right.kernels(family)
        pairs = [(name, a[name], b[name]) for name in list(a)[:_MOST] if name in b]
        if pairs:
            yield family, pairs


def _kernels(left: Numeric, right: Numeric) -> Iterator[Difference]:
    for family, pairs in _digests(left, right):
        names = tuple(str(name) for name, a, b in pairs if a != b)
        if names:
            yield Difference(
                kind="kernels", family=family, what=family, one=len(pairs), other=len(pairs) - len(names), names=names
            )


def _facts(left: Numeric, right: Numeric) -> Iterator[Difference]:
    ours, theirs = dict(_flat(left.told_by)), dict(_flat(right.told_by))
    for path, value in ours.items():
        if path in theirs and theirs[path] != value:
            what = ".".join(path)
            because = _switch(what, left, right)
            yield Difference(kind="fact", family=path[0], what=what, one=value, other=theirs[path], because=because)


def _switch(fact: str, left: Numeric, right: Numeric) -> str:
    ours, theirs = left.variables, right.variables
    moved = [
        f"{name} {_short(ours.get(name))} → {_short(theirs.get(name))}"
        for name, effect in _effects().items()
        if ours.get(name) != theirs.get(name) and (fact == effect or fact.startswith(f"{effect}."))
    ]
    return ", ".join(moved)


def _flat(value: Mapping[str, Any], where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key in sorted(map(str, list(value)[:_MOST])):
        if isinstance(value[key], dict) and len(where) < _DEEP:
            yield from _flat(value[key], (*where, key))
        else:
            yield (*where, key), value[key]


def _variables(left: Numeric, right: Numeric) -> Iterator[Difference]:
    ours, theirs = left.variables, right.variables
    for name in sorted({*ours, *theirs}):
        a, b = ours.get(name), theirs.get(name)
        if a == b or name.endswith("_THREADS") or (_told(left, name) and _told(right, name)):
            continue
        idle = name in HARMLESS or not (_is_read(left, name) or _is_read(right, name))
        kind: Literal["harmless", "variable"] = "harmless" if idle else "variable"
        yield Difference(kind=kind, family="", what=name, one=a, other=b)


def _told(facts: Numeric, variable: str) -> bool:
    section, _, key = _effects().get(variable, "").partition(".")
    told = facts.told_by.get(section)
    return told is not None and (not key or key in told)


def _is_read(facts: Numeric, variable: str) -> bool:
    """True if a library that reads this variable is loaded, or if nobody knows who reads it."""
    readers = {name for start, names in _READERS.items() if variable.startswith(start) for name in names}
    readers |= {name for name, one in frameworks().items() if variable.startswith(one.variables.read)}
    loaded = {*facts.libraries, *(kind for kind in ("mkl", "openblas") for file in facts.blas if kind in file)}
    return not readers or not loaded.isdisjoint(readers)


def _effects() -> dict[str, str]:
    """Return the fact that shows what a variable did; where both sides tell it, the variable itself says no more."""
    return {name: fact for one in frameworks().values() for name, fact in one.variables.effects.items()}


def _short(value: Any) -> str:
    text = "unset" if value is None else value if isinstance(value, str) else repr(value)
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 60 else text[:57] + "…"
