"""What a request goes on from: a conversation's history, or a chain of responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from controller.api.errors import ApiError
from controller.api.history_items import identified
from controller.history_ports import Histories
from kv_store.conversations import ConversationKey
from kv_store.history import History, Item, KeptResponse


def response_not_found(id: str) -> ApiError:
    message = f"There is no response {id[:128]!r}. Only those with `store: true` are kept."
    return ApiError("response_not_found", message, param="previous_response_id")


class Context(Protocol):
    """What a request goes on from."""

    @property
    def key(self) -> ConversationKey: ...

    @property
    def size(self) -> tuple[int, int]:
        """Items, and sealed bytes, of what was loaded."""
        ...

    @property
    def is_named(self) -> bool:
        """By its client."""
        ...

    async def load(self) -> list[Item]: ...

    async def keep(
        self, fresh: list[Item], answer: list[Item], response: Mapping[str, Any] | None
    ) -> None:
        """A turn, its answer, and the latter as a response, if it is one."""
        ...


class InConversation:
    is_named = True

    def __init__(self, histories: Histories, key: ConversationKey) -> None:
        self.key = key
        self._histories = histories
        self._before: History | None = None

    @property
    def size(self) -> tuple[int, int]:
        before = self._before
        return (len(before.items), before.sealed_bytes) if before is not None else (0, 0)

    async def load(self) -> list[Item]:
        self._before = await self._histories.load(self.key)
        return list(self._before.items) if self._before is not None else []

    async def keep(
        self, fresh: list[Item], answer: list[Item], response: Mapping[str, Any] | None
    ) -> None:
        before = self._before
        taken = [item["id"] for item in (*(before.items if before else ()), *fresh)]
        kept = None
        if response is not None:
            number = before.next_number if before is not None else 0
            kept = KeptResponse(
                response["id"],
                self.key.id,
                is_chained=False,
                first_number=number,
                input=tuple(fresh),
                answer=response,
            )
        items = [*fresh, *identified(answer, taken)]
        await self._histories.append(self.key, before, items, response=kept)


class InChain:
    is_named = False

    def __init__(
        self, histories: Histories, key: ConversationKey, previous: KeptResponse | None
    ) -> None:
        self.key = key
        self.size = (0, 0)
        self._histories = histories
        self._previous = previous

    async def load(self) -> list[Item]:
        if self._previous is None:
            return []
        ids = (*self._previous.ancestors, self._previous.id)
        chain = await chain_of(self._histories, self.key.tenant, ids)
        items = [item for response in chain for item in turn_of(response)]
        self.size = len(items), sum(response.sealed_bytes for response in chain)
        return items

    async def keep(
        self, fresh: list[Item], answer: list[Item], response: Mapping[str, Any] | None
    ) -> None:
        assert response is not None, "only responses are chained"
        previous = self._previous
        ancestors = () if previous is None else (*previous.ancestors, previous.id)
        kept = KeptResponse(
            response["id"],
            self.key.id,
            is_chained=True,
            ancestors=ancestors,
            input=tuple(fresh),
            answer=response,
        )
        await self._histories.keep_response(self.key, kept)


async def chain_of(histories: Histories, tenant: str, ids: Sequence[str]) -> list[KeptResponse]:
    """Raises ApiError 404: one of them was deleted."""
    chain = []
    for id, response in zip(ids, await histories.responses(tenant, ids), strict=True):
        if response is None:
            raise response_not_found(id)
        chain.append(response)
    return chain


def turn_of(response: KeptResponse) -> list[Item]:
    return [*response.input, *response.answer["output"]]
