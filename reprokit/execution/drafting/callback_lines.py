"""The lines by which a script saves its checkpoints: proposed as a patch, where its text shows how it trains.

Parsed, never executed. Seen are Keras' `fit`, the trainers of Lightning and Hugging Face, `train` of XGBoost and
LightGBM, and a loop over epochs in PyTorch beside the optimiser that it steps. What the text does not show plainly gets
no patch.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from reprokit.execution.drafting.source_text import last_name, parsed, root_name

__all__ = ["adopts", "with_callback", "with_callback_lines"]

_MODELS = ("model", "net", "network", "module")
_SCHEDULER = re.compile(r"(LR|Scheduler|Restarts|Plateau|schedule_with_warmup)$")
_Scope = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, order=True)
class _Edit:
    """Bytes of the source that are replaced: from, to."""

    start: int
    end: int
    text: str


@dataclass
class _Parts:
    """What a loop trains, by the names that a scope has for it."""

    model: str | None = None
    optimizer: str | None = None
    schedulers: list[str] = field(default_factory=list)
    loaders: list[str] = field(default_factory=list)


def adopts(source: bytes) -> bool:
    """True of a script that speaks of reprokit's callbacks already."""
    return b"PackageCheckpoint" in source or b"reprokit.callbacks" in source


def with_callback(source: bytes, name: str) -> str | None:
    """Return a unified diff that puts reprokit's callback into a script; None where its text does not show the place.

    Args:
        name: The script's path, for the head of the diff.
    """
    edited = with_callback_lines(source)
    if edited is None:
        return None
    before, after = (text.decode("utf-8").splitlines(keepends=True) for text in (source, edited))
    lines = difflib.unified_diff(before, after, f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def with_callback_lines(source: bytes) -> bytes | None:
    """Return the script with the callback; None as for `with_callback`."""
    tree = parsed(source)
    if tree is None or b"\r" in source or not _is_utf8(source):
        return None
    places = _Places(source)
    for framework, find in (
        ("transformers", _transformers),
        ("lightning", _lightning),
        ("xgboost", _boosters),
        ("lightgbm", _boosters),
        ("keras", _keras),
        ("pytorch", _pytorch),
    ):
        edits = find(tree, places, framework)
        if edits:
            line = f"from reprokit.callbacks.{framework} import PackageCheckpoint\n"
            edits.append(_Edit(at := places.after_imports(tree), at, line))
            edited = places.edited(edits)
            return edited if parsed(edited) is not None else None
    return None


def _is_utf8(source: bytes) -> bool:
    """True of what is plain UTF-8: by another encoding, or behind a byte order mark, columns count otherwise."""
    try:
        return not source.decode("utf-8").startswith("\ufeff")
    except UnicodeDecodeError:
        return False


class _Places:
    """Where nodes stand in the source, in bytes."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def line(self, number: int) -> int:
        return self._starts[min(number, len(self._starts)) - 1]

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        if node.end_lineno is None or node.end_col_offset is None:
            raise AssertionError("a parsed node has an end")
        return self.line(node.lineno) + node.col_offset, self.line(node.end_lineno) + node.end_col_offset

    def text(self, node: ast.expr) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode("utf-8")

    def after_imports(self, tree: ast.Module) -> int:
        """Return where the last of the imports at the top ends."""
        last = 1
        for node in tree.body:
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if not (docstring or isinstance(node, ast.Import | ast.ImportFrom)):
                break
            last = (node.end_lineno or node.lineno) + 1
        return self.line(last)

    def edited(self, edits: list[_Edit]) -> bytes:
        found = self.source
        if found and not found.endswith(b"\n"):
            found += b"\n"
        for edit in sorted(edits, reverse=True):
            found = found[: edit.start] + edit.text.encode("utf-8") + found[edit.end :]
        return found


def _imported(tree: ast.AST) -> dict[str, str]:
    """Return the modules that names come from: `T` from `from lightning import Trainer as T`."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _from(call: ast.Call, imported: dict[str, str], *packages: str) -> bool:
    return imported.get(root_name(call.func), "").partition(".")[0] in packages


def _given(call: ast.Call, places: _Places, made: str = "PackageCheckpoint()") -> _Edit | None:
    """Return the edit that adds a callback to a call."""
    if any(keyword.arg is None for keyword in call.keywords):  # `**more` may have callbacks
        return None
    told = next((keyword.value for keyword in call.keywords if keyword.arg == "callbacks"), None)
    if isinstance(told, ast.List):
        start, _ = places.span(told)
        return _Edit(start + 1, start + 1, f"{made}, " if told.elts else made)
    if isinstance(told, ast.Constant) and told.value is None:
        return _Edit(*places.span(told), f"[{made}]")
    if told is not None:
        return _Edit(*places.span(told), f"[*({places.text(told)}), {made}]") if _is_plain(told) else None
    end = places.span(call)[1] - 1
    last = [*call.args, *(keyword.value for keyword in call.keywords)]
    if not last:
        return _Edit(end, end, f"callbacks=[{made}]")
    between = re.sub(rb"#[^\n]*", b"", places.source[max(places.span(one)[1] for one in last) : end])
    return _Edit(end, end, f"{'' if b',' in between else ', '}callbacks=[{made}]")


def _is_plain(node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Attribute)


def _alone(found: list[ast.Call], places: _Places) -> list[_Edit]:
    """Return the edit of a call that is the only one: of several, which one is meant is for the user to say."""
    edit = _given(found[0], places) if len(found) == 1 else None
    return [] if edit is None else [edit]


def _transformers(tree: ast.Module, places: _Places, _: str) -> list[_Edit]:
    imported = _imported(tree)
    found = [call for call in _calls(tree) if _from(call, imported, "transformers") and _made_of(call, imported)]
    return _alone(found, places)


def _made_of(call: ast.Call, imported: dict[str, str]) -> bool:
    """True of `Trainer(…)` and `Seq2SeqTrainer(…)`, whatever they were imported as."""
    name = imported.get(last_name(call.func), "") if isinstance(call.func, ast.Name) else last_name(call.func)
    return name.rpartition(".")[2] in ("Trainer", "Seq2SeqTrainer")


def _lightning(tree: ast.Module, places: _Places, _: str) -> list[_Edit]:
    imported = _imported(tree)
    found = [call for call in _calls(tree) if _from(call, imported, "lightning") and _made_of(call, imported)]
    return _alone(found, places)


def _boosters(tree: ast.Module, places: _Places, framework: str) -> list[_Edit]:
    imported = _imported(tree)
    found = [call for call in _calls(tree) if last_name(call.func) == "train" and _from(call, imported, framework)]
    return _alone(found, places)


def _keras(tree: ast.Module, places: _Places, _: str) -> list[_Edit]:
    imported = _imported(tree).values()
    if not any(name.partition(".")[0] in ("keras", "tensorflow", "tf_keras") for name in imported):
        return []
    found = [
        call
        for call in _calls(tree)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "fit"
        and any(keyword.arg in ("epochs", "validation_data", "batch_size") for keyword in call.keywords)
    ]
    loops = (node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While))
    if any(call in found for loop in loops for call in ast.walk(loop)):
        return []  # each call would be a training of its own, and only the first of a run can be resumed
    return _alone(found, places)


