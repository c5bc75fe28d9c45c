"""What the scikit-learn callback stores, refuses and brings back."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprokit.checkpoint.load import load_checkpoint
from reprokit.client.probe.digests import digest
from tests.conftest import Project
from tests.resume.trials import Case, Trial

pytest.importorskip("skops", reason="the sklearn extra is not installed")

import joblib
import numpy as np
import skops.io
from sklearn.base import clone
from sklearn.cluster import MiniBatchKMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, StandardScaler

from reprokit.callbacks.sklearn.joblib_file import dump_joblib
from reprokit.callbacks.sklearn.skops_file import dump, load
from reprokit.callbacks.sklearn.state import put_back

_SCALE = float(os.environ.get("REPROKIT_TEST_SCALE", "1"))
_X, _Y = load_iris(return_X_y=True)


def _search() -> Any:
    return GridSearchCV(SGDClassifier(random_state=1), {"alpha": [1e-3, 1e-4], "average": [True, False]}, cv=2)


class _Sparse(LogisticRegression):  # type: ignore[misc]
    def fit(self, x: Any, y: Any) -> Any:
        return super().fit(x, y).sparsify()


ESTIMATORS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: SGDClassifier(random_state=np.random.RandomState(3), average=True),
    "mlp": lambda: MLPClassifier((8,), random_state=1, max_iter=5, early_stopping=True),
    "kmeans": lambda: MiniBatchKMeans(3, random_state=1),
    "forest": lambda: RandomForestClassifier(3, random_state=1),
    "boosting": lambda: GradientBoostingClassifier(n_estimators=3, random_state=1),
    "search": _search,
    "columns": lambda: make_pipeline(
        ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", MinMaxScaler(), slice(2, 4))]), LogisticRegression()
    ),
    "voting": lambda: VotingClassifier([("a", GaussianNB()), ("b", SGDClassifier(random_state=1))]),
    "function": lambda: make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()),
    "sparse": lambda: _Sparse(max_iter=500),
    "several": lambda: {"scaler": StandardScaler(), "model": GaussianNB()},
}


def _fitted(name: str) -> Any:
    made = ESTIMATORS[name]()
    for one in made.values() if isinstance(made, dict) else [made]:
        one.fit(_X, _Y)
    return made


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_that_was_restored_is_stored_as_the_same_bytes(name: str) -> None:
    data = dump(_fitted(name)).data
    assert dump(_fitted(name)).data == data, "another fit with the same seed"
    live = ESTIMATORS[name]()
    put_back(live, load(data, like=live))
    assert dump(live).data == data


def test_the_seconds_that_a_search_took_are_no_state() -> None:
    search = _fitted("search")
    before = search.cv_results_["mean_fit_time"].copy()
    data = dump(make_pipeline(StandardScaler(), search)).data
    assert (search.cv_results_["mean_fit_time"] == before).all(), "the script's own object is left alone"
    loaded = load(data, like=make_pipeline(StandardScaler(), search))[1]
    assert np.isnan(loaded.cv_results_["mean_fit_time"]).all()
    assert np.isnan(loaded.refit_time_)
    assert list(loaded.cv_results_) == list(search.cv_results_), "the order of a mapping is kept"


def test_what_the_script_holds_is_what_is_restored() -> None:
    held = np.random.RandomState(5)
    scaler, model = StandardScaler(), GradientBoostingClassifier(random_state=held)
    pipeline = make_pipeline(scaler, model)
    before = GradientBoostingClassifier(n_estimators=3, random_state=np.random.RandomState(9))
    stored = make_pipeline(StandardScaler(), before).fit(_X, _Y)
    put_back(pipeline, load(dump(stored).data, like=pipeline))
    assert pipeline[0] is scaler
    assert pipeline[1] is model
    assert model.random_state is held
    assert model.estimators_[0, 0].random_state is held, "what was one object is one object again"
    assert (held.get_state()[1] == before.random_state.get_state()[1]).all()
    assert (scaler.mean_ == stored[0].mean_).all()


def test_skops_itself_reads_what_is_stored() -> None:
    data, rows, _ = dump(_fitted("sgd"))
    loaded = skops.io.loads(data, trusted=[])
    assert (loaded.predict(_X) == _fitted("sgd").predict(_X)).all()
    row = next(row for row in rows if row["name"] == "classes_")
    found = np.frombuffer(data[row["offset"] : row["offset"] + row["nbytes"]], dtype=np.int64)
    assert found.tolist() == [0, 1, 2]


def _changed(change: Callable[[dict[str, Any]], None], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a stored model with another schema, spelled as this callback spells it."""
    with zipfile.ZipFile(io.BytesIO(dump(_fitted("sgd")).data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(members["schema.json"])
    change(schema)
    members["schema.json"] = json.dumps(schema, indent=1).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, body in members.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), body, compression)
    return out.getvalue()


