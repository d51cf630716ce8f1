"""Who could be demoted for whom: the rows that ``eviction`` chooses from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from controller.core.books import Books
from controller.core.choices import Choice, Victim
from controller.core.idle import DEEPEST_FROZEN, RUNGS
from controller.core.ledger import HOST, Amounts, spread
from controller.core.lifecycle import RISING, Phase, Replica
from controller.core.names import NEVER, Depth, DeviceId, Instant, ModelName, NodeId, ReplicaId
from controller.core.reliefs import Choices, Offer, Regard, Share, between, offer, share

SOON_VICTIMS = (Phase.AWAKE, Phase.ASLEEP, *RISING)


@dataclass(frozen=True, slots=True)
class Asker:
    """For whom the room is."""

    model: ModelName
    replica: ReplicaId | None = None
    can_evict: bool = True
    can_drain: bool = True
    can_stop: bool = True
    since: Instant = NEVER
    """Since when somebody waits for it."""
    evict_to: Depth = Depth.LEVEL_1
    ahead: dict[ModelName, None] = field(default_factory=dict)
    """Models whose demands come first: what sleeps of them is not to be pushed deeper."""
    behind: dict[ModelName, None] = field(default_factory=dict)
    """Models whose demands come later: better spared."""


def replicas_on(books: Books, node: NodeId, devices: tuple[DeviceId, ...] = ()) -> list[Replica]:
    """Those that hold something on one of the devices; without devices, on the node."""
    ledger, replicas = books.ledger, books.replicas
    if not devices:
        return [replicas[name] for name in ledger.bookings.get(node, {})]
    if len(devices) == 1:
        return [replicas[name] for name in ledger.on(node, devices[0])]
    names = dict.fromkeys(name for device in devices for name in ledger.on(node, device))
    return [replicas[name] for name in names]


def victims(
    books: Books, asker: Asker, replicas: list[Replica], deepest: Depth = Depth.STOPPED
) -> Iterator[Victim]:
    """Whom of these the asker may have demoted."""
    for replica in replicas:
        if replica.is_retiring or replica.id == asker.replica:
            continue
        if books.models[replica.model].spec.pinned:
            continue
        is_awake = replica.phase is Phase.AWAKE and not _is_spared(books, replica, asker)
        is_asleep = replica.phase is Phase.ASLEEP and replica.model not in asker.ahead
        if is_awake or is_asleep:
            yield _victim(books, replica, asker, deepest)


def later_victims(books: Books, asker: Asker, replicas: list[Replica]) -> Iterator[Victim]:
    """Those who will be victims once they are awake, or have been for long enough."""
    for replica in replicas:
        if replica.is_retiring or books.models[replica.model].spec.pinned:
            continue
        is_spared = replica.phase is Phase.AWAKE and _is_spared(books, replica, asker)
        if is_spared or replica.phase in RISING:
            yield _victim(books, replica, asker, Depth.LEVEL_2)


def offer_of(books: Books, node: NodeId, device: DeviceId, evict_to: Depth) -> Offer:
    """What ``victims`` and ``later_victims`` on the device can free at the most; kept."""
    kept = books.reliefs.offers.setdefault((node, device), {})
    if evict_to not in kept:
        kept[evict_to] = work_out_offer(books, node, device, evict_to)
    return kept[evict_to]


def work_out_offer(books: Books, node: NodeId, device: DeviceId, evict_to: Depth) -> Offer:
    return offer(
        [
            _share(books, replica, device, evict_to)
            for replica in replicas_on(books, node, (device,))
            if replica.phase in SOON_VICTIMS
            and not replica.is_retiring
            and not books.models[replica.model].spec.pinned
        ]
    )


def _share(books: Books, replica: Replica, device: DeviceId, evict_to: Depth) -> Share:
    kept = books.reliefs.shares.setdefault(replica.id, {})
    if evict_to not in kept:
        choices = _choices(books, replica, evict_to, Depth.STOPPED)
        is_idle = not _is_busy(replica)
        wants, by = books.popularity.of(replica.model), books.policy.eviction
        kept[evict_to] = share(choices, is_idle, device, lambda choice: choice.regret(wants, by))
    return kept[evict_to]


def choices_of(books: Books, replica: Replica) -> Choices:
    """What comes free when it rests at each of RUNGS, and at what cost; kept."""
    kept = books.reliefs.choices.get(replica.id)
    if kept is None:
        kept = books.reliefs.choices[replica.id] = work_out_choices(books, replica)
    return kept


def work_out_choices(books: Books, replica: Replica) -> Choices:
    assert replica.place is not None
    costs, model, devices = books.costs, replica.model, replica.place.devices
    held, now_s = books.will_hold(replica), books.costs.raising(replica.model, replica.depth)
    choices = []
    for depth in RUNGS:
        after = books.footprint(replica, depth)
        relief = dict.fromkeys(devices, held.device_bytes - after.device_bytes)
        relief[HOST] = held.host_bytes - after.host_bytes
        choices.append(Choice(depth, relief, costs.raising(model, depth) - now_s))
    return tuple(choices)


def most_free(books: Books, replica: Replica, device: DeviceId) -> int:
    """What comes free on the device if the replica goes as far as it may; of one that drains,
    beside what its drain will free."""
    choices = _choices(books, replica, Depth.KV_RELEASED, Depth.STOPPED)
    return max([0, *[choice.relief.get(device, 0) for choice in choices]])


def coming_of(books: Books, replica: Replica) -> Amounts:
    """What its order, or its drain, will free; kept."""
    kept = books.reliefs.coming.get(replica.id)
    if kept is None:
        kept = books.reliefs.coming[replica.id] = work_out_coming(books, replica)
    return kept


def work_out_coming(books: Books, replica: Replica) -> Amounts:
    assert replica.place is not None
    booking = books.ledger.bookings[replica.place.node][replica.id]
    before, after = booking.footprint, books.will_hold(replica)
    coming = dict.fromkeys(booking.place.devices, before.device_bytes - after.device_bytes)
    coming[HOST] = before.host_bytes - after.host_bytes
    return coming


def never_free(books: Books, asker: Asker, node: NodeId, may_thaw: bool) -> Amounts:
    """What others hold on the node however far they are demoted; ``may_thaw``: the frozen, too,
    once they have gone on and ended."""
    total: Amounts = {}
    for replica in replicas_on(books, node):
        spec = books.models[replica.model].spec
        deepest = spec.deepest
        if replica.is_frozen and not may_thaw:
            deepest = min(deepest, DEEPEST_FROZEN)
        if not spec.pinned and deepest is Depth.STOPPED:
            continue
        if replica.id == asker.replica or replica.is_retiring or replica.place is None:
            continue
        least = spread(books.will_hold(replica), replica.place.devices)
        if not spec.pinned:
            for rung in RUNGS:
                if books.heads_for(replica) < rung <= deepest:
                    lower = spread(books.footprint(replica, rung), replica.place.devices)
                    least = {r: min(a, lower[r]) for r, a in least.items()}
        for resource, amount in least.items():
            total[resource] = total.get(resource, 0) + amount
    return total


def _is_spared(books: Books, replica: Replica, asker: Asker) -> bool:
    """Busy ones are, unless the asker may drain and they have been awake long enough."""
    if not replica.leases:
        return False
    policy = books.policy
    until = min(
        replica.awake_since + policy.minimum_awake_s, asker.since + policy.maximum_wait_behind_s
    )
    return not asker.can_drain or books.now < until


def _is_busy(replica: Replica) -> bool:
    """To push a sleeper deeper disturbs nobody, also where its requests are frozen."""
    is_running = bool(replica.leases) and replica.phase is not Phase.ASLEEP
    return is_running or replica.phase in RISING


def _is_stuck(books: Books, replica: Replica) -> bool:
    """Others' responses would be suspended for somebody's sake at some time, its own never."""
    if not replica.leases or books.policy.maximum_wait_behind_s == NEVER:
        return False
    return bool(replica.never_frozen) or not books.models[replica.model].spec.can_freeze


def _victim(books: Books, replica: Replica, asker: Asker, deepest: Depth) -> Victim:
    """Kept for those that nobody uses."""
    is_wanted = replica.model in asker.behind or books.models[replica.model].is_due_awake
    regard = (asker.evict_to, deepest, is_wanted)
    if replica.leases or replica.phase in RISING:
        return work_out_victim(books, replica, regard)
    kept = books.reliefs.idle.setdefault(replica.id, {})
    if regard not in kept:
        kept[regard] = work_out_victim(books, replica, regard)
    return kept[regard]


def work_out_victim(books: Books, replica: Replica, regard: Regard) -> Victim:
    evict_to, deepest, is_wanted = regard
    return Victim(
        replica=replica.id,
        is_busy=_is_busy(replica),
        is_awake=replica.phase is not Phase.ASLEEP,
        is_wanted=is_wanted,
        idle_since=replica.idle_since,
        choices=_choices(books, replica, evict_to, deepest),
        wants=books.popularity.of(replica.model),
        is_stuck=_is_stuck(books, replica),
    )


def _choices(books: Books, replica: Replica, evict_to: Depth, deepest: Depth) -> Choices:
    limit = books.models[replica.model].spec.deepest
    if replica.is_frozen:
        limit = min(limit, DEEPEST_FROZEN)
    is_awake = replica.phase is not Phase.ASLEEP
    first = min(evict_to, limit) if is_awake else Depth(replica.depth + 1)
    return between(choices_of(books, replica), first, min(deepest, limit))
