"""Small wrong changes to a module, as a slip of the hand would make them. Knows nothing of tests."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

__all__ = ["Change", "apply", "changes"]

_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_RECKONED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "zip_longest": "zip"}
_METHODS = {"startswith": "endswith", "endswith": "startswith", "union": "intersection", "intersection": "union"}
_UNWRAPPED = {"sorted": "list", "abs": "", "reversed": "", "set": "list", "frozenset": "list"}
_CHOICE = 48  # from here on, so is it
_STYLE = {"frozen", "kw_only", "eq", "order", "gc", "cache_hash", "slots", "weakref", "rename"}  # of a class
_WORDS = {"__repr__", "__str__"}


@dataclass(frozen=True)
class Change:
    """One wrong change: the `number`th of its module.

    `first` to `last` are the lines of what has to be executed for it to matter; `at_import` if that is when they are.
    `before` and `after` are source text; `nth` counts changes of one function that read the same. Outside all functions
    and classes, `within` is "".
    """

    number: int
    within: str
    before: str
    after: str
    nth: int
    first: int
    last: int
    at_import: bool

    @property
    def text(self) -> str:
        return f"{self.before} -> {self.after}"

    @property
    def key(self) -> tuple[str, str, int]:
        return self.within, self.text, self.nth


def changes(source: str) -> list[Change]:
    """Return every change of a module, in the order of its text."""
    found = []
    seen: Counter[tuple[str, str, str]] = Counter()
    for number, edit in enumerate(_edits(ast.parse(source))):
        told = edit.within, *_told(edit.old, edit.new)
        found.append(Change(number, *told, seen[told], edit.first, edit.last, edit.at_import))
        seen[told] += 1
    return found


def apply(source: str, number: int) -> ast.Module:
    """Return a module with one change made."""
    tree = ast.parse(source)
    for at, edit in enumerate(_edits(tree)):
        if at == number:
            edit.make()
            return ast.fix_missing_locations(tree)
    raise IndexError(number)


@dataclass
class _Edit:
    parent: ast.AST
    field: str
    position: int | None
    old: ast.AST
    new: ast.AST | list[ast.stmt]
    within: str
    first: int
    last: int
    at_import: bool

    def make(self) -> None:
        new = self.new if isinstance(self.new, list) else [self.new]
        for one in new:
            if not hasattr(one, "lineno"):
                ast.copy_location(one, self.old)
        if self.position is None:
            setattr(self.parent, self.field, new[0])
        else:
            getattr(self.parent, self.field)[self.position : self.position + 1] = new


@dataclass(frozen=True)
class _Place:
    within: str
    statement: ast.stmt | None
    returns_bool: bool = False
    function: bool = False  # in the body of one, or in what is evaluated there


def _edits(tree: ast.Module) -> Iterator[_Edit]:
    yield from _walk(tree, _Place("", None))


def _walk(node: ast.AST, place: _Place) -> Iterator[_Edit]:
    for field, value in ast.iter_fields(node):
        if field in _skipped(node):
            continue
        for position, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or _is_told(node, field, child):
                continue
            if isinstance(child, ast.BinOp) and _is_constant(child):
                continue  # the exact value of a limit is a choice and no promise
            inner = _inside(child, place)
            first, last = _lines(child, inner)
            for new in _instead(child, node, inner):
                yield _Edit(node, field, position, child, new, place.within, first, last, not place.function)
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):  # defaults belong to what is around it
                yield from _walk(child.args, replace(inner, function=place.function))
            yield from _walk(child, inner)


def _skipped(node: ast.AST) -> set[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            return {"decorator_list", "returns", "type_params", "args"} | ({"body"} if node.name in _WORDS else set())
        case ast.ClassDef():
            return {"decorator_list", "bases", "type_params"}
        case ast.arg():
            return {"annotation"}
        case ast.AnnAssign():
            return {"annotation", "target"}
        case ast.Raise():
            return {"exc", "cause"}
        case ast.JoinedStr():
            return {"values"}
        case ast.Import() | ast.ImportFrom():
            return {"names"}
        case ast.Call() if _name(node.func).endswith(("Error", "cast", "TypeVar")):
            return {"args", "keywords"}
    return set()


def _is_told(parent: ast.AST, field: str, child: ast.AST) -> bool:
    """Whether a node is words for people or style, not behaviour."""
    match child:
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Name(id="advance"))):  # a bar that people look at
            return True
        case ast.keyword(arg="hint"):
            return True
        case ast.keyword(arg=arg) if isinstance(parent, ast.ClassDef):
            return arg in _STYLE
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar"))):
            return True
    return False


def _inside(child: ast.AST, place: _Place) -> _Place:
    statement = child if isinstance(child, ast.stmt) else place.statement
    if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        within = f"{place.within}.{child.name}" if place.within else child.name
        returns = getattr(child, "returns", None)
        says_bool = isinstance(returns, ast.Name) and returns.id == "bool"
        return _Place(within, statement, says_bool, not isinstance(child, ast.ClassDef))
    return _Place(place.within, statement, place.returns_bool, place.function)


def _lines(child: ast.AST, place: _Place) -> tuple[int, int]:
    """Return the lines of the statement that a node belongs to; of a compound one, those of its head."""
    statement = place.statement
    if statement is None:
        return 0, 0
    body = getattr(statement, "body", None)
    if isinstance(child, ast.ExceptHandler | ast.comprehension | ast.match_case):
        body = None
    last = statement.end_lineno or statement.lineno
    if isinstance(body, list) and body and child is not statement:
        last = max(statement.lineno, body[0].lineno - 1)
    return statement.lineno, last


def _instead(node: ast.AST, parent: ast.AST, place: _Place) -> Iterator[ast.AST | list[ast.stmt]]:
    match node:
        case ast.Compare():
            for at, op in enumerate(node.ops):
                for other in _COMPARED[type(op)]:
                    changed = copy.deepcopy(node)
                    changed.ops[at] = other()
                    yield changed
        case ast.BoolOp():
            changed = copy.deepcopy(node)
            changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield changed
            for at in range(len(node.values)):
                left = [copy.deepcopy(value) for number, value in enumerate(node.values) if number != at]
                yield left[0] if len(left) == 1 else ast.BoolOp(copy.deepcopy(node.op), left)
        case ast.UnaryOp(op=ast.Not()):
            yield copy.deepcopy(node.operand)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Name() | ast.Call()):
            yield copy.deepcopy(node.operand)
        case ast.IfExp():
            yield copy.deepcopy(node.body)
            yield copy.deepcopy(node.orelse)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            if value < _CHOICE:
                yield ast.Constant(value + 1)
            if value in (1, 2):
                yield ast.Constant(value - 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(value * 2 + 1)
        case ast.BinOp(op=op) if type(op) in _RECKONED and not _is_text(node):
            changed = copy.deepcopy(node)
            changed.op = _RECKONED[type(op)]()
            yield changed
        case ast.Call():
            yield from _called(node)
        case ast.Dict() if len(node.keys) > 1:
            for at, value in enumerate(node.values):
                if isinstance(value, ast.Constant) and isinstance(value.value, str) and " " in value.value:
                    continue  # words
                changed = copy.deepcopy(node)
                del changed.keys[at], changed.values[at]
                yield changed
        case ast.List() | ast.Set() if len(node.elts) > 1 and not isinstance(getattr(node, "ctx", None), ast.Store):
            for at in range(len(node.elts)):
                changed = copy.deepcopy(node)
                del changed.elts[at]
                yield changed
        case ast.comprehension() if node.ifs:
            for at in range(len(node.ifs)):
                changed = copy.deepcopy(node)
                del changed.ifs[at]
                yield changed
        case ast.stmt():
            yield from _stated(node, place)


def _called(node: ast.Call) -> Iterator[ast.AST]:
    name = _name(node.func)
    swapped = _NAMES.get(name) if isinstance(node.func, ast.Name) else _METHODS.get(name)
    if swapped or name == "zip_longest":
        changed = copy.deepcopy(node)
        changed.func = ast.Name(swapped, ast.Load()) if isinstance(node.func, ast.Name) else changed.func
        if isinstance(changed.func, ast.Attribute):
            changed.func.attr = swapped or "zip"
        if name == "zip_longest":
            changed = ast.Call(ast.Name("zip", ast.Load()), changed.args, [])
        yield changed
    if isinstance(node.func, ast.Name) and name in _UNWRAPPED and node.args:
        inner = copy.deepcopy(node.args[0])
        yield ast.Call(ast.Name(_UNWRAPPED[name], ast.Load()), [inner], []) if _UNWRAPPED[name] else inner


def _stated(node: ast.stmt, place: _Place) -> Iterator[ast.AST | list[ast.stmt]]:
    match node:
        case ast.Return(value=value) if value is not None:
            for other in (True, False) if place.returns_bool else (None,):
                if not (isinstance(value, ast.Constant) and value.value is other):
                    yield ast.Return(ast.Constant(other))
        case ast.Expr(value=ast.Call() | ast.Await() | ast.Yield() | ast.YieldFrom()):
            yield ast.Pass()
        case ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break() | ast.Delete() | ast.Assert():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.If():
            if not isinstance(node.test, ast.Compare | ast.BoolOp | ast.UnaryOp):
                changed = copy.deepcopy(node)
                changed.test = ast.UnaryOp(ast.Not(), changed.test)
                yield changed
            if not node.orelse:
                yield ast.Pass()
        case ast.With() if place.function and any(_is_a_hold(item) for item in node.items):
            if all(item.optional_vars is None for item in node.items):
                yield copy.deepcopy(node.body)


def _is_a_hold(item: ast.withitem) -> bool:
    """Whether something is held while others wait: not what only names errors, or gives something to work with."""
    call = item.context_expr
    return item.optional_vars is None and not (isinstance(call, ast.Call) and _name(call.func) == "os_errors")


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_constant(node: ast.AST) -> bool:
    """Whether an operation is one of numbers alone: `64 * 1024 * 1024`, `2**32`."""
    if isinstance(node, ast.BinOp):
        return _is_constant(node.left) and _is_constant(node.right)
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


def _is_text(node: ast.BinOp) -> bool:
    """Whether an operation joins types or texts, where another operator means nothing."""
    texts = [side for side in (node.left, node.right) if isinstance(side, ast.JoinedStr | ast.Constant)]
    return any(isinstance(side, ast.JoinedStr) or isinstance(side.value, str | bytes | None) for side in texts)


def _told(old: ast.AST, new: ast.AST | list[ast.stmt]) -> tuple[str, str]:
    """Return what a change says it does: of something that is left out, only that."""
    if isinstance(new, list):
        return _line(old), _line(ast.Module(new, []))
    whole, rest = _elements(old), _elements(new)
    if len(whole) > 1 and type(old) in (ast.BoolOp, ast.Dict, ast.List, ast.Set) and len(rest) == len(whole) - 1:
        gone = next((text for text, other in zip(whole, rest, strict=False) if text != other), whole[-1])
        return gone, "(left out)"
    return _line(old), _line(new)


def _elements(node: ast.AST) -> list[str]:
    match node:
        case ast.BoolOp(values=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            return list(map(ast.unparse, parts))
        case ast.Dict():
            return [
                f"{ast.unparse(key) if key is not None else '**'}: {ast.unparse(value)}"
                for key, value in zip(node.keys, node.values, strict=True)
            ]
    return [ast.unparse(node)]


def _line(node: ast.AST) -> str:
    """Return source text of a node; of a compound statement, its head."""
    text = ast.unparse(node)
    if isinstance(node, ast.comprehension):
        text = text.strip()
    return text.split("\n", 1)[0] + (" …" if "\n" in text else "")