def _pytorch(tree: ast.Module, places: _Places, _: str) -> list[_Edit]:
    if not any(name.partition(".")[0] == "torch" for name in _imported(tree).values()):
        return []
    scopes: list[_Scope] = [tree, *(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))]
    whole = _parts_of(list(tree.body))
    for scope in scopes:
        for loop, before in _loops(scope.body, []):
            parts = _parts_of(before)
            if parts.optimizer is None and not isinstance(scope, ast.Module):
                parts = _handed_to(scope) or whole
            if parts.optimizer is not None:
                return _around(loop, parts, places)
    return []


def _handed_to(function: ast.FunctionDef | ast.AsyncFunctionDef) -> _Parts | None:
    """Return what a function is given to train, by the names of its parameters; None if it is given no optimiser."""
    names = [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    optimizers = [name for name in names if "optim" in name.lower()]
    models = [name for name in names if name.lower() in _MODELS]
    if not optimizers:
        return None
    if len(optimizers) > 1 or len(models) != 1:
        return _Parts()  # for the user to name
    schedulers = [name for name in names if "sched" in name.lower()]
    loaders = [name for name in names if "loader" in name.lower()]
    return _Parts(model=models[0], optimizer=optimizers[0], schedulers=schedulers, loaders=loaders)


def _loops(block: list[ast.stmt], before: list[ast.stmt]) -> Iterator[tuple[ast.For, list[ast.stmt]]]:
    """Yield the loops over epochs in a block, each with the statements that have surely been executed before it."""
    done = [*before]
    for node in block:
        if isinstance(node, ast.For) and _is_over_epochs(node):
            yield node, done
        elif isinstance(node, ast.If | ast.With | ast.Try | ast.For | ast.While):
            yield from _loops(node.body, done)
        done += node.body if isinstance(node, ast.With) else [node]


def _parts_of(before: list[ast.stmt]) -> _Parts:
    parts = _Parts()
    for node in before:
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.value, ast.Call)):
            continue
        target, call = node.targets[0], node.value
        if not isinstance(target, ast.Name):
            continue
        model = _model_of(call)
        if model is not None and "optim" in f"{ast.unparse(call.func)} {target.id}".lower():
            if parts.optimizer not in (None, target.id):
                return _Parts()  # two optimisers: a GAN, say, whose parts are for the user to name
            parts.model, parts.optimizer = model, target.id
        elif parts.optimizer and call.args and root_name(call.args[0]) == parts.optimizer:
            if _SCHEDULER.search(last_name(call.func)):
                parts.schedulers.append(target.id)
        elif last_name(call.func) == "DataLoader":
            parts.loaders.append(target.id)
    return parts


