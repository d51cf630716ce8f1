"""A small fleet that is only its HTTP API: canned views, a key, and a note of what was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from controller.ports import FleetView, ModelView, NodeView, OperationView, ReplicaView

GIB = 1 << 30
KEY = "torpor-secret"


def model(name: str, state: str, **changes: Any) -> ModelView:
    replica = ReplicaView(
        f"{name}#0", state.upper(), None, "hbm", "vm", ("cpu",), GIB, 0, leases=1, since_s=5.0
    )
    fields: dict[str, Any] = {
        "model": name,
        "state": state,
        "replicas": (replica,),
        "pinned": False,
        "waiting": 0,
        "running": 1,
        "max_model_len": 2048,
        "wake_estimate_s": 1.5,
        "idle_s": 61.0,
        "created": 1700000000,
    }
    return ModelView(**{**fields, **changes})


VIEW = FleetView(
    models=(
        model("smollm2", "awake", pinned=True),
        model("org/minilm", "level_1", running=0, waiting=2),
        model("broken", "failed", idle_s=None),
    ),
    nodes=(
        NodeView(
            "vm", (("cpu", 2 * GIB, 4 * GIB),), 0, 12 * GIB, (("cpu", GIB),), ("cpu", GIB, 2 * GIB)
        ),
    ),
    waiting=2,
)
STORY = [
    {"at": 1700000000.5, "replica": "org/minilm#0", "what": "started"},
    {"at": 1700000060.0, "replica": "org/minilm#0", "what": "evicted", "for": "smollm2"},
]
STREAM = b"""\
: torpor phase=waking estimate_ms=1500

: torpor phase=waking estimate_ms=500

: torpor state=woken queue_ms=1710 wake_ms=1604

data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}

data: {"choices": [{"delta": {"content": "The capital is "}}]}

data: {"choices": [{"delta": {"content": "Paris."}, "finish_reason": null}]}

data: {"choices": [{"delta": {}, "finish_reason": "length"}]}

data: [DONE]

"""
LATE_FAILURE = b"""\
: torpor phase=starting estimate_ms=60000

event: error
data: {"error": {"message": "It cannot start.", "type": "server_error", "code": "cannot_start"}}

"""
EVENTS = b"""\
id: 7
event: phase
data: {"replica": "a#0", "to": "AWAKE"}

: nothing happens

id: 8
event: phase
data: {"replica": "a#0", "to": "DRAINING"}

"""


@dataclass
class Asked:
    """What reached the server, in order."""

    requests: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    """Method, path, query, JSON body."""
    headers: list[dict[str, str]] = field(default_factory=list)


def _operation(kind: str, name: str, waited: bool) -> dict[str, Any]:
    if not waited:
        return asdict(OperationView("op-1", kind, name, "running", "", 0.0, {}))
    if name == "broken":
        failed = OperationView("op-1", kind, name, "failed", "the canary disagreed", 2.0, {})
        return asdict(failed)
    phases = {"wake.weights": 0.25, "wake.canary": 0.5}
    return asdict(OperationView("op-1", kind, name, "done", "", 0.81, phases))


class _Handler(BaseHTTPRequestHandler):
    asked: Asked

    def do_GET(self) -> None:
        parts = self._parts()
        match parts:
            case ["fleet"]:
                self._answer(200, asdict(VIEW))
            case ["fleet", "events"]:
                self._stream(EVENTS)
            case ["fleet", "operations", name]:
                self._answer(200, {**_operation("wake", "smollm2", True), "operation": name})
            case ["fleet", "models", name, "why"]:
                self._answer(200, {"story": STORY if self._knows(name) else []})
            case ["fleet", "models", name] if self._knows(name):
                found = next(m for m in VIEW.models if m.model == name)
                self._answer(200, asdict(found))
            case ["other"]:
                self._answer(200, "not a fleet")
            case _:
                self._refuse(404, "model_not_found", f"No model {parts[-1]!r}.")

    def do_POST(self) -> None:
        parts = self._parts()
        waited = dict(parse_qsl(urlsplit(self.path).query)).get("wait") == "true"
        match parts:
            case ["v1", "chat", "completions"]:
                self._stream(LATE_FAILURE if self._body["model"] == "broken" else STREAM)
            case ["fleet", "models", name, ("pin" | "unpin")] if self._knows(name):
                self._answer(200, {"model": name})
            case ["fleet", "models", name, kind] if self._knows(name):
                self._end(_operation(kind, name, waited))
            case ["fleet", "switch"]:
                self._answer(200, _operation("switch", self._body["to"], waited))
            case ["fleet", "models"]:
                self._answer(200, _operation("add", self._body["name"], waited))
            case _:
                self._refuse(404, "model_not_found", f"No model {parts[-2]!r}.")

    do_DELETE = do_POST

    def _end(self, operation: dict[str, Any]) -> None:
        error = {"message": operation["error"], "type": "x", "code": "operation_failed"}
        match operation["status"]:
            case "failed":
                self._answer(503, {"error": error, "operation": operation})
            case status:
                self._answer(200 if status == "done" else 202, operation)

    def _parts(self) -> list[str]:
        """Notes the request; the path's segments, unquoted one by one."""
        length = int(self.headers.get("content-length") or 0)
        self._body = json.loads(self.rfile.read(length)) if length else None
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        self.asked.requests.append((self.command, url.path, query, self._body))
        self.asked.headers.append({name.lower(): value for name, value in self.headers.items()})
        return [unquote(part) for part in url.path.strip("/").split("/")]

    def _knows(self, name: str) -> bool:
        return any(m.model == name for m in VIEW.models)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, {"error": {"message": message, "type": "x", "code": code}})

    def _answer(self, status: int, body: Any) -> None:
        if self.headers.get("authorization") not in (None, f"Bearer {KEY}"):
            status, body = 401, {"error": {"message": "No valid API key.", "code": "invalid_key"}}
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _stream(self, text: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def stub_fleet() -> Iterator[tuple[str, Asked]]:
    """Its address, and what it was asked."""
    asked = Asked()
    handler = type("Handler", (_Handler,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()
