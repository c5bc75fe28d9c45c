"""A version's name follows from its content alone, and nothing malformed is believed."""

import hashlib
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprokit.core.canonical_json import canonical
from reprokit.core.digest import hash_bytes
from reprokit.errors import DataMismatchError, NotFoundError, UsageError
from reprokit.schema.manifest import Entry, Manifest

HELLO = Entry("a.txt", 6, hash_bytes(b"hello\n"), {}, ("file:///a",))
EMPTY_HASH = "2a5a67156ca9238c14d12042db51c5b52260fdd5511b61ea89b58929d6e1769b"
HELLO_HASH = "0212a41007c76801b91ab655e7a9fa830d26ac9c9633e2abf5c106980ce799c7"

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
META = st.dictionaries(TEXT, st.none() | st.integers(-(2**60), 2**60) | TEXT | st.lists(st.booleans()), max_size=3)
PART = (
    st.text(st.characters(codec="utf-8", exclude_characters="/\\\0:"), min_size=1, max_size=6)
    .map(lambda part: unicodedata.normalize("NFC", part))
    .filter(lambda part: part not in (".", ".."))
)
ENTRIES = st.lists(
    st.builds(
        lambda parts, data, meta, hints: ("/".join(parts), data, meta, tuple(hints)),
        st.lists(PART, min_size=1, max_size=3),
        st.binary(max_size=20),
        META,
        st.lists(TEXT, min_size=1, max_size=2),
    ),
    max_size=6,
).map(
    lambda items: [
        Entry(f"{number}/{key}", len(data), hash_bytes(data), meta, hints)
        for number, (key, data, meta, hints) in enumerate(items)
    ]
)


def decoded(header: object, *lines: object) -> Manifest:
    """Decode a manifest whose top hash is right for these lines, as a careful attacker would name it."""
    entries = sorted(
        (line for line in lines if isinstance(line, dict)), key=lambda x: str(x.get("logical_key")).split("/")
    )
    parts = [{key: line.get(key) for key in ("hash", "logical_key", "meta", "size")} for line in entries]
    top_hash = hashlib.sha256(b"".join(canonical(part) for part in [header, *parts])).hexdigest()
    data = "".join(json.dumps(line) + "\n" for line in [header, *lines])
    return Manifest.decode(data.encode(), top_hash=top_hash, what="M")


def line(**changes: object) -> dict[str, object]:
    digest = {"type": HELLO.digest.type, "value": HELLO.digest.value}
    return {"logical_key": "a.txt", "physical_keys": ["file:///a"], "size": 6, "hash": digest, "meta": {}, **changes}


V0 = {"version": "v0", "message": None}


def test_published_top_hash_of_nothing():
    assert Manifest.make([]).top_hash == EMPTY_HASH


def test_published_top_hash_of_hello():
    assert Manifest.make([HELLO]).top_hash == HELLO_HASH


@given(ENTRIES, st.none() | TEXT, st.none() | META)
def test_encoding_round_trips(entries, message, meta):
    manifest = Manifest.make(entries, message=message, user_meta=meta)
    found = Manifest.decode(manifest.encode(), top_hash=manifest.top_hash, what="M")
    assert found == manifest
    assert found.top_hash == manifest.top_hash
    assert (found.message, found.user_meta) == (message, meta or {})


@given(ENTRIES, st.randoms())
def test_the_order_of_entries_does_not_matter(entries, rng):
    shuffled = rng.sample(entries, len(entries))
    assert Manifest.make(shuffled).top_hash == Manifest.make(entries).top_hash


def test_entries_sort_by_folder_level_not_by_flat_string():
    digest = hash_bytes(b"")
    manifest = Manifest.make(Entry(key, 0, digest) for key in ("a-b", "a/b", "a.b"))
    assert [entry.logical_key for entry in manifest.entries] == ["a/b", "a-b", "a.b"]


def test_what_is_hashed_and_what_is_not():
    def top(entry: Entry, **kwargs: object) -> str:
        return Manifest.make([entry], **kwargs).top_hash

    assert top(Entry("a.txt", 6, HELLO.digest, {}, ("s3://elsewhere",))) == HELLO_HASH
    other = {top(HELLO, message="m"), top(HELLO, user_meta={}), top(Entry("a.txt", 6, HELLO.digest, {"n": 1}))}
    other |= {top(Entry("a.txt", 6, HELLO.digest, {"n": 1.0})), top(Entry("b.txt", 6, HELLO.digest)), HELLO_HASH}
    assert len(other) == 6


