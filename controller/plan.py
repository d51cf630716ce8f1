"""Does a fleet fit? What each model needs, which can be awake together, what level 1 costs.

Computed from the same estimates that the core books before anything was measured. Placement is
first fit by falling size over real device rows, so a set that is said not to fit together may
fit with luck, and never the other way round. The other models are taken to sleep as deep as
they may (``deepest``), which is how far eviction would push them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

from controller.checkpoint import Checkpoint, UnreadableCheckpoint, read_checkpoint
from controller.core.costs import CostTable
from controller.core.models import ModelRecord
from controller.core.names import Depth, FleetPolicy, Footprint, ModelSpec
from controller.core.own_ladder import Rung, rests, rungs
from controller.footprints import booked_weights, kv_tokens
from controller.hours import described
from controller.machine import Machine
from controller.model_settings import ConfiguredModel
from controller.ports import NodeFound
from controller.settings import Settings

_MOST_FOR_EXACT_SETS = 12


@dataclass(frozen=True, slots=True)
class ModelPlan:
    name: str
    replicas: int
    devices: int
    weights_bytes: int
    kv_bytes: int
    kv_tokens: int | None
    """None: its configuration is not on this machine."""
    footprints: Mapping[str, Footprint]
    """By depth: ``awake`` … ``level_2``; device bytes are of each device."""
    fits_alone: bool
    own_ladder: tuple[Rung, ...] = ()
    """Of a model with ``idle: auto``, from the costs that orders are thought to take."""
    schedule: str = ""
    """Its fixed hours, if it has any."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    device: str
    nodes: tuple[NodeFound, ...]
    models: tuple[ModelPlan, ...]
    awake_together: tuple[tuple[str, ...], ...]
    """The largest sets; a set is not listed if one that contains it is."""
    level_1_host_bytes: int
    """Host memory if every replica slept at level 1."""
    host_bytes: int
    problems: tuple[str, ...]
    """Why it does not fit; empty: it does."""


def plan(settings: Settings, machine: Machine) -> FleetPlan:
    """``machine`` stands for what the file does not say; a machine without a GPU can plan for
    one, of the size of the budget."""
    nodes = tuple(_nodes(settings, machine))
    specs = [model.spec for model in settings.models]
    models = tuple(_model_plan(m, nodes, settings) for m in settings.models)
    level_1_host = sum(s.replicas * s.footprints[Depth.LEVEL_1].host_bytes for s in specs)
    return FleetPlan(
        device=settings.device,
        nodes=nodes,
        models=models,
        awake_together=tuple(_largest_sets(specs, nodes)),
        level_1_host_bytes=level_1_host,
        host_bytes=sum(node.host_bytes for node in nodes),
        problems=tuple(_problems(specs, models, nodes)),
    )


def _nodes(settings: Settings, machine: Machine) -> Iterator[NodeFound]:
    found, memory = machine.as_node(settings.device), settings.memory
    if not found.devices and memory.device_bytes:
        host = memory.host_bytes or found.host_bytes
        found = NodeFound("planned", (("0", memory.device_bytes),), host)
    if not memory.nodes:
        yield memory.limit(found)
    for node in memory.nodes:
        size = node.device_bytes or (found.devices[0][1] if found.devices else 0)
        devices = tuple((str(i), size) for i in range(node.devices))
        host = node.host_bytes or found.host_bytes
        yield memory.limit(NodeFound(node.name, devices, host))


def _model_plan(
    model: ConfiguredModel, nodes: Sequence[NodeFound], settings: Settings
) -> ModelPlan:
    spec = model.spec
    checkpoint = _checkpoint(model, settings)
    kv = spec.footprints[Depth.AWAKE].device_bytes - spec.footprints[Depth.KV_RELEASED].device_bytes
    return ModelPlan(
        name=spec.name,
        replicas=spec.replicas,
        devices=spec.devices_per_replica,
        weights_bytes=booked_weights(spec.footprints, settings.device),
        kv_bytes=kv,
        kv_tokens=_kv_tokens(checkpoint, kv, model) if checkpoint else None,
        footprints={depth.name.lower(): f for depth, f in spec.footprints.items()},
        fits_alone=can_hold([(spec, Depth.AWAKE)], nodes),
        own_ladder=tuple(_own_ladder(spec, settings.policy)) if spec.sets_own_ladder else (),
        schedule=described(spec.schedule) if spec.schedule is not None else "",
    )


