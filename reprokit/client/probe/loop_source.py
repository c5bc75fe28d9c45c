"""Which variables a loop carries from turn to turn, read off its source: used in its body before they have a value."""

from __future__ import annotations

import ast
import builtins
import functools
import linecache
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import NamedTuple

__all__ = ["LoopNames", "attributes_in", "names_in", "taken_in", "written_in"]


class LoopNames(NamedTuple):
    """What a loop does with variables.

    Attributes:
        own, shared: What it carries: of its own function's or module's variables; of its module's, if that is another.
        anew: Its own variables that each turn gives a value before it uses them.
    """

    own: list[str]
    shared: list[str]
    anew: frozenset[str]


def names_in(frame: FrameType) -> LoopNames:
    """Return the names of the loop that a frame is about to begin; none where no source is, or no loop stands there."""
    code = frame.f_code
    script = _parsed(code.co_filename)
    is_module = code.co_name == "<module>"
    scope: ast.AST | None = None
    if script is not None:
        scope = script.tree if is_module else _function_at(script.tree, code.co_name, code.co_firstlineno)
    loop = _loop_at(scope, frame.f_lineno) if scope is not None else None
    if script is None or loop is None:
        return LoopNames([], [], frozenset())
    live = _Live(_targets(loop.target) if isinstance(loop, ast.For) else set(), script if is_module else None)
    live.body(loop.body)
    if is_module:
        names = live.names | script.written
        return LoopNames(sorted(names), [], frozenset(live.stored - names))
    mine = set(code.co_varnames) | set(code.co_cellvars) | set(code.co_freevars)
    shared = (live.names - mine) | script.written | script.read()
    return LoopNames(sorted(live.names & mine), sorted(shared), frozenset((live.stored & mine) - live.names))


@functools.lru_cache(maxsize=64)
def attributes_in(file: str) -> frozenset[str]:
    """Return the names of all attributes that a file speaks of, but for those that a `set_epoch` is there to set."""
    script = _parsed(file)
    if script is None:
        return frozenset()
    setters = [node for node in ast.walk(script.tree) if isinstance(node, ast.FunctionDef) and node.name == "set_epoch"]
    told = {node.attr for setter in setters for node in ast.walk(setter) if isinstance(node, ast.Attribute)}
    return frozenset(node.attr for node in ast.walk(script.tree) if isinstance(node, ast.Attribute)) - told


@functools.lru_cache(maxsize=4096)
def written_in(file: str) -> frozenset[str]:
    """Return the names of a file's module that its functions give values to."""
    if not any("global " in line for line in linecache.getlines(file)):  # most have none, and parsing takes its time
        return frozenset()
    script = _parsed(file)
    return frozenset() if script is None else frozenset(script.written)


@functools.lru_cache(maxsize=16)
def taken_in(file: str) -> frozenset[str]:
    """Return the names by which a file takes something from an attribute `state`: `ckpt.state["n"]`, `.get("n", 0)`."""
    script = _parsed(file)
    return frozenset() if script is None else frozenset(name for node in ast.walk(script.tree) for name in _taken(node))


def _taken(node: ast.AST) -> Iterator[str]:
    key: ast.AST | None = None
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and _is_state(node.value):
        key = node.slice
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        key = node.args[0] if node.func.attr in ("get", "pop") and _is_state(node.func.value) else None
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        yield key.value


def _is_state(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "state"


class _Script(NamedTuple):
    """What a file's functions have of its module's names.

    Attributes:
        written: Those that any of them declares global.
        reads: Of each function of the module, those that it uses, by itself or through others that it calls.
        anywhere: Those that methods use, and functions that are handed on: any call may be one of them.
    """

    tree: ast.Module
    written: set[str]
    reads: dict[str, set[str]]
    anywhere: set[str]

    def read(self, call: ast.Call | None = None) -> set[str]:
        """Return what a call may use; without one, what any function may."""
        if call is None:
            return self.anywhere.union(*self.reads.values())
        if isinstance(call.func, ast.Name):
            if call.func.id in self.reads:
                return self.reads[call.func.id]
            if hasattr(builtins, call.func.id):
                return set()
        return self.anywhere


@functools.lru_cache(maxsize=16)
def _parsed(file: str) -> _Script | None:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError):
        return None
    assigned = {name for node in tree.body for name in _stored(node)}
    functions = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    written = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    reads = {name: _shared_in(node, assigned) for name, node in functions.items()}
    calls = {
        name: {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} & reads.keys()
        for name, node in functions.items()
    }
    before: dict[str, set[str]] | None = None
    while reads != before:  # as deep as they call each other
        before, reads = reads, {name: own.union(*(reads[one] for one in calls[name])) for name, own in reads.items()}
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    handed_on = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and id(node) not in called and node.id in functions
    }
    anywhere: set[str] = set()
    for node in ast.walk(tree):
        inner = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and functions.get(node.name) is not node
        if inner or isinstance(node, ast.Lambda):
            anywhere |= _shared_in(node, assigned)
    return _Script(tree, written, reads, anywhere.union(*(reads[name] for name in handed_on)))


