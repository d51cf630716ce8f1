"""Keeps LMCache's directory within a size, also over restarts: the longest unused files go.

LMCache's ``fs`` adapter has no bound, and its native one forgets what lay there before. A file's
time of modification is when it was written or last loaded. A file that goes under a load is a
miss. What a dead server left half written (``.tmp``) goes at the start.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.internal_api import L2AdapterListener
from lmcache.v1.distributed.l2_adapters.fs_l2_adapter import _object_key_to_filename

_DOWN_TO = 0.9


class DirectoryBound(L2AdapterListener):  # type: ignore[misc]
    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes
        for draft in directory.glob("*.tmp"):
            draft.unlink(missing_ok=True)
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
            with suppress(FileNotFoundError):
                os.utime(self._directory / _object_key_to_filename(key))

    def on_l2_keys_deleted(self, keys: list[ObjectKey]) -> None:
        """Sizes are not told, so the next count puts it right."""

    def _keep(self) -> None:
        while self._grown.wait() and not self._is_closed:
            self._grown.clear()
            if self._used_bytes > self._limit_bytes:
                self._make_room()

    def _make_room(self) -> None:
        """Counts afresh; what is stored meanwhile may count twice, until the next time."""
        with self._lock:
            self._used_bytes = 0
        files = sorted(self._files())
        used_bytes = sum(size for _, size, _ in files)
        for _, size, path in files:
            if used_bytes <= self._limit_bytes * _DOWN_TO:
                break
            Path(path).unlink(missing_ok=True)
            used_bytes -= size
        with self._lock:
            self._used_bytes += used_bytes

    def _files(self) -> list[tuple[float, int, str]]:
        """Time of last use, size and path."""
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    stat = entry.stat()
                    found.append((stat.st_mtime, stat.st_size, entry.path))
        return found
