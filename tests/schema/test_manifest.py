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
from reprokit.schema import manifest as manifests
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


def test_a_size_has_at_most_18_digits():
    assert decoded(V0, line(size=10**18 - 1)).size == 10**18 - 1
    with pytest.raises(DataMismatchError) as caught:
        decoded(V0, line(size=10**18))
    assert caught.value.message == f"Line 2 of M: size must be a number of bytes, not {10**18}."


@pytest.mark.parametrize("folders", [[], [{"logical_key": "d/", "meta": {}}]])  # read as a whole, or line by line
def test_a_manifest_has_at_most_so_many_entries(monkeypatch, folders):
    two, three = ([line(logical_key=key) for key in keys] for keys in ("ab", "abc"))
    monkeypatch.setattr(manifests, "MAX_ENTRIES", 2 + len(folders))
    if folders:
        data = "".join(json.dumps(one) + "\n" for one in (V0, *folders, *two)).encode()
        assert len(Manifest.decode(data, top_hash=decoded(V0, *two).top_hash, what="M").entries) == 2
    else:
        assert len(decoded(V0, *two).entries) == 2
    with pytest.raises(DataMismatchError) as caught:
        Manifest.decode(
            "".join(json.dumps(one) + "\n" for one in (V0, *folders, *three)).encode(), top_hash="0" * 64, what="M"
        )
    many = 2 + len(folders)
    assert caught.value.message == f"M has {many + 2} lines; at most {many} entries are read."
    entries = [HELLO._replace(logical_key=str(number)) for number in range(many + 1)]
    assert len(Manifest.make(entries[:many]).entries) == many
    with pytest.raises(UsageError) as refused:
        Manifest.make(entries)
    assert refused.value.message == f"A version holds at most {many} entries, not {many + 1}."


def test_a_manifest_is_at_most_so_long(monkeypatch):
    manifest = Manifest.make([HELLO])
    data = manifest.encode()
    monkeypatch.setattr(manifests, "MAX_MANIFEST", len(data))
    assert Manifest.decode(data, top_hash=manifest.top_hash, what="M") == manifest
    monkeypatch.setattr(manifests, "MAX_MANIFEST", len(data) - 1)
    with pytest.raises(DataMismatchError) as caught:
        Manifest.decode(data, top_hash=manifest.top_hash, what="M")
    assert caught.value.message == f"M is {len(data)} bytes long; at most {len(data) - 1} are read."


@pytest.mark.parametrize(("header", "lines"), [({**V0, "message": "m" * 300}, []), (V0, [line(meta={"é": "m" * 300})])])
def test_a_line_is_at_most_so_long(monkeypatch, header, lines):
    decoded(header, *lines)
    monkeypatch.setattr(manifests, "MAX_LINE", 299)
    with pytest.raises(DataMismatchError) as caught:
        decoded(header, *lines)
    where, length = (
        ("Line 2 of M", len(json.dumps(lines[0]))) if lines else ("The header of M", len(json.dumps(header)))
    )
    assert caught.value.message == f"{where} is {length} bytes long; at most 299 are read."


@pytest.mark.parametrize("key", ["../../.bashrc", "/etc/passwd", "a/../b", "e\u0301", "a\0", ""])
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


def test_entries_that_were_read_are_those_that_were_written():
    """Read as text, made into entries when they are looked at: by position, slice, key, column or one after another."""
    place = f"packs/{'0' * 64}.zip#94,5"
    entries = [
        Entry(key, 5, hash_bytes(key.encode()), {"n": 1} if key == "c" else {}, (place,))
        for key in ("a", "b/1", "b/2", "c")
    ]
    made = Manifest.make(entries, message="m")
    read = Manifest.decode(made.encode(), top_hash=made.top_hash, what="M")
    for one in (made, read):
        assert list(one.entries) == entries and len(one.entries) == 4
        assert one.entries[1] == entries[1] and one.entries[-1] == entries[-1]
        assert list(one.entries[1:3]) == entries[1:3]
        assert one.keys == ["a", "b/1", "b/2", "c"]
        assert "a" in one and "b" not in one and "d" not in one
        assert one.position("b/2") == 2 and one["c"] == entries[3]
        assert list(one.places) == [place] * 4
        assert [list(column) for column in one.columns()] == [
            [place] * 4, [entry.digest.value for entry in entries], [5] * 4,
        ]  # fmt: skip
        assert one.below("b") == one.below("b/") == tuple(entries[1:3])
        assert one.size == 20
        assert one.encode() == made.encode()
        moved = one.placed(["x", "y", "z", ""])
        assert [entry.physical_keys for entry in moved.entries] == [("x",), ("y",), ("z",), ("",)]
        assert (moved.top_hash, moved["c"].meta) == (made.top_hash, {"n": 1})
        assert one.placed([place] * 4) is one
    assert read == made and read.entries == made.entries
    assert read.entries != 4 and read.entries is not None
    odd = Manifest.make([entry._replace(physical_keys=(f'file:///{n}\\"é',)) for n, entry in enumerate(entries[:3])])
    assert Manifest.decode(odd.encode(), top_hash=odd.top_hash, what="M").entries == odd.entries
    assert next(json.loads(row) for row in odd.encode().splitlines()[1:])["physical_keys"] == ['file:///0\\"é']
    assert read.entries != Manifest.make(entries[:3]).entries
    assert read != Manifest.make([*entries[:3], entries[3]._replace(size=6)], message="m")


