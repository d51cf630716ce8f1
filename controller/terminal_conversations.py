"""Conversations as people see them."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from controller.conversation_ports import ConversationPage, ConversationView
from controller.terminal import columns, seconds, size

_TITLES = (
    *("CONVERSATION", "TENANT", "MODEL", "KV"),
    *(">TURNS", ">TOKENS", ">HOST", ">DURABLE", ">IDLE"),
)
_COLOURS = {"IN_MEMORY": "green", "HIBERNATED": "blue", "NOT_CREATED": "dim"}


def conversation_table(page: ConversationPage) -> RenderableType:
    table = columns(*_TITLES)
    for view in page.conversations:
        table.add_row(Text(view.conversation), Text(view.tenant), Text(view.model), *_figures(view))
    now = page.statistics
    told = ", ".join(f"{count} {name.lower()}" for name, count in now.by_residency.items())
    queued = f", {now.queued} wait to be served" if now.queued else ""
    lines = [Text(f"{now.total} in all: {told}; {now.active} active{queued}")]
    if page.after is not None:
        lines.append(Text(f"more with --after {page.after}", "dim"))
    return Group(table, Text(), *lines)


def one_conversation(view: ConversationView) -> RenderableType:
    table = columns("", "")
    table.show_header = False
    for name in ("conversation", "tenant", "model", "turns", "tokens", "waiting"):
        table.add_row(name, Text(str(getattr(view, name))))
    table.add_row("kv", _state(view))
    table.add_row("host", size(view.host_bytes))
    table.add_row("durable", size(view.durable_bytes))
    table.add_row("idle", seconds(view.idle_s))
    return table


def _figures(view: ConversationView) -> tuple[RenderableType, ...]:
    return (
        _state(view),
        str(view.turns),
        str(view.tokens),
        size(view.host_bytes),
        size(view.durable_bytes),
        seconds(view.idle_s),
    )


def _state(view: ConversationView) -> Text:
    state = Text(view.residency.lower(), _COLOURS[view.residency])
    if view.doing is not None:
        state.append(f" {view.doing}", "yellow")
    return state
