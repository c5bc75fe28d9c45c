"""Which variables a loop carries from turn to turn, read off its source: used in its body before they have a value."""

from __future__ import annotations

import ast
import functools
import linecache
from collections.abc import Iterable, Iterator
from types import FrameType

__all__ = ["attributes_in", "names_in"]


def names_in(frame: FrameType) -> tuple[list[str], list[str]]:
    """Return the names that the loop which a frame is about to begin carries: of its own variables, of its module's.

    Both are empty where there is no source, or no loop stands there.
    """
    code = frame.f_code
    parsed = _parsed(code.co_filename)
    if parsed is None:
        return [], []
    tree, shared = parsed
    is_module = code.co_name == "<module>"
    scope = tree if is_module else _function_at(tree, code.co_name, code.co_firstlineno)
    loop = _loop_at(scope, frame.f_lineno) if scope is not None else None
    if loop is None:
        return [], []
    live = _Live(_targets(loop.target) if isinstance(loop, ast.For) else set())
    live.body(loop.body)
    if is_module:
        return sorted(live.names | shared), []
    mine = set(code.co_varnames) | set(code.co_cellvars) | set(code.co_freevars)
    return sorted(live.names & mine), sorted((live.names - mine) | shared)


@functools.lru_cache(maxsize=64)
def attributes_in(file: str) -> frozenset[str]:
    """Return the names of all attributes that a file speaks of, but for those that a `set_epoch` is there to set."""
    parsed = _parsed(file)
    if parsed is None:
        return frozenset()
    setters = [node for node in ast.walk(parsed[0]) if isinstance(node, ast.FunctionDef) and node.name == "set_epoch"]
    told = {node.attr for setter in setters for node in ast.walk(setter) if isinstance(node, ast.Attribute)}
    return frozenset(node.attr for node in ast.walk(parsed[0]) if isinstance(node, ast.Attribute)) - told


@functools.lru_cache(maxsize=16)
def _parsed(file: str) -> tuple[ast.Module, set[str]] | None:
    """Return a file's tree, and the names of its module that its functions write or may change in place."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError):
        return None
    shared: set[str] = set()
    assigned = {name for node in tree.body for name in _stored(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            shared.update(node.names)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names = [one for one in ast.walk(node) if isinstance(one, ast.Name)]
            own = {one.arg for one in ast.walk(node) if isinstance(one, ast.arg)}
            own |= {one.id for one in names if isinstance(one.ctx, ast.Store)}
            shared |= {one.id for one in names if one.id in assigned} - own
    return tree, shared


def _stored(node: ast.AST) -> Iterator[str]:
    """Yield the names that a statement of a module gives a value; not those in functions and classes below it."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
        return
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
    """

    def __init__(self, bound: set[str]) -> None:
        self.names: set[str] = set()
        self._bound = set(bound)

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
        else:
            self.visit(node.target)

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self._bound |= _targets(node.target)
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
