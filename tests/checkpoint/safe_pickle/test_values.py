"""What pickle and joblib write of arrays and plain containers comes back as it was; what calls anything does not."""

from __future__ import annotations

import argparse
import bz2
import collections
import gzip
import io
import lzma
import pickle
import struct
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprokit.checkpoint.safe_pickle import unpickler
from reprokit.checkpoint.safe_pickle.load import load_pickled
from reprokit.errors import DataMismatchError, Error, NotFoundError, RefusedError, UsageError
from tests.checkpoint.corpus.pickles import pickles

_SHARED = [1, 2]
PLAIN: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    255,
    256,
    65536,
    2**31,
    -(2**63),
    2**200,
    0.5,
    float("inf"),
    1 + 2j,
    "",
    "é\U0001f600",
    "x" * 300,
    b"",
    b"\0\xff" * 200,
    bytearray(b"ab"),
    bytearray(),
    [],
    [1, [2.5, "a"]],
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    {},
    {"a": {1: (2, None)}},
    set(),
    {1, "a", (2, 3)},
    frozenset(),
    frozenset({3, 4}),
    slice(1, 2, None),
    [_SHARED, _SHARED],
    object,
    collections.OrderedDict([("b", 1), ("a", 2)]),
    collections.defaultdict(list, {"a": [1]}),
    collections.defaultdict(None, a=1),
    dict.fromkeys(range(2000), "v"),
    list(range(2000)),
    set(range(2000)),
]
_ORDERED = np.arange(24, dtype="<i4").reshape(2, 3, 4)
ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    **{kind: np.array([0, 1, 100]).astype(kind) for kind in ("?", "i1", "<i2", ">i4", "<i8", "u1", "<u2", ">u8")},
    **{kind: np.array([0, 1.5, -np.inf, np.nan]).astype(kind) for kind in ("<f2", "<f4", ">f8", "<c8", ">c16", "g")},
    "text": np.array(["a", "é", "xyz"]),
    "bytes": np.array([b"a", b"xyz"]),
    "void": np.array([b"ab"], "V2"),
    "big-endian text": np.array(["a", "é"], ">U3"),
    "times": np.array(["2026-01-02", "NaT"], "M8[ns]"),
    "spans": np.array([1, -5], "m8[25s]"),
    "no unit": np.array([1], "m8"),
    "no dimensions": np.array(2.5),
    "empty": np.zeros((0, 3)),
    "large": np.arange(300_000, dtype="<f4"),
    "in Fortran's order": np.asfortranarray(_ORDERED),
    "strided": _ORDERED[:, ::2, 1:],
    "transposed": _ORDERED.T,
    "objects": np.array([1, "a", None, [2]], dtype=object),
    "objects in two dimensions": np.array([[1, "a"], [None, 2.5]], object),
    "records": np.array([(1, 2.5, "a")], [("a", "<i4"), ("b", ">f8"), ("c", "U2")]),
    "records with gaps": np.array(
        [(1, 2)], np.dtype({"names": ["a", "b"], "formats": ["u1", "<i8"], "offsets": [3, 8], "itemsize": 24})
    ),
    "records of arrays": np.array([((1, 2), 3)], [("a", "<i2", (2,)), ("b", "<i2")]),
}


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        one, other = (side.astype(side.dtype.newbyteorder("=")) for side in (one, other))  # NumPy reads into its own
        if one.dtype.hasobject or one.dtype.names:
            return bool((one.dtype, one.shape, str(one.tolist())) == (other.dtype, other.shape, str(other.tolist())))
        return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    return bool(type(one) is type(other) and one == other)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back(protocol: int) -> None:
    for value in PLAIN:
        found = load_pickled(pickle.dumps(value, protocol))
        assert equal(found, value), value
        if isinstance(value, collections.defaultdict):
            assert found.default_factory is value.default_factory
    one, other = load_pickled(pickle.dumps([_SHARED, _SHARED], protocol))
    assert one is other
    assert load_pickled(pickle.dumps(PLAIN, protocol)) == PLAIN


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back(name: str, protocol: int) -> None:
    array = ARRAYS[name]
    found = load_pickled(pickle.dumps(array, protocol))
    assert equal(found, array)
    assert found.flags.writeable
    assert found.flags.f_contiguous or not array.flags.f_contiguous
    twice = load_pickled(pickle.dumps({"a": array, "b": [array], "c": array.dtype}, protocol))
    assert equal(twice["a"], array) and twice["a"] is twice["b"][0] and twice["c"] == array.dtype
    if array.size and not array.dtype.hasobject:
        one = array.reshape(-1)[0]
        back = load_pickled(pickle.dumps(one, protocol))
        assert type(back) is type(one) and back.tobytes() == one.tobytes()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_that_joblib_writes_by_any_protocol_come_back(protocol: int) -> None:
    joblib = pytest.importorskip("joblib")
    handle = io.BytesIO()
    joblib.dump(ARRAYS, handle, protocol=protocol)
    found = load_pickled(handle.getvalue())
    assert [name for name, array in ARRAYS.items() if not equal(found[name], array)] == []


