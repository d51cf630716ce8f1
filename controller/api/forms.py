"""Audio requests are multipart forms: their few short fields are read, their files passed over."""

from __future__ import annotations

from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from controller.api.bodies import REMOVED, Call, model_name
from controller.api.errors import ApiError

_LONGEST_FIELD_BYTES = 1024


def parse_form(raw: bytes, content_type: bytes) -> Call:
    """A multipart form; files are passed over. Raises ApiError 400."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise ApiError("invalid_form", "The body must be multipart/form-data with a boundary.")
    form = _Form()
    try:
        parser = MultipartParser(boundary, form.callbacks())
        parser.write(raw)
        parser.finalize()
    except FormParserError as error:
        raise ApiError("invalid_form", f"The form cannot be read: {error}") from None
    if not form.is_complete:
        raise ApiError("invalid_form", "The form ends too early.")
    if form.forbidden:
        raise ApiError("invalid_form", f"The field `{form.forbidden}` is not a client's to set.")
    is_stream = form.one("stream").lower() in (b"true", b"1", b"on", b"yes")
    return Call(model_name(form.one("model").decode("utf-8", "replace")), is_stream, raw)


class _Form:
    """The few short fields of a multipart form that matter here."""

    def __init__(self) -> None:
        self.is_complete = False
        self.forbidden = ""
        self._fields: dict[str, list[bytes]] = {"model": [], "stream": []}
        self._header = self._value = b""
        self._disposition = b""
        self._current: list[bytes] | None = None

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_end": self._end,
        }

    def one(self, name: str) -> bytes:
        """The field's value, empty if it is not there. Two of a name could be read either way."""
        values = self._fields[name]
        if len(values) > 1:
            raise ApiError("invalid_form", f"The field `{name}` comes twice.", param=name)
        return values[0] if values else b""

    def _part_begin(self) -> None:
        self._header = self._value = self._disposition = b""

    def _header_field(self, raw: bytes, start: int, end: int) -> None:
        self._header += raw[start:end]

    def _header_value(self, raw: bytes, start: int, end: int) -> None:
        self._value += raw[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name in (*REMOVED, "vllm_xargs"):
            self.forbidden = name
        self._current = self._fields.get(name)
        if self._current is not None:
            self._current.append(b"")

    def _part_data(self, raw: bytes, start: int, end: int) -> None:
        if self._current is not None:
            self._current[-1] += raw[start:end]
            if len(self._current[-1]) > _LONGEST_FIELD_BYTES:
                raise ApiError("invalid_form", "A field of the form is too long.")

    def _end(self) -> None:
        self.is_complete = True
