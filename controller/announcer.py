"""What ``torpor serve`` tells: each step of each engine, and when every model was started once.

To a person at the terminal, on stderr, with what to try; with ``--json`` to a program, one object
a line on stdout: ``event`` and ``at`` (Unix seconds), and what belongs to the event.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console

from controller.core.commands import Command
from controller.core.events import Event
from controller.core.fleet import Fleet
from controller.core.lifecycle import Phase
from controller.core.names import Depth, model_of
from controller.settings import Settings
from workers.engine import KVExport, Report

_TOLD = {
    Phase.STARTING: "starting",
    Phase.AWAKE: "awake",
    Phase.HIBERNATING: "keeping its KV",
    Phase.FALLING_ASLEEP: "falling asleep",
    Phase.ASLEEP: "asleep",
    Phase.WAKING: "waking",
    Phase.STOPPING: "stopping",
    Phase.COLD: "stopped",
    Phase.FAILED: "[red]failed[/]",
}


class Announcer:
    """An observer of the driver that prints."""

    def __init__(self, host: str, port: int) -> None:
        self._base = f"http://{host}:{port}"
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._is_told = False

    def opened(self, settings: Settings) -> None:
        if not settings.server.keys:
            self._console.print("torpor: no keys are configured: bound to loopback only")
        self._console.print(f"torpor: listening on {self._base}")

    def saw(self, event: Event, commands: Sequence[Command], fleet: Fleet) -> None:
        for change in fleet.changes:
            told = _TOLD.get(change.after)
            if told is not None:
                line = f"torpor: {change.replica} {told}"
                self._console.print(f"{line} [dim]({change.why})[/]" if change.why else line)
        if not self._is_told and _are_all_measured(fleet):
            self._is_told = True
            self._tell(fleet)

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None:
        phases = ", ".join(f"{name} {s:.2f} s" for name, s in report.phases_s.items())
        held = (report.memory.device_bytes + report.memory.host_bytes) / (1 << 30)
        self._console.print(f"torpor:   {model} {order}: {phases}; holds {held:.2f} GiB")

    def exported(self, model: str, export: KVExport) -> None:
        size_mib = export.bytes / (1 << 20)
        lost = f", {export.failed} lost" if export.failed else ""
        self._console.print(
            f"torpor:   {model} keeps {export.kept} chunks of KV{lost}"
            f" ({size_mib:.0f} MiB written in {export.seconds:.2f} s)"
        )

    def _tell(self, fleet: Fleet) -> None:
        first = next(iter(fleet.models))
        self._console.print(
            f"\n[bold]torpor is ready.[/] Try:\n"
            f"  torpor chat {first}\n"
            f"  torpor status --watch\n"
            f"  curl {self._base}/v1/chat/completions -H 'content-type: application/json' "
            f'-d \'{{"model": "{first}", "messages": [{{"role": "user", '
            f'"content": "What is the capital of France?"}}]}}\'\n',
            soft_wrap=True,
        )


class JsonAnnouncer:
    """An observer of the driver that writes lines of JSON."""

    def __init__(self, host: str, port: int) -> None:
        self._address = f"http://{host}:{port}"
        self._began = time.monotonic()
        self._is_told = False

    def opened(self, settings: Settings) -> None:
        announce("listening", address=self._address, has_keys=bool(settings.server.keys))

    def saw(self, event: Event, commands: Sequence[Command], fleet: Fleet) -> None:
        for change in fleet.changes:
            announce(
                "phase",
                replica=change.replica,
                model=model_of(change.replica),
                phase=change.after.value,
                why=change.why,
            )
        if not self._is_told and _are_all_measured(fleet):
            self._is_told = True
            seconds = time.monotonic() - self._began
            announce("ready", address=self._address, models=list(fleet.models), seconds=seconds)

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None:
        announce(
            "order",
            model=model,
            order=order,
            depth=depth.name.lower(),
            seconds=sum(report.phases_s.values()),
            phases_s=report.phases_s,
            device_bytes=report.memory.device_bytes,
            host_bytes=report.memory.host_bytes,
        )

    def exported(self, model: str, export: KVExport) -> None:
        announce("kv", model=model, **asdict(export))


def announce(event: str, **fields: object) -> None:
    """One line on stdout, in one piece: supervisor and controller share it."""
    sys.stdout.write(json.dumps({"event": event, "at": time.time(), **fields}) + "\n")
    sys.stdout.flush()


def _are_all_measured(fleet: Fleet) -> bool:
    return bool(fleet.models) and all(
        Depth.AWAKE in record.measured or record.is_given_up for record in fleet.models.values()
    )