@pytest.mark.parametrize("compressed", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_what_joblib_writes_comes_back(tmp_path: Path, compressed: Any) -> None:
    joblib = pytest.importorskip("joblib")
    kept = {"plain": PLAIN[:25], **ARRAYS}
    path = tmp_path / "a.joblib"
    joblib.dump(kept, path, compress=compressed)
    found = load_pickled(path)
    assert found["plain"] == kept["plain"]
    for name, array in ARRAYS.items():
        assert equal(found[name], array), name
    assert equal(load_pickled(path.read_bytes())["large"], ARRAYS["large"])
    if compressed:
        with pytest.raises(DataMismatchError, match=r"its compressed bytes end too early|malformed"):
            load_pickled(path.read_bytes()[:-20])


def test_named_types_are_made_as_pickle_makes_them() -> None:
    counter, path = collections.Counter("abca"), Path("a/b")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert load_pickled(pickle.dumps(counter, protocol), types=["collections.Counter"]) == counter
        with pytest.raises(RefusedError, match=r"holds what was not named: collections\.Counter"):
            load_pickled(pickle.dumps([1, counter], protocol))
    made = load_pickled(pickle.dumps(path), types=[f"{type(path).__module__}.{type(path).__qualname__}"])
    assert made == path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_was_not_named_is_named_whatever_way_it_is_made(protocol: int) -> None:
    with pytest.raises(RefusedError) as caught:
        load_pickled(pickle.dumps([argparse.Namespace(a=1), collections.Counter(b=2)], protocol))
    assert caught.value.message == "The pickle holds what was not named: argparse.Namespace, collections.Counter."


def test_all_that_was_not_named_is_told_up_to_forty() -> None:
    def asked(count: int) -> str:
        data = b"(" + b"".join(b"ccollections.sub\nThing%03d\n" % number for number in range(count)) + b"l."
        with pytest.raises(RefusedError) as caught:
            load_pickled(data)
        return caught.value.message

    assert asked(1) == "The pickle holds what was not named: collections.sub.Thing000."
    assert asked(40).endswith("Thing039.")
    assert asked(43).endswith("Thing039 and 3 more.")


def test_what_is_no_list_of_names_and_no_file_is_said(tmp_path: Path) -> None:
    for types in ("collections.Counter", "..", ["Counter"], [3]):
        with pytest.raises(UsageError, match="`types` is a list of full names"):
            load_pickled(pickle.dumps(1), types=types)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="cannot be read: No such file"):
        load_pickled(tmp_path / "none")
    with pytest.raises(DataMismatchError) as caught:
        load_pickled(tmp_path)
    assert caught.value.message == f"{tmp_path} is not a regular file."
    (tmp_path / "x.pkl").write_bytes(b"no pickle")
    with pytest.raises(DataMismatchError, match=f"^{tmp_path}/x.pkl is malformed: "):
        load_pickled(tmp_path / "x.pkl")


