"""A fleet.yaml that changes while its fleet runs.

It is looked at every two seconds, by content: a ConfigMap's swapped links, an editor's renaming
and a network's file system all show as other content, and no two of them tell of it alike. What
is read is taken over model by model, without dropping a request. What only a start of the
controller can change is named, and nothing else is refused for it. A file that is not valid
changes nothing.

Only fleet.yaml itself is watched, not what it names; but one that was refused is tried again, since
the hub may answer by then, or the weights be there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any, Protocol

from controller.config_errors import ConfigError
from controller.model_settings import ConfiguredModel
from controller.ports import ConfigView
from controller.settings import Settings, load

log = logging.getLogger("torpor.config")

_LOOK_EVERY_S = 2.0
_AT_ANY_TIME = ("models", "surroundings", "source", "overrides", "announces_json")
"""Of Settings; everything else counts at a start only. What ``defaults`` says is in ``models``."""
_AS_WRITTEN = {
    "server.max_body_bytes": "server.max_body_mib",
    "memory.device_bytes": "memory.device_budget_gib",
    "memory.host_bytes": "memory.host_budget_gib",
    "memory.follow.follows_devices": "memory.follow",
    "memory.follow.follows_host": "memory.follow",
    "memory.follow.headroom_fraction": "memory.headroom_fraction",
    "memory.follow.stall_percent": "memory.stall_percent",
    "memory.follow.calm_s": "memory.calm_s",
    "journal.max_bytes": "journal.max_mib",
    "kv.host_bytes": "kv.host_gib",
    "kv.durable": "kv.directory",
    "history": "conversations.history",
    "history.keys_file": "conversations.history.keys_file",
    "history.limits.sealed_bytes": "conversations.history.limit_mib",
    "history.limits.items": "conversations.history.limit_items",
    "logs_to_stderr": "log_dir",
}
"""Keys of Settings that have another name in the file."""
_OF_KV = ("memory.kv_host_bytes", "memory.follow.reserved_bytes")
"""From ``kv``, which says so itself."""

Look = Callable[[], Awaitable[Settings | None]]
"""What the file says, if it changed since the last look. Raises ConfigError, once a change."""


class Reconfigures(Protocol):
    """Whoever carries out what the file says."""

    def reconfigure(self, models: Iterable[ConfiguredModel], view: ConfigView) -> None: ...

    def tell_of_config(self, view: ConfigView) -> None: ...


class Reload:
    """Watches for one fleet."""

    def __init__(self, running: Settings, fleet: Reconfigures, look: Look) -> None:
        """``running``: what the controller was started with."""
        self._running = running
        self._fleet = fleet
        self._look = look
        self._taken_at = time.time()

    async def watch(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("the look at %s failed", self._running.source)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        at = time.time()
        try:
            written = await self._look()
        except ConfigError as error:
            self._refuse(at, error)
        else:
            if written is not None:
                self._take(at, written)

    def _take(self, at: float, written: Settings) -> None:
        self._taken_at = at
        left = tuple(needs_restart(self._running, written))
        log.info("%s is taken over; a restart is needed for: %s", written.source, left or "nothing")
        view = ConfigView(str(written.source), at, at, needs_restart=left)
        self._fleet.reconfigure(written.models, view)

    def _refuse(self, at: float, error: ConfigError) -> None:
        problems = tuple(str(problem) for problem in error.problems)
        log.error("%s is refused: %s", self._running.source, "; ".join(problems))
        self._fleet.tell_of_config(
            ConfigView(str(self._running.source), at, self._taken_at, problems)
        )


@dataclass
class FileLook:
    """Looks at the file that the settings came from."""

    running: Settings
    again_after_s: float = 30.0
    """A file that was refused is tried again: what it names may be there by then."""
    seen: bytes = b""
    """The digest of the content that was read last."""
    said: str = ""
    """Why it was refused."""
    again_at: float = inf

    async def __call__(self) -> Settings | None:
        """In a thread: checkpoints are read, and a hub may be asked."""
        return await asyncio.to_thread(self._look)

    def _look(self) -> Settings | None:
        assert self.running.source is not None
        digest = _digest(self.running.source)
        is_again = digest == self.seen
        if is_again and time.monotonic() < self.again_at:
            return None
        self.seen, self.again_at = digest, inf
        try:
            return reread(self.running)
        except ConfigError as error:
            self.again_at = time.monotonic() + self.again_after_s
            if is_again and str(error) == self.said:
                return None
            self.said = str(error)
            raise


def reread(running: Settings) -> Settings:
    """The file as it is; models as they would run here. Raises ConfigError."""
    assert running.source is not None
    return load(running.source, server=running.overrides, running=running.surroundings)


def with_models_as_written(settings: Settings) -> Settings:
    """A controller that is started once more begins with the models of the file as it is."""
    if settings.source is None:
        return settings
    try:
        return replace(settings, models=reread(settings).models)
    except ConfigError:
        return settings


def needs_restart(running: Settings, written: Settings) -> Iterator[str]:
    """Key paths of what differs and cannot change while the controller runs."""
    found = (
        path
        for key in (field.name for field in fields(Settings) if field.name not in _AT_ANY_TIME)
        for path in _differences(key, getattr(running, key), getattr(written, key))
    )
    any_port = written.server.port == 0
    for path in dict.fromkeys(_AS_WRITTEN.get(path, path) for path in found):
        if not (path == "server.port" and any_port):
            yield path


def _differences(path: str, one: Any, other: Any) -> Iterator[str]:
    if one == other or path in _OF_KV:
        return
    if type(one) is not type(other) or not is_dataclass(one) or path == "kv.durable":
        yield path
        return
    for field in fields(one):
        below = f"{path}.{field.name}"
        yield from _differences(below, getattr(one, field.name), getattr(other, field.name))


def _digest(path: Path) -> bytes:
    """Of a file that cannot be read, that of nothing."""
    try:
        return sha256(path.read_bytes()).digest()
    except OSError:
        return sha256().digest()
