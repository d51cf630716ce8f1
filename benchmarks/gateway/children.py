"""Processes that are told one line of JSON, answer one line to each, and end with their input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import Any, TypeVar

import psutil
from pydantic import TypeAdapter

Order = TypeVar("Order")


class Child:
    """``python -m MODULE``; its CPU time and memory can be read."""

    def __init__(self, module: str) -> None:
        self._said = TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
        )
        self._measured = psutil.Process(self._process.pid)

    def ask(self, order: object) -> Any:
        """Raises ChildProcessError when the process ends instead of answering."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(TypeAdapter(type(order)).dump_json(order).decode() + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._said.seek(0)
            raise ChildProcessError(self._said.read()[-2000:])
        return json.loads(answer)

    def cpu_s(self) -> float:
        """With that of its children."""
        family = [self._measured, *self._measured.children(recursive=True)]
        return sum(times.user + times.system for times in (one.cpu_times() for one in family))

    def rss_bytes(self) -> int:
        return self._measured.memory_info().rss

    def close(self) -> None:
        self._process.communicate()
        self._said.close()


@contextmanager
def running(module: str) -> Iterator[Child]:
    child = Child(module)
    try:
        yield child
    finally:
        child.close()


def read_order(kind: type[Order]) -> Order:
    """In the child: the next line."""
    return TypeAdapter(kind).validate_json(sys.stdin.readline())


def tell(answer: object) -> None:
    """In the child: one line. A signal may cut a write short, and where Python's own output is not
    buffered (``PYTHONUNBUFFERED``) the rest is lost: this one writes on."""
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        out.write(json.dumps(answer).encode() + b"\n")
