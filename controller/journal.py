"""Every event that reached the core and every command it gave, as JSON lines; bounded.

One line: ``{"at", "unix", "event": {"type", …}, "commands": [{"type", …}, …]}``, ``at`` on the
driver's monotonic clock. A journal that begins with the first event of a run replays to itself:
feed ``read`` to a fresh Fleet and the same commands come out. The file is rotated at
``max_bytes`` and at most ``files`` old ones are kept (``journal.jsonl.1`` is the youngest).
Prompts and completions never reach an event, so they are never here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_json

from controller.core import commands as _commands
from controller.core import events as _events
from controller.core.commands import Command
from controller.core.events import Event

_KINDS: dict[str, type] = {
    name: kind
    for module, base in ((_events, Event), (_commands, Command))
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, base)
}


_ADAPTERS: dict[str, TypeAdapter[Any]] = {name: TypeAdapter(kind) for name, kind in _KINDS.items()}


def encode(value: Event | Command) -> bytes:
    """A JSON object: the type's name and the fields."""
    return b'{"type":"%b",%b' % (type(value).__name__.encode(), to_json(value)[1:])


def decode(line: dict[str, Any]) -> Event | Command:
    """The inverse of encode. Raises KeyError for an unknown type."""
    fields = dict(line)
    value = _ADAPTERS[fields.pop("type")].validate_python(fields)
    assert isinstance(value, Event | Command)
    return value


class Journal:
    """Appends; one line for each event, written through to the kernel at once."""

    def __init__(self, path: Path, max_bytes: int = 64 << 20, files: int = 4) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        self._out = self._open()

    def record(self, event: Event, commands: Sequence[Command], unix: float | None = None) -> None:
        """``unix``: the wall clock, if not that of this machine."""
        ordered = b",".join([encode(command) for command in commands])
        line = b'{"at":%r,"unix":%.3f,"event":%b,"commands":[%b]}\n' % (
            event.at,
            time.time() if unix is None else unix,
            encode(event),
            ordered,
        )
        self._out.write(line)
        self._size_bytes += len(line)
        if self._size_bytes >= self._max_bytes:
            self._rotate()

    def close(self) -> None:
        self._out.close()

    def _open(self) -> FileIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        out = self._path.open("ab", buffering=0)
        self._size_bytes = out.tell()
        return out

    def _rotate(self) -> None:
        self._out.close()
        for index in range(self._files - 1, 0, -1):
            old = self._numbered(index)
            if old.exists():
                old.rename(self._numbered(index + 1))
        if self._files:
            self._path.rename(self._numbered(1))
        else:
            self._path.unlink()
        self._out = self._open()

    def _numbered(self, index: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{index}")


def read(path: Path) -> Iterator[tuple[Event, list[Command]]]:
    """Each event of one journal file with the commands it led to; a torn last line is left out."""
    with path.open(encoding="utf-8") as lines:
        for text in lines:
            if not text.endswith("\n"):
                return
            line = json.loads(text)
            event = decode(line["event"])
            assert isinstance(event, Event)
            commands = [decode(command) for command in line["commands"]]
            yield event, [c for c in commands if isinstance(c, Command)]
