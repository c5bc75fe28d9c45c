"""No page is stale: the reference is what the program says, links lead somewhere, all that a user can write is told."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import msgspec
import pytest

import reprokit
from reprokit import errors
from reprokit.cli.main import cli
from reprokit.core.safe_yaml import load_yaml
from reprokit.locking.recipe_file import parse
from reprokit.schema import recipe as recipes
from tests.conftest import ROOT
from tests.pages import FENCE, PAGES, exists, name_of, no_recipes, unknown_names, unreadable, wrong_commands

OF_TODAY = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which says what was


@functools.cache
def reference() -> ModuleType:
    """Load `docs/reference.py`."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["reference"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dead_links(page: Path, text: str) -> list[str]:
    """Return the links of a page into this repository that lead nowhere."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            dead.append(link)
    return dead


def anchors(text: str) -> set[str]:
    """Return what the headings of a page are called in links."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def options(command: click.Command, name: str = "") -> dict[str, str]:
    """Return the long options of a command and of those below it, with the command that has each."""
    if isinstance(command, click.Group):
        with click.Context(command) as context:
            inner = [(command.get_command(context, one), one) for one in command.list_commands(context)]
        return {k: v for one, word in inner if one is not None for k, v in options(one, f"{name} {word}").items()}
    told = [parameter for parameter in command.params if isinstance(parameter, click.Option) and not parameter.hidden]
    return {option: name for parameter in told for option in parameter.opts if option.startswith("--")}


def fields(struct: type[msgspec.Struct], module: ModuleType = recipes) -> set[str]:
    """Return the names of all fields of a recipe, of those inside it too."""
    found = set()
    for field in msgspec.structs.fields(struct):
        found.add(field.encode_name)
        for name in re.findall(r"reprokit\.schema\.recipe\.(\w+)", str(field.type)):
            found |= fields(getattr(module, name))
    return found


def unmentioned(names: set[str], text: str) -> list[str]:
    return sorted(name for name in names if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text))


def everything() -> str:
    told = [page for page in PAGES if "adr" not in page.parts and page.name != "CHANGELOG.md"]
    return "\n".join(page.read_text("utf-8") for page in told)


@pytest.mark.parametrize("page", ["commands.md", "recipe.md", "api.md"])
def test_the_reference_is_what_the_program_says(page: str) -> None:
    made = reference().PAGES[page]()
    assert (ROOT / "docs" / page).read_text("utf-8") == made, "run `python docs/reference.py`"


def untold(names: list[Any]) -> list[str]:
    """Return the public names without a docstring, and the arguments that none speaks of."""
    silent = [one.name for one in names if not one.text]
    return silent + [f"{one.name}({name})" for one in names for name in unmentioned(set(one.arguments), one.text)]


def test_every_public_name_says_what_its_arguments_are() -> None:
    public = [one for names in reference().everything_public().values() for one in names]
    assert {f"reprokit.{name}" for name in reprokit.__all__} - {one.name for one in public} == {
        "reprokit.Error", "reprokit.__version__", "reprokit.callbacks", "reprokit.vfs",
    }  # fmt: skip
    assert len(public) > 60 and untold(public) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere_and_blocks_are_what_they_say(page: Path) -> None:
    text = page.read_text("utf-8")
    assert dead_links(page, text) == []
    assert unreadable(text) == []


@pytest.mark.parametrize("page", OF_TODAY, ids=name_of)
def test_blocks_name_what_there_is(page: Path) -> None:
    """Commands and their options, recipes and their fields, modules and their names; also in sentences."""
    text = page.read_text("utf-8")
    assert wrong_commands(text) == []
    assert no_recipes(text) == []
    assert unknown_names(text) == []


