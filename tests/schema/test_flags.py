"""Parameters as words of a command line, as each kind of program reads them."""

from __future__ import annotations

from typing import Any

import pytest

from reprokit.errors import RecipeError
from reprokit.schema.flags import filled, words_of
from reprokit.schema.recipe import from_plain, to_plain

PARAMS = {"lr": 0.5, "on": True, "off": False, "sizes": [1, 2], "name": "a b", "none": None, "down": -1.5, "x": "-y"}


def test_by_default_a_flag_and_its_value_follow_each_other() -> None:
    assert [*words_of(PARAMS, "space")] == [
        "--lr", "0.5", "--on", "true", "--off", "false", "--sizes", "[1, 2]", "--name", "a b", "--down", "-1.5",
        "--x=-y",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "value", "words"),
    [
        ("equals", 0.5, ["--p=0.5"]),
        ("equals", True, ["--p=true"]),
        ("equals", None, []),
        ("python", True, ["--p=True"]),
        ("python", [1, "a"], ["--p=[1, 'a']"]),
        ("python", None, ["--p=None"]),
        ("switch", True, ["--p"]),
        ("switch", False, []),
        ("no", True, ["--p"]),
        ("no", False, ["--no-p"]),
        ("words", [1, 2], ["--p", "1", "2"]),
        ("words", "one", ["--p", "one"]),
        ("repeat", ["a", "b"], ["--p", "a", "--p", "b"]),
        ("repeat", [], []),
        ("commas", [1, 2], ["--p=1,2"]),
        ("bare", "data", ["data"]),
        ("bare", ["a", "b"], ["a", "b"]),
        ("hydra", 0.5, ["p=0.5"]),
        ("hydra", False, ["p=false"]),
        ("hydra", None, ["p=null"]),
        ("hydra", "adam", ["p=adam"]),
        ("hydra", "true", ["p='true'"]),
        ("hydra", "1e3", ["p='1e3'"]),
        ("hydra", "it's, {x}", ["p='it\\'s, {x}'"]),
        ("hydra", [1, "a b"], ["p=[1,'a b']"]),
        ("hydra", {"lr": 0.1, "decay": {"w": 0}}, ["p.lr=0.1", "p.decay.w=0"]),
    ],
)
def test_each_form_of_a_flag(form: Any, value: Any, words: list[str]) -> None:
    assert [*words_of({"p": value}, form)] == words
    assert [*words_of({"p": value}, {"p": form})] == words


def test_a_command_names_parameters_and_keeps_what_names_none() -> None:
    command = ["python", "a.py", "--lr={params.lr}", "{params.name}", "{params.none.of.these}", "{}"]
    assert filled(command, PARAMS)[2:] == ["--lr=0.5", "a b", "{params.none.of.these}", "{}"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"execution": {"flags": "equals"}},
            "recipe: execution.flags: it says how flags are written; write `params: fla",
        ),
        (
            {"execution": {"params": "flags", "flags": {"rl": "no"}}},
            "recipe: execution.flags.rl: the recipe declares no",
        ),
        ({"execution": {"params": "flags", "flags": "switch"}}, "recipe: params.lr: 0.5 is not true or false, and"),
        (
            {"execution": {"params": "flags", "flags": {"nest": "commas"}}},
            "recipe: params.nest: execution.flags writes",
        ),
        (
            {"execution": {"params": "flags", "flags": {"lr": "dash"}}},
            "recipe: execution.flags.lr: 'dash' is not known",
        ),
        (
            {"code": {"command": ["a", "{params.rl}"]}},
            "recipe: code.command: {params.rl}: the recipe declares no param",
        ),
    ],
)
def test_a_form_that_fits_no_parameter_is_refused(change: dict[str, Any], message: str) -> None:
    plain = {"name": "n", "code": {"entrypoint": "t.py"}, "params": {"lr": 0.5, "nest": {"a": 1}}, **change}
    with pytest.raises(RecipeError) as caught:
        from_plain(plain)
    assert str(caught.value).startswith(message)


def test_a_recipe_with_forms_is_written_and_read_back() -> None:
    plain = {
        "name": "n", "code": {"entrypoint": "t.py"}, "params": {"lr": 0.5, "amp": True},
        "execution": {"params": "flags", "flags": {"amp": "switch"}},
    }  # fmt: skip
    assert to_plain(from_plain(plain)) == plain
