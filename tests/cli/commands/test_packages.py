"""Packages as a user of the command line meets them."""

import json

import pytest


@pytest.fixture
def versions(project):
    """Two versions of t/in: built by the fixture, and one with an edit, an addition and a removal."""
    first = project.json("log", "t/in")[0]["top_hash"]
    (project.base / "inputs" / "1.txt").write_text("one\n")
    (project.base / "inputs" / "new.csv").write_text("a,b\n1,2\n")
    (project.base / "inputs" / "0.txt").unlink()
    second = project.json("package", "build", str(project.base / "inputs"), "t/in", "-m", "edited")["top_hash"]
    return first, second


def test_building_the_same_again_publishes_nothing(project):
    again = project.build()
    assert again["new_bytes"] == 0
    assert len(project.json("log", "t/in")) == 1


def test_diff_shows_what_changed_and_on_request_inside(project, versions):
    first, second = versions
    found = project.json("diff", f"t/in@{first}", "t/in")
    assert (found["added"], found["removed"], found["changed"]) == (["new.csv"], ["0.txt"], ["1.txt"])
    text = project.reprokit("diff", f"t/in@{first}", "t/in", "1.txt").stdout
    assert text == (
        f"t/in@{first[:8]} → t/in@{second[:8]}\n  ~ 1.txt  2 B → 4 B\n      @@ -1 +1 @@\n      -1\n      +one\n"
    )
    assert project.reprokit("diff", "t/in", "t/in").stdout.endswith("equal\n")
    missing = project.reprokit("diff", f"t/in@{first}", "t/in", "nothing", expect=10).stderr
    assert f"Neither t/in@{first[:8]} nor t/in@{second[:8]} has 'nothing'." in missing


def test_base_and_remove_make_a_version_of_another(project, versions):
    first, _ = versions
    made = project.json("package", "build", "t/less", "--base", f"t/in@{first}", "--remove", "2.txt")
    assert made["entries"] == 2
    meta = project.base / "meta.json"
    meta.write_text(json.dumps({"0.txt": {"label": "zero"}}))
    project.json("package", "build", "t/less", "--base", "t/less", "--entry-meta", str(meta))
    assert [row["logical_key"] for row in project.json("ls", "t/less")] == ["0.txt", "1.txt"]
    assert project.reprokit("package", "build", "t/less", expect=2).stderr.startswith(
        "error: Give a FOLDER and a NAME."
    )


def test_rollback_rm_and_gc(project, versions):
    first, second = versions
    project.reprokit("rollback", f"t/in@{first}", "-m", "the edit was wrong")
    log = project.json("log", "t/in")
    assert [(row["action"], row["note"]) for row in log] == [
        ("rollback", "the edit was wrong"), ("publish", None), ("publish", None),
    ]  # fmt: skip
    assert log[0]["tags"] == ["latest"]
    assert project.json("rm", f"t/in@{second}")["deleted"] == [second]
    assert "rollback (latest)  the edit was wrong" in project.reprokit("log", "t/in").stdout
    dry = project.json("gc", "--grace", "0", "--dry-run")
    swept = project.json("gc", "--grace", "0")
    assert (dry["versions"], dry["objects"]) == (swept["versions"], swept["objects"]) == (1, 2)
    assert "0 B freed" in project.reprokit("gc", "--grace", "0").stdout
    assert project.reprokit("verify", "--all").stdout == "1 version(s) verified, 0 problem(s)\n"
    assert (
        f"No version of t/in starts with {second[:12]}"
        in project.reprokit("show", f"t/in@{second[:12]}", expect=10).stderr
    )
    assert "names all versions of a package" in project.reprokit("rm", "t/in", expect=2).stderr


def test_what_a_run_needs_is_not_deleted_by_mistake(project):
    record = project.json("run", "recipe.yaml")
    top_hash = record["data"][0]["top_hash"]
    refused = project.reprokit("rm", f"t/in@{top_hash}", expect=3).stderr
    assert f"t/in@{top_hash} is used by {record['run_id']}, which could not be reproduced without it." in refused
    checkpoint = record["checkpoints"][0]
    assert (
        record["run_id"] in project.reprokit("rm", f"{checkpoint['package']}@{checkpoint['top_hash']}", expect=3).stderr
    )
    project.reprokit("rm", record["run_id"])
    assert project.json("ls")["runs"] == []
    assert "No run latest" in project.reprokit("show", "latest", expect=10).stderr
    assert f"Run {record['run_id']} was deleted from" in project.reprokit("show", record["run_id"], expect=10).stderr
    project.reprokit("rm", f"t/in@{top_hash}")
    assert "t/in" not in project.json("ls")["packages"]


