"""Resume through the command line: what goes on, what is refused, what is kept."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reprokit.cli.text.record import run_text
from reprokit.errors import RefusedError, UserCodeError
from reprokit.execution.resume import _check_resumable, resume
from reprokit.execution.run import raise_for_status
from reprokit.schema.machine import Machine, Numeric
from reprokit.schema.record import CheckpointEntry, Record
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
def loop(tmp_path: Path, small: Path) -> Project:
    return Project(tmp_path, small)


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


_VARIABLES = """\
lr, losses, drawn, seen = 8.0, [], np.random.default_rng(1), iter(range(100))
class Stopper:
    left = 3
stopper = Stopper()
def learn():
    global done
    done += 1
done = 0
ckpt = Checkpoint()
ckpt.state["mine"] = 0
"""
_MOVES = """\
    lr, told, ckpt.state["mine"] = lr / 2, epoch, ckpt.state["mine"] + 1
    losses.append(float(drawn.random()) + next(seen))
    stopper.left = epoch
    learn()
    DIE
"""


def test_what_the_script_kept_in_variables_of_its_own_is_named_when_it_is_resumed(loop: Project) -> None:
    hook = _MOVES.replace("DIE", _die_once(loop, "os.kill(os.getpid(), signal.SIGKILL)")).strip()
    _write(loop, hook)
    script = (loop.root / "loop.py").read_text().replace("ckpt = Checkpoint()\n", _VARIABLES)
    loop.write("loop.py", script)
    loop.commit()
    loop.reprokit("run", "loop.yaml", expect=130)
    after = loop.json("resume", "latest")
    (attempt,) = after["attempts"]
    assert attempt["lost"] == ["done", "drawn", "losses", "lr", "seen", "stopper.left"]
    assert after["warnings"] == [
        "Resumed at epoch 2, but variables of the script began anew that had moved before: `done`, `drawn`, `losses`, "
        "`lr`, `seen`, `stopper.left`. No checkpoint holds them; put what training depends on into ckpt.state."
    ]
    assert "without done, drawn, losses, lr, seen, stopper.left of its script" in loop.reprokit("show", "latest").stdout
    whole = loop.json("run", "loop.yaml")
    assert [one["state_digest"] for one in whole["checkpoints"]] == [
        one["state_digest"] for one in after["checkpoints"]
    ]


def test_what_a_killed_attempt_had_lost_and_read_is_in_the_record_of_the_run(loop: Project) -> None:
    secret, often = loop.base / "early.txt", loop.base / "often.txt"
    secret.write_text("1")
    often.write_text("1")
    kill = (
        "lr = lr / 2\n"
        f"    if epoch == 0: open({str(secret)!r}).read()\n"
        f"    open({str(often)!r}).read()\n"
        f"    if epoch in (2, 3) and not os.path.exists(died := {str(loop.base)!r} + f'/died{{epoch}}'):\n"
        "        open(died, 'w').close()\n"
        "        time.sleep(0.3)\n"
        "        os.kill(os.getppid(), signal.SIGKILL)\n"
        "        time.sleep(60)"
    )
    _write(loop, kill)
    loop.write(
        "loop.py",
        (loop.root / "loop.py").read_text().replace("ckpt = Checkpoint()\n", "lr, ckpt = 8.0, Checkpoint()\n"),
    )
    loop.commit()
    loop.reprokit("run", "loop.yaml", expect=-9)
    first = loop.json("show", "latest")
    assert {file["path"]: file["size"] for file in first["undeclared"]} == {str(secret): 1, str(often): 1}
    often.write_text("22")
    loop.reprokit("resume", "latest", expect=-9)
    killed = loop.json("show", "latest")
    assert killed["status"] == "interrupted" and killed["attempts"][0]["lost"] == ["lr"]
    assert any(
        "but variables of the script began anew that had moved before: `lr`" in one for one in killed["warnings"]
    )
    done = loop.json("resume", "latest")
    assert done["status"] == "finished"
    assert [attempt["lost"] for attempt in done["attempts"]] == [["lr"], ["lr"]]
    read = {file["path"]: file["digest"] for file in done["undeclared"]}
    assert read.keys() == {str(secret), str(often)} and read[str(secret)] and read[str(often)] is None
    text = loop.reprokit("show", "latest").stdout
    assert text.count("without lr of its script") == 2


def test_nothing_is_said_of_variables_that_come_back(loop: Project) -> None:
    _write(
        loop,
        "total = total + 1; " + _die_once(loop, "os.kill(os.getpid(), signal.SIGKILL)").replace("    if", "    if"),
    )
    script = (loop.root / "loop.py").read_text()
    script = script.replace("for epoch in ckpt", "total, fixed, names = 0, 3, ['a']\nfor epoch in ckpt")
    script = script.replace(
        "    w += epoch", "    total = ckpt.state.get('total', 0)\n    w += epoch + fixed + len(names)"
    )
    loop.write("loop.py", script.replace("    ckpt.save(", "    ckpt.state['total'] = total\n    ckpt.save("))
    loop.commit()
    loop.reprokit("run", "loop.yaml", expect=130)
    after = loop.json("resume", "latest")
    assert (after["attempts"][0]["lost"], after["warnings"]) == ([], [])


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
    assert after["attempts"][0]["resumed_from"] == "initial state"
    assert len(after["checkpoints"]) == 4


def test_what_cannot_be_resumed_is_refused_by_name(loop: Project) -> None:
    _write(loop, "pass")
    record = loop.json("run", "loop.yaml")
    done = loop.reprokit("resume", "latest", expect=3)
    assert f"Run {record['run_id']} has finished: there is nothing left to resume." in done.stderr
    assert "data: {base: {run: RUN@last, path: base}}" in done.stderr
    _write(loop, "raise ValueError")
    loop.reprokit("run", "loop.yaml", expect=6)
    script = loop.base / "loose.py"
    script.write_text("import reprokit, numpy, os\nreprokit.save_checkpoint({'w': numpy.ones(2)}).result()\n")
    subprocess.run([loop.python, str(script)], env=loop.environment(), check=True)
    time.sleep(1)
    done = loop.reprokit("resume", "@{-1}", expect=3)
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
    assert [(entry["epoch"], entry["kind"]) for entry in record["checkpoints"]] == [(1, "signal")]
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
    assert [(entry["epoch"], entry["kind"]) for entry in record["checkpoints"]] == [
        (0, "checkpoint"), (1, "checkpoint"), (2, "exception"),
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
    loop.python = sys.executable
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
    assert entry["kind"] == "signal"
    assert entry["batch"] >= 4


def test_a_run_that_goes_on_where_numbers_may_differ_says_so() -> None:
    from reprokit.execution.execute import _other_numbers

    one = Machine(numeric=Numeric(machine="x86_64", cpu="A", isa=["avx2", "fma"]))
    other = Machine(numeric=Numeric(machine="x86_64", cpu="B", isa=["avx2"]))
    assert _other_numbers(one, one) == []
    assert _other_numbers(one, other) == [
        "This machine is not the one that the run began on (cpu A → B; instructions fma): "
        "its bits may differ from here on."
    ]


def _record(*saves: CheckpointEntry, initial: CheckpointEntry | None = None, status: Any = "failed") -> Record:
    return Record(
        run_id="20260102-030405-abcdef", name="n", status=status, lock_hash="1" * 64, code=None, environment=None,
        started="a", checkpoints=list(saves), initial=initial,
    )  # fmt: skip


def _entry(epoch: int | None, *why: str, **facts: Any) -> CheckpointEntry:
    return CheckpointEntry(
        package="t/m", top_hash="a" * 64, state_digest="b", epoch=epoch, step=epoch, unresumable=list(why), **facts
    )


def test_what_cannot_be_resumed_is_a_row_and_resume_is_neither_advised_nor_begun() -> None:
    why = "the loader has a position of its own; use another"
    initial = _entry(None, kind="initial")
    stuck = _record(_entry(0, why), _entry(1, why, "more"), initial=initial)
    shown = run_text(stuck)
    assert f"no resume    from epoch 0 … epoch 1 (2 checkpoints): {why}\n" in shown
    assert "no resume    from epoch 1: more\n" in shown
    with pytest.raises(UserCodeError) as failed:
        raise_for_status(stuck)
    assert f"It cannot be resumed from its last checkpoint: {why}; more." in str(
        failed.value
    ) and "`reprokit resume" not in str(failed.value)
    with pytest.raises(RefusedError) as refused:
        _check_resumable(stuck, stuck.last)
    assert refused.value.message == (
        f"Run {stuck.run_id} cannot be resumed from epoch 1, step 1 with the same bits: {why}; more."
    )
    assert "start it anew with `reprokit run`" in str(refused.value.hint)
    with pytest.raises(UserCodeError, match=r"`reprokit resume .*` goes on from its last checkpoint"):
        raise_for_status(_record(_entry(0, why), _entry(1)))


def test_those_that_a_run_can_be_resumed_from_are_named() -> None:
    inside = _record(_entry(0), _entry(1, "inside", batch=3), _entry(2, kind="exception"))
    assert inside.last == inside.checkpoints[1]
    with pytest.raises(RefusedError) as refused:
        _check_resumable(inside, inside.checkpoints[1])
    assert refused.value.hint == f"It can be resumed from {inside.run_id}@epoch=0."
    _check_resumable(inside, None)
    nothing = _record(initial=_entry(None, "never", kind="initial"))
    assert nothing.last == nothing.initial and _record().last is None


def test_what_a_callback_says_of_a_checkpoint_reaches_the_record(loop: Project) -> None:
    _write(loop, "raise ValueError")
    text = (loop.root / "loop.py").read_text()
    said = "        snapshot.unresumable.append('one')\n        snapshot.state['refused'] = ['two']\n"
    loop.write("loop.py", text.replace("_capture(self, snapshot):\n", f"_capture(self, snapshot):\n{said}"))
    loop.commit()
    ended = loop.reprokit("run", "loop.yaml", expect=6)
    assert "no resume    from initial state: one" in ended.stdout + ended.stderr and "resume latest" not in ended.stderr
    assert "from initial state with the same bits: one; two." in loop.reprokit("resume", "latest", expect=3).stderr


def test_a_repetition_that_was_killed_goes_on_as_one_and_its_verdict_says_so(loop: Project) -> None:
    _write(loop, _die_once(loop, "os.kill(os.getpid(), signal.SIGKILL)"))
    recipe = loop.root / "loop.yaml"
    recipe.write_text(recipe.read_text().replace("outputs: [history.txt]\n", ""))
    loop.commit()
    (loop.base / "died").touch()
    first = loop.json("run", "loop.yaml")["run_id"]
    (loop.base / "died").unlink()
    stopped = loop.reprokit("reproduce", first, "--until", "epoch=2", expect=8)
    assert stopped.stdout.rstrip().endswith("nothing comparable, or the rerun did not finish")
    repetition = loop.json("show", "latest")
    assert (repetition["status"], repetition["terms"]["until"]) == ("interrupted", 2)
    assert f"`reprokit resume {repetition['run_id']}` goes on with it" in stopped.stderr
    with pytest.raises(RefusedError, match="and its end is a verdict"):
        resume(repetition["run_id"], registry=str(loop.registry))
    done = loop.reprokit("resume", repetition["run_id"]).stdout
    assert "resumed      The repetition was resumed at epoch 2, from epoch 1, step 0, on 20" in done
    assert done.splitlines()[-1].split(":")[0].split() == ["verdict", "EQUAL,", "RELAXED"]
    record = loop.json("show", "latest")
    assert [entry["epoch"] for entry in record["checkpoints"]] == [0, 1, 2]
    assert (record["reproduces"], record["relaxed"]) == (first, ["until epoch=2"])
    assert f"{repetition['run_id']}  EQUAL-RELAXED" in loop.reprokit("show", first).stdout
