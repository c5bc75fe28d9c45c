"""The process that executes a run's notebook: a kernel of the run's environment, fed cell by cell, its outputs kept.

Started by the runner as `python -m reprokit.execution.notebook_host PLAN`; the plan is what `launch` wrote. What the
cells print is printed here too, so the runner logs it as it does a script's output.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelClient
from jupyter_client.connect import write_connection_file
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from reprokit.core.atomic_files import durable_write
from reprokit.errors import Error
from reprokit.execution.run_secrets import Mask
from reprokit.execution.script_process import set_up_child
from reprokit.schema.notebook import SKIPPED, Notebook, encode

__all__ = ["execute"]

_KEPT_TEXT = 1_000_000
"""Characters that the executed notebook keeps of what a cell prints; the log has all of them."""
_KEPT_OUTPUT = 8_000_000
_KEPT_IN_ALL = 48_000_000
_LOGGED_RESULT = 10_000
_LAST_WORDS = 4_000
_PATIENCE = 600.0
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class _LastWords(threading.Thread):
    """The end of what a kernel writes to its own stderr: why it did not start, or how it crashed."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        super().__init__(daemon=True)
        self._stream = process.stderr
        self._tail = b""
        self.start()

    def run(self) -> None:
        while self._stream is not None and (block := os.read(self._stream.fileno(), 65536)):
            self._tail = (self._tail + block)[-_LAST_WORDS:]

    def text(self) -> str:
        self.join(2)
        return self._tail.decode(errors="replace")


class _Client(AsyncKernelClient):  # type: ignore[misc]  # of a library without types
    """A client that knows the kernel's process, and so whether it lives."""

    process: subprocess.Popen[bytes]
    last_words: _LastWords

    async def _async_is_alive(self) -> bool:
        return self.process.poll() is None

    is_alive = _async_is_alive


