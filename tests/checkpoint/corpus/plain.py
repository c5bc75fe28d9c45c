"""Safetensors files and states of which `tests/client` has no list: bombs, and sound ones that chance changed."""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.checkpoint.corpus import Corpus, mutated

__all__ = ["safetensors_files", "states"]


def safetensors_files(scale: int) -> Corpus:
    """Yield files that `tests/client/test_tensors.py` has no list of: sound ones that chance changed, and bombs."""

    def file(header: bytes, body: bytes = b"") -> bytes:
        return struct.pack("<Q", len(header)) + header + body

    rows = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(3000))
    sound = file(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},' + rows[:200].rpartition(b',"')[0] + b"}", bytes(8)
    )
    yield from mutated(sound, 100 * scale, 5)
    yield "many-brackets", file(b'{"a":' + b"[]," * 5_000_000 + b"[]}")
    yield "nested-lists", file(b'{"a":[' + b"[[]]," * 3_000_000 + b"[]]}")
    yield "long-shape", file(b'{"a":{"dtype":"U8","shape":[' + b"9," * 5_000_000 + b'9],"data_offsets":[0,1]}}', b"x")
    yield (
        "long-numbers",
        file(b'{"a":{"dtype":"U8","shape":[' + b"9" * 4000 + b"," + b"9" * 4000 + b'],"data_offsets":[0,1]}}', b"x"),
    )
    yield "long-name", file(b'{"' + b"x" * 10_000_000 + b'":1}')
    yield "large-header", struct.pack("<Q", 2**40) + b"{" + bytes(1000)
    yield "escapes", file(b'{"' + b"\\u0000" * 2_000_000 + b'":1}')


def states(scale: int) -> Corpus:
    """Yield bytes of state.json beyond those that `tests/client/test_plain.py` lists."""

    def state(value: Any) -> bytes:
        return json.dumps({"user": value}).encode()

    yield "no-mapping", b"[1]"
    yield "no-json", b"{"
    yield "nan", b'{"user": NaN}'
    yield "twice", b'{"user": 1, "user": 2}'
    yield "utf-16", '{"user": 1}'.encode("utf-16")
    yield "deep-lists", b'{"user":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    yield "deep-tuples", state(json.loads('{"$tuple":[' * 200 + "1" + "]}" * 200))
    yield "deep-dicts", state(json.loads('{"$dict":[[' * 100 + "1" + ",1]]}" * 100))
    yield "huge-base64", state({"$array": {"dtype": "<f8", "shape": [1], "data": "A" * 40_000_000}})
    yield "huge-bytes", state({"$bytes": "A" * 39_999_999})
    yield "huge-itemsize", state({"$array": {"dtype": "|S999999", "shape": [2], "data": ""}})
    yield "huge-shape", state({"$array": {"dtype": "|u1", "shape": [2**40, 2**40], "data": ""}})
    yield "empty-huge-shape", state({"$array": {"dtype": "|u1", "shape": [0, 2**62, 2**62], "data": ""}})
    yield "objects", state({"$array": {"dtype": "|O8", "shape": [1], "data": "AAAAAAAAAAA="}})
    yield "object-scalar", state({"$scalar": {"dtype": "|O8", "data": "AAAAAAAAAAA="}})
    yield "equal-hashes", state({"$dict": [[n * (2**61 - 1), 0] for n in range(1, 50_000)]})
    yield "digits", b'{"user": ' + b"9" * 5000 + b"}"
    yield "missing-tensor", state({"$tensor": {"name": "nothing", "kind": "torch"}})
    yield "tensor-path", state({"$tensor": {"name": "../../etc/passwd", "kind": "numpy"}})
    for key, value in (
        ("epoch", "3"),
        ("epoch", -1),
        ("epoch", True),
        ("epoch", 1.5),
        ("epoch", 2**70),
        ("step", []),
        ("step", {}),
        ("step", "x"),
        ("position", []),
        ("position", 5),
        ("position", {}),
        ("position", {"batch": -1}),
        ("position", {"batch": "1"}),
        ("position", {"batch": {"$array": 1}}),
    ):
        yield f"{key}-{value!r}"[:40], json.dumps({key: value}).encode()
    sound = state(
        {
            "a": {"$tuple": [1, {"$float": "nan"}]},
            "b": {"$array": {"dtype": "<f8", "shape": [1], "data": "AAAAAAAAAAA="}},
        }
    )
    yield from mutated(sound, 100 * scale, 6)
