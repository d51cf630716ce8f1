"""How each route with a history says things: its requests and its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from controller.api.history_answers import ChatHearing, Hearing, ResponseHearing
from controller.api.history_chat import items_of_message, items_of_messages, messages_of_items
from controller.api.history_contexts import Context
from controller.api.history_items import (
    input_of_items,
    invalid,
    items_of_input,
)
from kv_store.history import Item


class Form(Protocol):
    """How a route says things."""

    def items(self) -> list[Item]: ...

    def body(self, whole: list[Item]) -> dict[str, Any]: ...

    def hearing(self) -> Hearing: ...

    def answers(self, answer: Mapping[str, Any]) -> list[Item]: ...

    def named(self, answer: dict[str, Any], previous: str, context: Context) -> dict[str, Any]:
        """With what it goes on from."""
        ...

    def response(self, answer: dict[str, Any]) -> Mapping[str, Any] | None: ...

    def told(self, answer: dict[str, Any], body: bytes) -> bytes:
        """To the client, for the engine's own ``body``."""
        ...


class ChatForm:
    def __init__(self, said: dict[str, Any]) -> None:
        """Raises ApiError 400."""
        if said.get("n") not in (None, 1):
            raise invalid("One answer can be kept: `n` must be 1 with `store`.", "n")
        if said.get("continue_final_message"):
            message = "With `store` an answer is kept whole: it cannot be gone on with."
            raise invalid(message, "continue_final_message")
        self._said = said

    def items(self) -> list[Item]:
        return items_of_messages(self._said.get("messages"))

    def body(self, whole: list[Item]) -> dict[str, Any]:
        kept = {name: value for name, value in self._said.items() if name != "store"}
        return kept | {"messages": messages_of_items(whole)}

    def hearing(self) -> Hearing:
        return ChatHearing()

    def answers(self, answer: Mapping[str, Any]) -> list[Item]:
        return items_of_message(answer["choices"][0]["message"])

    def named(self, answer: dict[str, Any], previous: str, context: Context) -> dict[str, Any]:
        return answer

    def response(self, answer: dict[str, Any]) -> Mapping[str, Any] | None:
        return None

    def told(self, answer: dict[str, Any], body: bytes) -> bytes:
        return body


class ResponsesForm:
    def __init__(self, said: dict[str, Any]) -> None:
        """Raises ApiError 400."""
        if said.get("background"):
            raise invalid("`background` cannot be had with a history.", "background")
        self._said = said

    def items(self) -> list[Item]:
        return items_of_input(self._said.get("input"))

    def body(self, whole: list[Item]) -> dict[str, Any]:
        own = {"input": input_of_items(whole), "store": False}
        return {k: v for k, v in self._said.items() if k != "previous_response_id"} | own

    def hearing(self) -> Hearing:
        return ResponseHearing()

    def answers(self, answer: Mapping[str, Any]) -> list[Item]:
        return [dict(item) for item in answer["output"]]

    def named(self, answer: dict[str, Any], previous: str, context: Context) -> dict[str, Any]:
        conversation = {"id": context.key.id} if context.is_named else None
        more = {"previous_response_id": previous or None, "conversation": conversation}
        return {**answer, **more, "store": True}

    def response(self, answer: dict[str, Any]) -> Mapping[str, Any] | None:
        return answer

    def told(self, answer: dict[str, Any], body: bytes) -> bytes:
        return json.dumps(answer, separators=(",", ":")).encode()
