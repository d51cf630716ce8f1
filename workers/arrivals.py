"""What arrives takes its time, each in a task of its own, and keeps nobody from other news."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Arrivals(Generic[T]):
    """By id. Whether one has arrived well is what its task returns, which raises nothing."""

    def __init__(self) -> None:
        self._arriving: dict[str, tuple[T, asyncio.Task[bool]]] = {}

    def __contains__(self, id_: str) -> bool:
        return id_ in self._arriving

    def begin(self, id_: str, what: T, arrive: Coroutine[Any, Any, bool]) -> None:
        self._arriving[id_] = what, asyncio.get_running_loop().create_task(arrive)

    def keep_only(self, ids: Collection[str]) -> None:
        """The others will not arrive any more."""
        for id_ in [id_ for id_ in self._arriving if id_ not in ids]:
            _, task = self._arriving.pop(id_)
            task.cancel()

    async def all_over(self) -> None:
        await asyncio.gather(*(task for _, task in self._arriving.values()))

    def over(self) -> list[T]:
        """Those that have arrived since it was last asked; who did not may begin again."""
        ended = [id_ for id_, (_, task) in self._arriving.items() if task.done()]
        tasks = [self._arriving.pop(id_) for id_ in ended]
        return [what for what, task in tasks if task.result()]
