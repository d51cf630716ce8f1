"""The one error table: what can go wrong with a request, its HTTP status, and its JSON.

Bodies are OpenAI error objects; on the Anthropic routes the same object in Anthropic's envelope
and with Anthropic's types, so that each official client raises its own typed error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from enum import Enum

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from controller.conversation_ports import (
    ConversationRefused,
    RecordsUnavailable,
    UnknownConversation,
)
from controller.core.names import RejectReason
from controller.ports import InvalidModel, Refused, UnknownModel, UnknownOperation
from kv_store.history import HistoryUnreadable

STATUS = {
    "invalid_json": 400,
    "invalid_model": 400,
    "invalid_header": 400,
    "invalid_form": 400,
    "invalid_conversation": 400,
    "invalid_history": 400,
    "history_not_configured": 400,
    "invalid_api_key": 401,
    "permission_denied": 403,
    "forbidden_origin": 403,
    "model_not_found": 404,
    "operation_not_found": 404,
    "conversation_not_found": 404,
    "response_not_found": 404,
    "item_not_found": 404,
    "unknown_route": 404,
    "method_not_allowed": 405,
    "body_too_slow": 408,
    "history_differs": 409,
    "body_too_large": 413,
    "history_full": 413,
    "invalid_fleet_body": 422,
    "invalid_model_entry": 422,
    "backlog_full": 429,
    "limit_reached": 429,
    "internal_error": 500,
    "engine_failed": 503,
    "no_sockets": 503,
    "never_fits": 503,
    "wait_too_long": 503,
    "cannot_start": 503,
    "memory_taken": 503,
    "operation_failed": 503,
    "stopping": 503,
    "conversation_busy": 503,
    "conversations_busy": 503,
    "too_many_conversations": 503,
    "history_unavailable": 503,
    "history_unreadable": 503,
    "not_ready": 503,
    "deadline_passed": 504,
    "engine_silent": 504,
}

REJECTIONS = {
    RejectReason.UNKNOWN_MODEL: "model_not_found",
    RejectReason.MODEL_REMOVED: "model_not_found",
    RejectReason.NEVER_FITS: "never_fits",
    RejectReason.BACKLOG_FULL: "backlog_full",
    RejectReason.LIMIT_REACHED: "limit_reached",
    RejectReason.WAIT_TOO_LONG: "wait_too_long",
    RejectReason.DEADLINE_PASSED: "deadline_passed",
    RejectReason.CANNOT_START: "cannot_start",
    RejectReason.MEMORY_TAKEN: "memory_taken",
    RejectReason.STOPPING: "stopping",
}

_OPENAI_TYPE = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPE = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_RETRY_AFTER_S = 1.0
"""Where a 429 or 503 has no better figure."""
_HOPELESS = frozenset({"never_fits", "operation_failed", "history_unreadable"})
"""503 by the table, but asking again changes nothing."""
_NAMES_SHOWN = 50


class Dialect(Enum):
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class ApiError(Exception):
    """An answer that is an error; ``code`` is a row of STATUS."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        allow: str = "",
        extra: dict[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS[code]
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s
        self.allow = allow
        self.extra = extra or {}

    def body(self, dialect: Dialect = Dialect.OPENAI) -> bytes:
        openai_type = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": self.message,
            "type": _OPENAI_TYPE.get(self.status, openai_type),
            "param": self.param,
            "code": self.code,
        }
        if dialect is Dialect.OPENAI:
            return _compact({"error": error, **self.extra})
        error["type"] = _ANTHROPIC_TYPE.get(self.status, "invalid_request_error")
        return _compact({"type": "error", "error": error})

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The headers that belong to this error, beside its content type."""
        found = []
        if self.code in _HOPELESS:
            found.append((b"x-should-retry", b"false"))
        elif self.status in (429, 503):
            seconds = max(1, math.ceil(self.retry_after_s or _RETRY_AFTER_S))
            found.append((b"retry-after", str(seconds).encode()))
        elif self.status == 401:
            found.append((b"www-authenticate", b"Bearer"))
        elif self.allow:
            found.append((b"allow", self.allow.encode()))
        return found

    def event(self, dialect: Dialect = Dialect.OPENAI) -> bytes:
        """The error as a server-sent event."""
        return b"event: error\ndata: " + self.body(dialect) + b"\n\n"


def as_api_error(error: Exception, known: Callable[[], Sequence[str]]) -> ApiError:
    """The table's row for whatever was raised; ``known``: the models there are."""
    match error:
        case ApiError():
            return error
        case Refused():
            names = known() if error.reason is RejectReason.UNKNOWN_MODEL else ()
            return _refusal(error, names)
        case UnknownModel():
            return unknown_model(error.model, error.known)
        case UnknownConversation():
            return ApiError("conversation_not_found", f"There is no conversation {str(error)!r}.")
        case ConversationRefused():
            return ApiError(error.code, error.message, retry_after_s=error.retry_after_s)
        case UnknownOperation():
            return ApiError("operation_not_found", f"There is no operation {str(error)!r}.")
        case RecordsUnavailable():
            return ApiError("history_unavailable", "Histories cannot be read or written just now.")
        case HistoryUnreadable():
            return ApiError("history_unreadable", f"The history cannot be read: {error}.")
        case InvalidModel():
            return ApiError("invalid_model_entry", str(error))
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            return _http(error)
    return ApiError("internal_error", "The server failed; its log has the request id.")


def unknown_model(model: str, known: Sequence[str]) -> ApiError:
    names = ", ".join(known[:_NAMES_SHOWN]) or "none"
    if len(known) > _NAMES_SHOWN:
        names += f" and {len(known) - _NAMES_SHOWN} more"
    message = f"The model `{_shown(model)}` does not exist. Known models: {names}."
    return ApiError("model_not_found", message, param="model")


def _refusal(refused: Refused, known: Sequence[str]) -> ApiError:
    code = REJECTIONS[refused.reason]
    message = refused.detail or code.replace("_", " ")
    if refused.reason is RejectReason.UNKNOWN_MODEL and known:
        message = f"{message.rstrip('.')}. Known models: {', '.join(known[:_NAMES_SHOWN])}."
    return ApiError(code, message, retry_after_s=refused.retry_after_s)


def _invalid(error: RequestValidationError) -> ApiError:
    """Where and why, never the offending value: it may be a secret."""
    wrongs = [
        (".".join(str(part) for part in wrong["loc"]), str(wrong["msg"]))
        for wrong in error.errors()
    ]
    message = "; ".join(f"{where}: {why}" for where, why in wrongs)
    return ApiError("invalid_fleet_body", message, param=wrongs[0][0] if wrongs else None)


def _http(error: HTTPException) -> ApiError:
    code = {404: "unknown_route", 405: "method_not_allowed", 413: "body_too_large"}.get(
        error.status_code, "invalid_json" if error.status_code < 500 else "internal_error"
    )
    return ApiError(code, str(error.detail), allow=(error.headers or {}).get("Allow", ""))


def _shown(text: str) -> str:
    return text if len(text) <= 200 else text[:200] + "…"


def _compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "backslashreplace"
    )
