"""One request as a patient client sends it: asked again when told so, never believed blindly."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from enum import Enum
from random import Random

import aiohttp

from benchmarks.chaos.hearing import Trouble, hear
from benchmarks.chaos.options import Options
from benchmarks.chaos.questions import Question, Said, agrees

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_LOST = Trouble("no answer", may_ask_again=False)


class Fate(Enum):
    RIGHT = "right"
    WRONG = "wrong"
    """An answer other than the recorded one."""
    REFUSED = "refused"
    """Told to ask again until patience ended."""
    FAILED = "failed"
    """An error that does not say to ask again, or an answer that is broken and looks whole."""
    LOST = "lost"
    """Neither answer nor error."""


@dataclass(slots=True)
class Told:
    """How one request ended. ``troubles``: of its attempts that got no answer, in order."""

    question: Question
    fate: Fate
    seconds: float
    troubles: list[Trouble] = field(default_factory=list)
    said: Said | None = None


class Asking:
    """Asks a fleet, whatever happens to it."""

    def __init__(self, http: aiohttp.ClientSession, options: Options) -> None:
        self._http = http
        self._options = options
        self._dice = Random(f"pauses {options.seed}")

    async def attempt(self, question: Question) -> Said | Trouble:
        headers = {"x-torpor-max-wait-s": f"{self._options.max_wait_s:g}"}
        if question.conversation:
            headers["x-conversation-id"] = question.conversation
        limit = aiohttp.ClientTimeout(total=self._options.lost_s)
        try:
            async with self._http.post(
                question.path, json=question.body, headers=headers, timeout=limit
            ) as response:
                return await hear(response)
        except TimeoutError:
            return _LOST
        except aiohttp.ClientConnectorError:
            return Trouble("connection refused", may_ask_again=True)
        except aiohttp.ClientError:
            return Trouble("connection broken", may_ask_again=True)

    async def ask(self, question: Question, known: Said | None) -> Told:
        """Until there is an answer, patience ends, or asking again would not help."""
        began, troubles = time.monotonic(), list[Trouble]()
        while True:
            said = await self.attempt(question)
            seconds = time.monotonic() - began
            if not isinstance(said, Trouble):
                is_right = known is None or agrees(said, known)
                fate = Fate.RIGHT if is_right else Fate.WRONG
                return Told(question, fate, seconds, troubles, said)
            troubles.append(said)
            if said is _LOST:
                return Told(question, Fate.LOST, seconds, troubles)
            if not said.may_ask_again:
                return Told(question, Fate.FAILED, seconds, troubles)
            if seconds > self._options.patience_s:
                return Told(question, Fate.REFUSED, seconds, troubles)
            await asyncio.sleep(self._pause_s(said, len(troubles)))

    def _pause_s(self, trouble: Trouble, count: int) -> float:
        if trouble.after_s is not None:
            return min(trouble.after_s, self._options.patience_s)
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0**count)
        return longest * self._dice.uniform(0.5, 1.0)
