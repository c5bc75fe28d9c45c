"""A project of DVC becomes packages of its bytes and recipes of its stages; what is missing or malformed is said."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from reprokit.errors import NotFoundError, RecipeError
from reprokit.execution.drafting.dvc import Imported, import_dvc
from reprokit.locking.recipe_file import read_recipe
from reprokit.packages.package import Package
from reprokit.registry.local import LocalRegistry
from reprokit.schema.recipe import Recipe
from tests.conftest import Project, context_of


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Tracked:
    """A repository as DVC 3 leaves it, written by hand."""

    def __init__(self, project: Project) -> None:
        self.root, self.project = project.root, project
        self.registry = LocalRegistry(project.base / "made")
        (self.root / ".dvc").mkdir()
        self.write(".dvc/config", "")
        self.cache = self.root / ".dvc" / "cache" / "files" / "md5"
        self.write(".gitignore", "/data\n/one.csv\n.dvc/cache\n")

    def write(self, name: str, text: str) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text)

    def stored(self, data: bytes, end: str = "") -> str:
        place = self.cache / md5(data)[:2] / (md5(data)[2:] + end)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        return md5(data) + end

    def add(self, path: str, files: dict[str, bytes] | bytes) -> str:
        if isinstance(files, bytes):
            digest = self.stored(files)
        else:
            rows = [{"md5": self.stored(data), "relpath": name} for name, data in files.items()]
            digest = self.stored(json.dumps(rows).encode(), ".dir")
        self.write(f"{path}.dvc", yaml.safe_dump({"outs": [{"md5": digest, "hash": "md5", "path": Path(path).name}]}))
        return digest

    def stages(self, stages: dict[str, Any], name: str = "dvc.yaml") -> None:
        self.write(name, yaml.safe_dump({"schema": "2.0", "stages": stages}))

    def taken(self, **how: Any) -> Imported:
        self.project.commit()
        context = context_of(self.project.base, self.registry)
        return import_dvc(self.root, context=context, **how)

    def recipe(self, name: str) -> Recipe:
        return read_recipe(self.root / "recipes" / f"{name}.yaml")


@pytest.fixture
def tracked(project: Project) -> Tracked:
    return Tracked(project)


def test_data_become_packages_by_the_bytes_that_dvc_knows(tracked: Tracked) -> None:
    tracked.add("data", {"a.csv": b"1\n", "deep/b.csv": b"2\n"})
    tracked.add("raw/one.csv", b"3\n")
    made = tracked.taken(namespace="team")
    found = {name: Package.open(name, registry=tracked.registry) for name in made.packages}
    assert {name: {key: one[key].read() for key in one.manifest.keys} for name, one in found.items()} == {
        "team/data": {"a.csv": b"1\n", "deep/b.csv": b"2\n"},
        "team/one": {"one.csv": b"3\n"},
    }
    assert made.packages["team/data"] == found["team/data"].top_hash
    assert made.notes == []
    assert tracked.taken(namespace="team").packages == made.packages, "again gives the same versions"


def test_stages_become_recipes_in_their_order(tracked: Tracked) -> None:
    tracked.add("data", {"a.csv": b"1\n", "b.csv": b"2\n"})
    tracked.stages(
        {
            "evaluate": {"cmd": "python eval.py > m.json", "deps": ["out/model.bin"], "metrics": [{"m.json": {}}]},
            "prep": {"cmd": "python prep.py --all", "deps": ["prep.py", "data/a.csv"], "outs": ["ready"]},
            "fit": {"cmd": ["python fit.py", "python more.py"], "deps": ["data", "ready/x"], "outs": ["out"],
                    "params": ["lr"]},
        }
    )  # fmt: skip
    made = tracked.taken(namespace="t")
    assert [path.stem for path in made.recipes] == ["prep", "fit", "evaluate"]
    prep, fit, last = (tracked.recipe(name) for name in ("prep", "fit", "evaluate"))
    assert prep.code.command == ["python", "prep.py", "--all"]
    assert [(i.package, i.entry, i.path) for i in prep.data.values()] == [("t/data", "a.csv", "data/a.csv")]
    assert fit.code.command == ["sh", "-c", "python fit.py && python more.py"]
    assert [(i.package, i.run, i.output, i.path) for i in fit.data.values()] == [
        ("t/data", None, None, "data"),
        (None, "prep", "ready/x", "ready/x"),
    ]
    assert [(i.run, i.output) for i in last.data.values()] == [("fit", "out/model.bin")]
    assert [(o.path, o.compare) for o in last.declared_outputs] == [("m.json", "values")]


def test_a_lock_has_the_stages_that_templates_stand_for(tracked: Tracked) -> None:
    tracked.stages({"each": {"foreach": ["a", "b"], "do": {"cmd": "x ${item}"}}, "one": {"cmd": "run ${lr}"}})
    tracked.stages({"each@a": {"cmd": "x a"}, "each@b": {"cmd": "x b"}, "one": {"cmd": "run 0.5"}}, "dvc.lock")
    made = tracked.taken()
    assert sorted(path.stem for path in made.recipes) == ["each-a", "each-b", "one"]
    assert tracked.recipe("one").code.command == ["run", "0.5"]


def test_a_working_directory_holds_for_commands_and_paths(tracked: Tracked) -> None:
    tracked.write("sub/dvc.yaml", yaml.safe_dump({"stages": {"s": {"cmd": "go", "wdir": "in", "outs": ["../o.bin"]}}}))
    tracked.taken()
    assert tracked.recipe("s").code.workdir == "sub/in"
    assert [output.path for output in tracked.recipe("s").declared_outputs] == ["sub/o.bin"]


def test_stages_of_one_name_in_two_folders_are_two(tracked: Tracked) -> None:
    for folder in ("a", "b"):
        tracked.stages({"train": {"cmd": f"python {folder}.py", "outs": ["o.bin"]}}, f"{folder}/dvc.yaml")
        tracked.stages({"train": {"cmd": f"python {folder}.py --lock", "outs": ["o.bin"]}}, f"{folder}/dvc.lock")
    tracked.stages({"last": {"cmd": "go", "deps": ["a/o.bin", "b/o.bin"]}})
    tracked.taken()
    for folder in ("a", "b"):
        recipe = tracked.recipe(f"{folder}-train")
        assert (recipe.code.workdir, recipe.code.command) == (folder, ["python", f"{folder}.py", "--lock"])
    assert [item.run for item in tracked.recipe("last").data.values()] == ["a-train", "b-train"]


def test_a_command_that_no_shell_would_take_is_left_to_one(tracked: Tracked) -> None:
    tracked.stages({"s": {"cmd": 'echo "abc'}})
    tracked.taken()
    assert tracked.recipe("s").code.command == ["sh", "-c", 'echo "abc']


def test_the_working_tree_serves_where_the_cache_does_not(tracked: Tracked) -> None:
    digest = tracked.add("one.csv", b"3\n")
    (tracked.cache / digest[:2] / digest[2:]).unlink()
    assert "is in neither the working tree nor DVC's cache. `dvc fetch` it" in tracked.taken().notes[0]
    (tracked.root / "one.csv").write_bytes(b"other")
    assert len(tracked.taken().notes) == 1, "what has other bytes is not it"
    (tracked.root / "one.csv").write_bytes(b"3\n")
    made = tracked.taken()
    assert (len(made.packages), made.notes) == (1, [])


def test_a_cache_elsewhere_and_of_dvc_2_is_read(tracked: Tracked, tmp_path: Path) -> None:
    told = b"a\r\nb\r\n" + b"x" * ((1 << 20) - 7) + b"\r\n\r"  # a line ends where a piece does
    digest = md5(told.replace(b"\r\n", b"\n"))  # as DVC 2 takes it
    place = tmp_path / "shared" / digest[:2] / digest[2:]
    place.parent.mkdir(parents=True)
    place.write_bytes(told)
    tracked.write(".dvc/config.local", f"[core]\n    remote = x\n[cache]\n    dir = {tmp_path / 'shared'}\n")
    tracked.write("one.csv.dvc", yaml.safe_dump({"outs": [{"md5": digest, "path": "one.csv"}]}))
    (name,) = tracked.taken(namespace="t").packages
    assert Package.open(name, registry=tracked.registry)["one.csv"].read() == told


def test_damage_in_the_cache_is_no_data(tracked: Tracked) -> None:
    digest = tracked.add("one.csv", b"3\n")
    (tracked.cache / digest[:2] / digest[2:]).write_bytes(b"4\n")
    made = tracked.taken()
    assert made.packages == {} and "in neither" in made.notes[0]


def test_recipes_that_are_there_stay(tracked: Tracked) -> None:
    tracked.stages({"s": {"cmd": "go"}})
    tracked.write("recipes/s.yaml", "mine")
    assert tracked.taken().notes == ["recipes/s.yaml exists, and was left as it is"]
    assert (tracked.root / "recipes" / "s.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.dvc", "outs: [{md5: 00, path: ../../x}]"),
        ("x.dvc", "outs: [{path: x}]"),
        ("x.dvc", "[]"),
        ("x.dvc", "a: *b"),
        ("dvc.yaml", "stages: []"),
        ("dvc.yaml", "stages: {s: {cmd: ''}}"),
        ("dvc.yaml", "stages: {s: {cmd: x, deps: text}}"),
        ("dvc.yaml", "stages: {s: {cmd: x, outs: {a: b}}}"),
        ("dvc.yaml", "stages: {s: {cmd: x, outs: [{}], deps: [{path: /x}]}}"),
        ("dvc.yaml", "stages: {s: {cmd: x, outs: [/etc/passwd]}}"),
        ("dvc.yaml", "stages: {s: {cmd: x, wdir: ../..}}"),
        ("dvc.yaml", "stages: {s: {cmd: x, deps: [.git/config]}}"),
    ],
)
def test_what_is_malformed_or_leads_outside_is_refused(tracked: Tracked, name: str, text: str) -> None:
    tracked.write(name, text)
    with pytest.raises(RecipeError):
        tracked.taken()
    assert not (tracked.root / "recipes").exists()


def test_a_list_that_leads_outside_is_refused(tracked: Tracked) -> None:
    rows = [{"md5": tracked.stored(b"1"), "relpath": "../../../etc/x"}]
    digest = tracked.stored(json.dumps(rows).encode(), ".dir")
    tracked.write("data.dvc", yaml.safe_dump({"outs": [{"md5": digest, "path": "data"}]}))
    made = tracked.taken()
    assert made.packages == {} and "relpath" in made.notes[0]


def test_where_there_is_nothing_of_dvc_it_is_said(tracked: Tracked) -> None:
    with pytest.raises(NotFoundError, match=r"^No \.dvc file, dvc\.yaml or dvc\.lock in "):
        tracked.taken()


def test_the_command_says_what_is_next(tracked: Tracked) -> None:
    tracked.add("data", {"a.csv": b"1\n"})
    tracked.stages({"s": {"cmd": "python s.py", "deps": ["data"]}})
    tracked.project.commit()
    done = tracked.project.reprokit("import", "dvc", "--namespace", "t")
    assert done.stdout.startswith("built t/data@") and done.stdout.endswith("  reprokit run recipes/s.yaml\n")
