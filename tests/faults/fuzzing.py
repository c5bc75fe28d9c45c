"""Mutated inputs for every door that reads what a stranger wrote: our error or a value, in bounded time and memory.

    python -m tests.faults.fuzzing --seconds 480 --seed 1 [--door record]

draws until the time is up, and prints how many inputs each door took, how many it refused, and what broke.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gzip
import json
import random
import re
import resource
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from reprokit.checkpoint.format import SnapshotMessage, encode, stored_tensors
from reprokit.client.plain import from_json, strict_json
from reprokit.client.tensors import as_array, parse, spell
from reprokit.core.canonical_json import canonical
from reprokit.core.digest import hash_bytes
from reprokit.core.safe_json import load_json
from reprokit.errors import Error
from reprokit.locking.recipe_file import parse as parse_recipe
from reprokit.recording.checkpoint_saver import Saver, SavingPolicy
from reprokit.recording.journal import Journal
from reprokit.recording.messages import message_in, value_in
from reprokit.recording.server import Session
from reprokit.registry.local import LocalRegistry
from reprokit.registry.package_log import _parse, _sealed
from reprokit.schema.facts import CheckpointFacts, RunSummary, VerdictSummary, facts_in
from reprokit.schema.lock import CodeIdentity, Declares, EnvironmentLock, PipPackage, RecipeLock, RunLock
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.notebook import Notebook
from reprokit.schema.recipe import from_plain, to_plain
from reprokit.schema.record import CheckpointEntry, Record
from reprokit.schema.verdict import VerdictRecord
from reprokit.store.manifests import ManifestStore
from reprokit.store.packs import Pack, PackWriter
from reprokit.store.storage import FolderStorage

__all__ = ["Broken", "Door", "Tally", "draw", "opened"]

SLOW = 2.0  # seconds of this thread's own time for one input
HUGE = 400 * 1024  # KiB that the process may grow by
TOKEN = bytes(range(16))

RECIPE = {
    "name": "tiny",
    "code": {"entrypoint": "train.py"},
    "environment": {"pip": "requirements.txt", "vault": "all"},
    "data": {"in": {"package": "t/in", "path": "data/in"}, "prior": {"run": "latest@best", "path": "prior"}},
    "params": {"epochs": 3, "rate": 0.1, "nested": {"a": [1, None, "é"]}},
    "execution": {"seed": 7, "threads": 1, "variables": {"MKL_CBWR": "COMPATIBLE"}, "secrets": ["HF_TOKEN"]},
    "checkpoints": {"package": "t/model", "best": {"loss": "min"}, "every": "2 epochs", "keep": 2},
    "outputs": ["metrics.json", {"path": "plots", "compare": "pixels"}],
    "tolerance": {"weights": {"atol": 1e-6}, "metrics": {"loss": 0.1, "time": "ignore"}},
    "not_secret": ["params.token"],
}
_YAML = b'name: t\ncode: {entrypoint: a.py}\nparams: {x: &b [1, yes], y: *b, z: "\\xe9"}\n'
STATE = {
    "epoch": 1, "step": 20, "rng": {"python": {"$tuple": [3, [1, 2, 3], None]}},
    "user": {"$dict": [[1, {"$bytes": "AAEC"}], ["k", {"$float": "nan"}]]},
    "a": {"$array": {"dtype": "<f4", "shape": [2, 2], "data": "AAAAAAAAgD8AAABAAABAQA=="}},
    "s": {"$scalar": {"dtype": "<i8", "data": "AQAAAAAAAAA="}}, "t": {"$tensor": {"name": "x", "kind": "pt"}},
}  # fmt: skip
SNAPSHOT = {
    "kind": "checkpoint", "framework": "numpy", "epoch": 1, "step": 5, "metrics": {"loss": 0.5}, "config": {"a": 1},
    "tensors": [
        {"section": "model", "name": "w", "dtype": "F32", "shape": [2, 2], "offset": 0, "nbytes": 16},
        {"section": "model", "name": "v", "dtype": "I64", "shape": [], "offset": 16, "nbytes": 8, "group": "buffer"},
    ],
    "files": [{"key": "model.bin", "offset": 24, "nbytes": 8, "tensors": []}], "state": STATE,
}  # fmt: skip


class Broken(AssertionError):
    """A door that let something else than our error out, or took too long, or too much."""


@dataclass(frozen=True)
class Door:
    """One place where bytes come in.

    Attributes:
        seeds: Sound inputs.
        enter: Reads mutated bytes.
        refusals: What it may raise.
        as_json: Its inputs are JSON, and are mutated as values too.
    """

    name: str
    seeds: list[bytes]
    enter: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...] = (Error,)
    as_json: bool = True
    weight: float = 1.0


@dataclass
class Tally:
    """How many inputs each door took and refused."""

    taken: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.taken.values())


# ── mutations ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_TEXTS = [
    "",
    "\0",
    "\ud800",
    "\udcff",
    "../../x",
    "/etc/passwd",
    "a" * 70_000,
    "\x1b[31m",
    "\u202e",
    "nan",
    "é",
    "{}",
    "$",
]
_NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 1e308, -0.0, 0.5, float("nan"), float("inf")]


def _odd(draw: random.Random) -> Any:
    match draw.randrange(8):
        case 0:
            return draw.choice([None, True, False])
        case 1 | 2:
            return draw.choice(_TEXTS)
        case 3 | 4:
            return draw.choice(_NUMBERS)
        case 5:
            return draw.choice([[], {}, [[]], {"": None}, [None] * 50, {"\ud800": 1}, {"$tuple": 1}])
        case 6:
            deep: Any = 1
            for _ in range(draw.choice([10, 70, 300])):
                deep = [deep] if draw.random() < 0.5 else {"a": deep}
            return deep
        case _:
            return draw.getrandbits(draw.choice([4, 16, 70]))


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Collect every container with a key or index of it."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found.append((value, key))
            _places(value[key], found)
    return found


def _mutate_value(value: Any, draw: random.Random) -> Any:
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        places = _places(value, [])
        if not places:
            return _odd(draw)
        holder, key = draw.choice(places)
        match draw.randrange(6):
            case 0 | 1 | 2:
                holder[key] = _odd(draw)
            case 3:
                del holder[key]
            case 4 if isinstance(holder, dict):
                holder[draw.choice(_TEXTS) if draw.random() < 0.5 else str(key) + "x"] = holder.pop(key)
            case _:
                other, at = draw.choice(places)
                with contextlib.suppress(LookupError):
                    holder[key] = copy.deepcopy(other[at])
    return value


def _mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    for _ in range(draw.choice([1, 1, 2, 8])):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(6):
            case 0 | 1:
                data = data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :]
            case 2:
                data = data[:at] + draw.randbytes(draw.choice([1, 2, 8])) + data[at:]
            case 3:
                data = data[:at] + data[at + draw.choice([1, 2, 8, 64]) :]
            case 4:
                data = data[:at]
            case _:
                start = draw.randrange(len(data) + 1)
                data = data[:at] + data[start : start + draw.randrange(64)] + data[at:]
    return data


def mutated(door: Door, draw: random.Random) -> bytes:
    """Return one input for a door: a sound one, changed as a value or as bytes."""
    data = draw.choice(door.seeds)
    if door.as_json and draw.random() < 0.75:
        head, separator, rest = data.partition(b"\n") if b"\n{" in data else (data, b"", b"")
        lines = [head, *rest.split(b"\n")] if separator else [head]
        at = draw.randrange(len(lines))
        with contextlib.suppress(ValueError, RecursionError):  # what was made nests too deeply to be written
            lines[at] = json.dumps(_mutate_value(json.loads(lines[at]), draw)).encode()
        return b"\n".join(lines)
    return _mutate_bytes(data, draw)


# ── doors ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _manifest(data: bytes) -> None:
    try:
        Manifest.decode(data, top_hash="0" * 64, what="it")
    except Error as error:  # its hash is what mutations change first: go on with the hash that it has
        if (found := re.search(r"its content has ([0-9a-f]{12})", error.message)) is None:
            raise
        head = Manifest.decode_header(data.partition(b"\n")[0], what="it")
        for form in (CheckpointFacts, RunSummary, VerdictSummary):
            facts_in(head.get("user_meta"), form)
        with contextlib.suppress(Error):
            whole = _Trusting.decode(data, top_hash=found[1], what="it")
            stored_tensors(whole)
            whole.encode()
            whole.places  # noqa: B018
        raise


class _Trusting(Manifest):
    """A manifest that takes the hash that it has for the one that was asked for."""

    @property
    def top_hash(self) -> Any:  # type: ignore[override]
        return _Any()


class _Any:
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __getitem__(self, _: object) -> str:
        return "0" * 12


def _record(data: bytes) -> None:
    record = Record.decode(data, what="it")
    again = Record.decode(record.encode(), what="it")
    json.dumps(record.plain(), ensure_ascii=False).encode()
    again.summary()
    for selector in (None, "best", "best:loss", "epoch=1", "initial", "exception"):
        with contextlib.suppress(Error):
            record.select(selector, best={"loss": "min"})


def _lock(data: bytes) -> None:
    lock = RunLock.decode(data, what="it")
    assert len(lock.hash) == 64
    assert RunLock.decode(lock.encode(), what="it").hash == lock.hash


def _recipe_json(data: bytes) -> None:
    value = load_json(data, what="it")
    if isinstance(value, dict):
        recipe = from_plain(value)
        assert from_plain(to_plain(recipe)) == recipe


def _state(data: bytes) -> None:
    load_json(data, what="it", halves=True, max_depth=256)
    value = strict_json(data)
    for item in value.values() if isinstance(value, dict) else []:
        from_json(item, tensor=lambda name, kind: (name, kind))


def _safetensors(data: bytes) -> None:
    for array in parse(memoryview(data)).values():
        as_array(array)


def _snapshot(data: bytes) -> None:
    plain = load_json(data, what="it", constants=True, halves=True, max_depth=256)
    encode(msgspec.convert(plain, SnapshotMessage, strict=True), memoryview(bytes(64)))


def _log_entry(data: bytes) -> None:
    _parse(_sealed(data), "a/b", 1, "log/a/b")


@contextlib.contextmanager
def opened() -> Iterator[list[Door]]:
    """Yield every door with its seeds, and what stands behind it; its threads must not die."""
    died: list[Any] = []
    before = threading.excepthook
    threading.excepthook = died.append
    try:
        with tempfile.TemporaryDirectory() as name:
            yield _doors(Path(name), died)
    finally:
        threading.excepthook = before


def _doors(folder: Path, died: list[Any]) -> list[Door]:
    recipe = from_plain(copy.deepcopy(RECIPE))
    environment = EnvironmentLock(
        python="3.11.7", implementation="CPython", platform="linux-x86_64",
        pip=[PipPackage(name="numpy", version="2.0.0", tags=["cp311"], record="0" * 64)],
    )  # fmt: skip
    lock = RunLock(
        recipe=recipe, code=CodeIdentity(tree="1" * 40), environment=environment, data=[], params=dict(recipe.params),
        execution=recipe.execution,
    )  # fmt: skip
    pins = RecipeLock(declares=Declares.of(recipe, {}), environment=environment, data=[])
    entry = CheckpointEntry(package="t/model", top_hash="2" * 64, state_digest="x:0", epoch=1, metrics={"loss": 0.5})
    record = Record(
        run_id="20261123-101500-7c1e9f", name="tiny", status="finished", lock_hash=lock.hash, code=None,
        started="2026-11-23T10:15:00.000Z", checkpoints=[entry], metrics={"loss": float("nan")}, params={"a": [1]},
        environment={"hash": "0" * 64, "packages": 1, "python": "3.11.7"},  # type: ignore[arg-type]
        warnings=["w"], reprokit="1",
    )  # fmt: skip
    digest = hash_bytes(b"1")
    row = {"name": "w", "dtype": "U8", "shape": [1], "offset": 0, "nbytes": 1, "digest": digest.hex}
    facts = CheckpointFacts(kind="checkpoint", run=record.run_id, state_digest="x:0", metrics={"loss": 0.5})
    manifest = Manifest.make(
        [Entry("a", 1, digest), Entry("d/b", 1, digest, {"reprokit": {"tensors": [row]}}, ("packs/x.zip#1,2",))],
        message="m", user_meta={"reprokit": msgspec.to_builtins(facts)},
    )  # fmt: skip
    head, _ = spell({"w": ("F32", (2, 2), 16), "v": ("I64", (), 8)})
    body = {"package": "a/b", "seq": 1, "prev": None, "action": "publish", "top_hash": "0" * 64, "time": 1,
            "writer": "a@b", "tags": {"latest": "0" * 64}, "permanent": [], "note": None}  # fmt: skip
    messages = [
        {"type": "metrics", "step": 1, "values": {"loss": 0.5}}, {"type": "epochs", "total": 3},
        {"type": "epoch", "epoch": 1}, {"type": "resumed", "numeric": {}}, {"type": "told"},
        {"type": "numeric", "numeric": {"torch": {"version": "2"}}, "imported": ["numpy"], "files": [], "saved": True},
        {"type": "snapshot", "ticket": 1, "buffer": 1, "size": 64, "offset": 0, "length": 8, "answer": True},
        {"type": "artifact", "path": str(folder / "nothing"), "name": "x"},
    ]  # fmt: skip
    cell = {"cell_type": "code", "source": ["a = 1\n", "b"], "metadata": {"tags": ["parameters"]}, "outputs": [],
            "execution_count": None, "id": "a1"}  # fmt: skip
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"language": "python"}}, "cells": [cell]}
    talk = _Talk(folder, died)
    return [
        Door("record", [record.encode()], _record),
        Door("lock", [lock.encode()], _lock),
        Door("recipe lock", [pins.encode()], lambda data: RecipeLock.decode(data, what="it")),
        Door("recipe", [canonical(RECIPE)], _recipe_json),
        Door("recipe (YAML)", [canonical(RECIPE), _YAML],
             lambda data: parse_recipe(data), as_json=False, weight=0.2),
        Door("manifest", [manifest.encode()], _manifest),
        Door("manifest file", [gzip.compress(manifest.encode(), mtime=0)], _Files(folder).manifest, as_json=False),
        Door("header", [canonical(manifest.header)], lambda data: Manifest.decode_header(data, what="it")),
        Door("log entry", [canonical(body)], _log_entry),
        Door("pack", [_pack(folder)], _Files(folder).pack, as_json=False),
        Door("state", [canonical(STATE)], _state, refusals=(Error, ValueError)),
        Door("safetensors", [bytes(head) + bytes(24)], _safetensors, refusals=(ValueError,), as_json=False),
        Door("safetensors header", [bytes(head[8:])], lambda text: _safetensors(
            len(text).to_bytes(8, "little") + text + bytes(24)), refusals=(ValueError,)),
        Door("snapshot", [canonical(SNAPSHOT)], _snapshot,
             refusals=(Error, msgspec.ValidationError, ValueError, KeyError, TypeError, OverflowError)),
        Door("message", [json.dumps(one).encode() for one in messages], lambda data: message_in(value_in(data))),
        Door("socket", [json.dumps(one).encode() for one in messages], talk.frame, weight=0.5),
        Door("socket, raw", [TOKEN + struct.pack(">I", 2) + b"{}"], talk.raw, as_json=False, weight=0.1),
        Door("verdict", [_verdict()], lambda data: VerdictRecord.decode(data, what="it")),
        Door("notebook", [json.dumps(notebook).encode()], lambda data: Notebook.parse(data, what="it")),
    ]  # fmt: skip


def _verdict() -> bytes:
    link = {"run_id": "20261123-101500-7c1e9f", "top_hash": "0" * 64, "lock_hash": None}
    verdict = {
        "run_id": "b",
        "reproduces": "a",
        "verdict": "BITWISE",
        "comparisons": [{"what": "code", "result": "match"}],
    }
    return canonical(
        {
            "format": 1,
            "verdict": verdict,
            "original": link,
            "reproduction": link,
            "by": "a@b",
            "at": "2026-11-23T10:15:00Z",
        }
    )


def _pack(folder: Path) -> bytes:
    writer = PackWriter(folder / "seed")
    for number in range(3):
        writer.add(hash_bytes(bytes([number])).raw, bytes([number]))
    writer.finish()
    return (folder / "seed").read_bytes()


class _Files:
    """Doors that read files: one is written anew for each input."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "manifests").mkdir(exist_ok=True)

    def pack(self, data: bytes) -> None:
        path = self._folder / f"{'0' * 64}.zip"
        path.write_bytes(data)
        pack = Pack(path)
        for member in pack.members.values():
            pack.read(*member)

    def manifest(self, data: bytes) -> None:
        store = ManifestStore(FolderStorage(self._folder))
        (self._folder / store.key("0" * 64)).write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\x04\x03" + data[10:])
        with contextlib.suppress(Error):
            store.header("0" * 64)
        with contextlib.suppress(Error):
            store.base_of("0" * 64)
        store.read("0" * 64)


