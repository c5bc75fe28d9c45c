"""Notebooks executed from a recipe, as a user starts them: real kernels, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import nbformat
import psutil
import pytest

from reprokit.core.own_extras import pip_words
from reprokit.errors import DataMismatchError, EnvironmentMismatchError
from reprokit.execution.launch import check_notebook
from reprokit.execution.workspace import lay_code
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from reprokit.schema.lock import EnvironmentLock, PipPackage
from reprokit.schema.manifest import Entry, Manifest
from tests.conftest import Project
from tests.environment.making import copied, needed_by_reprokit
from tests.notebooks import RECIPE, TRAIN, executed, notebook


@pytest.fixture(scope="module")
def with_kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has what notebooks need and no framework: looking at what there is takes half of the time."""
    needed = needed_by_reprokit("ipykernel", "nbclient", "nbformat")
    return copied(tmp_path_factory.mktemp("kernel") / "venv", needed)


@pytest.fixture
def project(tmp_path: Path, with_kernel: Path) -> Project:
    made = Project(tmp_path, with_kernel)
    made.write("recipe.yaml", RECIPE)
    made.write("train.ipynb", notebook(*TRAIN))
    made.commit()
    return made


def cells(project: Project, *sources: str | tuple[str, ...]) -> None:
    project.write("train.ipynb", notebook(*sources))
    project.commit()


def kept(project: Project, record: dict[str, Any]) -> Any:
    """Return the executed notebook of a run, which is a valid one."""
    registry = LocalRegistry(project.registry)
    run = RunStore(registry).load(record["run_id"])
    assert record["notebook"] == "notebook/train.ipynb"
    text = registry.read_object(run.manifest[record["notebook"]], what="notebook").decode()
    found = nbformat.reads(text, as_version=4)
    nbformat.validate(found)
    return found


def printed(cell: Any, name: str = "stdout") -> str:
    return "".join(o["text"] for o in cell["outputs"] if o["output_type"] == "stream" and o["name"] == name)


def shown(project: Project) -> dict[str, Any]:
    record: dict[str, Any] = project.json("show", "latest")
    return record


def test_a_notebook_runs_with_params_log_checkpoints_and_outputs_and_is_kept(project: Project) -> None:
    record = project.json("run", "recipe.yaml")
    assert record["status"] == "finished"
    assert [entry["epoch"] for entry in record["checkpoints"]] == [0, 1, 2]
    assert record["outputs"][0]["size"] > 0
    found = kept(project, record)
    assert [cell["execution_count"] for cell in found.cells] == [1, 2, 3, 4, 5]
    assert found.cells[1]["source"] == "# parameters of the run\nepochs = 3\nrate = 0.1"
    assert printed(found.cells[3]) == "epoch 0\nepoch 1\nepoch 2\n"
    log = project.reprokit("logs", "latest").stdout
    assert re.search(r"^\d{4}-\d\d-\d\dT[\d:.]+Z stdout epoch 2$", log, re.MULTILINE)
    assert "notebook     notebook/train.ipynb, executed" in project.reprokit("show", "latest").stdout
    project.reprokit("install", f"runs/{record['run_id']}", str(project.base / "out"))
    assert (project.base / "out" / "notebook" / "train.ipynb").is_file()


def test_a_notebook_reproduces_bitwise_from_another_home_and_the_registry_alone(project: Project) -> None:
    first = project.json("run", "recipe.yaml")
    subprocess.run(["rm", "-rf", project.root], check=True)
    verdict = project.json("reproduce", first["run_id"], home="other", cwd=project.base)
    assert verdict["verdict"] == "BITWISE"
    assert not any("notebook" in comparison["what"] for comparison in verdict["comparisons"])
    registry = LocalRegistry(project.registry)
    run = RunStore(registry).load(first["run_id"])
    identity = RunStore(registry).lock(run).code
    with registry.staging() as sink:
        digest, size = sink.put_bytes(notebook("print('other')").encode())
    entries = [entry for entry in run.manifest.below("code") if entry.logical_key != "code/train.ipynb"]
    forged = Manifest.make([*entries, Entry("code/train.ipynb", size, digest, {"reprokit": {"mode": "100644"}})])
    registry.publish("t/forged", forged)
    lay_code(run.manifest, identity, project.base / "fine", registry=registry, notebook="train.ipynb")
    with pytest.raises(DataMismatchError, match="The code in the record is not the locked tree"):
        lay_code(forged, identity, project.base / "forged", registry=registry, notebook="train.ipynb")


