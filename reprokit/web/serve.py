"""The server: bound to this machine alone, on a port that is free."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from reprokit.errors import UsageError
from reprokit.registry.context import Context
from reprokit.web.app import application

__all__ = ["PORT", "serve"]

PORT = 8265
HOST = "127.0.0.1"
_OTHERS = 20  # ports that are tried after one that is taken, where nobody asked for one


def serve(context: Context, *, port: int | None = None, ready: Callable[[str], None] = lambda _: None) -> None:
    """Show a registry to browsers on this machine, until SIGINT or SIGTERM.

    Args:
        port: Which one; 0 takes any that is free, None the usual one or, if it is taken, one of those after it.
        ready: Called with the address once it answers.
    Raises:
        UsageError: The port is taken.
    """
    listener = _bound(port)
    number = listener.getsockname()[1]
    names = [f"{name}:{number}" for name in (HOST, "localhost")]
    address = f"http://{HOST}:{number}/"

    class _Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready(address)

    app = application(context, names)
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
    with listener:
        _Server(config).run(sockets=[listener])


def _bound(port: int | None) -> socket.socket:
    """Return a socket that is bound to a port of this machine, to which no other can connect."""
    taken: OSError | None = None
    for number in [port] if port is not None else [*range(PORT, PORT + _OTHERS), 0]:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, number))
        except OSError as error:
            listener.close()
            taken = error
        else:
            return listener
    free = _bound(0)
    with free:
        offered = free.getsockname()[1]
    raise UsageError(
        f"Port {port} cannot be had: {taken.strerror if taken is not None else 'it is taken'}.",
        hint=f"`reprokit ui` without --port takes a free one; --port {offered} is free now.",
    )
