"""An input is pinned down to its bytes and laid out as they are; what cannot be one is refused by name."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprokit.errors import DataMismatchError, Error, NotFoundError, RefusedError
from reprokit.execution.inputs import lay_data
from reprokit.locking.inputs import part_of, pin_input
from reprokit.packages.build import build
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from reprokit.schema.lock import DataPin
from reprokit.schema.recipe import DataInput, from_plain
from reprokit.schema.record import CheckpointEntry
from tests.conftest import Project, context_of, put_run

RUN, OTHER = "20260102-030405-0000aa", "20260102-030406-0000bb"
FILES = {"features/x.txt": b"x\n", "features/deep/y.txt": b"y\n", "stats.json": b"{}\n"}

USER = """\
import pathlib, reprokit, numpy as np
assert pathlib.Path("in/loss.json").read_text().startswith('{"loss"'), "the output lies at its path"
assert sorted(p.name for p in pathlib.Path("base").iterdir()) == ["model", "model.safetensors.index.json", "state.json"]
reprokit.save_checkpoint({"w": np.frombuffer(open("in/loss.json", "rb").read(), dtype="u1")}, epoch=0)
"""
USER_RECIPE = """\
name: user
code: {entrypoint: user.py}
data:
  loss: {run: latest, output: metrics.json, path: in/loss.json}
  base: {run: latest@best, path: base}
