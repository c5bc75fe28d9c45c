"""Object hashes are Quilt's and S3's, whatever the size, the source and the pieces they come in."""

import base64
import hashlib
import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprokit.core.digest import (
    CHUNKED,
    PLAIN,
    Digest,
    Hasher,
    chunk_size,
    copy_hashed,
    hash_all,
    hash_bytes,
    hash_file,
)
from reprokit.errors import DataMismatchError

MIB = 1024 * 1024
SIZES = [0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 20 * MIB]


def independent(data: bytes) -> str:
    """The definition, written down again: base64 of the SHA-256 over the SHA-256 of every 8 MiB."""
    parts = b"".join(hashlib.sha256(data[at : at + 8 * MIB]).digest() for at in range(0, len(data), 8 * MIB))
    return base64.b64encode(hashlib.sha256(parts).digest()).decode()


@pytest.mark.parametrize("size", SIZES)
def test_memory_file_and_stream_agree_with_the_definition(size, tmp_path):
    data = random.Random(size).randbytes(size)
    expected = Digest(CHUNKED, independent(data))
    file = tmp_path / "data"
    file.write_bytes(data)
    copy = io.BytesIO()
    assert hash_bytes(data) == expected
    assert hash_file(file) == (expected, size)
    assert copy_hashed(io.BytesIO(data), copy, size) == (expected, size)
    assert copy.getvalue() == data


def test_an_empty_object_is_the_sha256_of_nothing():
    assert hash_bytes(b"").hex == hashlib.sha256(b"").hexdigest()


def test_hello_has_the_published_digest():
    assert hash_bytes(b"hello\n").value == "7LZbuY+dkFtwRYmGw5/LrXcV5fL8w7Hwd2fXyD4kOMw="


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_pieces_do_not_matter(pieces):
    whole = b"".join(pieces)
    for type_ in (CHUNKED, PLAIN):
        hasher = Hasher(len(whole), type_)
        for piece in pieces:
            hasher.update(piece)
        assert hasher.digest() == hash_bytes(whole, type_)


def test_pieces_across_a_chunk_boundary_do_not_matter():
    data = random.Random(1).randbytes(8 * MIB + 3)
    hasher = Hasher(len(data))
    hasher.update(data[:5])
    hasher.update(memoryview(data)[5:])
    assert hasher.digest().value == independent(data)


@pytest.mark.parametrize("size", [0, 3, 20 * MIB])
def test_plain_digests_of_old_manifests_are_sha256_in_hex(size, tmp_path):
    file = tmp_path / "data"
    file.write_bytes(b"x" * size)
    assert hash_file(file, PLAIN) == (Digest(PLAIN, hashlib.sha256(b"x" * size).hexdigest()), size)


def test_a_file_that_ends_early_reports_what_was_there():
    digest, length = copy_hashed(io.BytesIO(b"short"), None, 20 * MIB)
    assert (digest, length) == (hash_bytes(b"short"), 5)


def test_chunks_double_only_beyond_ten_thousand():
    limit = 10_000 * 8 * MIB
    assert [chunk_size(size) // MIB for size in (0, limit, limit + 1, 2 * limit, 2 * limit + 1)] == [8, 8, 16, 16, 32]


@given(st.binary(min_size=32, max_size=32))
def test_checked_accepts_every_digest_we_make(raw):
    digest = Digest.chunked(raw)
    assert Digest.checked(digest.type, digest.value) == digest
    assert digest.hex == raw.hex()
    assert Digest.checked(PLAIN, raw.hex()) == Digest(PLAIN, raw.hex())


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("MD5", "0" * 32),
        (None, None),
        (CHUNKED, ""),
        (CHUNKED, "7LZbuY+dkFtwRYmGw5/LrXcV5fL8w7Hwd2fXyD4kOMw"),
        (CHUNKED, "7LZbuY+dkFtwRYmGw5/LrXcV5fL8w7Hwd2fXyD4kOMw=\n"),
        (CHUNKED, "../../../../../../../../../../../../etc/passwd"),
        (CHUNKED, "é" * 44),
        (PLAIN, "A" * 64),
        (PLAIN, "0" * 63),
        (PLAIN, 5),
    ],
)
def test_checked_refuses_anything_else(type_, value):
    with pytest.raises(DataMismatchError) as caught:
        Digest.checked(type_, value)
    assert caught.value.message == f"Not a digest that reprokit reads: type {type_!r}, value {str(value)[:80]!r}."
    assert caught.value.hint == "Known types are 'sha2-256-chunked' (base64) and 'SHA256' (lower-case hex)."


@given(st.binary(min_size=32, max_size=32))
def test_one_hash_has_one_spelling(raw):
    """Unused bits of the last base64 digit must not give a second name to the same object."""
    value = Digest.chunked(raw).value
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = value[:42] + alphabet[alphabet.index(value[42]) + 1] + "="
    with pytest.raises(DataMismatchError):
        Digest.checked(CHUNKED, other)


def test_many_objects_in_parts_hash_as_each_of_them_whole() -> None:
    big = memoryview(bytes(range(256)) * 70_000)  # 17.9 MB: three chunks
    objects = [[], [memoryview(b"a")], [memoryview(b"ab"), big[:5], big], [big[:100], big[100:]]]
    assert hash_all(objects) == [hash_bytes(b"".join(parts)) for parts in objects]