class _Executor(NotebookClient):  # type: ignore[misc]  # of a library without types
    """Executes cells, passes on what they print, and keeps as much of it as the caps allow."""

    def __init__(self, notebook: Any, file: Path, mask: Mask) -> None:
        super().__init__(
            notebook, timeout=None, iopub_timeout=60, store_widget_state=False,
            skip_cells_with_tag=SKIPPED, on_cell_executed=self._note,
        )  # fmt: skip
        self.file = file
        self.mask = mask
        self.asked_to_exit = False
        self._text = self._cut = self._total = 0
        self._changed = False
        self._stream: Any = None  # the output that text is being added to, and the pieces it is made of
        self._pieces: list[str] = []

    def begin_cell(self) -> None:
        self._text = self._cut = 0

    def end_cell(self, cell: Any) -> None:
        self._join()
        self._stream = None
        if self._cut:
            text = f"[reprokit: {self._cut:,} more characters are not kept here; the run's log has them]\n"
            cell.outputs.append(nbformat.v4.new_output("stream", name="stderr", text=text))
        self._changed = True

    async def keep_writing(self) -> None:
        """Write the notebook as it is so far, about once a second; large ones, which take their time, less often."""
        while True:
            started = time.monotonic()
            if self._changed:
                self.write()
            await asyncio.sleep(max(0.5, 20 * (time.monotonic() - started)))

    def write(self) -> None:
        self._join()
        self._changed = False
        durable_write(self.file, self.mask(encode(self.nb)), sync=False)

    def process_message(self, message: dict[str, Any], cell: Any, cell_index: int) -> Any:
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            _print(content["text"], error=content["name"] == "stderr")
            content["text"] = self._within_cap(content["text"])
            if not content["text"]:
                return None
        elif kind in ("display_data", "execute_result"):
            text = content["data"].get("text/plain")
            if isinstance(text, str):
                _print(text[:_LOGGED_RESULT].rstrip("\n") + ("…\n" if len(text) > _LOGGED_RESULT else "\n"))
        elif kind == "error":
            _print(_ANSI.sub("", "\n".join(content["traceback"])) + "\n", error=True)
        elif kind == "clear_output":
            self._text = self._cut = 0
        if kind in ("display_data", "execute_result", "update_display_data"):
            self._cap_data(content, counted=kind != "update_display_data")
        self._changed = True
        if kind == "stream" and self._goes_on(message, cell):
            self._pieces.append(content["text"])
            return None
        self._join()
        output = super().process_message(message, cell, cell_index)
        if output is not None and kind == "stream":
            self._stream, self._pieces = output, [content["text"]]
        return output

    def _goes_on(self, message: dict[str, Any], cell: Any) -> bool:
        """True if a text belongs behind the one that the cell printed last."""
        hooked = self.output_hook_stack[message["parent_header"].get("msg_id")]
        last = cell.outputs[-1] if cell.outputs else None
        same = last is not None and last is self._stream and last["name"] == message["content"]["name"]
        return bool(same and not hooked and not self.clear_before_next_output)

    def _join(self) -> None:
        """Make one text of the pieces; of a line that was written over, as progress bars do, what was written last."""
        if self._stream is not None and len(self._pieces) > 0:
            lines = "".join(self._pieces).split("\n")
            text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
            self._stream["text"], self._pieces = text, [text]

    def _within_cap(self, text: str) -> str:
        room = max(0, min(_KEPT_TEXT - self._text, _KEPT_IN_ALL - self._total))
        kept = text[:room]
        self._text += len(kept)
        self._total += len(kept)
        self._cut += len(text) - len(kept)
        return kept

    def _cap_data(self, content: dict[str, Any], *, counted: bool) -> None:
        size = len(json.dumps(content["data"]))
        if size > min(_KEPT_OUTPUT, _KEPT_IN_ALL - self._total):
            kinds = ", ".join(content["data"])
            content["data"] = {
                "text/plain": f"[reprokit: an output of {size:,} bytes is not kept ({kinds}): at most "
                f"{_KEPT_OUTPUT:,} each, {_KEPT_IN_ALL:,} in all]"
            }
        elif counted:
            self._total += size

    async def _note(self, *, cell: Any, cell_index: int, execute_reply: dict[str, Any]) -> None:  # noqa: ARG002
        payload = execute_reply["content"].get("payload") or []
        self.asked_to_exit = any(item.get("source") == "ask_exit" for item in payload)


async def execute(plan: dict[str, Any]) -> int:
    """Execute a notebook as planned; return the exit code that a script in its place would have."""
    stopped: list[int] = []
    name = plan["name"]
    notebook = Notebook.parse(Path(plan["notebook"]).read_bytes(), what=name)
    plain, numbers = notebook.with_params(plan["params"])
    document = nbformat.from_dict({**plain, "cells": [_unexecuted(cell) for cell in plain["cells"]]})
    mask = Mask(os.environ[secret] for secret in plan["secrets"])
    executor = _Executor(document, Path(plan["executed"]), mask)
    executor.write()
    client, process = _start_kernel(plan)

    def forward(number: int) -> None:
        if number != signal.SIGUSR1:
            stopped.append(number)
        if process.poll() is None:
            process.send_signal(number)

    loop = asyncio.get_running_loop()
    for told in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        loop.add_signal_handler(told, forward, told)
    writing = asyncio.ensure_future(executor.keep_writing())
    where = "before its first cell"
    failure: str | None = None
    code = 0
    try:
        await _get_ready(client, executor, Path(plan["notebook"]).parent)
        for index, cell in enumerate(document.cells):
            if stopped or executor.asked_to_exit:
                break
            where = f"in {_place(numbers[index])} [{executor.code_cells_executed + 1}]"
            executor.begin_cell()
            try:
                await executor.async_execute_cell(cell, index, execution_count=executor.code_cells_executed + 1)
            finally:
                executor.end_cell(cell)
        client.shutdown()
        await _ended(process)
    except CellExecutionError as error:
        code = _exit_code(error)
        failure = f"{name} failed {where}: {error.ename}: {error.evalue[:2000]}"
        client.shutdown()
        await _ended(process)
    except (DeadKernelError, _KernelDied):
        number = process.wait()
        _print(client.last_words.text(), error=True)
        how = f"was killed by {signal.Signals(-number).name}" if number < 0 else f"ended with exit code {number}"
        code, failure = (128 - number if number < 0 else number or 1), f"The kernel of {name} {how} {where}."
    finally:
        writing.cancel()
        client.stop_channels()
        if process.poll() is None:
            process.kill()
            process.wait()
        executor.write()
    if stopped:
        return 128 + stopped[0]
    if code and failure is not None:
        Path(plan["failure"]).write_bytes(mask(failure.encode("utf-8", "replace")))
    return code


