"""In what two checkpoints differ beside their tensors: `state.json`, `config.json`, whole files, names of tied weights.

No tolerance is about any of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Literal

import msgspec

from reprokit.checkpoint.format import StoredTensor
from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.files.whole_files import parts_besides_arrays
from reprokit.comparison.json_paths import differing_paths
from reprokit.schema.verdict import Divergence

__all__ = [
    "STATE_KEY",
    "FileRow",
    "changed_aliases",
    "compare_files",
    "differs_beside",
    "state_paths",
]

STATE_KEY = "state.json"
_CONFIG_KEY = "config.json"
_MOST_PATHS = 8


class FileRow(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a checkpoint that holds more than tensors: `state.json`, `config.json`, `model.skops`."""

    key: str
    how: Literal["equal", "differs", "only left", "only right"]


def compare_files(left: Checkpoint, right: Checkpoint) -> list[FileRow]:
    """Compare what is no shard and no index of shards; those hold the tensors, and nothing else."""
    ours, theirs = (side.package.manifest for side in (left, right))
    rows = []
    for key in dict.fromkeys([*ours.keys, *theirs.keys]):
        if key.endswith((".safetensors", ".safetensors.index.json")):
            continue
        if key not in ours or key not in theirs:
            rows.append(FileRow(key=key, how="only left" if key in ours else "only right"))
        else:
            rows.append(FileRow(key=key, how="equal" if ours[key].digest == theirs[key].digest else "differs"))
    return rows


def differs_beside(
    left: Checkpoint, right: Checkpoint, differing: Iterable[StoredTensor], *, values: bool
) -> Divergence | None:
    """Return the first thing in which two checkpoints differ that is no tensor; None if there is none.

    Args:
        differing: The tensors that are not equal. A file that holds one of these differs for that reason; whether it
            does in more, its bytes tell.
        values: Read what differs. Without, such a file is passed over.
    """
    arrays = {stored.key for stored in differing}
    rows = list(compare_files(left, right))
    for row in (row for row in rows if row.key not in (STATE_KEY, _CONFIG_KEY) and row.how != "equal"):
        found = _in_file(left, right, row, arrays, values=values)
        if found is not None:
            return found
    for section in changed_aliases(left, right) if values else _renamed_alone(left, right):
        key = f"{section}.safetensors.index.json"
        return Divergence(tensor=key, shard=key, how="other names of tied weights")
    for row in rows:
        if row.key not in (STATE_KEY, _CONFIG_KEY) or row.how == "equal":
            continue
        if row.how != "differs" or not values:
            return Divergence(tensor=row.key, shard=row.key, how=None if row.how == "differs" else row.how)
        paths = state_paths(left, right) if row.key == STATE_KEY else _paths(left.config, right.config)
        if paths:  # else the same values, spelled otherwise
            state = paths if row.key == STATE_KEY else []
            return Divergence(tensor=f"{row.key}:{paths[0]}", shard=row.key, state=state)
    return None


def _in_file(
    left: Checkpoint, right: Checkpoint, row: FileRow, differing: set[str], *, values: bool
) -> Divergence | None:
    """Say in what a file differs that is kept whole, if not in its arrays alone."""
    if row.how != "differs":
        return Divergence(tensor=row.key, shard=row.key, how=row.how)
    held = [[one for one in side.all_stored().values() if one.key == row.key] for side in (left, right)]
    if not any(held) and not row.key.endswith(".skops"):
        return Divergence(tensor=row.key, shard=row.key, how="differs; nothing looks into it")
    if not values:
        how = "differs in more than its arrays"
        return None if row.key in differing else Divergence(tensor=row.key, shard=row.key, how=how)
    ours, theirs = (
        (side.package.entry(row.key).read(), arrays) for side, arrays in zip((left, right), held, strict=True)
    )
    parts = parts_besides_arrays(ours, theirs)
    if not parts:
        return None
    more = f"and {', '.join(parts[1:])}" if len(parts) > 1 else None
    return Divergence(tensor=f"{row.key}:{parts[0]}", shard=row.key, how=more)


def changed_aliases(left: Checkpoint, right: Checkpoint) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """Return both sides' other names of tied weights, by section, where they are not the same.

    Indices of shards are read, if their digests differ.
    """
    found = {}
    for section in _other_indices(left, right):
        names = left.aliases(section), right.aliases(section)
        if names[0] != names[1]:
            found[section] = names
    return found


def _other_indices(left: Checkpoint, right: Checkpoint) -> list[str]:
    """Return the sections whose indices of shards are not the same."""
    found = []
    for section in dict.fromkeys([*left.sections, *right.sections]):
        entries = [side.package.manifest.by_key.get(f"{section}.safetensors.index.json") for side in (left, right)]
        if len({None if entry is None else entry.digest for entry in entries}) > 1:
            found.append(section)
    return found


def _renamed_alone(left: Checkpoint, right: Checkpoint) -> list[str]:
    """Return sections whose indices differ though they list the same tensors in the same files: in aliases, that is."""
    places = [{key: stored.key for key, stored in side.all_stored().items()} for side in (left, right)]
    return [
        section
        for section in _other_indices(left, right)
        if len({frozenset((key, file) for key, file in side.items() if key[0] == section) for side in places}) == 1
    ]


def state_paths(left: Checkpoint, right: Checkpoint) -> list[str]:
    """Return where in `state.json` two checkpoints differ, at most eight; it is read if its digests differ."""
    ours, theirs = (side.package.manifest[STATE_KEY].digest for side in (left, right))
    return [] if ours == theirs else _paths(left.raw_state, right.raw_state)


def _paths(left: Any, right: Any) -> list[str]:
    return list(islice(differing_paths(left, right), _MOST_PATHS))
