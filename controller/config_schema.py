"""``fleet.yaml`` as pydantic models: keys, units, bounds. What a value means is settings.py's.

Every default that the core has is the core's (names.py) and only quoted here. Sizes are GiB or
MiB and times are seconds, as their names say; a time of the ladder may be ``never``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from math import inf
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from controller.core.conversations import ConversationLimits
from controller.core.hanging import HangTimes
from controller.core.names import CostGuess, FleetPolicy, Ladder, ModelName, ModelSpec, OrderTimes
from controller.core.steadying import FollowPolicy
from controller.hours import (
    HOURS_PATTERN,
    MOMENT_PATTERN,
    clash,
    parse_hours,
    parse_moment,
    zone,
)

_POLICY = FleetPolicy()
_TIMES = OrderTimes()
_HANGS = HangTimes()
_COSTS = CostGuess()
_LADDER = Ladder()
_CONVERSATIONS = ConversationLimits()
_FOLLOW = FollowPolicy()
_MODEL = ModelSpec(ModelName(""), {})


def _seconds_or_never(value: object) -> float:
    return _number_or_never(value, "a number of seconds")


def _gib_or_never(value: object) -> float:
    return _number_or_never(value, "a number of GiB")


def _number_or_never(value: object, what: str) -> float:
    if value == "never":
        return inf
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f'must be {what}, or "never"')
    if not value >= 0:
        raise ValueError("must be ≥ 0")
    return float(value)


SecondsOrNever = Annotated[
    float,
    BeforeValidator(_seconds_or_never),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"const": "never"}]}),
]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Duration = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Size = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SizeOrZero = Annotated[float, Field(ge=0, allow_inf_nan=False)]
SizeOrNever = Annotated[
    float,
    BeforeValidator(_gib_or_never),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"const": "never"}]}),
]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
DestinationName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
RestName = Literal["kv_released", "level_1", "level_2", "stopped"]
DeviceKind = Literal["auto", "cpu", "cuda"]


def _as_hours(value: str) -> str:
    parse_hours(value)
    return value


def _as_moment(value: str) -> str:
    parse_moment(value)
    return value


HoursText = Annotated[
    str, AfterValidator(_as_hours), WithJsonSchema({"type": "string", "pattern": HOURS_PATTERN})
]
MomentText = Annotated[
    str, AfterValidator(_as_moment), WithJsonSchema({"type": "string", "pattern": MOMENT_PATTERN})
]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True
    )


class KeySection(Section):
    """One API key; ``torpor keys new`` prints such an entry."""

    name: Annotated[str, Field(min_length=1)]
    tenant: str = ""
    roles: Annotated[list[Literal["inference", "admin"]], Field(min_length=1)]
    sha256: str
    """Of the key, in hexadecimal; the key itself is stored nowhere."""

    @field_validator("sha256")
    @classmethod
    def _is_a_hash(cls, value: str) -> str:
        if len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise ValueError("must be 64 hexadecimal digits, as `torpor keys new` prints them")
        return value


class ServerSection(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0: any free one."""
    workers: Annotated[int, Field(ge=0, le=64)] = 0
    """Processes that carry the bytes of requests, beside the one that decides. 0: that one does."""
    max_body_mib: Size = 64.0
    unready_s: Duration = 0.0
    """After a signal to stop, requests are still taken for so long while ``/readyz`` says 503."""
    drain_s: Duration = 5.0
    """Then no more are taken, and running responses may go on for so long."""
    keys: list[KeySection] = []
    keys_file: str | None = None
    """A YAML list of such entries, beside this file."""


class NodeSection(Section):
    name: str
    """As ``torpor status`` names it."""
    devices: Count = 1
    device_budget_gib: Size | None = None
    host_budget_gib: Size | None = None


class MemorySection(Section):
    """What the fleet may use. Without a GPU device and host are one memory: the device's."""

    device_budget_gib: Size | None = None
    """Of each device; none: ``device_fraction`` of what the device has."""
    device_fraction: Share = 0.9
    host_budget_gib: Size | None = None
    """Of each node; none: ``host_fraction`` of what the node has."""
    host_fraction: Share = 0.5
    nodes: list[NodeSection] = []
    """Nodes that differ, and for `torpor plan` all nodes there will be."""
    follow: Literal["auto", "always", "never"] = "auto"
    """Whether budgets shrink by what other processes hold and grow again. ``auto``: those that are
    a fraction do, those that are a number do not."""
    headroom_fraction: Annotated[float, Field(ge=0, lt=1)] = _FOLLOW.headroom_fraction
    """Of a memory that is followed, kept free."""
    stall_percent: Annotated[float, Field(gt=0, le=100)] = _FOLLOW.stall_percent
    """Where tasks wait for memory for so much of ten seconds, three times as much is kept free."""
    calm_s: Duration = _FOLLOW.calm_s
    """What others gave back counts when it has stayed free for so long."""


