"""Whatever differs between two JSON values has a path, and what is equal has none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reprokit.comparison.json_paths import differing_paths
from reprokit.core.canonical_json import ordered


@pytest.mark.parametrize(
    ("left", "right", "paths"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 1.0}, ["a"]),
        ({"a": 1}, {"a": True}, ["a"]),
        ({"a": 0.0}, {"a": -0.0}, ["a"]),
        ({"a": None}, {}, ["a"]),
        ({}, {"a": None}, ["a"]),
        ({"a": 1, "b": {"c": 1, "d": 2}}, {"a": 2, "b": {"c": 1, "d": 3}}, ["a", "b.d"]),
        ({"b": 1, "a": 1}, {"a": 2, "c": 1}, ["b", "a", "c"]),  # the first one's order
        ({"a": {"b": {"c": [1, {"d": 2}]}}}, {"a": {"b": {"c": [1, {"d": 3}]}}}, ["a.b.c[1].d"]),
        ({"a": [1, 2, 3]}, {"a": [0, 2, 4]}, ["a[0]", "a[2]"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a"]),
        ({"a": [1]}, {"a": {"0": 1}}, ["a"]),
        ({"a": {"b": 1}}, {"a": 1}, ["a"]),
        ({"a": 1}, {"a": {"b": 1}}, ["a"]),
        ({"a": [0] * 64}, {"a": [0] * 63 + [1]}, ["a[63]"]),
        ({"a": [0] * 65}, {"a": [0] * 64 + [1]}, ["a"]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, ["(all) (order of keys)"]),
        ({"x": {"a": 1, "b": 2}}, {"x": {"b": 2, "a": 1}}, ["x (order of keys)"]),
        ({"x": {"a": 1, "b": 2}}, {"x": {"b": 3, "a": 1}}, ["x.b", "x (order of keys)"]),
        ({"x": {"a": 1, "b": 2}}, {"x": {"b": 2, "c": 0}}, ["x.a", "x.c"]),  # what both have is in one order
        ([1, {"a": 1}], [1, {"a": 2}], ["[1].a"]),
        (1, 2, ["(all)"]),
        ({}, [], ["(all)"]),
        ({"m": {"$dict": [[1, 2], ["a", 3]]}}, {"m": {"$dict": [[1, 2], ["a", 4]]}}, ['m["a"]']),
        ({"m": {"$dict": [[1, 2]]}}, {"m": {"$dict": [["1", 2]]}}, ["m[1]", 'm["1"]']),
        ({"m": {"$dict": [[1, 2], [2, 3]]}}, {"m": {"$dict": [[2, 3], [1, 2]]}}, ["m (order of keys)"]),
        ({"m": {"$dict": [[1, 2]]}}, {"m": {"a": 2}}, ["m[1]", "m.a"]),
        ({"m": {"$dict": [[1, {"a": 1}]]}}, {"m": {"$dict": [[1, {"a": 2}]]}}, ["m[1].a"]),
        # what only looks like the mappings of keys that are no text is one of text
        ({"m": {"$dict": [[1, 2, 3]]}}, {"m": {"$dict": [[1, 2, 4]]}}, ["m.$dict[0][2]"]),
        ({"m": {"$dict": [[1, 2]], "b": 1}}, {"m": {"$dict": [[1, 3]], "b": 1}}, ["m.$dict[0][1]"]),
        ({"m": {"$dict": 1}}, {"m": {"$dict": 2}}, ["m.$dict"]),
        ({"m": {"$dict": [1]}}, {"m": {"$dict": [2]}}, ["m.$dict[0]"]),
        ({"m": {"$dict": [1, [1, 2]]}}, {"m": {"$dict": [2, [1, 2]]}}, ["m.$dict[0]"]),
        ({"m": {"$dict": [[1], [1, 2]]}}, {"m": {"$dict": [[2], [1, 2]]}}, ["m.$dict[0][0]"]),
        ({"m": {"$dict": []}}, {"m": {}}, ["m.$dict"]),
        # a key that comes twice hides nothing
        ({"m": {"$dict": [[1, 2], [1, 3]]}}, {"m": {"$dict": [[1, 4], [1, 3]]}}, ["m.$dict[0][1]"]),
    ],
)
def test_each_value_that_differs_is_named_once_by_where_it_is(left: Any, right: Any, paths: list[str]) -> None:
    assert list(differing_paths(left, right)) == paths
    back = list(differing_paths(right, left))
    assert sorted(back) == sorted(paths)


def test_paths_go_on_from_where_they_are_asked_for() -> None:
    assert list(differing_paths({"a": 1}, {"a": 2}, "there")) == ["there.a"]
    assert list(differing_paths([1], [2], "there")) == ["there[0]"]
    assert list(differing_paths(1, 2, "there")) == ["there"]


leaves = st.none() | st.booleans() | st.sampled_from([0, 1, 0.0, -0.0, 1.0, "", "a", "$dict"])
keys = st.sampled_from(["a", "b", "$dict", "a.b", ""])
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)
mappings = st.dictionaries(keys, values, max_size=3)


@settings(deadline=None)
@given(mappings, mappings)
def test_two_mappings_differ_somewhere_if_and_only_if_their_text_differs(
    left: dict[str, Any], right: dict[str, Any]
) -> None:
    assert bool(list(differing_paths(left, right))) is (ordered(left) != ordered(right))
    assert list(differing_paths(left, left)) == []
