"""Mutation testing of controller/core by a seeded sample: `make mutate SAMPLE=300 SEED=0`.

Small changes are made to the core one at a time (``mutants``), and the core's tests are run against
each. A mutant that no test notices is a line that nothing holds. Mutants that only another answer
to the same question tells apart (equivalent ones) count as survivors, but for the kinds that
``mutants`` leaves alone: what is printed is the worst case.

First all tests run once, watched: which functions does each call, and how long does it take? A
mutant is then met by the tests that call its function, the quickest first, until one fails; one
that happens at import, by all. Each is played in a fork of a process that has imported pytest but
nothing of ours, in which the module is what the mutant says. A test that takes many times its time
has noticed the mutant, too (it is told apart), and hypothesis looks for no smaller example.

mutmut and cosmic-ray were tried or looked at: the first one's trampolines make these simulations
many times slower, the second changes files where they lie.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import hypothesis.stateful  # noqa: F401  (imported before the forks, for all of them)
import pytest
import pytest_asyncio.plugin  # noqa: F401
from hypothesis import Phase, settings
from mutants import Mutant, mutants

ROOT = Path(__file__).parents[1]
CORE = Path("controller/core")
TESTS = "tests/core"
LEFT_OUT = ["test_mutants.py", "throng"]
"""The first is a mutation testing of its own, the second half of the time of all of them."""
COPIED = ("controller", "tests", "workers", "kv_store", "benchmarks", "docs", "pyproject.toml")
FACTOR, LEAST_S = 20, 5.0
"""Of processor time: so much more than it usually takes, a test of a mutant may take."""
MOST_BYTES = 4 << 30
FEW = 2
KILLED, TIMED_OUT, SURVIVED = "killed", "timed out", "SURVIVED"
_TOO_LONG = 99
OPTIONS = [
    *("-q", "-p", "no:cacheprovider", "--hypothesis-profile=mutation", "--hypothesis-seed=0"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
    *("-p", "pytest_asyncio.plugin", "-p", "_hypothesis_pytestplugin"),
]
"""And of the plugins that are installed, no others."""

settings.register_profile(
    "mutation", deadline=None, database=None, phases=(Phase.explicit, Phase.generate)
)


@dataclass
class Watched:
    """What a test calls of the core, and the processor time that it takes."""

    seconds: float
    functions: list[str]
    """As ``file:line``."""


class Watch:
    """A plugin of pytest that watches each test, into ``seen``."""

    def __init__(self, tree: Path) -> None:
        self.seen: dict[str, Watched] = {}
        self._core = f"{tree / CORE}/"
        self._at = len(f"{tree}/")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        called: set[tuple[str, int]] = set()

        def look(frame: FrameType, event: str, arg: object) -> None:
            code = frame.f_code
            called.add((code.co_filename, code.co_firstlineno))

        began = time.process_time()
        sys.settrace(look)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            functions = [f"{f[self._at :]}:{n}" for f, n in called if f.startswith(self._core)]
            seconds = time.process_time() - began
            self.seen[item.nodeid] = Watched(seconds, sorted(functions))


@dataclass
class Limit:
    """A plugin of pytest that gives each test many times its time."""

    usual_s: dict[str, float]

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        most_s = LEAST_S + FACTOR * self.usual_s.get(item.nodeid, 0.0)
        signal.setitimer(signal.ITIMER_PROF, most_s)


@dataclass
class Changed(MetaPathFinder):
    """Finds a mutant where its module is asked for."""

    mutant: Mutant

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.replace(".", "/") + ".py" != self.mutant.file:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(name, spec.origin, self.mutant.source)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> Any:
        return compile(self._source, self.path, "exec", dont_inherit=True)


def fork(tree: Path, work: Callable[[], int]) -> int:
    """The child's id; it says nothing, and exits with what the work returns."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.chdir(tree)
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        sys.path.insert(0, str(tree))
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_BYTES, MOST_BYTES))
        signal.signal(signal.SIGPROF, lambda *_: os._exit(_TOO_LONG))
        os._exit(work())
    finally:
        os._exit(3)


