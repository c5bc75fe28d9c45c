"""Object hashes are Quilt's and S3's, whatever the size, the source and the pieces they come in."""

import base64
import hashlib
import io
import random
import tracemalloc
from concurrent import futures
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprokit.core import digest as module
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
    hash_view,
    spans,
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


@given(st.lists(st.integers(0, 50)), st.integers(1, 100))
def test_spans_leave_out_nothing_and_each_but_the_last_is_worth_a_thread(sizes, least):
    found = list(spans(sizes, least))
    assert [position for span in found for position in span] == list(range(len(sizes)))
    assert all(found)
    assert all(sum(sizes[position] for position in span) >= least for span in found[:-1])
    assert all(sum(sizes[position] for position in span[:-1]) < least for span in found)


@pytest.fixture
def handed(monkeypatch):
    """What was handed to threads so far."""
    found: list[int] = []

    class Counting(futures.ThreadPoolExecutor):
        def submit(self, *arguments: Any, **named: Any) -> Any:
            found.append(1)
            return super().submit(*arguments, **named)

    monkeypatch.setattr(futures, "ThreadPoolExecutor", Counting)
    return found


def test_many_small_objects_go_to_threads_together_and_few_to_none(handed):
    views = [memoryview(number.to_bytes(2, "big") * 32_768) for number in range(100)]
    expected = [hash_bytes(view) for view in views]
    assert hash_all([[view] for view in views]) == expected
    assert len(handed) == 7  # 6.25 MiB in tasks of a MiB
    assert hash_all([[view] for view in views[:50]]) == expected[:50]
    assert len(handed) == 7


@pytest.mark.parametrize(
    ("size", "options", "count"),
    [
        (0, {}, 0),
        (8 * MIB, {}, 0),  # one chunk: nothing is there to share
        (8 * MIB + 1, {}, 2),
        (20 * MIB, {}, 3),
        (20 * MIB, {"threads": 1}, 0),
        (20 * MIB, {"type_": PLAIN}, 0),
    ],
)
def test_a_copy_gives_each_chunk_to_a_thread_where_there_are_several(handed, size, options, count):
    data = bytes(size)
    assert copy_hashed(io.BytesIO(data), None, size, **options) == (
        hash_bytes(data, options.get("type_", CHUNKED)),
        size,
    )
    assert len(handed) == count
    if "threads" not in options:
        assert hash_view(memoryview(data), **options) == hash_bytes(data, options.get("type_", CHUNKED))
        assert len(handed) == 2 * count


class Zeros(io.RawIOBase):
    """A long stream that lies nowhere."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self.left)
        buffer[:count], self.left = bytes(count), self.left - count
        return count


@pytest.mark.parametrize("options", [{"type_": PLAIN}, {"threads": 1}, {}])
def test_of_a_long_stream_little_is_in_memory_at_once(options):
    size = 96 * MIB
    tracemalloc.start()
    try:
        _, length = copy_hashed(Zeros(size), None, size, **options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert length == size
    assert peak < 48 * MIB


# ── one definition, many ways to it ───────────────────────────────────────────────────────────────────────────────────


def defined(data: bytes, chunk: int) -> bytes:
    parts = [data[start : start + chunk] for start in range(0, len(data), chunk)]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


class Trickle(io.RawIOBase):
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), 5, len(self.left))
        buffer[:count], self.left = self.left[:count], self.left[count:]
        return count


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 33, 47, 48, 64, 65, 200])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_way_gives_the_digest_that_is_defined(monkeypatch, size, threads):
    monkeypatch.setattr(module, "_MIN_CHUNK", 16)
    monkeypatch.setattr(module, "_MAX_CHUNKS", 4)
    data = bytes(range(size))
    chunk = next(16 << doubled for doubled in range(9) if size <= 4 * (16 << doubled))
    assert chunk_size(size) == chunk
    expected = Digest.chunked(defined(data, chunk))
    view = memoryview(data)
    assert hash_bytes(data) == hash_view(view, threads=threads) == expected
    hasher = Hasher(size)
    for start in range(0, size, 7):
        hasher.update(data[start : start + 7])
    assert hasher.digest() == expected
    parts = [view[:3], view[3:3], view[3:20], view[20:]]
    assert hash_all([parts, [view], [], parts], threads=threads) == [expected, expected, hash_bytes(b""), expected]
    for source in (io.BytesIO(data), Trickle(data)):
        sink = io.BytesIO()
        assert copy_hashed(source, sink, size, threads=threads) == (expected, size)
        assert sink.getvalue() == data
    plain = Digest(PLAIN, hashlib.sha256(data).hexdigest())
    assert hash_bytes(data, PLAIN) == hash_view(view, PLAIN) == plain
    assert copy_hashed(Trickle(data), None, size, PLAIN, threads=threads) == (plain, size)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("said", [0, 3, 40, 99])
def test_a_stream_of_another_length_gives_one_byte_more_or_what_there_was(monkeypatch, said, threads):
    monkeypatch.setattr(module, "_MIN_CHUNK", 16)
    data = bytes(range(50))
    taken = data[: said + 1]
    sink = io.BytesIO()
    digest, length = copy_hashed(Trickle(data), sink, said, threads=threads)
    assert (length, sink.getvalue()) == (len(taken), taken)
    assert digest == Digest.chunked(defined(taken, 16))


def test_digests_sort_and_show_their_hex():
    one = hash_bytes(b"hello")
    assert one.hex == one.raw.hex() == defined(b"hello", 16).hex()
    plain = Digest(PLAIN, hashlib.sha256(b"hello").hexdigest())
    assert plain.hex == plain.value and plain.raw == bytes.fromhex(plain.value)
    assert one.raw != plain.raw


@pytest.mark.parametrize("value", ["a" * 63, "A" * 64, "g" * 64, "a" * 65, "", None, 5, ["a"] * 64])
def test_a_plain_digest_is_64_hexadecimal_digits(value):
    assert Digest.checked(PLAIN, "a" * 64) == Digest(PLAIN, "a" * 64)
    with pytest.raises(DataMismatchError):
        Digest.checked(PLAIN, value)
    with pytest.raises(DataMismatchError):
        Digest.checked(CHUNKED, value)
    with pytest.raises(DataMismatchError):
        Digest.checked("md5", "a" * 64)
