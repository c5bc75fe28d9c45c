"""Metrics of two runs: in words, and read only where digests do not tell."""

from __future__ import annotations

import math
from functools import partial

from reprokit.comparison.metric_diff import logged_differences, numbers
from reprokit.errors import PurgedError
from reprokit.runs.logged import Series
from tests.runs.test_logged import record


def test_numbers_have_as_many_digits_as_tell_them_apart() -> None:
    assert numbers(0.1, 0.2) == "0.1 → 0.2"
    assert numbers(0.1, 0.1) == "0.1 → 0.1"
    assert numbers(0.1, 0.10000000000000002) == "0.10000000000000001 → 0.10000000000000002"
    assert numbers(None, 1.0) == "none → 1"
    assert numbers(math.nan, math.nan) == "nan → nan"


def test_nothing_is_read_where_digests_are_equal_or_the_metric_may_be_anything() -> None:
    def read() -> dict[str, Series]:
        raise AssertionError("it was read")

    one, other = record(logged={"loss": "1", "seconds": "2"}), record(logged={"loss": "1", "seconds": "3"})
    assert list(logged_differences((one, one), (read, read), {})) == []
    assert list(logged_differences((one, other), (read, read), {"seconds": math.inf})) == []


def test_what_is_gone_counts_once_and_is_not_within_anything() -> None:
    def gone() -> dict[str, Series]:
        raise PurgedError("It was purged.")

    sides = (record(logged={"loss": "1"}), record(logged={"loss": "2"}))
    (found,) = logged_differences(sides, (gone, gone), {"loss": 9.0})
    assert (found.name, found.steps, found.inside) == ("loss", 1, False)
    assert found.first == "its digests differ; It was purged."
    assert list(logged_differences((sides[0], record()), (gone, gone), {})) == []


def test_a_step_that_one_run_alone_logged_differs_whichever_it_is() -> None:
    longer: dict[str, Series] = {"loss": {0: [0.5], 1: [0.25]}}
    shorter: dict[str, Series] = {"loss": {0: [0.5]}}
    sides = (record(logged={"loss": "1"}), record(logged={"loss": "2"}))
    for ours, theirs, first in ((longer, shorter, "0.25 → none"), (shorter, longer, "none → 0.25")):
        (found,) = logged_differences(sides, (partial(dict, ours), partial(dict, theirs)), {})
        assert (found.name, found.first, found.steps) == ("loss", f"{first} at step 1", 1)
