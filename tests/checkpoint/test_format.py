"""The checkpoint format: one spelling for one state, and refusal of what does not fit."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprokit.checkpoint.format import Piece, SnapshotMessage, encode, stored_tensors
from reprokit.core.digest import hash_bytes
from reprokit.errors import DataMismatchError, UsageError
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.place import Place
from tests.checkpoint.making import encoded


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


def test_a_state_keeps_the_order_of_its_keys_and_its_digest_covers_it() -> None:
    """A script that iterates over it would do otherwise."""
    state = {"user": {"zebra": 1, "apple": {"b": 0.5, "a": None}}, "epoch": 0}
    turned = {"user": {"apple": {"b": 0.5, "a": None}, "zebra": 1}, "epoch": 0}
    pieces, digest = encode(*_message({}, state=state, config={"z": 1, "a": 2}))
    assert _bytes(pieces) == {
        "state.json": b'{"user":{"zebra":1,"apple":{"b":0.5,"a":null}},"epoch":0}',
        "config.json": b'{"z":1,"a":2}',
    }
    assert encode(*_message({}, state=turned))[1] != digest


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


def _stored(**change: object) -> Manifest:
    row = {"name": "w", "dtype": "F32", "shape": [2], "offset": 8, "nbytes": 8, "digest": "0" * 64, **change}
    entry = Entry("model/x.safetensors", 16, hash_bytes(bytes(16)), {"reprokit": {"tensors": [row]}})
    return Manifest.make([entry], message=None)


def test_a_tensor_that_ends_where_its_entry_does_is_one() -> None:
    ((_, stored),) = stored_tensors(_stored()).items()
    assert (stored.offset, stored.nbytes, stored.shape) == (8, 8, (2,))


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 9},
        {"offset": 17},
        {"offset": -8},
        {"offset": 2**64},
        {"offset": 0, "nbytes": 20, "shape": [5]},
        {"nbytes": 4},
        {"nbytes": -8, "shape": [-2]},
        {"shape": [3]},
        {"dtype": "F64"},
    ],
)
def test_a_stored_tensor_lies_inside_its_entry_or_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(DataMismatchError) as caught:
        stored_tensors(_stored(**change))
    assert caught.value.message == "Tensor 'w' does not lie in 'model/x.safetensors' as it says."


@pytest.mark.parametrize(
    "change",
    [
        {"offset": True},
        {"nbytes": 8.0},
        {"digest": "0" * 63},
        {"digest": "A" * 64},
        {"digest": None},
        {"shape": "2"},
        {"shape": {}},
        {"shape": None},
        {"dtype": 1},
        {"name": 1},
        {"name": "\ud800"},
        {"order": "F"},
        {"order": ["C"]},
    ],
)
def test_what_a_stored_tensor_says_is_well_typed_or_refused(change: dict[str, object]) -> None:
    with pytest.raises(DataMismatchError, match=r"^The tensors of 'model/x\.safetensors' are malformed: "):
        stored_tensors(_stored(**change))


@pytest.mark.parametrize(("offset", "nbytes"), [(5, 4), (-1, 4), (9, 0), (4, -1), (2**63, 4)])
def test_an_array_inside_a_whole_file_lies_inside_it_or_is_refused(offset: int, nbytes: int) -> None:
    def message(**where: int) -> SnapshotMessage:
        row = {"name": "a", "dtype": "F32", "shape": [1], **where}
        return _message({}, files=[{"key": "model.skops", "offset": 0, "nbytes": 8, "tensors": [row]}])[0]

    encode(message(offset=4, nbytes=4), memoryview(bytes(16)))
    with pytest.raises(DataMismatchError, match=r"^An array of 'model\.skops' lies outside it: "):
        encode(message(offset=offset, nbytes=nbytes), memoryview(bytes(16)))


@pytest.mark.parametrize(("offset", "nbytes"), [(9, 8), (-1, 8), (0, 17), (0, -1)])
def test_a_whole_file_lies_inside_the_memory_or_is_refused(offset: int, nbytes: int) -> None:
    def message(offset: int, nbytes: int) -> SnapshotMessage:
        return _message({}, files=[{"key": "model.skops", "offset": offset, "nbytes": nbytes}])[0]

    encode(message(8, 8), memoryview(bytes(16)))
    with pytest.raises(DataMismatchError) as caught:
        encode(message(offset, nbytes), memoryview(bytes(16)))
    assert caught.value.message == "The file 'model.skops' of a snapshot lies outside its memory."


# One of every kind: what is in it, and the digest that it has had since the format was fixed. A change here breaks
# every comparison with what is stored already.
_F4 = ("F32", (2,), b"\0\0\x80?\0\0\0@")
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "nothing": ({}, {}, "933bcabd6f01a0e914faed437fc3c34cb31857548557088fb2954139867e95e4"),
    "a tensor": ({"w": _F4}, {}, "6cfc4a64997218aa1781ae806ea571ccbcedad110e54f80ed71a6e8878c36fac"),
    "of another dtype": (
        {"w": ("I32", (2,), _F4[2])},
        {},
        "81c79785e4d821c232d36e462d62d675964271ca449628380194d0f6bc1b8be0",
    ),
    "of another shape": (
        {"w": ("F32", (1, 2), _F4[2])},
        {},
        "fd65c76da4455292533edf7816ea94439f650aa12641cef84cbbce4b75277211",
    ),
    "a scalar": ({"w": ("F64", (), bytes(8))}, {}, "f42576b0a6677ccc1fc36a7a012cd33c81d175165f93500fec28334eb83ecb0a"),
    "an empty one": (
        {"w": ("F32", (0, 3), b"")},
        {},
        "4a4bc2ba7c185eb8252e088e404d73bd27b7dc60a72055bcf8dadbb03ed5d4ae",
    ),
    "of another section": (
        {"optimizer:w": _F4},
        {},
        "ca6dfab986f7bfc27d97550f90e650c0554bf6917579696ec41ce713e2283299",
    ),
    "of a name that is escaped": (
        {'é/"1"': _F4},
        {},
        "1bb6326197e6253f78721c3d3ccb34f0a4ca24df66920a5d13b9d2ceb3c43f03",
    ),
    "with a file of its own": (
        {"w": ("U8", (1 << 20,), bytes(1 << 20))},
        {},
        "b9132bf2f140293559d2412bc589cab1547b9967bad6c90b0c7e44fa6db7e020",
    ),
    "just without one": (
        {"w": ("U8", ((1 << 20) - 1,), bytes((1 << 20) - 1))},
        {},
        "b373fa70c56d77abd4f9c8f18e369da85415d178422e6b07ba66555cc6fb6c83",
    ),
    "two": ({"a": _F4, "b": _F4}, {}, "a0f3dcd873dc8a9005b37fb94342a0afc6c510f7c95158f2492a17c0b4574417"),
    "a tied one": (
        {"a": _F4},
        {"aliases": {"b": "a"}},
        "4aa2eac80522330a848a2a94497975b7d69065b3d5e535ccab5e42116dccf5cf",
    ),
    "tied to another": (
        {"a": _F4, "c": _F4},
        {"aliases": {"b": "c"}},
        "aaf480d8ac46f6d5477b695ea7211afdefb15761acb82bdda62fcb5d4ba2edf9",
    ),
    "a whole file": (
        {},
        {"files": {"model.skops": b"estimator"}},
        "67987160dd0c037ce96689371010edb65f7bfc8d4f750eb07e85a1dce39245a5",
    ),
    "another whole file": (
        {},
        {"files": {"model.joblib": b"estimator"}},
        "c3562266383657e8b9a06505322dc545bf4ee1e6ee2f0cc50cb6120bcd3be2f4",
    ),
    "of other bytes": (
        {},
        {"files": {"model.skops": b"another"}},
        "164e87cffee892c674be9a69eb69517015ca15cd261f3df0cf444218fb9d8932",
    ),
    "a state": (
        {},
        {"state": {"epoch": 1, "rng": [1, 2]}},
        "02540b358f2194a50313466b1faec391f72b2bf96e0812df1242490d9acfbcb0",
    ),
    "a configuration": (
        {},
        {"config": {"layers": 2}},
        "2e3d20789a93942c7c071dcf3bcddfa068bddb0f3c5ab360f8082c62594c9287",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_checkpoint_has_the_digest_that_it_always_had(kind: str) -> None:
    tensors, more, digest = KINDS[kind]
    assert encoded(tensors, **more)[1] == f"sha256-merkle-v1:{digest}"


def test_all_that_differs_has_another_digest() -> None:
    """Also the configuration: with the same weights, a model of another architecture is another one."""
    assert len({digest for _, _, digest in KINDS.values()}) == len(KINDS)


# Where the tensors of a checkpoint lie: keys, sizes, bytes and what is said of each, without `state.json`.
def layout(tensors: dict[str, Any], **more: Any) -> str:
    pieces = [piece for piece in encoded(tensors, **more)[0] if piece.key != "state.json"]
    for piece in pieces:
        assert piece.digest == hash_bytes(b"".join(piece.parts))
    return Manifest.make([Entry(p.key, p.size, p.digest, p.meta) for p in pieces]).top_hash


_MIB = ("U8", (1 << 20,), bytes(1 << 20))
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "modules": (
        {"a.w": _F4, "a.b": _F4, "b/c": _F4, "d": _F4},
        {},
        "1b91404e90ab776ffbbf4c368bc6684c643382a8857ecbb7d1e315555934064f",
    ),
    "sections": (
        {"a.w": _F4, "optimizer:a.w": _F4, "ema:x": _F4},
        {},
        "5e02782a3b2de018fd58f56134f340f59c69f685d8dabd096034d69e2c8068ea",
    ),
    "dtypes, the widest first": (
        {"m.a": ("U8", (3,), b"abc"), "m.b": ("F64", (1,), bytes(8)), "m.c": ("F16", (1,), b"ab"), "m.d": _F4},
        {},
        "e3771ae9904330ea29bc3e498d39450468f967bb49b76c9869575ec9e4f91726",
    ),
    "one of its own among small ones": (
        {"m.a": _F4, "m.big": _MIB, "m.c": _F4},
        {},
        "c0aac5e25b6a95ed6a4fbfe0f375af2427ff91919fc1cba9bc070a867001effd",
    ),
    "names that differ in case": (
        {"W": _MIB, "w": _MIB},
        {},
        "19263c7dd4187ec32f95a097dcf2c9982b97f9d7576e9b0403fa2135b1bd6791",
    ),
    "names that no file system takes": (
        {"é*?": _MIB, "..": _MIB, "x" * 121: _MIB, "x" * 120: _MIB},
        {},
        "909adc50faad500690c16f794065a03a7b475aee72d0540bd300acc031dbaaa1",
    ),
    "tied ones": (
        {"a": _F4, "c.d": _F4},
        {"aliases": {"b": "a", "e": "c.d"}},
        "8209ec886036c1075aacedaf700f4a884f36148de865b3283fc4e12ee7a82f78",
    ),
    "a configuration and whole files": (
        {"a": _F4},
        {
            "config": {"k": 1},
            "files": {"m.bin": b"1", "n.bin": b""},
        },
        "e45bf6eb7e8902fde8befa2440b0bd6b0f7ef7d96db03cdf7d8b36323c04f6a1",
    ),
}


@pytest.mark.parametrize("what", LAYOUTS)
def test_a_checkpoint_lies_where_it_always_lay(what: str) -> None:
    tensors, more, expected = LAYOUTS[what]
    assert layout(tensors, **more) == expected


def test_a_snapshot_says_its_place_and_a_whole_file_is_of_the_model() -> None:
    message = _message({}, files=[{"key": "m.bin", "offset": 0, "nbytes": 8}])[0]
    told = msgspec.structs.replace(message, kind="signal", epoch=1, step=2, batch=3)
    assert told.place == Place(kind="signal", epoch=1, step=2, batch=3)
    row = {"name": "w", "dtype": "F32", "shape": [2], "offset": 8, "nbytes": 8, "digest": "0" * 64}
    for key, section in (("model.skops", "model"), ("ema/x.safetensors", "ema"), ("files/m.bin", "files")):
        entry = Entry(key, 16, hash_bytes(bytes(16)), {"reprokit": {"tensors": [row]}})
        ((found, name), stored) = next(iter(stored_tensors(Manifest.make([entry], message=None)).items()))
        assert (found, name, stored.section) == (section, "w", section)


@pytest.mark.parametrize("what", ["state", "config"])
def test_json_that_would_not_be_read_is_refused_at_the_save(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reprokit.checkpoint.format.MAX_JSON", 100)
    encode(*_message({}, **{what: {"a": "x" * 92}}))
    with pytest.raises(UsageError, match=f"{what}.json of the checkpoint would be 101 bytes long; at most 100"):
        encode(*_message({}, **{what: {"a": "x" * 93}}))
