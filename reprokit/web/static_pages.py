"""Chosen runs as pages that open from a file: to publish, or to hand to somebody without reprokit.

Each page is whole by itself, scripts and curves in it, and is the page that the server shows of the same address. What
leads to something that was not chosen is no link.
"""

from __future__ import annotations

import asyncio
import base64
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

from starlette.types import ASGIApp, Message, Scope

from reprokit.core.atomic_files import os_errors
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import Error, UsageError
from reprokit.registry.context import Context
from reprokit.web.app import application
from reprokit.web.run_table import RunTable, Snapshot
from reprokit.web.site import Site, style

__all__ = ["export_pages"]

MOST = 200  # runs
_HOST = "page.invalid"
_STATIC = Path(__file__).parent / "static"
_SCRIPTS = ("vendor/uPlot.iife.min.js", "page.js")
_LINK = re.compile(r' (href|src|hx-get|action|data-charts|data-log)="([^"]*)"')
_HEAD = re.compile(r'<link rel="stylesheet"[^>]*>\n|<link rel="icon"[^>]*>\n|<script src="[^"]*" defer></script>\n?')
_LIVE = re.compile(r' (hx-(trigger|swap|target|push-url|sync)|data-every)="[^"]*"')


class _Chosen(RunTable):
    """The runs of a table that were chosen."""

    def __init__(self, site: Site, runs: Iterable[str]) -> None:
        super().__init__(site.registry)
        self._chosen = frozenset(runs)

    def now(self) -> Snapshot:
        """Return those of all runs as they are."""
        whole = super().now()
        kept = [at for at, row in enumerate(whole.rows) if row.run in self._chosen]
        rows, fields = [whole.rows[at] for at in kept], [whole.fields[at] for at in kept]
        names = {name: count for name, count in whole.names.items() if any(_has(one, name) for one in fields)}
        return replace(whole, rows=rows, fields=fields, names=names)


def _has(fields: Mapping[str, Mapping[str, object]], name: str) -> bool:
    section, _, inner = name.partition(".")
    return inner in fields[section]


@dataclass
class _Export:
    """Pages on their way into a folder.

    Attributes:
        files: Where what an address shows is, by the address; an address is put there before its page is written.
        pending: Addresses whose pages are still to be written.
    """

    app: ASGIApp
    folder: Path
    files: dict[str, str] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)

    def ask(self, address: str) -> bytes:
        return asyncio.run(_answer(self.app, address))

    def place(self, address: str) -> str | None:
        """Return the file of an address, which is fetched if it has none yet; None of what was not chosen."""
        if address in self.files:
            return self.files[address]
        path, query = urlsplit(address).path, parse_qs(urlsplit(address).query)
        parts = path.strip("/").split("/")
        run = parts[2] if parts[:2] == ["packages", "runs"] and len(parts) == 5 else None
        if run is None or f"/runs/{quote(run)}" not in self.files or "key" not in query:
            return None
        number = len(self.files)
        if parts[4] == "raw":
            suffix = Path(query["key"][0]).suffix.lower()
            self.files[address] = name = f"files/{number}{suffix if suffix.isalnum() or suffix[1:].isalnum() else ''}"
            data = self.ask(address)
            (self.folder / "files").mkdir(exist_ok=True)
            (self.folder / name).write_bytes(data)
        else:
            self.files[address] = f"view-{number}.html"
            self.pending.append(address)
        return self.files[address]


async def _answer(app: ASGIApp, address: str) -> bytes:
    """Return what the application answers, as a server would have it."""
    parts = urlsplit(address)
    scope: Scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": unquote(parts.path), "raw_path": parts.path.encode(), "query_string": parts.query.encode(),
        "root_path": "", "headers": [(b"host", _HOST.encode())], "server": (_HOST, 80), "client": None,
    }  # fmt: skip
    body, status = b"", 0

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        nonlocal body, status
        status = message.get("status", status)
        body += message.get("body", b"")

    await app(scope, receive, send)
    if status != 200:
        raise UsageError(f"The page of {address} cannot be made (status {status}).")
    return body