def _attribute(node: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Put a node in the place of the first attribute."""

    def change(schema: dict[str, Any]) -> None:
        schema["content"]["content"]["alpha"] = node

    return change


def _node(module: str, name: str, loader: str, **more: Any) -> dict[str, Any]:
    return dict(sorted({"__class__": name, "__module__": module, "__loader__": loader, **more}.items()))


_TEXT = _node("builtins", "str", "JsonNode", content='"x"', is_json=True)
_ONE_TEXT = _node("builtins", "tuple", "TupleNode", content=[_TEXT])
_EMPTY = _node("builtins", "tuple", "TupleNode", content=[])
_NO_WORDS = _node(
    "builtins", "dict", "DictNode", content={}, key_types=_node("builtins", "list", "ListNode", content=[])
)


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (_node("os", "system", "FunctionNode"), "os.system"),
        (_node("builtins", "eval", "TypeNode"), "builtins.eval"),
        (_node("subprocess", "Popen", "ConstructorFromReduceNode", content=_ONE_TEXT), "subprocess.Popen"),
        (_node("numpy", "memmap", "ConstructorFromReduceNode", content=_ONE_TEXT), "numpy.memmap"),
        (_node("sklearn.datasets._base", "Path", "ConstructorFromReduceNode", content=_ONE_TEXT), "_base.Path"),
        (_node("sklearn.pipeline", "Bunch", "ConstructorFromReduceNode", content=_EMPTY), "sklearn.pipeline.Bunch"),
        (_node("sklearn.base", "clone", "FunctionNode"), "sklearn.base.clone"),
        (_node("operator", "methodcaller", "OperatorFuncNode", attrs=_ONE_TEXT), "operator.methodcaller"),
        (
            _node("functools", "partial", "PartialNode", content={
                "func": _node("os", "system", "FunctionNode"), "args": _EMPTY, "kwds": _NO_WORDS, "namespace": _TEXT,
            }),
            "os.system",
        ),
    ],
)  # fmt: skip
def test_a_type_that_nothing_vouches_for_is_named_and_not_constructed(node: dict[str, Any], named: str) -> None:
    with pytest.raises(RuntimeError, match=r"types that are not trusted: .*\. Nothing was loaded") as caught:
        load(_changed(_attribute(node)), like=SGDClassifier())
    assert named in str(caught.value)


def _older(schema: dict[str, Any]) -> None:
    schema["protocol"] = 0


def _deep(schema: dict[str, Any]) -> None:
    node = _TEXT
    for _ in range(400):
        node = _node("builtins", "tuple", "TupleNode", content=[node])
    schema["content"]["content"]["alpha"] = node


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (lambda: b"PK\x03\x04", "is not a zip file"),
        (lambda: _changed(dict.copy, compression=zipfile.ZIP_DEFLATED), "its members are not stored as such"),
        (lambda: _changed(_older), "it has protocol 0 of skops, here is"),
        (lambda: _changed(_deep), ""),
        (lambda: _changed(lambda schema: schema.pop("content")), ""),
        (lambda: dump(_fitted("sgd")).data + b"x", "it is not spelled as reprokit spells it"),
        (lambda: skops.io.dumps(_fitted("sgd")), "it is not spelled as reprokit spells it"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(data: Callable[[], bytes], why: str) -> None:
    with pytest.raises(RuntimeError, match="the checkpoint's estimator cannot be read: .*" + why):
        load(data(), like=SGDClassifier())


def test_a_file_that_was_damaged_anywhere_is_loaded_or_refused_never_worse() -> None:
    data = dump(_fitted("mlp")).data
    draw = random.Random(1)
    refused = 0
    for _ in range(round(40 * _SCALE)):
        spoilt = bytearray(data)
        spoilt[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        try:
            load(bytes(spoilt), like=MLPClassifier())
        except RuntimeError as error:
            assert str(error).startswith("reprokit: the checkpoint's estimator")
            refused += 1
    assert refused


def test_types_of_ones_own_are_trusted_if_the_script_names_them_or_has_them() -> None:
    model = make_pipeline(FunctionTransformer(_doubled), SGDClassifier(random_state=1)).fit(_X, _Y)
    data = dump(model).data
    with pytest.raises(RuntimeError, match=r"not trusted: \S+\._doubled"):
        load(data, like=SGDClassifier())
    named = load(data, like=SGDClassifier(), trusted=[f"{_doubled.__module__}._doubled"])
    had = load(data, like=clone(model))
    assert (named.predict(_X) == had.predict(_X)).all()


def _doubled(x: Any) -> Any:
    return 2 * x


_PLAIN = """\
import sys
from sklearn.linear_model import SGDClassifier
from reprokit.callbacks.sklearn import PackageCheckpoint
import pathlib, os, signal

x, y = [[0.0], [1.0], [2.0]], [0, 1, 1]
model = SGDClassifier(random_state=1).fit(x, y)
ckpt = PackageCheckpoint()
ckpt.save(model, accuracy=0.5)
ckpt.save(model, accuracy=1.0)

again = SGDClassifier(random_state=1)
ckpt = PackageCheckpoint(estimator=again, format="joblib")
for epoch in ckpt.epochs(2):
    again.partial_fit(x, y, classes=[0, 1])
    ckpt.save()
    if epoch == 0 and not pathlib.Path(MARKER).exists():
        pathlib.Path(MARKER).touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_joblib_is_kept_as_one_opaque_file_and_no_run_is_resumed_from_it(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("train.py", _PLAIN.replace("MARKER", repr(str(tmp_path / "died"))))
    project.write("recipe.yaml", "name: s\ncode: {entrypoint: train.py}\nexecution: {threads: 1, inputs: 'off'}\n")
    project.commit()
    project.reprokit("run", "recipe.yaml", "-q", expect=130)
    record = project.json("show", "latest")
    assert [(entry["epoch"], entry["step"]) for entry in record["checkpoints"]] == [(0, 1), (1, 2), (0, 3)]
    last = load_checkpoint("latest@last", registry=str(project.registry))
    assert {entry.logical_key for entry in last.package.manifest.entries} == {
        "config.json", "model.joblib", "state.json",
    }  # fmt: skip
    assert json.loads(last.package.entry("config.json").read()) == {
        "class": "sklearn.linear_model._stochastic_gradient.SGDClassifier", "format": "joblib",
    }  # fmt: skip
    assert last.names() == []
    refused = project.reprokit("resume", "latest", "-q", expect=3).stderr
    assert "a joblib file runs code when it is read; leave format='joblib' out." in refused


_TEXT = """
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from reprokit.callbacks.sklearn import PackageCheckpoint

texts, kinds = ["aa bb cc", "bb cc dd", "aa aa dd", "cc dd ee"] * 5, [0, 1, 0, 2] * 5
model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, kinds)
PackageCheckpoint().save(model, accuracy=model.score(texts, kinds))
"""


@pytest.mark.slow
def test_a_pipeline_of_text_is_reproduced_and_no_other_library_says_how_it_was_computed(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("train.py", _TEXT)
    project.write("recipe.yaml", "name: s\ncode: {entrypoint: train.py}\nexecution: {threads: 1, inputs: 'off'}\n")
    project.commit()
    run = project.json("run", "recipe.yaml")
    assert {"numpy", "scipy"} <= run["machine"]["numeric"]["fingerprint"].keys()
    assert "torch" not in run["machine"]["numeric"]["fingerprint"]
    assert project.json("reproduce", run["run_id"])["verdict"] == "BITWISE"


KINDS = [
    "pipeline",
    "mlp",
    "mlp-global",
    "sgd",
    "sgd-generator",
    "kmeans",
    "naive-bayes",
    "forest",
    "boosting",
    "histogram",
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[: None if _SCALE > 1 else 1])
def test_killed_and_resumed_ends_with_the_bits_of_a_run_left_alone(kind: str, tmp_path: Path) -> None:
    trial = Trial(Case(kind, "sklearn_partial.py", 5, params={"kind": kind}), tmp_path)
    assert len(trial.whole) == 6
    draw = random.Random(kind)
    for number in range(max(1, round(_SCALE / 4))):
        how = trial.killed(draw)
        record = trial.resume_until_done(draw, kills=draw.choice([0, 1]))
        assert trial.digests(record) == trial.whole, f"kill {number} ({how})"


def test_addresses_and_caches_are_no_state(tmp_path: Path) -> None:
    def fitted(place: str) -> Any:
        made = make_pipeline(TfidfVectorizer(), LogisticRegression(), memory=str(tmp_path / place))
        return made.fit(["aa bb cc", "bb cc dd", "aa aa dd", "cc dd ee"], [0, 1, 0, 1])

    one, other = fitted("a"), fitted("b")
    other[0]._stop_words_id = one[0]._stop_words_id + 16  # as in another process
    data = dump(one).data
    assert dump(other).data == data
    assert dump_joblib(other) == dump_joblib(one), "also as joblib, and to doctor"
    assert digest(other) == digest(one)
    put_back(other, load(data, like=other))
    assert other.memory == str(tmp_path / "b"), "the script's own"
    assert dump(other).data == data
    assert joblib.load(io.BytesIO(dump_joblib(other))).predict(["aa bb"]).tolist() == one.predict(["aa bb"]).tolist()
    assert other.predict(["aa bb"]).tolist() == one.predict(["aa bb"]).tolist()
    other.memory, other[0].stop_words = None, ["cc"]
    assert dump(other).data != data, "the list itself is state"


class Terse:
    """Part of an estimator, with a cache, that says itself what it is made of."""

    def __init__(self, memory: Any = None) -> None:
        self.memory = memory

    def __reduce__(self) -> Any:
        return Terse, (self.memory,)


def test_what_says_itself_what_it_is_made_of_is_stored_as_it_says() -> None:
    assert joblib.load(io.BytesIO(dump_joblib([Terse("kept")])))[0].memory == "kept"


def test_no_framework_comes_in_that_the_script_did_not_import() -> None:
    pytest.importorskip("torch")
    code = "import sys, reprokit.callbacks.sklearn; print('torch' in sys.modules); import torch, skops.io"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_models_that_a_plain_script_saves_one_after_another_are_all_kept(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write(
        "plain.py",
        "from sklearn.linear_model import SGDClassifier\n"
        "from reprokit.callbacks.sklearn import PackageCheckpoint\n"
        "for _ in range(3):\n"
        "    PackageCheckpoint(package='t/m').save(SGDClassifier().fit([[0.0], [1.0]], [0, 1]))\n",
    )
    subprocess.run([project.python, "plain.py"], cwd=project.root, env=project.environment(), check=True)
    deadline = time.monotonic() + 30
    while (run := project.json("ls")["runs"][0])["status"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    record = project.json("show", run["run_id"])
    assert [(entry["epoch"], entry["step"]) for entry in record["checkpoints"]] == [(0, 1), (0, 2), (0, 3)]