def _shared_in(function: ast.AST, assigned: set[str]) -> set[str]:
    """Return the names of the module that a function uses and does not have itself."""
    names = [one for one in ast.walk(function) if isinstance(one, ast.Name)]
    own = {one.arg for one in ast.walk(function) if isinstance(one, ast.arg)}
    own |= {one.id for one in names if isinstance(one.ctx, ast.Store)}
    return {one.id for one in names if one.id in assigned} - own


def _stored(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement of a module gives a value; not those in functions and classes below it."""
    if isinstance(node, ast.ClassDef):
        yield node.name
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        return
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    for inner in ast.iter_child_nodes(node):
        yield from _stored(inner)


def _function_at(tree: ast.Module, name: str, line: int) -> ast.AST | None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name == name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if first <= line <= node.body[0].lineno:
                return node
    return None


def _loop_at(scope: ast.AST, line: int) -> ast.For | ast.While | None:
    """Return the outermost loop whose head stands at a line, or, of a `while`, the innermost around it."""
    found: ast.For | ast.While | None = None
    for node in ast.walk(scope):
        if isinstance(node, ast.For) and node.lineno <= line <= (node.iter.end_lineno or node.lineno):
            return node
        if isinstance(node, (ast.For, ast.While)) and node.lineno <= line <= (node.end_lineno or node.lineno):
            found = node
    return found


def _targets(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


class _Live(ast.NodeVisitor):
    """Collects what is used before it surely has a value.

    Args:
        bound: The names that have one to begin with.
        script: Whose functions share these names.
    """

    def __init__(self, bound: set[str], script: _Script | None = None) -> None:
        self.names: set[str] = set()
        self.stored = set(bound)
        self._bound = set(bound)
        self._script = script

    def visit_Call(self, node: ast.Call) -> None:
        self.generic_visit(node)
        if self._script is not None:
            self.names |= self._script.read(node) - self._bound

    def body(self, statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            self.visit(statement)

    def _maybe(self, *bodies: Iterable[ast.stmt], surely: bool = False) -> None:
        """Visit bodies of which one is executed; what all of them bind is bound afterwards, if one surely is."""
        before, after = set(self._bound), []
        for statements in bodies:
            self._bound = set(before)
            self.body(statements)
            after.append(self._bound)
        self._bound = set.intersection(*after) if surely and after else before

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            if node.id not in self._bound:
                self.names.add(node.id)
        else:
            self._bound.add(node.id)
            self.stored.add(node.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)
        if isinstance(node.target, ast.Name):
            if node.target.id not in self._bound:
                self.names.add(node.target.id)
            self._bound.add(node.target.id)
            self.stored.add(node.target.id)
        else:
            self.visit(node.target)

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self._bound |= _targets(node.target)
        self.stored |= _targets(node.target)
        self.body(node.body)  # which is taken to have a turn: what is saved after it comes from the last one
        self.body(node.orelse)

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        self._maybe(node.body)
        self.body(node.orelse)

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self._maybe(node.body, node.orelse, surely=True)

    def visit_Try(self, node: ast.Try) -> None:
        for handler in node.handlers:
            if handler.type is not None:
                self.visit(handler.type)
        self._maybe(node.body, *(handler.body for handler in node.handlers))
        self.body(node.orelse)
        self.body(node.finalbody)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars is not None:
                self.visit(item.optional_vars)
        self.body(node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inner(node, node.body)
        self._bound.add(node.name)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._inner(node, [ast.Expr(node.body)])

    def _inner(self, node: ast.FunctionDef | ast.Lambda, body: Iterable[ast.stmt]) -> None:
        for default in [*node.args.defaults, *(one for one in node.args.kw_defaults if one is not None)]:
            self.visit(default)
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        inner = _Live(self._bound | {one.arg for one in every if one is not None})
        inner.body(body)
        self.names |= inner.names

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        before = set(self._bound)
        for one in node.generators:
            self.visit(one.iter)
            self._bound |= _targets(one.target)
            for test in one.ifs:
                self.visit(test)
        for value in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self.visit(value)
        self._bound = before

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension  # noqa: N815
