"""Resume through the command line: what goes on, what is refused, what is kept."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import Project

_LOOP = """\
import os, signal, sys, time
import numpy as np
import reprokit
from reprokit.client.loop import Loop

class Checkpoint(Loop):
    def _capture(self, snapshot):
        snapshot.add_array("model", "w", w)
    def _restore(self, restored):
        from reprokit.client.tensors import as_array
        w[:] = as_array(restored.section("model")["w"])

p = reprokit.params(epochs=4, die=-1, marker="")
w = np.zeros(1000)
ckpt = Checkpoint()
for epoch in ckpt.epochs(p["epochs"]):
    w += epoch + 1
    ckpt.state["history"] = ckpt.state.get("history", []) + [epoch]
    with open("history.txt", "a") as file:
        file.write(f"{epoch}\\n")
    print("epoch", epoch, flush=True)
    HOOK
    ckpt.save(loss=float(10 - epoch), up=float(epoch))
print("history", ckpt.state["history"])
"""


@pytest.fixture
def loop(tmp_path: Path) -> Project:
    return Project(tmp_path)


def _write(project: Project, hook: str, checkpoints: str = "{package: l/m}") -> None:
    project.write("loop.py", _LOOP.replace("HOOK", hook))
    project.write(
        "loop.yaml",
        "name: loop\ncode: {entrypoint: loop.py}\nparams: {epochs: 4}\nexecution: {threads: 1}\n"
        f"checkpoints: {checkpoints}\noutputs: [history.txt]\n",
    )
    project.commit()


_DIE_ONCE = """\
marker = os.path.join(os.environ["TRIAL"], "died")
    if epoch == 2 and not os.path.exists(marker):
        open(marker, "w").close()
        ACT"""


def _die_once(project: Project, act: str) -> str:
    return _DIE_ONCE.replace('os.environ["TRIAL"]', repr(str(project.base))).replace("ACT", act)


def test_a_resumed_run_keeps_id_log_metrics_and_outputs_of_its_first_attempt(loop: Project) -> None:
    _write(loop, _die_once(loop, "os.kill(os.getpid(), signal.SIGKILL)"))
    loop.reprokit("run", "loop.yaml", expect=130)
    before = loop.json("show", "latest")
    after = loop.json("resume", "latest")
    assert after["run_id"] == before["run_id"]
    assert (after["status"], after["started"]) == ("finished", before["started"])
    assert [entry["epoch"] for entry in after["checkpoints"]] == [0, 1, 2, 3]
    assert after["checkpoints"][:2] == before["checkpoints"]
    (attempt,) = after["attempts"]
    assert (attempt["status"], attempt["resumed_from"]) == ("interrupted", "epoch 1, step 0")
    log = loop.reprokit("logs", "latest").stdout
    assert [line.split()[-2:] for line in log.splitlines() if "epoch" in line] == [
        ["epoch", "0"], ["epoch", "1"], ["epoch", "2"], ["epoch", "2"], ["epoch", "3"],
    ]  # fmt: skip
    assert "history [0, 1, 2, 3]" in log
    (output,) = after["outputs"]
    assert output["size"] == len("0\n1\n2\n2\n3\n"), "the file goes on from where the script left it"


def test_a_run_that_failed_goes_on_from_a_checkpoint_that_is_named(loop: Project) -> None:
    _write(loop, _die_once(loop, "raise ValueError('once')"))
    loop.reprokit("run", "loop.yaml", expect=6)
    after = loop.json("resume", "latest@epoch=0")
    assert after["attempts"][0]["resumed_from"] == "epoch 0, step 0"
    assert [entry["epoch"] for entry in after["checkpoints"]] == [0, 1, 2, 3]


def test_a_run_killed_before_its_first_checkpoint_starts_from_its_initial_state(loop: Project) -> None:
    _write(loop, _die_once(loop, "os.kill(os.getpid(), signal.SIGKILL)").replace("epoch == 2", "epoch == 0"))
    loop.reprokit("run", "loop.yaml", expect=130)
    after = loop.json("resume", "latest")
    assert after["attempts"][0]["resumed_from"] == "its initial state"
    assert len(after["checkpoints"]) == 4


def test_what_cannot_be_resumed_is_refused_by_name(loop: Project) -> None:
    _write(loop, "pass")
    record = loop.json("run", "loop.yaml")
    done = loop.reprokit("resume", "latest", expect=3)
    assert f"Run {record['run_id']} has finished: there is nothing left to resume." in done.stderr
    assert "data: {base: {run: RUN@last, path: base}}" in done.stderr
    _write(loop, "raise ValueError")
    loop.reprokit("run", "loop.yaml", expect=6)
    failed = loop.json("show", "latest")
    loop.reprokit("reproduce", "latest", expect=8)
    done = loop.reprokit("resume", "latest", expect=3)
    assert f"repeats run {failed['run_id']}; an interrupted repetition proves nothing." in done.stderr
    script = loop.base / "loose.py"
    script.write_text("import reprokit, numpy, os\nreprokit.save_checkpoint({'w': numpy.ones(2)}).result()\n")
    subprocess.run([loop.python, str(script)], env=loop.environment(), check=True)
    time.sleep(1)
    done = loop.reprokit("resume", "latest", expect=3)
    assert "finished" in done.stderr or "no lock" in done.stderr


def test_a_run_that_goes_on_is_not_resumed(loop: Project) -> None:
    _write(loop, "time.sleep(60)")
    process = subprocess.Popen(loop.command("run", "loop.yaml"), cwd=loop.root, env=loop.environment())
    try:
        while not any(line.startswith("20") for line in loop.reprokit("ls").stdout.splitlines()):
            time.sleep(0.1)
        assert "is still running" in loop.reprokit("resume", "latest", expect=3).stderr
    finally:
        process.terminate()
        process.wait(30)


def test_sigterm_saves_at_the_next_boundary_and_leaves(loop: Project) -> None:
    _write(loop, "time.sleep(0.6)", "{package: l/m, every: 10 epochs}")
    process = subprocess.Popen(
        loop.command("run", "loop.yaml"), cwd=loop.root, env=loop.environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1"):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    record = loop.json("show", "latest")
    assert record["status"] == "interrupted"
    assert [(entry["epoch"], entry["reason"]) for entry in record["checkpoints"]] == [(1, "signal")]
    after = loop.json("resume", "latest")
    assert [entry["epoch"] for entry in after["checkpoints"]] == [1, 3]
    assert loop.json("reproduce", "latest")["verdict"] == "BITWISE", "what a signal saved is not missed"


def test_keep_drops_all_but_the_last_and_the_best(loop: Project) -> None:
    _write(loop, "pass", "{package: l/m, keep: 1, best: {up: min}}")
    record = loop.json("run", "loop.yaml")
    assert [entry["dropped"] for entry in record["checkpoints"]] == [False, True, True, False]
    done = loop.reprokit("checkpoint", "get", "latest@epoch=1", expect=10)
    assert "was dropped, as `checkpoints.keep` says.\nThose that are left: epoch=0, epoch=3." in done.stderr
    assert loop.json("checkpoint", "get", "latest@epoch=0", str(loop.base / "got"))
    assert loop.json("reproduce", "latest")["verdict"] == "BITWISE", "digests are compared, not the bytes"


def test_an_exception_is_saved_apart_if_asked_for(loop: Project) -> None:
    _write(loop, _die_once(loop, "raise ValueError('once')"), "{package: l/m, on: [exception]}")
    loop.reprokit("run", "loop.yaml", expect=6)
    record = loop.json("show", "latest")
    assert [(entry["epoch"], entry["reason"]) for entry in record["checkpoints"]] == [
        (0, None), (1, None), (2, "exception"),
    ]  # fmt: skip
    assert loop.json("checkpoint", "get", "latest@exception", str(loop.base / "crash"))
    after = loop.json("resume", "latest")
    assert after["attempts"][0]["resumed_from"] == "epoch 1, step 0"


def test_a_script_that_restores_nothing_is_named(project: Project) -> None:
    project.hook("epoch == 1 and not os.path.exists('/tmp/x') and sys.exit(3)")
    project.reprokit("run", "recipe.yaml", expect=6)
    done = project.reprokit("resume", "latest", expect=6)
    record = project.json("show", "latest")
    assert any("did not restore the checkpoint" in text for text in record["warnings"]), done.stderr


def test_another_framework_cannot_restore(loop: Project) -> None:
    _write(loop, _die_once(loop, "sys.exit(3)") + "\n        raise SystemExit")
    text = (loop.root / "loop.py").read_text()
    marker = str(loop.base / "died")
    loop.write("loop.py", text.replace("class Checkpoint(Loop):", "class Checkpoint(Loop):\n"
               f"    framework = 'other' if os.path.exists({marker!r}) else 'numpy'"))  # fmt: skip
    loop.commit()
    loop.reprokit("run", "loop.yaml", expect=6)
    done = loop.reprokit("resume", "latest", expect=6)
    assert "goes on from a checkpoint of numpy, which the callback for other cannot restore" in done.stderr


_WORKERS = """\
import time, torch, reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 400
    def __getitem__(self, index):
        time.sleep(0.02)
        return torch.full((2,), float(index))

