"""A scenario file: which models are asked for, when, with what, and what counts as well served.

The shipped ones lie in ``benchmarks/scenarios``; each says in a comment whom it stands for.
Times are seconds of the scenario, rates are of conversations (not of their turns).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from benchmarks.result import ResultError
from controller.config_errors import ConfigError, from_pydantic
from controller.yaml_file import read_yaml

SHIPPED = Path(__file__).parents[1] / "scenarios"

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Uniform(Strict):
    low: _NotNegative
    high: _NotNegative

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.high < self.low:
            raise ValueError("high must be ≥ low")
        return self

    def draw(self, dice: Random) -> float:
        return dice.uniform(self.low, self.high)


class LogNormal(Strict):
    """What people write and wait: many small ones and a long tail, cut at ``most``."""

    median: _Positive
    sigma: _Positive
    most: _Positive

    def draw(self, dice: Random) -> float:
        return min(self.most, dice.lognormvariate(math.log(self.median), self.sigma))


def _written_as(value: object) -> str:
    if isinstance(value, LogNormal) or (isinstance(value, dict) and "median" in value):
        return "log_normal"
    return "uniform" if isinstance(value, Uniform | dict) else "number"


Distribution = Annotated[
    Annotated[_NotNegative, Tag("number")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[LogNormal, Tag("log_normal")],
    Discriminator(_written_as),
]


def draw(distribution: Distribution, dice: Random) -> float:
    return distribution if isinstance(distribution, float | int) else distribution.draw(dice)


class Poisson(Strict):
    kind: Literal["poisson"]
    per_s: _Positive


class Bursty(Strict):
    """On and off by turns; ``per_s`` is the mean over both, and nothing comes while it is off."""

    kind: Literal["bursty"]
    per_s: _Positive
    on_s: _Positive
    off_s: _Positive
    together: bool = False
    """All models at the same times; else each has its own."""
    regular: bool = False
    """On and off last exactly so long, as by a clock; else exponentially distributed."""


class Diurnal(Strict):
    """A sine: ``per_s`` in the mean, ``swing`` of it up and down, the peak at ``peak_at_s``."""

    kind: Literal["diurnal"]
    per_s: _Positive
    swing: Annotated[float, Field(ge=0, le=1)] = 0.9
    period_s: _Positive = 86_400.0
    peak_at_s: _NotNegative = 50_400.0


class Replay(Strict):
    """Requests as a CSV file lists them: ``at_s,model`` and, if it has them, ``prompt_tokens``,
    ``answer_tokens``. Relative paths begin at the scenario file. Each line is one request."""

    kind: Literal["replay"]
    file: str


def faster(arrivals: Arrivals, factor: float) -> Arrivals:
    """So many times as many come. A list of requests cannot: it is returned as it is."""
    if isinstance(arrivals, Replay):
        return arrivals
    return arrivals.model_copy(update={"per_s": arrivals.per_s * factor})


Arrivals = Annotated[Poisson | Bursty | Diurnal | Replay, Field(discriminator="kind")]


class Conversations(Strict):
    """A conversation is of one model; each turn's prompt holds all that was said before."""

    turns: Distribution = 1.0
    think_s: Distribution = 30.0
    """From a turn's arrival to the next one's: arrivals never wait for answers."""
    prompt_tokens: Distribution = 200.0
    """That a turn adds."""
    answer_tokens: Distribution = 200.0


class Objective(Strict):
    """A request is well served if it was answered within all of these."""

    ttft_s: _Positive | None = None
    """From arrival to the first token, waiting included."""
    e2e_s: _Positive | None = None
    share: Annotated[float, Field(gt=0, le=1)] = 0.95
    """Of the requests that ought to be well served, for "how many GPUs does it need"."""

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.ttft_s is None and self.e2e_s is None:
            raise ValueError("an objective needs ttft_s or e2e_s")
        return self


class ScenarioModel(Strict):
    """In order of popularity. The weights' size says what it costs where no configuration and
    no cost table knows the name."""

    name: Annotated[str, Field(min_length=1)]
    weights_gib: _Positive
    kv_gib: _Positive = 4.0
    share: _Positive | None = None
    """Relative popularity; all models have one or none has."""


class Hardware(Strict):
    """What the simulator gives the fleet where no configuration does."""

    devices: Annotated[int, Field(ge=1)] = 1
    device_gib: _Positive | None = None
    """Budget of each; none: what the cost table's machine has."""
    host_gib: _Positive = 192.0
    """Budget of host memory for each device."""


class Scenario(Strict):
    name: str = ""
    duration_s: _Positive
    models: Annotated[tuple[ScenarioModel, ...], Field(min_length=1, strict=False)]
    skew: _NotNegative = 1.0
    """Zipf's exponent over the models' order; 0: all alike. Not used where they have shares."""
    arrivals: Arrivals
    conversations: Conversations = Conversations()
    objective: Objective
    max_wait_s: _Positive = 300.0
    hardware: Hardware = Hardware()
    directory: Annotated[str, Field(exclude=True)] = "."
    """Where relative paths begin; set by the reader."""

    @model_validator(mode="after")
    def _models_make_sense(self) -> Self:
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError("two models have the same name")
        if len({model.share is None for model in self.models}) > 1:
            raise ValueError("either all models have a share or none has")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Each model's part of the conversations; they sum to 1."""
        raw = [m.share or (rank + 1) ** -self.skew for rank, m in enumerate(self.models)]
        return {m.name: share / sum(raw) for m, share in zip(self.models, raw, strict=True)}


def names() -> Sequence[str]:
    """Of the shipped scenarios."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read(name: str) -> Scenario:
    """A shipped scenario by its name, or a file. Raises ResultError."""
    path = SHIPPED / f"{name}.yaml" if name in names() else Path(name)
    if not path.is_file():
        known = ", ".join(names())
        raise ResultError(f"{name}: neither a file nor a shipped scenario ({known})")
    try:
        raw = read_yaml(path)
        if not isinstance(raw, dict):
            raise ResultError(f"{path}: must be a mapping")
        named = {"name": path.stem, **raw, "directory": str(path.parent)}
        return Scenario.model_validate(named)
    except ConfigError as error:
        raise ResultError(f"{path}: {error.problems[0]}") from error
    except ValidationError as error:
        problem = from_pydantic(error.errors(), Scenario.model_fields)[0]
        raise ResultError(f"{path}: {problem}") from error
