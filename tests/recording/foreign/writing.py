"""Writes what TensorBoard's and W&B's writers write, so that a test can write it wrongly."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from reprokit.recording.foreign.frames import crc32c

WANDB_HEADER = b":W&B\xe1\xbe\x00"
START = 1_790_000_000.5
BLOCK = 32 * 1024


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def message(*fields: tuple[int, Any]) -> bytes:
    """Return a message: an integer is a varint, a float has eight bytes, ("f", x) four, others their own."""
    made = b""
    for number, value in fields:
        if isinstance(value, int):
            made += varint(number << 3) + varint(value)
        elif isinstance(value, float):
            made += varint(number << 3 | 1) + struct.pack("<d", value)
        elif isinstance(value, tuple):
            made += varint(number << 3 | 5) + struct.pack("<f", value[1])
        else:
            data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
            made += varint(number << 3 | 2) + varint(len(data)) + data
    return made


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFF_FFFF)


def tf_frame(data: bytes) -> bytes:
    size = struct.pack("<Q", len(data))
    return size + masked(size) + data + masked(data)


def scalar(tag: str, value: float, step: int, at: float = START) -> bytes:
    return message((1, at), (2, step), (5, message((1, message((1, tag), (2, ("f", value)))))))


def events(file: Path, found: Iterable[bytes]) -> Path:
    """Write an event file that begins as all do."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(map(tf_frame, [message((1, START), (3, "brain.Event:2")), *found])))
    return file


def leveldb(records: Iterable[bytes], head: bytes = WANDB_HEADER) -> bytes:
    """Return a log of records, cut at blocks."""
    made = bytearray(head)
    for record in records:
        first, rest = True, record
        while first or rest:
            room = BLOCK - len(made) % BLOCK
            if room < 7:
                made += bytes(room)
                room = BLOCK
            part, rest = rest[: room - 7], rest[room - 7 :]
            kind = (1 if first else 4) if not rest else (2 if first else 3)
            made += struct.pack("<IHB", zlib.crc32(part, zlib.crc32(bytes([kind]))), len(part), kind) + part
            first = False
    return bytes(made)


def wandb_run(run_id: str = "abc", **params: Any) -> bytes:
    config = message(*((1, message((1, name), (16, json.dumps(value)))) for name, value in params.items()))
    run = message(
        (1, run_id), (3, "credit"), (4, config), (8, "base"), (13, "host"),
        (17, message((1, int(START)), (2, 500_000_000))), (21, message((1, "https://a:b@x.org/r"), (2, "c0ffee"))),
    )  # fmt: skip
    return message((17, run))


def wandb_history(step: int, **values: Any) -> bytes:
    told = {"_step": step, "_timestamp": START + step, **values}
    items = [(1, message((2, name), (16, json.dumps(value)))) for name, value in told.items()]
    return message((2, message(*items, (2, message((1, step))))))


WANDB_EXIT = message((18, message((1, 0), (2, 60))))


def wandb_folder(root: Path, records: Iterable[bytes], run_id: str = "abc") -> Path:
    """Write the folder of a run; return the folder `wandb`."""
    folder = root / "wandb" / f"offline-run-20260921_141320-{run_id}"
    (folder / "files").mkdir(parents=True)
    (folder / f"run-{run_id}.wandb").write_bytes(leveldb(records))
    return root / "wandb"
