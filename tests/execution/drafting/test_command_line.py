"""The command line of a script is seen in its text, and a recipe is drafted by which the script gets its parameters."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from reprokit.execution.drafting.command_line import command_line_of
from reprokit.execution.drafting.draft import draft
from reprokit.locking.recipe_file import read_recipe
from reprokit.schema.flags import words_of
from reprokit.schema.recipe import Recipe

ARGPARSE = """\
import argparse

def parse(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("-b", "--batch-size", type=int, default=32)
    group = parser.add_argument_group("training")
    group.add_argument("--lr", type=float, default=1e-5)
    group.add_argument("--sizes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--tag", action="append", default=[])
    parser.add_argument("--more", action="append", default=["a"])
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--no-cuda", action="store_false", dest="cuda")
    parser.add_argument("--nesterov", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--opt", default="sgd", choices=["sgd", "adam"])
    parser.add_argument("--weird", default="no")
    parser.add_argument("--resume", default=None)
    parser.add_argument("--shuffle", type=bool, default=True)
    parser.add_argument("--computed", default=2 ** 10)
    parser.add_argument("--version", action="version", version="1")
    parser.add_argument("-x", default=3)
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--cpu", default=1)
    one.add_argument("--gpu", default=2)
    return vars(parser.parse_args(words))
"""
CLICK = """\
import click

@click.command()
@click.option("--lr", default=0.5)
@click.option("-n", "--num-layers", default=2, show_default=True)
@click.option("--amp/--no-amp", default=True)
@click.option("--verbose", is_flag=True)
@click.option("--tag", multiple=True, default=["a", "b"])
@click.option("--out", type=click.Path())
@click.argument("data")
def main(**told):
    return told
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drafted(root: Path, script: str, **beside: str) -> Recipe:
    (root / "train.py").write_text(script)
    for name, text in beside.items():
        (root / f"{name}.py").write_text(text)
    (made,) = draft("train.py", folder=root).made
    return read_recipe(made)


def test_options_of_argparse_reach_it_by_the_drafted_recipe(root: Path) -> None:
    recipe = drafted(root, ARGPARSE)
    assert recipe.params == {
        "batch-size": 32, "lr": 1e-5, "sizes": [1, 2], "tag": [], "amp": False, "no-cuda": False, "nesterov": True,
        "opt": "sgd", "weird": "no",
    }  # fmt: skip
    assert recipe.execution.params == "flags"
    names: dict[str, Any] = {"argparse": argparse}
    exec(ARGPARSE, names)  # noqa: S102
    told = {**recipe.params, "lr": 0.25, "amp": True, "nesterov": False, "sizes": [3], "tag": ["c"]}
    found = names["parse"](["data", *words_of(told, recipe.execution.flags)])
    assert (found["lr"], found["amp"], found["nesterov"], found["sizes"]) == (0.25, True, False, [3])
    assert (found["batch_size"], found["cuda"], found["tag"], found["weird"]) == (32, True, ["c"], "no")


def test_options_of_click_reach_it_by_the_drafted_recipe(root: Path) -> None:
    recipe = drafted(root, CLICK)
    assert recipe.params == {"lr": 0.5, "num-layers": 2, "amp": True, "verbose": False, "tag": ["a", "b"]}
    names: dict[str, Any] = {"click": click}
    exec(CLICK, names)  # noqa: S102
    told = {**recipe.params, "lr": -1.5, "amp": False, "verbose": True}
    words = ["data", *words_of(told, recipe.execution.flags)]
    found = names["main"].main(words, standalone_mode=False)
    expected = {
        "num_layers": 2,
        "lr": -1.5,
        "amp": False,
        "verbose": True,
        "tag": ("a", "b"),
        "out": None,
        "data": "data",
    }
    assert found == expected


TYPER = """\
import typer
app = typer.Typer()
@app.command()
def main(data: str, lr: float = 0.5, num_layers: int = typer.Option(2, help="x"), amp: bool = True):
    ...
app()
"""
FIRE = "import fire\ndef train(data, lr=0.5, amp=True, *, sizes=(1, 2), opt='it is'): ...\nfire.Fire(train)\n"
ABSL = """\
from absl import app, flags
flags.DEFINE_float("lr", 0.5, "rate")
flags.DEFINE_bool("amp", True, "x")
flags.DEFINE_list("sizes", ["1", "2"], "x")
flags.DEFINE_string("out", None, "x")
"""
HYDRA = "import hydra\n@hydra.main(version_base=None, config_path='conf', config_name='c')\ndef main(cfg): ...\n"
LIGHTNING = "from lightning.pytorch.cli import LightningCLI\nLightningCLI(Model, Data)\n"
TRANSFORMERS = """\
from dataclasses import dataclass, field
from transformers import HfArgumentParser, TrainingArguments
@dataclass
class Model:
    name: str
    rate: float = field(default=1e-4, metadata={"help": "x"})
    frozen: bool = False
model, training = HfArgumentParser((Model, TrainingArguments)).parse_args_into_dataclasses()
"""


@pytest.mark.parametrize(
    ("script", "params", "words"),
    [
        (TYPER, {"lr": 0.5, "num-layers": 2, "amp": True}, ["--lr", "0.5", "--num-layers", "2", "--amp"]),
        (FIRE, {"lr": 0.5, "amp": True, "opt": "it is", "sizes": [1, 2]},
         ["--lr=0.5", "--amp=True", "--opt='it is'", "--sizes=[1, 2]"]),
        (ABSL, {"lr": 0.5, "amp": True, "sizes": ["1", "2"]}, ["--lr=0.5", "--amp=true", "--sizes=1,2"]),
        (HYDRA, {}, []),
        (LIGHTNING, {}, []),
        (TRANSFORMERS, {"rate": 1e-4, "frozen": False}, ["--rate", "0.0001", "--frozen", "false"]),
    ],
    ids=["typer", "fire", "absl", "hydra", "lightning", "transformers"],
)  # fmt: skip
def test_each_library_gets_its_options_in_its_own_form(
    root: Path, script: str, params: dict[str, Any], words: list[str]
) -> None:
    recipe = drafted(root, script)
    assert recipe.execution.params == "flags"
    assert recipe.params == params
    assert sorted(words_of(recipe.params, recipe.execution.flags)) == sorted(words)


def test_what_is_to_be_filled_in_says_how_it_is_given(root: Path) -> None:
    assert drafted(root, HYDRA).execution.flags == "hydra"
    text = (root / "recipes" / "train.yaml").read_text()
    assert "params: {}                      # lr: 0.1; given as `lr=0.1` to Hydra\n" in text
    (root / "recipes" / "train.yaml").unlink()
    recipe = drafted(root, LIGHTNING)
    assert recipe.code.command == ["python", "train.py", "fit"] and recipe.execution.flags == "equals"


def test_a_parser_in_a_module_beside_the_script_is_seen(root: Path) -> None:
    recipe = drafted(root, "from options import parse\nparse()\n", options=ARGPARSE)
    assert recipe.params["batch-size"] == 32


@pytest.mark.parametrize(
    "script",
    [
        "import reprokit\nparams = reprokit.params(lr=1)\n",
        "print('argparse.ArgumentParser().add_argument')\n",
        "class Parser:\n    def option(self): ...\nParser().option('--lr', default=1)\n",
        "def broken(:\n",
        "\0",
    ],
)
def test_a_script_without_one_asks_for_its_parameters(root: Path, script: str) -> None:
    assert command_line_of(script.encode()) is None
    assert drafted(root, script).execution.params == "api"


@pytest.mark.parametrize(
    "script",
    [
        "import argparse\np = argparse.ArgumentParser()\ns = p.add_subparsers()\na = s.add_parser('a')\n"
        "a.add_argument('--lr', default=1)\n",
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--token', default='abc')\n",
        "import click\n@click.group()\ndef cli(): ...\n@cli.command()\n@click.option('--lr', default=1)\n"
        "def a(lr): ...\n",
    ],
)
def test_what_cannot_be_told_is_left_to_the_user(root: Path, script: str) -> None:
    recipe = drafted(root, script)
    assert (recipe.execution.params, recipe.params) == ("flags", {})