execution: {threads: 1, inputs: deny, layout: LAYOUT}
checkpoints: {package: t/user}
"""


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def pin(registry: LocalRegistry, run: str, output: str | None = None) -> DataPin:
    return pin_input("in", DataInput(path="in", run=run, output=output), registry=registry, runs=RunStore(registry))


def refused(registry: LocalRegistry, run: str, output: str | None = None) -> Error:
    with pytest.raises(Error) as caught:
        pin(registry, run, output)
    return caught.value


class TestOutputs:
    @pytest.mark.parametrize(
        ("output", "within", "names"),
        [
            ("features/", "outputs/features", ["deep/y.txt", "x.txt"]),
            ("./features/deep", "outputs/features/deep", ["y.txt"]),
            (".", "outputs", ["features/deep/y.txt", "features/x.txt", "stats.json"]),
        ],
    )
    def test_a_folder_lies_at_its_path_and_has_the_hash_that_a_package_of_it_would(
        self, registry: LocalRegistry, tmp_path: Path, output: str, within: str, names: list[str]
    ) -> None:
        put_run(registry, RUN, outputs=FILES)
        made = pin(registry, RUN[-6:], output)
        assert (made.package, made.run, made.within) == (f"runs/{RUN}", RUN, within)
        facts, _ = lay_data(
            [made],
            tmp_path / "w",
            context=context_of(tmp_path, registry),
            layout="symlink",
        )
        assert (facts[0].entries, facts[0].within, facts[0].run) == (len(names), within, RUN)
        place = (tmp_path / "w" / "in").resolve()
        found = {file.relative_to(place).as_posix(): file.read_bytes() for file in place.rglob("*") if file.is_file()}
        assert sorted(found) == names
        assert made.identity == build(found, "t/same", registry=registry).top_hash

    @pytest.mark.parametrize("layout", ["symlink", "copy"])
    def test_a_file_lies_at_the_path_itself(self, registry: LocalRegistry, tmp_path: Path, layout: Any) -> None:
        put_run(registry, RUN, outputs=FILES)
        made = pin(registry, "latest", "features/x.txt")
        lay_data(
            [made],
            tmp_path / "w",
            context=context_of(tmp_path, registry),
            layout=layout,
        )
        assert (tmp_path / "w" / "in").read_bytes() == b"x\n"
        assert (tmp_path / "w" / "in").is_symlink() == (layout == "symlink")
        assert made.identity == registry.read_manifest(made.top_hash)["outputs/features/x.txt"].digest.hex

    def test_the_content_is_the_identity_and_not_the_run(self, registry: LocalRegistry) -> None:
        put_run(registry, RUN, outputs=FILES)
        put_run(registry, OTHER, outputs=FILES | {"stats.json": b"[]\n"})
        one, two = pin(registry, RUN, "features"), pin(registry, OTHER, "features")
        assert one.top_hash != two.top_hash
        assert one.identity == two.identity
        assert pin(registry, RUN, "stats.json").identity != pin(registry, OTHER, "stats.json").identity

    @pytest.mark.parametrize(("status", "said"), [("failed", "failed"), ("interrupted", "was interrupted")])
    def test_those_of_a_run_that_did_not_finish_are_refused(
        self, registry: LocalRegistry, status: str, said: str
    ) -> None:
        put_run(registry, RUN, outputs=FILES, status=status)
        error = refused(registry, RUN, "features")
        assert isinstance(error, RefusedError)
        assert error.message == f"data.in: run {RUN} {said}, so its outputs may not be whole."

    def test_those_that_are_not_there_are_named_beside_those_that_are(self, registry: LocalRegistry) -> None:
        put_run(registry, RUN, outputs=FILES, missing=("plots",))
        error = refused(registry, RUN, "feature")
        assert isinstance(error, NotFoundError)
        assert error.message == f"data.in: run {RUN} has no output 'feature'."
        assert error.hint == "It has: features/, stats.json. Outputs are what its recipe declares under `outputs:`."
        error = refused(registry, RUN, "plots/")
        assert error.message == f"data.in: run {RUN} has no output 'plots': it was declared, and not written."

    def test_a_part_of_a_name_is_no_output(self, registry: LocalRegistry) -> None:
        put_run(registry, RUN, outputs={"features2/x": b""})
        assert refused(registry, RUN, "features").message.endswith("has no output 'features'.")


class TestCheckpoints:
    def test_what_was_typed_becomes_the_run_and_the_checkpoint(self, registry: LocalRegistry) -> None:
        checkpoints = [checkpoint(registry, epoch, loss=loss) for epoch, loss in enumerate((0.5, 0.1, 0.3))]
        put_run(registry, RUN, checkpoints=checkpoints)
        for typed, epoch in [
            ("latest@best:loss", 1), (f"{RUN}@epoch=0", 0), ("0000aa@last", 2), ("latest", 2), ("@{-1}@step=20", 2),
        ]:  # fmt: skip
            made = pin(registry, typed)
            assert (made.run, made.top_hash) == (f"{RUN}@epoch={epoch}", checkpoints[epoch].top_hash), typed
            assert (made.package, made.within) == ("t/model", None)

    def test_two_of_one_epoch_are_told_apart_by_their_step(self, registry: LocalRegistry) -> None:
        checkpoints = [checkpoint(registry, 0, step=10), checkpoint(registry, 0, step=20)]
        put_run(registry, RUN, checkpoints=checkpoints)
        assert pin(registry, "latest@step=10").run == f"{RUN}@step=10"
        assert pin(registry, "latest@epoch=0").top_hash == checkpoints[1].top_hash

    def test_the_initial_state_can_be_one(self, registry: LocalRegistry) -> None:
        put_run(registry, RUN, initial=checkpoint(registry, None))
        assert pin(registry, f"{RUN}@initial").run == f"{RUN}@initial"

    def test_one_of_a_run_that_failed_can_be_one(self, registry: LocalRegistry) -> None:
        put_run(registry, RUN, status="failed", checkpoints=[checkpoint(registry, 0)])
        assert pin(registry, "latest@last").run == f"{RUN}@epoch=0"

    def test_one_that_was_deleted_is_refused_by_name(self, registry: LocalRegistry) -> None:
        gone = checkpoint(registry, 0)
        put_run(registry, RUN, checkpoints=[gone, checkpoint(registry, 1)])
        registry.delete("t/model", gone.top_hash)
        error = refused(registry, f"{RUN}@epoch=0")
        assert isinstance(error, NotFoundError)
        assert error.message == (
            f"data.in: checkpoint {RUN}@epoch=0 was t/model@{gone.top_hash[:8]}, "
            f"which is not in {registry.url} any more."
        )
        assert pin(registry, "latest@epoch=1").run == f"{RUN}@epoch=1"

    def test_a_run_without_any_says_which_outputs_it_has(self, registry: LocalRegistry) -> None:
        put_run(registry, RUN, outputs=FILES)
        error = refused(registry, RUN)
        assert error.message == f"data.in: Run {RUN} has no checkpoint 'last'."
        assert error.hint == "For an output, write `output:` and one of: features/, stats.json."


def checkpoint(
    registry: LocalRegistry, epoch: int | None, *, step: int | None = None, **metrics: float
) -> CheckpointEntry:
    step = step or (epoch and epoch * 10)
    facts = {"reprokit": {"run": RUN, "epoch": epoch, "step": step}}
    made = build({"model.bin": f"{epoch} {step}".encode()}, "t/model", registry=registry, meta=facts)
    return CheckpointEntry(
        package="t/model", top_hash=made.top_hash, state_digest="d", epoch=epoch, step=step, metrics=metrics
    )


class TestEntries:
    @pytest.fixture
    def package(self, registry: LocalRegistry) -> str:
        return build({"a/x.txt": b"x\n", "a/y.txt": b"y", "b.txt": b"b"}, "t/p", registry=registry).top_hash

    @pytest.mark.parametrize(("entry", "there"), [("b.txt", b"b"), ("a", {"x.txt": b"x\n", "y.txt": b"y"})])
    def test_a_file_or_folder_of_a_package_lies_at_the_path(
        self, registry: LocalRegistry, package: str, tmp_path: Path, entry: str, there: Any
    ) -> None:
        made = pin_input(
            "in", DataInput(path="in", package="t/p", entry=entry), registry=registry, runs=RunStore(registry)
        )
        assert (made.top_hash, made.within, made.run) == (package, entry, None)
        lay_data([made], tmp_path / "w", context=context_of(tmp_path, registry), layout="copy")
        place = tmp_path / "w" / "in"
        found = place.read_bytes() if place.is_file() else {one.name: one.read_bytes() for one in place.iterdir()}
        assert found == there

    def test_what_else_the_package_holds_does_not_count(self, registry: LocalRegistry, package: str) -> None:
        item = DataInput(path="in", package="t/p", entry="b.txt")
        before = pin_input("in", item, registry=registry, runs=RunStore(registry))
        build({"a/x.txt": b"other", "b.txt": b"b"}, "t/p", registry=registry)
        after = pin_input("in", item, registry=registry, runs=RunStore(registry))
        assert after.top_hash != package
        assert after.identity == before.identity

    def test_one_that_is_not_there_is_named(self, registry: LocalRegistry, package: str) -> None:
        with pytest.raises(NotFoundError) as caught:
            item = DataInput(path="in", package="t/p", entry="c.txt")
            pin_input("in", item, registry=registry, runs=RunStore(registry))
        assert caught.value.message == f"data.in: t/p@{package[:8]} has nothing at 'c.txt'."

    @pytest.mark.parametrize(
        ("told", "message"),
        [
            ({"run": "latest", "entry": "a"}, "data.in.entry: only a package has entries, and latest is a run."),
            ({"package": "t/p", "entry": "../a"}, "data.in.entry"),
        ],
    )
    def test_a_recipe_that_asks_for_one_in_vain_is_refused(self, told: dict[str, str], message: str) -> None:
        plain = {"name": "t", "code": {"entrypoint": "a.py"}, "data": {"in": {"path": "in", **told}}}
        with pytest.raises(Error) as caught:
            from_plain(plain)
        assert caught.value.message.startswith(f"recipe: {message}")


def test_a_lock_that_was_edited_is_found_out(registry: LocalRegistry) -> None:
    put_run(registry, RUN, outputs=FILES)
    made = pin(registry, RUN, "features")
    manifest = registry.read_manifest(made.top_hash)
    assert part_of(made, manifest).content == made.content
    for change in ({"within": "outputs"}, {"content": "0" * 64}):
        with pytest.raises(DataMismatchError, match="is not what the lock says"):
            part_of(msgspec.structs.replace(made, **change), manifest)


def test_an_input_that_gc_took_is_named(registry: LocalRegistry, tmp_path: Path) -> None:
    put_run(registry, RUN, outputs=FILES)
    made = msgspec.structs.replace(pin(registry, RUN, "features"), top_hash="0" * 64)
    with pytest.raises(NotFoundError, match=r"^Input 'in': "):
        lay_data(
            [made],
            tmp_path / "w",
            context=context_of(tmp_path, registry),
            layout="symlink",
        )


def test_what_a_run_makes_is_no_input_before_its_end(project: Project) -> None:
    project.hook("time.sleep(60)")
    running = subprocess.Popen(
        project.command("run", "recipe.yaml", "-q"), cwd=project.root, env=project.environment(), text=True
    )
    try:
        runs = RunStore(LocalRegistry(project.registry))
        deadline = time.monotonic() + 60
        saved = False
        while not saved:
            assert time.monotonic() < deadline
            time.sleep(0.05)
            with contextlib.suppress(NotFoundError):  # it has an ID before it has a record
                saved = bool(runs.load("latest").record.checkpoints)
        run = runs.find("latest")
        for output in (None, "metrics.json"):
            error = refused(LocalRegistry(project.registry), "latest", output)
            assert isinstance(error, RefusedError)
            assert error.message == f"data.in: run {run} is still running: what it makes is not known yet."
    finally:
        running.terminate()
        running.wait(30)


@pytest.mark.parametrize("layout", ["bind", "copy"])
def test_a_run_builds_on_what_another_made(project: Project, layout: str) -> None:
    made = project.json("run", "recipe.yaml")
    user(project, layout)
    record = project.json("run", "user.yaml")
    best = min(made["checkpoints"], key=lambda entry: entry["metrics"]["loss"])
    assert [(item["run"], item["within"]) for item in record["data"]] == [
        (made["run_id"], "outputs/metrics.json"), (f"{made['run_id']}@epoch={best['epoch']}", None),
    ]  # fmt: skip
    assert [text for text in record["warnings"] if "since it was installed" not in text] == []  # of packages here
    assert f"{made['run_id'][:8]}" in project.reprokit("show", record["run_id"]).stdout
    assert project.json("reproduce", "latest", home="other", cwd=project.base)["verdict"] == "BITWISE"


def test_equal_bits_of_a_reproduction_are_the_same_declared_experiment(project: Project) -> None:
    made = project.json("run", "recipe.yaml")
    user(project)
    record = project.json("run", "user.yaml")
    project.reprokit("rm", record["run_id"])  # so that `latest` is the one before again
    lock = project.json("run", "user.yaml", "--dry-run")
    assert lock["lock_hash"] == record["lock_hash"]
    repeated = project.json("reproduce", made["run_id"])["run_id"]
    again = project.json("run", "user.yaml", "--dry-run")
    assert again["data"]["loss"].startswith(f"runs/{repeated}@")
    assert again["data"] != lock["data"]
    assert again["lock_hash"] == lock["lock_hash"]
    project.json("reproduce", made["run_id"], "--with", "param.rate=0.2", expect=7)
    assert project.json("run", "user.yaml", "--dry-run")["lock_hash"] != lock["lock_hash"]


def test_a_lock_file_keeps_what_latest_was(project: Project) -> None:
    made = project.json("run", "recipe.yaml")
    user(project)
    assert f"data.loss  runs/{made['run_id']}@" in project.reprokit("lock", "user.yaml").stdout
    project.commit()
    project.json("run", "recipe.yaml", "-p", "epochs=0")  # the latest now, without a checkpoint that could be pinned
    assert project.json("run", "user.yaml", "--dry-run")["data"]["loss"].startswith(f"runs/{made['run_id']}@")


def test_with_takes_what_another_run_made(project: Project) -> None:
    made = project.json("run", "recipe.yaml")
    user(project)
    record = project.json("run", "user.yaml")
    repeated = project.json("reproduce", made["run_id"])["run_id"]
    same = project.json("reproduce", record["run_id"], "--with", f"data.loss={repeated}")
    assert (same["verdict"], same["causes"]) == ("EQUAL-RELAXED", [])
    assert project.json("show", same["run_id"])["lock_hash"] == record["lock_hash"]
    other = project.json("run", "recipe.yaml", "-p", "rate=0.2")["run_id"]
    changed = project.json("reproduce", record["run_id"], "--with", f"data.loss={other}", expect=7)
    (cause,) = changed["causes"]
    assert cause.startswith(f"data.loss: runs/{made['run_id']}@")
    assert f":outputs/metrics.json → runs/{other}@" in cause
    assert cause.endswith(":outputs/metrics.json: metrics.json changed")
    moved = project.json("reproduce", record["run_id"], "--with", f"data.base={made['run_id']}@epoch=0")
    assert (moved["verdict"], moved["causes"]) == ("EQUAL-RELAXED", [])
    assert project.json("diff", record["run_id"], moved["run_id"])["relaxed"][0].startswith("data.base: t/model@")


def user(project: Project, layout: str = "bind") -> None:
    project.write("user.py", USER)
    project.write("user.yaml", USER_RECIPE.replace("LAYOUT", layout))
    project.commit()
