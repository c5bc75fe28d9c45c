"""In what two numeric classes differ; the facts may be anybody's."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from reprokit.numerics.numeric_class import differences, explanations, kernels_compared
from reprokit.schema.machine import Numeric

CLASS: dict[str, Any] = {
    "machine": "x86_64",
    "cpu": "A",
    "isa": ["avx2"],
    "variables": {"LANG": "C", "OMP_NUM_THREADS": "2"},
    "torch": {"capability": "AVX512", "threads": 2, "mkl_branch": 1},
    "numpy": {"simd": ["X86_V4"]},
    "blas": {"libopenblas.so": {"core": "SkylakeX"}},
    "fingerprint": {"version": 1, "libm": {"exp": "aa"}, "torch": {"linear": "11", "softmax": "22"}},
}


def other(**parts: Any) -> dict[str, Any]:
    return {**CLASS, **parts}


def told(one: Any, two: Any) -> list[tuple[str, str]]:
    return [(item.kind, str(item)) for item in differences(Numeric.told(one), Numeric.told(two))]


def test_equal_classes_differ_in_nothing() -> None:
    assert told(CLASS, other()) == []
    assert kernels_compared(Numeric.told(CLASS), Numeric.told(CLASS)) == {"libm": 1, "torch": 2}


def test_what_a_switch_did_is_told_once_and_names_the_switch() -> None:
    here = other(
        torch={**CLASS["torch"], "capability": "AVX2"},
        variables={"LANG": "C", "OMP_NUM_THREADS": "2", "ATEN_CPU_CAPABILITY": "avx2"},
        fingerprint={**CLASS["fingerprint"], "torch": {"linear": "11", "softmax": "33"}},
    )
    fact = "torch.capability AVX512 → AVX2 (ATEN_CPU_CAPABILITY unset → avx2)"
    assert told(CLASS, here) == [("kernels", "kernels of torch: softmax"), ("fact", fact)]
    found = differences(Numeric.told(CLASS), Numeric.told(here))
    assert explanations(found, "torch") == [fact]
    assert explanations(found, "libm") == []


def test_a_switch_without_effect_is_no_difference_where_the_library_says_so() -> None:
    here = other(variables={**CLASS["variables"], "ATEN_CPU_CAPABILITY": "avx512", "NPY_DISABLE_CPU_FEATURES": "SVE"})
    assert told(CLASS, here) == []
    silent = {key: value for key, value in here.items() if key != "torch"}
    assert told(CLASS, silent) == [("variable", "ATEN_CPU_CAPABILITY unset → avx512")]
    assert told(silent, silent | {"variables": CLASS["variables"]}) == [
        ("harmless", "ATEN_CPU_CAPABILITY avx512 → unset")
    ]


def test_places_and_languages_are_harmless_and_threads_are_what_libraries_say() -> None:
    here = other(variables={"LANG": "de_DE", "TZ": "Asia/Tokyo", "OMP_NUM_THREADS": "1"})
    assert told(CLASS, here) == [("harmless", "LANG C → de_DE"), ("harmless", "TZ unset → Asia/Tokyo")]
    here = other(variables={**CLASS["variables"], "TF_ENABLE_ONEDNN_OPTS": "0", "MKL_ENABLE_INSTRUCTIONS": "AVX2"})
    assert told(CLASS, here) == [
        ("variable", "MKL_ENABLE_INSTRUCTIONS unset → AVX2"),
        ("harmless", "TF_ENABLE_ONEDNN_OPTS unset → 0"),
    ]
    here = other(torch={**CLASS["torch"], "threads": 1})
    assert told(CLASS, here) == [("fact", "torch.threads 2 → 1")]


def test_fingerprints_of_other_versions_and_facts_of_one_side_are_not_compared() -> None:
    here = other(fingerprint={**CLASS["fingerprint"], "version": 2, "torch": {"linear": "99"}})
    assert told(CLASS, here) == [] and kernels_compared(Numeric.told(CLASS), Numeric.told(here)) == {}
    failed = {key: value for key, value in CLASS.items() if key not in ("torch", "fingerprint", "blas")}
    assert told(failed, CLASS) == []


def test_another_processor_is_told_apart() -> None:
    assert told(CLASS, other(cpu="B", isa=[])) == [("machine", "cpu A → B"), ("machine", "isa ['avx2'] → []")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), st.dictionaries(st.text(max_size=5), JSON)), st.text(max_size=5))
def test_what_libraries_say_is_anybodys_and_compared_without_an_error(libraries: dict[str, Any], cpu: str) -> None:
    facts, known = Numeric(libraries=libraries, cpu=cpu), Numeric.told(CLASS)
    for one, two in ((facts, known), (known, facts), (facts, facts)):
        for item in differences(one, two):
            assert str(item) == "".join(letter for letter in str(item) if letter.isprintable())
    assert differences(facts, facts) == []


@given(st.dictionaries(st.sampled_from([*CLASS, "blas", "odd"]), JSON))
def test_facts_of_another_form_are_refused_and_their_run_keeps_what_was_known(facts: dict[str, Any]) -> None:
    known = Numeric.told(CLASS)
    after = known.updated(facts)
    try:
        assert after == Numeric.told({**CLASS, **facts})
    except msgspec.ValidationError:
        assert str(after.unknown).startswith("what the script's process said of it is malformed: ")
        assert msgspec.structs.replace(after, unknown=None) == known