# what numpy's own state of a dtype or an array may not say
def _array(shape: str, dtype: bytes, raw: bytes, *, fortran: bytes = b"I00\n") -> bytes:
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n"
    return made + shape.encode() + dtype + fortran + raw + b"tb."


_F8 = b"cnumpy\ndtype\n(S'f8'\nI00\nI01\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
_EIGHT = b"cbuiltins\nbytes\n(c_codecs\nencode\n(S'aaaaaaaa'\nS'latin1'\ntRtR"


def test_the_state_of_an_array_is_checked() -> None:
    assert load_pickled(_array("(I1\nt", _F8, _EIGHT)).tobytes() == b"a" * 8
    for shape in ("(I2\nt", "(I0\nt", "(I-1\nt", "(I1\nI2\nt", "(L281474976710656L\nt", "]", "(F1.0\nt", "(I01\nt"):
        with pytest.raises(DataMismatchError, match="an array"):
            load_pickled(_array(shape, _F8, _EIGHT))
    many = "(" + "I1\n" * 33 + "t"
    with pytest.raises(DataMismatchError, match="an array has a malformed shape"):
        load_pickled(_array(many, _F8, _EIGHT))
    assert load_pickled(_array("(" + "I1\n" * 32 + "t", _F8, _EIGHT)).ndim == 32
    with pytest.raises(DataMismatchError, match="an array is not as long as its shape says"):
        load_pickled(_array("(I1\nt", _F8, b"(lI1\na"))


@pytest.mark.parametrize(
    "state",
    [
        b"(I3\nS'!'\nNNNI-1\nI-1\nI0\nt", b"(I3\nS'<'\nNNNI-1\nt", b"(I3\nS'<'\nNNNI-1\nI-1\nI0\nNNt", b"]",
        b"(I3\nS'|'\nN(S'a'\nt}I8\nI1\nI0\nt",
        b"(I3\nS'|'\nN(S'a'\nt}S'a'\n(S'f8'\nI0\ntsI8\nI1\nI0\nt",
        b"(I3\nS'|'\nN(I1\nt}I1\n(" + _F8 + b"I0\ntsI8\nI1\nI0\nt",
        b"(I3\nS'|'\nN(S'a'\nt}S'a'\n(" + _F8 + b"I4\ntsI8\nI1\nI0\nt",
        b"(I3\nS'|'\nN(S'a'\nt}S'a'\n(" + _F8 + b"F0.0\ntsI8\nI1\nI0\nt",
        b"(I3\nS'|'\nN(S'a'\nt}S'a'\n(" + _F8 + b"I0\ntsF8.0\nI1\nI0\nt",
    ],
)  # fmt: skip
def test_the_state_of_a_dtype_is_checked(state: bytes) -> None:
    with pytest.raises(DataMismatchError, match="is malformed"):
        load_pickled(b"cnumpy\ndtype\n(S'V8'\nI00\nI01\ntR" + state + b"b.")


@pytest.mark.parametrize("spec", [b"S'O8'\n", b"S'f8,f8'\n", b"S'('\n", b"I1\n", b"N", b"S'f1234567890'\n"])
def test_a_dtype_is_one_of_a_single_letter_and_a_size(spec: bytes) -> None:
    data = b"cnumpy\ndtype\n(" + spec + b"I00\nI01\ntR."
    if spec == b"S'O8'\n":
        load_pickled(data)
        return
    with pytest.raises(DataMismatchError, match="it has the dtype "):
        load_pickled(data)


