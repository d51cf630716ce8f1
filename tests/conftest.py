"""The count of real engines that the suite starts: at most 12, printed at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

ENGINE_STARTS = pytest.StashKey[int]()
MOST_ENGINE_STARTS = 12

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def count_engine_starts(config: pytest.Config, starts: int) -> None:
    config.stash[ENGINE_STARTS] = config.stash.get(ENGINE_STARTS, 0) + starts


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test of test_cpu_sleep.py is one life of one engine; a fleet counts its own."""
    if Path(str(item.fspath)).name == "test_cpu_sleep.py":
        count_engine_starts(item.config, 1)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    starts = config.stash.get(ENGINE_STARTS, 0)
    if starts:
        terminalreporter.write_line(f"real engines started: {starts} of {MOST_ENGINE_STARTS}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.stash.get(ENGINE_STARTS, 0) > MOST_ENGINE_STARTS:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
