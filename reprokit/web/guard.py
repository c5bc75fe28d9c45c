"""What stands before the page: who may ask, and what a browser may do with the answer."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["POLICY", "Guard"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI. Answers GET and HEAD alone, and only what asks for this server by a name of this machine.

    A page of somebody else's, whose name resolves to this machine (DNS rebinding), has its own name in `Host`; what it
    fetches, and does not only link to, says so in `Sec-Fetch-Site` or `Origin`.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        """Stand before an application.

        Args:
            hosts: What `Host` may be: names with the port, such as `127.0.0.1:8265`.
        """
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may ask, with what a browser is to keep to added to the answer."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-cache")
            await send(message)

        refused = self._refused(scope)
        await (self._app if refused is None else refused)(scope, receive, told)

    def _refused(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if host not in self._hosts:
            return PlainTextResponse("This page answers to the address that `reprokit ui` printed alone.\n", 421)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        foreign = origin is not None and origin.lower() not in {f"http://{host}" for host in self._hosts}
        if foreign or (site in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate"):
            return PlainTextResponse("This page is not read from other pages.\n", 403)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("This page reads alone.\n", 405, headers={"allow": "GET, HEAD"})
        return None
