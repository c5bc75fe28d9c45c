"""The checkpoint format: one spelling for one state, and refusal of what does not fit."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprokit.checkpoint.format import Piece, SnapshotMessage, encode, stored_tensors
from reprokit.core.digest import hash_bytes
from reprokit.errors import DataMismatchError
from reprokit.schema.manifest import Entry, Manifest


def _message(tensors: dict[str, np.ndarray], **facts: object) -> tuple[SnapshotMessage, memoryview]:
    memory, rows = bytearray(), []
    for name, value in tensors.items():
        rows.append(
            {"section": "model", "name": name, "dtype": "F32", "shape": list(value.shape),
             "offset": len(memory), "nbytes": value.nbytes}
        )  # fmt: skip
        memory += value.astype("<f4").tobytes()
    plain = {"kind": "checkpoint", "framework": "t", "tensors": rows, "files": [], "state": {}}
    return msgspec.convert({**plain, **facts}, SnapshotMessage), memoryview(bytes(memory))


def _bytes(pieces: list[Piece]) -> dict[str, bytes]:
    return {piece.key: b"".join(piece.parts) for piece in pieces}


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=20), st.integers(0, 5), min_size=1, max_size=6))
def test_order_of_tensors_changes_neither_bytes_nor_digest(sizes: dict[str, int]) -> None:
    tensors = {name: np.arange(count, dtype="f4") for name, count in sizes.items()}
    one = encode(*_message(tensors))
    other = encode(*_message(dict(reversed(tensors.items()))))
    assert one[1] == other[1]
    assert _bytes(one[0]) == _bytes(other[0])


def test_one_bit_changes_the_digest_and_one_shard() -> None:
    tensors = {"a.w": np.zeros(4, "f4"), "b.w": np.ones(4, "f4")}
    pieces, digest = encode(*_message(tensors))
    tensors["b.w"] = np.nextafter(tensors["b.w"], np.float32(2))
    again, other = encode(*_message(tensors))
    assert digest != other
    assert [p.key for p, q in zip(pieces, again, strict=True) if p.digest != q.digest] == [
        "model/b.trainable.safetensors"
    ]


def test_the_state_digest_ignores_metrics_and_names_its_algorithm() -> None:
    tensors = {"w": np.zeros(2, "f4")}
    digest = encode(*_message(tensors, metrics={"loss": 1.0}))[1]
    assert digest == encode(*_message(tensors, metrics={"loss": 2.0}))[1]
    assert digest.startswith("sha256-merkle-v1:")
    assert digest != encode(*_message(tensors, state={"step": 1}))[1]


@pytest.mark.parametrize(
    "change", [{"offset": 1 << 40}, {"offset": -4}, {"nbytes": 12}, {"shape": [-2, -1]}, {"dtype": "F31"}]
)
def test_a_tensor_that_does_not_fit_its_memory_is_refused(change: dict[str, object]) -> None:
    message, memory = _message({"w": np.zeros(2, "f4")})
    plain = msgspec.to_builtins(message)
    plain["tensors"][0].update(change)
    with pytest.raises(DataMismatchError, match="The snapshot's tensor 'w' is malformed"):
        encode(msgspec.convert(plain, SnapshotMessage), memory)


def test_a_name_that_is_no_text_is_refused() -> None:
    """JSON can say it in an escape; nothing can write it."""
    row = {"name": "\ud800", "dtype": "F32", "shape": [], "offset": 0, "nbytes": 4, "digest": "0" * 64}
    meta = {"reprokit": {"tensors": [row]}}
    manifest = Manifest.make([Entry("model/x.safetensors", 4, hash_bytes(b"four"), meta)], message=None)
    with pytest.raises(DataMismatchError, match=r"^The tensors of 'model/x\.safetensors' are malformed: "):
        stored_tensors(manifest)