def test_a_permanent_tag_and_one_that_goes(project, versions):
    first, second = versions
    assert project.json("tag", f"t/in@{first}", "v1", "--permanent")["permanent"] is True
    assert "(v1!)" in project.reprokit("log", "t/in").stdout
    assert "is permanent" in project.reprokit("tag", f"t/in@{second}", "v1", expect=3).stderr
    assert "is permanent" in project.reprokit("rm", "t/in:v1", expect=3).stderr
    project.reprokit("tag", f"t/in@{second}", "wip")
    assert project.reprokit("tag", "t/in", "wip", "--delete").stdout == "t/in:wip is gone\n"


def test_purge_erases_and_says_so_wherever_it_is_asked(project, versions):
    first, second = versions
    digest = next(row["hash"] for row in project.json("ls", "t/in") if row["logical_key"] == "2.txt")
    assert digest
    done = project.json("purge", "--entry", f"t/in@{first}:2.txt", "--reason", "a person asked", "-y")
    assert [(use["top_hash"], use["logical_key"]) for use in done["affected"]] == [(first, "2.txt"), (second, "2.txt")]
    used = project.json("verify", "--uses", done["purged"][0][:10])
    assert {use["top_hash"] for use in used} == {first, second}
    verified = project.reprokit("verify", "--all").stdout
    assert "a person asked." in verified
    assert verified.endswith("2 version(s) verified, 0 problem(s), 2 purged entries\n")
    failed = project.reprokit("install", "t/in", str(project.base / "out"), expect=10).stderr
    assert "2.txt of t/in@" in failed
    assert "It was purged on" in failed
    refused = project.reprokit("package", "build", str(project.base / "inputs"), "t/again", expect=3).stderr
    assert "is not stored again. It was purged on" in refused


def test_a_version_is_shown_as_what_it_is(project):
    meta = project.base / "meta.json"
    meta.write_text('{"owner": "anna", "rows": [1, 2]}')
    project.reprokit("package", "build", str(project.base / "inputs"), "t/told", "-m", "told", "--meta", str(meta))
    project.reprokit("tag", "t/told", "clean")
    shown = project.reprokit("show", "t/told").stdout
    assert "  tags         clean, latest\n  message      told\n  owner        anna\n  rows         [1, 2]\n" in shown
    assert shown.endswith("  files        3, 6 B\n")


def test_runs_and_checkpoints_are_tagged_by_their_names(project):
    run = project.json("run", "recipe.yaml", "-q", "--name", "base")
    other = project.json("run", "recipe.yaml", "-q", "-p", "rate=0.2")
    assert project.reprokit("tag", "base", "release").stdout == f"release → run {run['run_id']}\n"
    best = project.json("tag", "base@best", "shipped")
    assert best["name"] == "t/model" and best["top_hash"] in [one["top_hash"] for one in run["checkpoints"]]
    shown = project.reprokit("show", "t/model:shipped").stdout
    assert f" of run {run['run_id']}, by numpy\n" in shown
    assert "'reprokit'" not in shown and '{"' not in shown
    assert project.json("show", "release")["run_id"] == run["run_id"]
    assert "  tags         release\n" in project.reprokit("show", "release").stdout
    assert "base [release]" in project.reprokit("ls").stdout
    assert project.json("diff", "release", "latest")["verdict"].startswith("DIVERGED")
    assert project.json("tag", "latest", "release")["run_id"] == other["run_id"]
    assert project.json("show", "release")["run_id"] == other["run_id"]
    gone = project.reprokit("tag", "latest", "release", "--delete").stdout
    assert gone == f"run {other['run_id']} is not tagged release any more\n"
    assert "No run release" in project.reprokit("show", "release", expect=10).stderr
    project.reprokit("tag", "base@best", "shipped", "--delete")
    assert "No tag 'shipped'" in project.reprokit("show", "t/model:shipped", expect=10).stderr


def test_a_run_is_installed_by_whatever_names_it(project, tmp_path):
    run = project.json("run", "recipe.yaml", "--name", "base")["run_id"]
    for number, ref in enumerate((run, run[-6:], "latest", "base")):
        made = project.json("install", ref, str(tmp_path / str(number)))
        assert made["name"] == f"runs/{run}"
        assert json.loads((tmp_path / str(number) / "outputs" / "metrics.json").read_text())["loss"] > 0
    assert "No run nothing" in project.reprokit("install", "nothing", str(tmp_path / "n"), expect=10).stderr


def test_what_is_no_recipe_is_told_from_one_that_is_misspelled(project):
    project.reprokit("init", "train.py", "--no-run")
    said = project.reprokit("run", "train.py", expect=2).stderr
    assert "error: train.py is a script, not a recipe." in said and "Did you mean recipes/train.yaml?" in said
    said = project.reprokit("run", "tran.yaml", expect=10).stderr
    assert "error: No recipe tran.yaml." in said and "Did you mean recipes/train.yaml?" in said
    said = project.reprokit("run", "other/thing.yaml", expect=10).stderr
    assert "`reprokit init SCRIPT` drafts one." in said
