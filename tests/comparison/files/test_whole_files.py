"""Estimators that differ in arrays, and in what is none: what a declared tolerance is about, on real ones of skops."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("skops", reason="the sklearn extra is not installed")

import numpy as np
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, StandardScaler

from reprokit.callbacks.sklearn.skops_file import dump
from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.checkpoint_diff import Difference, compare_tensors, first_difference
from reprokit.registry.local import LocalRegistry
from reprokit.schema.recipe import Tolerance, WeightTolerance
from tests.checkpoint.making import make

_X, _Y = load_iris(return_X_y=True)


def _stored(base: Path, estimator: Any) -> Checkpoint:
    found = dump(estimator)
    return make(LocalRegistry(base), {}, files={"model.skops": (found.data, found.tensors)}, framework="sklearn")


def _compared(base: Path, left: Any, right: Any, atol: float = 1e-3, *, values: bool = True) -> Difference:
    tolerance = Tolerance(weights=WeightTolerance(atol=atol))
    return first_difference(_stored(base, left), _stored(base, right), tolerance, values=values)


def _regression(by: float = 0.0) -> Any:
    """Return a model of several classes, whose coefficients scikit-learn leaves column by column."""
    made = LogisticRegression(max_iter=1000).fit(_X, _Y)
    made.coef_[1:, 2] += by
    return made


def test_arrays_that_are_stored_column_by_column_are_compared_as_arrays(tmp_path: Path) -> None:
    one, other = _regression(), _regression(1e-9)
    assert one.coef_.flags.f_contiguous and not one.coef_.flags.c_contiguous
    checkpoint = _stored(tmp_path, one)
    assert (checkpoint.tensor("coef_") == one.coef_).all() and checkpoint.stored("coef_").shape == (3, 4)
    found = _compared(tmp_path, one, other)
    assert found.divergence.shape == [3, 4]
    apart = np.abs(one.coef_ - other.coef_)
    assert found.divergence.max_abs == apart.max()
    assert found.divergence.index == list(np.unravel_index(apart.argmax(), (3, 4)))
    assert found.within
    assert not _compared(tmp_path, one, other, apart.max() / 2).within


def test_an_array_in_another_order_is_equal_and_the_file_is_not(tmp_path: Path) -> None:
    one, other = _regression(), _regression()
    other.coef_ = np.ascontiguousarray(other.coef_)
    rows = compare_tensors(_stored(tmp_path, one), _stored(tmp_path, other))
    assert (rows.differing, rows.equal) == (0, False)
    found = _compared(tmp_path, one, other)
    assert (str(found), found.within) == ("model.skops:coef_", False)


def test_the_arrays_of_a_sparse_matrix_are_arrays(tmp_path: Path) -> None:
    one, other = _regression().sparsify(), _regression(1e-9).sparsify()
    assert _stored(tmp_path, one).tensor("coef_.data").tolist() == one.coef_.data.tolist()
    found = _compared(tmp_path, one, other)
    assert (found.divergence.tensor, found.within) == ("coef_.data", True)
    other.coef_.indices = other.coef_.indices[::-1].copy()
    assert not _compared(tmp_path, one, other).within


def _changed(change: Callable[[Any], Any] = id) -> Any:
    made = make_pipeline(StandardScaler(), _regression()).fit(_X, _Y)
    change(made)
    return made


def _names(made: Any) -> None:
    made[1].classes_ = np.array(["a", "b", "c"])


@pytest.mark.parametrize(("change", "said"), [
    (lambda made: setattr(made[1], "C", 2.0), "model.skops:steps[1][1].C"),
    (lambda made: setattr(made[0], "with_std", False), "model.skops:steps[0][1].with_std"),
    (lambda made: setattr(made[1], "extra", "x"), "model.skops:steps[1][1].extra"),
])  # fmt: skip
def test_what_differs_besides_the_arrays_is_named_and_never_within(
    tmp_path: Path, change: Callable[[Any], None], said: str
) -> None:
    alone = _compared(tmp_path, _changed(), _changed(change), 1e300)
    assert (str(alone).partition(",")[0], alone.within) == (said, False)

    def both(made: Any) -> None:
        change(made)
        made[1].coef_ += 1e-12

    found = _compared(tmp_path, _changed(), _changed(both), 1e300)
    assert found.divergence.tensor == "steps[1][1].coef_" and not found.within
    assert f"; beside it {said}" in str(found)
    assert not _compared(tmp_path, _changed(), _changed(both), 1e300, values=False).within


def test_text_is_no_array_and_a_file_without_arrays_is_read_too(tmp_path: Path) -> None:
    found = _compared(tmp_path, _changed(), _changed(_names), 1e300)
    assert not found.within
    for values, said in ((True, "model.skops:threshold"), (False, "model.skops, differs in more than its arrays")):
        found = _compared(tmp_path, Binarizer(threshold=0.5), Binarizer(threshold=0.6), 1e300, values=values)
        assert (str(found), found.within) == (said, False)


def test_two_forests_differ_whatever_is_declared(tmp_path: Path) -> None:
    one, other = (RandomForestClassifier(3, random_state=seed).fit(_X, _Y) for seed in range(2))
    assert not _compared(tmp_path, one, other, 1e300).within
    other = RandomForestClassifier(3, random_state=0).fit(_X, _Y)
    other.estimators_[1].tree_.threshold[0] += 1e-12
    found = _compared(tmp_path, one, other, 1e300)
    assert (str(found), found.within) == ("model.skops:estimators_[1].tree_.nodes", False)


def test_the_sums_of_an_archive_hide_nothing_else(tmp_path: Path) -> None:
    """One byte of each kind of place in the file, with the arrays that the other one has."""
    found = dump(_regression())
    with zipfile.ZipFile(io.BytesIO(found.data)) as archive:
        head = next(info for info in archive.infolist() if info.filename.endswith(".npy")).header_offset
        directory = archive.start_dir  # type: ignore[attr-defined]
    registry = LocalRegistry(tmp_path)
    whole = make(registry, {}, files={"model.skops": (found.data, found.tensors)})
    places = [head + 10, head + 30, directory + 12, directory + 38, len(found.data) - 1]
    for place in places:
        data = bytearray(found.data)
        data[place] ^= 1
        other = make(registry, {}, files={"model.skops": (bytes(data), found.tensors)})
        assert not first_difference(whole, other, Tolerance(weights=WeightTolerance(atol=1.0))).within, place
