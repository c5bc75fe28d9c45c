"""`reprokit ui` binds to this machine alone, says where, takes another port if one is taken, and ends on Ctrl-C."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import urllib.request

import pytest

from reprokit.errors import UsageError
from reprokit.web import serve
from tests.web.conftest import Lab


def test_a_port_that_is_taken_is_named_and_another_offered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"Port {port} cannot be had") as caught:
            serve._bound(port)
        assert "is free now" in str(caught.value.hint)


def test_without_a_port_the_next_free_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(serve, "PORT", taken.getsockname()[1])
        with serve._bound(None) as listener:
            host, port = listener.getsockname()
            assert (host, port != serve.PORT) == ("127.0.0.1", True)


def test_the_command_serves_until_it_is_stopped(lab: Lab) -> None:
    command = lab.project.command("ui", "--port", "0", "--json")
    with subprocess.Popen(
        command, cwd=lab.project.root, env=lab.project.environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            line = process.stdout.readline()
            assert line, "it ended"
            text += line
        address = json.loads(text)["url"]
        with urllib.request.urlopen(address) as answer:  # noqa: S310 - what it printed
            assert (answer.status, answer.url) == (200, f"{address}runs")
            assert lab.original in answer.read().decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 130)
