"""A typed, synchronous client of the fleet API; the command line is built on it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from controller.client_conversations import (
    AsyncConversation,
    Conversation,
    ConversationOrders,
)
from controller.ports import FleetEvent, FleetView, ModelView, OperationView

_View = TypeVar("_View")
_ASK_AGAIN_S = 1.0


class FleetError(Exception):
    """The fleet refused: HTTP status, the error object's code, and what it says."""

    def __init__(self, status: int, code: str, message: str, operation: Any = None) -> None:
        super().__init__(message)
        self.operation = operation
        """What of an order that failed is known, as JSON."""
        self.status = status
        self.code = code
        self.message = message


class FleetUnreachable(FleetError):
    """Nothing answers at the address, or what answers is no fleet."""

    def __init__(self, message: str) -> None:
        super().__init__(0, "unreachable", message)


class FleetClient:
    """Orders wait for their end, good (``done``) or bad (``failed``), unless ``wait=False``.

    Every method raises FleetError; FleetUnreachable where nobody answers.
    """

    def __init__(
        self, url: str, key: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        # A wake may take minutes: only connecting has a limit.
        timeout = httpx.Timeout(None, connect=5.0)
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=timeout, transport=transport, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def fleet(self) -> FleetView:
        return self.read(FleetView, self.ask("GET", "/fleet"))

    def models(self) -> tuple[ModelView, ...]:
        return self.fleet().models

    def model(self, model: str) -> ModelView:
        return self.read(ModelView, self.ask("GET", _of(model)))

    def why(self, model: str) -> list[dict[str, Any]]:
        """The model's story, oldest first: ``at`` (Unix seconds), ``replica``, ``what``."""
        story = self.ask("GET", _of(model, "why"))["story"]
        return [dict(step) for step in story]

    def wake(self, model: str, *, wait: bool = True) -> OperationView:
        return self.order(_of(model, "wake"), None, wait)

    def sleep(self, model: str, level: int = 1, *, wait: bool = True) -> OperationView:
        return self.order(_of(model, "sleep"), {"level": level}, wait)

    def stop(self, model: str, *, wait: bool = True) -> OperationView:
        return self.order(_of(model, "stop"), None, wait)

    def switch(
        self, to: str, source: str | None = None, level: int | None = None, *, wait: bool = True
    ) -> OperationView:
        body = {"to": to, "from": source, "level": level}
        written = {key: value for key, value in body.items() if value is not None}
        return self.order("/fleet/switch", written, wait)

    def pin(self, model: str) -> None:
        self.ask("POST", _of(model, "pin"))

    def unpin(self, model: str) -> None:
        self.ask("POST", _of(model, "unpin"))

    def add_model(self, entry: dict[str, object], *, wait: bool = True) -> OperationView:
        """``entry``: one of fleet.yaml's ``models``."""
        return self.order("/fleet/models", entry, wait)

    def remove_model(self, model: str, *, wait: bool = True) -> OperationView:
        return self.order(_of(model), None, wait, method="DELETE")

    def operation(self, operation: str) -> OperationView:
        found = self.ask("GET", f"/fleet/operations/{quote(operation, safe='')}")
        return self.read(OperationView, found)

    def events(self, after: int | None = None) -> Iterator[FleetEvent]:
        """From just after event ``after``, or from the present on; ends with the connection."""
        headers = {"last-event-id": str(after)} if after is not None else {}
        with self.stream("GET", "/fleet/events", headers=headers) as response:
            yield from _events(response.iter_lines())

    @contextmanager
    def stream(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        """A response whose body is still to come."""
        with _reached(self._http.base_url), self._http.stream(method, path, **request) as response:
            if response.is_error:
                response.read()
                raise _refusal(response)
            yield response

    @property
    def conversations(self) -> ConversationOrders:
        """Of every conversation that the key may see."""
        return ConversationOrders(self)

    def conversation(self, model: str, id: str | None = None) -> Conversation:
        """To talk in; an id of its own without one."""
        return Conversation(self, model, id)

    def order(
        self, path: str, body: Any, wait: bool, method: str = "POST", **query: str
    ) -> OperationView:
        """An operation, at its end if that is waited for."""
        query["wait"] = "true" if wait else "false"
        try:
            found = self.ask(method, path, params=query, json=body)
        except FleetError as refused:
            if refused.operation is None:
                raise
            found = refused.operation
        operation = self.read(OperationView, found)
        while wait and operation.status == "running":
            # The fleet waits only so long for us; it was long.
            time.sleep(_ASK_AGAIN_S)
            operation = self.operation(operation.operation)
        return operation

    def ask(self, method: str, path: str, **request: Any) -> Any:
        with _reached(self._http.base_url):
            response = self._http.request(method, path, **request)
        return _told(response)

    def read(self, view: type[_View], found: Any) -> _View:
        try:
            return TypeAdapter(view).validate_python(found)
        except ValidationError as error:
            raise FleetUnreachable(f"{self._http.base_url} is another version's fleet") from error


class AsyncFleetClient:
    """For conversations in asynchronous code; what raises is the same."""

    def __init__(
        self, url: str, key: str | None = None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(None, connect=5.0)
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=timeout, transport=transport, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    def conversation(self, model: str, id: str | None = None) -> AsyncConversation:
        return AsyncConversation(self.ask, model, id)

    async def ask(self, method: str, path: str, **request: Any) -> Any:
        with _reached(self._http.base_url):
            response = await self._http.request(method, path, **request)
        return _told(response)


def _told(response: httpx.Response) -> Any:
    if response.is_error:
        raise _refusal(response)
    try:
        return response.json() if response.content else {}
    except ValueError as error:
        raise FleetUnreachable(f"{response.url} is no torpor fleet") from error


def _of(model: str, act: str = "") -> str:
    path = f"/fleet/models/{quote(model, safe='')}"
    return f"{path}/{act}" if act else path


@contextmanager
def _reached(url: httpx.URL) -> Iterator[None]:
    try:
        yield
    except httpx.ConnectError as error:
        raise FleetUnreachable(f"no fleet answers at {url}: is `torpor serve` running?") from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise FleetUnreachable(f"lost {url}: {str(error) or type(error).__name__}") from error


def _refusal(response: httpx.Response) -> FleetError:
    try:
        body = response.json()
        error = body["error"]
        code, message = str(error.get("code") or error.get("type")), str(error["message"])
    except (ValueError, KeyError, TypeError, AttributeError):
        message = f"HTTP {response.status_code} {response.reason_phrase}"
        return FleetError(response.status_code, "http_error", message)
    return FleetError(response.status_code, code, message, body.get("operation"))


def _events(lines: Iterable[str]) -> Iterator[FleetEvent]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            fields[name] = value.removeprefix(" ")
        elif not line and "data" in fields:
            event = FleetEvent(
                int(fields.get("id", 0)), fields.get("event", "message"), json.loads(fields["data"])
            )
            fields = {}
            yield event