if __name__ == "__main__":
    net = torch.nn.Linear(2, 1)
    loader = torch.utils.data.DataLoader(Slow(), batch_size=4, num_workers=2, multiprocessing_context="CONTEXT")
    ckpt = PackageCheckpoint(model=net, loader=loader)
    for epoch in ckpt.epochs(1):
        for number, batch in enumerate(ckpt.batches(loader)):
            print("batch", number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_loop_with_workers_comes_to_its_next_batch_when_it_is_told_to_stop(loop: Project, context: str) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    loop.write("workers.py", _WORKERS.replace("CONTEXT", context))
    loop.write("workers.yaml", "name: w\ncode: {entrypoint: workers.py}\nexecution: {threads: 1}\n")
    loop.commit()
    process = subprocess.Popen(
        loop.command("run", "workers.yaml"), cwd=loop.root, env=loop.environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("batch 3"):
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    (entry,) = loop.json("show", "latest")["checkpoints"]
    assert entry["reason"] == "signal"
    assert entry["batch"] >= 4


def test_a_run_that_goes_on_where_numbers_may_differ_says_so() -> None:
    from reprokit.execution.execute import _other_numbers

    one = {"numeric": {"machine": "x86_64", "cpu": "A", "isa": ["avx2", "fma"]}}
    other = {"numeric": {"machine": "x86_64", "cpu": "B", "isa": ["avx2"]}}
    assert _other_numbers(one, one) == []
    assert _other_numbers(one, other) == [
        "This machine is not the one that the run began on (cpu A → B; instructions fma): "
        "its bits may differ from here on."
    ]
