"""The text of a script, parsed and never executed."""

from __future__ import annotations

import ast
import warnings

__all__ = ["last_name", "parsed", "root_name"]

_MAX_SOURCE = 4 << 20  # bytes


def parsed(source: bytes) -> ast.Module | None:
    """Return a script's tree; None of what is no Python, or too long to be a script."""
    if len(source) > _MAX_SOURCE:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's, on the style of what was written
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def last_name(node: ast.AST) -> str:
    """Return `c` of `a.b.c`, or of a call of it."""
    if isinstance(node, ast.Call):
        return last_name(node.func)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def root_name(node: ast.AST) -> str:
    """Return `a` of `a.b().c`."""
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""
