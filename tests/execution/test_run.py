"""Runs as a user starts them: real repositories, real processes, real signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from reprokit.checkpoint.load import load_checkpoint
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from reprokit.schema.manifest import Manifest
from tests.conftest import RECIPE, SCRIPT, Project


def test_run_records_code_data_environment_checkpoints_and_outputs(project: Project) -> None:
    record = project.json("run", "recipe.yaml")
    assert record["status"] == "finished"
    assert record["code"]["commit"] == project.git("rev-parse", "HEAD").strip()
    assert record["code"]["tree"] == project.git("rev-parse", "HEAD^{tree}").strip()
    assert record["data"][0]["package"] == "t/in"
    assert [entry["epoch"] for entry in record["checkpoints"]] == [0, 1, 2]
    assert record["outputs"][0]["path"] == "metrics.json"
    assert record["params"] == {"epochs": 3, "rate": 0.1}
    shown = project.json("show", record["run_id"])
    assert shown == record
    assert "epoch 2" in project.reprokit("logs", "latest").stdout


def test_each_checkpoint_is_a_version_linked_to_run_parent_and_inputs(project: Project) -> None:
    record = project.json("run", "recipe.yaml")
    first, second = record["checkpoints"][:2]
    facts = project.json("show", f"t/model@{second['top_hash']}")["meta"]["reprokit"]
    assert facts["run"] == record["run_id"]
    assert facts["parent"] == {"package": "t/model", "top_hash": first["top_hash"]}
    assert facts["inputs"] == [{"name": "in", "package": "t/in", "top_hash": record["data"][0]["top_hash"]}]
    best = min(record["checkpoints"], key=lambda entry: entry["metrics"]["loss"])
    assert project.json("show", "t/model:best")["top_hash"] == best["top_hash"]
    assert project.json("show", "latest@best")["top_hash"] == best["top_hash"]


def test_checkpoints_load_verified_by_name(project: Project) -> None:
    project.reprokit("run", "recipe.yaml", "-q")
    checkpoint = load_checkpoint("latest@epoch=1", registry=str(project.registry))
    assert checkpoint.tensor("layer.weight").shape == (4, 3)
    assert checkpoint.tensor("layer.steps").shape == ()
    assert int(checkpoint.tensor("layer.steps")) == 1


def test_the_same_recipe_has_the_same_lock_and_reuse_returns_the_run(project: Project) -> None:
    first = project.json("run", "recipe.yaml")
    again = project.json("run", "recipe.yaml", "--reuse")
    assert again["run_id"] == first["run_id"]
    other = project.json("run", "recipe.yaml", "-p", "rate=0.2")
    assert other["lock_hash"] != first["lock_hash"]


def test_a_dirty_tree_is_refused_and_listed(project: Project) -> None:
    project.write("train.py", SCRIPT.replace("HOOK", "print('changed')"))
    project.write("new.txt", "x")
    done = project.reprokit("run", "recipe.yaml", expect=3)
    assert "M train.py" in done.stderr
    assert "?? new.txt" in done.stderr
    assert "--allow-dirty" in done.stderr


def test_allow_dirty_captures_the_working_tree_and_leaves_git_alone(project: Project) -> None:
    project.write("train.py", SCRIPT.replace("HOOK", "print('changed')"))
    before = project.git("status", "--porcelain")
    record = project.json("run", "recipe.yaml", "--allow-dirty")
    assert record["code"]["dirty"] is True
    assert "changed" in project.reprokit("logs", "latest").stdout
    assert project.git("status", "--porcelain") == before
    verdict = project.json("reproduce", "latest", home="other", cwd=project.base)
    assert verdict["verdict"] == "BITWISE"


def test_an_untracked_secret_is_never_captured(project: Project) -> None:
    project.write(".env", "PASSWORD=hunter2")
    done = project.reprokit("run", "recipe.yaml", "--allow-dirty", expect=3)
    assert ".env is not tracked and looks like a secret" in done.stderr


def test_no_repository_and_no_commit_are_refused_with_the_next_step(tmp_path: Path, project: Project) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "recipe.yaml").write_text(RECIPE)
    assert "git init" in project.reprokit("run", "recipe.yaml", cwd=bare, expect=3).stderr
    subprocess.run(["git", "init", "-q"], cwd=bare, check=True)
    assert "has no commit yet" in project.reprokit("run", "recipe.yaml", cwd=bare, expect=3).stderr


def test_bad_recipes_are_named(project: Project) -> None:
    project.write("bad.yaml", "name: x\ncode: {entrypoint: train.py}\nparms: {}\n")
    done = project.reprokit("run", "bad.yaml", expect=2)
    assert "unknown key parms" in done.stderr
    assert "Did you mean 'params'?" in done.stderr
    project.write("bad.yaml", "")
    assert "is empty" in project.reprokit("run", "bad.yaml", expect=2).stderr
    project.write("bad.yaml", "a" * 2_000_000)
    assert "at most 1,048,576 are read" in project.reprokit("run", "bad.yaml", expect=2).stderr
    assert "No recipe" in project.reprokit("run", "none.yaml", expect=10).stderr


def test_a_missing_package_and_a_missing_run_are_not_found(project: Project) -> None:
    project.write("recipe.yaml", RECIPE.replace("t/in", "t/inn"))
    project.commit()
    assert "Did you mean t/in?" in project.reprokit("run", "recipe.yaml", expect=10).stderr
    assert "No run ffffff" in project.reprokit("reproduce", "ffffff", expect=10).stderr


def test_an_unknown_parameter_is_refused(project: Project) -> None:
    done = project.reprokit("run", "recipe.yaml", "-p", "rat=1", expect=2)
    assert "Did you mean 'rate'?" in done.stderr


def test_a_script_that_raises_is_recorded_as_failed_with_its_checkpoints(project: Project) -> None:
    project.hook("1 / 0")
    done = project.reprokit("run", "recipe.yaml", expect=6)
    assert "ZeroDivisionError" in done.stderr
    record = project.json("show", "latest")
    assert record["status"] == "failed"
    assert len(record["checkpoints"]) == 1


def test_a_script_that_exits_non_zero_fails_with_its_code(project: Project) -> None:
    project.hook("sys.exit(9)")
    assert "exit code 9" in project.reprokit("run", "recipe.yaml", expect=6).stderr


def test_zero_epochs_is_a_finished_run_that_compares_outputs(project: Project) -> None:
    record = project.json("run", "recipe.yaml", "-p", "epochs=0")
    assert record["status"] == "finished"
    assert record["checkpoints"] == []
    assert any("No checkpoint was saved" in text for text in record["warnings"])
    assert project.json("reproduce", "latest")["verdict"] == "BITWISE"


def test_killing_the_script_leaves_an_interrupted_record(project: Project) -> None:
    project.hook("epoch == 1 and os.kill(os.getpid(), 9)")
    done = project.reprokit("run", "recipe.yaml", expect=130)
    assert "SIGKILL" in done.stderr
    record = project.json("show", "latest")
    assert record["status"] == "interrupted"
    assert [entry["epoch"] for entry in record["checkpoints"]] == [0, 1]


def test_kill_9_of_the_runner_leaves_a_readable_record_and_every_checkpoint(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = project.base / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    project.hook("epoch == 1 and time.sleep(60)")
    runner = subprocess.Popen(
        project.command("run", "recipe.yaml"),
        cwd=project.root,
        env=project.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = project.registry / "log" / "t" / "model"
    deadline = time.monotonic() + 60
    while not (log.is_dir() and len(os.listdir(log)) >= 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    running = project.json("show", "latest", home="elsewhere")
    assert running["status"] == "running"
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    time.sleep(0.2)
    read = project.json("show", "latest", home="elsewhere")
    assert (read["status"], project.json("ls", home="elsewhere")["runs"][0]["checkpoints"]) == ("interrupted", 2)
    left = [path for path in temporary.iterdir() if path.name.startswith("reprokit-")]
    assert len(left) == 1
    assert "1 scratch folders of killed runs on this machine" in project.reprokit("gc").stdout
    assert not left[0].exists()
    assert [entry["epoch"] for entry in read["checkpoints"]] == [0, 1]
    finalised = project.json("show", "latest")
    assert finalised["status"] == "interrupted"
    assert finalised["ended"] is not None
    workspace = finalised["failure"].partition("What its script wrote is in ")[2].removesuffix(".")
    assert (Path(workspace) / "train.py").is_file()
    assert "epoch 1" in project.reprokit("logs", "latest").stdout
    for entry in finalised["checkpoints"]:
        loaded = load_checkpoint(f"t/model@{entry['top_hash']}", registry=str(project.registry))
        assert loaded.tensor("layer.weight").shape == (4, 3)


@pytest.mark.parametrize("background", [False, True])
def test_ctrl_c_saves_what_there_is(project: Project, background: bool) -> None:
    project.hook("epoch == 1 and time.sleep(60)")
    command = project.command("run", "recipe.yaml")
    runner = subprocess.Popen(
        ["env", "--ignore-signal=INT", *command] if background else command,  # as a shell starts what `&` follows
        cwd=project.root,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert runner.stdout is not None
    for line in runner.stdout:
        if line.startswith(b"epoch 1"):
            break
    runner.send_signal(signal.SIGINT)
    runner.stdout.read()
    assert runner.wait() == 130
    assert "KeyboardInterrupt" in project.reprokit("logs", "latest").stdout, "it heard, and was not killed"
    record = project.json("show", "latest")
    assert record["status"] == "interrupted"
    assert len(record["checkpoints"]) == 2


def test_undeclared_inputs_are_named_and_with_deny_refused(project: Project, tmp_path: Path) -> None:
    secret = tmp_path / "undeclared.txt"
    secret.write_text("1")
    project.hook(f"open({str(secret)!r}).read()")
    record = project.json("run", "recipe.yaml")
    assert any(str(secret) in text for text in record["warnings"])
    project.write("recipe.yaml", RECIPE.replace("threads: 1", "threads: 1, inputs: deny"))
    project.commit()
    done = project.reprokit("run", "recipe.yaml", expect=3)
    assert "is not a declared input of this run" in done.stderr
    shown = project.json("show", "latest")
    assert (shown["refused"], shown["undeclared"]) == ([str(secret)], [])
    assert f"What is not a declared input was refused: {secret}." in shown["warnings"]
    assert not any("were read" in text for text in shown["warnings"])
    project.write("recipe.yaml", RECIPE.replace("threads: 1", "threads: 1, inputs: deny, benign: ['*/undeclared.txt']"))
    project.commit()
    record = project.json("run", "recipe.yaml")
    assert (record["refused"], [file["path"] for file in record["undeclared"]]) == ([], [str(secret)])
    assert not any(str(secret) in text for text in record["warnings"])


def test_links_out_of_the_tree_other_trees_of_the_cache_and_modules_from_elsewhere_are_undeclared(
    project: Project,
) -> None:
    other, module, linked = (
        project.base / name for name in ("home-cache/trees/other/x", "outside/elsewhere.py", "outside/linked.csv")
    )
    for file, text in ((other, "1"), (module, "x = 1"), (linked, "1")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (project.root / "committed.csv").symlink_to(linked)
    project.hook(
        f"[open(name).read() for name in ({str(other)!r}, 'committed.csv')]; sys.path.append({str(module.parent)!r}); "
        "import elsewhere; open('own', 'w').close(); open('own').read(); __import__('subprocess').run(['true'])"
    )
    record = project.json("run", "recipe.yaml")
    found = {(file["path"], file["kind"]) for file in record["undeclared"]}
    assert found == {(str(other), "file"), (str(linked), "file"), (str(module), "module")}
    assert [Path(program["path"]).name for program in record["programs"]] == [Path("/bin/true").resolve().name]
    assert "programs     true" in project.reprokit("show", record["run_id"]).stdout


_DENY = RECIPE.replace("threads: 1", "threads: 1, inputs: deny")


def test_a_script_that_was_refused_is_refused_whatever_it_prints(project: Project, tmp_path: Path) -> None:
    secret = tmp_path / "undeclared.txt"
    secret.write_text("1")
    project.write("recipe.yaml", _DENY)
    text = (project.root / "train.py").read_text()
    caught = f"try:\n    open({str(secret)!r})\nexcept OSError:\n    sys.exit('no data')\n"
    project.write("train.py", text.replace("params =", f"{caught}params =", 1))
    project.commit()
    failed = project.reprokit("run", "recipe.yaml", expect=3)
    assert f"was refused what it does not declare: {secret}" in failed.stderr
    project.write("train.py", text.replace("params =", f"{caught.replace('sys.exit', 'print')}params =", 1))
    project.commit()
    record = project.json("run", "recipe.yaml")
    assert (record["status"], record["undeclared"], record["refused"]) == ("finished", [], [str(secret)])
    assert record["warnings"][-1].endswith(f"went on without what it was refused, not being declared: {secret}.")


def test_a_script_that_only_speaks_of_undeclared_inputs_failed_by_itself(project: Project) -> None:
    project.write("recipe.yaml", _DENY)
    project.hook("sys.exit('data.csv is not a declared input of this run')")
    project.reprokit("run", "recipe.yaml", expect=6)
    assert project.json("show", "latest")["refused"] == []


def test_a_package_that_is_not_declared_is_refused_too(project: Project) -> None:
    project.hook("__import__('reprokit.vfs').vfs.setup('t/other', {'x': ''})")
    project.reprokit("run", "recipe.yaml", expect=3)
    assert project.json("show", "latest")["refused"] == ["t/other"]


def test_a_checkpoint_without_an_epoch_is_told_by_its_step(project: Project) -> None:
    text = (project.root / "train.py").read_text()
    project.write("train.py", text.replace("epoch=epoch,", "step=500 * (epoch + 1),"))
    project.commit()
    project.json("run", "recipe.yaml")
    assert "step 500" in project.reprokit("log", "t/model").stdout
    shown = project.reprokit("show", "latest").stdout
    assert "checkpoint   step 500" in shown and "checkpoint   step 1500" in shown
    assert "None" not in shown + project.reprokit("log", "t/model").stdout
    assert project.json("reproduce", "latest")["verdict"] == "BITWISE"


def test_files_nobody_declared_stay_where_they_are(project: Project) -> None:
    project.hook("open('notes.txt', 'w').write('precious')")
    record = project.json("run", "recipe.yaml")
    kept = project.base / "home" / "runs" / record["run_id"] / "workspace" / "notes.txt"
    assert kept.read_text() == "precious"
    assert any("notes.txt" in text for text in record["warnings"])


def test_in_place_runs_in_the_working_tree_and_says_so(project: Project) -> None:
    record = project.json("run", "recipe.yaml", "--in-place")
    assert record["execution"]["in_place"] is True
    assert (project.root / "metrics.json").exists()
    assert not (project.root / "data" / "in").exists()


def test_secrets_in_the_environment_never_enter_a_record(project: Project, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("MY_API_TOKEN", "hunter2-token")
    project.hook("print('it is there:', len(os.environ['MY_API_TOKEN']))")
    project.reprokit("run", "recipe.yaml", "-q")
    places = (project.registry, project.base / "home", project.base / "home-cache")
    stored = [file.read_bytes() for place in places for file in place.rglob("*") if file.is_file()]
    assert any(b"it is there: 13" in data for data in stored), "what a run stores can be read as it lies there"
    assert not any(b"hunter2-token" in data for data in stored)


def test_what_looks_like_a_secret_is_refused_with_its_places_before_anything_is_stored(project: Project) -> None:
    project.write("config.ini", "[db]\npassword = hunter2hunter2\n")
    project.write("recipe.yaml", RECIPE.replace("rate: 0.1", "rate: 0.1, token: abcdef"))
    project.commit()
    before = sorted(path for path in project.registry.rglob("*") if path.is_file())
    said = project.reprokit("run", "recipe.yaml", expect=3).stderr
    assert "params.token: a value for 'token'" in said
    assert "abcdef" not in said
    project.write("recipe.yaml", RECIPE + "not_secret: [params.token]\n")
    project.commit()
    said = project.reprokit("run", "recipe.yaml", expect=3).stderr
    assert "code/config.ini, line 2: a value for 'password'" in said
    assert "`not_secret: [code/config.ini]`" in said
    assert "hunter2" not in said
    assert sorted(path for path in project.registry.rglob("*") if path.is_file()) == before


def test_a_secret_reaches_the_script_and_nothing_that_is_kept(project: Project, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    told = 'hun"ter2/secret'
    project.write("recipe.yaml", RECIPE.replace("threads: 1", "threads: 1, secrets: [MY_API_TOKEN, OMP_PLACES]"))
    project.hook(
        "print('told', os.environ['MY_API_TOKEN'], file=sys.stderr); print(json.dumps(os.environ['MY_API_TOKEN'])); "
        "assert len(os.environ['MY_API_TOKEN']) == 15"
    )
    monkeypatch.delenv("MY_API_TOKEN", raising=False)
    monkeypatch.setenv("OMP_PLACES", "cores{0:1}")
    said = project.reprokit("run", "recipe.yaml", expect=3).stderr
    assert "The run needs secrets that are not set here: MY_API_TOKEN." in said
    monkeypatch.setenv("MY_API_TOKEN", told)
    record = project.json("run", "recipe.yaml", "-p", "epochs=1")
    assert record["execution"]["secrets"] == ["MY_API_TOKEN", "OMP_PLACES"]
    log = project.reprokit("logs", "latest").stdout
    assert "told ***" in log
    assert '"***"' in log
    for file in [*project.registry.rglob("*"), *(project.base / "home").rglob("*")]:
        if file.is_file():
            data = file.read_bytes()
            assert b"ter2" not in data
            assert b"cores{0:1}" not in data


def test_what_another_process_sends_to_the_runner_is_not_recorded_and_said(project: Project) -> None:
    stranger = (
        "import json, socket, sys; line = socket.socket(socket.AF_UNIX); line.connect(sys.argv[1]); "
        "body = json.dumps({'type': 'metrics', 'step': 0, 'values': {'loss': 0.0, 'forged': 1.0}}).encode(); "
        "line.sendall(len(body).to_bytes(4, 'big') + body)"
    )
    project.hook(
        f"import subprocess; subprocess.run([sys.executable, '-I', '-c', {stranger!r}, os.environ['REPROKIT_SOCKET']], "
        "env={'PATH': os.environ['PATH']}, check=True)"
    )
    record = project.json("run", "recipe.yaml", "-p", "epochs=1")
    assert record["status"] == "finished"
    assert list(record["metrics"]) == ["loss"]
    assert record["metrics"]["loss"] > 0
    (said,) = [text for text in record["warnings"] if "does not belong to the run" in text]
    assert re.fullmatch(
        r"A process that does not belong to the run spoke to its runner 1 time\(s\) \(process \d+\): "
        r"nothing of it was kept\.",
        said,
    )


def test_a_lock_file_pins_data_and_goes_out_of_date(project: Project) -> None:
    project.reprokit("lock", "recipe.yaml")
    project.commit()
    pinned = project.json("show", "t/in")["top_hash"]
    (project.base / "inputs" / "0.txt").write_text("9\n")
    project.build()
    assert project.json("run", "recipe.yaml")["data"][0]["top_hash"] == pinned
    project.write("recipe.yaml", RECIPE.replace("data/in}", "data/in2}"))
    project.commit()
    assert "is out of date" in project.reprokit("run", "recipe.yaml", expect=3).stderr


def test_dry_run_prints_the_lock_and_stores_nothing(project: Project) -> None:
    plain = project.json("run", "recipe.yaml", "--dry-run")
    assert len(plain["lock_hash"]) == 64
    assert project.json("ls")["runs"] == []


def test_a_checkpoint_outside_a_run_goes_to_the_registry(project: Project) -> None:
    script = project.base / "loose.py"
    script.write_text(
        "import numpy as np, reprokit\n"
        "print(reprokit.save_checkpoint({'w': np.arange(3.0)}, epoch=0, loss=1.0).result()['package'])\n"
    )
    import sys

    done = subprocess.run(
        [sys.executable, str(script)], env=project.environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "checkpoints/loose"
    deadline = time.monotonic() + 20
    record = project.json("show", "latest")
    while record["status"] == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
        record = project.json("show", "latest")
    assert record["status"] == "finished"
    assert record["lock_hash"] is None
    assert json.dumps(record["checkpoints"]).count("checkpoints/loose") == 1


def test_a_foreign_pythonpath_does_not_reach_the_script_and_is_named(project: Project, tmp_path: Path) -> None:
    stray = tmp_path / "stray"
    stray.mkdir()
    (stray / "stray_module.py").write_text("x = 1\n")
    project.hook("__import__('importlib.util').util.find_spec('stray_module') and sys.exit('it got it')")
    environment = project.environment()
    environment["PYTHONPATH"] += os.pathsep + str(stray)
    done = subprocess.run(
        project.command("run", "recipe.yaml", "--json"),
        cwd=project.root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"the script does not get {stray}." in " ".join(json.loads(done.stdout)["warnings"])


def test_runs_of_one_project_at_the_same_time_do_not_meet(project: Project) -> None:
    runs = [
        subprocess.Popen(
            project.command("run", "recipe.yaml", "-q"), cwd=project.root, env=project.environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for _ in range(4)
    ]  # fmt: skip
    assert [run.wait(120) for run in runs] == [0, 0, 0, 0]
    assert len(project.json("ls")["runs"]) == 4
    assert len(project.json("log", "t/model")) == 12
    assert project.json("verify", "--all")["problems"] == []


def test_a_full_disk_fails_the_save_and_leaves_what_was_published(project: Project) -> None:
    place = project.base / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system of limited size cannot be mounted here: that needs root")
    try:
        project.write("train.py", _BIG)
        project.write("recipe.yaml", "name: big\ncode: {entrypoint: train.py}\nexecution: {threads: 1}\n")
        project.commit()
        done = subprocess.run(
            project.command("run", "recipe.yaml", "--registry", str(place / "r")),
            cwd=project.root, env=project.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode in (6, 11)  # 11 if not even the record of the failure found room
        assert "The disk is full: free some space and repeat the command" in done.stderr
        assert project.json("verify", "--all", "--registry", str(place / "r"))["problems"] == []
        record = project.json("show", "latest", "--registry", str(place / "r"))
        assert record["status"] == ("failed" if done.returncode == 6 else "interrupted")
        assert len(record["checkpoints"]) < 5
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


_BIG = """\
import numpy as np, reprokit
for epoch in range(5):
    reprokit.save_checkpoint({"w": np.random.default_rng(epoch).normal(size=20000)}, epoch=epoch)
"""


def test_latest_is_the_run_that_began_last_also_within_a_second(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    ids = ["20261123-101500-ffffff", "20261123-101500-000000", "20261123-101459-aaaaaa"]
    for run_id in (ids[2], ids[0], ids[1]):
        registry.publish(f"runs/{run_id}", Manifest.make([], message=run_id))
    registry.publish(f"runs/{ids[0]}", Manifest.make([], message="its end"))
    runs = RunStore(registry)
    assert [runs.find(text) for text in ("latest", "@{-1}", "@{-2}", "@{-3}")] == [ids[1], ids[1], ids[0], ids[2]]
