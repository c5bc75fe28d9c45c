"""A folder becomes a version and comes back byte for byte, or nothing happens at all."""

import contextlib
import functools
import os
import socket
import threading
from typing import Any

import pytest

import reprokit.packages.package as module
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError, UsageError
from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.registry import open_registry
from tests.conftest import lies_at, overwrite

FILES = {"a.txt": b"hello\n", "empty": b"", "é/猫.bin": bytes(range(256)), "deep/er/x": b"1"}


@pytest.fixture
def registry(tmp_path):
    return open_registry(str(tmp_path / "registry"))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for key, data in FILES.items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
    return root


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def flip(registry, package, key):
    """Flip one bit of an object in the registry, as a failing disk would."""
    path, offset = lies_at(registry, package.manifest[key])
    overwrite(path, offset, bytes([path.read_bytes()[offset] ^ 1]))


def test_what_was_built_is_what_is_installed(registry, folder, tmp_path):
    result = build(folder, "a/b", registry=registry, message="first", meta={"k": [1]}, tags=("v1",))
    assert (result.entries, result.size, result.new_bytes) == (4, 263, 263)
    package = Package.open("a/b:v1", registry=registry)
    assert (package.top_hash, package.manifest.message, package.manifest.user_meta) == (
        result.top_hash,
        "first",
        {"k": [1]},
    )
    package.install(tmp_path / "out")
    assert contents(tmp_path / "out") == FILES
    assert {key: package[key].read() for key in package} == FILES
    assert package["a.txt"].open().read() == b"hello\n"
    assert ("a.txt" in package, "b.txt" in package, len(package)) == (True, False, 4)
    assert package.verify() == []