class CostSection(Section):
    """Seconds that orders are thought to take before any was measured."""

    start_s: Duration = _COSTS.start_s
    wake_kv_released_s: Duration = _COSTS.wake_kv_released_s
    wake_level_1_s: Duration = _COSTS.wake_level_1_s
    wake_level_2_s: Duration = _COSTS.wake_level_2_s
    export_s: Duration = _COSTS.export_s
    sleep_s: Duration = _COSTS.sleep_s
    stop_s: Duration = _COSTS.stop_s


class PriceSection(Section):
    """In any one currency; ``idle: auto`` goes by them."""

    device_gib_hour: Duration | None = None
    """Of device memory; none: 0.04, without a GPU that of host memory."""
    host_gib_hour: Duration = _POLICY.prices.host_gib_hour
    waiting_hour: Duration = _POLICY.prices.waiting_hour
    """Of a client that waits for a model to come back."""


class LimitSection(Section):
    """Requests at a time; none: as many as come."""

    running: Count | None = None
    """One more waits."""
    waiting: Annotated[int, Field(ge=0)] | None = None
    """One more gets 429."""


class TenantLimitSection(Section):
    tenant: LimitSection = LimitSection()
    """Of each tenant that has none of its own."""
    tenants: dict[str, LimitSection] = {}


class PolicySection(Section):
    backlog_limit: Annotated[int, Field(ge=0)] = _POLICY.backlog_limit
    evict_to: RestName = "level_1"
    eviction: Literal["cost", "lru", "lfu"] = "cost"
    """Whom an eviction takes first."""
    popularity_half_life_s: Seconds = _POLICY.popularity_half_life_s
    """For ``cost`` and ``lfu``: having been wanted so long ago counts half."""
    most_sleepers: Annotated[int, Field(ge=0)] | None = _POLICY.most_sleepers
    """On each node; of one more, the one that is missed least is stopped. None: no limit."""
    maximum_wait_behind_s: SecondsOrNever = _POLICY.maximum_wait_behind_s
    """Whoever has waited so long drains others however short they have been awake, and has
    those frozen whose responses do not end."""
    restart_backoff_s: Duration = _POLICY.restart_backoff_s
    minimum_awake_s: Duration = _POLICY.minimum_awake_s
    busy_leases: Count = _POLICY.busy_leases
    """Requests on every awake replica at which another replica is brought up."""
    stable_after_s: Duration = _POLICY.stable_after_s
    residual_growth_gib: SizeOrNever = _POLICY.residual_growth_bytes / 1024**3
    """An engine that has come to keep so much more when it sleeps is restarted when all is quiet;
    or ``never``."""
    retry_when_short_s: Seconds = _POLICY.retry_when_short_s
    """Told to those who are shed because other processes hold the memory."""
    operation_limit_s: Seconds = _POLICY.operation_limit_s
    prefetch_start: bool = _POLICY.prefetch_start
    """Start every model once at boot, as far as memory goes."""
    prefetch_at_once: Count = _POLICY.prefetch_at_once
    costs: CostSection = CostSection()
    prices: PriceSection = PriceSection()


class TimeoutSection(Section):
    """An order that takes longer has failed: ``factor`` times what it took before at the slowest,
    between the least and the most."""

    factor: Annotated[float, Field(ge=2, allow_inf_nan=False)] = _TIMES.factor
    least_s: Seconds = _TIMES.least_s
    least_start_s: Seconds = _TIMES.least_start_s
    start_s: Seconds = _TIMES.start_s
    """At the most, and before anything was measured; the following likewise."""
    export_s: Seconds = _TIMES.export_s
    sleep_s: Seconds = _TIMES.sleep_s
    wake_s: Seconds = _TIMES.wake_s
    stop_s: Seconds = 60.0
    """An engine that has not stopped by itself by then is killed."""
    hang_factor: Annotated[float, Field(ge=2, allow_inf_nan=False)] = _HANGS.factor
    """An engine with requests that takes no step for so many times its longest one hangs."""
    hang_least_s: Seconds = _HANGS.least_s
    hang_most_s: SecondsOrNever = _HANGS.most_s
    """At the most, and before its speed was measured; ``never``: no engine is taken to hang."""


