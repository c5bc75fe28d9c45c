"""What differs in two checkpoints beside their tensors, by metadata alone and by reading; and in files kept whole."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprokit.checkpoint.format import StoredTensor
from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.checkpoint_diff import first_difference
from reprokit.comparison.files.beside_tensors import changed_aliases, compare_files, differs_beside, state_paths
from reprokit.comparison.files.whole_files import parts_besides_arrays
from reprokit.registry.local import LocalRegistry
from reprokit.schema.recipe import Tolerance, WeightTolerance
from tests.checkpoint.making import Files, files_of, make, store

W = {"w": np.arange(4.0)}
NOTHING = "differs; nothing looks into it"
MORE = "differs in more than its arrays"
NAMES = "other names of tied weights"


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path)


Told = tuple[str | None, str | None, str | None, list[str]]


def beside(left: Checkpoint, right: Checkpoint, *, values: bool) -> Told | None:
    found = differs_beside(left, right, [], values=values)
    return None if found is None else (found.tensor, found.shard, found.how, found.state)


def test_files_that_hold_more_than_tensors_are_compared_by_their_digests(registry: LocalRegistry) -> None:
    one = make(registry, W, files={"same.txt": b"1", "changed.txt": b"1", "gone.txt": b"1"}, config={"a": 1})
    other = make(registry, W, files={"same.txt": b"1", "changed.txt": b"2", "new.txt": b"1"})
    assert {row.key: row.how for row in compare_files(one, other)} == {
        "state.json": "equal", "config.json": "only left", "same.txt": "equal", "changed.txt": "differs",
        "gone.txt": "only left", "new.txt": "only right",
    }  # fmt: skip


CASES: list[tuple[dict[str, Any], dict[str, Any], Told | None, Told | None]] = [
    ({}, {}, None, None),
    ({"state": {"a": 1, "b": 1}}, {"state": {"a": 1, "b": 2}}, ("state.json:b", "state.json", None, ["b"]),
     ("state.json", "state.json", None, [])),
    ({"config": {"a": 1}}, {"config": {"a": 2}}, ("config.json:a", "config.json", None, []),
     ("config.json", "config.json", None, [])),
    ({"config": {"a": 1}}, {}, ("config.json", "config.json", "only left", []),
     ("config.json", "config.json", "only left", [])),
    ({}, {"config": {"a": 1}}, ("config.json", "config.json", "only right", []),
     ("config.json", "config.json", "only right", [])),
    ({"files": {"a.joblib": b"1"}}, {"files": {"a.joblib": b"2"}}, ("a.joblib", "a.joblib", NOTHING, []),
     ("a.joblib", "a.joblib", NOTHING, [])),
    ({"files": {"a.joblib": b"1"}}, {}, ("a.joblib", "a.joblib", "only left", []),
     ("a.joblib", "a.joblib", "only left", [])),
    ({}, {"files": {"a.joblib": b"1"}}, ("a.joblib", "a.joblib", "only right", []),
     ("a.joblib", "a.joblib", "only right", [])),
    ({"files": {"m.skops": b"1"}}, {"files": {"m.skops": b"2"}}, ("m.skops:what is no array", "m.skops", None, []),
     ("m.skops", "m.skops", MORE, [])),
    ({"aliases": {"t": "w"}}, {"aliases": {"s": "w"}},
     ("model.safetensors.index.json", "model.safetensors.index.json", NAMES, []),
     ("model.safetensors.index.json", "model.safetensors.index.json", NAMES, [])),
    # Files come before names, names before the state, the state and the configuration last.
    ({"state": {"a": 1}, "aliases": {"t": "w"}, "files": {"a.joblib": b"1"}},
     {"state": {"a": 2}, "aliases": {}, "files": {"a.joblib": b"2"}}, ("a.joblib", "a.joblib", NOTHING, []),
     ("a.joblib", "a.joblib", NOTHING, [])),
    ({"state": {"a": 1}, "aliases": {"t": "w"}}, {"state": {"a": 2}},
     ("model.safetensors.index.json", "model.safetensors.index.json", NAMES, []),
     ("model.safetensors.index.json", "model.safetensors.index.json", NAMES, [])),
]  # fmt: skip


@pytest.mark.parametrize(("left", "right", "read", "unread"), CASES)
def test_what_differs_beside_equal_tensors_is_named(
    registry: LocalRegistry, left: dict[str, Any], right: dict[str, Any], read: Told | None, unread: Told | None
) -> None:
    one, other = (make(registry, W, **side) for side in (left, right))
    assert beside(one, other, values=True) == read
    assert beside(one, other, values=False) == unread
    if read is not None:  # no tolerance is about it
        shifted = make(registry, {"w": W["w"] + 1e-9}, **right)
        found = first_difference(one, shifted, Tolerance(weights=WeightTolerance(atol=1.0)))
        assert not found.within and found.beside is not None and found.beside.tensor == read[0]
    else:
        shifted = make(registry, {"w": W["w"] + 1e-9}, **right)
        assert first_difference(one, shifted, Tolerance(weights=WeightTolerance(atol=1.0))).within


def test_the_first_eight_paths_of_a_state_are_told_with_a_tensor_that_differs(registry: LocalRegistry) -> None:
    one, other = (make(registry, {"w": W["w"] + side}, state={str(n): side for n in range(20)}) for side in (0, 1))
    assert state_paths(one, other) == [str(n) for n in range(8)]
    found = first_difference(one, other, Tolerance())
    assert (found.divergence.tensor, found.divergence.state) == ("w", [str(n) for n in range(8)])
    assert first_difference(one, other, Tolerance(), values=False).divergence.state == []
    same = make(registry, {"w": W["w"] + 1}, state={str(n): 0 for n in range(20)})
    assert first_difference(one, same, Tolerance()).divergence.state == []


def test_a_state_that_is_only_spelled_otherwise_is_no_difference(registry: LocalRegistry) -> None:
    files = files_of(W, state={"a": 1})
    data, meta = files["state.json"]
    spaced = json.dumps(json.loads(data), indent=1).encode()
    assert spaced != data
    one, other = store(registry, files), store(registry, {**files, "state.json": (spaced, meta)})
    assert beside(one, other, values=True) is None
    assert beside(one, other, values=False) == ("state.json", "state.json", None, [])


def test_names_of_tied_weights_are_told_by_section_where_they_are_not_the_same(registry: LocalRegistry) -> None:
    tensors = {"a": np.ones(3), "b": np.ones(3), "optimizer:a": np.ones(3)}
    one = make(registry, tensors, aliases={"t": "a", "optimizer:t": "a"})
    other = make(registry, tensors, aliases={"t": "b", "optimizer:t": "a"})
    assert changed_aliases(one, other) == {"model": ({"t": "a"}, {"t": "b"})}
    lacking = make(registry, {"a": np.ones(3), "b": np.ones(3)}, aliases={"t": "a"})
    assert changed_aliases(one, lacking) == {"optimizer": ({"t": "a"}, {})}
    assert changed_aliases(lacking, one) == {"optimizer": ({}, {"t": "a"})}
    assert changed_aliases(one, one) == {}


def test_an_index_that_lists_other_tensors_is_no_matter_of_names(registry: LocalRegistry) -> None:
    """By metadata alone, which does not say how tied weights are called."""
    one = make(registry, {"w": np.ones(3), "optimizer:m": np.ones(3)})
    other = make(registry, {"w": np.ones(3), "v": np.ones(3), "optimizer:m": np.ones(3)}, aliases={"optimizer:n": "m"})
    told = ("optimizer.safetensors.index.json", "optimizer.safetensors.index.json", NAMES, [])
    assert beside(one, other, values=False) == told
    grown = make(registry, {"w": np.ones(3), "v": np.ones(3), "optimizer:m": np.ones(3)})
    assert beside(one, grown, values=False) is None
    renamed = make(registry, {"w": np.ones(3), "v": np.ones(3), "optimizer:m": np.ones(3)}, aliases={"t": "v"})
    assert beside(one, renamed, values=False) is None
    assert beside(one, renamed, values=True) == (
        "model.safetensors.index.json", "model.safetensors.index.json", NAMES, [],
    )  # fmt: skip


# Files that are kept whole


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], *, packed: str = "", comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = comment
        for name, data in members.items():
            how = zipfile.ZIP_DEFLATED if name == packed else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=how)
    return buffer.getvalue()


def lying(data: bytes, *arrays: bytes, by: tuple[int, int] = (0, 0)) -> tuple[bytes, list[StoredTensor]]:
    """Return a file, and where it says that arrays lie in it."""
    rows = []
    for number, array in enumerate(arrays):
        at = data.index(array) + by[0]
        size = len(array) - by[0] + by[1]
        rows.append(StoredTensor("m.skops", "model", f"a{number}", "F64", (size,), at, size, ""))
    return data, rows


SCHEMA = {"content": {"coef_": {"file": "1.npy"}, "C": 1.0, "names": {"file": "names.txt"}, "__id__": 7}}
A, B = np.arange(1.0, 4.0), -np.arange(1.0, 4.0)


def archive(array: Any = A, schema: Any = None, text: bytes = b"x", **more: Any) -> bytes:
    told = json.dumps(schema if schema is not None else SCHEMA).encode()
    return zipped({"1.npy": npy(array), "schema.json": told, "names.txt": text, **more.pop("members", {})}, **more)


def parts(left: bytes, right: bytes, a: Any = A, b: Any = A, by: tuple[int, int] = (0, 0)) -> list[str]:
    sides = (lying(data, array.tobytes(), by=by) for data, array in ((left, a), (right, b)))
    return parts_besides_arrays(*sides)


def test_arrays_and_their_sums_alone_are_nothing_else() -> None:
    assert parts(archive(A), archive(A)) == []
    assert parts(archive(A), archive(B), A, B) == []
    assert parts(archive(A), archive(B), A, B, by=(0, -1)) == ["coef_"]  # the last byte of it is of no array
    assert parts(archive(A), archive(B), A, B, by=(1, 0)) == []  # the first byte is equal


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (archive(schema={"content": {**SCHEMA["content"], "C": 2.0}}), ["C"]),
        (archive(schema={"content": {**SCHEMA["content"], "new": 2.0}}), ["new"]),
        (archive(text=b"y"), ["names"]),
        (archive(text=b"yy"), ["names"]),
        (archive(members={"more.txt": b"1"}), ["more.txt"]),
        (archive(A.reshape(3, 1)), ["coef_"]),
        (archive(comment=b"c"), ["the archive itself"]),
        (archive(schema={"content": {**SCHEMA["content"], "__id__": 8}}), ["the archive itself"]),  # addresses
        (archive(schema={"content": {**SCHEMA["content"], "C": 2.0}}, text=b"y"), ["C", "names"]),
        (archive(schema={"content": {**SCHEMA["content"], **{f"p{n}": n for n in range(9)}}}),
         [f"p{n}" for n in range(8)]),
        (zipped({"1.npy": npy(A), "schema.json": b"no JSON", "names.txt": b"y"}), ["names.txt"]),
        (zipped({"1.npy": npy(A), "names.txt": b"y"}), ["names.txt"]),
        (archive(packed="names.txt"), ["what is no array"]),
        (b"no archive" + A.tobytes(), ["what is no array"]),
    ],
)  # fmt: skip
def test_each_other_part_is_named_as_the_archive_describes_it(right: bytes, said: list[str]) -> None:
    assert parts(archive(), right) == said
    back = parts(right, archive())
    assert back == said or (len(said) > 1 and len(back) == len(said))


def test_an_array_hides_nothing_but_what_an_array_s_member_holds() -> None:
    """Whoever made the version says where arrays lie: a place in the description is none, nor is one across an edge."""
    left, right = archive(), archive(schema={"content": {**SCHEMA["content"], "C": 2.0}})
    sides = (lying(data, A.tobytes(), json.dumps(json_).encode()) for data, json_ in (
        (left, SCHEMA), (right, {"content": {**SCHEMA["content"], "C": 2.0}}),
    ))  # fmt: skip
    assert parts_besides_arrays(*sides) == ["C"]
    text, other = archive(members={"2.npy": b"12345678"}), archive(members={"2.npy": b"12345679"})
    whole = [lying(data, value) for data, value in ((text, b"12345678"), (other, b"12345679"))]
    assert parts_besides_arrays(*whole) == []  # the whole member, from its first byte to its last
    beyond = [lying(data, value, by=(0, 1)) for data, value in ((text, b"12345678"), (other, b"12345679"))]
    assert parts_besides_arrays(*beyond) == ["2.npy"]
    before = [lying(data, value, by=(-1, 0)) for data, value in ((text, b"12345678"), (other, b"12345679"))]
    assert parts_besides_arrays(*before) == ["2.npy"]


def test_arrays_of_an_archive_in_an_archive_are_arrays() -> None:
    def nested(array: Any, shape: bytes = b"1") -> bytes:
        inner = zipped({"data.npy": npy(array), "shape.txt": shape})
        schema = {"content": {"sparse": {"file": "1.npz"}}}
        return zipped({"1.npz": inner, "schema.json": json.dumps(schema).encode()})

    assert parts(nested(A), nested(B), A, B) == []
    assert parts(nested(A), nested(A, b"2")) == ["sparse"]
    assert parts(nested(A), nested(B, b"2"), A, B) == ["sparse"]


def test_what_is_no_archive_is_compared_by_every_byte_that_is_no_array() -> None:
    assert parts(b"head" + A.tobytes(), b"head" + B.tobytes(), A, B) == []
    assert parts(b"head" + A.tobytes(), b"Head" + B.tobytes(), A, B) == ["what is no array"]
    assert parts(b"head" + A.tobytes() + b"tail", b"head" + B.tobytes() + b"tail", A, B) == []
    assert parts(b"head" + A.tobytes(), b"head" + B.tobytes() + b"tail", A, B) == ["what is no array"]
    packed = [archive(array, packed="names.txt") for array in (A, B)]
    assert parts(*packed, A, B) == ["what is no array"]  # sums of members that cannot be told are none


def test_a_member_that_the_directory_puts_elsewhere_is_found_nowhere() -> None:
    data = bytearray(archive())
    directory = data.index(b"PK\x01\x02")
    data[directory + 42] ^= 4  # where its header lies
    assert parts(archive(), bytes(data)) == ["what is no array"]
    size = bytearray(archive())
    size[directory + 24 + 2] = 1  # 64 KiB more than there are
    size[directory + 20 + 2] = 1
    assert parts(archive(), bytes(size)) == ["what is no array"]


def _listed(files: Files, key: str, *, as_array: bool) -> Files:
    data, meta = files[key]
    return {**files, key: (data, meta if as_array else {})}


def test_a_file_of_arrays_that_one_side_does_not_list_is_read_all_the_same(registry: LocalRegistry) -> None:
    data = archive()
    at = data.index(A.tobytes())
    row = {"section": "model", "name": "coef_", "dtype": "F64", "shape": [3], "offset": at, "nbytes": 24}
    files = files_of({}, files={"m.skops": (data, [row])})
    one, other = store(registry, files), store(registry, _listed(files, "m.skops", as_array=False))
    assert compare_files(one, other)[0].how == "equal"
    changed = files_of({}, files={"m.skops": (archive(text=b"y"), [row])})
    lacking = store(registry, _listed(changed, "m.skops", as_array=False))
    found = differs_beside(one, lacking, [], values=True)
    assert found is not None and found.tensor is not None and found.tensor.startswith("m.skops:")
    held = list(one.all_stored().values())
    told = differs_beside(one, store(registry, changed), held, values=False)
    assert told is None  # it differs for its array: what more there is, its bytes tell
    assert differs_beside(one, store(registry, changed), held, values=True) is not None


def test_all_parts_of_a_file_are_told(registry: LocalRegistry) -> None:
    other = archive(schema={"content": {**SCHEMA["content"], "C": 2.0}}, text=b"y")
    one, two = (make(registry, {}, files={"m.skops": data}) for data in (archive(), other))
    assert beside(one, two, values=True) == ("m.skops:C", "m.skops", "and names", [])
