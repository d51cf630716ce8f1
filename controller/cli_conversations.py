"""``torpor conversations``: what people keep, and where its KV lies."""

from __future__ import annotations

from typing import Annotated

import typer

from controller.cli_common import DEFAULT_URL, Json, Key, NoWait, Url, connect, finish

app = typer.Typer(
    help="Conversations: list, show, hibernate, rehydrate, reset, delete.",
    no_args_is_help=True,
)

Id = Annotated[str, typer.Argument(help="As requests name it.", metavar="CONVERSATION")]
Tenant = Annotated[
    str | None, typer.Option(help="Another than the key's; `admin` only.", show_default=False)
]
OfModel = Annotated[str | None, typer.Option("--model", help="Of this model alone.")]


@app.command("list")
def list_(
    model: OfModel = None,
    tenant: Tenant = None,
    residency: Annotated[
        str | None, typer.Option(help="NOT_CREATED, IN_MEMORY or HIBERNATED.")
    ] = None,
    idle: Annotated[float | None, typer.Option(min=0, help="Unused for so many seconds.")] = None,
    after: Annotated[int, typer.Option(min=0, help="As the page before said.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """One page of them, in the order they began."""
    from controller.terminal import out, print_json
    from controller.terminal_conversations import conversation_table

    with connect(url, key) as fleet:
        page = fleet.conversations.list(
            after=after,
            limit=limit,
            model=model,
            tenant=tenant,
            residency=residency and residency.upper(),
            idle_longer_than_s=idle,
        )
    if json:
        print_json(page)
    else:
        out.print(conversation_table(page))


@app.command()
def show(
    conversation: Id,
    tenant: Tenant = None,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """One of them, with its bytes by tier."""
    from controller.terminal import out, print_json
    from controller.terminal_conversations import one_conversation

    with connect(url, key) as fleet:
        view = fleet.conversations.show(conversation, tenant)
    if json:
        print_json(view)
    else:
        out.print(one_conversation(view))


@app.command()
def hibernate(
    conversation: Annotated[
        str | None, typer.Argument(help="As requests name it; or give --idle.")
    ] = None,
    idle: Annotated[
        float | None, typer.Option(min=0, help="All that are unused for so many seconds.")
    ] = None,
    model: OfModel = None,
    tenant: Tenant = None,
    no_wait: NoWait = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """KV to the durable tier, and out of host memory."""
    if (conversation is None) == (idle is None):
        raise typer.BadParameter("give a CONVERSATION or --idle SECONDS")
    with connect(url, key) as fleet:
        orders = fleet.conversations
        if conversation is not None:
            operation = orders.hibernate(conversation, tenant, wait=not no_wait)
        else:
            operation = orders.hibernate_idle(
                idle or 0.0, model=model, tenant=tenant, wait=not no_wait
            )
        finish(operation, json)


@app.command()
def rehydrate(
    conversation: Id,
    tenant: Tenant = None,
    no_wait: NoWait = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """KV into host memory, before the next message asks for it."""
    with connect(url, key) as fleet:
        finish(fleet.conversations.rehydrate(conversation, tenant, wait=not no_wait), json)


@app.command()
def reset(
    conversation: Id,
    tenant: Tenant = None,
    no_wait: NoWait = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Forget its KV everywhere; keep the conversation."""
    with connect(url, key) as fleet:
        finish(fleet.conversations.reset(conversation, tenant, wait=not no_wait), json)


@app.command()
def delete(
    conversation: Id,
    tenant: Tenant = None,
    no_wait: NoWait = False,
    json: Json = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Forget the conversation and its KV, once its running request has ended."""
    with connect(url, key) as fleet:
        finish(fleet.conversations.delete(conversation, tenant, wait=not no_wait), json)
