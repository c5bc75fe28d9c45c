"""A Jupyter notebook as code: its cells, read with caps, and what of them decides a run. No I/O, no kernel.

Source: https://nbformat.readthedocs.io/en/latest/format_description.html
"""

from __future__ import annotations

import difflib
import json
import keyword
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reprokit.core.canonical_json import canonical
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError, RecipeError

__all__ = ["FOLDER", "SKIPPED", "Cell", "Notebook", "changed_cells", "encode", "notebook_of"]

FOLDER = "notebook"
"""Where the executed notebook lies: below it in the record, and in the run's journal until then."""
SKIPPED = "skip-execution"
_PARAMETERS, _INJECTED = "parameters", "injected-parameters"
_TAGS = {SKIPPED, _PARAMETERS, _INJECTED, "raises-exception"}  # the others say nothing to who executes it
_KINDS = {"code", "markdown", "raw"}
_NEWEST_MINOR = 5
_MAX_BYTES = 64 * 1024 * 1024
_MAX_CELLS = 20_000
_MAX_NAMED = 5


@dataclass(frozen=True)
class Cell:
    """One cell as it stands in the document.

    Attributes:
        number: From 1, counting cells of every kind.
        tags: Those that decide whether and how it is executed, sorted.
        count: The execution count that it was saved with, `[3]`.
    """

    number: int
    kind: str
    source: str
    tags: tuple[str, ...] = ()
    count: int | None = None

    @property
    def identity(self) -> tuple[str, str, tuple[str, ...]]:
        """What of it is code; neither outputs nor counts, nor other metadata."""
        return self.kind, self.source, self.tags


@dataclass(frozen=True)
class Notebook:
    """A notebook of format 4 with a Python kernel.

    Attributes:
        plain: All of it as JSON values, sources joined to text.
    """

    cells: tuple[Cell, ...]
    plain: dict[str, Any] = field(repr=False)

    @classmethod
    def parse(cls, data: bytes, *, what: str) -> Notebook:
        """Parse untrusted bytes.

        Args:
            what: Names the notebook in errors.
        Raises:
            RecipeError: Too large or deep, not JSON, not of format 4, malformed, or for a kernel of another language.
        """
        try:
            value = load_json(data, what=what, max_bytes=_MAX_BYTES)
        except DataMismatchError as error:
            raise RecipeError(
                error.message, hint="Open it in Jupyter, clear its outputs if they are large, and save it again."
            ) from None
        if not isinstance(value, dict) or not isinstance(value.get("cells", []), list):
            raise RecipeError(f"{what} is not a notebook: its JSON has no list of cells.")
        _check_format(value, what)
        _check_language(value, what)
        cells = value["cells"]
        if len(cells) > _MAX_CELLS:
            raise RecipeError(f"{what} has {len(cells):,} cells; at most {_MAX_CELLS:,} are read.")
        return cls(tuple(_cell(cell, number, what) for number, cell in enumerate(cells, 1)), value)

    @property
    def identity(self) -> bytes:
        """The bytes that stand for it in the locked tree: kind, source and tags of every cell that is not blank."""
        listed = [list(cell.identity) for cell in self.cells if cell.source.strip()]
        return b"reprokit notebook 1\n" + canonical(listed)

    def out_of_order(self) -> list[Cell]:
        """Return the cells that were last executed before one that stands above them."""
        found, highest = [], 0
        for cell in self.cells:
            if cell.count is not None:
                if cell.count < highest:
                    found.append(cell)
                highest = max(highest, cell.count)
        return found

    def warnings(self, name: str) -> list[str]:
        """Return what is to be said of it before it runs."""
        late = self.out_of_order()
        if not late:
            return []
        shown = ", ".join(f"cell {cell.number} [{cell.count}]" for cell in late[:_MAX_NAMED])
        more = f" and {len(late) - _MAX_NAMED} more" if len(late) > _MAX_NAMED else ""
        return [
            f"{name} was saved with cells executed out of order: {shown}{more} before a cell above. "
            "The run executes from top to bottom."
        ]

    def with_params(self, params: Mapping[str, Any]) -> tuple[dict[str, Any], list[int | None]]:
        """Return the notebook to execute, as JSON values, and for each of its cells its number in the document.

        Behind the first code cell that is tagged `parameters`, a cell assigns the parameters, as papermill does; one
        that such a tool left behind is replaced. Without a tagged cell, or without parameters, nothing is added.
        """
        at = next((i for i, c in enumerate(self.cells) if c.kind == "code" and _PARAMETERS in c.tags), None)
        assigned = "".join(f"{key} = {value!r}\n" for key, value in params.items() if _is_name(key))
        if at is None or not assigned:
            return self.plain, [cell.number for cell in self.cells]
        cells: list[dict[str, Any]] = []
        numbers: list[int | None] = []
        for i, (cell, plain) in enumerate(zip(self.cells, self.plain["cells"], strict=True)):
            if _INJECTED in cell.tags:
                continue
            cells.append(plain)
            numbers.append(cell.number)
            if i == at:
                cells.append(_injected(assigned, self.plain["nbformat_minor"]))
                numbers.append(None)
        return {**self.plain, "cells": cells}, numbers

    def assigned(self, params: Iterable[str]) -> set[str]:
        """Return the parameters that `with_params` assigns in a cell."""
        tagged = any(cell.kind == "code" and _PARAMETERS in cell.tags for cell in self.cells)
        return {key for key in params if _is_name(key)} if tagged else set()


