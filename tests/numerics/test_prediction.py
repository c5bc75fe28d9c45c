"""What is predicted, and for which reasons."""

from __future__ import annotations

from typing import Any

import pytest

from reprokit.client.frameworks import Framework, frameworks
from reprokit.numerics.prediction import Prediction, Recorded, predict
from reprokit.schema.lock import PackageChange
from reprokit.schema.machine import Numeric
from tests.numerics.test_numeric_class import CLASS


def change(name: str, kind: Any = "pip") -> PackageChange:
    return PackageChange(name=name, kind=kind, locked="1.0", found="1.1")


def predicted(here: Any = CLASS, **more: Any) -> Prediction:
    known = {"imported": ["numpy", "torch", "tqdm"], "framework": "torch", "metrics": []}
    run = Recorded(
        numeric=Numeric.told(more.pop("recorded", CLASS)),
        unseeded=more.pop("unseeded", False),
        **{name: more.pop(name, default) for name, default in known.items()},
    )
    asked = {"packages": [], "changed": {}, **more}
    return predict(run, None if here is None else Numeric.told(here), **asked)


def with_kernels(**digests: str) -> dict[str, Any]:
    kernels = CLASS["fingerprint"]
    return {**CLASS, "fingerprint": {**kernels, "torch": {**kernels["torch"], **digests}}}


def test_nothing_differs() -> None:
    assert predicted() == Prediction(prediction="EQUAL", kernels={"libm": (1, 1), "torch": (2, 2)})


@pytest.mark.parametrize(
    ("name", "word", "text"),
    [
        ("tqdm", "EQUAL", "tqdm 1.0 → 1.1: computes nothing"),
        ("pandas", "EQUAL", "pandas 1.0 → 1.1: not imported by the run"),
        ("numpy", "MAY-DIFFER", "numpy 1.0 → 1.1: imported by the run"),
        ("nvidia-cudnn-cu12", "MAY-DIFFER", "nvidia-cudnn-cu12 1.0 → 1.1: may be used by the run"),
    ],
)
def test_a_package_counts_if_the_run_could_have_computed_with_it(name: str, word: str, text: str) -> None:
    found = predicted(packages=[change(name)])
    assert found.prediction == word
    assert [*found.reasons, *found.notes] == [text]


def test_a_run_that_did_not_tell_what_it_imported_may_have_used_everything() -> None:
    assert predicted(packages=[change("pandas")], imported=[]).prediction == "MAY-DIFFER"


@pytest.mark.parametrize(
    ("kernel", "parts", "metrics"),
    [
        ("linear", ["Linear"], []),
        ("softmax", ["Linear", "MultiheadAttention"], []),
        ("cross_entropy", ["Sequential"], ["val_accuracy"]),
        ("cross_entropy", ["Dense", "sparse_categorical_crossentropy"], []),
        ("adam", ["AdamW"], []),
    ],
)
def test_other_bits_are_different_where_the_run_uses_the_kernel(
    kernel: str, parts: list[str], metrics: list[str]
) -> None:
    here, recorded = with_kernels(**{kernel: "99"}), with_kernels(**{kernel: "11"})
    assert predicted(here, recorded=recorded).prediction == "MAY-DIFFER"
    found = predicted(here, recorded={**recorded, "parts": parts}, metrics=metrics)
    assert found.prediction == "DIFFERENT"
    assert found.reasons == [f"kernels of torch: {kernel} give other bits here"]


def test_a_convolution_counts_where_it_differs_in_every_size() -> None:
    sizes = {"conv2d small": "11", "conv2d large": "11"}
    recorded = {**with_kernels(**sizes), "parts": ["Conv2d"]}
    assert predicted(with_kernels(**{**sizes, "conv2d large": "9"}), recorded=recorded).prediction == "MAY-DIFFER"
    both = dict.fromkeys(sizes, "9")
    assert predicted(with_kernels(**both), recorded=recorded).prediction == "DIFFERENT"


def test_other_bits_of_a_library_that_did_not_train_are_a_possibility() -> None:
    found = predicted(with_kernels(linear="99"), framework="sklearn")
    assert found.prediction == "MAY-DIFFER"
    assert "kernels of torch: linear give other bits here; the run was trained with sklearn" in found.reasons
    assert predicted(with_kernels(linear="99"), framework=None).prediction == "MAY-DIFFER"


def test_another_processor_is_equal_if_every_kernel_is() -> None:
    assert predicted({**CLASS, "cpu": "B"}).prediction == "EQUAL"
    bare = {key: value for key, value in CLASS.items() if key != "fingerprint"}
    assert predicted({**CLASS, "cpu": "B"}, recorded=bare).prediction == "MAY-DIFFER"


def test_another_processor_is_open_where_a_library_computes_that_was_not_tried() -> None:
    found = predicted({**CLASS, "isa": []}, imported=["numpy", "opencv-python", "torch"])
    assert found.prediction == "MAY-DIFFER"
    assert found.reasons == ["isa ['avx2'] → []: opencv-python may depend on it, and was not tried"]
    assert predicted(imported=["opencv-python"]).prediction == "EQUAL"


def test_a_library_that_becomes_a_framework_here_is_tried_without_a_change_of_any_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = {"here": {**CLASS, "isa": []}, "imported": ["catboost", "torch"]}
    assert predicted(**asked).prediction == "MAY-DIFFER"
    known = {**frameworks(), "catboost": Framework(name="catboost", rank=110)}
    monkeypatch.setattr("reprokit.numerics.prediction.find", known.get)
    assert predicted(**asked).prediction == "EQUAL"


def test_a_framework_without_kernels_is_not_vouched_for() -> None:
    recorded = {**CLASS, "keras": {"backend": "jax"}}
    found = predicted(recorded, recorded=recorded, framework="keras")
    assert found.reasons == ["the run was trained with keras, and no kernel of it was tried on both sides"]
    assert predicted(framework="numpy").prediction == "MAY-DIFFER"


def test_a_run_without_seeds_is_never_equal() -> None:
    assert predicted(unseeded=True).prediction == "MAY-DIFFER"


def test_without_anything_to_compare_nothing_is_promised() -> None:
    bare = {key: value for key, value in CLASS.items() if key != "fingerprint"}
    assert predicted(recorded=bare).prediction == "UNKNOWN"
    found = predicted(None, unasked="It hangs.", packages=[change("numpy")])
    assert (found.prediction, found.reasons[0]) == ("UNKNOWN", "It hangs.")


def test_other_threads_are_never_equal() -> None:
    assert predicted(changed={"threads": (2, 1)}).reasons == ["threads 2 → 1"]
