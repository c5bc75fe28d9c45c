"""Chosen runs are pages that open from a file, whole by themselves, and tell nothing of what was not chosen."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path

import pytest

from reprokit.errors import NotFoundError, UsageError
from reprokit.web.static_pages import export_pages
from tests.web.conftest import PNG, Lab

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def pages(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "out"
    assert export_pages(["tiny", lab.repeated[-6:], lab.hostile], folder, context=lab.context) == [
        lab.original, lab.repeated, lab.hostile,
    ]  # fmt: skip
    return folder


def test_links_lead_to_files_that_are_there_and_nowhere_else(pages: Path, lab: Lab) -> None:
    names = {path.relative_to(pages).as_posix() for path in pages.rglob("*") if path.is_file()}
    assert {"index.html", f"run-{lab.original}.html", f"compare-{lab.original}-{lab.repeated}.html"} <= names
    found = set()
    for file in pages.glob("*.html"):
        text = file.read_text()
        shown = text[: text.index('<script type="application/json"')] if "application/json" in text else text
        bare = re.sub(r' (value|data-\w+|aria-label)="[^"]*"', "", shown)
        links = [html.unescape(link) for link in re.findall(r' (?:href|src|action)="([^"#?]+)"', shown)]
        assert all(not link.startswith(("/", "http", "file:")) for link in links), file.name
        found |= set(links)
        assert str(lab.project.base) not in text, file.name  # where the registry lies
        assert not re.search(r" hx-|<[^>]* on\w+=|<link |<script src", bare), file.name
    assert found <= names
    assert lab.other not in "".join(file.read_text() for file in pages.glob("*.html"))  # which was not chosen
    assert [file.read_bytes()[: len(PNG)] for file in sorted((pages / "files").iterdir())] == [PNG, PNG]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_opens_them_from_the_disk_and_executes_nothing_of_a_strangers(pages: Path, lab: Lab) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    wrong: list[str] = []
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page()
        page.on("console", lambda told: wrong.append(told.text) if told.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto((pages / "index.html").as_uri())
        playwright.expect(page.locator("tr[data-run]")).to_have_count(3)
        playwright.expect(page.locator(".spark svg")).to_have_count(2)
        page.locator(f"a[href='run-{lab.original}.html']").click()
        playwright.expect(page.locator(".chart canvas")).to_have_count(1)
        playwright.expect(page.locator("#log-text")).to_contain_text("epoch 2")
        page.get_by_role("link", name="compare").click()
        playwright.expect(page.locator(".report .verdict")).to_contain_text("BITWISE")
        for file in pages.glob("*.html"):
            page.goto(file.as_uri())
            assert page.evaluate("window.hit === undefined"), file.name
        browser.close()
    assert wrong == []


def test_what_cannot_be_written_is_named(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(UsageError, match="is not empty"):
        export_pages(["latest"], tmp_path / "full", context=lab.context)
    with pytest.raises(NotFoundError, match="No run nobody"):
        export_pages(["nobody"], tmp_path / "new", context=lab.context)
    assert not (tmp_path / "new").exists()
    for words in (("latest",), ("--export", str(tmp_path / "x"))):
        assert "RUNs are named with --export DIR" in lab.project.reprokit("ui", *words, expect=2).stderr
