"""A checkpoint that was handed over is kept, whatever somebody made of the package's tags."""

from __future__ import annotations

from pathlib import Path

import pytest

from reprokit.checkpoint.format import SnapshotMessage
from reprokit.errors import RegistryError
from reprokit.recording.checkpoint_saver import Saver, SavingPolicy
from reprokit.recording.journal import Journal
from reprokit.registry.local import LocalRegistry
from reprokit.runs.transfer import push


def test_a_permanent_best_stays_and_the_better_checkpoint_is_kept(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    policy = SavingPolicy(
        run_id="20261123-101500-7c1e9f", name="t", package="t/m", best={"loss": "min"}, inputs=[], lock_hash=None
    )
    saver = Saver(registry=registry, journal=Journal.create(tmp_path, policy.run_id), policy=policy)

    def save(epoch: int, loss: float) -> str:
        snapshot = SnapshotMessage(
            kind="checkpoint", framework="plain", tensors=[], files=[], state={"at": epoch}, epoch=epoch,
            metrics={"loss": loss},
        )  # fmt: skip
        return saver.save(snapshot, memoryview(b"")).top_hash

    first = save(0, 0.5)
    registry.tag("t/m", first, ("best",), permanent=True)
    second = save(1, 0.25)
    assert registry.head("t/m").tags == {"best": first, "latest": second}  # type: ignore[union-attr]
    assert [entry.top_hash for entry in saver.collected.checkpoints] == [first, second]
    assert saver.collected.warnings == [
        "A better checkpoint was saved, and is not tagged so. "
        f"The tag 'best' of t/m is permanent: it stays at {first[:12]}, and that version stays."
    ]


def test_a_checkpoint_that_the_registry_does_not_take_is_kept_aside_and_can_be_brought_there(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    run_id = "20261123-101500-7c1e9f"
    policy = SavingPolicy(run_id=run_id, name="t", package="t/m", best={}, inputs=[], lock_hash=None)
    journal = Journal.create(tmp_path, run_id)
    saver = Saver(registry=registry, journal=journal, policy=policy)

    def save(epoch: int) -> str:
        snapshot = SnapshotMessage(
            kind="checkpoint", framework="plain", tensors=[], files=[], state={"at": epoch}, epoch=epoch
        )
        return saver.save(snapshot, memoryview(b"")).top_hash

    first = save(0)
    registry.root.rename(tmp_path / "away")
    with pytest.raises(RegistryError) as said:
        save(1)
    assert not registry.root.exists()
    assert f"The registry {registry.root} is gone" in said.value.message
    assert [entry.top_hash for entry in saver.collected.checkpoints] == [first]
    journal.close(keep_workspace=False)
    (tmp_path / "away").rename(registry.root)
    bring = said.value.message.partition("The checkpoint of epoch 1 is kept: `reprokit push ")[2].removesuffix("`.")
    ref, target, _, source = bring.split()
    (done,) = push(ref, source=LocalRegistry(Path(source)), target=LocalRegistry(Path(target)))
    assert done.top_hash in registry.top_hashes("t/m")
    parent = registry.read_header(done.top_hash)["user_meta"]["reprokit"]["parent"]  # type: ignore[index]
    assert parent == {"package": "t/m", "top_hash": first}
