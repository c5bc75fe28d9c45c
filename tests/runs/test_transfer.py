"""Copies between registries: whole, verified, cheap to repeat, and never half a version."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reprokit.core.digest import hash_bytes
from reprokit.core.progress import SILENT
from reprokit.core.refs import PackageRef
from reprokit.errors import DataMismatchError, NotFoundError, RefusedError, UsageError
from reprokit.packages.build import build
from reprokit.packages.package import Package, verify_registry
from reprokit.registry import Registry, open_registry
from reprokit.registry.local import LocalRegistry
from reprokit.registry.quilt.registry import QuiltRegistry
from reprokit.registry.quilt.writer import QuiltWriter
from reprokit.runs.store import RunStore
from reprokit.runs.transfer import copy, pull, push
from reprokit.runs.verdict_store import VerdictStore
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import DataFacts
from reprokit.schema.verdict import RunLink, Verdict, VerdictRecord
from tests.comparison.making import Save
from tests.comparison.making import made as publish_run
from tests.conftest import Project, lies_at, overwrite, put_run

MIB = 1024 * 1024


@pytest.fixture
def source(tmp_path):
    return LocalRegistry(tmp_path / "source")


@pytest.fixture
def target(tmp_path):
    return LocalRegistry(tmp_path / "target")


def files(count: int = 300) -> dict[str, bytes]:
    return {f"{number % 7}/{number:03d}": b"%d" % number for number in range(count)}


class TestPush:
    def test_a_version_arrives_whole_and_small_objects_share_a_pack(self, source, target):
        top_hash = build(
            {**files(), "large": bytes(3 * MIB), "empty": b""},
            "a/b",
            registry=source,
            message="m",
            meta={"k": 1},
            entry_meta={"0/000": {"label": "猫"}},
        ).top_hash
        (done,) = push("a/b", source=source, target=target, tags=("v1",))
        assert (done.name, done.top_hash, done.target) == ("a/b", top_hash, target.url)
        assert (done.entries, done.new_objects, done.published) == (302, 302, True)
        assert done.new_bytes == done.size == 3 * MIB + sum(map(len, files().values()))
        assert done.tags == ("latest", "v1")
        again = LocalRegistry(target.root)
        assert again.read_manifest(top_hash).header == source.read_manifest(top_hash).header
        assert verify_registry(again) == (1, [])
        assert len(again.objects.pack_names()) == 1

    @pytest.mark.parametrize("lost", ["manifest", "object"])
    def test_again_it_puts_back_what_the_target_has_lost(self, source, target, lost):
        top_hash = build({**files(5), "large": bytes(MIB)}, "a/b", registry=source).top_hash
        push("a/b", source=source, target=target)
        digest = target.read_manifest(top_hash)["large"].digest
        (target.manifest_path(top_hash) if lost == "manifest" else target.objects.loose_path(digest)).unlink()
        (done,) = push("a/b", source=source, target=LocalRegistry(target.root))
        assert (done.published, done.new_objects) == (True, 1 if lost == "object" else 0)
        assert verify_registry(LocalRegistry(target.root)) == (1, [])

    def test_again_it_copies_nothing_and_writes_nothing(self, source, target):
        build({**files(), "large": bytes(2 * MIB)}, "a/b", registry=source)
        push("a/b", source=source, target=target)
        before = sorted(target.root.rglob("*"))
        (done,) = push("a/b", source=source, target=target)
        assert (done.new_objects, done.new_bytes, done.published, done.tags) == (0, 0, False, ("latest",))
        assert sorted(target.root.rglob("*")) == before

    def test_a_version_much_like_another_copies_what_is_new(self, source, target):
        build(files(), "a/b", registry=source)
        push("a/b", source=source, target=target)
        build({**files(), "0/000": b"changed"}, "a/b", registry=source)
        (done,) = push("a/b", source=source, target=target)
        assert (done.entries, done.new_objects, done.new_bytes) == (300, 1, 7)
        assert verify_registry(target) == (2, [])

    def test_objects_of_another_package_are_used(self, source, target):
        build(files(), "x/y", registry=target)
        build(files(), "a/b", registry=source, message="same bytes")
        assert push("a/b", source=source, target=target)[0].new_objects == 0

    def test_a_package_that_is_open_is_pushed_as_it_is(self, source, target):
        old = build({"x": b"1"}, "a/b", registry=source).top_hash
        package = Package.open("a/b", registry=source)
        build({"x": b"2"}, "a/b", registry=source)
        assert push(package, source=source, target=target)[0].top_hash == old

    def test_pull_is_the_same_the_other_way(self, source, target):
        top_hash = build(files(), "a/b", registry=source).top_hash
        (done,) = pull("a/b:latest", source=source, target=target)
        assert (done.top_hash, done.new_objects) == (top_hash, 300)
        assert Package.open("a/b", registry=target)["0/007"].read() == b"7"

    def test_latest_moves_with_the_history_and_never_back(self, source, target):
        one, two, three = (build({"x": data}, "a/b", registry=source).top_hash for data in (b"1", b"2", b"3"))
        latest = PackageRef("a/b")
        push(f"a/b@{two}", source=source, target=target)
        assert target.resolve(latest) == two  # it is the only one there
        push(f"a/b@{one}", source=source, target=target)
        assert target.resolve(latest) == two
        push("a/b", source=source, target=target)
        assert target.resolve(latest) == three
        push(f"a/b@{two}", source=source, target=target)
        assert target.resolve(latest) == three
        assert target.top_hashes("a/b") == [two, one, three]
        push(f"a/b@{one}", source=source, target=target, tags=("latest",))
        assert target.resolve(latest) == one

    def test_latest_follows_a_rollback_only_to_what_is_new_there(self, source, target):
        one, two = (build({"x": data}, "a/b", registry=source).top_hash for data in (b"1", b"2"))
        push("a/b", source=source, target=target)
        source.rollback("a/b", one)
        push("a/b", source=source, target=target)
        assert target.resolve(PackageRef("a/b")) == one
        push(f"a/b@{two}", source=source, target=target)
        assert target.resolve(PackageRef("a/b")) == one

    def test_versions_that_others_pushed_stay(self, source, target):
        theirs = build({"x": b"theirs"}, "a/b", registry=target).top_hash
        mine = build({"x": b"mine"}, "a/b", registry=source).top_hash
        push("a/b", source=source, target=target)
        assert target.top_hashes("a/b") == [theirs, mine]
        assert target.resolve(PackageRef("a/b")) == mine

    def test_a_tag_in_the_reference_goes_along(self, source, target):
        top_hash = build({"x": b"1"}, "a/b", registry=source, tags=("prod",)).top_hash
        build({"x": b"2"}, "a/b", registry=source)
        push("a/b", source=source, target=target)
        (done,) = push("a/b:prod", source=source, target=target, tags=("v1",))
        assert (done.top_hash, done.tags) == (top_hash, ("prod", "v1"))
        (done,) = push("a/b", source=source, target=target, tags=("v2",))
        assert (done.published, done.tags) == (False, ("latest", "v2"))

    def test_a_permanent_tag_of_the_target_is_kept(self, source, target):
        one = build({"x": b"1"}, "a/b", registry=target).top_hash
        target.tag("a/b", one, ("v1",), permanent=True)
        build({"x": b"2"}, "a/b", registry=source)
        with pytest.raises(RefusedError) as caught:
            push("a/b", source=source, target=target, tags=("v1",))
        assert caught.value.message == (
            f"The tag 'v1' of a/b is permanent: it stays at {one[:12]}, and that version stays."
        )
        assert target.top_hashes("a/b") == [one]

    def test_what_cannot_be_is_refused_by_name(self, source, target):
        build({"x": b"1"}, "a/b", registry=source)
        with pytest.raises(UsageError) as caught:
            push("a/b", source=source, target=LocalRegistry(source.root / ".." / "source"))
        assert caught.value.message == f"{source.url} is source and target at once."
        with pytest.raises(UsageError) as caught:
            push("a/b", source=source, target=target, everything=True)
        assert caught.value.message == "a/b is no run: it names no inputs or checkpoints that could go with it."
        with pytest.raises(NotFoundError) as caught:
            push("a/c", source=source, target=target)
        assert caught.value.message == f"No package a/c in {source.url}."
        with pytest.raises(UsageError):
            push("a/b", source=source, target=target, tags=("no/tag",))
        (target.root / ".quilt").mkdir(parents=True)
        with pytest.raises(RefusedError) as caught:
            push("a/b", source=source, target=QuiltRegistry(target.root))
        assert caught.value.message == (
            f"Nothing can be stored in the Quilt registry {target.root}: reprokit only reads it."
        )

    @pytest.mark.parametrize("key", ["small", "large"])
    def test_a_corrupt_object_is_refused_and_nothing_published(self, source, target, key):
        build({"small": b"small", "large": bytes(2 * MIB)}, "a/b", registry=source)
        entry = Package.open("a/b", registry=source).manifest[key]
        overwrite(*lies_at(source, entry), b"X")
        with pytest.raises(DataMismatchError) as caught:
            push("a/b", source=LocalRegistry(source.root), target=target)
        top_hash = source.resolve(PackageRef("a/b"))
        assert caught.value.message.startswith(
            f"{key} of a/b@{top_hash[:8]} is corrupt: expected {entry.digest.hex[:12]}…, read "
        )
        assert list(target.packages()) == []

    def test_a_missing_object_is_refused_and_nothing_published(self, source, target):
        build({"large": bytes(2 * MIB)}, "a/b", registry=source)
        entry = Package.open("a/b", registry=source).manifest["large"]
        lies_at(source, entry)[0].unlink()
        with pytest.raises(NotFoundError):
            push("a/b", source=source, target=target)
        assert list(target.packages()) == []

    def test_lost_objects_come_back_with_the_next_push(self, source, target):
        build({"large": bytes(2 * MIB), "x": b"1"}, "a/b", registry=source)
        push("a/b", source=source, target=target)
        lies_at(target, Package.open("a/b", registry=target).manifest["large"])[0].unlink()
        (done,) = push("a/b", source=source, target=target)
        assert (done.new_objects, done.new_bytes) == (1, 2 * MIB)
        assert verify_registry(target) == (1, [])

    def test_an_object_that_gc_takes_meanwhile_is_copied_once_more(self, source, target, monkeypatch):
        build({"large": bytes(2 * MIB)}, "a/b", registry=source)
        real, calls = LocalRegistry.lacking, []

        def promise(self, entries):
            calls.append(1)
            return [] if len(calls) == 1 else real(self, entries)

        target.staging().__enter__()  # a registry that exists
        monkeypatch.setattr(LocalRegistry, "lacking", promise)
        push("a/b", source=source, target=target)
        assert len(calls) == 2
        assert verify_registry(target) == (1, [])

    def test_two_entries_with_one_digest_and_two_sizes_are_refused(self, source, target):
        with source.staging() as sink:
            digest, _ = sink.put_stream(io.BytesIO(bytes(2 * MIB)), 2 * MIB)
        assert digest == hash_bytes(bytes(2 * MIB))
        manifest = Manifest.make([Entry(key, 2 * MIB + n, digest, {}, ("objects/x",)) for n, key in enumerate("xy")])
        source.manifests.write(manifest, near=None)
        source.history.append("a/b", "publish", manifest.top_hash, lambda _: {"latest": manifest.top_hash})
        with pytest.raises(DataMismatchError) as caught:
            push("a/b", source=source, target=target)
        assert caught.value.message == (
            f"y of a/b@{manifest.top_hash[:8]} is corrupt: expected {digest.hex[:12]}…, "
            "read 2,097,152 bytes instead of 2,097,153."
        )
        assert list(target.packages()) == []


PUSH_AND_DIE = """
import os, signal, sys
from pathlib import Path
from reprokit.packages import copy as copying
from reprokit.runs import transfer
from reprokit.registry import open_registry
copying._PORTION = 2 * 1024 * 1024
left = int(sys.argv[4])
module, name = {"fsync": (os, "fsync"), "replace": (Path, "replace"), "link": (os, "link")}[sys.argv[3]]
real = getattr(module, name)
def die(*args, **kwargs):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(module, name, die)
transfer.push("a/b", source=open_registry(sys.argv[1]), target=open_registry(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("function", "nth"),
    [*(("fsync", nth) for nth in range(0, 20, 2)), *(("replace", nth) for nth in range(5)), ("link", 0), ("link", 1)],
)
def test_a_push_that_is_killed_leaves_nothing_wrong_and_the_next_completes(source, target, function, nth):
    old = build({"x": b"old"}, "a/b", registry=source).top_hash
    push("a/b", source=source, target=target)
    large = {f"large{number}": bytes([number]) * (2 * MIB) for number in range(3)}
    new = build({**files(50), **large}, "a/b", registry=source).top_hash
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", PUSH_AND_DIE, source.root, target.root, function, str(nth)]
    code = subprocess.run(command, env=environment, timeout=60).returncode
    assert code in (-signal.SIGKILL, 0)
    seen = LocalRegistry(target.root)
    assert seen.resolve(PackageRef("a/b")) in (old, new)
    assert verify_registry(seen)[1] == []
    assert verify_registry(LocalRegistry(source.root)) == (2, [])
    left = len([entry for entry in seen.lacking(source.read_manifest(new).entries) if entry.size == 2 * MIB])
    (done,) = push("a/b", source=source, target=seen)
    assert done.new_bytes >= left * 2 * MIB
    assert done.new_bytes < (left + 1) * 2 * MIB
    assert seen.top_hashes("a/b") == [old, new]
    assert seen.resolve(PackageRef("a/b")) == new
    assert verify_registry(seen) == (2, [])


class TestCommands:
    def test_push_and_pull_say_what_was_copied(self, project: Project, tmp_path: Path):
        top_hash = project.json("show", "t/in")["top_hash"]
        pushed = project.reprokit("push", "t/in", "../other", "--tag", "v1")
        other = tmp_path / "other"
        assert pushed.stdout == (
            f"t/in@{top_hash} → {other} (latest, v1)\n  3 entries, 6 B; 3 objects copied, 6 B new\n"
        )
        again = project.reprokit("push", "t/in", str(other))
        assert again.stdout == f"t/in@{top_hash} → {other} (latest, v1)\n  3 entries, 6 B; already there\n"
        (plain,) = project.json("pull", "t/in:v1", "--from", f"file://{other}", "--registry", str(tmp_path / "third"))
        assert plain == {
            "name": "t/in", "top_hash": top_hash, "target": str(tmp_path / "third"), "entries": 3, "size": 6,
            "new_objects": 3, "new_bytes": 6, "published": True, "tags": ["latest", "v1"],
        }  # fmt: skip

    def test_quilt_and_back(self, project: Project, tmp_path: Path):
        top_hash = project.json("show", "t/in")["top_hash"]
        quilt = tmp_path / "quilt"
        (plain,) = project.json("push", "t/in", str(quilt), "--layout", "quilt")
        assert (plain["top_hash"], plain["new_objects"]) == (top_hash, 3)
        assert project.json("push", "t/in", str(quilt))[0]["published"] is False  # the folder says what it is
        assert project.json("show", "t/in", "--registry", str(quilt))["top_hash"] == top_hash
        project.reprokit("verify", "--all", "--registry", str(quilt))
        project.reprokit("install", "t/in", str(tmp_path / "out"), "--registry", str(quilt))
        assert (tmp_path / "out" / "2.txt").read_text() == "2\n"
        pulled = project.json("pull", "t/in", "--from", str(quilt), "--registry", str(tmp_path / "third"))
        assert pulled[0]["top_hash"] == top_hash
        failed = project.reprokit("push", "t/in", str(quilt), "--layout", "reprokit", expect=2)
        assert failed.stderr == (
            f"error: {quilt} is a Quilt registry, not one of reprokit's.\nName another folder, or --layout quilt.\n"
        )
        failed = project.reprokit("push", "t/in", str(project.registry), "--layout", "quilt", expect=3)
        assert failed.stderr.startswith(f"error: {project.registry} is a registry of reprokit's; one that Quilt reads ")
        failed = project.reprokit("pull", "t/in", "--from", str(tmp_path / "third"), "--allow-outside", "/", expect=2)
        assert failed.stderr == (
            f"error: --allow-outside is for registries of Quilt's, which {tmp_path / 'third'} is not.\n"
        )

    def test_a_run_goes_with_its_inputs_and_checkpoints(self, project: Project, tmp_path: Path):
        run = project.json("run", "recipe.yaml")
        alone = project.json("push", run["run_id"], str(tmp_path / "alone"))
        assert [one["name"] for one in alone] == [f"runs/{run['run_id']}"]
        done = project.json("push", "latest", str(tmp_path / "whole"), "--all")
        names = [one["name"] for one in done]
        assert names == ["t/in", *["t/model"] * (len(names) - 2), f"runs/{run['run_id']}"]
        pinned = [one["top_hash"] for one in [*run["data"], run["initial"], *run["checkpoints"]] if one]
        assert [one["top_hash"] for one in done[:-1]] == list(dict.fromkeys(pinned))
        whole = str(tmp_path / "whole")
        assert project.json("show", run["run_id"], "--registry", whole) == run
        assert project.json("show", "t/model", "--registry", whole)["top_hash"] == run["checkpoints"][-1]["top_hash"]
        project.reprokit("verify", "--all", "--registry", whole)
        verdict = project.json("reproduce", run["run_id"], "--registry", whole)
        assert verdict["verdict"] == "BITWISE"
        assert all(not one["published"] for one in project.json("push", "latest", whole, "--all")[:-1])

    def test_a_run_goes_to_quilt_and_comes_back(self, project: Project, tmp_path: Path):
        run = project.json("run", "recipe.yaml")
        project.reprokit("push", run["run_id"], str(tmp_path / "quilt"), "--layout", "quilt", "--all")
        project.reprokit(
            "pull", run["run_id"], "--from", str(tmp_path / "quilt"), "--all", "--registry", str(tmp_path / "third")
        )
        assert project.json("show", run["run_id"], "--registry", str(tmp_path / "third")) == run
        project.reprokit("verify", "--all", "--registry", str(tmp_path / "third"))

    def test_a_run_that_is_still_running_is_refused(self, project: Project, tmp_path: Path):
        run = project.json("run", "recipe.yaml")["run_id"]
        with LocalRegistry(project.registry).claim(run):
            failed = project.reprokit("push", run, str(tmp_path / "other"), expect=3)
        assert failed.stderr == f"error: Run {run} is still running.\nWait for its end: `reprokit show` says so.\n"
        assert not (tmp_path / "other").exists()

    def test_a_checkpoint_is_named_by_its_run(self, project: Project, tmp_path: Path):
        run = project.json("run", "recipe.yaml")
        (done,) = project.json("push", f"{run['run_id']}@epoch=1", str(tmp_path / "other"))
        assert (done["name"], done["top_hash"]) == ("t/model", run["checkpoints"][1]["top_hash"])

    def test_deleted_checkpoints_are_left_out_and_named(self, project: Project, tmp_path: Path):
        run = project.json("run", "recipe.yaml")
        gone = run["checkpoints"][0]["top_hash"]
        LocalRegistry(project.registry).delete("t/model", gone)
        done = project.reprokit("push", "latest", str(tmp_path / "other"), "--all")
        assert done.stderr == f"t/model@{gone[:8]} is not in {project.registry} any more: left out.\n"
        assert gone not in done.stdout


RUN, OTHER = "20260102-030405-aaaaaa", "20260102-030406-bbbbbb"


class TestARunWithAllThatItNames:
    @pytest.fixture
    def made(self, source):
        """A run of one input, with four checkpoints of which one was deleted, and a verdict on a repetition of it."""
        pin = build({"x": b"1"}, "t/in", registry=source).top_hash
        data = [DataFacts(name="in", package="t/in", top_hash=pin, path="in")]
        run = publish_run(source, RUN, [Save(place={"kind": "initial"}), Save(), Save(), Save()], data=data)
        publish_run(source, OTHER, [Save()], reproduces=RUN)
        gone = run.record.checkpoints[1].top_hash
        source.delete("t/model", gone)
        verdict = Verdict(run_id=OTHER, reproduces=RUN, verdict="DIVERGED")
        links = {name: RunLink(run_id=one, top_hash="1" * 64, lock_hash=None) for name, one in
                 (("original", RUN), ("reproduction", OTHER))}  # fmt: skip
        VerdictStore(source).add(VerdictRecord(verdict=verdict, by="a@b", at="2026-01-02T03:04:05Z", **links))
        return run

    def test_what_it_names_goes_first_and_what_is_gone_is_left_out_and_said(self, source, target, made, monkeypatch):
        notes = []
        monkeypatch.setattr(SILENT, "note", notes.append)
        done = push(RUN, source=source, target=target, everything=True)
        record = made.record
        kept = [record.initial.top_hash, *(one.top_hash for one in record.checkpoints if one != record.checkpoints[1])]
        assert [(one.name, one.top_hash) for one in done] == [
            ("t/in", record.data[0].top_hash),
            *(("t/model", top_hash) for top_hash in kept),
            (f"runs/{OTHER}", source.top_hashes(f"runs/{OTHER}")[-1]),  # which the verdict is about
            (f"verdicts/{RUN}", source.top_hashes(f"verdicts/{RUN}")[0]),
            (f"runs/{RUN}", made.manifest.top_hash),
        ]
        gone = record.checkpoints[1].top_hash
        assert notes == [f"t/model@{gone[:8]} is not in {source.url} any more: left out."]
        assert verify_registry(target)[1] == []
        assert target.top_hashes("t/model") == kept

    def test_alone_it_takes_nothing_along(self, source, target, made):
        (done,) = push(RUN[-6:], source=source, target=target)
        assert (done.name, done.top_hash) == (f"runs/{RUN}", made.manifest.top_hash)
        assert list(target.packages()) == [f"runs/{RUN}"]

    def test_one_of_its_checkpoints_goes_by_what_names_it(self, source, target, made):
        (done,) = push(f"{RUN}@epoch=3", source=source, target=target)
        assert (done.name, done.top_hash) == ("t/model", made.record.checkpoints[2].top_hash)

    def test_an_older_record_of_it_takes_what_that_one_names(self, source, target, made):
        old = made.manifest.top_hash
        publish_run(source, RUN, fresh=False)  # another record, which names nothing
        done = push(f"runs/{RUN}@{old}", source=source, target=target, everything=True)
        assert len(done) == 1 + 3 + 1 + 1 + 1
        assert done[-1].top_hash == old
        with pytest.raises(RefusedError, match=f"has another record of run {RUN}: "):
            push(f"runs/{RUN}", source=source, target=target, everything=True)
        assert target.top_hashes(f"runs/{RUN}") == [old]

    def test_an_input_that_is_gone_stops_it_before_anything_is_copied(self, source, target, made):
        source.delete("t/in", made.record.data[0].top_hash)
        with pytest.raises(NotFoundError):
            push(RUN, source=source, target=target, everything=True)
        assert list(target.packages()) == []

    @pytest.mark.usefixtures("made")
    def test_while_it_runs_it_stays(self, source, target):
        with source.claim(RUN), pytest.raises(RefusedError, match=f"^Run {RUN} is still running"):
            push(RUN, source=source, target=target)
        with pytest.raises(
            UsageError, match=r"^t/in is no run: it names no inputs or checkpoints that could go with it"
        ):
            push("t/in", source=source, target=target, everything=True)
        assert list(target.packages()) == []


class TestTags:
    def test_a_tag_that_is_none_is_refused_before_anything_is_copied(self, source, target):
        build(files(3), "a/b", registry=source)
        with pytest.raises(UsageError):
            push("a/b", source=source, target=target, tags=("no tag",))
        assert list(target.packages()) == []
        assert not target.root.exists()

    def test_the_tag_of_a_reference_goes_along_and_quilt_has_none(self, source, target, tmp_path):
        top_hash = build(files(3), "a/b", registry=source, tags=("v1",)).top_hash
        (done,) = push("a/b:v1", source=source, target=target)
        assert done.tags == ("latest", "v1")
        quilt = QuiltWriter(tmp_path / "quilt")
        with pytest.raises(
            RefusedError, match=r"^The tag 'v2' cannot be put on a/b in .*: Quilt has no tags but 'latest'"
        ):
            push("a/b", source=source, target=quilt, tags=("latest", "v2"))
        (done,) = push("a/b:v1", source=source, target=quilt, tags=("latest",))
        assert (done.top_hash, done.published) == (top_hash, True)
        (again,) = push("a/b:latest", source=source, target=quilt)
        assert (again.published, again.new_objects) == (False, 0)

    def test_latest_goes_forward_with_the_history_of_the_source_and_never_back(self, source, target):
        hashes = [build({"x": b"%d" % number}, "a/b", registry=source).top_hash for number in range(3)]
        push(f"a/b@{hashes[1]}", source=source, target=target)
        assert target.head("a/b").tags["latest"] == hashes[1]
        push(f"a/b@{hashes[0]}", source=source, target=target)
        assert target.head("a/b").tags["latest"] == hashes[1], "it comes before"
        push(f"a/b@{hashes[2]}", source=source, target=target)
        assert target.head("a/b").tags["latest"] == hashes[2]
        push(f"a/b@{hashes[1]}", source=source, target=target)
        assert target.head("a/b").tags["latest"] == hashes[2], "it is there already"
        source.rollback("a/b", hashes[0])
        push("a/b", source=source, target=target)
        assert target.head("a/b").tags["latest"] == hashes[2]
        push(f"a/b@{hashes[0]}", source=source, target=target, tags=("latest",))
        assert target.head("a/b").tags["latest"] == hashes[0], "it was asked for"

    def test_a_history_that_the_source_does_not_know_is_left_alone(self, source, target):
        own = build({"x": b"own"}, "a/b", registry=target).top_hash
        one = build({"x": b"1"}, "a/b", registry=source).top_hash
        build({"x": b"2"}, "a/b", registry=source)
        push(f"a/b@{one}", source=source, target=target)
        assert target.head("a/b").tags["latest"] == own

    def test_what_is_there_already_adds_nothing_to_the_history(self, source, target):
        one = build({"x": b"1"}, "a/b", registry=source, tags=("v1",)).top_hash
        push("a/b", source=source, target=target, tags=("v1", "v2"))
        before = target.log("a/b")
        push("a/b", source=source, target=target, tags=("v1", "v2", "latest"))
        assert target.log("a/b") == before
        push("a/b", source=source, target=target, tags=("v1", "v3"))
        assert [entry.action for entry in target.log("a/b")] == ["publish", "tag"]
        two = build({"x": b"2"}, "a/b", registry=source).top_hash
        push("a/b", source=source, target=target)
        source.rollback("a/b", one)
        push("a/b:latest", source=source, target=target)
        assert target.head("a/b").tags["latest"] == two, "`latest` names what to copy, and moves nothing back"


RUNS = [f"2026010{day}-000000-aaaaa{day}" for day in range(1, 5)]


class TestCopy:
    @pytest.fixture
    def filled(self, source):
        versions = [
            build({**files(20), "number": b"%d" % number}, "a/b", registry=source).top_hash for number in range(3)
        ]
        source.tag("a/b", versions[0], ("first",), permanent=True)
        source.tag("a/b", versions[1], ("good",))
        build({"x": b"x"}, "c/d", registry=source)
        data = [DataFacts(name="in", package="a/b", top_hash=versions[1], path="in")]
        put_run(source, RUNS[0], metrics={"loss": 0.5}, data=data, outputs={"o": b"1"})
        again = Verdict(run_id=RUNS[1], reproduces=RUNS[0], verdict="DIVERGED")
        put_run(source, RUNS[1], metrics={"loss": 2.0}, reproduces=RUNS[0], verdicts=[again], outputs={"o": b"2"})
        put_run(source, RUNS[2], status="failed")
        link = {"top_hash": "0" * 64, "lock_hash": None}
        VerdictStore(source).add(
            VerdictRecord(
                verdict=again, original=RunLink(run_id=RUNS[0], **link), reproduction=RunLink(run_id=RUNS[1], **link),
                by="me@here", at="2026-01-09T00:00:00Z",
            )
        )  # fmt: skip
        return source

    @pytest.mark.parametrize("kind", ["folder", "store"])
    def test_a_whole_registry_arrives_with_its_histories(self, filled, target, tmp_path, kind):
        goal = target if kind == "folder" else open_registry(f"memory://{tmp_path.name}", cache=tmp_path / "cache")
        done = copy(source=filled, target=goal)
        assert all(one.published for one in done)
        assert list(goal.packages()) == list(filled.packages())
        for name in filled.packages():
            assert goal.top_hashes(name) == filled.top_hashes(name)
            assert goal.head(name).tags == filled.head(name).tags
            assert goal.head(name).permanent == filled.head(name).permanent
        assert list(RunStore(goal).summaries()) == list(RunStore(filled).summaries())
        assert verify_registry(goal)[1] == []
        logs = {name: len(goal.log(name)) for name in goal.packages()}
        assert not any(one.published for one in copy(source=filled, target=goal))
        assert {name: len(goal.log(name)) for name in goal.packages()} == logs

    def test_latest_follows_the_history_and_never_goes_back_to_what_is_there(self, filled, target):
        copy(source=filled, target=target)
        one, two, three = filled.top_hashes("a/b")
        filled.rollback("a/b", two)
        assert not any(done.published for done in copy(source=filled, target=target))
        assert target.head("a/b").tags == {"latest": three, "first": one, "good": two}
        four = build({"x": b"new"}, "a/b", registry=filled).top_hash
        copy(source=filled, target=target)
        assert target.head("a/b").tags == {"latest": four, "first": one, "good": two} == filled.head("a/b").tags

    def test_chosen_runs_come_with_what_they_name_and_no_more(self, filled, target):
        copy(source=filled, target=target, where="metrics.loss < 1")
        assert list(target.packages()) == ["a/b", f"runs/{RUNS[0]}", f"runs/{RUNS[1]}", f"verdicts/{RUNS[0]}"]
        assert len(target.top_hashes("a/b")) == 1
        with pytest.raises(UsageError):
            copy(source=filled, target=target, where="nonsense(")

    def test_a_run_that_goes_on_is_left_out_and_named(self, filled, target):
        noted = []

        class Told(type(SILENT)):
            def note(self, text: str) -> None:
                noted.append(text)

        with filled.claim(RUNS[3]):
            put_run(filled, RUNS[3], status="running")
            copy(source=filled, target=target, progress=Told())
        assert noted == [f"Run {RUNS[3]} goes on: left out."]
        assert [one.run for one in RunStore(target).summaries()] == RUNS[:3]

    def test_one_that_broke_off_goes_on_where_it_was(self, filled, target, monkeypatch):
        seen = []
        publish = target.publish

        def broken(name, *arguments, **options):
            if name.startswith("runs/"):
                raise NotFoundError("gone")
            seen.append(name)
            return publish(name, *arguments, **options)

        monkeypatch.setattr(target, "publish", broken)
        with pytest.raises(NotFoundError):
            copy(source=filled, target=target)
        monkeypatch.undo()
        assert seen == ["a/b"] * 3 + ["c/d"]
        left: Registry = LocalRegistry(target.root)
        done = copy(source=filled, target=left)
        assert sum(one.published for one in done) == len(RUNS[:3]) + 1
