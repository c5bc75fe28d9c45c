"""Which tensor of one checkpoint is which of another, and how the two stand to each other: the one rule for all.

Digests tell equal from different. A tensor of 1 MiB or more has a file of its own, whose digest covers the name (ADR
8): whether it goes on under another name is known by reading it, and else it is `unknown`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple

from reprokit.checkpoint.format import StoredTensor

__all__ = ["Contents", "How", "Key", "Side", "TensorPair", "pair_tensors"]

How = Literal["equal", "differs", "dtype", "shape", "renamed", "only left", "only right", "unknown"]
Side = Literal["left", "right"]
Key = tuple[str, str]  # section and name
Contents = tuple[Callable[[StoredTensor], str], Callable[[StoredTensor], str]]
_Stored = Mapping[Key, StoredTensor]


class TensorPair(NamedTuple):
    """A tensor of the left checkpoint and its partner in the right one.

    Attributes:
        how: `dtype` and `shape`: these differ, so no value can be compared. `renamed`: the same section, dtype, shape
            and bytes under another name. `unknown`: on one side alone, or renamed; only its bytes would tell.
        one: The left one, or the only one.
        other: The right one, where there are two.
        side: Where the only one is.
    """

    how: How
    one: StoredTensor
    other: StoredTensor | None = None
    side: Side | None = None

    @property
    def key(self) -> Key:
        return _key(self.one)

    @property
    def label(self) -> str:
        """Its name, with `SECTION:` before it if it is not the model's."""
        return _label(self.one)

    @property
    def renamed(self) -> str | None:
        """What the right one is called, where that is another name."""
        return _label(self.other) if self.how == "renamed" and self.other is not None else None


def pair_tensors(left: _Stored, right: _Stored, contents: Contents | None = None) -> list[TensorPair]:
    """Return every tensor of two checkpoints: the model's first, in the order of the left one, then what that lacks.

    Args:
        contents: For each side, what returns the digest of a tensor's bytes. It is asked of tensors with a file of
            their own, and only where both sides lack one that could be the other. Without, these are `unknown`.
    """
    pairs = [*_pairs(left, right, contents)]
    pairs.sort(key=lambda pair: pair.one.section != "model")  # stable: the order that they are stored in stays
    return pairs


def _pairs(left: _Stored, right: _Stored, contents: Contents | None) -> Iterator[TensorPair]:
    renamed, unknown = _renamed(left, right, contents)
    for key, one in left.items():
        other = right.get(key) or renamed.get(key)
        if other is None:
            yield TensorPair("unknown" if ("left", key) in unknown else "only left", one, side="left")
        else:
            yield TensorPair(_how(one, other), one, other)
    come = {_key(partner) for partner in renamed.values()}
    for key, other in right.items():
        if key not in left and key not in come:
            yield TensorPair("unknown" if ("right", key) in unknown else "only right", other, side="right")


def _how(one: StoredTensor, other: StoredTensor) -> How:
    if one.name != other.name:
        return "renamed"
    if one.dtype != other.dtype:
        return "dtype"
    if one.shape != other.shape:
        return "shape"
    return "equal" if one.digest == other.digest else "differs"


def _renamed(
    left: _Stored, right: _Stored, contents: Contents | None
) -> tuple[dict[Key, StoredTensor], set[tuple[Side, Key]]]:
    """Pair tensors that one side lacks with those of other names; return also of which it cannot be told."""
    found: dict[Key, StoredTensor] = {}
    unknown: set[tuple[Side, Key]] = set()
    gone, come = _lone(left, right), _lone(right, left)
    for alike in gone.keys() & come.keys():
        ours, theirs = gone[alike], come[alike]
        if contents is None and any(tensor.alone for tensor in [*ours, *theirs]):
            unknown |= {("left", _key(tensor)) for tensor in ours} | {("right", _key(tensor)) for tensor in theirs}
            continue
        free: dict[str, list[StoredTensor]] = {}
        for tensor in theirs:
            free.setdefault(_content(tensor, contents and contents[1]), []).append(tensor)
        for tensor in ours:
            if names := free.get(_content(tensor, contents and contents[0])):
                found[_key(tensor)] = names.pop(0)
    return found, unknown


def _lone(tensors: _Stored, others: _Stored) -> dict[tuple[str, str, tuple[int, ...]], list[StoredTensor]]:
    """Return those that the other side lacks, by what two must share to be one tensor under two names."""
    found: dict[tuple[str, str, tuple[int, ...]], list[StoredTensor]] = {}
    for key, tensor in tensors.items():
        if key not in others:
            found.setdefault((tensor.section, tensor.dtype, tensor.shape), []).append(tensor)
    return found


def _content(tensor: StoredTensor, read: Callable[[StoredTensor], str] | None) -> str:
    return read(tensor) if tensor.alone and read is not None else tensor.digest


def _key(tensor: StoredTensor) -> Key:
    return tensor.section, tensor.name


def _label(tensor: StoredTensor) -> str:
    return tensor.name if tensor.section == "model" else f"{tensor.section}:{tensor.name}"
