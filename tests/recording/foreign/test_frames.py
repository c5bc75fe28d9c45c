"""Records are compared with their checksums before anybody parses them; what comes before a damage is good."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import pytest

from reprokit.recording.foreign import frames
from reprokit.recording.foreign.frames import DamagedError, crc32c, leveldb_frames, tf_frames
from tests.recording.foreign.writing import BLOCK, WANDB_HEADER, leveldb, masked, tf_frame

RECORDS = [b"a", b"", b"x" * 1000]


def bitwise(data: bytes) -> int:
    state = 0xFFFF_FFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFF_FFFF


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, B.4 has more
    assert crc32c(bytes(32)) == 0x8A9136AA
    draw = random.Random(4)
    for size in (0, 1, 2, 7, 16 * 1024 - 1, 16 * 1024, 20_001):
        data = draw.randbytes(size)
        assert crc32c(data) == bitwise(data), size


def read_tf(file: Path, data: bytes) -> tuple[list[bytes], str]:
    file.write_bytes(data)
    found: list[bytes] = []
    with file.open("rb") as handle:
        try:
            found.extend(tf_frames(handle))
        except DamagedError as error:
            return found, str(error)
    return found, ""


def test_whole_records_come_back_and_a_tail_that_is_cut_costs_only_itself(tmp_path: Path) -> None:
    whole = b"".join(map(tf_frame, RECORDS))
    ends = [17, 33, 33 + 1016]
    assert read_tf(tmp_path / "f", whole) == (RECORDS, "")
    for size in range(len(whole)):
        if size in (0, *ends):
            continue
        count = sum(end < size for end in ends)
        told = f"it ends at byte {size:,}, within a record"
        assert read_tf(tmp_path / "f", whole[:size]) == (RECORDS[:count], told), size


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (17, "the record at byte 17 has a length that is not what was written"),
        (25, "the record at byte 17 has a length that is not what was written"),
        (29, "the record at byte 17 is not what was written"),
        (40, "the record at byte 33 has a length that is not what was written"),
        (500, "the record at byte 33 is not what was written"),
    ],
)
def test_a_bit_that_flipped_is_noticed_before_anything_is_parsed(tmp_path: Path, at: int, told: str) -> None:
    data = bytearray(b"".join(map(tf_frame, RECORDS)))
    data[at] ^= 4
    found, why = read_tf(tmp_path / "f", bytes(data))
    assert why == told
    assert found == RECORDS[: len(found)] and len(found) == (1 if at < 33 else 2)


def test_a_length_that_is_signed_and_absurd_allocates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = struct.pack("<Q", 2**64 - 1)
    assert read_tf(tmp_path / "f", size + masked(size) + b"abc")[1] == "it ends at byte 15, within a record"
    monkeypatch.setattr(frames, "MAX_FRAME", 100)
    found, why = read_tf(tmp_path / "f", tf_frame(b"x" * 101))
    assert (found, why) == ([], "the record at byte 0 is 101 bytes long; at most 100 are read")


def read_leveldb(data: bytes) -> tuple[list[bytes], str]:
    found: list[bytes] = []
    handle = io.BytesIO(data)
    handle.seek(len(WANDB_HEADER))
    try:
        found.extend(leveldb_frames(handle, at=len(WANDB_HEADER)))
    except DamagedError as error:
        return found, str(error)
    return found, ""


def test_records_of_every_length_cross_blocks() -> None:
    draw = random.Random(2)
    sizes = [0, 1, BLOCK - 7 - 7 - 8 - 7 - 3, 5, 3 * BLOCK, BLOCK - 7, 10]
    records = [draw.randbytes(size) for size in sizes]
    assert read_leveldb(leveldb(records)) == (records, "")


def test_a_log_that_is_cut_gives_what_was_whole() -> None:
    records = [b"a" * 10, b"b" * (BLOCK + 100), b"c" * 10]
    data = leveldb(records)
    for size in [*range(8, 60), BLOCK - 3, BLOCK, BLOCK + 4, BLOCK + 90, len(data) - 1]:
        found, why = read_leveldb(data[:size])
        assert found == records[: len(found)]
        assert why == ("" if size == 24 else f"it ends at byte {size:,}, within a record"), size


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (struct.pack("<IHB", 1, 1, 1) + b"a", "the record at byte 7 is not what was written"),
        (struct.pack("<IHB", zlib.crc32(b"\x09"), 0, 9), "the record at byte 7 is not what was written"),
        (struct.pack("<IHB", zlib.crc32(b"\x03"), 0, 3), "the record at byte 7 does not go on with the one before"),
        (
            struct.pack("<IHB", zlib.crc32(b"\x02"), 0, 2) * 2,
            "the record at byte 14 does not go on with the one before",
        ),
        (struct.pack("<IHB", 0, 65535, 1) + bytes(BLOCK), "the record at byte 7 goes beyond its block"),
    ],
)
def test_a_log_that_is_forged_is_refused(data: bytes, told: str) -> None:
    assert read_leveldb(WANDB_HEADER + data) == ([], told)


def test_a_record_of_many_pieces_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME", 2 * BLOCK)
    found, why = read_leveldb(leveldb([b"x" * 3 * BLOCK]))
    assert found == [] and why.endswith("belongs to one of more than 65,536 bytes")
