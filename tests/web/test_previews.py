"""A file is shown as what it is, and nothing of it is executed."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprokit.errors import DataMismatchError
from reprokit.packages.build import build
from reprokit.packages.package import Package
from reprokit.registry.local import LocalRegistry
from reprokit.web import previews
from reprokit.web.previews import Preview, image_type, preview
from tests.conftest import lies_at
from tests.web.conftest import EVIL, Lab


@pytest.fixture(scope="module")
def package(lab: Lab) -> Package:
    (first, _) = lab.registry.top_hashes("demo/files")
    return Package.open(f"demo/files@{first}", registry=lab.registry)


def _shown(package: Package, key: str) -> Preview:
    return preview(package, package.manifest[key])


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("a.png", "image"), ("fake.png", "text"), ("table.csv", "table"), ("rows.jsonl", "table"),
        ("page.html", "text"),
        ("draw.svg", "text"), ("note.ipynb", "notebook"), ("net.safetensors", "tensors"), ("bad.safetensors", "bytes"),
        ("bytes.bin", "bytes"), ("deep/er/one.txt", "text"), ("deep/two.json", "text"), ("empty", "text"),
    ],
)  # fmt: skip
def test_every_kind_of_file_has_a_way_to_be_shown(package: Package, key: str, kind: str) -> None:
    assert _shown(package, key).kind == kind


def test_what_is_in_them(package: Package) -> None:
    assert _shown(package, "table.csv").head == ["x", "y"]
    assert _shown(package, "table.csv").rows[0] == ["1", "2"]
    assert _shown(package, "rows.jsonl") == Preview(kind="table", head=["a", "b"], rows=[["1", ""], ["2", "c"]])
    assert _shown(package, "net.safetensors").rows == [("w", "F32", "[2]", "8")]
    assert "9,223" not in _shown(package, "bad.safetensors").note
    assert _shown(package, "bad.safetensors").note.startswith("Its header would have 18,446,744,073,709,551,615 bytes")
    (cell,) = _shown(package, "note.ipynb").cells
    assert (cell.source, "‮" in cell.output, "<script>" in cell.output) == ("1 + 1", False, True)
    assert _shown(package, "deep/two.json").text == '{\n "b": [\n  1,\n  2\n ]\n}'
    assert EVIL[:20] in _shown(package, "page.html").text


def test_images_are_told_by_their_bytes_alone() -> None:
    assert image_type(b"\x89PNG\r\n\x1a\nrest") == "image/png"
    assert image_type(b"RIFF\0\0\0\0WEBPVP8 ") == "image/webp"
    for data in (b"<svg xmlns=", b"<html>", b"RIFF\0\0\0\0WAVE", b"", b"%PDF"):
        assert image_type(data) is None


def test_what_is_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "long.txt").write_text("x" * 300_000)
    (tmp_path / "files" / "rows.csv").write_text("n\n" + "".join(f"{n}\n" for n in range(250)))
    (tmp_path / "files" / "odd.csv").write_text('a,b\n"' + "x" * 200_000 + '"\n')
    registry = LocalRegistry(tmp_path / "registry")
    build(tmp_path / "files", "t/t", registry=registry)
    package = Package.open("t/t", registry=registry)
    assert len(_shown(package, "long.txt").text) == 200_000
    assert _shown(package, "odd.csv").kind == "text"  # a field that is longer than a table's may be
    pages = [preview(package, package.manifest["rows.csv"], page=page) for page in range(4)]
    assert [(len(one.rows), one.more) for one in pages] == [(100, True), (100, True), (50, False), (0, False)]
    assert (pages[1].rows[0], pages[2].rows[-1]) == (["100"], ["249"])
    monkeypatch.setattr(previews, "_MOST", 1000)
    monkeypatch.setattr(registry, "read_object", lambda *_, **__: pytest.fail("it was read"))
    assert _shown(package, "long.txt").note == "300,000 bytes are more than is shown here (1,000)."


def test_a_damaged_file_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_bytes(b"a" * 200_000)
    registry = LocalRegistry(tmp_path / "registry")
    build(tmp_path / "files", "t/t", registry=registry)
    package = Package.open("t/t", registry=registry)
    path, start = lies_at(registry, package.manifest["a.txt"])
    path.chmod(0o644)
    with path.open("r+b") as handle:
        handle.seek(start)
        handle.write(b"b")
    with pytest.raises(DataMismatchError):
        _shown(package, "a.txt")
