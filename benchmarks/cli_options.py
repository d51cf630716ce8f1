"""What the commands that measure share: where their result goes, and its seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from controller.cli_common import USAGE

Out = Annotated[
    Path | None, typer.Option("--out", help="Write the result here, as JSON.", metavar="FILE")
]
Plots = Annotated[
    Path | None, typer.Option(help="Write a PNG for each measure into this directory.")
]
Html = Annotated[Path | None, typer.Option(help="Write one self-contained HTML page.")]
GateFile = Annotated[
    Path | None, typer.Option("--gate", help="Exit with 1 if a limit of this file is not kept.")
]
Seed = Annotated[int, typer.Option(help="The same seed gives the same run.")]


@contextmanager
def complaining() -> Iterator[None]:
    """What a benchmark raises knowingly is one line and exit code 2."""
    from benchmarks.result import ResultError
    from benchmarks.running import BenchError
    from controller.terminal import complain

    try:
        yield
    except (ResultError, BenchError) as error:
        complain(str(error))
        raise typer.Exit(USAGE) from error
