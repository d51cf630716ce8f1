"""What orders of each model took and what its engines held, kept over a controller's restart.

One JSON file, replaced as a whole: ``{"version", "models": {key: {"model", "took", "held"}}}``. A
model's key is a fingerprint of all that its engines are started with (weights, arguments, device
and the build of vLLM), so that one that was changed does not inherit what was measured of another,
and one that was changed back finds its own. A file that cannot be read, or is of another version,
is told of once and then written anew: without it the fleet knows as much as on its first day.

``torpor bench wake --export-costs`` writes another format for another purpose: one median for each
order, for machines that have none of these models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.core.commands import Command
from controller.core.costs import Took
from controller.core.events import (
    CostsFound,
    EngineFellAsleep,
    EngineStarted,
    EngineStopped,
    EngineWoke,
    Event,
    KVExported,
)
from controller.core.fleet import Fleet
from controller.core.lifecycle import Action
from controller.core.names import Depth, Footprint, Instant, ModelName, ModelSpec, model_of
from controller.settings import vllm_distribution
from workers.canary import fingerprint
from workers.engine import EngineSpec, KVExport, Report
from workers.whole_files import write_whole

log = logging.getLogger("torpor.costs")

_MEASURING = (EngineStarted, KVExported, EngineFellAsleep, EngineWoke, EngineStopped)
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Bytes = Annotated[int, Field(ge=0)]


class _Written(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Took(_Written):
    action: Action
    depth: Depth
    seconds: tuple[_Seconds, ...]


class _Held(_Written):
    depth: Depth
    device_bytes: _Bytes
    host_bytes: _Bytes


class _Known(_Written):
    model: str
    took: tuple[_Took, ...]
    held: tuple[_Held, ...]


class _File(_Written):
    version: Literal[1]
    models: dict[str, _Known]


class CostRecords:
    """Also an observer of the driver, which writes what it sees measured.

    ``soon`` says when that reaches the disk: with an event loop's ``call_later``, once for all
    measurements of that time. A controller that is killed takes those with it.
    """

    def __init__(
        self,
        path: Path,
        device: str,
        soon: Callable[[Callable[[], None]], object] = lambda write: write(),
        most_models: int = 1000,
    ) -> None:
        """``most_models``: of one more, what was not measured for the longest is forgotten."""
        self._path = path
        build = vllm_distribution()
        self._around = {"device": device, "vllm": build and version(build)}
        self._soon = soon
        self._most_models = most_models
        self._known = _read(path)
        self._keys: dict[ModelName, str] = {}
        self._is_pending = False

    def found(self, at: Instant, spec: ModelSpec, engine: EngineSpec) -> CostsFound | None:
        """None: nothing of this model as it is. What is measured of it from now on is this
        one's."""
        try:
            key = self._keys[spec.name] = _key(self._around, spec, engine)
        except OSError as error:
            log.warning("no costs are kept of %s: %s", spec.name, error)
            self._keys.pop(spec.name, None)
            return None
        known = self._known.get(key)
        if known is None:
            return None
        took = tuple(Took(one.action, one.depth, one.seconds) for one in known.took)
        held = tuple((h.depth, Footprint(h.device_bytes, h.host_bytes)) for h in known.held)
        return CostsFound(at, spec.name, took, held)

    def write(self) -> None:
        """If there is anything to be written."""
        if not self._is_pending:
            return
        self._is_pending = False
        try:
            write_whole(self._path, _File(version=1, models=self._known).model_dump_json())
        except OSError as error:
            log.warning("measured costs cannot be kept: %s", error)

    # Observer

    def saw(self, event: Event, commands: Sequence[Command], fleet: Fleet) -> None:
        if not isinstance(event, _MEASURING):
            return
        model = model_of(event.replica)
        key, record = self._keys.get(model), fleet.models.get(model)
        if key is None or record is None:
            return
        self._known.pop(key, None)
        self._known[key] = _Known(
            model=model,
            took=tuple(
                _Took(action=one.action, depth=one.depth, seconds=one.seconds)
                for one in fleet.costs.of(model)
            ),
            held=tuple(
                _Held(depth=depth, device_bytes=held.device_bytes, host_bytes=held.host_bytes)
                for depth, held in record.measured.items()
            ),
        )
        while len(self._known) > self._most_models:
            del self._known[next(iter(self._known))]
        if not self._is_pending:
            self._is_pending = True
            self._soon(self.write)

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None:
        return None

    def exported(self, model: str, export: KVExport) -> None:
        return None


def _read(path: Path) -> dict[str, _Known]:
    try:
        return dict(_File.model_validate_json(path.read_bytes()).models)
    except FileNotFoundError:
        return {}
    except OSError as error:
        why = str(error)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    log.warning("%s is not used, costs are measured again: %s", path, why)
    return {}


def _key(around: Mapping[str, str | None], spec: ModelSpec, engine: EngineSpec) -> str:
    facts = {
        **around,
        "model": spec.name,
        "devices": spec.devices_per_replica,
        "kind": engine.kind,
        "arguments": engine.engine_args,
        "env": engine.env,
        "keeps_kv": engine.keeps_kv,
    }
    return fingerprint(engine.path, engine.revision, facts)