class JournalSection(Section):
    max_mib: Size = 64.0
    files: Annotated[int, Field(ge=0)] = 4


class RaySection(Section):
    address: str | None = None
    """Of a Ray cluster to join; none: a head of our own."""
    object_store_mib: Annotated[int, Field(ge=76)] = 128
    """Small, since no tokens travel through Ray. Ray's own minimum is 75 MB."""


class DurableSection(Section):
    """One durable tier: a directory, Redis, or S3."""

    directory: str | None = None
    """Relative to this file."""
    directory_limit_gib: Size = 10.0
    redis: str | None = None
    """``redis://[user@]host[:port]`` (Valkey too), or ``rediss://`` with TLS. The password is
    ``$TORPOR_REDIS_PASSWORD``, of a destination ``$TORPOR_REDIS_PASSWORD_NAME``."""
    redis_ca: str | None = None
    """A certificate authority of your own, for ``rediss://``."""
    s3: str | None = None
    """``s3://BUCKET``: the durable tier in a bucket, instead of Redis or a directory. Credentials
    are ``$AWS_ACCESS_KEY_ID`` and ``$AWS_SECRET_ACCESS_KEY``, or each node's own."""
    s3_region: str = "us-east-1"
    s3_endpoint: str | None = None
    """``http[s]://host[:port]`` of a store of your own; none: Amazon's."""
    s3_ca: str | None = None
    """A certificate authority of your own, for ``s3_endpoint``."""
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{0,64}$")] = ""
    """What the names of all chunks in Redis or S3 begin with."""


class KVSection(DurableSection):
    """Keep KV across sleep: one server a node, a host tier, a durable tier. Without ``redis``,
    ``$TORPOR_REDIS_URL`` or ``s3`` that is ``directory``, or ``kv`` in the state directory."""

    host_gib: Size = 1.0
    """Shared memory of each node's host tier; taken off the node's budget."""
    destinations: dict[DestinationName, DurableSection] = {}
    """Other durable tiers, by name, for the tenants that are sent there."""
    tenants: dict[str, DestinationName] = {}
    """The destination of a tenant's KV, instead of the one above."""
    compression: Literal["none", "zstd", "fp8"] = "none"
    """Of what lies in the durable tier. ``zstd`` loses nothing; ``fp8`` halves what has 16 bits and
    loses precision, so answers may differ from those without."""
    encryption: Literal["none", "aes_gcm"] = "none"
    """Of what lies in the durable tier, with a key for each tenant."""
    encryption_key_file: str | None = None
    """64 hexadecimal digits, as of ``openssl rand -hex 32``; none: ``$TORPOR_KV_KEY``."""
    isolation: Literal["tenant", "conversation", "none"] = "tenant"
    """Who may find whose KV; a conversation is the header ``x-conversation-id``."""
    chunk_tokens: Annotated[int, Field(ge=128, multiple_of=128)] = 128


class HistorySection(Section):
    """What is said in conversations is kept, sealed, on explicit request (``store: true``)."""

    keys_file: str | None = None
    """Keys of 32 bytes, in base64 or hexadecimal, one a line; the first one seals, all of them
    open. None: in ``$TORPOR_HISTORY_KEYS``."""
    limit_mib: Size = 16.0
    """Of one conversation, as it is kept; one that is larger takes nothing more."""
    limit_items: Count = 10_000
    """Messages, tool calls and results of one conversation."""


class LifetimeSection(Section):
    """Of one tenant's conversations; none: as of all others."""

    hibernate_after_s: SecondsOrNever | None = None
    expire_after_s: SecondsOrNever | None = None


class LiveSection(Section):
    """Conversations of which a turn is served, at a time; none: as many as come."""

    model: Count | None = _CONVERSATIONS.live.model
    """Of each model."""
    tenant: Count | None = _CONVERSATIONS.live.tenant
    """Of each tenant."""
    queue: Annotated[int, Field(ge=0)] = _CONVERSATIONS.live.queue
    """So many wait for one of these to end; one more gets 503."""


