"""What a person at the terminal of ``torpor serve`` sees: each step of each engine, and, once
every model was started once, what to try."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from controller.core.commands import Command
from controller.core.events import Event
from controller.core.fleet import Fleet
from controller.core.lifecycle import Phase
from controller.core.names import Depth
from controller.settings import Settings
from workers.engine import Report

_TOLD = {
    Phase.STARTING: "starting",
    Phase.AWAKE: "awake",
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
        if not self._is_told and self._are_all_measured(fleet):
            self._is_told = True
            self._tell(fleet)

    def reported(self, model: str, order: str, depth: Depth, report: Report) -> None:
        phases = ", ".join(f"{name} {s:.2f} s" for name, s in report.phases_s.items())
        held = (report.memory.device_bytes + report.memory.host_bytes) / (1 << 30)
        self._console.print(f"torpor:   {model} {order}: {phases}; holds {held:.2f} GiB")

    def _are_all_measured(self, fleet: Fleet) -> bool:
        return bool(fleet.models) and all(
            Depth.AWAKE in record.measured or record.is_given_up for record in fleet.models.values()
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