REFUSALS: dict[str, tuple[bytes, str]] = {
    "a persistent ID": (b"Pa\n.", "it refers to something outside: 'a'"),
    "arguments that are none": (b"cbuiltins\nlist\n]R.", "it passes what are no arguments"),
    "no named arguments": (b"\x80\x04cbuiltins\nlist\n)]\x92.", "it passes what are no arguments"),
    "a call of a number": (b"I1\n(tR.", "it calls "),
    "a scalar of a list": (b"cnumpy\nfloat64\n(]tR.", "it calls "),
    "as many bytes as a number": (b"cbuiltins\nbytes\n(I9\ntR.", "it makes bytes of a number"),
    "as many bytes as a number, changeable": (b"cbuiltins\nbytearray\n(I9\ntR.", "it makes bytearray of a number"),
    "as many bytes as a number, as an object": (b"\x80\x02cbuiltins\nbytes\n(I9\nt\x81.", "it makes bytes of a number"),
    "an array that nobody filled": (b"\x80\x02cnumpy\nndarray\n(I9\nt\x81.", "it calls numpy.ndarray"),
    "an array that nobody filled, by words": (
        b"\x80\x04cnumpy\nndarray\n)}S'shape'\nI9\ns\x92.",
        "it calls numpy.ndarray",
    ),
    "a scalar of a list beside a number": (b"cnumpy\nfloat64\n(I1\n]tR.", "it calls "),
    "the text of a list": (b"cbuiltins\nstr\n(]tR.", "it makes a str of a list"),
    "the list of a type": (b"cbuiltins\nlist\n(cbuiltins\nint\ntR.", "it makes a list of a type"),
    "an encoding that unpacks": (b"cbuiltins\nbytes\n(S'a'\nS'zip'\ntR.", "it uses an encoding that is not plain"),
    "another encoding": (b"c_codecs\nencode\n(S'a'\nS'utf-8'\ntR.", "it encodes something that is not bytes"),
    "an encoded number": (b"c_codecs\nencode\n(I1\ntR.", "it encodes something that is not bytes"),
    "a default that is no type": (b"ccollections\ndefaultdict\n(I1\ntR.", "a defaultdict has a factory that is"),
    "an array as a default": (
        b"ccollections\ndefaultdict\n(cnumpy\nndarray\ntR.",
        "a defaultdict has a factory that is",
    ),
    "a copied list": (
        b"ccopy_reg\n_reconstructor\n(cbuiltins\nlist\ncbuiltins\nobject\nNtR.",
        "it makes a builtins.list",
    ),
    "the state of a number": (b"I1\n}b.", "it gives a state to a int"),
    "the state of a type": (b"cbuiltins\nlist\n}b.", "it gives a state to a type"),
    "an item of a dict": (b"}I1\na.", "it appends to a dict"),
    "an item of a list": (b"\x80\x04](I1\n\x90.", "it adds to a list"),
    "a key without a value": (b"(I1\nI2\nI3\nd.", "a key has no value"),
    "a large key": (b"}L2305843009213693951L\nI1\ns.", "a key is too large"),
    "a large key in a tuple": (b"}(L2305843009213693951L\ntI1\ns.", "a key is too large"),
    "a large key of a set": (b"\x80\x04\x8f(L2305843009213693951L\n\x90.", "a key is too large"),
    "a large key of a frozen set": (b"\x80\x04(L2305843009213693951L\n\x91.", "a key is too large"),
    "large keys of a dict that is made": (
        b"cbuiltins\ndict\n(((L2305843009213693951L\nI1\ntttR.",
        "a key is too large",
    ),
    "large keys of a set that is made": (b"cbuiltins\nset\n((L2305843009213693951L\nttR.", "a key is too large"),
    "more bytes than there are": (b"\x80\x05\x96" + struct.pack("<Q", 99) + b"ab.", "it claims 99 bytes, and has 14"),
    "the extension registry": (b"\x80\x02\x82\x01.", "it uses the extension registry"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_no_array_and_no_container_does_is_refused(what: str) -> None:
    data, said = REFUSALS[what]
    with pytest.raises(DataMismatchError) as caught:
        load_pickled(data)
    assert caught.value.message.startswith(f"The pickle is malformed: MalformedPickle: {said}")


def test_just_below_each_limit_it_loads() -> None:
    assert load_pickled(b"}L2305843009213693950L\nI1\ns.") == {2**61 - 2: 1}
    assert load_pickled(b"\x80\x05\x96" + struct.pack("<Q", 2) + b"ab.") == bytearray(b"ab")
    assert load_pickled(b"}(" + b"I1\n" * 999 + b"tI1\ns.") == {(1,) * 999: 1}
    with pytest.raises(DataMismatchError, match="a key is too large"):
        load_pickled(b"}(" + b"I1\n" * 1000 + b"tI1\ns.")


def test_what_was_written_to_harm_is_refused_here_too(tmp_path: Path) -> None:
    """In this process; elsewhere each is read with little memory, and by a process that may die of it."""
    canary = tmp_path / "CANARY"
    loaded = []
    for name, data in pickles(str(canary), 1):
        if name.startswith(("may-", "exit", "input")) or len(data) > 4096:
            continue
        try:
            load_pickled(data)
        except Error:
            continue
        loaded.append(name)
    assert loaded == []
    assert not canary.exists()


def test_a_pickler_of_an_unknown_subclass_of_array_is_refused() -> None:
    handle = io.BytesIO()
    pickle.Pickler(handle, 2).dump(np.matrix([[1.0]]))
    with pytest.raises(RefusedError, match=r"numpy\.matrix"):
        load_pickled(handle.getvalue())


_UNIT = b"cnumpy\ndtype\n(S'M8'\nI00\nI01\ntR(I4\nS'<'\nNNNI-1\nI-1\nI0\n(}(%sI%s\nI1\nI1\ntttb."


def test_the_unit_of_a_time_is_letters_and_a_number() -> None:
    def unit(text: bytes, number: bytes = b"1") -> bytes:
        return _UNIT % (b"c_codecs\nencode\n(S'%s'\nS'latin1'\ntR" % text, number)

    assert load_pickled(unit(b"ns", b"25")) == np.dtype("M8[25ns]")
    for data in (unit(b"n]"), unit(b""), unit(b"nanosecs"), unit(b"ns", b"01")):
        with pytest.raises(DataMismatchError, match="a dtype has a malformed unit"):
            load_pickled(data)


def test_a_scalar_has_the_bytes_of_its_dtype() -> None:
    made = b"cnumpy.core.multiarray\nscalar\n(%s%stR."
    assert load_pickled(made % (_F8, _EIGHT)).tobytes() == b"a" * 8
    for dtype, raw in ((_F8, b"c_codecs\nencode\n(S'a'\nS'latin1'\ntR"), (_F8, b"]"), (b"N", _EIGHT)):
        with pytest.raises(DataMismatchError, match="is malformed"):
            load_pickled(made % (dtype, raw))


def test_objects_of_named_types_are_made_without_their_constructor() -> None:
    named = argparse.Namespace(a=1)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert load_pickled(pickle.dumps([0, named, 2], protocol), types=["argparse.Namespace"]) == [0, named, 2]
    made = load_pickled(b"\x80\x04\x8c\x08argparse\x8c\tNamespace\x93)}\x92.", types=["argparse.Namespace"])
    assert (type(made), vars(made)) == (argparse.Namespace, {})
    listed = b"\x80\x04(I0\n\x8c\x08argparse\x8c\tNamespace\x93)}\x92I2\nl."
    assert load_pickled(listed, types=["argparse.Namespace"]) == [0, argparse.Namespace(), 2]
    for old in (b"(I0\n(iargparse\nNamespace\nI2\nl.", b"(I0\n(cargparse\nNamespace\noI2\nl."):
        assert load_pickled(old, types=["argparse.Namespace"]) == [0, argparse.Namespace(), 2]
    for arguments in (b"]", b"}", b"N", b"X\x01\0\0\0a"):  # of which only a tuple is one of arguments
        for opcode in (b"\x81", b"}\x92"):
            with pytest.raises(DataMismatchError, match="it passes what are no arguments"):
                load_pickled(
                    b"\x80\x04cargparse\nNamespace\n" + arguments + opcode + b".", types=["argparse.Namespace"]
                )


class Number(float):
    pass


class Listing(list[Any]):
    pass


class Mapped(dict[str, Any]):
    pass


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("made", [Listing([1, "a"]), Mapped(a=1), Number(2.5), argparse.Namespace(a=1)])
def test_objects_of_named_types_that_are_more_than_a_container_come_back(made: Any, protocol: int) -> None:
    name = f"{type(made).__module__}.{type(made).__qualname__}"
    found = load_pickled(pickle.dumps([0, made], protocol), types=[name])
    assert (found, type(found[1])) == ([0, made], type(made))
    with pytest.raises(RefusedError) as caught:
        load_pickled(pickle.dumps([0, made], protocol))
    assert caught.value.message == f"The pickle holds what was not named: {name}."


def test_an_object_of_a_named_type_is_made_from_an_object_or_a_plain_value_alone() -> None:
    data = b"ccopy_reg\n_reconstructor\n(cargparse\nNamespace\ncbuiltins\n%s\nNtR."
    assert load_pickled(data % b"object", types=["argparse.Namespace"]) == argparse.Namespace()
    for base in (b"bytearray", b"slice", b"set"):
        with pytest.raises(DataMismatchError, match=r"MalformedPickle: it makes a argparse\.Namespace"):
            load_pickled(data % base, types=["argparse.Namespace"])


def test_the_default_of_a_dict_is_a_type_that_was_named() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(collections.defaultdict(argparse.Namespace, a=1), protocol)
        found = load_pickled(data, types=["argparse.Namespace"])
        assert (found, found.default_factory) == ({"a": 1}, argparse.Namespace)
        with pytest.raises(RefusedError) as caught:
            load_pickled(pickle.dumps([found, collections.Counter(b=2)], protocol))
        told = "The pickle holds what was not named: argparse.Namespace, collections.Counter."
        assert caught.value.message == told


def test_bytes_are_encoded_by_either_name_of_latin_1() -> None:
    for name in (b"latin1", b"latin-1"):
        assert load_pickled(b"c_codecs\nencode\n(V\xe9\nS'%s'\ntR." % name) == b"\xe9"


def test_notes_of_arrays_and_arrays_that_were_mapped(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib")
    mapped = np.memmap(tmp_path / "mapped", "<f4", "w+", shape=(3,))
    mapped[:] = [1, 2, 3]
    joblib.dump({"a": mapped}, tmp_path / "a.joblib")
    assert load_pickled(tmp_path / "a.joblib")["a"].tolist() == [1, 2, 3]
    for state in (b"]", b"}", b"}S'subclass'\ncbuiltins\nlist\ns"):
        with pytest.raises(DataMismatchError, match="joblib's note of an array is malformed"):
            load_pickled(b"\x80\x02cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81" + state + b"b.")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"a/data.pkl": b"Pa\n."}, "it refers to something outside: 'a'"),
        ({"a/data.pkl": b"N.", "b/data.pkl": b"N."}, "is not a file that `torch.save` wrote"),
        ({"a/other.pkl": b"N."}, "is not a file that `torch.save` wrote"),
        ({"a/b/data.pkl": b"N."}, "is not a file that `torch.save` wrote"),
    ],
)
def test_a_pt_file_is_looked_at_before_pytorch_is_loaded(
    monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes], said: str
) -> None:
    handle = io.BytesIO()
    with zipfile.ZipFile(handle, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DataMismatchError, match=said):
        load_pickled(handle.getvalue())