class _Talk:
    """A runner that listens; a line is opened anew when it hung up."""

    def __init__(self, folder: Path, died: list[Any]) -> None:
        policy = SavingPolicy(run_id="r", name="t", package=None, best={}, inputs=[], lock_hash=None)
        registry = LocalRegistry(folder / "registry")
        journal = Journal.create(folder, policy.run_id)
        self._session = Session(
            registry=registry, journal=journal, saver=Saver(registry=registry, journal=journal, policy=policy),
            token=TOKEN.hex(),
        )  # fmt: skip
        self._journal = journal
        self._died = died
        self._line: socket.socket | None = None
        self._sent = 0

    def _channel(self) -> socket.socket:
        if self._line is None:
            self._line, theirs = socket.socketpair()
            self._line.settimeout(10)
            threading.Thread(target=self._session.serve, args=(theirs,), daemon=True).start()
        return self._line

    def frame(self, body: bytes) -> None:
        self._send(TOKEN + struct.pack(">I", len(body)) + body)

    def raw(self, data: bytes) -> None:
        try:
            self._send(data)
        finally:
            self._hang_up()

    def _send(self, data: bytes) -> None:
        try:
            self._channel().sendall(data)
            marker = b'{"type": "told", "answer": true, "ticket": 7}'
            self._channel().sendall(TOKEN + struct.pack(">I", len(marker)) + marker)
            self._sent += 1
            if len(data) >= 20 and data.startswith(TOKEN + struct.pack(">I", len(data) - 20)):
                while self._answer().get("ticket") != 7:  # what came before is answered first
                    pass
        except (BrokenPipeError, ConnectionResetError, EOFError):
            self._hang_up()
        if self._sent % 1000 == 0:  # what a run gathers is not what is looked at here
            collected = self._session.collected
            for gathered in (collected.errors, collected.strangers, collected.metrics, collected.imported):
                gathered.clear()
        if self._died:
            raise Broken(f"a thread of the runner died: {self._died[-1].exc_value!r}")

    def _answer(self) -> Any:
        length = int.from_bytes(self._exactly(4), "big")
        answer = json.loads(self._exactly(length))
        return answer if type(answer.get("ticket")) is not bool else {}

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self._channel().recv(length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def _hang_up(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None


# ── drawing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def draw(doors: list[Door], *, seed: int, seconds: float, tally: Tally) -> None:
    """Draw inputs until the time is up.

    Raises:
        Broken: With the door, the input and what happened; the first time that something does.
    """
    chosen = random.Random(seed)
    ends = time.monotonic() + seconds
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + HUGE
    weights = [door.weight for door in doors]
    signal.signal(signal.SIGALRM, _hangs)
    try:
        while time.monotonic() < ends:
            for door in chosen.choices(doors, weights, k=200):
                data = mutated(door, chosen)
                signal.alarm(60)
                _enter(door, data, tally)
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > grown:
                raise Broken(f"the process grew by more than {HUGE:,} KiB")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _hangs(*_: object) -> None:
    raise Broken("an input took more than a minute")


def _enter(door: Door, data: bytes, tally: Tally) -> None:
    began = time.thread_time()
    try:
        door.enter(data)
    except door.refusals as error:
        tally.refused[door.name] = tally.refused.get(door.name, 0) + 1
        try:
            str(error).encode()
        except UnicodeEncodeError:
            raise Broken(f"{door.name}: the message of its error cannot be printed, for {data[:2000]!r}") from error
    except Exception as error:
        told = "".join(traceback.format_exception(error)[-4:])
        raise Broken(f"{door.name} let out {type(error).__name__} for {data[:2000]!r}\n{told}") from error
    tally.taken[door.name] = tally.taken.get(door.name, 0) + 1
    if time.thread_time() - began > SLOW:
        raise Broken(f"{door.name} took {time.thread_time() - began:.1f} s for {data[:2000]!r}")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--door")
    asked = parser.parse_args()
    tally, broken = Tally(), {}
    ends = time.monotonic() + asked.seconds
    seed = asked.seed
    with opened() as doors:
        chosen = [door for door in doors if asked.door in (None, door.name)]
        while chosen and time.monotonic() < ends:
            try:
                draw(chosen, seed=seed, seconds=ends - time.monotonic(), tally=tally)
            except Broken as error:
                kind = str(error).partition(" for ")[0]
                if kind not in broken:
                    broken[kind] = str(error)
                    sys.stdout.write(f"BROKEN {error}\n")
                    sys.stdout.flush()
            seed += 1_000_003
    for name, count in tally.taken.items():
        sys.stdout.write(f"{name:20} {count:>10,} inputs, {tally.refused.get(name, 0):>10,} refused\n")
    sys.stdout.write(f"{tally.total:,} inputs, {len(broken)} kinds broken\n")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
