"""In what two checkpoints differ, tensor by tensor, from their versions' metadata alone. Reads no files.

Digests tell equal from different; by how much needs the values, and is `difference.how_far`'s to say.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from reprokit.checkpoint.format import StoredTensor, stored_tensors
from reprokit.schema.manifest import Manifest
from reprokit.schema.verdict import Divergence

__all__ = ["STATE_KEY", "FileRow", "SectionCount", "TensorDiff", "TensorRow", "compare_tensors"]

STATE_KEY = "state.json"

How = Literal["equal", "differs", "dtype", "shape", "renamed", "only left", "only right"]


class TensorRow(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of two checkpoints.

    Attributes:
        how: `dtype` and `shape`: these differ, so no value is compared. `renamed`: the right one has it, equal, under
            `renamed`; of a tensor with a file of its own (1 MiB or more) that cannot be told, as the file has the name.
        dtype, shape: Of the left one, or of the only one.
        right_dtype, right_shape: Of the right one, where they are others.
        distance: How far apart the values are, where they were read.
    """

    section: str
    name: str
    how: How
    dtype: str
    shape: list[int]
    right_dtype: str | None = None
    right_shape: list[int] | None = None
    renamed: str | None = None
    distance: Divergence | None = None

    @property
    def label(self) -> str:
        """Its name, with `SECTION:` before it if it is not the model's."""
        return self.name if self.section == "model" else f"{self.section}:{self.name}"


class SectionCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many tensors of a section the two have together, and how many of these differ."""

    section: str
    tensors: int
    differing: int


class FileRow(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a checkpoint that holds more than tensors: `state.json`, `config.json`, `model.skops`."""

    key: str
    how: Literal["equal", "differs", "only left", "only right"]


class TensorDiff(msgspec.Struct, frozen=True, kw_only=True):
    """Two checkpoints compared.

    Attributes:
        tensors, differing: How many tensors the two have together, and how many of these are not equal.
        first: The first that is not; the model's come before others, in the order they are stored in.
        rows: All of them, in that order.
    """

    tensors: int
    differing: int
    first: str | None
    sections: list[SectionCount]
    rows: list[TensorRow]
    files: list[FileRow]

    @property
    def unequal(self) -> list[TensorRow]:
        return [row for row in self.rows if row.how != "equal"]

    @property
    def equal(self) -> bool:
        """True if nothing that a state digest covers differs."""
        return not self.differing and all(row.how == "equal" for row in self.files if row.key != "config.json")

    def with_distances(self, found: dict[tuple[str, str], Divergence]) -> TensorDiff:
        """Return the same with what is known of how far tensors are apart, by section and name."""
        rows = [msgspec.structs.replace(row, distance=found.get((row.section, row.name))) for row in self.rows]
        return msgspec.structs.replace(self, rows=rows)


def compare_tensors(left: Manifest, right: Manifest) -> TensorDiff:
    """Return in what two checkpoint versions differ.

    Raises:
        DataMismatchError: What a version says of its tensors is malformed.
    """
    ours, theirs = stored_tensors(left), stored_tensors(right)
    renamed = _renamed(ours, theirs)
    come = set(renamed.values())
    keys = [*ours, *(key for key in theirs if key not in ours and key not in come)]
    keys.sort(key=lambda key: key[0] != "model")  # stable: the order that they are stored in stays
    rows = [_row(key, ours.get(key), theirs.get(key), renamed.get(key)) for key in keys]
    unequal = [row for row in rows if row.how != "equal"]
    sections = [
        SectionCount(
            section=section,
            tensors=sum(row.section == section for row in rows),
            differing=sum(row.section == section for row in unequal),
        )
        for section in dict.fromkeys(row.section for row in rows)
    ]
    return TensorDiff(
        tensors=len(rows),
        differing=len(unequal),
        first=unequal[0].label if unequal else None,
        sections=sections,
        rows=rows,
        files=_files(left, right),
    )


def _renamed(
    ours: dict[tuple[str, str], StoredTensor], theirs: dict[tuple[str, str], StoredTensor]
) -> dict[tuple[str, str], tuple[str, str]]:
    """Pair tensors that one side lacks with those of other names that have the same section, dtype, shape and bytes."""
    free: dict[tuple[Any, ...], list[tuple[str, str]]] = {}
    for key, stored in theirs.items():
        if key not in ours and not stored.alone:
            free.setdefault(_content(stored), []).append(key)
    found = {}
    for key, stored in ours.items():
        if key not in theirs and not stored.alone and (names := free.get(_content(stored))):
            found[key] = names.pop(0)
    return found


def _content(stored: StoredTensor) -> tuple[Any, ...]:
    return stored.section, stored.dtype, stored.shape, stored.digest


def _row(
    key: tuple[str, str], one: StoredTensor | None, other: StoredTensor | None, renamed: tuple[str, str] | None
) -> TensorRow:
    section, name = key
    how: How
    if renamed is not None:
        how = "renamed"
    elif one is None or other is None:
        how = "only right" if one is None else "only left"
    elif one.dtype != other.dtype:
        how = "dtype"
    elif one.shape != other.shape:
        how = "shape"
    else:
        how = "equal" if one.digest == other.digest else "differs"
    shown = next(side for side in (one, other) if side is not None)
    unlike = one is not None and other is not None and (one.dtype, one.shape) != (other.dtype, other.shape)
    return TensorRow(
        section=section,
        name=name,
        how=how,
        dtype=shown.dtype,
        shape=list(shown.shape),
        right_dtype=other.dtype if other is not None and unlike else None,
        right_shape=list(other.shape) if other is not None and unlike else None,
        renamed=None if renamed is None else renamed[1],
    )


def _files(left: Manifest, right: Manifest) -> list[FileRow]:
    """Compare what is no shard and no index of shards; those hold the tensors, and nothing else."""
    rows = []
    for key in dict.fromkeys([*left.keys, *right.keys]):
        if key.endswith((".safetensors", ".safetensors.index.json")):
            continue
        if key not in left or key not in right:
            rows.append(FileRow(key=key, how="only left" if key in left else "only right"))
        else:
            rows.append(FileRow(key=key, how="equal" if left[key].digest == right[key].digest else "differs"))
    return rows
