"""Real object stores for tests: servers on this machine, each in a folder of its own, stopped with the tests."""

from __future__ import annotations

import base64
import contextlib
import hmac
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

KEY = "AKIDTESTTESTTESTTEST"
SECRET = "".join(["nothing", "hides", "behind", "this", "one"])
AZURE_ACCOUNT = "devstoreaccount1"  # Azurite's own, which everybody knows
AZURE_KEY = "".join(["Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50u", "SRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="])
_READY = 60  # seconds


@dataclass(frozen=True)
class Server:
    """A server that speaks S3, and the variables that lead to it."""

    port: int

    @property
    def variables(self) -> Mapping[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }

    def used_by(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Set the variables for a test."""
        for name, value in self.variables.items():
            monkeypatch.setenv(name, value)

    def make_bucket(self, name: str) -> None:
        import boto3

        boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        ).create_bucket(Bucket=name)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def seaweed(folder: Path, *, volume_mb: int = 64) -> Iterator[Server]:
    """Run SeaweedFS: an independent implementation, with authentication, checksums and conditional writes.

    Args:
        volume_mb: Of which there are a hundred.
    """
    program = _program("weed")
    folder.mkdir(parents=True, exist_ok=True)
    port, master, volume, filer = (free_port() for _ in range(4))
    who = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
    who["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
    (folder / "s3.json").write_text(json.dumps({"identities": [who]}))
    command = [
        program, "server", f"-dir={folder}", "-ip=127.0.0.1", "-s3", f"-s3.config={folder / 's3.json'}",
        f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-master.port={master}",
        f"-master.port.grpc={free_port()}", f"-volume.port={volume}", f"-volume.port.grpc={free_port()}",
        f"-filer.port={filer}", f"-filer.port.grpc={free_port()}", f"-s3.port.grpc={free_port()}",
        f"-master.volumeSizeLimitMB={volume_mb}", "-volume.max=100",
    ]  # fmt: skip
    with _running(command, folder, port) as server:
        yield server


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[Server]:
    """Run moto's server: quick, conditional writes, no authentication."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with _running([sys.executable, "-m", "moto.server", "-p", str(port)], folder, port) as server:
        yield server


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    """Run `rclone serve s3`, which ignores conditions without a word."""
    (folder / "root").mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [_program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"]
    command += ["--vfs-cache-mode", "off", "--no-cleanup", str(folder / "root")]
    with _running(command, folder, port) as server:
        yield server


@dataclass(frozen=True)
class AzureServer:
    """A server that speaks Azure's protocol, with a container called `bucket`."""

    port: int

    def used_by(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Set the variables for a test."""
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY)
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{self.port}/{AZURE_ACCOUNT}")

    def make_container(self, name: str) -> None:
        """Create a container, which obstore has no call for."""
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
        version = "2021-08-06"
        empty = "\n" * 12
        told = f"PUT{empty}x-ms-date:{date}\nx-ms-version:{version}\n/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{name}"
        signed = hmac.digest(base64.b64decode(AZURE_KEY), f"{told}\nrestype:container".encode(), "sha256")
        headers = {
            "x-ms-date": date,
            "x-ms-version": version,
            "Authorization": f"SharedKey {AZURE_ACCOUNT}:{base64.b64encode(signed).decode()}",
            "Content-Length": "0",
        }
        url = f"http://127.0.0.1:{self.port}/{AZURE_ACCOUNT}/{name}?restype=container"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)).close()


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[AzureServer]:
    """Run Azurite, which Microsoft tests with."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("needs Azurite: npm install -g azurite")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [program, "--silent", "--location", str(folder), "--blobPort", str(port), "--skipApiVersionCheck"]
    with _running(command, folder, port):
        server = AzureServer(port)
        server.make_container("bucket")
        yield server


def _program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed; it comes with the extra `test`")
    return found


@contextlib.contextmanager
def _running(command: list[str], folder: Path, port: int) -> Iterator[Server]:
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        _wait_for(process, port, folder)
        yield Server(port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # SeaweedFS takes its time to end, and nothing of it is kept
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    end = time.monotonic() + _READY
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2)
        except urllib.error.HTTPError:
            return  # it answers, and wants to know who asks
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the server did not come up: {(folder / 'server.log').read_text()[-2000:]}")


class _Cloud(http.server.ThreadingHTTPServer):
    """What of Google Cloud Storage's XML interface object_store speaks: objects by name, with generations.

    Source: "XML API overview" and "Preconditions" of Google's documentation.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _CloudHandler)
        self.objects: dict[str, tuple[bytes, int, float]] = {}  # name → bytes, generation, time
        self.generation = 1
        self.lock = threading.Lock()


class _CloudHandler(http.server.BaseHTTPRequestHandler):
    server: _Cloud
    protocol_version = "HTTP/1.1"

    def _name(self) -> tuple[str, dict[str, str]]:
        path, _, query = self.path.partition("?")
        return urllib.parse.unquote(path).removeprefix("/bucket/"), dict(urllib.parse.parse_qsl(query))

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>x</Message></Error>".encode())

    def do_PUT(self) -> None:
        name, _ = self._name()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            if self.headers.get("x-goog-if-generation-match") == "0" and name in self.server.objects:
                self._error(412, "PreconditionFailed")
                return
            self.server.generation += 1
            self.server.objects[name] = data, self.server.generation, time.time()
        self._answer(200, ETag='"x"', x_goog_generation=str(self.server.generation))

    def do_GET(self) -> None:
        if self.path.partition("?")[0] in ("/bucket", "/bucket/"):
            self._list(self._name()[1])
            return
        found = self.server.objects.get(self._name()[0])
        if found is None:
            self._error(404, "NoSuchKey")
            return
        data, generation, at = found
        told = {"ETag": '"x"', "Last_Modified": formatdate(at, usegmt=True), "x_goog_generation": str(generation)}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._answer(200, data, **told)
            return
        first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        if first >= len(data):
            self._error(416, "InvalidRange")
        else:
            self._answer(206, data[first : last + 1], Content_Range=f"bytes {first}-{last}/{len(data)}", **told)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        with self.server.lock:
            gone = self.server.objects.pop(self._name()[0], None)
        self._answer(204) if gone is not None else self._error(404, "NoSuchKey")

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        after = query.get("continuation-token") or query.get("start-after", "")
        rows: dict[str, str] = {}
        for name, (data, _, at) in sorted(self.server.objects.items()):
            if not name.startswith(prefix):
                continue
            head, found, _ = name.removeprefix(prefix).partition(delimiter) if delimiter else (name, "", "")
            place = f"{prefix}{head}{delimiter}" if found else name
            if place <= after:
                continue
            moment = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at))
            key = escape(place)
            rows[place] = (
                f"<CommonPrefixes><Prefix>{key}</Prefix></CommonPrefixes>"
                if found
                else f"<Contents><Key>{key}</Key><Size>{len(data)}</Size><ETag>x</ETag>"
                f"<LastModified>{moment}</LastModified></Contents>"
            )
        page = list(rows.items())[: int(query.get("max-keys", "100"))]  # short pages: several are asked for
        more = f"<NextContinuationToken>{escape(page[-1][0])}</NextContinuationToken>" if len(page) < len(rows) else ""
        listed = "".join(row for _, row in page)
        self._answer(200, f"<?xml version='1.0'?><ListBucketResult>{listed}{more}</ListBucketResult>".encode())

    def log_message(self, *_: object) -> None:
        pass


@dataclass(frozen=True)
class CloudServer:
    """A stand-in for Google Cloud Storage with a bucket called `bucket`: unverified against the real one."""

    port: int
    account: Path

    def used_by(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Set the variables for a test."""
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(self.account))
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)


@contextlib.contextmanager
def google_cloud(folder: Path) -> Iterator[CloudServer]:
    """Run the stand-in for as long as the context is open."""
    with _Cloud() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = int(server.server_address[1])
        account = folder / "account.json"
        told = {
            "gcs_base_url": f"http://127.0.0.1:{port}",
            "disable_oauth": True,
            "client_email": "",
            "private_key": "",
        }
        account.write_text(json.dumps({**told, "private_key_id": ""}))
        try:
            yield CloudServer(port, account)
        finally:
            server.shutdown()