def export_pages(refs: Sequence[str], folder: Path, *, context: Context, progress: Progress = SILENT) -> list[str]:
    """Write pages on some runs, and one that lists them; return the runs.

    Args:
        refs: Runs, by whatever names one.
        folder: New or empty.
    Raises:
        UsageError: There is something in the folder; or none, or too many runs.
        NotFoundError: There is no such run.
    """
    app = application(context, [_HOST])
    site: Site = app.state.site
    runs = list(dict.fromkeys(site.runs.load(ref).record.run_id for ref in refs))
    if not 1 <= len(runs) <= MOST:
        raise UsageError(f"1 to {MOST} runs become pages, not {len(runs)}.")
    with os_errors(f"Writing pages into {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty.", hint="Name a new folder.")
        site.table = _Chosen(site, runs)
        site.name_no_place()
        export = _Export(app, folder, {"/": "index.html", "/runs": "index.html"})
        export.files |= {f"/runs/{quote(run)}": f"run-{run}.html" for run in runs}
        pairs = _pairs(site, runs)
        export.files |= {f"/compare?run={a}&run={b}": f"compare-{a}-{b}.html" for a, b in pairs}
        export.pending += [address for address in export.files if address != "/"]
        with progress.task("Writing pages", None) as advance:
            while export.pending:
                address = export.pending.pop()
                page = export.ask(address).decode()
                (folder / export.files[address]).write_text(_whole(page, export, address), encoding="utf-8")
                advance()
    return runs


def _pairs(site: Site, runs: Sequence[str]) -> list[tuple[str, str]]:
    """Return originals with their repetitions, where both were chosen."""
    rows = {row.run: row for row in site.table.now().rows}
    found = ((row.reproduces, run) for run in runs if (row := rows.get(run)) is not None)
    return [(original, run) for original, run in found if original is not None and original in rows]


def _whole(page: str, export: _Export, address: str) -> str:
    """Return a page with all that it needs in it."""
    blocks: dict[str, str] = {}

    def inlined(found: re.Match[str]) -> str:
        name, value = found[1], html.unescape(found[2])
        if name in ("data-charts", "data-log"):
            blocks[value] = _block(export, value)
            return found[0]
        target = export.place(value) if value.startswith("/") else value
        keeps = value.startswith(("#", "?")) or target is not None
        return f' {name}="{html.escape(target or value)}"' if keeps and name in ("href", "src") else ""

    compared = re.search(r'<section class="report" hx-get="([^"]*)"[^>]*>.*?</section>', page, re.DOTALL)
    if compared is not None:
        report = export.ask(html.unescape(compared[1])).decode()
        page = page.replace(compared[0], f'<section class="report">{report}</section>')
    if address == "/runs":
        page = _with_sparks(page, export, blocks)
    page = _LIVE.sub("", _LINK.sub(inlined, _HEAD.sub("", page)))
    draws = "data-charts=" in page
    scripts = [
        (_STATIC / name).read_text(encoding="utf-8") for name in _SCRIPTS if draws or not name.startswith("vendor/")
    ]
    css = style() + ((_STATIC / "vendor" / "uPlot.min.css").read_text(encoding="utf-8") if draws else "")
    policy = (
        f"default-src 'none'; img-src 'self' file:; style-src {_hash(css)}; "
        f"script-src {' '.join(map(_hash, scripts))}; base-uri 'none'; form-action 'none'"
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{css}</style>\n'
    data = "".join(
        f'<script type="application/json" data-url="{html.escape(url)}">{text}</script>\n'
        for url, text in blocks.items()
    )
    tail = data + "".join(f"<script>{script}</script>\n" for script in scripts)
    page = page.replace("</head>", f"{head}</head>").replace("<body>", '<body class="still">')
    return page.replace("</body>", f"{tail}</body>")


def _with_sparks(page: str, export: _Export, blocks: dict[str, str]) -> str:
    """Keep the curves of the first metric, as the page asks for them."""
    metric = re.search(r'<select id="spark"><option value="([^"]*)"', page)
    runs = re.findall(r'<tr data-run="([^"]*)"', page)
    if metric is not None and runs:
        query = "&".join([f"name={quote(html.unescape(metric[1]))}", *(f"run={run}" for run in runs)])
        blocks["sparks"] = _safe(export.ask(f"/runs/sparks.json?{query}").decode())
    return page


def _block(export: _Export, address: str) -> str:
    """Return what an address answers, as JSON in a data block; a log as one text."""
    try:
        data = export.ask(address).decode()
    except Error:
        data = "" if address.endswith("/log") else '{"charts": [], "more": 0, "began": {}, "unread": []}'
    return _safe(json.dumps(data) if address.endswith("/log") else data)


def _safe(text: str) -> str:
    """Return JSON that cannot end the block that it stands in."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"
