"""The limits of what a pickle may hold and do: up to each one it loads, beyond it nothing does."""

from __future__ import annotations

import io
import json
import os
import pickle
import threading
import zlib
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reprokit.checkpoint.safe_pickle import load as loading
from reprokit.checkpoint.safe_pickle.load import load_pickled
from reprokit.errors import DataMismatchError, UsageError


def refused(data: bytes, **options: Any) -> str:
    with pytest.raises(DataMismatchError) as caught:
        load_pickled(data, **options)
    return caught.value.message


def test_a_function_that_was_named_is_given_no_state() -> None:
    """Its attributes are everybody's."""
    message = refused(b"cjson\ndumps\n}S'marked'\nI1\nsb.", types=["json.dumps"])
    assert message == "The pickle is malformed: MalformedPickle: it gives a state to json.dumps."
    assert not hasattr(json.dumps, "marked")


def test_a_function_that_was_named_is_called_by_whatever_instruction() -> None:
    for instruction in (b"R", b"\x81", b"}\x92"):
        assert load_pickled(b"\x80\x04cjson\ndumps\n(]t" + instruction + b".", types=["json.dumps"]) == "[]"


def test_an_object_of_a_named_type_is_given_its_state() -> None:
    data = pickle.dumps(json.JSONDecoder.__new__(json.JSONDecoder), 2).removesuffix(b".") + b"}S'marked'\nI1\nsb."
    assert load_pickled(data, types=["json.decoder.JSONDecoder"]).marked == 1


def test_an_object_of_a_named_type_is_made_and_not_begun() -> None:
    """As pickle does: what `__init__` would set is in its state."""
    for protocol in (2, 4):
        data = pickle.dumps(json.JSONDecoder.__new__(json.JSONDecoder), protocol)
        assert vars(load_pickled(data, types=["json.decoder.JSONDecoder"])) == {}


def test_a_file_is_as_long_as_the_limit_and_no_longer() -> None:
    data = pickle.dumps([1, 2, 3])
    assert load_pickled(data, max_bytes=len(data)) == [1, 2, 3]
    told = f"The pickle is {len(data)} bytes long; at most {len(data) - 1} are read."
    assert refused(data, max_bytes=len(data) - 1) == told


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe, waited = tmp_path / "pipe", threading.Event()
    os.mkfifo(pipe)

    def write() -> None:
        waited.set()
        os.close(os.open(pipe, os.O_RDWR))

    writer = threading.Timer(5, write)
    writer.start()
    with pytest.raises(DataMismatchError) as caught:
        load_pickled(pipe)
    writer.cancel()
    assert caught.value.message == f"{pipe} is not a regular file."
    assert not waited.is_set()


def test_a_compressed_file_unpacks_to_the_limit_and_no_further() -> None:
    data = pickle.dumps(bytes(5000))
    packed = zlib.compress(data)
    assert load_pickled(packed, max_bytes=len(data)) == bytes(5000)
    told = f"The pickle unpacks to more than {len(data) - 1:,} bytes; no more are read."
    assert refused(packed, max_bytes=len(data) - 1) == told


def test_a_compressed_file_unpacks_to_so_many_times_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(bytes(5000))
    packed = zlib.compress(data)
    monkeypatch.setattr(loading, "_SLACK", len(data) - loading._RATIO * len(packed))
    assert load_pickled(packed) == bytes(5000)
    monkeypatch.setattr(loading, "_SLACK", len(data) - loading._RATIO * len(packed) - 1)
    assert refused(packed) == f"The pickle unpacks to more than {len(data) - 1:,} bytes; no more are read."


def test_the_pickle_inside_a_pt_file_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    out = io.BytesIO()
    torch.save({"t": torch.arange(4.0)}, out)
    monkeypatch.setattr(loading, "_MAX_PICKLE", 20)
    assert refused(out.getvalue()).endswith("bytes; at most 20 are read.")
    monkeypatch.undo()
    assert load_pickled(out.getvalue())["t"].tolist() == [0, 1, 2, 3]


def nested(depth: int) -> bytes:
    """Return arrays of objects inside each other, as no joblib writes them: each noted, and in a pickle of its own."""
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    out = io.BytesIO()
    joblib.dump(np.array([None], dtype=object), out, protocol=2)
    start = out.getvalue().index(b"b\x80") + 1  # where the second of its two pickles begins
    note, data = out.getvalue()[:start], out.getvalue()[start:-1]
    for _ in range(depth):
        data = note + data + b"."
    return data


def test_arrays_of_objects_nest_16_deep() -> None:
    assert load_pickled(nested(16)).tolist() == [None]
    assert refused(nested(17)) == "The pickle is malformed: MalformedPickle: arrays of objects nest too deeply."


@pytest.mark.parametrize("beyond", [0, 1])
def test_an_array_has_no_more_items_than_the_file_has_bytes(beyond: int) -> None:
    """Of items without a size too, which need no bytes."""
    head = b"\x80\x04cnumpy._core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\n(X\x02\0\0\0V0I0\nI1\ntR"
    data = head + b"(I%d\ntX\x01\0\0\0CtR." % (1 + beyond)
    if beyond:
        assert "an array claims 2 items, and there are 1 bytes" in refused(data)
    else:
        assert load_pickled(data).shape == (1,)


def test_a_type_is_found_by_its_full_name_or_said_not_to_be() -> None:
    assert loading._found("json.decoder.JSONDecoder") is json.JSONDecoder
    assert loading._found("json.JSONDecoder.decode") is json.JSONDecoder.decode
    for name in ("json.nothing", "json.decoder.nothing", "nowhere.at.all", "json.JSONDecoder.nothing", "json"):
        with pytest.raises(UsageError, match=f"`types` names '{name}', which cannot be found here"):
            loading._found(name)


def test_what_is_no_list_and_was_named_is_added_to() -> None:
    for protocol in (0, 2, 4):
        data = pickle.dumps(deque([1, 2, 3], 2), protocol)
        assert load_pickled(data, types=["collections.deque"]) == deque([2, 3], 2)
