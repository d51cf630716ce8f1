"""What was written lies in memory too; a copy from a disk begins without it."""

from __future__ import annotations

import os
from pathlib import Path


def leave_to_disk(directory: Path) -> None:
    """Everything in it, and nothing of it in the page cache."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fdatasync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
