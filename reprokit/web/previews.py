"""What a file of a version looks like, as far as that can be told without executing anything of it.

Every byte is verified before it is looked at. Markup is shown as the text that it is.
"""

from __future__ import annotations

import ast
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reprokit.core.safe_json import load_json
from reprokit.core.terminal_text import printable
from reprokit.errors import Error
from reprokit.packages.package import Package
from reprokit.schema.manifest import Entry
from reprokit.schema.notebook import Notebook

__all__ = ["IMAGES", "Cell", "Preview", "image_type", "preview"]

_MOST = 4_000_000  # bytes of a file whose content is shown
_MOST_IMAGE = 20_000_000  # bytes of an image
_MOST_TEXT = 200_000  # characters that are shown
_HEAD = 4_000_000  # bytes of a header
ROWS = 100  # rows of a table that are shown at once
_MOST_COLUMNS = 60
_MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF87a": "image/gif",
          b"GIF89a": "image/gif", b"BM": "image/bmp"}  # fmt: skip
IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A cell of a notebook: its source, and what it printed."""

    kind: str
    source: str
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What is shown of a file.

    Attributes:
        kind: image, table, tensors, notebook, text or bytes.
        rows: Of a table or of tensors, `head` over them; `more` if there are rows after these.
        note: What is to be said: what is left out, or why nothing is shown.
    """

    kind: str
    text: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    cells: Sequence[Cell] = ()
    more: bool = False
    note: str = ""
    facts: dict[str, str] = field(default_factory=dict)


def image_type(data: bytes) -> str | None:
    """Return what image these bytes begin, None if it is none that a browser draws without executing anything."""
    found = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    return "image/webp" if found is None and data[:4] == b"RIFF" and data[8:12] == b"WEBP" else found


def preview(package: Package, entry: Entry, *, page: int = 0) -> Preview:
    """Return what is shown of a file.

    Args:
        page: Of a table, from 0.
    Raises:
        DataMismatchError, NotFoundError: Its bytes are not what they are said to be, or gone.
    """
    name = entry.logical_key.lower()
    if name.endswith(".safetensors"):
        return _tensors(package, entry)
    if name.endswith(".npy"):
        return _array(package, entry)
    limit = _MOST_IMAGE if name.endswith(IMAGES) else _MOST
    if entry.size > limit:
        return Preview(kind="bytes", note=f"{entry.size:,} bytes are more than is shown here ({limit:,}).")
    data = package.registry.read_object(entry, what=f"{entry.logical_key} of {package}")
    if image_type(data) is not None:
        return Preview(kind="image")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return Preview(kind="bytes", text=_hex(data[:512]), note="No text; its first bytes:")
    if name.endswith((".csv", ".tsv")):
        return _table(text, "\t" if name.endswith(".tsv") else ",", page)
    if name.endswith((".jsonl", ".ndjson")):
        return _lines(text, page)
    if name.endswith(".ipynb"):
        return _notebook(data, entry.logical_key)
    if name.endswith(".json"):
        text = _pretty(data, text)
    return _text(text)


def _text(text: str) -> Preview:
    shown = "".join(
        one if one in "\n\t" or one.isprintable() else "�" for one in text[:_MOST_TEXT].replace("\r\n", "\n")
    )
    return Preview(
        kind="text", text=shown, note=f"The first {_MOST_TEXT:,} characters." if len(text) > _MOST_TEXT else ""
    )


def _pretty(data: bytes, text: str) -> str:
    try:
        return json.dumps(load_json(data, what="json"), indent=1, ensure_ascii=False)
    except Error:
        return text


def _table(text: str, delimiter: str, page: int) -> Preview:
    rows = csv.reader(io.StringIO(text), delimiter=delimiter)
    try:
        head = next(rows, [])
        found = [row for number, row in enumerate(rows) if page * ROWS <= number <= (page + 1) * ROWS]
    except csv.Error:
        return _text(text)
    return _paged(head, found)


