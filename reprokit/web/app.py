"""The application: which address shows what, and what becomes of errors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from reprokit.errors import DataMismatchError, Error, NotFoundError, RegistryError, UsageError
from reprokit.registry.context import Context
from reprokit.web.guard import Guard
from reprokit.web.site import Site, site_of, style
from reprokit.web.views import compare, lineage, package, run, runs, search

__all__ = ["application"]

_STATUS: dict[type[Error], int] = {
    NotFoundError: 404, UsageError: 400, DataMismatchError: 422, RegistryError: 503,
}  # fmt: skip


def application(context: Context, hosts: Iterable[str]) -> Starlette:
    """Return the page of a registry.

    Args:
        hosts: By which names, with the port, it may be asked for.
    """
    app = Starlette(
        routes=[
            Route("/", _home),
            Route("/style.css", _style),
            Route("/runs", runs.page),
            Route("/runs/sparks.json", runs.sparks),
            Route("/runs/{run}", run.page),
            Route("/runs/{run}/charts.json", run.charts),
            Route("/runs/{run}/log", run.log),
            Route("/runs/{run}/now", run.now),
            Route("/report", compare.report),
            Route("/compare", compare.page),
            Route("/packages", package.index),
            Route("/packages/{space}/{name}", package.page),
            Route("/packages/{space}/{name}/diff", package.diff),
            Route("/packages/{space}/{name}/{top_hash}/view", package.view),
            Route("/packages/{space}/{name}/{top_hash}/raw", package.raw),
            Route("/lineage", lineage.page),
            Route("/search", search.page),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        middleware=[Middleware(Guard, hosts=tuple(hosts))],
        exception_handlers={Error: _wrong, HTTPException: _missing, Exception: _ours},
    )
    app.state.site = Site(context)
    return app


def _home(_: Request) -> Response:
    return RedirectResponse("/runs", 302)


def _style(_: Request) -> Response:
    return Response(style(), media_type="text/css")


def _wrong(request: Request, error: Exception) -> Response:
    told = cast("Error", error)
    status = next((code for kind, code in _STATUS.items() if isinstance(told, kind)), 409)
    return site_of(request).render(
        "error.html.j2", status=status, title=told.message, hint=told.hint or "", nav="", code=status
    )


def _missing(request: Request, error: Exception) -> Response:
    told = cast("HTTPException", error)
    if told.status_code != 404:
        return PlainTextResponse(f"{told.detail}\n", told.status_code)
    return site_of(request).render(
        "error.html.j2", status=404, title="There is no such page.", hint="", nav="", code=404
    )


def _ours(request: Request, error: Exception) -> Response:
    return site_of(request).render(
        "error.html.j2", status=500, title=f"This page has a fault of its own: {type(error).__name__}.",
        hint="The terminal of `reprokit ui` has the details: please report them.", nav="", code=500,
    )  # fmt: skip
