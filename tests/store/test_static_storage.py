"""A registry that a web server serves as files: read by everybody, written by nobody, believed in nothing."""

from __future__ import annotations

import functools
import gzip
import http.server
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprokit.errors import DataMismatchError, Error, NotFoundError, RefusedError, RegistryError, UsageError
from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.registry import Registry, open_registry
from reprokit.registry.info import info, write_listing
from reprokit.registry.local import LocalRegistry
from reprokit.runs.listing import Contents, ShownRun, ls, show
from reprokit.runs.store import RunStore
from reprokit.runs.transfer import pull
from reprokit.store import remote_objects, remote_places
from tests.conftest import put_run

HEAD = b"reprokit listing 1\n"
RUN, SECOND = "20260101-000000-aaaaa1", "20260102-000000-aaaaa2"
FILES = {f"{n % 3}/{n}": b"%d" % n * 9 for n in range(60)} | {"large": random.Random(3).randbytes(2_500_000)}


class Handler(http.server.SimpleHTTPRequestHandler):
    """The standard library's, with ranges, as every server for the public has them."""

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        data = path.read_bytes()
        first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
        if first >= len(data):
            self.send_error(416)
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> LocalRegistry:
    made = LocalRegistry(tmp_path / "site" / "registry", cache=tmp_path / "cache")
    build(FILES, "a/b", registry=made, message="first")
    put_run(made, RUN, metrics={"loss": 0.5}, outputs={"o": b"1"})
    return made


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(Handler, directory=str(tmp_path / "site"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/registry"
        server.shutdown()


@pytest.fixture
def served(folder: LocalRegistry, site: str, tmp_path: Path) -> Registry:
    write_listing(folder)
    return open_registry(site, cache=tmp_path / "reader")


def test_it_reads_as_the_folder_does(folder: LocalRegistry, served: Registry, tmp_path: Path) -> None:
    found, there = ls(registry=served), ls(registry=folder)
    assert isinstance(found, Contents)
    assert found == there
    shown = show(RUN, registry=served)
    assert isinstance(shown, ShownRun)
    assert shown.record == RunStore(folder).load(RUN).record
    Package.open("a/b", registry=served).install(tmp_path / "out")
    assert {key: (tmp_path / "out" / key).read_bytes() for key in FILES} == FILES
    assert verify_registry(served) == (2, [])
    told = info(served)
    assert (told.kind, told.packages, told.runs, told.uuid) == ("http", 1, 1, folder.uuid)


def test_it_is_pulled_from(served: Registry, tmp_path: Path) -> None:
    mine = LocalRegistry(tmp_path / "mine")
    pull(RUN, source=served, target=mine, everything=True)
    pull("a/b", source=served, target=mine)
    assert verify_registry(mine) == (2, [])


def test_a_large_object_that_lies_whole_in_the_folder(
    folder: LocalRegistry, site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (remote_objects, remote_places):
        monkeypatch.setattr(module, "PART", 1024 * 1024)
    write_listing(folder)
    served = open_registry(site, cache=tmp_path / "reader")
    entry = Package.open("a/b", registry=served).manifest["large"]
    assert served.read_range(entry, 1_000_000, 100_000, what="x") == FILES["large"][1_000_000:1_100_000]
    assert served.read_object(entry, what="x") == FILES["large"]


def test_nothing_is_written_to_it(served: Registry) -> None:
    top_hash = served.top_hashes("a/b")[0]
    for action in (
        lambda: served.tag("a/b", top_hash, ("x",)),
        lambda: build({"x": b"x"}, "a/b", registry=served),
        lambda: served.delete("a/b", top_hash),
        lambda: served.note(f"runs/{RUN}", "text"),
    ):
        with pytest.raises(RefusedError, match="static files, which is only read"):
            action()


def test_what_was_published_since_is_seen_when_the_listing_is_written_again(
    folder: LocalRegistry, site: str, tmp_path: Path
) -> None:
    first = write_listing(folder)
    assert write_listing(folder) == first
    put_run(folder, SECOND)
    before = open_registry(site, cache=tmp_path / "reader")
    assert [one.run for one in RunStore(before).summaries()] == [RUN]
    write_listing(folder)
    assert [one.run for one in RunStore(open_registry(site, cache=tmp_path / "reader")).summaries()] == [RUN, SECOND]


def test_one_from_a_bucket_is_served_too(tmp_path: Path, site: str) -> None:
    made = open_registry(f"memory://{tmp_path.name}", cache=tmp_path / "cache")
    build(FILES, "a/b", registry=made)
    put_run(made, RUN)  # type: ignore[arg-type]
    write_listing(made)
    storage = made.storage  # type: ignore[attr-defined]
    for start in ("heads", "log", "manifests", "objects", "packs", "recent"):
        for stored in storage.walk(start):
            path = tmp_path / "site" / "registry" / stored.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(storage.read(stored.key, max_bytes=1 << 30))
    for name in ("listing.gz", "reprokit-registry.json"):
        (tmp_path / "site" / "registry" / name).write_bytes(storage.read(name, max_bytes=1 << 30))
    served = open_registry(site, cache=tmp_path / "reader")
    assert verify_registry(served) == (2, [])
    assert [one.run for one in RunStore(served).summaries()] == [RUN]


def test_without_a_listing_it_is_said_what_to_do(folder: LocalRegistry, site: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        list(open_registry(site, cache=tmp_path / "reader").packages())
    assert caught.value.hint is not None
    assert "reprokit registry listing" in caught.value.hint


def _zipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    "listing",
    [
        b"", b"no gzip", _zipped(b""), _zipped(b"reprokit listing 2\n"), _zipped(HEAD[:-1]),
        *(_zipped(HEAD + rest) for rest in (b"1", b"x log/a/b/1\n", b"-1 packs/x\n", b"1 \xff\n", b"nokey\n")),
        _zipped(HEAD + b"5 a\n")[:-6],
    ],
)  # fmt: skip
def test_a_listing_that_is_none_is_refused(folder: LocalRegistry, site: str, tmp_path: Path, listing: bytes) -> None:
    (folder.root / "listing.gz").write_bytes(listing)
    with pytest.raises(DataMismatchError, match=r"listing\.gz is no listing"):
        list(open_registry(site, cache=tmp_path / "reader").packages())


def test_a_listing_that_lies_costs_nothing_but_an_error(folder: LocalRegistry, site: str, tmp_path: Path) -> None:
    lies = b"".join(
        b"%d %s\n" % (size, key)
        for size, key in [
            (10**15, b"packs/" + b"0" * 64 + b".zip"), (5, b"log/a/b/9999999999"), (5, b"log/../../x/0000000001"),
            (5, b"log/runs/20260101-000000-aaaaa1/0000000009"), (7, b"heads/runs/" + b"1" * 64),
        ]
    )  # fmt: skip
    (folder.root / "listing.gz").write_bytes(gzip.compress(HEAD + lies))
    served = open_registry(site, cache=tmp_path / "reader")
    for action in (
        lambda: ls(registry=served),
        lambda: served.head("a/b"),
        lambda: verify_registry(served),
        lambda: Package.open("a/b", registry=served),
    ):
        try:
            action()
        except Error as error:
            assert error.message
    assert {path.name for path in tmp_path.iterdir()} <= {"site", "cache", "reader"}


def test_bytes_that_were_changed_on_the_way_are_noticed(folder: LocalRegistry, served: Registry) -> None:
    for pack in (folder.root / "packs").iterdir():
        pack.chmod(0o644)
        data = bytearray(pack.read_bytes())
        data[100] ^= 1
        pack.write_bytes(bytes(data))
    with pytest.raises((DataMismatchError, RegistryError)):
        Package.open("a/b", registry=served).install(folder.root.parent / "out")


@pytest.mark.parametrize("url", ["http://example.org/registry", "http://127.0.0.1.example.org/x"])
def test_without_tls_only_this_machine_is_read_from(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without TLS"):
        open_registry(url, cache=tmp_path)
