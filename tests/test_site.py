"""The site is built without a network or a warning; its links lead somewhere, its pages load nothing of others."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

from tests.conftest import ROOT

PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
ZENSICAL = shutil.which("zensical", path=PLACES)
CHROMIUM = shutil.which("chromium")
_NOWHERE = "http://127.0.0.1:9"
_LOADING = {"stylesheet", "preload", "icon", "preconnect", "modulepreload", "prefetch", "dns-prefetch", "manifest"}

needs_zensical = pytest.mark.skipif(ZENSICAL is None, reason="the docs extra is not installed")


@dataclass
class Page:
    """A page: what it `loads` by itself, its `links` and the `names` to link to, the `texts` of its paragraphs."""

    loads: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page()
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self.page.names |= {told[name] for name in ("id", "name") if name in told}
        if tag == "a" and "href" in told:
            self.page.links.append(told["href"])
        if tag == "link" and set(told.get("rel", "").split()) & _LOADING:
            self.page.loads.append(told.get("href", ""))
        if tag != "a" and "src" in told:
            self.page.loads.append(told["src"])
        self.page.loads += [part.split()[0] for part in told.get("srcset", "").split(",") if part.strip()]
        self.page.loads += re.findall(r"url\(['\"]?([^'\")]+)", told.get("style", ""))
        if tag == "p":
            self.page.texts.append("")
        if tag in ("p", "code", "pre", "strong", "em", "a"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            del self._inside[len(self._inside) - 1 - self._inside[::-1].index(tag) :]

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] == ["p"]:
            self.page.texts[-1] += data


def read(file: Path) -> Page:
    reader = Reader()
    reader.feed(file.read_text("utf-8"))
    return reader.page


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of the pages in `folder`, strictly, where no network is."""
    assert ZENSICAL is not None
    command = [ZENSICAL, "build", "--strict", "--clean", "--config-file", "zensical.toml"]
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode == 0:
        command = ["unshare", "-rn", *command]
    proxies = {f"{kind}_proxy": _NOWHERE for kind in ("http", "https", "HTTP", "HTTPS", "all")}
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **proxies}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def copy(folder: Path) -> Path:
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "zensical.toml", folder)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = copy(tmp_path_factory.mktemp("site"))
    done = build(folder)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "No issues found" in said and "arning" not in said, said
    return folder / "site"


def faults(site: Path) -> Iterator[str]:
    """Yield what is wrong with the pages of a site: links, what they load, and Markdown that was taken for text."""
    pages = {file: read(file) for file in sorted(site.glob("**/*.html"))}
    for file, page in pages.items():
        if file.name == "404.html":
            continue  # served at any address, so its links begin at the root
        here = str(file.relative_to(site))
        for link in [*page.links, *page.loads]:
            if link in page.loads and re.match(r"(https?:)?//", link):
                yield f"{here} loads {link}"
            if re.match(r"[a-z]+:|//", link):
                continue
            place, anchor = urldefrag(link)
            target = (file.parent / unquote(place)).resolve() if place else file
            if not target.is_file():
                yield f"{here}: {link} is not there"
            elif anchor and target in pages and unquote(anchor) not in pages[target].names | {"__search"}:
                yield f"{here}: {link} has no such place"
        for text in page.texts:
            if re.search(r"^\s*([-*|]|\d+\.) .*|\]\(\S+\)", text, re.MULTILINE):
                yield f"{here} shows Markdown: {text.strip()[:60]}"
    for file in site.glob("**/*.css"):
        for place in re.findall(r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]+)", file.read_text("utf-8")):
            yield f"{file.relative_to(site)} loads {place}"


def in_nav(nav: Any) -> Iterator[str]:
    for one in nav:
        for inner in one.values() if isinstance(one, dict) else [one]:
            yield from [inner] if isinstance(inner, str) else in_nav(inner)


def test_every_page_is_in_the_navigation_once() -> None:
    told = list(in_nav(tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"]))
    pages = (str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").glob("**/*.md"))
    assert sorted(told) == sorted(pages)


@needs_zensical
def test_the_site_holds_together_and_loads_nothing_of_others(site: Path) -> None:
    assert list(faults(site)) == []
    pages = {str(page.relative_to(site))[:-5] for page in site.glob("**/*.html")}
    assert pages - {"404"} == {str(page.relative_to(ROOT / "docs"))[:-3] for page in (ROOT / "docs").glob("**/*.md")}
    assert not list(site.glob("**/*.py"))


@needs_zensical
def test_a_dead_link_ends_the_build(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / "docs" / "inputs.md").open("a").write("\n[a](gone.md) and [b](keras.md#no-such-place)\n")
    done = build(folder)
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "2 issues found" in said, said
    assert "page does not exist" in said and "anchor does not exist" in said


@needs_zensical
def test_the_checks_find_what_is_planted(site: Path, tmp_path: Path) -> None:
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site" / "keras.html").open("a").write(
        '<img src="gone.svg"><script src="https://example.org/a.js"></script><a href="inputs.html#nowhere">x</a>'
        '<a href="https://example.org">fine</a><link rel="stylesheet" href="//example.org/a.css">'
        "<p>such as:\n- one\n- <code>- two</code></p><p>[a](b.md)</p><p>fine, `- 1`</p>"
    )
    (tmp_path / "site" / "a.css").write_text("@font-face { src: url(https://example.org/a.woff) }")
    assert sorted(faults(tmp_path / "site")) == [
        "a.css loads https://example.org/a.woff",
        "keras.html loads //example.org/a.css",
        "keras.html loads https://example.org/a.js",
        "keras.html shows Markdown: [a](b.md)",
        "keras.html shows Markdown: such as:\n- one\n-",
        "keras.html: gone.svg is not there",
        "keras.html: inputs.html#nowhere has no such place",
    ]


_SEARCHING = """
<script>
const all = root => [...root.querySelectorAll("*")]
  .flatMap(one => one.shadowRoot ? [one, ...all(one.shadowRoot)] : [one])
const until = (found, then) => { const seen = found(); seen ? then(seen) : setTimeout(() => until(found, then), 100) }
until(() => document.querySelector(".md-search__button"), button => {
  button.click()
  until(() => all(document).find(one => one.tagName === "INPUT" && one.placeholder === "Search"), input => {
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(input, "provisos")
    input.dispatchEvent(new Event("input", { bubbles: true, composed: true }))
    until(() => all(document).find(one => one.tagName === "A" && /verdicts\\.html.*#provisos/.test(one.href)),
          link => { document.title = "found " + link.href })
  })
})
</script>
"""


@needs_zensical
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_who_opens_the_site_as_a_file_can_search_it(site: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site" / "index.html").open("a").write(_SEARCHING)
    told = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
         "--virtual-time-budget=20000", "--dump-dom", (tmp_path / "site" / "index.html").as_uri()],
        capture_output=True, text=True, check=False, timeout=120,
    ).stdout  # fmt: skip
    assert re.search(r"<title>found file:\S+/verdicts\.html\S*#provisos</title>", told), told[:2000]
