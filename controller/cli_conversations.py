"""``torpor conversations``: what people keep, and where its KV lies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from controller.cli_asking import Shown, orders, shows

if TYPE_CHECKING:
    from controller.client import FleetClient
    from controller.ports import OperationView

app = typer.Typer(
    help="Conversations: list, show, hibernate, rehydrate, reset, delete.",
    no_args_is_help=True,
)

Id = Annotated[str, typer.Argument(help="As requests name it.", metavar="CONVERSATION")]
Tenant = Annotated[
    str | None, typer.Option(help="Another than the key's; `admin` only.", show_default=False)
]
OfModel = Annotated[str | None, typer.Option("--model", help="Of this model alone.")]


@shows(app, name="list")
def list_(
    fleet: FleetClient,
    model: OfModel = None,
    tenant: Tenant = None,
    residency: Annotated[
        str | None, typer.Option(help="NOT_CREATED, IN_MEMORY or HIBERNATED.")
    ] = None,
    idle: Annotated[float | None, typer.Option(min=0, help="Unused for so many seconds.")] = None,
    after: Annotated[int, typer.Option(min=0, help="As the page before said.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
) -> Shown:
    """One page of them, in the order they began."""
    from controller.terminal_conversations import conversation_table

    page = fleet.conversations.list(
        after=after,
        limit=limit,
        model=model,
        tenant=tenant,
        residency=residency and residency.upper(),
        idle_longer_than_s=idle,
    )
    return Shown(page, (conversation_table(page),))


@shows(app)
def show(fleet: FleetClient, conversation: Id, tenant: Tenant = None) -> Shown:
    """One of them, with its bytes by tier."""
    from controller.terminal_conversations import one_conversation

    view = fleet.conversations.show(conversation, tenant)
    return Shown(view, (one_conversation(view),))


@orders(app)
def hibernate(
    fleet: FleetClient,
    wait: bool,
    conversation: Annotated[
        str | None, typer.Argument(help="As requests name it; or give --idle.")
    ] = None,
    idle: Annotated[
        float | None, typer.Option(min=0, help="All that are unused for so many seconds.")
    ] = None,
    model: OfModel = None,
    tenant: Tenant = None,
) -> OperationView:
    """KV to the durable tier, and out of host memory."""
    if conversation is not None and idle is None:
        return fleet.conversations.hibernate(conversation, tenant, wait=wait)
    if conversation is None and idle is not None:
        return fleet.conversations.hibernate_idle(idle, model=model, tenant=tenant, wait=wait)
    raise typer.BadParameter("give a CONVERSATION or --idle SECONDS")


@orders(app)
def rehydrate(
    fleet: FleetClient, wait: bool, conversation: Id, tenant: Tenant = None
) -> OperationView:
    """KV into host memory, before the next message asks for it."""
    return fleet.conversations.rehydrate(conversation, tenant, wait=wait)


@orders(app)
def reset(fleet: FleetClient, wait: bool, conversation: Id, tenant: Tenant = None) -> OperationView:
    """Forget its KV everywhere; keep the conversation."""
    return fleet.conversations.reset(conversation, tenant, wait=wait)


@orders(app)
def delete(
    fleet: FleetClient, wait: bool, conversation: Id, tenant: Tenant = None
) -> OperationView:
    """Forget the conversation and its KV, once its running request has ended."""
    return fleet.conversations.delete(conversation, tenant, wait=wait)
