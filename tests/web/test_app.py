"""Every address gives a page, or says what is wrong; nothing that a stranger wrote is more than text on it."""

from __future__ import annotations

import html
import random
import re
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from tests.conftest import SCALE
from tests.web.conftest import EVIL, HOST, PNG, Lab


def _pages(lab: Lab) -> list[str]:
    first, second = lab.registry.top_hashes("demo/files")
    keys = [quote(entry.logical_key, safe="") for entry in lab.registry.read_manifest(first).entries]
    run = lab.registry.head(f"runs/{lab.original}")
    assert run is not None
    return [
        "/runs", f"/runs?baseline={lab.original}&group=name&sort=-metrics.loss", "/runs?where=1%20%2B",
        "/packages",
        *(f"/runs/{one}" for one in (lab.original, lab.other, lab.repeated, lab.hostile, "latest", "faster")),
        *(f"/runs/{lab.original}/{part}" for part in ("log", "now", "charts.json")), f"/runs/{lab.hostile}/log",
        f"/runs/sparks.json?name=loss&run={lab.original}&run={lab.other}",
        f"/compare?run={lab.original}&run={lab.other}",
        f"/compare?run={lab.original}&run={lab.other}&run={lab.hostile}",
        f"/compare?run={lab.original}&run={lab.repeated}&charts=1",
        f"/report?one={lab.original}&other={lab.repeated}", f"/report?one={lab.original}&other={lab.other}",
        "/packages/demo/files", f"/packages/demo/files?version={first}&at=deep", "/packages/t/model?version=best",
        f"/packages/demo/files/diff?one={first}&other={second}",
        f"/packages/demo/files/diff?one={first}&other={second}&key=table.csv",
        *(f"/packages/demo/files/{first}/view?key={key}" for key in keys),
        f"/packages/runs/{lab.original}/{run.top_hash}/view?key=outputs%2Fmetrics.json",
        f"/lineage?ref={lab.original}", "/lineage?ref=t%2Fin&forward=1", "/lineage?ref=t%2Fin&forward=1&open=1",
        "/search", "/search?q=faster", f"/search?q={first[:8]}", f"/search?q={quote(EVIL)}", "/style.css",
        "/static/page.js", "/static/vendor/htmx.min.js",
    ]  # fmt: skip


def test_all_pages_are_there_and_what_a_stranger_wrote_is_text_on_them(lab: Lab, client: TestClient) -> None:
    seen = 0
    for page in _pages(lab):
        answer = client.get(page)
        assert answer.status_code == 200, f"{page}: {answer.text[:500]}"
        shown = re.sub(r' (value|href|hx-get|data-\w+)="[^"]*"', "", answer.text)
        assert "‮" not in shown, page
        if answer.headers["content-type"].startswith("text/html"):
            assert not re.search(r"<script>|<img src=x", answer.text), page
            assert not re.search(r"<[^>]* (on\w+|style)=", shown), page
            seen += html.escape("<script>window.hit=1</script>") in answer.text
    assert seen > 5  # it stands on pages: names, parameters, messages, files


def test_only_an_image_is_sent_as_it_is(lab: Lab, client: TestClient) -> None:
    first, _ = lab.registry.top_hashes("demo/files")
    image = client.get(f"/packages/demo/files/{first}/raw?key=a.png")
    assert (image.status_code, image.headers["content-type"], image.content) == (200, "image/png", PNG)
    assert image.headers["content-security-policy"] == "default-src 'none'; sandbox"
    for key in ("page.html", "draw.svg", "fake.png", "table.csv", "note.ipynb", "bytes.bin"):
        refused = client.get(f"/packages/demo/files/{first}/raw?key={key}")
        assert (refused.status_code, "<" in refused.text) == (415, False)


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/nothing", 404, "There is no such page."),
        ("/runs/zzzz", 404, "No run zzzz in "),
        ("/runs/2026", 404, None),
        ("/packages/no/such", 404, "No package no/such in "),
        ("/packages/demo/files?version=ffffffff", 404, "No version of demo/files starts with ffffffff"),
        ("/packages/demo/files?at=nowhere", 404, "demo/files has no folder"),
        ("/compare?run=latest", 400, "Two to 10 runs are compared, not 1."),
        ("/compare", 400, "Two to 10 runs are compared, not 0."),
        ("/lineage", 400, "Lineage is of a run, a checkpoint or a version."),
        ("/static/../../pyproject.toml", 404, None),
        ("/static/%2e%2e/%2e%2e/app.py", 404, None),
        ("/static//etc/passwd", 404, None),
    ],
)
def test_what_is_not_there_says_so(client: TestClient, path: str, status: int, says: str | None) -> None:
    answer = client.get(path)
    if path == "/runs/2026":
        assert answer.status_code in (200, 400)  # a part of one ID, or of several
        return
    assert answer.status_code == status
    assert says is None or html.escape(says) in answer.text


