"""What a script was seen to read and to write, as inputs and outputs of a recipe."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reprokit.core.config import Config
from reprokit.execution.drafting.observe import Observation
from reprokit.locking.git_command import Git
from reprokit.schema.recipe import OutputMode

__all__ = ["Input", "Proposals", "compare_mode", "proposals"]

_COMMIT = 1 << 20  # bytes: a smaller file that git does not ignore is code
_DATA = frozenset({"data", "datasets", "dataset", "input", "inputs", "raw", "corpus", "corpora"})
_MODES: Mapping[str, OutputMode] = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".npy", ".npz"), "values"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp"), "pixels"),
    **dict.fromkeys((".txt", ".md", ".html"), "lines"),
    **dict.fromkeys((".log", ".keras", ".pdf"), "ignore"),  # the time of writing stands in them
}
_TIMED = ("events.out.tfevents.",)
_STAMP = re.compile(r"(19|20)\d\d[-_.]?[01]\d[-_.]?[0-3]\d|\d\d[-_:]\d\d[-_:]\d\d|\d{9,}|[0-9a-f]{8,}")
_LEFT_OUT = frozenset({"wandb", "mlruns", "lightning_logs"})  # tools' own records, with times
_MOST_FILES = 6  # outputs in a folder that are named one by one
_SECRET = re.compile(r"(^|/)(\.env[^/]*|\.netrc|[^/]*credentials[^/]*|[^/]*\.pem|[^/]*\.key)$")


@dataclass(frozen=True, kw_only=True)
class Input:
    """Files to make a package of.

    Attributes:
        source: A folder or file: relative to the repository, or absolute where it is elsewhere.
        package: Its name.
        path: Where a run has it, relative to the repository.
        entry: Of one file, its name.
        files, size: How many were read, and their bytes.
    """

    source: str
    package: str
    path: str
    files: int
    size: int
    entry: str | None = None

    @property
    def told(self) -> str:
        """How much was read, for people."""
        size = f"{self.size / 1e6:,.1f} MB" if self.size >= 1e6 else f"{self.size / 1e3:,.1f} KB"
        return f"{self.files:,} file{'s'[: self.files != 1]}, {size}"

    @property
    def command(self) -> str:
        """What makes the package."""
        import shlex

        return f"reprokit package build {shlex.quote(self.source)} {self.package}"


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """What a recipe should say of what was seen.

    Attributes:
        inputs: By the name that they have in the recipe.
        outputs: Paths with how they are compared.
        ignore: What git should ignore, since runs provide or make it.
        moved: Values of parameters that are given another place, since a run has that input there.
        notes: What a recipe cannot mend.
    """

    inputs: dict[str, Input]
    outputs: dict[str, OutputMode]
    ignore: tuple[str, ...]
    moved: dict[str, str]
    notes: tuple[str, ...]


def proposals(
    seen: Observation, *, root: Path, name: str, workdir: str, params: Mapping[str, Any], pixels: bool
) -> Proposals:
    """Return what to declare.

    Args:
        name: Of the recipe; the namespace of packages.
        workdir: Where the script ran, relative to the repository.
        params: Options that the script was given: one may name a folder outside the repository.
        pixels: Whether images can be read, to compare them by pixel.
    """
    git = Git(root)
    tracked = frozenset(git.lines("ls-files", "-z"))
    loose = frozenset(git.lines("ls-files", "--others", "--exclude-standard", "-z"))  # neither tracked nor ignored
    look = _Look(root, name, tracked, loose)
    fetched = [path for path in seen.written if _is_data(path)]
    made = [path for path in seen.written if path not in fetched]
    look.inputs_of([*seen.read, *fetched], seen.listed, fetched=bool(fetched))
    moved = look.elsewhere(seen.read, workdir, params)
    look.outputs_of(made, pixels=pixels)
    return Proposals(
        inputs=look.inputs,
        outputs=look.outputs,
        ignore=tuple(look.ignored()),
        moved=moved,
        notes=tuple(look.notes),
    )


class _Look:
    def __init__(self, root: Path, name: str, tracked: frozenset[str], loose: frozenset[str]) -> None:
        self._root, self._name = root, name
        self._tracked, self._loose = tracked, loose
        self._with_code = {folder for path in tracked for folder in _parents(path)}
        self.inputs: dict[str, Input] = {}
        self.outputs: dict[str, OutputMode] = {}
        self.notes: list[str] = []
        self._records: list[str] = []  # folders in which tools keep their own

    def inputs_of(self, read: Iterable[str], listed: Collection[str], *, fetched: bool) -> None:
        """Note what was read inside the repository and is no code: each in a folder without any, or by itself."""
        data, code, secret = list[str](), list[str](), list[str]()
        for path in read:
            if path.startswith("/") or path in self._tracked:
                continue
            small = path in self._loose and self._size(path) < _COMMIT
            (secret if _SECRET.search(path) else code if small and not _is_data(path) else data).append(path)
        if code:
            self.notes.append(f"it reads {_some(code)}, which git does not have: commit what is code or configuration")
        if secret:
            self.notes.append(
                f"it reads {_some(secret)}, which may hold secrets: give them by `execution: {{secrets: [NAME]}}`"
            )
        for place, files in self._grouped(data, listed).items():
            self._add(place, place, files)
        if fetched:
            self.notes.append("it made files in a folder for data, perhaps downloaded: they are taken as an input")

    def elsewhere(self, read: Iterable[str], workdir: str, params: Mapping[str, Any]) -> dict[str, str]:
        """Note what was read outside the repository; where an option names the place, move it inside."""
        config = Config.load(folder=self._root)
        own = tuple(f"{place}/" for place in (config.home, config.cache))  # a script with a callback opens these
        own += (str(Path.home() / ".keras" / "keras.json"),)  # which no run counts as an input
        outside = [path for path in read if path.startswith("/") and not path.startswith(own)]
        moved: dict[str, str] = {}
        for name, value in params.items():
            if not isinstance(value, str) or not value or "/" not in value:
                continue
            place = os.path.normpath(self._root / workdir / value)
            below = [path for path in outside if path == place or path.startswith(f"{place}/")]
            if below and not place.startswith(f"{self._root}/"):
                path = f"data/{posixpath.basename(place)}"
                if path in self._tracked or path in self._with_code:
                    continue
                self._add(place, path, below)
                moved[name] = posixpath.relpath(path, workdir)
                outside = [one for one in outside if one not in below]
        if outside:
            self.notes.append(
                f"it reads {_some(outside)}, outside the repository: a run notes that as undeclared. Copy it to data/, "
                "read it from there, and declare it"
            )
        return moved

    def outputs_of(self, written: Iterable[str], *, pixels: bool) -> None:
        """Note what was written, but for what is tracked or a tool's own record."""
        apart = [path for path in written if set(path.split("/")[:-1]) & _LEFT_OUT]
        rewritten = [path for path in written if path in self._tracked]
        if rewritten:
            self.notes.append(
                f"it changed {_some(rewritten)}, which git tracks: have it write elsewhere, or `git checkout` it "
                "before each run"
            )
        folders: dict[str, list[str]] = {}
        for path in written:
            if path in apart or path in rewritten:
                continue
            folders.setdefault(self._outermost(path), []).append(path)
        for folder, files in folders.items():
            modes = {path: compare_mode(path, pixels=pixels) for path in files}
            stamped = [path for path in files if _STAMP.search(posixpath.splitext(path)[0])]
            if folder and (stamped or len(files) > _MOST_FILES):
                same = set(modes.values())
                self.outputs[f"{folder}/"] = "ignore" if stamped else same.pop() if len(same) == 1 else "bytes"
                continue
            self.outputs |= {path: "ignore" if path in stamped else mode for path, mode in modes.items()}
        self._records = sorted({path.split("/")[0] + "/" for path in apart})

    def ignored(self) -> list[str]:
        """Return what is to be ignored by git that is not yet."""
        wanted = [*(item.path for item in self.inputs.values()), *self.outputs, *self._records]
        return [f"/{path}" for path in wanted if any(one == path or _is_below(one, path) for one in self._loose)]

    def _grouped(self, files: list[str], listed: Collection[str]) -> dict[str, list[str]]:
        """Return files by the folder that becomes a package: what they have in common, and what was listed."""
        by_top: dict[str, list[str]] = {}
        for path in files:
            by_top.setdefault(self._outermost(path) or path, []).append(path)
        found: dict[str, list[str]] = {}
        for top, members in by_top.items():
            if top in members:
                found[top] = members
                continue
            below = [folder for folder in listed if folder == top or _is_below(folder, top)]
            place = posixpath.commonpath([*(posixpath.dirname(path) for path in members), *below])
            found[place] = members
        return found

    def _outermost(self, path: str) -> str:
        """Return the outermost folder of a file that holds no code; nothing if there is none."""
        return next((folder for folder in _parents(path) if folder not in self._with_code), "")

    def _add(self, source: str, path: str, files: list[str]) -> None:
        base = re.sub(r"[^A-Za-z0-9_]+", "_", posixpath.splitext(posixpath.basename(path))[0]).strip("_") or "data"
        name, number = base, 1
        while name in self.inputs:
            number += 1
            name = f"{base}_{number}"
        self.inputs[name] = Input(
            source=source,
            package=f"{self._name}/{name}",
            path=path,
            files=len(files),
            size=sum(self._size(file) for file in files),
            entry=posixpath.basename(source) if source in files else None,
        )

    def _size(self, path: str) -> int:
        try:
            return (self._root / path).stat().st_size
        except OSError:
            return 0


def _parents(path: str) -> list[str]:
    """Return the folders that a path lies in, the outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: number + 1]) for number in range(len(parts))]


def _is_data(path: str) -> bool:
    """True of what lies in a folder whose name says that it holds data."""
    return not _DATA.isdisjoint(path.split("/")[:-1])


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(f"{folder.rstrip('/')}/")


def compare_mode(path: str, *, pixels: bool = False) -> OutputMode:
    """Return how an output of that name is compared, unless somebody knows better.

    Args:
        pixels: Whether images can be read here.
    """
    base = posixpath.basename(path)
    if base.startswith(_TIMED):
        return "ignore"
    mode = _MODES.get(posixpath.splitext(base)[1].lower(), "bytes")
    return "bytes" if mode == "pixels" and not pixels else mode


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
