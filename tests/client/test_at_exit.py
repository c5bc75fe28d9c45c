"""What a script's process says as it ends, whatever it did before."""

from __future__ import annotations

import pytest

from tests.conftest import Project

PLAIN = "import numpy, sys, types\nopen('metrics.json', 'w').write('1')\n"


@pytest.mark.parametrize(
    "last",
    [
        "class Lazy(types.ModuleType):\n    def __getattr__(self, name): raise SystemError('imported')\n"
        "sys.modules['lazy'] = Lazy('lazy'); sys.modules['odd'] = 3; sys.modules['none'] = None",
        "sys.stdout.close(); sys.stderr.close()",
        "import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "numpy.__cpu_features__ = None; del numpy._core._multiarray_umath.__cpu_features__",
        "numpy.linalg.solve = numpy.exp = None",
        "sys.exit(0)",
    ],
)
def test_it_tells_what_it_can_and_spoils_nothing(project: Project, last: str) -> None:
    project.write("train.py", PLAIN + last)
    project.commit()
    run = project.json("run", "recipe.yaml")
    assert run["status"] == "finished"
    assert "numpy" in run["machine"]["imported"]
    assert len(run["machine"]["numeric"]["fingerprint"]["numpy"]) >= 24
    assert project.reprokit("logs", run["run_id"]).stdout == ""


def test_children_that_saved_nothing_stay_silent(project: Project) -> None:
    project.write("train.py", f"import os, subprocess\n{PLAIN}subprocess.run([sys.executable, '-c', 'import click'])\n"
                  "if os.fork() == 0: import email.mime.text, yaml; sys.exit(0)\nos.wait()")  # fmt: skip
    project.commit()
    imported = project.json("run", "recipe.yaml")["machine"]["imported"]
    assert "numpy" in imported and "click" not in imported and "pyyaml" not in imported