def test_folder_metadata_survives_and_is_not_hashed():
    manifest = decoded(V0, line())
    lines = manifest.encode().split(b"\n", 1)
    data = lines[0] + b'\n{"logical_key": "d/", "meta": {"x": 1}}\n' + lines[1]
    found = Manifest.decode(data, top_hash=HELLO_HASH, what="M")
    assert found.folders == (("d/", {"x": 1}),)
    assert found.encode() == data


def test_a_changed_byte_is_noticed():
    data = Manifest.make([HELLO], message="first").encode().replace(b"first", b"worst")
    top_hash = Manifest.make([HELLO], message="first").top_hash
    with pytest.raises(DataMismatchError) as caught:
        Manifest.decode(data, top_hash=top_hash, what="M")
    found = Manifest.make([HELLO], message="worst").top_hash
    assert caught.value.message == f"M is corrupt: expected top hash {top_hash[:12]}…, its content has {found[:12]}…."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logical_key": 5}, "Line 2 of M is not an entry."),
        ({"size": -1}, "Line 2 of M: size must be a number of bytes, not -1."),
        ({"size": True}, "Line 2 of M: size must be a number of bytes, not True."),
        ({"hash": "x"}, "Line 2 of M: hash must be an object with type and value."),
        ({"hash": {"type": "MD5", "value": "x"}}, "Not a digest that reprokit reads: type 'MD5', value 'x'."),
        ({"meta": [1]}, "Line 2 of M: meta must be an object and physical_keys a list of strings."),
        ({"physical_keys": [1]}, "Line 2 of M: meta must be an object and physical_keys a list of strings."),
        ({"physical_keys": 7}, "Line 2 of M: meta must be an object and physical_keys a list of strings."),
        ({"physical_keys": "ab"}, "Line 2 of M: meta must be an object and physical_keys a list of strings."),
    ],
)
def test_malformed_entries_are_refused(changes, message):
    with pytest.raises(DataMismatchError) as caught:
        decoded(V0, line(**changes))
    assert caught.value.message == message


@pytest.mark.parametrize("key", ["../../.bashrc", "/etc/passwd", "a/../b", "e\u0301", "a\0", "\ud800", ""])
def test_illegal_keys_are_refused_when_reading_too(key):
    with pytest.raises(DataMismatchError) as caught:
        decoded(V0, line(logical_key=key))
    assert caught.value.message.startswith(f"M is refused: Not a legal logical key: {key!r} (")


@pytest.mark.parametrize("keys", [("a", "a"), ("ab", "ab"), ("A", "a"), ("a", "a/b")])
def test_clashing_keys_are_refused_when_reading_too(keys):
    with pytest.raises(DataMismatchError) as caught:
        decoded(V0, *(line(logical_key=key) for key in keys))
    first, second = keys
    assert (
        caught.value.message == f"M is refused: Two logical keys cannot stand side by side: {first!r} and {second!r}."
    )


def test_a_number_beyond_floats_is_refused():
    data = json.dumps(V0) + "\n" + json.dumps(line()).replace('"meta": {}', '"meta": {"x": 1e999}') + "\n"
    with pytest.raises(DataMismatchError):
        Manifest.decode(data.encode(), top_hash="0" * 64, what="M")


@pytest.mark.parametrize("data", [b"", b"\n", b"[]", b"{}", b'{"version": "v9"}', b"\x00", b'{"version": "v0"}\n[]'])
def test_what_is_not_a_manifest_is_refused(data):
    with pytest.raises(DataMismatchError):
        Manifest.decode(data, top_hash="0" * 64, what="M")


def test_making_a_version_of_illegal_keys_is_refused():
    with pytest.raises(UsageError):
        Manifest.make([Entry("../x", 0, hash_bytes(b""))])


def test_difference_lists_added_removed_and_changed():
    def version(**files: bytes) -> Manifest:
        return Manifest.make(Entry(key, len(data), hash_bytes(data)) for key, data in files.items())

    difference = version(a=b"1", b=b"1", c=b"1").diff(version(b=b"2", c=b"1", d=b"1"))
    assert (difference.added, difference.removed, difference.changed) == (("d",), ("a",), ("b",))
    assert not version(a=b"1").diff(version(a=b"1"))


def test_a_missing_key_is_named():
    with pytest.raises(NotFoundError) as caught:
        Manifest.make([HELLO])["b.txt"]
    assert caught.value.message == f"No entry 'b.txt' in version {HELLO_HASH[:12]}, which has 1 entries."
