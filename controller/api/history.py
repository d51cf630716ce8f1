"""One inference request whose conversation has a history: what the engine is told, what is kept.

Who asks for it: a chat completion that says ``store: true`` and names a conversation; a request to
the Responses API that says ``store: true``, goes on from a ``previous_response_id``, or names a
conversation of which something is kept already. Nobody else pays more than the look for it.

In its conversation's turn, what is kept is loaded and joined with what the request says
(``history_joining``), and the engine gets all of it: it keeps nothing itself. When it has answered
well, the turn and the answer are kept together, **before** the client has the end of the answer:
all of an answer that is not streamed, of one that is the closing event only. So whoever has seen
an answer end may count on its being kept, and of any other turn nothing is.

A response that names no conversation begins one of its own; those that go on from it belong to it,
and may branch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from secrets import token_hex
from typing import Any

from controller.api.bodies import Call
from controller.api.errors import ApiError
from controller.api.history_answers import Hearing
from controller.api.history_contexts import Context, InChain, InConversation, response_not_found
from controller.api.history_forms import ChatForm, Form, ResponsesForm
from controller.api.history_items import identified, invalid
from controller.api.history_joining import join
from controller.history_ports import Histories
from kv_store.conversations import ConversationKey
from kv_store.history import Item, KeptResponse

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
_NO_KEY = (
    "This server keeps no history: it has no key to seal it with. Configure one "
    "(`conversations.history` in fleet.yaml, or TORPOR_HISTORY_KEYS), or leave out `store`."
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks of history."""

    path: str
    said: dict[str, Any] = field(repr=False)
    """The whole body."""
    previous: str = ""
    is_stored: bool | None = None
    """None: it does not say."""


def wish_of(path: str, said: dict[str, Any] | None, conversation: str) -> Wish | None:
    """``said``: a body that may ask something. Raises ApiError 400."""
    if said is None:
        return None
    store = said.get("store")
    if path == CHAT:
        return Wish(path, said, is_stored=True) if store is True and conversation else None
    if path != RESPONSES:
        return None
    previous = said.get("previous_response_id")
    if previous is not None and not isinstance(previous, str):
        raise invalid("`previous_response_id` must be a string.", "previous_response_id")
    if previous and conversation:
        raise invalid("A response goes on from a conversation or from another, not from both.")
    if not previous and not conversation and store is not True:
        return None
    return Wish(path, said, previous or "", store if isinstance(store, bool) else None)


def not_configured() -> ApiError:
    return ApiError("history_not_configured", _NO_KEY, param="store")


async def begin(
    histories: Histories | None, tenant: str, conversation: str, wish: Wish
) -> HistoryTurn | None:
    """None: there is nothing to keep, and nothing kept. Raises ApiError 400 and 404."""
    if histories is None:
        if wish.is_stored or wish.previous:
            raise not_configured()
        return None
    form: Form = ChatForm(wish.said) if wish.path == CHAT else ResponsesForm(wish.said)
    if conversation:
        key = ConversationKey(tenant, conversation)
        if wish.is_stored or await histories.has(key):
            return HistoryTurn(histories, InConversation(histories, key), form, wish)
        return None
    previous = await _found(histories, tenant, wish.previous) if wish.previous else None
    name = previous.conversation if previous is not None else f"chain-{token_hex(12)}"
    chain = InChain(histories, ConversationKey(tenant, name), previous)
    return HistoryTurn(histories, chain, form, wish)


async def _found(histories: Histories, tenant: str, id: str) -> KeptResponse:
    (found,) = await histories.responses(tenant, [id])
    if found is None:
        raise response_not_found(id)
    if not found.is_chained:
        raise invalid(
            f"That response is part of the conversation `{found.conversation}`: name it instead.",
            "previous_response_id",
        )
    return found


class HistoryTurn:
    """Of one request."""

    def __init__(self, histories: Histories, context: Context, form: Form, wish: Wish) -> None:
        self._limits = histories.limits
        self._context = context
        self._form = form
        self._wish = wish
        self._fresh: list[Item] = []
        self._hearing: Hearing | None = None
        self._is_kept = wish.is_stored is False

    @property
    def conversation(self) -> str:
        return self._context.key.id

    async def prepared(self, call: Call) -> Call:
        """With all that was said before. In the conversation's turn. Raises ApiError 400, 409,
        413, RecordsUnavailable and HistoryUnreadable."""
        kept = await self._context.load()
        if self._wish.is_stored is not False and self._is_full():
            raise ApiError("history_full", "This conversation keeps as much as one may.")
        said = self._form.items()
        joined = join(kept, said, has_instructions=bool(self._wish.said.get("instructions")))
        self._fresh = identified(joined.fresh, (item["id"] for item in kept))
        body = json.dumps(self._form.body(joined.whole), separators=(",", ":")).encode()
        return replace(call, body=body)

    def listen(self) -> None:
        """To the answer that comes next; an engine that broke before may have begun one."""
        self._hearing = self._form.hearing()

    async def passes(self, chunk: bytes) -> None:
        """Of a stream, to the client. Raises RecordsUnavailable."""
        assert self._hearing is not None
        if self._is_kept:
            return
        self._hearing.hear(chunk)
        answer = self._hearing.whole()
        if answer is not None:
            await self._keep(answer)

    async def answered(self, body: bytes) -> bytes:
        """By an answer that is not streamed: as the client gets it. Raises RecordsUnavailable."""
        answer = json.loads(body)
        if not self._is_kept:
            answer = await self._keep(answer)
            body = self._form.told(answer, body)
        return body

    def _is_full(self) -> bool:
        items, sealed_bytes = self._context.size
        return items >= self._limits.items or sealed_bytes >= self._limits.sealed_bytes

    async def _keep(self, answer: dict[str, Any]) -> dict[str, Any]:
        items = self._form.answers(answer)
        answer = self._form.named(answer, self._wish.previous, self._context)
        await self._context.keep(self._fresh, items, self._form.response(answer))
        self._is_kept = True
        return answer