def _model_of(call: ast.Call) -> str | None:
    """Return the name whose `.parameters()` are given to a call."""
    for argument in call.args:
        for node in ast.walk(argument):
            if (
                isinstance(node, ast.Call)
                and last_name(node.func) == "parameters"
                and isinstance(node.func, ast.Attribute)
            ):
                return node.func.value.id if isinstance(node.func.value, ast.Name) else None
    return None


def _is_over_epochs(loop: ast.For) -> bool:
    if not (isinstance(loop.target, ast.Name) and isinstance(loop.iter, ast.Call)):
        return False
    call = loop.iter
    if last_name(call.func) != "range" or call.keywords or not 1 <= len(call.args) <= 2:
        return False
    return "epoch" in f"{loop.target.id} {ast.unparse(call)}".lower()


def _around(loop: ast.For, parts: _Parts, places: _Places) -> list[_Edit]:
    """Return the edits that put a checkpoint around a loop over epochs."""
    call = loop.iter
    if not isinstance(call, ast.Call) or not isinstance(loop.target, ast.Name):
        return []
    indent = " " * loop.col_offset
    first = loop.body[0]
    if first.lineno == loop.lineno:  # `for …: body` on one line
        return []
    told = [f"model={parts.model}", f"optimizer={parts.optimizer}"]
    if parts.schedulers:
        names = ", ".join(parts.schedulers)
        told.append(f"scheduler={names if len(parts.schedulers) == 1 else f'[{names}]'}")
    trained = [name for name in parts.loaders if "train" in name] or parts.loaders
    if trained:
        told.append(f"loader={trained[0]}")
    before = places.line(loop.lineno)
    edits = [_Edit(before, before, f"{indent}ckpt = PackageCheckpoint({', '.join(told)})\n")]
    end = places.text(call.args[-1])
    body = places.line(first.lineno)
    inner = " " * first.col_offset
    if len(call.args) == 1:
        total = end
    else:
        start, stop = call.args
        total = f"({end}) - ({places.text(start)})"
        if isinstance(start, ast.Constant) and start.value == 0:
            total = end
        elif isinstance(stop, ast.BinOp) and isinstance(stop.op, ast.Add) and ast.dump(stop.right) == ast.dump(start):
            total = places.text(stop.left)
        if total != end:
            edits.append(_Edit(body, body, f"{inner}{loop.target.id} += {places.text(start)}\n"))
    edits.append(_Edit(*places.span(call), f"ckpt.epochs({total})"))
    after = places.line((loop.body[-1].end_lineno or 0) + 1)
    edits.append(_Edit(after, after, f"{inner}ckpt.save()\n"))
    return edits
