"""The whole of ``torpor bench conversations``: its parts, one after another."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.conversations import records
from benchmarks.conversations.options import Options
from benchmarks.conversations.turns import Fleet, Turns
from benchmarks.kv.asking import client_of
from benchmarks.kv.fleets import arranged, chosen, only
from benchmarks.running import BenchError, Run
from benchmarks.wake.own_fleet import fake_settings, own_fleet
from controller.client import FleetClient, FleetError
from controller.settings import Settings

_NOTES = {
    "records": (
        "store_memory: what an embedded Valkey says it uses, before and after; records, token ids "
        "and their index. list_page: 100 conversations and the statistics of all, over HTTP, from "
        "a fleet of engines without a model that was started over that store.",
    ),
    "turns": (
        "hibernate_answer: the order's own answer, its end is hibernate. added_to_first_token: "
        "to the turn after it, which found all of it on the device; rehydrated by the turn itself "
        "from the durable tier, or ordered before it into the host tier.",
    ),
}


def measure(run: Run, options: Options, settings: Settings | None) -> None:
    """Raises BenchError; what was measured before it stays in ``run``."""
    run.note(f"When the run began, the machine's load average was {os.getloadavg()[0]:.1f}.")
    for part in options.parts:
        for note in _NOTES[part]:
            run.note(note)
    try:
        if "records" in options.parts:
            records.measure(run, options, _room_for(options.many))
        if "turns" in options.parts:
            if settings is None:
                raise BenchError("name a CONFIG with `kv`, or --parts records")
            _turns(run, options, settings)
    except FleetError as error:
        raise BenchError(error.message) from error


def _turns(run: Run, options: Options, settings: Settings) -> None:
    alone = only(settings, chosen(settings, options.model))
    run.say("starting a fleet")
    with (
        TemporaryDirectory(prefix="t-", ignore_cleanup_errors=True) as kept,
        own_fleet(alone, lambda told, place: arranged(told, place, Path(kept))) as own,
        FleetClient(own.url) as client,
        closing(client_of(own.url)) as http,
    ):
        fleet = Fleet(client, http, own.process.pid)
        Turns(run, options, fleet, alone.models[0].engine.model).measure()


def _room_for(conversations: int) -> Settings:
    return fake_settings(kv={"host_gib": 0.05}, conversations={"limit": conversations})