def changed_cells(before: Notebook, after: Notebook) -> list[str]:
    """Return how the code of two notebooks differs, a phrase for each place: `cell 3 changed`, `cell 5 added`."""
    one = [cell for cell in before.cells if cell.source.strip()]
    other = [cell for cell in after.cells if cell.source.strip()]
    matcher = difflib.SequenceMatcher(
        None, [cell.identity for cell in one], [cell.identity for cell in other], autojunk=False
    )
    found = []
    for how, a, b, c, d in matcher.get_opcodes():
        pairs = min(b - a, d - c) if how == "replace" else 0
        found += [_changed(one[a + i], other[c + i]) for i in range(pairs)]
        if how != "equal":
            found += [f"cell {cell.number} removed" for cell in one[a + pairs : b]]
            found += [f"cell {cell.number} added" for cell in other[c + pairs : d]]
    return found


def _changed(one: Cell, other: Cell) -> str:
    where = f"cell {one.number}" if one.number == other.number else f"cell {one.number} → {other.number}"
    return f"{where} changed"


def notebook_of(sources: Sequence[str]) -> dict[str, Any]:
    """Return a notebook of code cells that were not executed."""
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "id": f"cell-{n}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for n, source in enumerate(sources, 1)
    ]
    return {"cells": cells, "metadata": {"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}


def encode(plain: Mapping[str, Any]) -> bytes:
    """Return a notebook as its file; half a surrogate pair in an output becomes the escape that JSON has for it."""
    text = json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _check_format(value: Mapping[str, Any], what: str) -> None:
    major, minor = value.get("nbformat"), value.get("nbformat_minor")
    if type(major) is not int or type(minor) is not int or major != 4 or not 0 <= minor <= _NEWEST_MINOR:
        raise RecipeError(
            f"{what} has notebook format {major!r}.{minor!r}; 4.0 to 4.{_NEWEST_MINOR} are executed.",
            hint="Convert it: `jupyter nbconvert --to notebook --nbformat 4 --inplace FILE`.",
        )
    if not isinstance(value.get("metadata"), dict) or "cells" not in value:
        raise RecipeError(f"{what} is not a notebook: `metadata` or `cells` is missing.")


def _check_language(value: Mapping[str, Any], what: str) -> None:
    metadata = value["metadata"]
    told = [(metadata.get("language_info"), "name"), (metadata.get("kernelspec"), "language")]
    for part, key in told:
        language = part.get(key) if isinstance(part, dict) else None
        if language is not None and str(language).lower() not in ("python", "ipython"):
            raise RecipeError(
                f"{what} is for a kernel of the language {language!r}; notebooks in Python are executed.",
                hint="For another language, run it by a command: `code: {command: […]}`.",
            )


def _cell(cell: Any, number: int, what: str) -> Cell:
    where = f"{what}, cell {number}"
    if not isinstance(cell, dict) or not isinstance(cell.get("metadata"), dict):
        raise RecipeError(f"{where}: it is no mapping with metadata.")
    kind, source = cell.get("cell_type"), cell.get("source")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise RecipeError(f"{where}: the type {str(kind)[:40]!r} is not known; known: {', '.join(sorted(_KINDS))}.")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        raise RecipeError(f"{where}: its source is not text.")
    if any("\ud800" <= letter <= "\udfff" for letter in source):
        raise RecipeError(f"{where}: its source holds half of a surrogate pair, which is no character.")
    cell["source"] = source
    count = cell.get("execution_count")
    tags = cell["metadata"].get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise RecipeError(f"{where}: its tags are not a list of words.")
    return Cell(number, kind, source, tuple(sorted(_TAGS & set(tags))), count if type(count) is int else None)


def _is_name(key: str) -> bool:
    return key.isidentifier() and not keyword.iskeyword(key)


def _injected(source: str, minor: int) -> dict[str, Any]:
    cell: dict[str, Any] = {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {"tags": [_INJECTED]},
        "outputs": [],
        "source": "# parameters of the run\n" + source.rstrip("\n"),
    }
    return {**cell, "id": "reprokit-parameters"} if minor >= 5 else cell
