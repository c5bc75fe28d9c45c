"""A script that did not find a file of the working tree, or a package of its environment: what to do about it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from reprokit.core.own_extras import pip_words
from reprokit.core.terminal_text import printable
from reprokit.schema.recipe import Environment

__all__ = ["Lacking", "lacking", "missing_inputs", "missing_package", "wanted_by"]

_MOST = 3
# as Python says it, and what NumPy, pandas, Pillow and others make of it
_SAID = (
    re.compile(r"No such file or directory: b?(['\"])(?P<path>[^'\"\n]{1,400})\1"),
    re.compile(r"(?P<path>[^\s'\"]{1,400}) (?:not found\.|does not exist)"),
    re.compile(r"name = (['\"])(?P<path>[^'\"\n]{1,400})\1, errno = 2"),
    re.compile(r"(['\"])(?P<path>[^'\"\n]{1,400})\1 (?:not found|does not exist)"),
)

_LACKED = re.compile(r"ModuleNotFoundError: No module named (['\"])(?P<module>[\w.]{1,200})\1")
_EXTRAS = {  # the extra that brings the version range which a callback works with
    "torch": "torch",
    "tensorflow": "tensorflow",
    "keras": "keras",
    "sklearn": "sklearn",
    "skops": "sklearn",
    "joblib": "sklearn",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "lightning": "lightning",
    "torchmetrics": "lightning",
    "transformers": "transformers",
    "accelerate": "transformers",
    "pandas": "pandas",
}
_DISTRIBUTIONS = {  # on PyPI; where it is not what the module is called
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python-headless",
    "dateutil": "python-dateutil",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}


class Lacking(NamedTuple):
    """A module that was not found; `own` is the folder of the repository, `.` or `src`, that has it nevertheless."""

    module: str
    own: str | None


def missing_package(failure: str, *, root: Path, environment: Environment | str, python: str) -> str | None:
    """Return a sentence on the package that a script imports and that its environment lacks; None if none is named.

    Args:
        failure: The end of what the script said.
        root: The repository, as the user has it.
        environment: What the recipe says of it.
        python: The interpreter that the script ran on.
    """
    lacks = lacking(failure, root)
    if lacks is None:
        return None
    module, own = lacks
    if own is not None:
        return (
            f"{module} lies in the working tree, and a run imports what is committed and on its path: commit it, and "
            f"put its folder there, by `python -m pip install -e .` or `export PYTHONPATH={own}` before reprokit."
        )
    if isinstance(environment, str) or (environment.declared is None and environment.container is None):
        return (
            f"The script imports {module}, which this environment lacks: `{python} -m pip install {wanted_by(module)}`."
        )
    if environment.declared is None:
        return f"The script imports {module}, which its container lacks: make an image that has it."
    told = printable(environment.declared[1], 400)
    name = _DISTRIBUTIONS.get(module, module)
    return f"The script imports {module}, which its environment lacks: add {name} to {told}, and `reprokit lock` again."


def wanted_by(module: str) -> str:
    """Return what to give to `pip install` for a module: in the versions that a callback works with, if any."""
    extra = _EXTRAS.get(module)
    return pip_words(extra) if extra else _DISTRIBUTIONS.get(module, module)


def lacking(said: str, root: Path) -> Lacking | None:
    """Return the module that a script did not find, as Python says it last; None if it does not."""
    found = [*_LACKED.finditer(said)]
    if not found:
        return None
    module = found[-1]["module"].partition(".")[0]
    return Lacking(module, next((place for place in (".", "src") if _is_module(root / place, module)), None))


def _is_module(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or any((folder / name).glob("*.py"))


def missing_inputs(
    failure: str, *, root: Path, workspace: Path, workdir: str, outputs: Collection[str] = ()
) -> list[str]:
    """Return a sentence for each file that a failure names as missing, and that the working tree has.

    Args:
        failure: The end of what the script said.
        root: The repository, as the user has it.
        workspace: Where the script ran instead.
        workdir: Of the script, below it.
        outputs: Declared ones, which the script writes: of these it is the folder that is missing.
    """
    named: dict[str, str] = {}
    start = f"{workspace}/"
    for pattern in _SAID:
        for found in pattern.finditer(failure):
            said = found["path"]
            inside = said.removeprefix(start) if said.startswith(start) else posixpath.join(workdir, said)
            path = posixpath.normpath(inside)
            path = next((one for one in outputs if path and path in (one, posixpath.dirname(one))), path)
            told = _folder_told(path) if path in outputs and not (workspace / path).parent.is_dir() else None
            if not path.startswith(("/", "..")) and path not in named and (told or _is_there(root, path)):
                named[path] = told or _told(path, is_folder=(root / path).is_dir())
    return [*named.values()][:_MOST]


def _folder_told(path: str) -> str:
    """Return what to do about an output whose folder a run has not."""
    folder = printable(posixpath.dirname(path), 400)
    return (
        f"{printable(path, 400)} is an output, and its folder is not there when a run begins: git has none that is "
        f"empty. Have the script make it, `os.makedirs({folder!r}, exist_ok=True)`, or commit a file in it."
    )


def _is_there(root: Path, path: str) -> bool:
    try:
        return path != "." and (root / path).exists()
    except (OSError, ValueError):
        return False


def _told(path: str, *, is_folder: bool) -> str:
    folder = path if is_folder else posixpath.dirname(path)
    what = f"{printable(path, 400)} lies in the working tree, and a run gets only what is committed or declared."
    if not folder:
        return f"{what} Commit it; or put it into a folder, and declare that as data."
    name, told = printable(posixpath.basename(folder)), printable(folder, 400)
    return (
        f"{what} Make a package of its folder, `reprokit package build {told} NAMESPACE/{name}`, and declare it in the "
        f"recipe: `data: {{{name}: {{package: NAMESPACE/{name}, path: {told}}}}}`. Or commit it, if it is small."
    )