def _kv_tokens(checkpoint: Checkpoint, kv_bytes: int, model: ConfiguredModel) -> int:
    """``kv_bytes``: on each device."""
    ranks = model.engine.ranks
    return kv_tokens(checkpoint, kv_bytes * model.spec.devices_per_replica // ranks, ranks)


def _own_ladder(spec: ModelSpec, policy: FleetPolicy) -> list[Rung]:
    raising = partial(CostTable(policy.costs, policy.times).raising, spec.name)
    held, devices = ModelRecord(spec).footprint, spec.devices_per_replica
    return rungs(rests(policy.prices, devices, spec.deepest, held, raising))


def _checkpoint(model: ConfiguredModel, settings: Settings) -> Checkpoint | None:
    """What its configuration says, if that is on this machine; nobody is asked."""
    engine, hub = model.engine, settings.surroundings.hub
    directory = Path(engine.path)
    found = directory if directory.is_dir() else hub.cached_snapshot(engine.path, engine.revision)
    if engine.kind == "fake" or found is None:
        return None
    try:
        return read_checkpoint(found, engine.engine_args)
    except UnreadableCheckpoint:
        return None


def _problems(
    specs: Sequence[ModelSpec], models: Sequence[ModelPlan], nodes: Sequence[NodeFound]
) -> Iterator[str]:
    for model in models:
        if not model.fits_alone:
            yield f"{model.name} can never be awake: no node has the room"
    pinned = [spec for spec in specs if spec.pinned]
    if len(pinned) > 1 and not can_hold([(spec, Depth.AWAKE) for spec in pinned], nodes):
        yield f"the pinned models cannot be awake together: {', '.join(s.name for s in pinned)}"


# what can be awake together


def _largest_sets(
    specs: Sequence[ModelSpec], nodes: Sequence[NodeFound]
) -> Iterator[tuple[str, ...]]:
    if len(specs) > _MOST_FOR_EXACT_SETS:
        yield _greedy_set(specs, nodes)
        return
    found: list[frozenset[str]] = []
    for size in range(len(specs), 0, -1):
        for awake in combinations(specs, size):
            names = frozenset(str(spec.name) for spec in awake)
            if not any(names <= larger for larger in found) and _awake_fit(names, specs, nodes):
                found.append(names)
                yield tuple(spec.name for spec in awake)


def _greedy_set(specs: Sequence[ModelSpec], nodes: Sequence[NodeFound]) -> tuple[str, ...]:
    """Too many for all subsets: in the file's order, each that still fits."""
    awake: list[str] = []
    for spec in specs:
        if _awake_fit({*awake, spec.name}, specs, nodes):
            awake.append(spec.name)
    return tuple(awake)


def _awake_fit(
    awake: Iterable[str], specs: Sequence[ModelSpec], nodes: Sequence[NodeFound]
) -> bool:
    names = set(awake)
    return can_hold([(s, Depth.AWAKE if s.name in names else s.deepest) for s in specs], nodes)


def can_hold(wanted: Sequence[tuple[ModelSpec, Depth]], nodes: Sequence[NodeFound]) -> bool:
    """One replica of each, at its depth, all at once."""
    room = [([size for _, size in node.devices], [node.host_bytes]) for node in nodes]
    placed = [(s.devices_per_replica, s.footprints[d]) for s, d in wanted if d in s.footprints]
    largest_first = sorted(placed, key=lambda p: p[0] * p[1].device_bytes, reverse=True)
    return all(_place(count, footprint, room) for count, footprint in largest_first)


def _place(count: int, footprint: Footprint, room: list[tuple[list[int], list[int]]]) -> bool:
    for devices, host in room:
        roomy = [i for i, left in enumerate(devices) if left >= footprint.device_bytes][:count]
        if len(roomy) == count and host[0] >= footprint.host_bytes:
            for i in roomy:
                devices[i] -= footprint.device_bytes
            host[0] -= footprint.host_bytes
            return True
    return False
