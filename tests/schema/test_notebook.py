"""What of a notebook is code, and which notebooks are refused before anything runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reprokit.errors import RecipeError
from reprokit.schema.notebook import Notebook, changed_cells
from tests.notebooks import executed, notebook


def parse(text: str | bytes) -> Notebook:
    return Notebook.parse(text.encode() if isinstance(text, str) else text, what="n.ipynb")


def test_outputs_counts_and_metadata_are_no_code_but_sources_order_and_tags_are() -> None:
    plain = notebook("x = 1", "print(x)")
    same = parse(plain).identity
    assert parse(executed(plain, counts=[1, 2])).identity == same
    assert parse(notebook("x = 1", "", "print(x)", minor=4)).identity == same
    assert parse(notebook(("x = 1", "my-own-tag"), "print(x)")).identity == same
    assert parse(notebook("x = 2", "print(x)")).identity != same
    assert parse(notebook("print(x)", "x = 1")).identity != same
    assert parse(notebook("x = 1\nprint(x)")).identity != same
    assert parse(notebook("x = 1", ("print(x)", "skip-execution"))).identity != same
    assert parse(notebook(("x = 1", "parameters"), "print(x)")).identity != same


def test_a_source_of_lines_is_the_text_that_they_make() -> None:
    plain = json.loads(notebook("x = 1\ny = 2"))
    plain["cells"][0]["source"] = ["x = 1\n", "y = 2"]
    assert parse(json.dumps(plain)).identity == parse(notebook("x = 1\ny = 2")).identity


def test_changed_cells_are_named_by_their_place() -> None:
    before = notebook("a", "b", "c", "d")
    assert changed_cells(parse(before), parse(before)) == []
    assert changed_cells(parse(before), parse(notebook("a", "b2", "c", "d"))) == ["cell 2 changed"]
    assert changed_cells(parse(before), parse(notebook("a", "c", "d", "e"))) == ["cell 2 removed", "cell 4 added"]
    assert changed_cells(parse(before), parse(notebook("", "a", "b", "c2", "d"))) == ["cell 3 → 4 changed"]


@given(st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_cells_changed_exactly_where_the_code_differs(one: list[str], other: list[str]) -> None:
    left, right = parse(notebook(*one)), parse(notebook(*other))
    assert (changed_cells(left, right) == []) == (left.identity == right.identity)


def test_cells_saved_out_of_order_are_named() -> None:
    text = executed(notebook("a", "b", "c", "d"), counts=[3, 1, 2, 4])
    assert parse(text).warnings("n.ipynb") == [
        "n.ipynb was saved with cells executed out of order: cell 2 [1], cell 3 [2] before a cell above. "
        "The run executes from top to bottom."
    ]
    assert parse(executed(notebook("a", "b"), counts=[4, 9])).warnings("n.ipynb") == []
    assert parse(notebook("a", "b")).warnings("n.ipynb") == []


def test_params_are_assigned_behind_the_tagged_cell() -> None:
    params = {"epochs": 3, "name": "it's", "nested": {"a": [1, None, True]}, "not-a-name": 1, "class": 2}
    plain, numbers = parse(notebook("import os", ("epochs = 1", "parameters"), "print(epochs)")).with_params(params)
    source = plain["cells"][2]["source"]
    found: dict[str, Any] = {}
    exec(source, found)  # noqa: S102 - that it assigns them is what is asked
    assert {key: found[key] for key in ("epochs", "name", "nested")} == {
        k: params[k] for k in ("epochs", "name", "nested")
    }
    assert "class" not in source
    assert numbers == [1, 2, None, 3]
    assert len({cell["id"] for cell in plain["cells"]}) == 4


def test_params_replace_what_another_tool_injected_and_need_a_tagged_cell() -> None:
    left = notebook(("epochs = 1", "parameters"), ("epochs = 99", "injected-parameters"), "print(epochs)")
    plain, numbers = parse(left).with_params({"epochs": 3})
    assert [cell["source"] for cell in plain["cells"]] == [
        "epochs = 1", "# parameters of the run\nepochs = 3", "print(epochs)"
    ]  # fmt: skip
    assert numbers == [1, None, 3]
    untagged = parse(notebook("print(1)"))
    assert untagged.with_params({"epochs": 3})[0] == untagged.plain


def _with(**changes: Any) -> str:
    return json.dumps({**json.loads(notebook("x = 1")), **changes})


def _cell(**changes: Any) -> str:
    plain = json.loads(notebook("x = 1"))
    plain["cells"][0].update(changes)
    return json.dumps(plain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "n.ipynb is not JSON that reprokit reads: Expecting value: line 1 column 1 (char 0)."),
        ("import os\n", "n.ipynb is not JSON that reprokit reads: Expecting value: line 1 column 1 (char 0)."),
        ("[]", "n.ipynb is not a notebook: its JSON has no list of cells."),
        (_with(cells={}), "n.ipynb is not a notebook: its JSON has no list of cells."),
        ('{"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": []}',
         "n.ipynb has notebook format 3.0; 4.0 to 4.5 are executed."),
        (_with(nbformat=5), "n.ipynb has notebook format 5.5; 4.0 to 4.5 are executed."),
        (_with(nbformat_minor=6), "n.ipynb has notebook format 4.6; 4.0 to 4.5 are executed."),
        (_with(nbformat=True), "n.ipynb has notebook format True.5; 4.0 to 4.5 are executed."),
        (_with(metadata=[]), "n.ipynb is not a notebook: `metadata` or `cells` is missing."),
        (_with(metadata={"kernelspec": {"name": "ir", "language": "R"}}),
         "n.ipynb is for a kernel of the language 'R'; notebooks in Python are executed."),
        (_with(metadata={"language_info": {"name": "julia"}}),
         "n.ipynb is for a kernel of the language 'julia'; notebooks in Python are executed."),
        (_with(cells=["x"]), "n.ipynb, cell 1: it is no mapping with metadata."),
        (_with(cells=[{}] * 20_001), "n.ipynb has 20,001 cells; at most 20,000 are read."),
        (_cell(cell_type="heading"), "n.ipynb, cell 1: the type 'heading' is not known; known: code, markdown, raw."),
        (_cell(cell_type=["code"]), "n.ipynb, cell 1: the type \"['code']\" is not known; known: code, markdown, raw."),
        (_cell(source=7), "n.ipynb, cell 1: its source is not text."),
        (_cell(source=["x", 7]), "n.ipynb, cell 1: its source is not text."),
        (_cell(source="\ud800"), "n.ipynb holds half of a surrogate pair, which is no character."),
        (_cell(metadata={"tags": "parameters"}), "n.ipynb, cell 1: its tags are not a list of words."),
        (_with(metadata={"a": float("nan")}), "n.ipynb is not JSON that reprokit reads: NaN is not JSON."),
    ],
)  # fmt: skip
def test_what_is_no_notebook_for_a_run_is_named(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(text)
    assert caught.value.message == message


def test_deep_nesting_and_great_size_are_refused() -> None:
    deep = "[" * 100 + "]" * 100
    with pytest.raises(RecipeError, match=r"^n.ipynb nests deeper than 64 levels\."):
        parse(notebook("x").replace('"metadata": {},', f'"metadata": {{"a": {deep}}},', 1))
    with pytest.raises(RecipeError, match="is not JSON that reprokit reads"):
        parse("[" * 1_000_000)
    with pytest.raises(RecipeError, match="at most 67,108,864 are read"):
        parse(b" " * (64 * 1024 * 1024 + 1))
