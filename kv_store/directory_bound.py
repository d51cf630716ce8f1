"""Keeps the durable tier's directory within a size, also over restarts: the longest unused go.

A file's time of modification is when it was written or last loaded. A file that goes under a load
is a miss. Servers of several nodes may share the directory, so each counts afresh now and then,
and of drafts only what a dead server left long ago goes. What is neither a chunk nor a draft, in
a folder of the directory, is not ours and is left alone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)
CHUNK, DRAFT = ".kv", ".tmp"
_DOWN_TO = 0.9
_DRAFT_LIVES_S = 3600.0

File = tuple[float, int, str]
"""Time of last use, size and path."""


class DirectoryBound:
    """Without ``limit_bytes`` it cleans up and no more."""

    def __init__(
        self, directory: Path, limit_bytes: int | None, *, recount_s: float = 60.0
    ) -> None:
        """``recount_s``: how long what others write may go unnoticed."""
        self._directory = directory
        self._limit_bytes = limit_bytes
        self._recount_s = recount_s
        self._lock = threading.Lock()
        self._used_bytes = sum(size for _, size, _ in self._files())
        self._grown = threading.Event()
        self._grown.set()
        self._is_closed = False
        self._thread = threading.Thread(target=self._keep, name="directory-bound", daemon=True)
        self._thread.start()

    def report(self) -> dict[str, Any]:
        return {"used_bytes": self._used_bytes, "limit_bytes": self._limit_bytes}

    def close(self) -> None:
        self._is_closed = True
        self._grown.set()
        self._thread.join()

    def grown(self, size: int) -> None:
        self._add(size)
        if self._is_over(self._used_bytes):
            self._grown.set()

    def shrunk(self, size: int) -> None:
        self._add(-size)

    def _add(self, size: int) -> None:
        with self._lock:
            self._used_bytes += size

    def _is_over(self, used_bytes: int) -> bool:
        return self._limit_bytes is not None and used_bytes > self._limit_bytes

    def _keep(self) -> None:
        while not self._is_closed:
            self._try_to_make_room()
            self._grown.wait(self._recount_s)
            self._grown.clear()

    def _try_to_make_room(self) -> None:
        try:
            self._make_room()
        except OSError as error:
            _log.error("the KV directory cannot be kept within its bound: %s", error)

    def _make_room(self) -> None:
        """Counts afresh; what is stored meanwhile may count twice, until the next time."""
        before_bytes = self._used_bytes
        files = sorted(self._files())
        used_bytes = sum(size for _, size, _ in files)
        limit_bytes = self._limit_bytes if self._limit_bytes is not None else used_bytes
        down_to = limit_bytes * (_DOWN_TO if used_bytes > limit_bytes else 1)
        for last_used, size, path in files:
            if _may_go(path, last_used, is_wanted=used_bytes <= down_to):
                used_bytes -= removed_bytes(path, size)
        with self._lock:
            self._used_bytes += used_bytes - before_bytes

    def _files(self) -> list[File]:
        return [file for folder in self._folders() for file in _files_in(folder)]

    def _folders(self) -> list[str]:
        with os.scandir(self._directory) as entries:
            return [each.path for each in entries if each.is_dir(follow_symlinks=False)]


def _files_in(folder: str) -> Iterator[File]:
    """Chunks and drafts."""
    with suppress(FileNotFoundError, PermissionError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith((CHUNK, DRAFT)):
                with suppress(FileNotFoundError):
                    stat = entry.stat(follow_symlinks=False)
                    yield stat.st_mtime, stat.st_size, entry.path


def _may_go(path: str, last_used: float, *, is_wanted: bool) -> bool:
    """Of drafts only the old ones: a live server renames the others to chunks."""
    if path.endswith(DRAFT):
        return time.time() - last_used > _DRAFT_LIVES_S
    return not is_wanted


def removed_bytes(path: str, size: int) -> int:
    """Of one that another has removed too; its folder goes with the last one."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return size
    except OSError as error:
        _log.warning("a KV file cannot be removed: %s", error)
        return 0
    with suppress(OSError):
        os.rmdir(os.path.dirname(path))
    return size
