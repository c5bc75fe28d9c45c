"""A proxy before an object store that does what networks and stores do: drawn by a seed, counted by kind.

Requests pass unchanged, since they are signed. What a fault does to the store is part of its kind: a write whose answer
is lost has been written.
"""

from __future__ import annotations

import contextlib
import random
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator

__all__ = ["KINDS", "FaultProxy", "fault_proxy"]

KINDS = (
    "reset",  # before the request reaches the store
    "lost",  # the store did it, the answer never comes
    "cut",  # half of the answer comes
    "500",
    "503",
    "429",
    "503 after",  # the store did it, and says that it is busy
    "twice",  # the request arrives two times; the second answer counts
    "late",
)
_ERRORS = {"500": "InternalError", "503": "SlowDown", "429": "TooManyRequests"}


class FaultProxy(socketserver.ThreadingTCPServer):
    """Listens on `port`; forwards to the store's.

    Attributes:
        away: Nothing reaches the store.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, store: int, *, share: float, seed: int, delay: float = 0.0) -> None:
        """Stand before a store.

        Args:
            store: Its port.
            share: Of requests that a fault happens to.
            delay: Seconds added to every request.
        """
        super().__init__(("127.0.0.1", 0), _Connection)
        self.store = store
        self.share = share
        self.delay = delay
        self.away = False
        self.requests: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def reseed(self, seed: int, *, share: float) -> None:
        """Draw anew from here on."""
        with self._lock:
            self.share = share
            self._random = random.Random(seed)

    def draw(self, method: str) -> str | None:
        """Return what happens to the next request."""
        with self._lock:
            self.requests[method] += 1
            if self._random.random() >= self.share:
                return None
            kind = self._random.choice(KINDS)
            self.faults[kind] += 1
            return kind

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that break are what this is for."""


class _Connection(socketserver.StreamRequestHandler):
    server: FaultProxy

    def handle(self) -> None:
        while (head := _head(self.rfile)) is not None:
            method = head.partition(b" ")[0].decode()
            body = self.rfile.read(_length(head))
            if self.server.away:
                return self._reset()
            kind = self.server.draw(method)
            if self.server.delay:
                time.sleep(self.server.delay)
            if kind == "reset":
                return self._reset()
            if kind in _ERRORS:
                self._answer(int(kind), _ERRORS[kind])
                continue
            answer = self._ask(head, body, method)
            if kind == "twice":
                answer = self._ask(head, body, method)
            if kind == "lost":
                return self._reset()
            if kind == "cut":
                self.wfile.write(answer[: len(answer) // 2])
                return self._reset()
            if kind == "503 after":
                self._answer(503, "SlowDown")
                continue
            if kind == "late":
                time.sleep(0.2)
            self.wfile.write(answer)
        return None

    def _ask(self, head: bytes, body: bytes, method: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.server.store)) as store, store.makefile("rb") as answer:
            store.sendall(head + body)
            said = _head(answer)
            assert said is not None, "the store closed the connection"
            if method == "HEAD" or said[9:12] in (b"204", b"304"):
                return said
            if b"transfer-encoding: chunked" in said.lower():
                return said + b"".join(_chunks(answer))
            return said + answer.read(_length(said))

    def _answer(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>drawn</Message></Error>".encode()
        self.wfile.write(
            b"HTTP/1.1 %d Drawn\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s"
            % (status, len(body), body)
        )

    def _reset(self) -> None:
        self.wfile.flush()
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.request.close()


def _head(stream: object) -> bytes | None:
    lines = []
    with contextlib.suppress(OSError):
        while line := stream.readline():  # type: ignore[attr-defined]
            lines.append(line)
            if line == b"\r\n":
                return b"".join(lines)
    return None


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _chunks(stream: object) -> Iterator[bytes]:
    while True:
        line = stream.readline()  # type: ignore[attr-defined]
        size = int(line.partition(b";")[0], 16)
        yield line + stream.read(size + 2)  # type: ignore[attr-defined]
        if not size:
            return


@contextlib.contextmanager
def fault_proxy(store: int, *, share: float = 0.0, seed: int = 0, delay: float = 0.0) -> Iterator[FaultProxy]:
    """Run a proxy for as long as the context is open."""
    with FaultProxy(store, share=share, seed=seed, delay=delay) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
