"""What a version says of a checkpoint's tensors and state is digested again from the bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprokit.checkpoint import reader
from reprokit.checkpoint.claims import check_claims, state_digest
from reprokit.checkpoint.load import load_checkpoint
from reprokit.comparison.record_check import stored_digest, unlike
from reprokit.comparison.verify import verify
from reprokit.core.digest import Digest, hash_view
from reprokit.errors import DataMismatchError
from reprokit.registry.local import LocalRegistry
from reprokit.schema.manifest import Entry, Manifest
from reprokit.store import reader as files
from tests.checkpoint.making import encoded, make
from tests.conftest import context_of

LARGE = np.arange(300_000, dtype=np.float32)
TENSORS = {"a.w": np.ones(3, np.float32), "a.b": np.arange(4.0), "big": LARGE, "optimizer:a.w": np.zeros(2)}
Change = Callable[[dict[str, tuple[bytes, Any]]], Any]


def altered(registry: LocalRegistry, change: Change) -> str:
    """Publish the checkpoint with other files under the header that it had; return its reference."""
    found = make(registry, TENSORS, aliases={"tied": "a.w"}, files={"model.txt": b"a file"}, state={"epoch": 1}).package
    files = {entry.logical_key: (found.entry(entry.logical_key).read(), entry.meta) for entry in found.manifest.entries}
    change(files)
    with registry.staging() as sink:
        entries = [Entry(key, len(data), sink.put_bytes(data)[0], meta) for key, (data, meta) in files.items()]
    made = Manifest.make(entries, user_meta=found.manifest.user_meta)
    registry.publish(found.name, made)
    return f"{found.name}@{made.top_hash}"


def byte(key: str, at: int) -> Change:
    """Return what changes a byte of a file."""

    def change(files: dict[str, tuple[bytes, Any]]) -> None:
        data, facts = files[key]
        changed = bytearray(data)
        changed[at] ^= 1
        files[key] = bytes(changed), facts

    return change


def meta(key: str, field: str, value: object) -> Change:
    """Return what changes what the metadata says of a file's first tensor."""

    def change(files: dict[str, tuple[bytes, Any]]) -> None:
        rows = [dict(row) for row in files[key][1]["reprokit"]["tensors"]]
        rows[0][field] = value
        files[key] = files[key][0], {"reprokit": {"tensors": rows}}

    return change


def test_an_honest_checkpoint_holds_what_it_says(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    ref = altered(registry, lambda _files: None)
    check_claims(load_checkpoint(ref, registry=registry))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (byte("model/a.trainable.safetensors", -1), "a.w in model/a.trainable.safetensors of .* is not what"),
        (
            byte("model/big.safetensors", -1),
            "model/big.safetensors of .* does not hold what the version",
        ),
        (byte("optimizer/a.trainable.safetensors", -1), "a.w in optimizer/a.trainable.safetensors of .* is not what"),
        (meta("model/a.trainable.safetensors", "digest", "0" * 64), "claims the state digest"),
        (meta("model/big.safetensors", "digest", "0" * 64), "claims the state digest"),
        (byte("model.txt", 0), "claims the state digest"),
        (lambda files: files.pop("model.txt"), "claims the state digest"),
        (lambda files: files.update(more=(b"x", {})), "claims the state digest"),
        (lambda files: files.update({"more.index.json": (b"{}", {})}), "claims the state digest"),
        (lambda files: files.update({"state.json": (b'{"epoch":2}', {})}), "claims the state digest"),
        (lambda files: files.update({"model/more.safetensors": (b"x", {})}), "is not a safetensors file"),
    ],
)
def test_what_was_altered_under_an_honest_header_is_refused(tmp_path: Path, change: Change, said: str) -> None:
    registry = LocalRegistry(tmp_path)
    ref = altered(registry, change)
    with pytest.raises(DataMismatchError, match=said):
        check_claims(load_checkpoint(ref, registry=registry))


def test_a_small_tensor_is_compared_with_its_own_digest_where_it_is_given_out(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    found = load_checkpoint(altered(registry, byte("model/a.trainable.safetensors", -1)), registry=registry)
    assert found.tensor("big").size == 300_000
    with pytest.raises(DataMismatchError, match="expected"):
        found.tensors()


def test_verifying_hashes_what_has_a_file_of_its_own_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    package = make(registry, {**TENSORS, **{f"layer{n}.w": LARGE + n for n in range(4)}}).package
    hashed: list[int] = []

    def counted(data: memoryview, *more: Any) -> Digest:
        hashed.append(len(data))
        return hash_view(memoryview(data), *more)

    monkeypatch.setattr(files, "hash_view", counted)
    monkeypatch.setattr(reader, "hash_all", lambda all_: [counted(part) for parts in all_ for part in parts])
    found = verify([f"{package.name}@{package.top_hash}"], context=context_of(tmp_path, LocalRegistry(registry.root)))
    assert found.problems == []
    assert package.manifest.size - 10_000 < sum(hashed) < package.manifest.size + 1_000


@pytest.mark.parametrize(
    "change",
    [
        byte("model/a.trainable.safetensors", -1),
        byte("model/big.safetensors", -1),
        byte("optimizer/a.trainable.safetensors", -1),
    ],
)
def test_two_versions_of_one_state_digest_are_alike_if_their_bytes_have_it(tmp_path: Path, change: Change) -> None:
    registry = LocalRegistry(tmp_path)
    honest, other = (
        load_checkpoint(altered(registry, each), registry=registry) for each in (lambda _files: None, change)
    )
    claimed = honest.facts.state_digest
    assert other.facts.state_digest == claimed
    assert (stored_digest(honest), unlike(honest, honest)) == (claimed, None)
    try:
        said = unlike(honest, other)
        back = unlike(other, honest)
    except DataMismatchError as error:  # the file of a large tensor says itself that it is another
        assert "does not hold what the version's metadata says" in error.message
        return
    assert said is not None and back is not None
    found = stored_digest(other)[-12:]
    assert said == f"what the repetition stored has the state digest {found}, its version claims {claimed[-12:]}"
    assert back.startswith("what the original stored has the state digest ")


def test_the_digest_of_what_is_stored_is_that_of_what_was_saved(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "aliases": {"tied": "a.w", "optimizer:tied": "a.w"}, "files": {"model.txt": b"a file"}, "config": {"a": 1},
        "state": {"epoch": 1},
    }  # fmt: skip
    saved = encoded(TENSORS, **more)[1]
    found = make(LocalRegistry(tmp_path), TENSORS, **more)
    state = found.package.entry("state.json").read()
    assert state_digest(found, state) == stored_digest(found) == found.facts.state_digest == saved
    for fewer in ("aliases", "files", "config", "state"):
        assert encoded(TENSORS, **{name: value for name, value in more.items() if name != fewer})[1] != saved
