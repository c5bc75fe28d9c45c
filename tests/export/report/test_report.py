"""A report is one page that loads nothing, says what was found in real runs, and survives whatever a registry holds."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprokit.core.own_extras import pip_words
from reprokit.export.report.report import as_report
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from reprokit.runs.verdict_store import VerdictStore
from reprokit.schema.factor import Factor
from reprokit.schema.facts import meta_of
from reprokit.schema.machine import Machine, Numeric
from reprokit.schema.manifest import Manifest
from reprokit.schema.record import CheckpointEntry, ExecutionFacts
from reprokit.schema.verdict import Cause, Comparison, Divergence, Rung, RunLink, Verdict, VerdictRecord
from tests.conftest import ROOT, SCRIPT, Project, lies_at, overwrite, put_run
from tests.export.pages import Page

ODD = "odd $x$ <script>]]>&\u202e"
TRAINING = SCRIPT.replace('"layer.steps": np.array(epoch)}', '"layer.steps": np.array(epoch), NAME: weights[:1]}')
TRAINING = f"NAME = {ODD!r}\n" + TRAINING.replace(
    "    HOOK\n", "    reprokit.log(step=epoch, inner=float(weights.sum()))\n    HOOK\n"
)
ONE, OTHER = "20260102-030405-aaaaaa", "20260102-030406-bbbbbb"


TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "section", "h1", "h2", "h3", "p",
    "span", "div", "code", "pre", "ul", "ol", "li", "dl", "dt", "dd", "strong", "table", "caption", "thead", "tbody",
    "tr", "th", "td", "figure", "figcaption", "svg", "g", "path", "rect", "text", "defs", "use", "clippath", "pattern",
}  # fmt: skip


class Trained:
    """A run, and three repetitions: one unchanged, one of another rate, and one whose code changes the last epoch."""

    def __init__(self, base: Path) -> None:
        self.project = Project(base)
        self.project.build()
        self.project.write("train.py", TRAINING.replace("HOOK", "pass"))
        self.project.commit()
        self.original = self.project.json("run", "recipe.yaml")["run_id"]
        self.bitwise = self.project.json("reproduce", self.original)["run_id"]
        changed = self.project.json("reproduce", self.original, "--with", "param.rate=0.10000001", expect=7)
        self.rate = changed["run_id"]
        self.project.write("train.py", TRAINING.replace("HOOK", "weights = weights * (1 if epoch < 1 else 1.5)"))
        self.code = self.project.json("reproduce", self.original, "--with", "code=.", expect=7)["run_id"]
        self.registry = LocalRegistry(self.project.registry)

    def page(self, ref: str, **options: Any) -> Page:
        return Page(as_report(ref, registry=self.registry, **options).html)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    yield Trained(tmp_path_factory.mktemp("report"))


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def _sound(page: Page) -> None:
    """Assert what holds of every report."""
    assert page.wrong == []
    assert {tag for tag, _ in page.tags} <= TAGS
    for tag, attributes in page.tags:
        assert not {"src", "href", "style", "srcset", "action"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert (attributes.get("xlink:href") or "#").startswith("#")
    policy = next(m["content"] or "" for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    (style,) = page.styles
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "url(" not in style
    assert "@import" not in style
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert len(page.all("figure")) == len(page.all("figcaption"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    assert all(th.get("scope") for th in page.all("th"))
    assert "\x00" not in page.text
    assert "\u202e" not in page.text
    assert "None" not in page.text


def test_a_bitwise_report_says_how_much_is_equal_and_has_no_empty_section(trained: Trained) -> None:
    page = trained.page(trained.bitwise)
    _sound(page)
    assert "Reproduced exactly" in page.text
    assert "Everything that was compared came out identical, down to the last bit." in page.text
    assert "checkpoints equal in every bit 3 of 3" in page.text
    assert "tensors’ digests equal (3 tensors at each checkpoint) 9 of 9" in page.text
    assert "every one is equal in every bit: 9 of 9 digests" in page.text
    assert page.headings == ["compared", "metrics", "layers", "sides", "again", "words"]
    labels = [svg["aria-label"] or "" for svg in page.all("svg") if "aria-label" in svg]
    assert [label.split(".")[0] for label in labels] == [
        "Line plot of loss by epoch", "Line plot of inner by step", "Map of 3 rows of tensors by 3 checkpoints",
    ]  # fmt: skip
    assert all("identical" in label for label in labels[:2])
    assert f"reprokit reproduce {trained.original}" in page.text


def test_a_diverged_report_says_where_why_and_how_to_settle_it(trained: Trained) -> None:
    page = trained.page(trained.rate)
    _sound(page)
    assert "Not reproduced" in page.text
    assert "Changed on purpose for the repetition: param.rate=0.10000001" in page.text
    assert (
        "The first difference is in the checkpoint of epoch 0: after pass 1 of 3 over the training data." in page.text
    )
    assert "tensor layer.weight: 12 of its 12 numbers differ" in page.text
    assert "params.rate 0.1 → 0.10000001" in page.text
    assert f"reprokit reproduce {trained.original} --with param.rate=0.10000001" in page.text
    assert "likely" in page.text
    assert "No tolerance was declared: every bit counts." in page.text
    assert page.headings == ["first", "causes", "compared", "metrics", "layers", "sides", "again", "words"]
    assert any((svg.get("aria-label") or "").startswith("Histogram of the values") for svg in page.all("svg"))


def test_what_changed_in_the_code_is_shown_line_by_line(trained: Trained) -> None:
    page = trained.page(trained.code)
    _sound(page)
    added = [span for span in page.all("span") if span.get("class") == "add"]
    assert len(added) == 1
    assert "+ weights = weights * (1 if epoch < 1 else 1.5)" in page.text
    assert "The first 2 of 3 checkpoints are equal in every bit." in page.text


def test_an_originals_report_is_on_its_newest_repetition_unless_told_otherwise(trained: Trained) -> None:
    assert as_report(trained.original, registry=trained.registry).other == trained.code
    against = as_report(trained.original, against=trained.bitwise, registry=trained.registry)
    assert (against.other, against.verdict) == (trained.bitwise, "BITWISE")
    of_two = as_report(trained.rate, against=trained.code, registry=trained.registry)
    assert "Comparison of two runs" in of_two.html
    assert "The two runs differ" in of_two.html


def test_odd_names_of_tensors_are_but_text_in_plots(trained: Trained) -> None:
    html = as_report(trained.code, registry=trained.registry).html
    assert "<script" not in html
    assert "odd $x$ &lt;script&gt;]]&gt;&amp;\\u202e" in html  # as a label of the map: no formula, no markup


def test_without_a_budget_differences_are_named_and_not_measured(trained: Trained) -> None:
    page = trained.page(trained.rate, budget=0)
    _sound(page)
    assert "At most 0 MB were read; what is marked “differs” alone was not measured." in page.text
    assert not any((svg.get("aria-label") or "").startswith("Histogram") for svg in page.all("svg"))


def test_the_same_runs_give_the_same_bytes_whatever_matplotlib_is_told(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nlines.linewidth: 9\nsvg.fonttype: path\naxes.grid: False\n")
    once = as_report(trained.rate, registry=trained.registry).html
    environment = {**trained.project.environment(), "MATPLOTLIBRC": str(tmp_path), "PYTHONHASHSEED": "12"}
    file = tmp_path / "report.html"
    command = trained.project.command("export", trained.rate, "--as", "report", "-o", str(file))
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert file.read_text() == once


def test_a_corrupt_tensor_is_an_error_and_not_a_plot(trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(trained.project.registry), str(copy)], check=True)
    registry = LocalRegistry(copy)
    last = RunStore(registry).load(trained.rate).record.checkpoints[-1]
    entry = next(e for e in registry.read_manifest(last.top_hash).entries if e.logical_key.endswith(".safetensors"))
    path, offset = lies_at(registry, entry)
    overwrite(path, offset + entry.size - 9, b"x")
    environment = {**trained.project.environment(), "REPROKIT_REGISTRY": str(copy)}
    command = trained.project.command("export", trained.rate, "--as", "report")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (4, "")
    assert "is corrupt" in done.stderr


def test_a_run_that_was_never_repeated_says_so_and_how(trained: Trained, registry: LocalRegistry) -> None:
    put_run(registry, ONE, metrics={"loss": 0.5}, lock_hash=None, checkpoints=[_checkpoint(0)])
    page = Page(as_report(ONE, registry=registry).html)
    _sound(page)
    assert "Not reproduced yet" in page.text
    assert "it cannot be repeated from the registry" in page.text
    assert page.headings == ["metrics", "checkpoints", "sides", "again", "words"]


def test_a_bare_and_a_failed_run_give_a_report(registry: LocalRegistry) -> None:
    put_run(registry, ONE)
    _sound(Page(as_report(ONE, registry=registry).html))
    put_run(registry, OTHER, status="failed", failure="ValueError: <b>no</b>\nline 2", reproduces=ONE)
    page = Page(as_report(ONE, registry=registry).html)
    _sound(page)
    assert "No conclusion" in page.text
    assert "The repetition failed. It said: ValueError: <b>no</b> line 2" in page.text


def test_a_repetition_without_its_original_shows_the_verdict_unchecked(registry: LocalRegistry) -> None:
    verdict = Verdict(run_id=OTHER, reproduces=ONE, verdict="DIVERGED")
    put_run(registry, OTHER, reproduces=ONE, verdicts=[verdict])
    page = Page(as_report(OTHER, registry=registry).html)
    _sound(page)
    assert f"The original, run {ONE}, is not in this registry" in page.text
    assert "DIVERGED" in page.text


def test_equal_bits_under_other_conditions_are_said_to_be_that(registry: LocalRegistry) -> None:
    put_run(registry, ONE, checkpoints=[_checkpoint(0, "a")])
    verdict = Verdict(run_id=OTHER, reproduces=ONE, verdict="EQUAL-RELAXED", relaxed=["threads=2"])
    put_run(registry, OTHER, reproduces=ONE, verdicts=[verdict], checkpoints=[_checkpoint(0, "a")])
    page = Page(as_report(OTHER, registry=registry).html)
    _sound(page)
    assert "EQUAL-RELAXED" in page.text and "threads=2" in page.text and "causes" not in page.headings
    assert "Same result, under changed conditions" in page.text and "within tolerance" not in page.text


def test_a_proviso_stands_beside_the_verdict_and_in_its_title(registry: LocalRegistry) -> None:
    put_run(registry, ONE, checkpoints=[_checkpoint(0, "a")])
    verdict = Verdict(run_id=OTHER, reproduces=ONE, verdict="BITWISE", provisos=["Read: <b>/x</b>."])
    put_run(registry, OTHER, reproduces=ONE, verdicts=[verdict], checkpoints=[_checkpoint(0, "a")])
    report = as_report(OTHER, registry=registry)
    page = Page(report.html)
    _sound(page)
    assert report.verdict == "BITWISE, with provisos" and report.verdict in page.text
    assert "Reproduced exactly, with provisos" in page.text and "Provisos: Read: <b>/x</b>." in page.text


@pytest.mark.parametrize("rung", ["BITWISE", "EQUAL-RELAXED"])
def test_a_verdict_that_the_records_contradict_is_not_repeated_without_a_word(
    registry: LocalRegistry, rung: Rung
) -> None:
    put_run(registry, ONE, checkpoints=[_checkpoint(0, "a"), _checkpoint(1, "a")])
    verdict = Verdict(run_id=OTHER, reproduces=ONE, verdict=rung)
    put_run(registry, OTHER, reproduces=ONE, verdicts=[verdict], checkpoints=[_checkpoint(0, "a"), _checkpoint(1, "b")])
    page = Page(as_report(OTHER, registry=registry).html)
    _sound(page)
    assert f"The verdict on record says {rung}, but 1 of 2 checkpoints differ, first epoch 1." in page.text


def test_dropped_checkpoints_are_compared_by_their_digests_alone(registry: LocalRegistry) -> None:
    put_run(registry, ONE, checkpoints=[_checkpoint(n, "a", dropped=True) for n in range(3)])
    put_run(registry, OTHER, checkpoints=[_checkpoint(n, "a" if n < 2 else "b", dropped=True) for n in range(3)])
    page = Page(as_report(ONE, against=OTHER, registry=registry).html)
    _sound(page)
    assert "checkpoints equal in every bit 2 of 3" in page.text


def test_metrics_of_any_size_are_drawn_or_counted(registry: LocalRegistry) -> None:
    values = [1e308, -1e308, 5e-324, float("nan"), float("inf"), 0.0, -0.0, 1.0]
    for run_id, sign in ((ONE, 1), (OTHER, -1)):
        entries = [
            _checkpoint(n, "a", metrics={"wild": sign * v, "flat": 3.0, "tiny": v and 1e-300 * n})
            for n, v in enumerate(values)
        ]
        put_run(registry, run_id, checkpoints=entries, metrics={"wild": sign * float("inf"), "$a$^_{": 1e300})
    page = Page(as_report(ONE, against=OTHER, registry=registry).html)
    _sound(page)
    assert "not finite" in page.text


def test_what_strangers_wrote_is_text_and_short(registry: LocalRegistry) -> None:
    evil = "<script>alert(1)</script>]]>-->\x00\u202e{{7*7}}$\\frac{a}{"
    long, huge = evil + "x" * 3000, evil + "y" * 1_000_000
    verdict = Verdict(
        run_id=OTHER, reproduces=ONE, verdict="DIVERGED", relaxed=[huge, evil],
        first_divergence=Divergence(
            epoch=2**60, step=-1, tensor=huge, shape=list(range(50_000)), elements=2**62, differing=-3, max_abs=1e308,
            relative=1e300, ulp=2**63 - 1, index=list(range(50_000)), how=long, state=[long] * 9, output=long,
        ),
        explanations=[
            Cause(
                kind="code", what=long, text=huge, why=long, lines=["+" + long] * 99,
                factor=Factor(kind="param", name="x", value="$(reboot)"),
            )
        ],
        comparisons=[Comparison(what=long, result="differs", detail=long)] * 200,
    )  # fmt: skip
    facts = {
        "name": huge, "params": {f"{evil}{n}": n for n in range(100_000)} | {evil: long},
        "metrics": {evil: 1.0, long: 2.0}, "execution": ExecutionFacts(variables={evil: long}),
        "machine": Machine(gpus=[long] * 100, numeric=Numeric(cpu=long, variables={evil: long})),
        "outputs": {}, "warnings": [long],
        "checkpoints": [_checkpoint(n, evil, metrics={f"{evil}{m}": 1.0 for m in range(20)}) for n in range(70)],
    }  # fmt: skip
    put_run(registry, ONE, **facts)
    put_run(registry, OTHER, **{**facts, "params": {evil: 1}}, reproduces=ONE, verdicts=[verdict], failure=long)
    link = RunLink(run_id=ONE, top_hash=long, lock_hash=None)
    VerdictStore(registry).add(
        VerdictRecord(
            verdict=verdict, original=link, reproduction=msgspec.structs.replace(link, run_id=OTHER), by=long, at=long,
            command=[long, evil] * 50, tolerance={"weights": {long: evil}, "metrics": [evil]}, reprokit=long,
        )
    )  # fmt: skip
    html = as_report(OTHER, registry=registry).html
    assert len(html) < 700_000
    page = Page(html)
    _sound(page)
    assert "<script" not in html
    assert "{{7*7}}" in page.text
    assert f"reprokit reproduce {ONE} --with 'param.x=\"$(reboot)\"'" in page.text
    assert "and 99,941 more" in page.text


def test_lines_of_a_log_that_are_no_metrics_are_counted(registry: LocalRegistry) -> None:
    lines = [
        '{"step": 1, "values": {"a": 1}}', "[" * 10_000, '{"step": 2, "values": {"a": "nan"}}', '{"step": true}', "{",
        "[]", '{"step": 1e400}', '{"step": 3, "values": {"a": NaN, "b": ' + "9" * 5000 + "}}",
    ]  # fmt: skip
    record = put_run(registry, ONE)
    run = RunStore(registry).load(ONE)
    with registry.staging() as sink:
        digest, size = sink.put_bytes("\n".join(lines).encode())
    entry = type(run.manifest["record.json"])("metrics.jsonl", size, digest)
    manifest = Manifest.make([*run.manifest.entries, entry], user_meta=meta_of(record.summary()))
    registry.publish(f"runs/{ONE}", manifest)
    page = Page(as_report(ONE, registry=registry).html)
    _sound(page)
    assert f"4 lines of metrics.jsonl of run {ONE} were not read" in page.text
    assert "Line plot of a by step" in str(page.tags)


def test_what_is_missing_is_named_with_the_line_that_installs_it(registry: LocalRegistry, tmp_path: Path) -> None:
    put_run(registry, ONE)
    code = "import sys; sys.modules['matplotlib'] = None; from reprokit.cli.main import main; main()"
    environment = {
        **os.environ,
        "REPROKIT_REGISTRY": registry.url,
        "REPROKIT_HOME": str(tmp_path / "h"),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", code, "export", ONE, "--as", "report"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{sys.executable} -m pip install {pip_words('report')}" in done.stderr


def _checkpoint(epoch: int, digest: str = "a", **facts: Any) -> CheckpointEntry:
    return CheckpointEntry(package="t/m", top_hash="0" * 64, state_digest=digest, epoch=epoch, step=epoch, **facts)