def test_what_a_page_has_people_type_is_executed() -> None:
    """A `console` block is a part of a session; `tests/end_to_end/test_tutorial.py` runs each."""
    source = (ROOT / "tests/end_to_end/test_tutorial.py").read_text("utf-8")
    run = {f"docs/{page}" for page in re.findall(r'run_page\("([^"{]+)"', source)}
    run |= {f"docs/tutorials/{page}.md" for page in re.findall(r'^    "(\w+)": \(', source, re.MULTILINE)}
    assert {
        name_of(page) for page in PAGES if any(kind == "console" for kind, _ in FENCE.findall(page.read_text()))
    } == run


def test_whatever_a_user_can_write_is_on_a_page() -> None:
    text = everything()
    assert unmentioned(set(options(cli)), text) == []
    assert unmentioned(fields(recipes.Recipe), text) == []
    assert unmentioned(set(reprokit.__all__) - {"__version__", "Error"}, text) == []


def test_every_exit_code_has_its_row() -> None:
    kinds = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.Error)]
    codes = {one.exit_code for one in kinds} | {0, *map(int, re.findall(r"(\d+) [a-z]", cli.help or ""))}
    rows = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "troubleshooting.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(map(int, rows)) == sorted(codes)


def test_the_messages_of_the_page_are_messages() -> None:
    """What stands in bold under "By message" is said by the program: its pieces, in one text of the source."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
    part = page.partition("## By message")[2].partition("\n## ")[0]
    told = [" ".join(found.split()) for found in re.findall(r"^\*\*(.*?)\*\*", part, re.MULTILINE | re.DOTALL)]
    source = [said for file in sorted((ROOT / "reprokit").glob("**/*.py")) for said in texts(file.read_text("utf-8"))]
    assert len(told) > 5
    for message in told:
        pieces = [piece.strip() for piece in message.split("…") if piece.strip()]
        assert any(all(piece in said for piece in pieces) for said in source), message


def texts(source: str) -> list[str]:
    """Return the texts of a module, formatted ones with their places left out."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def test_the_example_of_a_recipe_is_one() -> None:
    assert parse(reference()._EXAMPLE.encode()).name == "cifar10-cnn"
    described = {name for name in fields(recipes.Recipe) if f".{name}`" in (ROOT / "docs" / "recipe.md").read_text()}
    assert fields(recipes.Recipe) - described <= set(recipes.Recipe.__struct_fields__)


def with_field(field: str, value: Any) -> dict[str, Any]:
    """Return a recipe that has a field, and what it takes beside it."""
    beside: dict[str, Any] = {
        "code.workdir": {"entrypoint": "a.py"}, "environment.extras": {"pip": "pyproject.toml"},
        "data.NAME.path": {"package": "a/b"}, "data.NAME.package": {"path": "a"}, "data.NAME.run": {"path": "a"},
        "data.NAME.entry": {"package": "a/b", "path": "a"}, "data.NAME.output": {"run": "a", "path": "a"},
        "outputs.compare": {"path": "a.json"}, "execution.flags": {"params": "flags"},
    }  # fmt: skip
    made: Any = {**beside.get(field, {}), field.rpartition(".")[2]: value} if "." in field else value
    for part in reversed(field.split(".")[:-1] or [field]):
        made = [made] if part == "outputs" and "." in field else {"a" if part == "NAME" else part: made}
        made = {"outputs": made} if part == "outputs" and "." in field else made
    params = {"epochs": 1, "amp": True, "sizes": [1]}
    return {"name": "a", "code": {"entrypoint": "a.py"}, "params": params, **made}


def test_every_field_of_a_recipe_has_an_example_that_is_one() -> None:
    examples = reference().FIELDS
    page = (ROOT / "docs" / "recipe.md").read_text("utf-8")
    assert re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE) == list(examples)
    for field, text in examples.items():
        value = load_yaml(f"value: {text}".encode(), what=field)["value"]
        recipe = msgspec.to_builtins(recipes.from_plain(with_field(field, value), what=field))
        for part in field.split("."):
            recipe = recipe[0] if isinstance(recipe, list) else recipe
            recipe = recipe["a" if part == "NAME" else part]
        assert recipe == value or value.items() <= recipe.items(), field


