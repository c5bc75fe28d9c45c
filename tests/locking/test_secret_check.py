"""What looks like a secret in a recipe, its code, patch or remote is refused by its place, unless it is allowed."""

import subprocess
from pathlib import Path

import pytest

from reprokit.core.secret_scan import in_file
from reprokit.errors import RefusedError
from reprokit.locking.code_entries import code_entries
from reprokit.locking.git_tree import Repository
from reprokit.locking.recipe_file import parse
from reprokit.locking.secret_check import SecretCheck
from reprokit.registry.local import LocalRegistry
from tests.conftest import ROOT

FOLDERS = ("reprokit", "tests", "recipes", "examples", "benchmarks", "docs")

TOKEN = "ghp_" + "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zAbCdE"
URL = "https://someone:" + "hunter2@example.org/data"


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    files = {
        "config.ini": "[db]\npassword = hunter2hunter2\n",
        "train.py": "print(1)\n",
        "recipe.yaml": f"name: t\ncode: {{entrypoint: train.py}}\nparams: {{url: '{URL}'}}\n# {TOKEN}\n",
    }
    for name, text in files.items():
        (root / name).write_text(text)
    git(root, "init", "-q")
    git(root, "remote", "add", "origin", f"https://example.org/a?x=1/{TOKEN}".replace("?x=1", ""))
    git(root, "add", "-A")
    git(root, "commit", "-qm", "first")
    return root


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments], cwd=root, check=True)


def store(root: Path, recipe: str, registry: LocalRegistry, *, dirty: bool = False) -> None:
    found = Repository(root)
    with found.capture(allow_dirty=dirty) as capture, registry.staging() as sink:
        code_entries(found, capture, sink, check=SecretCheck(parse(recipe.encode()), file="recipe.yaml"))


def recipe(*, extra: str = "", allowed: str = "") -> str:
    return f"name: t\ncode: {{entrypoint: train.py}}\nnot_secret: [{allowed}]\n{extra}"


def refused(act, *arguments, **options) -> str:
    with pytest.raises(RefusedError) as caught:
        act(*arguments, **options)
    assert "hunter2" not in str(caught.value)
    assert TOKEN not in str(caught.value)
    return caught.value.message


def test_tracked_files_and_the_remote_are_refused_and_nothing_is_stored(repository, tmp_path):
    registry = LocalRegistry(tmp_path / "registry")
    said = refused(store, repository, recipe(), registry)
    assert said == (
        "What looks like a secret would be recorded; nothing was stored:\n"
        "  git remote: a token of GitHub\n"
        "  code/config.ini, line 2: a value for 'password'\n"
        "  code/recipe.yaml, line 3: a URL with credentials\n"
        "  code/recipe.yaml, line 4: a token of GitHub"
    )
    assert not [*registry.root.rglob("*.zip")]
    # the URL stands in the recipe's values: allowed there, it is not found in its file again
    inside = f"params: {{url: '{URL}'}}\n"
    store(
        repository,
        recipe(extra=inside, allowed="params.url, git remote, code/config.ini, code/recipe.yaml"),
        registry,
    )
    said = refused(store, repository, recipe(extra=inside, allowed="params.url, git remote, code/config.ini"), registry)
    assert said.endswith("nothing was stored:\n  code/recipe.yaml, line 4: a token of GitHub")


def test_what_an_uncommitted_change_takes_away_is_in_its_patch(repository, tmp_path):
    (repository / "config.ini").write_text("[db]\n")
    try:
        said = refused(
            store, repository, recipe(allowed="git remote, code/recipe.yaml"), LocalRegistry(tmp_path / "r"), dirty=True
        )
    finally:
        git(repository, "checkout", "-q", "--", "config.ini")
    assert said.endswith("stored:\n  code/config.ini: a value for 'password', in a line that code.patch takes away")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("params: {password: hunter2}", "params.password: a value for 'password'"),
        ("params: {model: {auth: [{token: hunter2}]}}", "params.model.auth[0].token: a value for 'token'"),
        (f"params: {{url: '{URL}'}}", "params.url: a URL with credentials"),
        ("execution: {variables: {HF_TOKEN: hunter2}}", "execution.variables.HF_TOKEN: a value for 'HF_TOKEN'"),
        (f"execution: {{variables: {{PROXY: '{URL}'}}}}", "execution.variables.PROXY: a URL with credentials"),
    ],
)
def test_a_recipe_is_refused_by_place_and_allowed_by_it(extra, said):
    assert refused(SecretCheck(parse(recipe(extra=extra).encode())).refuse).endswith(f"stored:\n  {said}")
    SecretCheck(parse(recipe(extra=extra, allowed=f'"{said.partition(":")[0]}"').encode())).refuse()


def test_a_command_is_looked_into():
    text = "name: t\ncode: {command: [python, train.py, --api-key, hunter2]}\n"
    assert refused(SecretCheck(parse(text.encode())).refuse).endswith("stored:\n  code.command: a value for 'api-key'")


def test_honest_recipes_are_let_through():
    text = (
        "name: t\ncode: {command: [python, train.py, --tokenizer, bert, --max-tokens, '12']}\n"
        "params: {pad_token: <pad>, vocabulary: tokens.json, seed: 3, token_type: word, max_tokens: 512}\n"
        "data: {secret: {package: a/b, path: data}}\nexecution: {secrets: [HF_TOKEN]}\n"
    )
    SecretCheck(parse(text.encode())).refuse()


def test_the_files_of_this_repository_are_let_through() -> None:
    """A run of an example here takes all of them along."""
    suffixes = {".py", ".yaml", ".toml", ".sh", ".md", ".json"}
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    assert len(files) > 500
    names = [(str(path.relative_to(ROOT)), path.read_bytes()) for path in [*files, *ROOT.glob("*.*")] if path.is_file()]
    assert [str(found) for name, data in names for found in in_file(data, name, name)] == []