class ConversationsSection(Section):
    """Of requests that name a conversation (``x-conversation-id``)."""

    hibernate_after_s: SecondsOrNever = _CONVERSATIONS.lifetimes.hibernate_after_s
    """Seconds since the last use, after which KV goes to the durable tier and out of host
    memory."""
    expire_after_s: SecondsOrNever = _CONVERSATIONS.lifetimes.expire_after_s
    """Then a conversation and its KV are deleted."""
    limit: Count = _CONVERSATIONS.total
    """One more is refused."""
    waiting: Annotated[int, Field(ge=0)] = _CONVERSATIONS.waiting
    """Requests of one conversation behind the one that runs; one more is refused."""
    history: HistorySection | None = None
    """None, and no ``$TORPOR_HISTORY_KEYS``: nothing that is said is kept."""
    tenants: dict[str, LifetimeSection] = {}
    hibernate_at: list[MomentText] = []
    """Times of day at which all that are not in use hibernate: ``22:00``, ``Fri 18:00``."""
    time_zone: str = _CONVERSATIONS.time_zone
    """Of ``hibernate_at``, as the tz database names it."""
    after_rehydration: Literal["keep", "drop"] = "keep"
    """What becomes of the copy in the durable tier; kept, only what is added is written again."""
    live: LiveSection = LiveSection()

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        zone(value)
        return value


class IdleSection(Section):
    """Seconds since the end of the last response; each step a time or ``never``."""

    kv_released_s: SecondsOrNever = _LADDER.kv_released_s
    level_1_s: SecondsOrNever = _LADDER.level_1_s
    level_2_s: SecondsOrNever = _LADDER.level_2_s
    stopped_s: SecondsOrNever = _LADDER.stopped_s

    @field_validator("level_1_s", "level_2_s", "stopped_s")
    @classmethod
    def _after_the_step_before(cls, value: float, info: ValidationInfo) -> float:
        steps = [(name, at) for name, at in info.data.items() if at != inf]
        name, at = max(steps, key=lambda step: step[1], default=("", 0.0))
        if value < at:
            raise ValueError(f"must be ≥ {name} ({at:g}): the ladder only goes down")
        return value


LADDER_TAG, AUTO_TAG = "<ladder>", "<auto>"
"""Of the two ways to write ``idle``; pydantic puts them into the paths of what it finds."""
Idle = Annotated[
    Annotated[IdleSection, Tag(LADDER_TAG)] | Annotated[Literal["auto"], Tag(AUTO_TAG)],
    Discriminator(lambda value: AUTO_TAG if isinstance(value, str) else LADDER_TAG),
]


class ScheduleSection(Section):
    """Fixed hours, whatever the ladder says. Pinned models have none of it."""

    time_zone: str = "UTC"
    """As the tz database names it: ``Europe/Berlin``."""
    awake: list[HoursText] = []
    """Kept awake in these: ``Mon-Fri 08:00-18:00``."""
    asleep: list[HoursText] = []
    """At rest in these, but while it is asked for: ``22:00-06:00``."""
    asleep_to: RestName = "level_2"
    asleep_after_s: Duration = 60.0
    """Without a request."""

    @field_validator("time_zone")
    @classmethod
    def _is_a_zone(cls, value: str) -> str:
        zone(value)
        return value

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        when = clash([parse_hours(h) for h in self.awake], [parse_hours(h) for h in self.asleep])
        if when is not None:
            raise ValueError(f"awake and asleep both hold {when}")
        return self


class FootprintSection(Section):
    """What is known better than the estimate; device sizes are for each device."""

    weights_gib: SizeOrZero | None = None
    awake_gib: SizeOrZero | None = None
    kv_released_gib: SizeOrZero | None = None
    level_1_gib: SizeOrZero | None = None
    level_2_gib: SizeOrZero | None = None
    host_awake_gib: SizeOrZero | None = None
    host_level_1_gib: SizeOrZero | None = None
    host_level_2_gib: SizeOrZero | None = None


class ReplicaSection(Section):
    """How many engines of one model."""

    min: Count = _MODEL.least_replicas
    """So many are kept awake while the model is in use, as far as memory is free."""
    max: Count = _MODEL.replicas

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max must be ≥ min ({self.min})")
        return self


def _as_range(value: object) -> object:
    """A number by itself is the maximum; the minimum is 1."""
    if isinstance(value, ReplicaSection | dict):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a whole number, or {min, max}")
    if value < 1:
        raise ValueError("must be ≥ 1")
    return {"min": 1, "max": value}