def test_the_checks_find_what_is_stale(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# One `head`\n\n```sh\n# no head\n```\n")
    page.write_text("")
    planted = "[a](gone.md) [b](other.md#one-head) [c](other.md#no-head) [d](#e) ```x``` [f](https://example.org/x)"
    assert dead_links(page, planted) == ["gone.md", "other.md#no-head", "#e"]
    assert len(unreadable("```python\ndef f(:\n```\n\n```yaml\na: [\n```\n\n```sh\n((\n```\n")) == 2
    assert len(unreadable("```python\nreturn\n```\n")) == 1
    assert unmentioned({"--with", "--with-more", "at"}, "`--with-more` and data") == ["--with", "at"]


def test_the_checks_find_commands_that_are_none() -> None:
    page = """
```console
$ reprokit reproduce RUN --with threads=1 || [ $? = 7 ]
$ RUN="$(reprokit show latest --jsonn | python -c 'import json')"
$ until reprokit status --what | grep -q slow; do sleep 1; done
$ reprokit repeat RUN > out 2>&1
$ reprokit export RUN --as pdf
$ reprokit tag demo/line
$ reprokit show RUN RUN
$ reprokit --json registry ls
```

    reprokit resume RUN --hermetik

Say `reprokit run` or `reprokit run --fast`, not `reprokit.run`.
"""
    assert [fault.partition(": ")[2] for fault in wrong_commands(page)] == [
        "No such option '--jsonn'.",
        "No such option '--what'.",
        "no command repeat",
        "'pdf' is not one of 'environment.yml', 'explicit', 'pylock', 'requirements', 'image', 'notebook', 'report', "
        "'mlflow'.",
        "NAME is missing",
        "too many words: RUN",
        "No such option '--hermetik'.",
        "No such option '--fast'.",
    ]


def test_the_checks_find_fields_that_are_none() -> None:
    planted = """
```yaml
execution: {thread: 2}
```

```yaml
repos: [{thread: 2}]
```

```console
$ cat > a.yaml <<'END'
name: a
code: {entrypoint: a.py}
output: [b]
END
```

`checkpoints: {evry: 1 epoch}`, `data: {a: {package: b/c, path: …}}`
"""
    assert [re.findall(r"unknown key (\S+?)\.?$", fault, re.MULTILINE) for fault in no_recipes(planted)] == [
        ["execution.thread"], ["output"], ["checkpoints.evry"],
    ]  # fmt: skip


def test_the_checks_find_names_that_are_none() -> None:
    planted = """
```python
import reprokit.vfss
from reprokit.callbacks.keras import Batches, Batchez

reprokit.log(a=1)
reprokit.logg(a=1)
reprokit.Package.open("a/b")
reprokit.Package.opened("a/b")
```

```console
$ cat > a.py <<'END'
from reprokit.callbacks.pytorch import PackageCheckpoints
reprokit.parameters()
END
```

`reprokit.run`, `reprokit.runs.listing.lst`, `reprokit.params()["rate"]`
"""
    assert unknown_names(planted) == [
        "reprokit.Package.opened", "reprokit.callbacks.keras.Batchez", "reprokit.callbacks.pytorch.PackageCheckpoints",
        "reprokit.logg", "reprokit.parameters", "reprokit.runs.listing.lst", "reprokit.vfss",
    ]  # fmt: skip
    assert exists("reprokit.callbacks") and exists("reprokit.schema.recipe.Recipe") and not exists("reprokit.nothing")


def test_the_checks_find_public_names_that_say_too_little() -> None:
    public = reference().Public
    told = [public("a", "a(b, c)", "Return `b`.", ("b", "c")), public("d", "d()", ""), public("e", "", "What it is.")]
    assert untold(told) == ["d", "a(c)"]
