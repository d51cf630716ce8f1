"""Golden stories. ``TORPOR_REWRITE=1 pytest tests/core/test_golden.py`` writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.core.script import play

STORIES = sorted((Path(__file__).parent / "golden").glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_core_orders_what_is_written(path: Path) -> None:
    written = path.read_text()
    played = play(written)
    if os.environ.get("TORPOR_REWRITE"):
        path.write_text(played)
    else:
        assert played == written
