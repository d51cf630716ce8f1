"""How an engine actor is asked of Ray, and how its answers become ours."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from workers.actor import EngineActor, Place
from workers.engine import EngineError, EngineGone, EngineSpec
from workers.env import engine_env
from workers.processes import MARK

PREFIX = "engine:"
_PROJECT = Path(__file__).parents[1]
Strategy: TypeAlias = NodeAffinitySchedulingStrategy | PlacementGroupSchedulingStrategy


@cache
def engine_class() -> Any:
    return ray.remote(EngineActor)


def actor_name(replica: str, incarnation: int) -> str:
    return f"{PREFIX}{replica}:{incarnation}"


def parse_name(name: str) -> tuple[str, int] | None:
    """Replica and incarnation; None for another's actor."""
    replica, _, incarnation = name.removeprefix(PREFIX).rpartition(":")
    return (replica, int(incarnation)) if name.startswith(PREFIX) else None


def slug(name: str) -> str:
    """A file name for ``name``: readable, and its own."""
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", name)
    return readable if readable == name else f"{readable}-{sha256(name.encode()).hexdigest()[:6]}"


def actor_options(
    place: Place, spec: EngineSpec, *, mark: str, tmp_dir: str, where: Strategy
) -> dict[str, Any]:
    """Ray obeys: this node and no other, and nothing of it in Ray's own books but its group."""
    return {
        "name": actor_name(place.replica, place.incarnation),
        "lifetime": "detached",
        "max_concurrency": 1000,
        "max_restarts": 0,
        "max_task_retries": 0,
        "num_cpus": 0,
        "num_gpus": 0,
        "scheduling_strategy": where,
        "runtime_env": {"env_vars": _environment(place, spec, mark, tmp_dir)},
    }


def python_path() -> str:
    """Ours first: Ray's processes import this project from where this one has it."""
    return os.pathsep.join(filter(None, [str(_PROJECT), os.environ.get("PYTHONPATH")]))


async def answer(reference: Awaitable[Any]) -> Any:
    """What the actor returned. Raises what it raised, or EngineGone if Ray says it is dead."""
    try:
        return await reference
    except RayTaskError as error:
        if isinstance(error.cause, EngineError):
            raise type(error.cause)(*error.cause.args) from None
        raise EngineError(str(error.cause or error)) from None
    except RayActorError as error:
        raise EngineGone(f"the actor is dead or out of reach: {_first_line(error)}") from None
    except RayError as error:
        raise EngineError(f"{type(error).__name__}: {_first_line(error)}") from None


def _environment(place: Place, spec: EngineSpec, mark: str, tmp_dir: str) -> dict[str, str]:
    ours = {MARK: mark, "TMPDIR": tmp_dir, "PYTHONPATH": python_path()}
    gpus = [device.removeprefix("cuda:") for device in place.devices if device.startswith("cuda:")]
    if gpus:
        ours |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(gpus)}
    if spec.kind == "fake":
        return {"OMP_NUM_THREADS": "1", **spec.env, **ours}
    return {**engine_env(spec, device="cuda" if gpus else "cpu"), **ours}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
