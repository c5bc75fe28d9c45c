"""A laid-out checkpoint as a callback reads it; `tests/checkpoint/test_hostile.py` has those that are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprokit.client.restored import Restored, check_names
from reprokit.client.tensors import MalformedError, as_array
from tests.checkpoint.making import files_of
from tests.conftest import ROOT

MIB = 1024 * 1024


def _lay(folder: Path, tensors: dict[str, Any], **more: Any) -> Path:
    for key, (data, _) in files_of(tensors, **more).items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return folder


def test_what_was_saved_is_there(tmp_path: Path) -> None:
    state = {
        "epoch": 1, "step": 2, "position": {"batch": 3}, "user": {"$tuple": [1, None]},
        "rng": {"$tensor": {"name": "rng", "kind": "numpy"}}, "mask": {"$tensor": {"name": "rng", "kind": "mine"}},
    }  # fmt: skip
    tensors = {"big": np.arange(MIB, dtype="f4"), "a.w": np.ones(3), "state:rng": np.arange(5, dtype="u1")}
    restored = Restored(_lay(tmp_path, tensors, aliases={"tied": "a.w"}, state=state))
    assert (restored.epoch, restored.step, restored.batch) == (1, 2, 3)
    assert restored.state("user") == (1, None)
    assert restored.state("nothing", 7) == 7
    assert restored.state("rng").tolist() == [0, 1, 2, 3, 4]
    restored.converters["mine"] = lambda stored: stored.dtype
    assert restored.state("mask") == "U8"
    model = restored.section("model")
    assert model.keys() == {"big", "a.w", "tied"}
    assert model["tied"] is model["a.w"]
    assert as_array(model["big"])[-1] == MIB - 1
    assert restored.section("ema") == {}


@pytest.mark.parametrize(
    ("state", "expected"),
    [({"epoch": None}, (None, 0, None)), ({"epoch": 0, "step": 5, "position": None}, (0, 5, None))],
)
def test_an_epochs_end_has_no_batch(tmp_path: Path, state: dict[str, Any], expected: tuple[Any, ...]) -> None:
    restored = Restored(_lay(tmp_path, {"w": np.ones(2)}, state=state))
    assert (restored.epoch, restored.step, restored.batch) == expected


def test_a_link_that_leads_to_the_folder_is_followed_and_none_in_it(tmp_path: Path) -> None:
    _lay(tmp_path / "real", {"w": np.ones(2)})
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert Restored(tmp_path / "link").section("model").keys() == {"w"}
    (tmp_path / "real/model").rename(tmp_path / "elsewhere")
    (tmp_path / "real/model").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MalformedError, match="cannot be read as a file: Not a directory"):
        Restored(tmp_path / "link").section("model")


def test_more_files_than_descriptors_are_read(tmp_path: Path) -> None:
    tensors = {f"w{i}": np.full(MIB // 4 + i, i, "f4") for i in range(80)}
    _lay(tmp_path, tensors)
    code = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))
from reprokit.client.restored import Restored, check_names
from reprokit.client.tensors import as_array
print(sorted(int(as_array(stored)[-1]) for stored in Restored(sys.argv[1]).section("model").values()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == str(list(range(80))), done.stderr[-2000:]


def test_of_many_names_that_do_not_fit_some_are_named_and_the_others_counted() -> None:
    check_names(["a", "b"], {"b": 1, "a": 2}, "model has other tensors")
    with pytest.raises(RuntimeError) as caught:
        check_names(["same", *"gfedcba"], ["same", "z"], "model has other tensors", hint=". Look there")
    assert str(caught.value) == (
        "reprokit: the model has other tensors than the checkpoint (not in the checkpoint: a, b, c, d, e and 2 more; "
        "only in the checkpoint: z). Look there"
    )
