"""What an engine leaves behind when it is killed: a directory of sockets, named for its process."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import psutil

_PREFIX = "torpor-engine-"


def socket_directory() -> Path:
    """A directory that only this user may enter; the caller removes it."""
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))


def sweep(directory: Path | None = None) -> list[Path]:
    """Remove the directories of processes that are gone, from a directory of temporary files and
    from those below it, which engines have as theirs; for whoever buries engines."""
    swept = []
    within = directory or Path(tempfile.gettempdir())
    for leaving in (*within.glob(f"{_PREFIX}*"), *within.glob(f"*/{_PREFIX}*")):
        pid = leaving.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(leaving, ignore_errors=True)
            swept.append(leaving)
    return swept
