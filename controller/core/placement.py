"""Where a replica can be raised: the place it has, or devices chosen for it.

Among several places the one that disturbs least is taken, and among equals the emptiest.
Replicas of one model are spread over nodes as far as that disturbs nobody.
"""

from __future__ import annotations

from itertools import islice

from controller.core.books import Books
from controller.core.fits import Fit, Verdict
from controller.core.ledger import HOST, Amounts, spread
from controller.core.lifecycle import Place, Replica
from controller.core.models import ModelRecord
from controller.core.names import Depth, DeviceId, Footprint
from controller.core.node_room import NodeRoom, devices_of
from controller.core.rooms import Rooms
from controller.core.victims import Asker, most_free, never_free, replicas_on, victims

GIB = 1024**3


def fit_asleep(rooms: Rooms, asker: Asker, replica: Replica) -> Fit:
    """Whether a sleeper can wake where it is."""
    assert replica.place is not None
    needs = rooms.books.reliefs.needs
    if replica.id not in needs:
        needs[replica.id] = work_out_need(rooms.books, replica)
    return rooms.at(replica.place.node).fit(asker, replica.place, needs[replica.id])


def work_out_need(books: Books, replica: Replica) -> Amounts:
    assert replica.place is not None
    awake = replica.held.union(books.footprint(replica, Depth.AWAKE))
    held = books.ledger.held(replica.id, replica.place.node)
    after = spread(awake, replica.place.devices)
    return {r: amount - held.get(r, 0) for r, amount in after.items()}


def fit_cold(rooms: Rooms, asker: Asker, record: ModelRecord) -> Fit | None:
    """The best place for a cold start; None where no node has the devices at all."""
    need, count = record.footprint(Depth.AWAKE), record.spec.devices_per_replica
    free = [
        (*_promise(room, devices, record), room, devices)
        for room in rooms.nodes()
        for devices in _emptiest(room, count)
    ]
    if not free:
        return None
    *_, room, devices = min(free, key=lambda found: found[:4])
    best = room.fit_free(Place(room.node, devices), spread(need, devices))
    if best.verdict is not Verdict.BLOCKED:
        return best
    return _least_disturbing(rooms, asker, need, count) or best


def _promise(
    room: NodeRoom, devices: tuple[DeviceId, ...], record: ModelRecord
) -> tuple[bool, int, Verdict, int]:
    """Of the places where there is room or will be, one beside no other replica of the model;
    then where it is soonest, then the emptiest."""
    verdict = room.verdict_free(devices, spread(record.footprint(Depth.AWAKE), devices))
    return (
        verdict is Verdict.BLOCKED,
        _others_on(room, record),
        verdict,
        -room.emptiness(devices),
    )


def _others_on(room: NodeRoom, record: ModelRecord) -> int:
    if not record.spec.spreads or record.spec.replicas == 1:
        return 0
    return sum(r.place is not None and r.place.node == room.node for r in record.replicas)


def _least_disturbing(rooms: Rooms, asker: Asker, need: Footprint, count: int) -> Fit | None:
    """The best promises first, until none is better than what was found; of equals, the first."""
    promises = [
        (
            (*room.least_rank(asker, devices, spread(need, devices)), -room.emptiness(devices)),
            number,
            room,
            devices,
        )
        for number, (room, devices) in enumerate(
            (room, devices) for room in rooms.nodes() for devices in _roomiest(room, asker, count)
        )
    ]
    best: tuple[tuple[float, ...], int, Fit] | None = None
    for promised, number, room, devices in sorted(promises):
        if best is not None and best[:2] < (promised, number):
            break
        fit = room.fit_evicting(asker, Place(room.node, devices), spread(need, devices))
        found = ((*fit.rank, -room.emptiness(devices)), number, fit)
        if best is None or found[:2] < best[:2]:
            best = found
    return best[2] if best is not None else None


def _emptiest(room: NodeRoom, count: int) -> list[tuple[DeviceId, ...]]:
    """One device: each. Several: where most is free, and where most is coming free."""
    devices = devices_of(room)
    if count == 1 or len(devices) < count:
        return [(device,) for device in devices] if count == 1 else []
    ledger = room.books.ledger
    free = {d: min(ledger.free(room.node, d), room.spare[d]) for d in devices}
    return [_largest(devices, free, count), _largest(devices, room.spare, count)]


