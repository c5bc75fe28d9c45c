"""A checkpoint as files of other formats. A framework is loaded only where its format is asked for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from reprokit.checkpoint.claims import check_claims
from reprokit.checkpoint.framework_function import framework_function
from reprokit.checkpoint.reader import Checkpoint
from reprokit.client.frameworks import find, frameworks
from reprokit.client.tensors import spell
from reprokit.core.atomic_files import os_errors
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import RefusedError, UsageError

__all__ = ["FORMATS", "convert", "save_safetensors", "write_checkpoint"]

_WRITERS = {form: (one, told) for one in frameworks().values() for form, told in one.stored.formats.items()}
FORMATS = ("safetensors", *_WRITERS)


def write_checkpoint(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    form: str | None = None,
    types: Sequence[str] = (),
    progress: Progress = SILENT,
) -> list[str]:
    """Write a checkpoint into a new folder, as it is stored or converted, every byte verified; return the files' names.

    Args:
        form: One of FORMATS; the files as stored by default.
        types: As for `convert`.
    Raises:
        RefusedError, DataMismatchError, UsageError: As `convert`.
    """
    check_claims(checkpoint)
    if form is not None:
        return [path.name for path in convert(checkpoint, form, folder, types=types)]
    if types:
        raise UsageError("--type goes with --format joblib.")
    checkpoint.package.install(folder, progress=progress)
    return list(checkpoint.package)


def convert(checkpoint: Checkpoint, form: str, folder: Path, *, types: Sequence[str] = ()) -> list[Path]:
    """Write a checkpoint into a new folder, every byte verified; the folder appears whole or not at all.

    Args:
        types: For joblib, full names of the types that the estimator may hold beyond those that skops knows.
    Returns:
        The files.
    Raises:
        RefusedError: The folder exists and is not empty; or the estimator holds types that are not named.
        DataMismatchError: Something is corrupt, or cannot be had in that format.
        UsageError: The framework is not installed; or types were named for another format.
    """
    if types and not (form in _WRITERS and _WRITERS[form][1].takes_types):
        raise UsageError("Types are named for joblib files only.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RefusedError(f"{folder} exists and is not empty; nothing was written.", hint="Name a new folder.")
    with os_errors(f"Writing {folder}"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            temporary.chmod(0o755)
            if form == "safetensors":
                save_safetensors(checkpoint, temporary)
            else:
                _write(checkpoint, form, temporary, types)
            if folder.exists():
                folder.rmdir()
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return sorted(folder.iterdir())


def _write(checkpoint: Checkpoint, form: str, folder: Path, types: Sequence[str]) -> None:
    framework, told = _WRITERS[form]
    write = framework_function(told.writer, extra=framework.extra, what=f"Writing .{form}")
    if told.takes_types:
        write(checkpoint, folder / told.file, types=types)
    else:
        write(checkpoint, folder / told.file)


def save_safetensors(checkpoint: Checkpoint, folder: Path) -> None:
    """Write one file per section, `model.safetensors` and so on, with `state.json` and `config.json` beside them.

    Tied weights are stored once; their other names are in the file's metadata, as `safetensors.torch.save_model` has
    them.
    """
    for section in checkpoint.sections:
        if f"{section}.safetensors.index.json" in checkpoint.package:
            _merge(checkpoint, section, folder / f"{section}.safetensors")
    whole = [name for one in frameworks().values() for name in one.stored.files]
    for name in ("state.json", "config.json", *whole):
        if name in checkpoint.package:
            (folder / name).write_bytes(checkpoint.package.entry(name).read())


def _merge(checkpoint: Checkpoint, section: str, path: Path) -> None:
    aliases = checkpoint.aliases(section)
    framework = find(checkpoint.facts.framework)
    made_by = framework.stored.made_by if framework is not None else "pt"
    arrays = {name: array for name, array in checkpoint.arrays(section).items() if name not in aliases}
    told = {name: (array.dtype, array.shape, len(array.data)) for name, array in arrays.items()}
    head, places = spell(told, metadata={**aliases, "format": made_by})
    with path.open("xb") as sink:
        sink.write(head)
        for name in places:
            sink.write(arrays[name].data)
