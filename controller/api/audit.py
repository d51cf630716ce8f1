"""One line for each administrative act: who, what, on which model, how it ended. Never keys."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.types import Scope

from controller.api.auth import Caller
from controller.api.errors import as_api_error

_log = logging.getLogger("torpor.audit")


@dataclass(slots=True)
class Act:
    """An administrative act while it happens; ``outcome`` may be made more exact."""

    outcome: str = "done"
    seen: dict[str, object] = field(default_factory=dict)


@contextmanager
def audited(scope: Scope, what: str, model: str) -> Iterator[Act]:
    act = Act()
    try:
        yield act
    except Exception as error:
        act.outcome = as_api_error(error, tuple).code
        raise
    finally:
        caller: Caller = scope["torpor.caller"]
        record(scope, caller, what, model, act.outcome, **act.seen)


def record(
    scope: Scope, caller: Caller, what: str, model: str, outcome: str, **more: object
) -> None:
    client = scope.get("client") or ("",)
    line = {
        "who": caller.name,
        "tenant": caller.tenant,
        "client": client[0],
        "what": what,
        "model": model,
        "outcome": outcome,
        "request_id": scope["torpor.request_id"],
        **more,
    }
    _log.info("%s", json.dumps(line))
