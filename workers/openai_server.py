"""vLLM's own OpenAI app, served on a port of its own behind a key.

vLLM's ``--api-key`` guards ``/v1`` and a few more prefixes; ``/tokenize``, ``/invocations``,
``/metrics`` and the rest stay open to whoever reaches the port. So the app is wrapped instead:
every path but ``/health`` wants the key, and vLLM never learns it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from argparse import Namespace
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import nullcontext, suppress
from typing import Any

import uvicorn

from workers.engine import Endpoint
from workers.listening import listen

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/health"})
_REFUSAL = json.dumps(
    {"error": {"message": "not authorized", "type": "authentication_error", "code": 401}}
).encode()


class KeyGate:
    """ASGI: 401 without the bearer key; websockets are closed before they open."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._digest = hashlib.sha256(key.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_admitted(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})

    def _is_admitted(self, scope: Scope) -> bool:
        if scope["path"] in OPEN_PATHS:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        matches = secrets.compare_digest(hashlib.sha256(key).digest(), self._digest)
        return scheme.lower() == b"bearer" and matches


class OpenAIServer:
    """uvicorn in the running loop, without its signal handling."""

    def __init__(self, app: ASGIApp, *, host: str, key: str) -> None:
        self._socket = listen(host)
        port = self._socket.getsockname()[1]
        self.endpoint = Endpoint(host, port, key)
        config = uvicorn.Config(
            KeyGate(app, key),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=2,
            timeout_keep_alive=75,
            h11_max_incomplete_event_size=4 * 1024 * 1024,
        )
        self._server = _Quiet(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise RuntimeError("the engine's server ended as it started")
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._task is not None:
            with suppress(asyncio.CancelledError):
                await self._task
        self._socket.close()


class _Quiet(uvicorn.Server):
    """Leaves the process's signals alone: they are the host's, and its loop may not be main."""

    def capture_signals(self) -> Any:
        return nullcontext()


async def build_app(client: Any, args: Namespace) -> ASGIApp:
    """vLLM's FastAPI app around a running ``AsyncLLM``."""
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app as vllm_app

    tasks = await client.get_supported_tasks()
    app = vllm_app(args, tasks, client.model_config)
    await init_app_state(client, app.state, args, tasks)
    return app  # type: ignore[no-any-return]
