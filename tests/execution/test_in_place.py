"""A run in the working tree says what it used there that is not the code of its record."""

from __future__ import annotations

from tests.conftest import Project

SCRIPT = """\
import importlib, os, pathlib
import conf
rate = conf.RATE * float(pathlib.Path("scale.txt").read_text()) * float(pathlib.Path("kept.txt").read_text())
pathlib.Path("out.txt").write_text(str(rate))
"""


def test_files_that_git_ignores_or_does_not_look_at_are_named_as_proviso_and_cause(project: Project) -> None:
    project.write("train.py", SCRIPT)
    project.write("recipe.yaml", "name: tiny\ncode: {entrypoint: train.py}\noutputs: [out.txt]\n")
    project.write("conf.py", "RATE = 1\n")
    project.write("scale.txt", "2")
    project.write("kept.txt", "3")
    project.commit()
    clean = project.json("run", "recipe.yaml", "--in-place")
    assert (clean["code"]["dirty"], clean["code"]["strays"]) == (False, [])
    assert clean["code"]["imported"] == ["conf.py", "train.py"]
    project.git("rm", "-q", "--cached", "conf.py")
    project.write(".gitignore", "conf.py\nout.txt\n__pycache__\n")
    project.commit()
    project.git("update-index", "--assume-unchanged", "scale.txt")
    project.git("update-index", "--skip-worktree", "train.py")
    project.write("scale.txt", "4")
    project.write("train.py", SCRIPT.replace("str(rate)", "str(rate + 1)"))
    record = project.json("run", "recipe.yaml", "--in-place")
    assert [(one["path"], one["how"]) for one in record["code"]["strays"]] == [
        ("conf.py", "not in the tree"), ("scale.txt", "changed"), ("train.py", "changed"),
    ]  # fmt: skip
    assert all(one["digest"] for one in record["code"]["strays"]) and record["code"]["dirty"] is True
    told = "conf.py (not in the tree), scale.txt (changed), train.py (changed)"
    assert f"Executed in the working tree, and not what the record has as code: {told}." in " ".join(record["warnings"])
    found = project.json("diff", clean["run_id"], record["run_id"])
    how = "run was executed in the working tree (--in-place)"
    assert found["provisos"] == [
        f"The first {how}, not in a clean workspace.",
        f"The second {how}, where it used what is not the recorded code: {told}.",
    ]
    causes = {cause["what"]: cause for cause in found["explanations"]}
    assert causes["inputs.working_tree"]["weight"] != "unlikely" and told in causes["inputs.working_tree"]["text"]