_COUNT_SCHEMA = {"type": "integer", "minimum": 1}
_REPLICAS_SCHEMA = {
    "anyOf": [
        _COUNT_SCHEMA,
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {"min": _COUNT_SCHEMA, "max": _COUNT_SCHEMA},
        },
    ]
}
Replicas = Annotated[ReplicaSection, BeforeValidator(_as_range), WithJsonSchema(_REPLICAS_SCHEMA)]


class ModelDefaults(Section):
    """What ``defaults`` may hold; a model's own keys win, mappings are merged key by key."""

    kind: Literal["vllm", "fake"] = "vllm"
    replicas: Replicas = ReplicaSection()
    """How many engines there may be of it: a number, or ``{min, max}``."""
    spread: Literal["node", "none"] = "node"
    """Replicas of one model on different nodes, where there is room on several."""
    tensor_parallel: Count = _MODEL.devices_per_replica
    kv_cache_gib: Size | None = None
    """On each device; none: 0.25 without a GPU, 4 on one."""
    engine_args: dict[str, Any] = {}
    """vLLM's own arguments by their Python names (``max_model_len``, ``dtype``, …)."""
    env: dict[str, str] = {}
    idle: Idle = IdleSection()
    """A ladder, or ``auto``: one that follows from ``policy.prices`` and measured costs."""
    schedule: ScheduleSection | None = None
    limits: LimitSection = LimitSection()
    freeze: bool = _MODEL.can_freeze
    """Its responses may be suspended for others who waited ``policy.maximum_wait_behind_s``."""
    deepest: RestName = "stopped"
    pinned: bool = _MODEL.pinned
    keeps_kv: bool = True
    """Where the fleet has ``kv``; models without KV (``runner: pooling``) never do."""
    max_wait_s: Duration = _MODEL.max_wait_s
    max_restarts: Annotated[int, Field(ge=0)] = _MODEL.max_restarts
    canary_sampling: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of wakes after which the answers are checked against those from before."""
    footprint: FootprintSection = FootprintSection()


class ModelEntry(ModelDefaults):
    name: Annotated[str, Field(min_length=1, max_length=100)]
    """What clients ask for."""
    path: Annotated[str, Field(min_length=1)]
    """A directory (``./…``, ``../…``, ``~/…``, ``/…``; relative to this file) or a hub name."""
    revision: str | None = None

    @field_validator("name")
    @classmethod
    def _can_be_a_key(cls, name: str) -> str:
        bad = sorted({c for c in name if not (c.isascii() and (c.isalnum() or c in "._:+-/"))})
        if bad:
            raise ValueError(f"must not contain {' '.join(map(repr, bad))}")
        if not name[0].isalnum() or not name[-1].isalnum():
            raise ValueError("must begin and end with a letter or a digit")
        return name


class FleetFile(Section):
    """torpor's fleet.yaml."""

    device: DeviceKind = "auto"
    server: ServerSection = ServerSection()
    memory: MemorySection = MemorySection()
    policy: PolicySection = PolicySection()
    limits: TenantLimitSection = TenantLimitSection()
    timeouts: TimeoutSection = TimeoutSection()
    journal: JournalSection = JournalSection()
    ray: RaySection = RaySection()
    kv: KVSection | None = None
    """None: what requests computed is lost at each sleep."""
    conversations: ConversationsSection = ConversationsSection()
    state_dir: str | None = None
    """Relative to this file; none: ``$TORPOR_STATE_DIR``, or ``~/.local/state/torpor``."""
    log_dir: str | None = None
    """None: ``logs`` in the state directory. ``-``: there too, but the controller's to stderr."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    defaults: ModelDefaults = ModelDefaults()
    models: Annotated[list[ModelEntry], Field(min_length=1)]


def json_schema() -> dict[str, Any]:
    """Of fleet.yaml, for editors; committed as docs/fleet.schema.json."""
    schema = FleetFile.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    named: dict[str, Any] = _infinity_named(schema)
    return named


def _infinity_named(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _infinity_named(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_infinity_named(value) for value in node]
    return "never" if node == inf else node


def known_keys(section: type[Section] = Section) -> Iterator[str]:
    """Every key of the file, for "did you mean"."""
    yield from section.model_fields
    for kind in section.__subclasses__():
        yield from known_keys(kind)


def schema_text() -> str:
    """docs/fleet.schema.json, to the letter."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
