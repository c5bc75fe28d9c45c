"""Only this machine's browser is answered, only for the page's own sake, and it executes nothing of a stranger's."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from reprokit.web.guard import POLICY
from tests.web.conftest import HOST


@pytest.mark.parametrize(
    "host", ["evil.example:8265", "127.0.0.1", "127.0.0.1:8266", "localhost:8265", "", f"{HOST}.evil"]
)
def test_a_name_that_is_not_this_servers_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/runs", headers={"host": host})
    assert (answer.status_code, "reprokit ui" in answer.text) == (421, True)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
)
def test_other_pages_read_nothing(client: TestClient, headers: dict[str, str]) -> None:
    answer = client.get("/runs", headers=headers)
    assert (answer.status_code, answer.text) == (403, "This page is not read from other pages.\n")


def test_a_link_from_elsewhere_opens_it(client: TestClient) -> None:
    for headers in (
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
        {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "origin": f"http://{HOST}"},
    ):
        assert client.get("/runs", headers=headers).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_it_is_read_alone(client: TestClient, method: str) -> None:
    answer = client.request(method, "/runs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/runs", "/nothing", "/static/page.js", "/style.css", "/runs/zzzz"])
def test_every_answer_says_what_a_browser_may_do(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
    assert (headers["referrer-policy"], headers["cross-origin-resource-policy"]) == ("no-referrer", "same-origin")


def test_there_is_no_websocket(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/runs"):
        pass