def test_keys_lead_nowhere_but_into_the_version(lab: Lab, client: TestClient) -> None:
    first, _ = lab.registry.top_hashes("demo/files")
    for key in (
        "../../../registry.json",
        "/etc/passwd",
        "deep",
        "",
        "deep/../a.png",
        "a.png\0",
        "%00",
        "code/train.py",
    ):
        for part in ("view", "raw"):
            answer = client.get(f"/packages/demo/files/{first}/{part}?key={quote(key, safe='')}")
            assert answer.status_code in (400, 404), (key, answer.status_code)


def test_rows_alone_are_sent_to_who_asks_again_and_nothing_if_nothing_changed(lab: Lab, client: TestClient) -> None:
    ask = {"hx-request": "true"}
    rows = client.get("/runs?sort=run", headers=ask)
    assert rows.text.lstrip().startswith('<div id="table"')
    assert lab.original in rows.text
    again = client.get("/runs?sort=run", headers=ask | {"if-none-match": rows.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    whole = client.get("/runs?sort=run", headers={"if-none-match": rows.headers["etag"]})
    assert (whole.status_code, whole.headers["vary"]) == (200, "HX-Request")  # a browser keeps both by one address
    assert whole.headers["etag"] != rows.headers["etag"] and whole.text.startswith("<!DOCTYPE html>")
    other = client.get("/runs?sort=-run", headers=ask | {"if-none-match": rows.headers["etag"]})
    assert other.status_code == 200


def test_the_log_is_read_in_pieces_and_moves_no_cursor(lab: Lab, client: TestClient) -> None:
    whole = client.get(f"/runs/{lab.original}/log")
    assert [line.split(" ", 2)[2] for line in whole.text.splitlines()] == ["epoch 0", "epoch 1", "epoch 2"]
    size = int(whole.headers["x-size"])
    assert (whole.headers["x-next"], whole.headers["content-type"]) == (str(size), "text/plain; charset=utf-8")
    rest = client.get(f"/runs/{lab.original}/log?from={size - 8}")
    assert rest.text == whole.text[-8:]
    assert client.get(f"/runs/{lab.original}/log?from={size}").text == ""
    assert client.get(f"/runs/{lab.original}/log?from=-1").text == whole.text
    assert "\x1b" not in client.get(f"/runs/{lab.hostile}/log").text


def test_a_repetition_says_what_came_of_it(lab: Lab, client: TestClient) -> None:
    page = client.get(f"/runs/{lab.repeated}").text
    assert f"/compare?run={lab.original}&amp;run={lab.repeated}" in page
    assert "BITWISE" in page
    assert "BITWISE" in client.get(f"/runs/{lab.original}").text
    report = client.get(f"/report?one={lab.original}&other={lab.repeated}").text
    assert "Reproduced bit for bit" in report or "BITWISE" in report
    differing = client.get(f"/compare?run={lab.original}&run={lab.other}").text
    what, _, equal = differing.partition("What is equal")
    assert "rate" in what
    assert ">epochs<" in equal
    assert ">epochs<" not in what


def test_no_address_brings_a_fault_of_the_pages_own_to_light(lab: Lab, client: TestClient) -> None:
    """REPROKIT_TEST_SCALE=25 asks for 10,000."""
    draw = random.Random(19)
    known = _pages(lab)
    names = ["run", "one", "other", "key", "at", "version", "where", "sort", "columns", "q", "ref", "page", "from"]
    names += ["name", "group", "baseline", "forward", "charts"]
    odd = ["", "0", "-1", "9" * 30, "..", "../..", "%00", "%ff%fe", "\ud800", "latest", "@best", "a/b", "a/b@ffff"]
    odd += ["'", EVIL, "metrics.loss", "not not run", "(" * 200, "metrics['a']", lab.original, "runs/x", ":", "é" * 50]

    def part() -> str:
        text = draw.choice([*odd, *odd, "".join(map(chr, draw.sample(range(1, 400), draw.randint(1, 12))))])
        return quote(text.encode(errors="surrogatepass"), safe=draw.choice(["", "/", "%"]))

    for number in range(int(400 * SCALE)):
        path = (
            draw.choice(known).partition("?")[0]
            if draw.random() < 0.7
            else "/" + "/".join(part() for _ in range(draw.randint(1, 5)))
        )
        query = "&".join(f"{draw.choice(names)}={part()}" for _ in range(draw.randint(0, 4)))
        answer = client.get(f"http://{HOST}{path}?{query}", headers={"hx-request": draw.choice(["true", "false"])})
        assert answer.status_code < 500 or answer.status_code == 503, f"{number}: {path}?{query}: {answer.text[:400]}"
        assert "Traceback" not in answer.text
        assert b"root:x:" not in answer.content
