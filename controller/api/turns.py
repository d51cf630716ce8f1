"""What an engine tells of a turn that has ended (``kv_store.turns``)."""

from __future__ import annotations

import logging
import struct

from controller.api.connection import EngineBroken
from controller.api.upstream import Upstream
from kv_store.turns import PATH, TurnTold
from workers.engine import Endpoint

log = logging.getLogger("torpor.api")


async def told_of_turn(upstream: Upstream, engine: Endpoint, request: str) -> TurnTold | None:
    """None where it tells nothing: the answer was given, so nobody is refused for it."""
    headers = b"Content-Type: text/plain\r\n"
    try:
        async with upstream.post(engine, PATH, request.encode("latin-1"), headers) as answer:
            packed = await answer.rest()
            return TurnTold.unpacked(packed) if answer.status == 200 else None
    except (EngineBroken, ValueError, struct.error) as error:
        log.warning("request %s: its turn is not known: %r", request, error)
        return None
