"""What a report draws: checkpoints paired by place, lines thinned without losing a spike, rows that stand for many."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from reprokit.export.report.data import Cell, Grid, curves, group, merged, thin, thinned
from reprokit.export.report.figures import bins
from reprokit.export.report.words import how_it_grows, how_large, where_first
from reprokit.runs.pairs import checkpoint_pairs
from reprokit.schema.record import CheckpointEntry, Record
from reprokit.schema.verdict import Divergence


def _entry(digest: str = "a", **facts: Any) -> CheckpointEntry:
    return CheckpointEntry(package="t/m", top_hash="0" * 64, state_digest=digest, **facts)


def _record(*entries: CheckpointEntry, status: Any = "finished", initial: CheckpointEntry | None = None) -> Record:
    return Record(
        run_id="20260102-030405-aaaaaa", name="t", status=status, lock_hash=None, code=None, environment=None,
        started="", checkpoints=list(entries), initial=initial,
    )  # fmt: skip


def test_checkpoints_are_paired_by_epoch_batch_and_step() -> None:
    left = _record(_entry(epoch=0, batch=2), _entry(epoch=0), _entry(step=7), _entry(), initial=_entry(kind="initial"))
    right = _record(
        _entry(epoch=0), _entry("b", epoch=0, batch=2), _entry(step=8), _entry(), initial=_entry("b", kind="initial")
    )
    found = [(str(pair.place), pair.state) for pair in checkpoint_pairs(left, right)]
    assert found == [
        ("initial state", "differs"), ("epoch 0, batch 2", "differs"), ("epoch 0", "equal"), ("step 7", "missing"),
        ("checkpoint 1", "equal"), ("step 8", "missing"),
    ]  # fmt: skip


def test_what_chance_saved_and_what_was_not_asked_for_is_no_pair() -> None:
    stopped = _record(_entry(epoch=0), _entry(epoch=1, kind="signal"), status="interrupted")
    whole = _record(_entry(epoch=0), _entry(epoch=1), _entry(epoch=2))
    assert [str(pair.place) for pair in checkpoint_pairs(stopped, whole)] == ["epoch 0"]
    assert [str(pair.place) for pair in checkpoint_pairs(whole, _record(_entry(epoch=0)), until=0)] == ["epoch 0"]


def test_thinning_keeps_ends_and_spikes() -> None:
    line = [(float(x), 1000.0 if x == 777 else float(x % 3)) for x in range(10_000)]
    found = thin(line, 100)
    assert len(found) <= 100
    assert (777.0, 1000.0) in found
    assert sorted(found) == found
    assert thin(line[:50], 100) == line[:50]
    places = thinned(1000, 60, keep=[123, 124])
    assert len(places) == 60
    assert {0, 123, 124, 999} <= set(places)
    assert max(b - a for a, b in pairwise(places)) < 40
    assert thinned(3, 60) == [0, 1, 2]


def test_a_curve_knows_where_two_runs_part() -> None:
    left = _record(*(_entry(epoch=n, metrics={"loss": 1.0 / (n + 1), "nan": math.nan}) for n in range(5)))
    right = _record(*(_entry(epoch=n, metrics={"loss": 1.0 / (n + 1 + (n > 2)), "nan": math.nan}) for n in range(5)))
    (nan, loss), hidden = curves(left, right, first=["nan"])
    assert (loss.status, loss.axis, hidden) == ("differs from epoch 3 on", "epoch", 0)
    assert nan.status == "identical, 10 not finite"
    assert nan.one == []
    alone, _ = curves(left, None, ({"step_loss": [(1.0, 2.0)]}, {}))
    assert [(curve.name, curve.axis, curve.status) for curve in alone][2] == ("step_loss", "step", "")


def test_rows_are_tensors_then_modules_then_parts_of_the_list() -> None:
    names = [f"layer{i}.{part}.weight" for i in (10, 2, 1) for part in ("a", "b")]
    assert list(group(names, 6))[:3] == ["layer1.a.weight", "layer1.b.weight", "layer2.a.weight"]
    assert list(group(names, 5)) == ["layer1", "layer2", "layer10"]
    many = group([f"tensor{i}" for i in range(1000)], 39)
    assert len(many) == 39
    assert sorted(name for names in many.values() for name in names) == sorted(f"tensor{i}" for i in range(1000))


def test_a_row_of_several_tensors_shows_the_worst() -> None:
    assert merged([Cell("equal"), Cell("apart", 1e-3), Cell("apart", 1e-6)]) == Cell("apart", 1e-3)
    assert merged([Cell("apart", 1.0), Cell("unlike")]).kind == "unlike"
    assert merged([]).kind == "absent"


def test_a_colour_means_the_same_in_all_reports_but_those_of_smaller_numbers() -> None:
    usual = [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, math.inf]
    for sizes in ([], [0.0], [1e-7, 3.0], [0.5], [math.inf], [1e300]):
        assert bins(sizes) == usual
    fine = bins([1e-16, 0.1])
    assert len(fine) == 8
    assert fine[0] <= 1e-14
    assert fine[-2:] == [1e-3, math.inf]
    assert bins([5e-324])[-1] == math.inf


def test_sizes_are_said_in_words() -> None:
    assert how_large(1e-7, 1).startswith("the smallest step that such numbers can differ by")
    assert how_large(1e-7, 3).startswith("at most 3 of the smallest steps")
    assert how_large(1e-5, 200) == "one part in 100,000 of the number there, small"
    assert how_large(0.02, 10**6) == "2\u00a0% of the number there, noticeable"
    assert how_large(30.0, None) == "30 times the number there, large"
    assert how_large(None, None) == "against a number that is zero, so that no ratio can be said"


def test_the_first_difference_is_said_by_its_place() -> None:
    left, right = (_record(*(_entry(digest, epoch=n) for n, digest in enumerate(each))) for each in ("aaa", "aab"))
    found = checkpoint_pairs(left, right)
    first = Divergence(
        saved="checkpoint", epoch=2, tensor="w", differing=1, elements=4, max_abs=0.5, relative=0.25, index=[3]
    )
    assert " ".join(where_first(first, found, 2)) == (
        "The first 2 of 3 checkpoints are equal in every bit. The first difference is in the checkpoint of epoch 2: "
        "after pass 3 of 3 over the training data. What differs there first is the tensor w: 1 of its 4 numbers differ."
        " The largest difference is 0.5, at place [3]: 25\u00a0% of the number there, large."
    )
    only = where_first(Divergence(output="a.txt"), found[:2], 2)
    assert only == [
        "All 2 checkpoints are equal.",
        "The first thing that differs is a file that the script wrote, a.txt.",
    ]


def test_what_becomes_of_a_difference_is_said() -> None:
    equal, small, large = Cell("equal"), Cell("apart", 1e-6), Cell("apart", 0.1)
    grid = Grid(rows=["whole", "w"], columns=["0", "1", "2"], cells=[[equal] * 3, [equal, small, large]], tensors=1)
    assert how_it_grows(grid) == [
        "The weights differ from the checkpoint of epoch 1 on, in 1 of 1 rows of the map below; the largest difference "
        "is one part in 1,000,000 of the largest weight there.",
        "At the last checkpoint it is 10\u00a0% of the largest weight there: training makes small differences larger.",
    ]
    still = Grid(rows=["whole", "w"], columns=["0"], cells=[[Cell("unmeasured")], [equal]], tensors=1)
    assert how_it_grows(still) == ["No weight of the model differs in the map below."]
