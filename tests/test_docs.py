"""No page is stale: the reference is what the program says, links lead somewhere, all that a user can write is told."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import click
import msgspec
import pytest
import yaml

import reprokit
from reprokit import errors
from reprokit.cli.main import cli
from reprokit.locking.recipe_file import parse
from reprokit.schema import recipe as recipes
from tests.conftest import ROOT

PAGES = [*sorted((ROOT / "docs").glob("**/*.md")), *(ROOT / f"{n}.md" for n in ("README", "CONTRIBUTING", "CHANGELOG"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def reference() -> ModuleType:
    """Load `docs/reference.py`."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dead_links(page: Path, text: str) -> list[str]:
    """Return the links of a page into this repository that lead nowhere."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", text)):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            dead.append(link)
    return dead


def anchors(text: str) -> set[str]:
    """Return what the headings of a page are called in links."""
    heads = re.findall(r"^#+ (.*)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def unreadable(text: str) -> list[str]:
    """Return the blocks of Python and YAML that are neither, each by its beginning and what is wrong."""
    found = []
    for language, block in _FENCE.findall(text):
        try:
            if language == "python":
                ast.parse(block)
            elif language == "yaml":
                list(yaml.safe_load_all(block))
        except (SyntaxError, yaml.YAMLError) as error:
            found.append(f"{block[:40]!r}: {error}")
    return found


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


@pytest.mark.parametrize("page", ["commands.md", "recipe.md"])
def test_the_reference_is_what_the_program_says(page: str) -> None:
    made = reference().PAGES[page]()
    assert (ROOT / "docs" / page).read_text("utf-8") == made, "run `python docs/reference.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_blocks_are_what_they_say(page: Path) -> None:
    text = page.read_text("utf-8")
    assert dead_links(page, text) == []
    assert unreadable(text) == []


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


def test_the_checks_find_what_is_stale(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# One `head`\n\n```sh\n# no head\n```\n")
    page.write_text("")
    planted = "[a](gone.md) [b](other.md#one-head) [c](other.md#no-head) [d](#e) ```x``` [f](https://example.org/x)"
    assert dead_links(page, planted) == ["gone.md", "other.md#no-head", "#e"]
    assert len(unreadable("```python\ndef f(:\n```\n\n```yaml\na: [\n```\n\n```sh\n((\n```\n")) == 2
    assert unmentioned({"--with", "--with-more", "at"}, "`--with-more` and data") == ["--with", "at"]