@pytest.mark.parametrize("change", ["digest", "meta", "size and digest", "place"])
def test_a_difference_of_versions_is_in_bytes_or_metadata(change):
    one = Entry("a", 5, hash_bytes(b"hello"), {"k": 1}, ("x",))
    other = {
        "digest": one._replace(digest=hash_bytes(b"jello")),
        "meta": one._replace(meta={"k": 2}),
        "size and digest": one._replace(digest=hash_bytes(b"six666"), size=6),
        "place": one._replace(physical_keys=("y",)),
    }[change]
    more = Entry("b", 0, hash_bytes(b""))
    found = Manifest.make([one, more]).diff(Manifest.make([other, more._replace(logical_key="c")]))
    assert (found.added, found.removed) == (("c",), ("b",))
    assert found.changed == (() if change == "place" else ("a",))


@pytest.mark.parametrize(
    "change",
    [
        {"size": True},
        {"size": -1},
        {"size": 1.0},
        {"size": None},
        {"hash": None},
        {"hash": []},
        {"hash": {"type": "SHA256"}},
        {"meta": []},
        {"meta": "x"},
        {"physical_keys": "x"},
        {"physical_keys": [1]},
        {"logical_key": 1},
    ],
)
def test_an_entry_that_is_malformed_is_refused_by_its_line(change):
    decoded(V0, line())
    with pytest.raises(DataMismatchError, match=r"^(Line 2 of M|Not a digest)"):
        decoded(V0, line(**change))


def test_a_last_line_that_does_not_end_is_read_all_the_same_or_refused():
    made = Manifest.make([HELLO._replace(physical_keys=("x",))])
    data = made.encode()
    assert data.endswith(b"}\n")
    assert Manifest.decode(data[:-1], top_hash=made.top_hash, what="M").entries == made.entries
    with pytest.raises(DataMismatchError):
        Manifest.decode(data[:-2], top_hash=made.top_hash, what="M")


@pytest.mark.parametrize("folders", [[], [{"logical_key": "d/", "meta": {}}]])  # read as a whole, or line by line
def test_entries_stand_in_the_order_of_their_keys_however_they_were_written(folders):
    lines = [line(logical_key=key) for key in ("c", "a/b", "a!", "b")]
    expected = ["a/b", "a!", "b", "c"]
    parts = [{key: one.get(key) for key in ("hash", "logical_key", "meta", "size")} for one in lines]
    parts.sort(key=lambda part: expected.index(part["logical_key"]))
    top_hash = hashlib.sha256(b"".join(canonical(part) for part in [V0, *parts])).hexdigest()
    data = "".join(json.dumps(one) + "\n" for one in [V0, *folders, *lines]).encode()
    assert Manifest.decode(data, top_hash=top_hash, what="M").keys == expected


@pytest.mark.parametrize("header", [b"[]", b"{}", b'{"version": "v1"}', b'{"version": null}', b'{"version": ["v0"]}'])
def test_a_header_is_one_of_the_version_that_there_is(header):
    with pytest.raises(DataMismatchError, match=r"^it is not a manifest of version 'v0'\."):
        Manifest.decode_header(header, what="it")
    old = Manifest.decode_header(b'{"version": "v0", "top_hash": "x", "message": "m"}', what="it")
    assert old == {"version": "v0", "message": "m"}


@pytest.mark.parametrize("text", [b"", b"\n", b'\n{"logical_key": "a"}\n'])
def test_a_manifest_without_a_header_is_empty(text):
    with pytest.raises(DataMismatchError, match=r"^it is empty\."):
        Manifest.decode(text, top_hash="0" * 64, what="it")