def test_hello_alone_has_the_published_top_hash(registry, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_bytes(b"hello\n")
    expected = "0212a41007c76801b91ab655e7a9fa830d26ac9c9633e2abf5c106980ce799c7"
    assert build(tmp_path / "d", "a/b", registry=registry).top_hash == expected


def test_building_again_stores_nothing_new(registry, folder):
    first = build(folder, "a/b", registry=registry)
    again = build(folder, "a/b", registry=registry)
    assert (again.top_hash, again.new_bytes) == (first.top_hash, 0)


def test_a_flipped_bit_is_never_handed_out(registry, folder, tmp_path):
    build(folder, "a/b", registry=registry)
    package = Package.open("a/b", registry=registry)
    flip(registry, package, "a.txt")
    expected = package.manifest["a.txt"].digest.hex[:12]
    start = f"a.txt of {package} is corrupt: expected {expected}…, read "
    with pytest.raises(DataMismatchError) as caught:
        package["a.txt"].read()
    assert caught.value.message.startswith(start)
    with pytest.raises(DataMismatchError) as caught:
        package.install(tmp_path / "out")
    assert caught.value.message.startswith(start)
    assert sorted(os.listdir(tmp_path)) == ["data", "registry"]


def test_a_flipped_bit_is_found_by_verify(registry, folder):
    build(folder, "a/b", registry=registry)
    package = Package.open("a/b", registry=registry)
    flip(registry, package, "é/猫.bin")
    seen, problems = verify_registry(registry)
    assert seen == 1
    assert problems[:1] == Package.open("a/b", registry=registry).verify()
    (name,) = registry.objects.pack_names()
    assert [(problem.package, problem.top_hash, problem.logical_key) for problem in problems] == [
        ("a/b", package.top_hash, "é/猫.bin"),
        ("", "", None),
    ]
    assert problems[1].message.startswith(f"Pack {name[:12]}… is damaged: its bytes have the hash ")


def test_entries_are_verified_side_by_side_and_problems_come_in_their_order(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_TASK", 5)
    (tmp_path / "many").mkdir()
    for number in range(12):
        (tmp_path / "many" / f"{number:02}.txt").write_text(f"number {number:02}")
    build(tmp_path / "many", "a/b", registry=registry)
    package = Package.open("a/b", registry=registry)
    threads: set[int] = set()
    meet = threading.Barrier(2)

    def claims(of: Package) -> dict[str, Any]:
        def check(key: str, _: memoryview) -> None:
            threads.add(threading.get_ident())
            if key in ("00.txt", "01.txt"):
                meet.wait(20)  # neither is read before the other has begun
            if key in ("09.txt", "03.txt"):
                raise DataMismatchError(f"{key} is wrong.")

        return {key: functools.partial(check, key) for key in of}

    counted: list[int] = []

    class Counting:
        def task(self, *_: Any, **__: Any) -> Any:
            return contextlib.nullcontext(counted.append)

    found = package.verify(claims=claims, progress=Counting())
    assert [problem.message for problem in found] == ["03.txt is wrong.", "09.txt is wrong."]
    assert len(threads) == 2
    assert sum(counted) == 12


def test_a_lost_object_and_a_lost_manifest_are_found_by_verify(registry, folder):
    build(folder, "a/b", registry=registry)
    package = Package.open("a/b", registry=registry)
    lies_at(registry, package.manifest["deep/er/x"])[0].unlink()
    assert "deep/er/x" in [problem.logical_key for problem in verify_registry(registry)[1]]
    registry.manifest_path(package.top_hash).unlink()
    assert [problem.logical_key for problem in verify_registry(registry)[1]] == [None]


def test_building_again_repairs_a_lost_object(registry, folder):
    build(folder, "a/b", registry=registry)
    package = Package.open("a/b", registry=registry)
    lies_at(registry, package.manifest["a.txt"])[0].unlink()
    build(folder, "a/b", registry=registry)
    assert package.verify() == []


def test_a_missing_package_is_an_error(registry):
    with pytest.raises(NotFoundError) as caught:
        Package.open("a/b", registry=registry)
    assert caught.value.message == f"No package a/b in {registry.url}."


def test_install_refuses_a_folder_that_is_not_empty(registry, folder, tmp_path):
    build(folder, "a/b", registry=registry)
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(RefusedError) as caught:
        Package.open("a/b", registry=registry).install(out)
    assert caught.value.message == f"{out} exists and is not empty; nothing was written."
    assert os.listdir(out) == ["mine"]


def test_install_fills_an_empty_folder(registry, folder, tmp_path):
    build(folder, "a/b", registry=registry)
    (tmp_path / "out").mkdir()
    Package.open("a/b", registry=registry).install(tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_a_link_inside_is_stored_as_its_file(registry, folder):
    (folder / "link").symlink_to("a.txt")
    build(folder, "a/b", registry=registry)
    assert Package.open("a/b", registry=registry)["link"].read() == b"hello\n"


@pytest.mark.parametrize("target", ["/etc/hostname", "../outside", "nowhere", "deep", "link"])
def test_links_that_are_not_files_inside_are_refused(registry, folder, target):
    (folder.parent / "outside").touch()
    (folder / "link").symlink_to(target)
    with pytest.raises(RefusedError) as caught:
        build(folder, "a/b", registry=registry)
    assert caught.value.message == (
        f"{folder / 'link'} is a symbolic link to {target!r}, which is not a file inside {folder.resolve()}."
    )
    assert list(registry.packages()) == []


def test_sockets_and_pipes_are_refused(registry, folder, monkeypatch):
    monkeypatch.chdir(folder)  # the name of a socket has a short limit
    os.mkfifo("pipe")
    with pytest.raises(RefusedError) as caught:
        build(folder, "a/b", registry=registry)
    expected = f"{folder / 'pipe'} is a socket, pipe or device; a package holds files only."
    assert caught.value.message == expected
    os.unlink("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        with pytest.raises(RefusedError) as caught:
            build(folder, "a/b", registry=registry)
    assert caught.value.message == expected.replace("pipe is", "sock is")


@pytest.mark.parametrize("name", ["e\u0301", "a\\b", os.fsdecode(b"\xff")])
def test_files_with_illegal_names_are_refused(registry, folder, name):
    try:
        (folder / name).touch()
    except (OSError, UnicodeError):
        pytest.skip("the file system does not take this name")
    with pytest.raises(UsageError) as caught:
        build(folder, "a/b", registry=registry)
    assert caught.value.message.startswith(f"Not a legal logical key: {name!r} (")
    assert not (folder.parent / "registry").exists()


def test_names_that_differ_in_case_alone_are_refused(registry, folder):
    (folder / "A.TXT").touch()
    if len(os.listdir(folder)) == 4:
        pytest.skip("the file system does not tell case apart")
    with pytest.raises(UsageError, match="Two logical keys cannot stand side by side"):
        build(folder, "a/b", registry=registry)


@pytest.mark.parametrize("meta", [{"x": float("nan")}, {"x": {1, 2}}, {"x": "\ud800"}])
def test_metadata_that_is_not_json_is_refused(registry, folder, meta):
    with pytest.raises(UsageError):
        build(folder, "a/b", registry=registry, meta=meta)
    assert list(registry.packages()) == []


def test_the_namespace_of_runs_and_what_is_not_a_folder_are_refused(registry, folder):
    with pytest.raises(RefusedError) as caught:
        build(folder, "runs/x", registry=registry)
    assert caught.value.message == "The namespace 'runs' is reprokit's own: runs/x cannot be built by hand."
    with pytest.raises(UsageError) as caught:
        build(folder / "nothing", "a/b", registry=registry)
    assert caught.value.message == f"{folder / 'nothing'} is not a folder, and no file."
    with pytest.raises(UsageError):
        build(folder, "a/b", registry=registry, tags=("no/tag",))
    assert not (folder.parent / "registry").exists()


def test_one_file_is_a_version_of_one_entry(registry, folder):
    made = build(folder / "a.txt", "a/b", registry=registry)
    package = Package.open("a/b", registry=registry)
    assert (made.entries, package["a.txt"].read()) == (1, (folder / "a.txt").read_bytes())


def test_an_empty_folder_is_a_version(registry, tmp_path):
    (tmp_path / "nothing").mkdir()
    build(tmp_path / "nothing", "a/b", registry=registry)
    Package.open("a/b", registry=registry).install(tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