def _roomiest(room: NodeRoom, asker: Asker, count: int) -> list[tuple[DeviceId, ...]]:
    """One device: each. Several: those where most would be free if everybody went, whether it
    drains already or not: the choice must not change because its first step was taken."""
    devices = devices_of(room)
    if count == 1 or len(devices) < count:
        return _emptiest(room, count)
    potential = dict(room.spare)
    for victim in victims(room.books, asker, replicas_on(room.books, room.node)):
        for device in devices:
            reliefs = [choice.relief.get(device, 0) for choice in victim.choices]
            potential[device] += max([0, *reliefs])
    for replica, relief in room.drains.items():
        for device in devices:
            deeper = most_free(room.books, room.books.replicas[replica], device)
            potential[device] += relief.get(device, 0) + deeper
    return [_largest(devices, potential, count), _largest(devices, room.spare, count)]


def _largest(
    devices: tuple[DeviceId, ...], amounts: dict[DeviceId, int], count: int
) -> tuple[DeviceId, ...]:
    ranked = sorted(devices, key=lambda device: (-amounts.get(device, 0), device))
    return tuple(sorted(islice(ranked, count)))


def why_never(rooms: Rooms, record: ModelRecord) -> str | None:
    """The reason for which the model fits no node even if it is alone there, and nobody but the
    fleet holds anything."""
    budgets = rooms.books.ledger.named
    if not budgets:
        return None
    need, count = record.footprint(Depth.AWAKE), record.spec.devices_per_replica
    best_device = best_host = 0
    for amounts in budgets.values():
        sizes = sorted((a for r, a in amounts.items() if r != HOST), reverse=True)
        device = sizes[count - 1] if len(sizes) >= count else 0
        if device >= need.device_bytes and amounts[HOST] >= need.host_bytes:
            return None
        if device >= best_device:
            best_device, best_host = device, amounts[HOST]
    where = f" on each of {count} devices of one node" if count > 1 else ""
    if best_device < need.device_bytes:
        return f"needs {_size(need.device_bytes)}{where}, budget {_size(best_device)}"
    return f"needs {_size(need.host_bytes)} of host memory, budget {_size(best_host)}"


def why_no_return(books: Books, replica: Replica) -> str | None:
    """The reason for which a sleeper can never be awake again where it is: the budget, less what
    those hold there that may not be stopped. Whoever is pinned may be unpinned."""
    assert replica.place is not None
    budget = books.ledger.budgets.get(replica.place.node)
    if budget is None:
        return None
    needs = spread(books.footprint(replica, Depth.AWAKE), replica.place.devices)
    for other in replicas_on(books, replica.place.node, replica.place.devices):
        spec = books.models[other.model].spec
        if other.id != replica.id and other.place and spec.deepest is not Depth.STOPPED:
            least = spread(books.footprint(other, spec.deepest), other.place.devices)
            needs = {r: need + least.get(r, 0) for r, need in needs.items()}
    short = [r for r, need in needs.items() if need > budget.get(r, 0)]
    return f"more than the budget of {replica.place.node}: {', '.join(short)}" if short else None


def is_possible(
    rooms: Rooms, asker: Asker, record: ModelRecord, replica: Replica, may_thaw: bool = True
) -> bool:
    """Whether demoting everybody who is not pinned would make the room; ``may_thaw``: after what
    is frozen has gone on and ended."""
    awake = record.footprint(Depth.AWAKE)
    for room in rooms.nodes() if replica.place is None else [rooms.at(replica.place.node)]:
        budgets = rooms.books.ledger.budgets.get(room.node, {})
        stuck = never_free(rooms.books, asker, room.node, may_thaw)
        left = {r: budgets[r] - stuck.get(r, 0) for r in budgets}
        if left.get(HOST, 0) < awake.host_bytes:
            continue
        wide = [d for d in devices_of(room) if left[d] >= awake.device_bytes]
        chosen = replica.place.devices if replica.place else ()
        if all(d in wide for d in chosen) and len(wide) >= record.spec.devices_per_replica:
            return True
    return not rooms.books.ledger.budgets


def best_fit(rooms: Rooms, asker: Asker, record: ModelRecord, replica: Replica) -> Fit | None:
    if replica.place is not None:
        return fit_asleep(rooms, asker, replica)
    return fit_cold(rooms, asker, record)


def is_blocked(fit: Fit | None) -> bool:
    return fit is None or fit.verdict is Verdict.BLOCKED


def _size(size: int) -> str:
    units = ((GIB, "GiB"), (1024**2, "MiB"))
    for unit, name in units:
        if size >= unit / 10:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"
