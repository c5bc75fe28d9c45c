"""What a record says of the variables that a script read: names, and digests that tell nobody anything."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from reprokit.execution.asked import Asked
from reprokit.execution.variables_read import Given, VariableKey, variable_warnings, variables_read
from reprokit.schema.record import VariableRead
from tests.comparison.making import locked
from tests.conftest import Project

TOKEN = "cd" * 16
_UNTOLD = "API_KEY"
SHELL = {"LR": "0.5", "SCALE": "2", "HOME": "/h", _UNTOLD: "12345", "SET": "shell", "LANG": "C"}
GIVEN = Given(shell=SHELL, variables={**SHELL, "SET": "recipe", "REPROKIT_TOKEN": TOKEN})
SCRIPT = """\
import os, pathlib
rate = float(os.environ.get("LR", "0.1"))
pathlib.Path("out.txt").write_text(f"{rate}")
"""
RECIPE = "name: tiny\ncode: {entrypoint: train.py}\noutputs: [out.txt]\n"


@pytest.fixture
def key(tmp_path: Path) -> VariableKey:
    return VariableKey.of(tmp_path)


def noted(name: str, value: str) -> str:
    return f"V {hashlib.blake2s(value.encode(), key=bytes.fromhex(TOKEN), digest_size=16).hexdigest()} {name}\n"


def found(notes: str, base: Path, key: VariableKey, **changes: Any) -> dict[str, VariableRead]:
    (base / "asked.txt").write_text(notes)
    lock = locked(recipe={"execution": changes} if "code" not in changes else changes)
    read = variables_read(Asked.read(base / "asked.txt"), lock, GIVEN, key=key)
    return {one.name: one for one in read}


def test_only_what_came_from_the_shell_and_is_not_declared_is_an_input(tmp_path: Path, key: VariableKey) -> None:
    notes = noted("LR", "0.5") + noted("SCALE", "set by the script") + noted("HOME", "/h") + noted("SET", "recipe")
    read = found(notes + "V - GONE\n" + noted("API_KEY", "12345") + noted("LANG", "C"), tmp_path, key)
    assert read == {
        "LR": VariableRead(name="LR", digest=key.digest("LR", "0.5")),
        "GONE": VariableRead(name="GONE", unset=True),
        "HOME": VariableRead(name="HOME", digest=key.digest("HOME", "/h"), platform=True),
        "LANG": VariableRead(name="LANG", digest=key.digest("LANG", "C"), platform=True),
        "API_KEY": VariableRead(name="API_KEY"),
    }
    told = [*variable_warnings([*read.values()])]
    assert told[0].startswith("Environment variables were read that are not declared: API_KEY, LR. Nothing pins them")
    assert found(noted("API_KEY", "12345"), tmp_path, key, secrets=["API_KEY"]) == {}
    assert found(noted("LR", "0.5"), tmp_path, key, variables={"LR": "0.5"}) == {}


def test_what_took_all_of_them_may_have_read_any(tmp_path: Path, key: VariableKey) -> None:
    read = found("W sh\n" + noted("LR", "0.5"), tmp_path, key)
    assert {name: one.taken for name, one in read.items()} == {"LR": False, "SCALE": True, "API_KEY": True}
    one_by_one = "W os.environ\n" + noted("LR", "0.5") + noted("SCALE", "2") + noted("API_KEY", "12345")
    assert all(one.taken for one in found(one_by_one, tmp_path, key).values())
    assert not [*variable_warnings([*found(one_by_one, tmp_path, key).values()])]
    assert found("", tmp_path, key, code={"command": ["sh", "train.sh"]})["LR"].taken


def test_a_script_may_ask_for_anything_and_the_record_can_be_read(tmp_path: Path, key: VariableKey) -> None:
    read = found("".join(f"V - X{number}\n" for number in range(5000)) + f"V - {'y' * 5000}\n", tmp_path, key)
    assert len(read) == 1000 and max(map(len, read)) < 200


def test_the_key_is_made_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    one, other = VariableKey.of(tmp_path), VariableKey.of(tmp_path)
    assert (one.id, one.digest("A", "1")) == (other.id, other.digest("A", "1"))
    assert one.digest("A", "1") != one.digest("B", "1") != VariableKey.of(tmp_path / "other").digest("B", "1")
    file = tmp_path / "variables.key"
    assert file.stat().st_mode & 0o777 == 0o600 and [*tmp_path.glob("variables.key*")] == [file]


def test_a_variable_that_changed_is_a_cause_and_deny_hides_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("train.py", SCRIPT)
    project.write("recipe.yaml", RECIPE)
    project.commit()
    monkeypatch.setenv("LR", "0.5")
    first = project.json("run", "recipe.yaml")
    assert [(one["name"], one["unset"]) for one in first["variables"]] == [("LR", False)]
    assert "variables    read and not declared: LR\n" in project.reprokit("show", "latest").stdout
    monkeypatch.setenv("LR", "0.25")
    verdict = project.json("reproduce", first["run_id"], expect=7)
    assert verdict["provisos"] == ["Environment variables were read without being declared: LR."]
    (cause,) = verdict["explanations"]
    assert cause["text"] == "environment variable LR has another value, and is not declared"
    assert (cause["weight"], cause["what"]) == ("likely", "variables.LR")
    project.write("recipe.yaml", RECIPE + "execution: {inputs: deny}\n")
    project.commit()
    denied = project.json("run", "recipe.yaml")
    assert (denied["variables"][0]["hidden"], denied["variables"][0]["digest"]) == (True, None)
    assert denied["warnings"][0].startswith("Environment variables were asked for that `inputs: deny` hides: LR.")