def _lines(text: str, page: int) -> Preview:
    lines = [line for line in text.split("\n") if line.strip()]
    found: list[dict[str, Any]] = []
    for line in lines[page * ROWS : (page + 1) * ROWS + 1]:
        try:
            value = load_json(line.encode(), what="line")
        except Error:
            return _text(text)
        if not isinstance(value, dict):
            return _text(text)
        found.append(value)
    head = list(dict.fromkeys(name for row in found for name in row))
    return _paged(head, [[_cell(row.get(name)) for name in head] for row in found])


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _paged(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Preview:
    wide = max([len(head), *(len(row) for row in rows)], default=0)
    return Preview(
        kind="table",
        head=[printable(one, 60) for one in head[:_MOST_COLUMNS]],
        rows=[[printable(one, 200) for one in row[:_MOST_COLUMNS]] for row in rows[:ROWS]],
        more=len(rows) > ROWS,
        note=f"{wide - _MOST_COLUMNS:,} more columns." if wide > _MOST_COLUMNS else "",
    )


def _notebook(data: bytes, name: str) -> Preview:
    try:
        notebook = Notebook.parse(data, what=name)
    except Error as error:
        return Preview(kind="bytes", note=error.message)
    plain = notebook.plain.get("cells", [])
    cells = [
        Cell(kind=str(cell.get("cell_type")), source=_joined(cell.get("source")), output=_printed(cell))
        for cell in plain[:300]
        if isinstance(cell, dict)
    ]
    return Preview(kind="notebook", cells=cells, note="The first 300 cells." if len(plain) > 300 else "")


def _printed(cell: dict[str, Any]) -> str:
    found = []
    outputs = cell.get("outputs")
    for output in outputs if isinstance(outputs, list) else []:
        if isinstance(output, dict):
            data = output.get("data")
            told = output.get("text") or (data.get("text/plain") if isinstance(data, dict) else None)
            found.append(_joined(told))
    return "\n".join(filter(None, found))[:20_000]


def _joined(value: Any) -> str:
    text = "".join(map(str, value)) if isinstance(value, list) else value if isinstance(value, str) else ""
    return "".join(one if one in "\n\t" or one.isprintable() else "�" for one in text[:50_000])


def _tensors(package: Package, entry: Entry) -> Preview:
    what = f"{entry.logical_key} of {package}"
    if entry.size < 8:
        return Preview(kind="bytes", note="Shorter than a header of safetensors.")
    registry = package.registry
    length = int.from_bytes(registry.read_range(entry, 0, 8, what=what), "little")
    if length > min(_HEAD, entry.size - 8):
        return Preview(kind="bytes", note=f"Its header would have {length:,} bytes.")
    head = registry.read_range(entry, 0, 8 + length, what=what)
    try:
        plain = load_json(head[8:], what=what, max_bytes=_HEAD)
        told = [(name, one["dtype"], one["shape"], one["data_offsets"]) for name, one in plain.items()
                if name != "__metadata__"]  # fmt: skip
        rows = [(printable(name, 160), str(kind)[:16], str(list(shape))[:80], f"{int(ends[1]) - int(ends[0]):,}")
                for name, kind, shape, ends in told[:2000]]  # fmt: skip
    except (Error, AttributeError, KeyError, TypeError, ValueError, IndexError):
        return Preview(kind="bytes", note="Its header is malformed.")
    note = "Its header alone was read; `reprokit verify` reads every byte."
    return Preview(kind="tensors", head=("tensor", "dtype", "shape", "bytes"), rows=rows, note=note)


def _array(package: Package, entry: Entry) -> Preview:
    head = package.registry.read_range(entry, 0, min(entry.size, 4096), what=entry.logical_key)
    try:
        text = head[10 : 10 + int.from_bytes(head[8:10], "little")].decode("latin1")
        plain = ast.literal_eval(text.strip())
        rows = [
            (printable(str(name), 40), printable(str(plain[name]), 200)) for name in ("descr", "shape", "fortran_order")
        ]
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
        return Preview(kind="bytes", note="Its header is malformed.")
    return Preview(kind="table", head=("of the array", ""), rows=rows, note="Its header alone was read.")


def _hex(data: bytes) -> str:
    return "\n".join(f"{at:06x}  {data[at : at + 16].hex(' ')}" for at in range(0, len(data), 16))
