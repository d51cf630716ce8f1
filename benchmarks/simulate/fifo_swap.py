"""Plain model swapping, as proxies in front of several engines do it.

Requests in order of arrival, one swap at a time. A model that is not awake is swapped in: the
least recently used models that are in its way go, once their responses have ended, one order
after the other. They are stopped (``Depth.STOPPED``), or fall asleep at level 1 where the host
has room for them.

In strict order the first request that waits holds back all behind it. With ``ready_first`` a
request for a model that is awake overtakes, which is what llama-swap's default scheduler does
("A B C A B C → A A B B C C"); a model that never rests is then never swapped out.

It begins in a good position: with level 1 every model has been started and sleeps, as far as the
host has room, and the most popular are awake.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

from benchmarks.running import BenchError
from benchmarks.simulate.stage import SPREAD, Played, Stage, Work
from benchmarks.simulate.swap_room import Engine, Room, Swap
from benchmarks.workload.residency import Residency
from benchmarks.workload.score import Outcome
from controller.core.names import Depth, ModelName


@dataclass(frozen=True, slots=True)
class _Step:
    """The swap's order of that index has been carried out."""

    index: int


@dataclass(slots=True)
class FifoSwap:
    """``spread`` as in ``stage.SPREAD``; 0 makes every order take exactly its price."""

    stage: Stage
    rest: Depth = Depth.STOPPED
    ready_first: bool = False
    spread: float = SPREAD
    now: float = 0.0
    _engines: dict[ModelName, Engine] = field(default_factory=dict)
    _waiting: list[Work] = field(default_factory=list)
    _swap: Swap | None = None
    _room: Room = field(init=False)
    _residency: Residency = field(default_factory=Residency)
    _outcomes: dict[str, Outcome] = field(default_factory=dict)
    _heap: list[tuple[float, int, object]] = field(default_factory=list)
    _count: int = 0

    def play(self) -> Played:
        dice = Random(f"orders {self.stage.seed}")
        self._set_up()
        for work in self.stage.works:
            self._schedule(work.at_s, work)
        while self._heap:
            self.now, _, happened = heappop(self._heap)
            match happened:
                case Work():
                    self._waiting.append(happened)
                    if (wait_s := happened.max_wait_s) is not None:
                        self._schedule(self.now + wait_s, None)
                case Engine():
                    happened.running -= 1
                    happened.used_at = self.now
                case _Step():
                    self._step(happened, dice)
                case _:
                    pass
            self._go_on(dice)
        self._residency.end(max(self.now, self.stage.duration_s))
        spans = self._residency.since(0.0)
        return Played(list(self._outcomes.values()), spans, self._residency)

    def _schedule(self, at: float, happens: object) -> None:
        self._count += 1
        heappush(self._heap, (at, self._count, happens))

    # what waits

    def _go_on(self, dice: Random) -> None:
        """Refuse whose time has come, serve who can be served, begin a swap for the first other."""
        for work in [w for w in self._waiting if w.max_wait_s is not None]:
            if work.at_s + (work.max_wait_s or 0.0) <= self.now:
                self._refuse(work, "deadline_passed")
        for work in list(self._waiting):
            engine = self._engines.get(work.model)
            if engine is None:
                self._refuse(work, "unknown_model")
            elif engine.depth is Depth.AWAKE and not engine.is_moving:
                self._serve(work, engine)
            elif not self.ready_first:
                break
        if self._waiting and self._swap is None:
            self._swap_in(self._engines[self._waiting[0].model], dice)

    def _serve(self, work: Work, engine: Engine) -> None:
        self._waiting.remove(work)
        engine.running += 1
        engine.used_at = self.now
        waited = self.now - work.at_s
        self._outcomes[work.request] = Outcome(
            *(work.request, work.model, work.at_s, waited),
            *(waited + work.prefill_s, waited + work.serve_s),
        )
        self._schedule(self.now + work.serve_s, engine)

    def _refuse(self, work: Work, why: str) -> None:
        self._waiting.remove(work)
        self._outcomes[work.request] = Outcome(work.request, work.model, work.at_s, shed=why)

    # swaps

    def _swap_in(self, engine: Engine, dice: Random) -> None:
        swap = self._room.best_swap(engine)
        if swap is None:
            for work in [w for w in self._waiting if w.model == engine.model]:
                self._refuse(work, "never_fits")
            self._go_on(dice)
        elif not any(victim.running for victim, _ in swap.moves):
            self._swap = swap
            for victim, _ in swap.moves:
                victim.is_moving = True
            self._order(0, dice)

    def _order(self, index: int, dice: Random) -> None:
        """The swap's next order; after the moves, the raising."""
        swap = self._swap
        assert swap is not None
        if index < len(swap.moves):
            engine, depth = swap.moves[index]
            price = engine.price
            takes_s = price.stop_s if depth is Depth.STOPPED else price.sleep_s[depth]
            phase = "STOPPING" if depth is Depth.STOPPED else "FALLING_ASLEEP"
            why = "evicted" if depth is Depth.STOPPED else f"to {depth.name}: evicted"
        else:
            engine, is_cold = swap.target, swap.target.depth is Depth.STOPPED
            takes_s = engine.price.start_s if is_cold else engine.price.wake_s[engine.depth]
            phase, why = "STARTING" if is_cold else "WAKING", ""
        self._residency.changed(engine.model, phase, why, self.now)
        takes_s *= dice.uniform(1 - self.spread, 1 + self.spread)
        self._schedule(self.now + takes_s, _Step(index))

    def _step(self, step: _Step, dice: Random) -> None:
        """An order of the swap has been carried out."""
        swap = self._swap
        assert swap is not None
        if step.index < len(swap.moves):
            engine, depth = swap.moves[step.index]
            self._rest_at(engine, depth)
            self._order(step.index + 1, dice)
            return
        engine, self._swap = swap.target, None
        engine.node, engine.device = swap.node, swap.device
        engine.depth, engine.used_at = Depth.AWAKE, self.now
        self._residency.changed(engine.model, "AWAKE", "", self.now)

    def _rest_at(self, engine: Engine, depth: Depth) -> None:
        engine.depth, engine.is_moving = depth, False
        if depth is Depth.STOPPED:
            engine.node = engine.device = ""
        phase = "COLD" if depth is Depth.STOPPED else "ASLEEP"
        self._residency.changed(engine.model, phase, "", self.now)

    def _set_up(self) -> None:
        stage = self.stage
        for spec in stage.specs:
            if spec.devices_per_replica > 1:
                raise BenchError(f"{spec.name}: swapping is simulated for one device a model")
            self._engines[spec.name] = Engine(spec.name, stage.prices[spec.name])
            self._residency.begin(spec.name, "stopped", 0.0)
        engines = list(self._engines.values())
        self._room = Room(stage.nodes, engines, self.rest)
        depths = (Depth.AWAKE,) if self.rest is Depth.STOPPED else (self.rest, Depth.AWAKE)
        for depth in depths:
            for rank, engine in enumerate(engines):
                if self._room.place(engine, depth, rank):
                    self._residency.begin(engine.model, depth.name.lower(), 0.0)
