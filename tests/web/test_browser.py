"""A real browser opens every page: its console stays quiet, nobody is shut out, keys and clicks do what they say.

REPROKIT_TEST_PICTURES=FOLDER keeps a picture of each page at 1280 and 390 pixels, light, dark and as printed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.web.conftest import EVIL, Lab

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
PICTURES = os.environ.get("REPROKIT_TEST_PICTURES")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A page that fails its test if anything is wrong in its console."""
    context = browser.new_context(base_url=address, viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    wrong: list[str] = []
    opened.on("console", lambda told: wrong.append(told.text) if _is_wrong(told) else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    yield opened
    opened.goto("about:blank")
    context.close()
    assert wrong == []


def _is_wrong(told: Any) -> bool:
    """True of what a console should not say; that a file called .png is no image is not sent as one, is well."""
    return told.type in ("error", "warning") and not (
        "status of 415" in told.text and "fake.png" in told.location["url"]
    )


def _addresses(lab: Lab) -> dict[str, str]:
    first, second = lab.registry.top_hashes("demo/files")
    return {
        "runs": f"/runs?baseline={lab.original}", "groups": "/runs?group=name", "run": f"/runs/{lab.original}",
        "repeated": f"/runs/{lab.repeated}", "stranger": f"/runs/{lab.hostile}",
        "compare": f"/compare?run={lab.original}&run={lab.other}",
        "several": f"/compare?run={lab.original}&run={lab.other}&run={lab.repeated}", "packages": "/packages",
        "package": f"/packages/demo/files?version={first}",
        "changed": f"/packages/demo/files/diff?one={first}&other={second}",
        "table": f"/packages/demo/files/{first}/view?key=table.csv",
        "notebook": f"/packages/demo/files/{first}/view?key=note.ipynb",
        "tensors": f"/packages/demo/files/{first}/view?key=net.safetensors",
        "image": f"/packages/demo/files/{first}/view?key=a.png", "lineage": "/lineage?ref=t/in&forward=1",
        "search": "/search?q=tiny",
    }  # fmt: skip


def _settled(page: Page, path: str) -> None:
    page.goto(path)
    page.wait_for_load_state("networkidle")


def _violations(page: Page) -> list[str]:
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found: Any = page.evaluate("rules => axe.run({runOnly: {type: 'tag', values: rules}})", _RULES)
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"]]


def test_every_page_is_whole_at_any_width_in_light_and_dark_and_open_to_all(
    browser: Browser, address: str, lab: Lab
) -> None:
    pytest.importorskip("axe_playwright_python", reason="axe looks for what shuts people out")
    looks = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
    wrong: list[str] = []
    for width, scheme in looks if PICTURES is not None else [looks[0], looks[3]]:
        wrong += _looked_at(browser, address, lab, width, scheme)
    assert wrong == []


def _looked_at(browser: Browser, address: str, lab: Lab, width: int, scheme: Any) -> list[str]:
    """Open all pages; return what is wrong with them."""
    context = browser.new_context(
        base_url=address, viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda told: wrong.append(told.text) if _is_wrong(told) else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    for name, path in _addresses(lab).items():
        _settled(page, path)
        wrong += [f"{name} {width} {scheme}: {one}" for one in _violations(page)]
        over = page.locator("html").evaluate("page => page.scrollWidth - innerWidth")
        wrong += [f"{name} is {over} pixels wider than {width}"] if over > 0 else []
        if PICTURES is not None:
            page.screenshot(path=Path(PICTURES) / f"{name}-{width}-{scheme}.png", full_page=True)
            if (width, scheme) == (1280, "light"):
                page.emulate_media(media="print")
                page.screenshot(path=Path(PICTURES) / f"{name}-print.png", full_page=True)
                page.emulate_media(media="screen")
    context.close()
    return wrong


def test_nothing_that_a_stranger_wrote_is_executed(page: Page, lab: Lab) -> None:
    for path in (
        *_addresses(lab).values(),
        f"/compare?run={lab.original}&run={lab.hostile}",
        f"/search?q={lab.hostile[:8]}",
    ):
        _settled(page, path)
        assert page.evaluate("window.hit === undefined"), path
    first, _ = lab.registry.top_hashes("demo/files")
    for key in ("page.html", "draw.svg", "fake.png", "table.csv"):
        _settled(page, f"/packages/demo/files/{first}/view?key={key}")
        assert page.evaluate("window.hit === undefined"), key
    assert page.get_by_text("window.hit=1").count() >= 1


def test_runs_are_searched_ordered_and_shown_as_the_address_says(page: Page, lab: Lab) -> None:
    _settled(page, "/runs")
    rows = page.locator("tr[data-run]")
    assert rows.count() == 4
    page.get_by_label("Where").fill("params.rate == 0.2")
    playwright.expect(rows).to_have_count(1)
    playwright.expect(page.locator("#count")).to_have_text("1 of 4")
    assert parse_qs(urlsplit(page.url).query) == {"where": ["params.rate == 0.2"]}
    page.get_by_label("Where").fill("params.rate ==")
    playwright.expect(page.get_by_role("alert")).to_contain_text("invalid syntax")
    page.get_by_label("Where").fill("")  # the address of the whole page, which the browser has kept
    playwright.expect(page.locator("#count")).to_have_text("4")
    playwright.expect(page.locator("h1")).to_have_count(1)
    page.get_by_label("Where").fill("metrics.loss > 0")
    playwright.expect(rows).to_have_count(3)
    page.get_by_role("link", name="loss", exact=True).click()
    playwright.expect(page.locator("th[aria-sort=descending]")).to_have_text("loss ↓")
    losses = [float(text) for text in page.locator("tr[data-run] td:nth-child(9)").all_inner_texts()]
    assert losses == sorted(losses, reverse=True)
    page.reload()
    playwright.expect(rows).to_have_count(3)
    playwright.expect(page.locator("th[aria-sort=descending]")).to_have_text("loss ↓")
    page.get_by_role("link", name="Pin").first.click()
    playwright.expect(page.locator("tr.base")).to_have_count(1)
    playwright.expect(page.locator(".spark svg").first).to_be_visible()
    page.go_back()
    playwright.expect(page.locator("tr.base")).to_have_count(0)


def test_columns_are_chosen_and_remembered(page: Page) -> None:
    _settled(page, "/runs")
    page.get_by_text("Columns", exact=True).first.click()
    page.get_by_label("params.epochs").uncheck()
    heads = page.locator("thead th")
    playwright.expect(heads.filter(has_text="epochs")).to_have_count(0)
    _settled(page, "/runs")
    assert "columns=" in page.url
    playwright.expect(heads.filter(has_text="rate")).to_have_count(1)
    playwright.expect(heads.filter(has_text="epochs")).to_have_count(0)


def test_two_ticked_runs_are_compared_by_keys_alone(page: Page, lab: Lab) -> None:
    _settled(page, "/runs?where=reproduces+is+None+and+metrics.loss+>+0")
    page.keyboard.press("j")
    page.keyboard.press("x")
    playwright.expect(page.get_by_role("button", name="Compare")).to_be_disabled()
    page.keyboard.press("j")
    page.keyboard.press("x")
    playwright.expect(page.locator("#ticked")).to_have_text("2 ticked")
    page.keyboard.press("c")
    page.wait_for_url("**/compare?**")
    assert {lab.original, lab.other} == {part.partition("=")[2] for part in page.url.partition("?")[2].split("&")}
    playwright.expect(page.locator(".charts[data-drawn]")).to_have_count(1)
    playwright.expect(page.locator(".report .verdict")).to_be_visible()
    playwright.expect(page.locator(".matrix")).to_contain_text("rate")
    page.get_by_label("logarithmic").check()
    page.locator("[data-axis]").select_option("epoch")
    playwright.expect(page.locator(".u-legend").first).to_contain_text("epoch")
    page.keyboard.press("?")
    page.locator("body").click()
    page.keyboard.press("?")
    page.keyboard.press("/")
    page.keyboard.type(lab.other)
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/runs/{lab.other}")


def test_lineage_is_drawn_and_leads_on(page: Page, lab: Lab) -> None:
    _settled(page, "/lineage?ref=t/in&forward=1")
    playwright.expect(page.locator("#graph svg .node")).to_have_count(4)  # the version, and three runs that used it
    page.locator(f"#graph a[href='/runs/{lab.other}']").click()
    page.wait_for_url(f"**/runs/{lab.other}")
    page.get_by_role("link", name="Where it comes from").click()
    playwright.expect(page.locator("#graph svg")).to_contain_text("t/in")
    page.locator("#graph a.version").first.click()
    page.wait_for_url("**/packages/t/in?**")


def test_a_run_that_goes_on_is_watched_to_its_end(page: Page, lab: Lab, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    project = lab.project
    before = (project.root / "train.py").read_text()
    project.hook(
        f"print('written', flush=True)\n    while epoch > 0 and os.path.exists({str(hold)!r}): time.sleep(0.05)"
    )
    hold.touch()
    command = project.command("run", "recipe.yaml", "--name", "watched")
    runner = subprocess.Popen(
        command, cwd=project.root, env=project.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _settled(page, "/runs")
        row = page.locator("tr[data-run]", has_text="watched")
        playwright.expect(row).to_be_visible(timeout=60_000)  # without anybody asking for it
        playwright.expect(row).to_contain_text("running")
        row.get_by_role("link").first.click()
        playwright.expect(page.locator("#log-text")).to_contain_text("written", timeout=60_000)
        playwright.expect(page.locator("#now")).to_contain_text("running")
        hold.unlink()
        assert runner.wait(60) == 0
        playwright.expect(page.locator("#now")).to_contain_text("finished", timeout=60_000)
        playwright.expect(page.locator(".timeline li")).to_have_count(3)
        page.get_by_label("Find in the log").fill("epoch 2")
        playwright.expect(page.locator("#log-text mark")).to_have_count(1)
    finally:
        hold.unlink(missing_ok=True)
        runner.kill()
        runner.wait()
        project.write("train.py", before)
        project.commit()


def test_a_strangers_values_are_text_in_curves_too(page: Page, lab: Lab) -> None:
    _settled(page, f"/runs/{lab.hostile}")
    playwright.expect(page.locator("figure .chart")).to_have_count(2)
    assert EVIL[:20] in page.locator("figure strong").first.inner_text()
    assert (
        "3 not finite" in page.locator("#curves").inner_text()
        or "no finite value" in page.locator("#curves").inner_text()
    )