def test_a_pt_file_of_old_is_named() -> None:
    with pytest.raises(DataMismatchError, match=r"is a \.pt file in the form from before PyTorch 1\.6"):
        load_pickled(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03.")


COMPRESSED = {
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}


@pytest.mark.parametrize("how", COMPRESSED)
def test_what_is_compressed_unpacks_to_as_much_as_the_limit_and_no_more(how: str) -> None:
    data = pickle.dumps(np.random.default_rng(0).bytes(5000))
    packed = COMPRESSED[how](data)
    limit = max(len(data), len(packed))
    assert len(load_pickled(packed, max_bytes=limit)) == 5000
    small = COMPRESSED[how](pickle.dumps(bytes(5000)))
    with pytest.raises(DataMismatchError) as caught:
        load_pickled(small, max_bytes=1000)
    assert caught.value.message == "The pickle unpacks to more than 1,000 bytes; no more are read."


def test_a_pt_file_with_a_name_twice_is_none() -> None:
    handle = io.BytesIO()
    with zipfile.ZipFile(handle, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for name in ("a/data.pkl", "a/data/0", "a/data/0"):
            archive.writestr(name, b"N.")
    with pytest.raises(DataMismatchError, match=r"is not a file that `torch\.save` wrote"):
        load_pickled(handle.getvalue())


@pytest.mark.parametrize("how", ["compressed", "encrypted"])
def test_a_pt_file_with_members_that_do_not_lie_there_as_they_are_is_none(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    handle = io.BytesIO()
    with zipfile.ZipFile(handle, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/data/0", bytes(99), zipfile.ZIP_DEFLATED if how == "compressed" else None)
    data = bytearray(handle.getvalue())
    if how == "encrypted":
        data[data.rindex(b"PK\x01\x02") + 8] |= 1
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(DataMismatchError, match=r"is not a file that `torch\.save` wrote"):
        load_pickled(bytes(data))


def test_arrays_of_what_is_too_large_or_of_another_kind_are_refused() -> None:
    void = b"cnumpy\ndtype\n(S'V%d'\nI00\nI01\ntR(I3\nS'|'\nNNNI%d\nI1\nI0\ntb."
    assert load_pickled(void % (1 << 26, 1 << 26)).itemsize == 1 << 26
    with pytest.raises(DataMismatchError, match="a dtype has items that are too large"):
        load_pickled(void % ((1 << 26) + 1, (1 << 26) + 1))
    objects = b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb"
    assert load_pickled(_array("(I1\nt", objects, b"(lI7\na")).tolist() == [7]
    for raw in (b"(I7\nt", b"(l", b"(lI7\naI8\na"):
        with pytest.raises(DataMismatchError, match="an array is not as long as its shape says"):
            load_pickled(_array("(I1\nt", objects, raw))
    buffer = b"cnumpy.core.numeric\n_frombuffer\n(%s" + _F8 + b"(I1\ntS'C'\ntR."
    assert load_pickled(buffer % _EIGHT).tobytes() == b"a" * 8
    with pytest.raises(DataMismatchError, match="an array has no bytes"):
        load_pickled(buffer % b"S'aaaaaaaa'\n")


def test_what_copies_the_same_over_and_over_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickler, "_SLACK", 0)

    def copies(count: int) -> bytes:
        return b"](" + b"I1\n" * 2000 + b"ep0\n0(" + b"cbuiltins\nlist\n(g0\ntR" * count + b"l."

    assert load_pickled(copies(20)) == [[1] * 2000] * 20
    with pytest.raises(DataMismatchError, match="it copies the same over and over"):
        load_pickled(copies(200))


def test_no_bytes_are_copied_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one text or of the same bytes: what they are, a few of the file's own bytes ask for each time."""
    monkeypatch.setattr(unpickler, "_SLACK", 0)
    size = 8000
    text = b"S'" + b"a" * size + b"'\np0\n0"
    raw = b"c_codecs\nencode\n(g0\nS'latin1'\ntRp1\n0"
    dtype = b"cnumpy\ndtype\n(S'V%d'\nI00\nI01\ntR(I3\nS'|'\nNNNI%d\nI1\nI0\ntbp2\n0" % (size, size)
    for again in (
        b"c_codecs\nencode\n(g0\nS'latin1'\ntR",
        b"cnumpy.core.multiarray\nscalar\n(g2\ng1\ntR",
        b"cnumpy.core.numeric\n_frombuffer\n(g1\ng2\n(I1\ntS'C'\ntR",
    ):
        assert len(load_pickled(text + raw + dtype + b"(" + again * 10 + b"l.")) == 10
        with pytest.raises(DataMismatchError, match="it copies the same over and over"):
            load_pickled(text + raw + dtype + b"(" + again * 100 + b"l.")
