"""The small changes that mutation testing makes to a module, and what it leaves alone.

A comparison is turned round or moved by one, a condition negated, a number one off, a sum made a
difference, a call to min one to max, a value returned or assigned made None, a call left out …

Left alone, since no behaviour follows from it:

- annotations, decorators, and values that are types (``NewType``, ``_is_alias``)
- assertions and what is raised: what is always true, and our own mistakes
- texts: strings, what stands in f-strings, what is told of a replica for ``torpor why`` (``tell``),
  ``__str__`` and ``__repr__``
- the values of an enum's members, of which their order counts at the most
- from where and how far a ``version`` is counted: it only has to differ from the one before
- False returned as None: both are no
- a bound that has a name of its own in a module (``MOST_TRIED = 400``), by one: a matter of taste.
  That it counts at all is another mutant's to show
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COUNTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip
CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    column: int
    what: str
    function: int | None
    """The first line of the function that it is in; None: none, it happens at import."""
    source: str
    """The whole file."""


def mutants(root: Path, path: Path) -> Iterator[Mutant]:
    source = (root / path).read_text()
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node, changed, function in _changes_in(ast.parse(source), None):
        before, after = ast.unparse(node), ast.unparse(changed)
        begins = starts[node.lineno - 1] + node.col_offset
        ends = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        text = f"({after})" if isinstance(node, ast.expr) else after
        whole = source.encode()[:begins] + text.encode() + source.encode()[ends:]
        what = f"{before}  →  {after}"
        yield Mutant(str(path), node.lineno, node.col_offset, what, function, whole.decode())


def _changes_in(tree: ast.AST, within: int | None) -> Iterator[tuple[Any, ast.AST, int | None]]:
    """Parts of it, each with what may stand in its place, and in which function."""
    for node, function in _looked_at(tree, within):
        match node:
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                if isinstance(test, ast.Name | ast.Attribute | ast.Call):
                    yield test, ast.UnaryOp(ast.Not(), test), function
        for changed in changes(node):
            yield node, changed, function


def changes(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in COMPARED:
            yield ast.Compare(node.left, [COMPARED[type(op)]()], node.comparators)
        case ast.BinOp(op=op) if type(op) in COUNTED:
            yield ast.BinOp(node.left, COUNTED[type(op)](), node.right)
        case ast.AugAssign(op=op) if type(op) in COUNTED:
            yield ast.AugAssign(node.target, COUNTED[type(op)](), node.value)
        case ast.BoolOp(op=op):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), node.values)
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.IfExp():
            yield ast.IfExp(node.test, node.orelse, node.body)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Call(func=ast.Name(id=name)) if name in CALLED:
            yield ast.Call(ast.Name(CALLED[name]), node.args, node.keywords)
        case ast.Return(value=ast.expr() as value) if not _is_no(value):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Assign(value=value) if not _is_none(value) and not _is_alias(value):
            yield ast.Assign(node.targets, ast.Constant(None), lineno=0)
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()


def _looked_at(tree: ast.AST, within: int | None) -> Iterator[tuple[ast.AST, int | None]]:
    if _says_nothing(tree):
        return
    if isinstance(tree, ast.ClassDef) and _is_enum(tree):
        for part in tree.body:
            if not isinstance(part, ast.Assign):
                yield from _looked_at(part, within)
        return
    if (
        isinstance(tree, ast.Assign)
        and not tree.col_offset
        and isinstance(tree.value, ast.Constant)
    ):
        yield tree, within  # at the top of a module
        return
    if isinstance(tree, Function):
        first = min([tree.lineno, *(one.lineno for one in tree.decorator_list)])
        within = first if within is None else within
    yield tree, within
    for name, field in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST):
                yield from _looked_at(child, within)


def _says_nothing(node: ast.AST) -> bool:
    """No behaviour follows from it: see above."""
    match node:
        case ast.Assert() | ast.Raise() | ast.JoinedStr():
            return True
        case ast.FunctionDef(name="__str__" | "__repr__"):
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr="tell") | ast.Name("assert_never"))):
            return True
        case ast.AugAssign(target=ast.Attribute(attr="version")):
            return True
        case ast.Assign(targets=[ast.Attribute(attr="version")]):
            return True
        case ast.Assign(value=ast.Constant(value=str()) | ast.Call(func=ast.Name(id="NewType"))):
            return True
    return False


def _is_enum(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id in ("Enum", "IntEnum") for base in node.bases)


def _is_alias(value: ast.expr) -> bool:
    """Of a type; which only checkers of types look at."""
    return (isinstance(value, ast.Subscript | ast.BinOp) and "|" in ast.unparse(value)) or (
        isinstance(value, ast.Subscript) and ast.unparse(value).startswith(("tuple[", "Callable["))
    )


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _is_no(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and not value.value and value.value in (None, False)
