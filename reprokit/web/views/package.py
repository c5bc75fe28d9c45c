"""Packages: their versions and tags, what is in one, what changed between two, and who used it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from reprokit.comparison.package_diff import PackageDiff, diff_packages
from reprokit.core.refs import RESERVED, VERDICTS, PackageRef
from reprokit.errors import NotFoundError, UsageError
from reprokit.packages.package import Package
from reprokit.runs.listing import LogRow, log
from reprokit.schema.manifest import Entry
from reprokit.web.previews import IMAGES, ROWS, image_type, preview
from reprokit.web.site import Site, site_of

__all__ = ["diff", "index", "page", "raw", "view"]

_FILES = 200  # that are listed at once
_MOST_IMAGE = 20_000_000
_MOST_CHANGED = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A folder of a version, with all that is below it."""

    name: str
    files: int
    size: int


def index(request: Request) -> Response:
    """List the packages."""
    site = site_of(request)
    found = []
    for space in site.registry.namespaces():
        if space not in (RESERVED, VERDICTS):
            for head in site.registry.heads(space):
                if head.latest is not None or head.tags:
                    found.append((head.name, head.latest, [tag for tag in head.tags if tag != "latest"], head.began))
    return site.render("packages.html.j2", nav="packages", packages=found, when=_when)


def _when(nanoseconds: int) -> str:
    try:
        return datetime.fromtimestamp(nanoseconds / 1e9, UTC).strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return "—"


def _named(request: Request) -> str:
    return f"{request.path_params['space']}/{request.path_params['name']}"


def _version(site: Site, name: str, wanted: str | None) -> Package:
    """Return the version that a tag or the beginning of a hash names; without either the latest."""
    if not wanted:
        return site.package(name, site.registry.resolve(PackageRef.parse(name)))
    try:
        ref = PackageRef.parse(f"{name}@{wanted}")
    except UsageError:
        ref = PackageRef.parse(f"{name}:{wanted}")
    return site.package(name, site.registry.resolve(ref))


def page(request: Request) -> Response:
    """Show a version of a package: one folder of it."""
    site, name = site_of(request), _named(request)
    package = _version(site, name, request.query_params.get("version"))
    at, number = request.query_params.get("at", ""), _number(request.query_params.get("page"))
    folders, files = _inside(package, at)
    if at and not folders and not files:
        raise NotFoundError(f"{name} has no folder {at!r} in this version.")
    rows = [row for row in site.table.now().rows if (name, package.top_hash) in row.inputs]
    shown = files[number * _FILES : (number + 1) * _FILES]
    return site.render(
        "package.html.j2", nav="packages", package=package, name=name, at=at, folders=folders, files=shown,
        count=len(files), page=number, more=(number + 1) * _FILES < len(files), up=_up(at), crumbs=_crumbs(at),
        versions=log(name, registry=site.registry)[:200], users=rows[:100], used=len(rows), when=_when,
        maker=site.runs.maker(name, package.top_hash), images=[one for one in shown if _is_image(one)][:60],
    )  # fmt: skip


def _is_image(entry: Entry) -> bool:
    return entry.logical_key.lower().endswith(IMAGES) and entry.size <= _MOST_IMAGE


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 7 else 0


def _inside(package: Package, at: str) -> tuple[list[Folder], list[Entry]]:
    """Return the folders and files that are directly in a folder of a version; "" is the version itself."""
    manifest = package.manifest
    prefix = f"{at.strip('/')}/" if at.strip("/") else ""
    folders: dict[str, list[int]] = {}
    files = []
    for position, (key, size) in enumerate(zip(manifest.keys, manifest.columns()[2], strict=True)):
        if not key.startswith(prefix):
            continue
        first, slash, _ = key[len(prefix) :].partition("/")
        if slash:
            counts = folders.setdefault(first, [0, 0])
            counts[0] += 1
            counts[1] += size
        else:
            files.append(position)
    found = [Folder(name=name, files=count, size=size) for name, (count, size) in folders.items()]
    return found, [manifest.entries[position] for position in files]


def _up(at: str) -> str | None:
    return None if not at.strip("/") else at.strip("/").rpartition("/")[0]


def _crumbs(at: str) -> list[tuple[str, str]]:
    parts = [part for part in at.split("/") if part]
    return [(part, "/".join(parts[: number + 1])) for number, part in enumerate(parts)]


def _entry(request: Request) -> tuple[Package, Entry]:
    site, key = site_of(request), request.query_params.get("key", "")
    package = _version(site, _named(request), request.path_params["top_hash"])
    return package, package.manifest[key]


def view(request: Request) -> Response:
    """Show a file of a version."""
    site = site_of(request)
    package, entry = _entry(request)
    number = _number(request.query_params.get("page"))
    found = preview(package, entry, page=number)
    run = package.name.partition("/")[2] if package.name.startswith(f"{RESERVED}/") else None
    return site.render(
        "view.html.j2", nav="packages" if run is None else "runs", package=package, entry=entry, preview=found,
        page=number, first=number * ROWS + 1, run=run,
    )  # fmt: skip


def raw(request: Request) -> Response:
    """Return an image: nothing else is given to a browser as it is."""
    package, entry = _entry(request)
    if not _is_image(entry):
        return PlainTextResponse("Images alone are sent as they are.\n", 415)
    data = package.registry.read_object(entry, what=f"{entry.logical_key} of {package}")
    kind = image_type(data)
    if kind is None:
        return PlainTextResponse("This is no image that is drawn here.\n", 415)
    headers = {"content-security-policy": "default-src 'none'; sandbox", "cache-control": "private, max-age=3600"}
    return Response(data, media_type=kind, headers=headers)


def diff(request: Request) -> Response:
    """Show what changed between two versions of a package."""
    site, name = site_of(request), _named(request)
    one, other = (_version(site, name, request.query_params.get(side)) for side in ("one", "other"))
    key = request.query_params.get("key")
    found: PackageDiff = diff_packages(one, other, [key] if key else (), content=bool(key))
    inside: dict[str, Any] = dict(found.content or {})
    versions: Sequence[LogRow] = log(name, registry=site.registry)[:200]
    return site.render(
        "package_diff.html.j2", nav="packages", name=name, one=one, other=other, found=found, inside=inside, key=key,
        most=_MOST_CHANGED, images=[name for name in found.changed if name.lower().endswith(IMAGES)][:24],
        versions=versions,
    )  # fmt: skip