class _KernelDied(Exception):
    """The kernel ended before it was ready."""


def _start_kernel(plan: dict[str, Any]) -> tuple[_Client, subprocess.Popen[bytes]]:
    scratch = Path(plan["scratch"])
    connection, _ = write_connection_file(
        str(scratch / "kernel.json"), transport="ipc", ip=str(scratch / "kernel"), key=secrets.token_hex(32).encode()
    )
    process = subprocess.Popen(
        [plan["python"], "-m", "ipykernel_launcher", "-f", connection, "--HistoryManager.hist_file=:memory:"],
        cwd=plan["workdir"],
        env={name: os.environ[name] for name in plan["inherited"]}
        | plan["variables"]
        | {"JPY_PARENT_PID": str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # the cells' output comes over the line; the kernel writes it here once more
        stderr=subprocess.PIPE,
        preexec_fn=set_up_child if sys.platform == "linux" else None,
    )
    client = _Client()
    client.process = process
    client.last_words = _LastWords(process)
    client.load_connection_file(connection)
    return client, process


async def _get_ready(client: _Client, executor: _Executor, folder: Path) -> None:
    client.start_channels()
    client.allow_stdin = False
    ready = asyncio.ensure_future(client.wait_for_ready(timeout=_PATIENCE))
    while not ready.done():
        await asyncio.wait({ready}, timeout=0.2)
        if client.process.poll() is not None:
            ready.cancel()
            raise _KernelDied
    ready.result()
    executor.kc = client
    code = f"__import__('reprokit.client.notebook_cells', fromlist=['prepare']).prepare(get_ipython(), {str(folder)!r})"
    reply = await executor.async_wait_for_reply(client.execute(code, silent=True, store_history=False))
    if reply is None or reply["content"]["status"] != "ok":
        told = reply["content"] if reply else {}
        raise RuntimeError(f"the kernel could not be prepared: {told.get('ename')}: {told.get('evalue')}")


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """Wait for the kernel to leave; like a script it may take its time, to store what it saved last."""
    while process.poll() is None:
        await asyncio.sleep(0.02)


def _unexecuted(cell: dict[str, Any]) -> dict[str, Any]:
    if cell["cell_type"] != "code":
        return cell
    return {**cell, "outputs": [], "execution_count": None}


def _place(number: int | None) -> str:
    return f"cell {number}" if number is not None else "the cell of parameters"


def _exit_code(error: CellExecutionError) -> int:
    """Return what a script that ends with this exception would leave with."""
    if error.ename != "SystemExit":
        return 1
    text = str(error.evalue)
    return 0 if text in ("", "None") else int(text) % 256 if text.lstrip("-").isdigit() else 1


def _print(text: str, *, error: bool = False) -> None:
    stream = (sys.stderr if error else sys.stdout).buffer
    stream.write(text.encode("utf-8", "backslashreplace"))
    stream.flush()


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(execute(json.loads(Path(sys.argv[1]).read_bytes()))))
    except Error as failed:
        sys.exit(str(failed))
