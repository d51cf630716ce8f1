"""Keeps LMCache's directory within a size, also over restarts: the longest unused files go.

LMCache's ``fs`` adapter has no bound, and its native one forgets what lay there before. A file's
time of modification is when it was written or last loaded. A file that goes under a load is a
miss. Servers of several nodes may share the directory, so each counts afresh now and then, and
of what is half written (``.tmp``) only what a dead server left long ago goes. Anything but a
regular file is not LMCache's, and is left alone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.internal_api import L2AdapterListener
from lmcache.v1.distributed.l2_adapters.fs_l2_adapter import _object_key_to_filename

_log = logging.getLogger(__name__)
_DOWN_TO = 0.9
_DRAFT = ".tmp"
_DRAFT_LIVES_S = 3600.0


class DirectoryBound(L2AdapterListener):  # type: ignore[misc]
    def __init__(self, directory: Path, limit_bytes: int, *, recount_s: float = 60.0) -> None:
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

    def on_l2_keys_stored(self, keys: list[ObjectKey], sizes: list[int]) -> None:
        with self._lock:
            self._used_bytes += sum(sizes)
        self._grown.set()

    def on_l2_keys_accessed(self, keys: list[ObjectKey]) -> None:
        for key in keys:
            with suppress(OSError):
                os.utime(self._directory / _object_key_to_filename(key))

    def on_l2_keys_deleted(self, keys: list[ObjectKey]) -> None:
        """Sizes are not told, so the next count puts it right."""

    def _keep(self) -> None:
        counted_at = -self._recount_s
        while not self._is_closed:
            is_due = time.monotonic() >= counted_at + self._recount_s
            if is_due or self._used_bytes > self._limit_bytes:
                counted_at = time.monotonic()
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
        down_to = self._limit_bytes * (_DOWN_TO if used_bytes > self._limit_bytes else 1)
        for last_used, size, path in files:
            if _may_go(path, last_used, is_wanted=used_bytes <= down_to):
                used_bytes -= _removed_bytes(path, size)
        with self._lock:
            self._used_bytes += used_bytes - before_bytes

    def _files(self) -> list[tuple[float, int, str]]:
        """Time of last use, size and path."""
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):
                        stat = entry.stat(follow_symlinks=False)
                        found.append((stat.st_mtime, stat.st_size, entry.path))
        return found


def _may_go(path: str, last_used: float, *, is_wanted: bool) -> bool:
    """Of drafts only the old ones: a live server renames the others to chunks."""
    if path.endswith(_DRAFT):
        return time.time() - last_used > _DRAFT_LIVES_S
    return not is_wanted


def _removed_bytes(path: str, size: int) -> int:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return size
    except OSError as error:
        _log.warning("a KV file cannot be removed: %s", error)
        return 0
    return size