def test_cells_behave_as_a_script_of_the_run(project: Project) -> None:
    """Seeds, variables, working directory, imports beside the notebook, magics, the watch on inputs."""
    (project.root / "sub folder").mkdir()
    project.write("sub folder/beside.py", "x = 5\n")
    project.write("script.py", "import random, numpy as np; print(random.random(), np.random.rand())")
    source = (
        "import random, numpy as np; print(random.random(), np.random.rand())",
        "import os, sys, beside, json, pathlib\n"
        "print(json.dumps([os.getcwd(), beside.x, os.environ['OMP_NUM_THREADS'], sys.path[0], __name__]))\n"
        "print(sorted(pathlib.Path(get_ipython().ipython_dir).iterdir()))",
        "%time 1\n!echo from $OMP_NUM_THREADS",
        ("input('never asked')", "raises-exception"),
        f"print(open({str(project.base / 'outside.txt')!r}).read())",
    )
    (project.base / "outside.txt").write_text("outside")
    startup = project.base / "user" / ".ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "0.py").write_text("print('the user\\'s own')\n")
    project.write("sub folder/a b.ipynb", notebook(*source))
    (project.root / "work").mkdir()
    project.write("work/kept.txt", "")
    recipe = "name: nb\ncode: {notebook: sub folder/a b.ipynb, workdir: work}\nexecution: {seed: 7, threads: 1}\n"
    project.write("recipe.yaml", recipe)
    project.write("script.yaml", recipe.replace("notebook: sub folder/a b.ipynb", "entrypoint: script.py"))
    project.commit()
    done = subprocess.run(
        project.command("run", "recipe.yaml"), cwd=project.root, capture_output=True, text=True, check=True,
        env=project.environment() | {"HOME": str(project.base / "user")},
    )  # fmt: skip
    drawn, told, *rest = done.stdout.splitlines()
    folder, beside, threads, first, main = json.loads(told)
    assert Path(folder).parts[-2:] == ("workspace", "work")
    assert (beside, threads, Path(first).name, main) == (5, "1", "sub folder", "__main__")
    assert "the user" not in done.stdout
    assert "from 1" in rest
    assert "StdinNotImplementedError" in done.stderr
    assert "that are not declared inputs: " + str(project.base / "outside.txt") + "." in done.stdout
    assert project.reprokit("run", "script.yaml").stdout.splitlines()[0] == drawn


def test_a_cell_that_raises_fails_the_run_and_what_was_executed_is_kept(project: Project) -> None:
    cells(project, "print('before')", "x = 0\n1 / x", "print('never')")
    done = project.reprokit("run", "recipe.yaml", expect=6)
    assert "failed. train.ipynb failed in cell 2 [2]: ZeroDivisionError: division by zero" in done.stderr
    assert "----> 2 1 / x" in done.stderr  # its traceback, without colours
    record = shown(project)
    assert record["status"] == "failed"
    found = kept(project, record)
    assert [cell["execution_count"] for cell in found.cells] == [1, 2, None]
    assert found.cells[1]["outputs"][-1]["ename"] == "ZeroDivisionError"
    assert printed(found.cells[0]) == "before\n"


def test_tags_skip_cells_and_let_them_raise_and_sys_exit_ends_a_notebook_well(project: Project) -> None:
    cells(
        project,
        ("print('skipped')", "skip-execution"),
        ("raise ValueError('on purpose')", "raises-exception"),
        "print('went on')",
        "import sys; sys.exit(0)",
        "print('never')",
    )
    record = project.json("run", "recipe.yaml")
    assert record["status"] == "finished"
    assert [cell["execution_count"] for cell in kept(project, record).cells] == [None, 1, 2, 3, None]
    cells(project, "import sys; sys.exit(3)")
    assert "cell 1 [1]: SystemExit: 3" in project.reprokit("run", "recipe.yaml", expect=6).stderr
    assert shown(project)["exit_code"] == 3
    cells(project, "exit()", "print('never')")
    assert " never\n" not in project.reprokit("run", "recipe.yaml").stdout


def test_an_undeclared_input_is_denied_in_a_cell(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_CELL", "1")
    monkeypatch.setenv("OF_SHELL", "1")
    outside = project.base / "outside.txt"
    outside.write_text("x")
    project.write("recipe.yaml", "name: nb\ncode: {notebook: train.ipynb}\nexecution: {inputs: deny}\n")
    cells(project, "import os\nos.getenv('OF_CELL')", "!echo $OF_SHELL", f"open({str(outside)!r})")
    done = project.reprokit("run", "recipe.yaml", expect=3)
    assert f"{outside} is not a declared input of this run" in done.stderr
    hidden = [one["name"] for one in shown(project)["variables"] if one["hidden"]]
    assert hidden == ["OF_CELL", "OF_SHELL"]


def test_notebooks_that_differ_in_outputs_alone_are_one_experiment(project: Project) -> None:
    first = project.json("run", "recipe.yaml")
    project.write("train.ipynb", executed(notebook(*TRAIN), counts=[1, 3, 2, 4]))
    dirty = project.json("run", "recipe.yaml", "--reuse")  # only outputs changed: nothing to commit
    assert dirty["run_id"] == first["run_id"]
    project.commit()
    again = project.json("run", "recipe.yaml", "--reuse")
    assert again["run_id"] == first["run_id"]
    again = project.json("run", "recipe.yaml")
    assert again["lock_hash"] == first["lock_hash"]
    assert any("executed out of order: cell 3 [2] before a cell above" in text for text in again["warnings"])
    assert again["code"]["tree"] != first["code"]["tree"]
    verdict = project.json("reproduce", again["run_id"], home="other", cwd=project.base)
    assert verdict["verdict"] == "BITWISE"


def test_changed_cells_are_the_cause(project: Project) -> None:
    first = project.json("run", "recipe.yaml")
    changed = (*TRAIN[:2], TRAIN[2].replace("size=weights.shape)", "size=weights.shape) * 2"), *TRAIN[3:], "print()")
    project.write("train.ipynb", executed(notebook(*changed), counts=[1, 2, 3, 4, 5]))
    assert "M train.ipynb" in project.reprokit("run", "recipe.yaml", expect=3).stderr
    project.commit()
    second = project.json("run", "recipe.yaml")
    verdict = project.json("diff", first["run_id"], second["run_id"])
    assert verdict["verdict"] == "DIVERGED"
    assert verdict["causes"][0].startswith("code: train.ipynb (cell 3 changed, cell 5 added) (tree ")
    relaxed = project.json("reproduce", first["run_id"], "--with", "code=.", expect=7)
    assert relaxed["causes"][0].startswith("code: train.ipynb (cell 3 changed, cell 5 added) (tree ")


def test_a_notebook_that_cannot_run_is_named_before_anything_does(project: Project) -> None:
    def refused(text: str, code: int) -> str:
        project.write("train.ipynb", text)
        project.commit()
        return project.reprokit("run", "recipe.yaml", expect=code).stderr

    assert "train.ipynb is not JSON that reprokit reads" in refused("import os", 2)
    assert "for a kernel of the language 'R'" in refused(notebook("x", kernelspec={"name": "ir", "language": "R"}), 2)
    project.write("recipe.yaml", RECIPE.replace("train.ipynb", "trian.ipynb"))
    assert "Did you mean train.ipynb?" in refused(notebook("x"), 10)
    assert project.json("ls")["runs"] == []


def test_an_environment_without_ipykernel_and_a_reprokit_without_nbclient_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare = EnvironmentLock(python="3.11.7", implementation="CPython", platform="linux-x86_64")
    with pytest.raises(EnvironmentMismatchError, match=r"has no ipykernel(.|\n)*python -m pip install ipykernel"):
        check_notebook(bare)
    having = msgspec.structs.replace(bare, pip=[PipPackage(name="ipykernel", version="7.0.0")])
    check_notebook(having)
    monkeypatch.setitem(sys.modules, "nbclient", None)  # type: ignore[arg-type]  # as Python hides what is not there
    with pytest.raises(
        EnvironmentMismatchError, match=rf"is not installed beside reprokit(.|\n)*{re.escape(pip_words('notebook'))}"
    ):
        check_notebook(having)


def test_a_run_in_place_leaves_the_notebook_alone_and_init_drafts_a_recipe(project: Project) -> None:
    project.reprokit("init", "train.ipynb")
    draft = project.root / "recipes" / "train.yaml"
    assert "code: {notebook: train.ipynb}" in draft.read_text()
    project.commit()
    before = (project.root / "train.ipynb").read_bytes()
    record = project.json("run", "recipes/train.yaml", "--in-place")
    assert (record["status"], record["execution"]["in_place"]) == ("finished", True)
    assert (project.root / "train.ipynb").read_bytes() == before
    assert printed(kept(project, record).cells[2]) == "epoch 0\n"


# killed and stopped


@pytest.fixture
def started(project: Project) -> Iterator[Any]:
    """Start a run and wait until a cell has written `here`; end what is left of it."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*sources: str | tuple[str, ...], home: str = "home") -> tuple[subprocess.Popen[bytes], int]:
        mark = project.base / f"here-{len(running)}"
        cells(project, *(s.replace("HERE", f"import os; open({str(mark)!r}, 'w').write(str(os.getpid()))")
                         if isinstance(s, str) else s for s in sources))  # fmt: skip
        process = subprocess.Popen(
            project.command("run", "recipe.yaml"), cwd=project.root, env=project.environment(home),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        running.append(process)
        deadline = time.monotonic() + 60
        while not (mark.exists() and mark.read_text()):
            assert time.monotonic() < deadline and process.poll() is None, process.communicate()
            time.sleep(0.02)
        return process, int(mark.read_text())

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
            process.communicate()


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_ctrl_c_ends_a_cell_that_never_ends(project: Project, started: Any) -> None:
    process, kernel = started("print('before', flush=True)", "HERE\nwhile True: pass")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors.decode()
    assert "was interrupted. Stopped by SIGINT." in errors.decode()
    assert gone(kernel)
    found = kept(project, shown(project))
    assert found.cells[1]["outputs"][-1]["ename"] == "KeyboardInterrupt"


def test_a_killed_kernel_is_a_killed_script_and_names_the_cell(project: Project, started: Any) -> None:
    process, kernel = started("print('before', flush=True)", "HERE\nimport time; time.sleep(60)")
    os.kill(kernel, signal.SIGKILL)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors.decode()
    assert "The kernel of train.ipynb was killed by SIGKILL in cell 2 [2]." in errors.decode()
    assert printed(kept(project, shown(project)).cells[0]) == "before\n"


def test_a_kernel_dies_with_its_runner_and_the_record_is_completed(project: Project, started: Any) -> None:
    process, kernel = started("print('before', flush=True)", "HERE\nimport time; time.sleep(60)")
    time.sleep(1.2)  # what was executed is written about once a second
    process.kill()
    process.communicate()
    assert gone(kernel)
    record = shown(project)
    assert record["status"] == "interrupted"
    assert printed(kept(project, record).cells[0]) == "before\n"


def test_what_a_cell_prints_is_kept_up_to_a_cap_and_logged_whole(project: Project) -> None:
    cells(
        project,
        "for i in range(30_000): print(f'{i:06d}', 'x' * 93)",
        "for i in range(12_000): print(i, flush=True)",
        "from IPython.display import HTML, display\ndisplay(HTML('y' * 9_000_000))\nprint('after')",
        "print('z' * 10_000_000)\nfor i in range(5): print(i, end='\\r')",
    )
    record = project.json("run", "recipe.yaml")
    assert record["status"] == "finished"
    found = kept(project, record)
    assert len(printed(found.cells[0])) == 1_000_000
    assert printed(found.cells[0], "stderr") == (
        "[reprokit: 2,030,000 more characters are not kept here; the run's log has them]\n"
    )
    assert printed(found.cells[1]).splitlines() == [str(i) for i in range(12_000)]
    assert "[reprokit: an output of 9," in found.cells[2]["outputs"][0]["data"]["text/plain"]
    lines = project.reprokit("logs", "latest").stdout.splitlines()
    assert len([line for line in lines if "x" * 93 in line]) == 30_000
    long = [line.count("z") for line in lines if "zzz" in line]
    assert sum(long) == 10_000_000
    assert 3 <= len(long) <= 5  # a line is broken where it gets too long to be kept in memory


DIGITS = (
    "import json, pathlib\n"
    "import numpy as np, reprokit\n"
    "from sklearn.datasets import load_digits\n"
    "from sklearn.linear_model import SGDClassifier\n"
    "from reprokit.callbacks.sklearn import PackageCheckpoint\n"
    "params = reprokit.params(epochs=4)",
    "digits = load_digits()\n"
    "x, y = digits.data / 16, digits.target\n"
    "model = SGDClassifier(random_state=np.random.randint(1000))\n"
    "ckpt = PackageCheckpoint(estimator=model)",
    "for epoch in ckpt.epochs(params['epochs']):\n"
    "    shuffled = np.random.permutation(len(x))\n"
    "    model.partial_fit(x[shuffled], y[shuffled], classes=range(10))\n"
    "    ckpt.state['result'] = {'accuracy': model.score(x, y)}\n"
    "    ckpt.save(**ckpt.state['result'])\n"
    "    KILL",
    "pathlib.Path('metrics.json').write_text(json.dumps(ckpt.state['result']));",
)


def test_a_digits_notebook_killed_once_resumes_and_reproduces_bitwise(project: Project) -> None:
    project.python = sys.executable
    flag = project.base / "killed"
    kill = (
        f"flag = pathlib.Path({str(flag)!r})\n"
        "    if epoch == 1 and not flag.exists():\n"
        "        import os, signal; flag.touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    project.write(
        "recipe.yaml", RECIPE.replace("rate: 0.1", "hidden: 16").replace("threads: 1", "threads: 1, inputs: off")
    )
    cells(project, *(source.replace("KILL", kill) for source in DIGITS))
    project.reprokit("run", "recipe.yaml", expect=130)
    resumed = project.json("resume", "latest")
    assert resumed["status"] == "finished"
    assert [entry["epoch"] for entry in resumed["checkpoints"]] == [0, 1, 2]
    verdict = project.json("reproduce", resumed["run_id"], home="other", cwd=project.base)
    assert verdict["verdict"] == "BITWISE"


LOOP = (
    "import time, numpy as np, reprokit\n"
    "from reprokit.client.loop import Loop\n"
    "class Tiny(Loop):\n"
    "    def _capture(self, snapshot): snapshot.add_array('model', 'w', np.ones(3))\n"
    "    def _restore(self, restored): pass\n"
    "ckpt = Tiny()",
    "for epoch in ckpt.epochs(100):\n    BODY\n    ckpt.save(loss=1.0)",
)


def test_a_stop_signal_saves_a_checkpoint_in_the_kernel(project: Project, started: Any) -> None:
    process, kernel = started(*(source.replace("BODY", "HERE\n    time.sleep(0.3)") for source in LOOP))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors.decode()
    record = shown(project)
    assert record["failure"] == "Stopped by SIGTERM."
    assert 1 <= len(record["checkpoints"]) < 100
    assert "SystemExit" in [output.get("ename") for output in kept(project, record).cells[1]["outputs"]]
    assert gone(kernel)


def test_a_callback_saves_when_a_cell_raises(project: Project) -> None:
    project.write("recipe.yaml", RECIPE.replace("package: t/model", "package: t/model, on: [exception]"))
    cells(project, *(source.replace("BODY", "assert epoch < 1, 'on purpose'") for source in LOOP))
    assert "cell 2 [2]: AssertionError: on purpose" in project.reprokit("run", "recipe.yaml", expect=6).stderr
    assert [entry["kind"] for entry in shown(project)["checkpoints"]] == ["checkpoint", "exception"]