@dataclass
class Play:
    tree: Path
    """A copy, so that what is edited meanwhile plays no part."""
    tests: dict[str, Watched] = field(default_factory=dict)

    def watch(self) -> None:
        """Raises if a test fails as things are."""
        told = self.tree / "watched.json"

        def run() -> int:
            plugin = Watch(self.tree)
            code = pytest.main([*OPTIONS, *_chosen(), TESTS], plugins=[plugin])
            told.write_text(json.dumps({n: asdict(one) for n, one in plugin.seen.items()}))
            return int(code)

        _, status = os.waitpid(fork(self.tree, run), 0)
        if status:
            raise SystemExit("the tests fail without a mutant")
        self.tests = {n: Watched(**one) for n, one in json.loads(told.read_text()).items()}

    def meet(self, mutant: Mutant) -> list[str]:
        """The tests that may notice it, the quickest first."""
        called = f"{mutant.file}:{mutant.function}"
        met = [
            name
            for name, test in self.tests.items()
            if mutant.function is None or called in test.functions
        ]
        return sorted(met, key=lambda name: self.tests[name].seconds)

    def begin(self, mutant: Mutant) -> int:
        """The child that plays it."""
        names = self.meet(mutant)
        usual_s = {name: self.tests[name].seconds for name in names}

        def run() -> int:
            sys.meta_path.insert(0, Changed(mutant))
            for some in _few_files_first(names):
                if code := pytest.main(["-x", *OPTIONS, *some], plugins=[Limit(usual_s)]):
                    return int(code)
            return 0

        return fork(self.tree, run)


def _few_files_first(names: list[str]) -> Iterator[list[str]]:
    """Those of the files that have the quickest, then the rest: to import all of them takes
    longer than most mutants live."""
    files = list(dict.fromkeys(name.partition("::")[0] for name in names))
    for few in (files[:FEW], files[FEW:]):
        if few:
            yield [name for name in names if name.partition("::")[0] in few]


def _fate(code: int) -> str:
    if code == _TOO_LONG:
        return TIMED_OUT
    return KILLED if code else SURVIVED


def _chosen() -> list[str]:
    files = [f"--ignore={TESTS}/{name}" for name in LEFT_OUT if name.endswith(".py")]
    names = [name for name in LEFT_OUT if not name.endswith(".py")]
    return [*files, "-k", " and ".join(f"not {name}" for name in names)]


def play(
    sample: list[Mutant], stage: Play, jobs: int, told: Callable[[Mutant, str, float], None]
) -> None:
    """So many at a time; ``told`` of each as it ends."""
    waiting, playing = list(reversed(sample)), dict[int, tuple[Mutant, float]]()
    try:
        while waiting or playing:
            while waiting and len(playing) < jobs:
                mutant = waiting.pop()
                playing[stage.begin(mutant)] = (mutant, time.monotonic())
            child, status = os.wait()
            mutant, began = playing.pop(child)
            told(mutant, _fate(os.waitstatus_to_exitcode(status)), time.monotonic() - began)
    finally:
        for child in playing:
            os.kill(child, signal.SIGKILL)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--sample", type=int, default=300)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    asked.add_argument(
        "--again", type=Path, help="instead of a sample: what this log says survived"
    )
    options = asked.parse_args()
    files = sorted((ROOT / CORE).glob("*.py"))
    everyone = [one for path in files for one in mutants(ROOT, path.relative_to(ROOT))]
    size = min(options.sample, len(everyone))
    sample = random.Random(options.seed).sample(everyone, size)
    if options.again:
        sample = _survivors(options.again.read_text(), everyone)
    fates: Counter[str] = Counter()
    began = time.monotonic()

    def told(mutant: Mutant, became: str, took_s: float) -> None:
        fates[became] += 1
        print(f"{became:9} {took_s:4.0f} s  {mutant.file}:{mutant.line}:{mutant.column}: "
              f"{mutant.what}", flush=True)  # fmt: skip

    with tempfile.TemporaryDirectory(prefix="mutate-") as directory:
        stage = Play(_copy(Path(directory) / "tree"))
        stage.watch()
        print(f"{len(stage.tests)} tests watched, {time.monotonic() - began:.0f} s", flush=True)
        with suppress(KeyboardInterrupt):
            play(sample, stage, options.jobs, told)
    killed, played = fates[KILLED] + fates[TIMED_OUT], fates.total()
    print(f"{killed} of {played} killed ({killed / max(1, played):.1%}), of them by a time-out "
          f"{fates[TIMED_OUT]}, of {len(everyone)} that there are, seed {options.seed}, "
          f"{time.monotonic() - began:.0f} s")  # fmt: skip


def _survivors(log: str, everyone: list[Mutant]) -> list[Mutant]:
    """Of a log, as they are found in the files as they are: the nearest that says the same."""
    found: dict[Mutant, None] = {}
    for file, line, column, what in re.findall(
        rf"^{SURVIVED} .*? s  (.+?):(\d+):(\d+): (.+)$", log, re.M
    ):
        alike = [one for one in everyone if (one.file, one.what) == (file, what)]
        if alike:
            place = (int(line), int(column))
            found[min(alike, key=lambda one: _distance(one, *place))] = None
        else:
            print(f"gone             {file}:{line}:{column}: {what}")
    return list(found)


def _distance(mutant: Mutant, line: int, column: int) -> tuple[int, int]:
    return abs(mutant.line - line), abs(mutant.column - column)


def _copy(tree: Path) -> Path:
    tree.mkdir()
    for name in COPIED:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tree / name)
    return tree


if __name__ == "__main__":
    main()
