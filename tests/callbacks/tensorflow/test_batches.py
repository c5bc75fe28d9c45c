"""However a script takes its batches, a resumed run ends with the same bits, or is refused by name."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from reprokit.client.restored import Restored
from tests.resume.rehearsal import Rehearsal

tf = pytest.importorskip("tensorflow", reason="the tensorflow extra is not installed")

_SCRIPT = """
import tensorflow as tf
from reprokit.callbacks.tensorflow import PackageCheckpoint

tf.random.set_seed(3)
net = tf.Module()
net.weight = tf.Variable([1.0, 2.0])
data = tf.data.Dataset.range(24).map(lambda n: tf.cast(n, tf.float32)).shuffle(24, seed=5).batch(4)
ckpt = PackageCheckpoint(model=net, dataset=data)

def step(batch, factor=1):
    die()
    net.weight.assign(net.weight * 0.5 + tf.reduce_sum(batch) * factor)

for epoch in ckpt.epochs(3):
    BODY
    ckpt.save()
"""


def _rehearse(body: str, folder: Path, steps: int | None) -> Rehearsal:
    every = None if steps is None else {"unit": "step", "n": steps}
    source = _SCRIPT.replace("BODY", body.replace("\n", "\n    "))
    return Rehearsal(source, folder, every=every, seed=lambda: random.seed(7))


@pytest.mark.parametrize(
    ("body", "steps"),
    [
        ("for i, batch in enumerate(ckpt.batches(data)): step(batch, 1 + i % 3)", 2),
        ("for i, batch in enumerate(ckpt.batches(data)):\n    step(batch)\n    if i == 3: break", 2),
        ("it = ckpt.batches(data)\nfor _ in range(3): step(next(it))", None),
    ],
    ids=["enumerate", "break", "by hand, at the ends of epochs"],
)
def test_a_loop_is_entered_again_where_it_stood(body: str, steps: int | None, tmp_path: Path) -> None:
    assert _rehearse(body, tmp_path, steps).differences([5, 8]) == []


def test_batches_taken_by_hand_say_so_at_the_first_save_inside(tmp_path: Path) -> None:
    rehearsal = _rehearse("it = ckpt.batches(data)\nfor _ in range(4): step(next(it))", tmp_path, 2)
    saved = rehearsal.run()
    refused = Restored(saved[0, 2, 2][1]).state("refused")
    assert refused[0].startswith("inside an epoch, batches are taken by next(…)")
    with pytest.raises(RuntimeError, match="no run can be resumed from this checkpoint bit for bit: inside an epoch"):
        rehearsal.run(resume=saved[0, 2, 2][1])


def test_a_save_before_the_epochs_last_batch_is_an_error(tmp_path: Path) -> None:
    body = "it = ckpt.batches(data)\nstep(next(it))\nckpt.save()\nstep(next(it))"
    with pytest.raises(RuntimeError, match=r"ckpt\.save stood where this epoch goes on"):
        _rehearse(body, tmp_path, None).run()
