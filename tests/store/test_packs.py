"""A pack never needs Zip64: it is full before its directory counts further than 16 bits, or its offsets than 32."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from reprokit.core.digest import hash_bytes
from reprokit.errors import DataMismatchError
from reprokit.schema.manifest import Entry
from reprokit.store import packs
from reprokit.store.index import Index
from reprokit.store.objects import ObjectStore
from reprokit.store.packs import MAX_MEMBERS, SMALL, Pack, PackWriter, directory_size, parse_directory
from reprokit.store.staging import stage


def test_the_limits_fit_into_the_fields_of_a_zip() -> None:
    assert MAX_MEMBERS < 2**16 - 1  # 65,535 says that the number stands elsewhere
    assert packs.MAX_BYTES + SMALL + packs._HEADER + MAX_MEMBERS * packs._CENTRAL.size + packs._END.size < 2**32 - 1


@pytest.mark.parametrize("count", [4, 5, 9])
@pytest.mark.parametrize("together", [True, False])
def test_more_objects_than_a_pack_may_have_go_into_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, together: bool
) -> None:
    monkeypatch.setattr(packs, "MAX_MEMBERS", 4)
    store = ObjectStore(tmp_path / "registry", Index(None))
    objects = [b"%d" % number for number in range(count)]
    with stage(store) as staging:
        if together:
            staging.put_all(objects)
        else:
            for data in objects:
                staging.put_again(hash_bytes(data).raw, data)
    sizes = []
    for name in store.pack_names():
        with zipfile.ZipFile(store.pack_path(name)) as archive:
            assert archive.testzip() is None
            sizes.append(len(archive.infolist()))
    assert sorted(sizes, reverse=True) == [4] * (count // 4) + [count % 4] * (count % 4 > 0)
    assert [store.read(Entry("x", len(data), hash_bytes(data)), what="x") for data in objects] == objects


def test_a_pack_takes_no_more_once_it_has_so_many_bytes(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "registry", Index(None), pack_bytes=2 * (packs._HEADER + 100))
    with stage(store) as staging:
        staging.put_all([bytes([number]) * 100 for number in range(5)])
    assert sorted(len(store.pack(name).members) for name in store.pack_names()) == [1, 2, 2]


def _pack(tmp_path: Path, *contents: bytes) -> Path:
    writer = PackWriter(tmp_path / "pack")
    for data in contents:
        writer.add(hash_bytes(data).raw, data)
    name = writer.finish()
    return (tmp_path / "pack").rename(tmp_path / f"{name}.zip")


def test_a_pack_has_the_bytes_that_it_always_had(tmp_path: Path) -> None:
    assert (
        _pack(tmp_path, b"one", b"", b"three" * 1000).stem
        == "642d0a6aead12c52cb8d9bba44a762c116a8ebb925b2ba959009e1551ef357f0"
    )


def test_a_pack_is_written_as_it_grows(tmp_path: Path) -> None:
    writer = PackWriter(tmp_path / "pack")
    contents = [bytes([number]) * (SMALL - 1) for number in range(10)]
    for number, data in enumerate(contents, 1):
        writer.add(hash_bytes(data).raw, data)
        assert number * SMALL - (tmp_path / "pack").stat().st_size < 5 * SMALL
    name = writer.finish()
    assert hash_bytes((tmp_path / "pack").read_bytes()).hex == name
    with zipfile.ZipFile(tmp_path / "pack") as archive:
        assert archive.testzip() is None
        assert [archive.read(info) for info in archive.infolist()] == contents
    pack = Pack((tmp_path / "pack").rename(tmp_path / f"{name}.zip"))
    assert [pack.read(*member) for member in pack.members.values()] == contents


def test_a_pack_that_was_cut_while_it_was_open_is_damaged_and_ends_no_process(tmp_path: Path) -> None:
    path = _pack(tmp_path, b"a" * 9000, b"b" * 9000)
    one, other = Pack(path), Pack(path)
    (first, *_) = other.members.values()
    assert one.unchanged() and other.unchanged()
    path.chmod(0o644)
    os.truncate(path, 5000)
    with pytest.raises(DataMismatchError, match="it was truncated"):
        _ = one.members
    assert other.read(*first) == b""
    assert not other.unchanged()
    os.truncate(path, 5)
    with pytest.raises(DataMismatchError, match="it is truncated"):
        Pack(path)


def test_no_bit_of_a_directory_makes_a_member_lie_outside_or_have_another_name(tmp_path: Path) -> None:
    path = _pack(tmp_path, b"one", b"three")
    whole = path.read_bytes()
    honest = dict(Pack(path).members)
    start = whole.index(b"PK\x01\x02")
    refused = 0
    other = tmp_path / "other"
    for bit in range(8 * start, 8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        other.unlink(missing_ok=True)
        other.write_bytes(data)
        try:
            found = dict(Pack(other).members)
        except DataMismatchError:
            refused += 1
            continue
        for raw, (offset, size) in found.items():
            assert offset >= packs._HEADER and offset + size <= start
            assert raw not in honest or size == honest[raw].size
    assert refused > 8 * 60


FIELDS = {  # of the central directory: the field's place, and what it may not say
    "signature": (0, b"PK\x01\x03"),
    "compression": (10, b"\x08\x00"),
    "size in the archive": (20, b"\x09\0\0\0"),
    "size": (24, b"\x09\0\0\0"),
    "length of the name": (28, b"\x3f\x00"),
    "offset": (42, b"\xff\xff\0\0"),
    "name": (46, b"G"),
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_directory_that_says_what_no_pack_says_is_damaged(tmp_path: Path, field: str) -> None:
    path = _pack(tmp_path, b"one", b"three")
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + FIELDS[field][0]
    assert data[at : at + len(FIELDS[field][1])] != FIELDS[field][1]
    data[at : at + len(FIELDS[field][1])] = FIELDS[field][1]
    other = tmp_path / "other"
    other.write_bytes(data)
    with pytest.raises(DataMismatchError, match=r"^Pack other… is damaged: "):
        _ = Pack(other).members


@pytest.mark.parametrize(
    ("place", "value"), [(-22, b"no"), (-12, b"\x03"), (-10, b"\x01"), (-6, b"\x01"), (-2, b"\x01")]
)
def test_an_end_that_says_what_no_pack_says_is_damaged(tmp_path: Path, place: int, value: bytes) -> None:
    path = _pack(tmp_path, b"one", b"three")
    data = bytearray(path.read_bytes())
    assert data[place : place + len(value)] != value
    data[len(data) + place : len(data) + place + len(value)] = value
    other = tmp_path / "other"
    other.write_bytes(data)
    with pytest.raises(DataMismatchError, match="it is truncated, or not a pack"):
        _ = Pack(other).members


def test_of_a_packs_last_bytes_all_that_its_end_takes_are_needed(tmp_path: Path) -> None:
    """As who reads a pack over a network has them."""
    path = _pack(tmp_path, b"one", b"three")
    whole = path.read_bytes()
    tail = directory_size(whole[-packs._END.size :], len(whole))
    assert directory_size(whole, len(whole)) == tail == len(whole) - whole.index(b"PK\x01\x02")
    assert parse_directory(whole[-tail:], len(whole)) == dict(Pack(path).members)
    for end in (b"", b"PK", whole[-packs._END.size + 1 :]):
        with pytest.raises(ValueError, match="it is truncated"):
            directory_size(end, len(whole))
