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
from collections.abc import Callable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ConfigDict, TypeAdapter

from controller.core import commands as _commands
from controller.core import events as _events
from controller.core.commands import Command, GrantLease
from controller.core.events import Event, LeaseReleased, RequestArrived

_KINDS: dict[str, type] = {
    name: kind
    for module, base in ((_events, Event), (_commands, Command))
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, base)
}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    """None never comes, but a dataclass by itself would take no configuration."""
    return TypeAdapter(kind | None, config=ConfigDict(ser_json_inf_nan="constants"))


_ADAPTERS = {kind: _adapter(kind) for kind in _KINDS.values()}
_FINITE = (RequestArrived, GrantLease, LeaseReleased)
"""Those of nearly every request. No figure of theirs is infinite, which JSON knows nothing of, so
that msgspec may write them: it takes a third of the time."""
_WRITERS: dict[type, Callable[[Any], bytes]] = {
    kind: adapter.serializer.to_json for kind, adapter in _ADAPTERS.items()
} | dict.fromkeys(_FINITE, msgspec.json.Encoder().encode)
_TYPES = {kind: f'{{"type":"{name}"'.encode() for name, kind in _KINDS.items()}


def encode(value: Event | Command) -> bytes:
    """A JSON object: the type's name and the fields."""
    kind = type(value)
    return b"%b,%b" % (_TYPES[kind], _WRITERS[kind](value)[1:])


def decode(line: dict[str, Any]) -> Event | Command:
    """The inverse of encode. Raises KeyError for an unknown type."""
    fields = dict(line)
    value = _ADAPTERS[_KINDS[fields.pop("type")]].validate_python(fields)
    assert isinstance(value, Event | Command)
    return value


Soon = Callable[[Callable[[], None]], object]
"""Calls what it is given, a little later."""


class Journal:
    """Appends, one line for each event.

    ``soon`` says when lines reach the kernel: with an event loop's ``call_soon``, once for all
    lines of one turn of the loop. A controller that is killed takes the lines of at most that
    turn with it; what was ordered in it is found by looking at the engines, not in here. Without
    ``soon`` each line is written at once.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int = 64 << 20,
        files: int = 4,
        soon: Soon = lambda flush: flush(),
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._files = files
        self._soon = soon
        self._pending: list[tuple[Event, Sequence[Command], float]] = []
        self._out = self._open()

    def record(self, event: Event, commands: Sequence[Command], unix: float | None = None) -> None:
        """``unix``: the wall clock, if not that of this machine."""
        self._pending.append((event, commands, time.time() if unix is None else unix))
        if len(self._pending) == 1:
            self._soon(self.flush)

    def flush(self) -> None:
        """Nothing is kept back for a second try if the disk is full."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        lines = b"".join([_line(*one) for one in pending])
        self._out.write(lines)
        self._size_bytes += len(lines)
        if self._size_bytes >= self._max_bytes:
            self._rotate()

    def close(self) -> None:
        self.flush()
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


def _line(event: Event, commands: Sequence[Command], unix: float) -> bytes:
    ordered = b",".join([encode(command) for command in commands])
    head = b'{"at":%r,"unix":%.3f,"event":%b' % (event.at, unix, encode(event))
    return b'%b,"commands":[%b]}\n' % (head, ordered)


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
