"""Conversations from the caller's side: orders about them, and one to talk in.

A conversation's history is kept here and sent whole each time; what the fleet keeps is its KV. So
whatever becomes of that, hibernated, deleted or expired, the next ``send`` is answered the same.
Where more than text is wanted (tools, images, streams), the openai SDK speaks to the same address:
give it ``headers``.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from controller.conversation_ports import ConversationPage, ConversationView
from controller.ports import OperationView

if TYPE_CHECKING:
    from controller.client import FleetClient

PATH = "/fleet/conversations"
_CHAT = "/v1/chat/completions"


def path_of(id: str, act: str = "") -> str:
    path = f"{PATH}/{quote(id, safe='')}"
    return f"{path}/{act}" if act else path


class ConversationOrders:
    """``fleet.conversations``. Every method raises FleetError; ``tenant``: another than the
    key's, for an administrator."""

    def __init__(self, fleet: FleetClient) -> None:
        self._fleet = fleet

    def list(self, *, after: int = 0, limit: int = 100, **of: object) -> ConversationPage:
        """``of``: ``model``, ``tenant``, ``residency``, ``idle_longer_than_s``."""
        query = {name: value for name, value in of.items() if value is not None}
        query |= {"after": after, "limit": limit}
        return self._fleet.read(ConversationPage, self._fleet.ask("GET", PATH, params=query))

    def show(self, id: str, tenant: str | None = None) -> ConversationView:
        found = self._fleet.ask("GET", path_of(id), params=_of(tenant))
        return self._fleet.read(ConversationView, found)

    def hibernate(self, id: str, tenant: str | None = None, *, wait: bool = True) -> OperationView:
        return self._fleet.order(path_of(id, "hibernate"), None, wait, **_of(tenant))

    def rehydrate(self, id: str, tenant: str | None = None, *, wait: bool = True) -> OperationView:
        return self._fleet.order(path_of(id, "rehydrate"), None, wait, **_of(tenant))

    def reset(self, id: str, tenant: str | None = None, *, wait: bool = True) -> OperationView:
        return self._fleet.order(path_of(id, "reset"), None, wait, **_of(tenant))

    def delete(self, id: str, tenant: str | None = None, *, wait: bool = True) -> OperationView:
        return self._fleet.order(path_of(id), None, wait, "DELETE", **_of(tenant))

    def hibernate_idle(
        self, longer_than_s: float, *, wait: bool = True, **of: object
    ) -> OperationView:
        """``of``: ``model``, ``tenant``."""
        body = {"idle_longer_than_s": longer_than_s, **{k: v for k, v in of.items() if v}}
        return self._fleet.order(f"{PATH}/hibernate", body, wait)


def new_id() -> str:
    return uuid.uuid4().hex


def _of(tenant: str | None) -> dict[str, str]:
    return {} if tenant is None else {"tenant": tenant}


@dataclass
class Talk:
    """What both clients' conversations are made of."""

    model: str
    id: str
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        """For the openai SDK: ``extra_headers``."""
        return {"x-conversation-id": self.id}

    def _request(self, text: str, options: dict[str, Any]) -> dict[str, Any]:
        """What to ask with; nothing is remembered until it was answered."""
        messages = [*self.messages, {"role": "user", "content": text}]
        body = {"model": self.model, "messages": messages, **options}
        return {"json": body, "headers": self.headers}

    def _heard(self, text: str, answer: Any) -> str:
        said = str(answer["choices"][0]["message"]["content"] or "")
        self.messages.append({"role": "user", "content": text})
        self.messages.append({"role": "assistant", "content": said})
        return said


class Conversation(Talk):
    """Leaving the context ends it: its KV hibernates, and it may be gone on with at any time."""

    def __init__(self, fleet: FleetClient, model: str, id: str | None = None) -> None:
        super().__init__(model, id or new_id())
        self._fleet = fleet
        self._is_open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def send(self, text: str, **options: Any) -> str:
        """The answer's text. Raises FleetError; the turn is then forgotten."""
        answer = self._fleet.ask("POST", _CHAT, **self._request(text, options))
        self._is_open = True
        return self._heard(text, answer)

    def hibernate(self) -> OperationView:
        return self._fleet.conversations.hibernate(self.id)

    def reset(self) -> OperationView:
        """Begin again under the same id."""
        self.messages.clear()
        return self._fleet.conversations.reset(self.id)

    def close(self) -> None:
        """As often as one likes; a later ``send`` goes on."""
        if self._is_open:
            self._is_open = False
            self._fleet.conversations.hibernate(self.id, wait=False)


class AsyncConversation(Talk):
    """Conversation's twin."""

    def __init__(
        self, ask: Callable[..., Awaitable[Any]], model: str, id: str | None = None
    ) -> None:
        super().__init__(model, id or new_id())
        self._ask = ask
        self._is_open = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def send(self, text: str, **options: Any) -> str:
        answer = await self._ask("POST", _CHAT, **self._request(text, options))
        self._is_open = True
        return self._heard(text, answer)

    async def hibernate(self) -> None:
        await self._order("hibernate", wait=True)

    async def reset(self) -> None:
        self.messages.clear()
        await self._order("reset", wait=True)

    async def close(self) -> None:
        if self._is_open:
            self._is_open = False
            await self._order("hibernate", wait=False)

    async def _order(self, act: str, *, wait: bool) -> None:
        query = {"wait": "true" if wait else "false"}
        await self._ask("POST", path_of(self.id, act), params=query)
