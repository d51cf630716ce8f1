"""Mutation testing of controller/core by a seeded sample: `make mutate SAMPLE=200 SEED=0`.

Small changes are made to the core one at a time (a comparison turned round, a condition negated, a
number one off, a statement left out …), and the core's tests are run against each. A mutant that
no test notices is a line that nothing holds. Changes are made in a copy of the tree; the quickest
tests run first and the first failure ends a run. Mutants that only another answer to the same
question tells apart (equivalent ones) count as survivors: what is printed is the worst case.

mutmut and cosmic-ray were tried or looked at: the first one's trampolines make these simulations
many times slower, the second changes files where they lie.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).parents[1]
CORE = Path("controller/core")
QUICK = [
    "stories",
    "fairness",
    "crowding",
    "replicas",
    "rooms",
    "golden",
    "never_fits",
    "orders",
    "grants",
    "conversations",
    "invariants",
    "victims",
]
SLOW = ["own_ladder", "properties", "twins", "simulation"]
TESTS = [f"tests/core/test_{name}.py" for name in (*QUICK, *SLOW)]
LEFT_OUT = "throng"
"""Half of the time of all of them."""
COPIED = ("controller", "tests", "workers", "kv_store", "pyproject.toml")
LIMIT_S = 900.0
"""A mutant that makes the tests run for so long is noticed, too, and told apart."""
KILLED, TIMED_OUT, SURVIVED = "killed", "timed out", "SURVIVED"

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COUNTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
}  # fmt: skip
CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    file: str
    line: int
    what: str
    source: str
    """The whole file."""


def mutants(path: Path) -> Iterator[Mutant]:
    source = (ROOT / path).read_text()
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    for node, changed in _changes_in(ast.parse(source)):
        before, after = ast.unparse(node), ast.unparse(changed)
        begins = starts[node.lineno - 1] + node.col_offset
        ends = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
        text = f"({after})" if isinstance(node, ast.expr) else after
        whole = source.encode()[:begins] + text.encode() + source.encode()[ends:]
        what = f"{before}  →  {after}"
        yield Mutant(str(path), node.lineno, what, whole.decode())


def _changes_in(tree: ast.AST) -> Iterator[tuple[Any, ast.AST]]:
    """Parts of it, each with what may stand in its place."""
    for node in _looked_at(tree):
        match node:
            case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
                if isinstance(test, ast.Name | ast.Attribute | ast.Call):
                    yield test, ast.UnaryOp(ast.Not(), test)
        for changed in changes(node):
            yield node, changed


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
        case ast.Return(value=ast.expr() as value) if not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Assign(value=value) if not _is_none(value) and not _is_alias(value):
            yield ast.Assign(node.targets, ast.Constant(None), lineno=0)
        case ast.Break():
            yield ast.Continue()
        case ast.Continue():
            yield ast.Break()


def _looked_at(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs: neither annotations nor what an assertion says of the always true."""
    if isinstance(tree, ast.Assert | ast.Raise):
        return
    yield tree
    for name, field in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST):
                yield from _looked_at(child)


def _is_alias(value: ast.expr) -> bool:
    """Of a type; which only checkers of types look at."""
    return (isinstance(value, ast.Subscript | ast.BinOp) and "|" in ast.unparse(value)) or (
        isinstance(value, ast.Subscript) and ast.unparse(value).startswith(("tuple[", "Callable["))
    )


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def fate(mutant: Mutant, tree: Path) -> str:
    """With the tests, in that copy of the tree, which is as before afterwards."""
    place = tree / mutant.file
    before = place.read_text()
    place.write_text(mutant.source)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    try:
        ran = subprocess.run(
            [*command, "--hypothesis-seed=0", "-k", f"not {LEFT_OUT}", *TESTS],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            timeout=LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        place.write_text(before)
    return KILLED if ran.returncode else SURVIVED


def play(sample: list[Mutant], jobs: int) -> list[tuple[Mutant, str]]:
    """As many as were played when it was interrupted, if it was."""
    played: list[tuple[Mutant, str]] = []
    with tempfile.TemporaryDirectory(prefix="mutate-") as directory:
        trees: Queue[Path] = Queue()
        for job in range(jobs):
            trees.put(_copy(Path(directory) / str(job)))

        def one(mutant: Mutant) -> None:
            tree, began = trees.get(), time.monotonic()
            became = fate(mutant, tree)
            trees.put(tree)
            took_s, where = time.monotonic() - began, f"{mutant.file}:{mutant.line}"
            print(f"{became:9} {took_s:4.0f} s  {where}: {mutant.what}", flush=True)
            played.append((mutant, became))

        with ThreadPoolExecutor(jobs) as pool:
            playing = [pool.submit(one, mutant) for mutant in sample]
            try:
                wait(playing)
            except KeyboardInterrupt:
                pool.shutdown(wait=True, cancel_futures=True)
    return played


def _copy(tree: Path) -> Path:
    tree.mkdir()
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tree / name)
    return tree


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--sample", type=int, default=200)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked.add_argument("--out", type=Path, help="Write the result here, as JSON.")
    options = asked.parse_args()
    files = sorted((ROOT / CORE).glob("*.py"))
    everyone = [one for path in files for one in mutants(path.relative_to(ROOT))]
    size = min(options.sample, len(everyone))
    sample = random.Random(options.seed).sample(everyone, size)
    began = time.monotonic()
    played = play(sample, options.jobs)
    killed = sum(became != SURVIVED for _, became in played)
    took_s = time.monotonic() - began
    print(f"{killed} of {len(played)} killed ({killed / max(1, len(played)):.1%}), of "
          f"{len(everyone)} that there are, seed {options.seed}, {took_s:.0f} s")  # fmt: skip
    if options.out:
        _write(options, everyone, played, took_s)


def _write(
    options: argparse.Namespace,
    everyone: list[Mutant],
    played: list[tuple[Mutant, str]],
    took_s: float,
) -> None:
    survivors = [asdict(one) for one, became in played if became == SURVIVED]
    for survivor in survivors:
        del survivor["source"]
    of_files = Counter(one.file for one, _ in played)
    result = {
        "command": f"make mutate SAMPLE={options.sample} SEED={options.seed}",
        "mutants": len(everyone),
        "sampled": len(played),
        "killed": len(played) - len(survivors),
        "of_them_by_time_out": sum(became == TIMED_OUT for _, became in played),
        "took_s": round(took_s),
        "sampled_by_file": dict(sorted(of_files.items())),
        "survivors": survivors,
    }
    options.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
