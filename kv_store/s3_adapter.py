"""The durable tier in S3, or in what speaks like it, as an L2 adapter of LMCache's.

LMCache's own is off for good after three requests that nobody answered, remembers as there what
others have deleted, and writes an object past the end of the memory that it is to fill. This one
uses the same library, Amazon's CRT, which signs and retries; what it reads comes into memory of
ours first, since a request that was given up may still write.

A chunk is an object, head first. With an endpoint of your own the bucket stands in the path, else
in the host's name. Credentials come from the environment, or from where Amazon's own tools look.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import TimeoutError as Late
from io import BytesIO
from typing import Any
from urllib.parse import quote, urlsplit

from awscrt.auth import AwsCredentialsProvider
from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import (
    ClientBootstrap,
    ClientTlsContext,
    DefaultHostResolver,
    EventLoopGroup,
    TlsConnectionOptions,
    TlsContextOptions,
)
from awscrt.s3 import S3Client, S3Request, S3RequestTlsMode, S3RequestType, S3RetryConfig
from lmcache.v1.distributed.api import ObjectKey
from lmcache.v1.distributed.l2_adapters.config import (
    L2AdapterConfigBase,
    register_l2_adapter_type,
)
from lmcache.v1.distributed.l2_adapters.factory import register_l2_adapter_factory

from kv_store.durable_adapter import NOT_ONE, DurableAdapter, Read, ToRead, ToWrite
from kv_store.forms import Form
from kv_store.server_command import S3

_log = logging.getLogger(__name__)

_LIMIT_S = 5.0
_HANDS = 8
_IO_THREADS = 4
_RETRIES = S3RetryConfig(max_retries=2, backoff_scale_factor_ms=50)
_NAMESPACE = "torpor/kv"
_OK = (200, 204)


class NoAnswer(Exception):
    """Nobody answered in time."""


class S3Config(L2AdapterConfigBase):  # type: ignore[misc]
    def __init__(
        self,
        bucket: str,
        region: str,
        endpoint: str | None,
        ca: str | None,
        prefix: str = "",
        destination: str = "",
    ) -> None:
        self.bucket, self.region, self.endpoint, self.ca = bucket, region, endpoint, ca
        self.prefix, self.destination = prefix, destination

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> S3Config:
        where = (d["bucket"], d["region"], d.get("endpoint"), d.get("ca"))
        return cls(*where, d["prefix"], d["destination"])

    @classmethod
    def help(cls) -> str:
        return "bucket, region, endpoint, ca, prefix, destination; secrets by environment"

    @property
    def is_tls(self) -> bool:
        return self.endpoint is None or urlsplit(self.endpoint).scheme == "https"

    @property
    def host(self) -> str:
        if self.endpoint is None:
            return f"{self.bucket}.s3.{self.region}.amazonaws.com"
        return urlsplit(self.endpoint).netloc

    @property
    def path(self) -> str:
        return "/" if self.endpoint is None else f"/{self.bucket}/"


class Asked:
    """One request, and what came of it. ``room``: of the answer's body, if it is wanted."""

    def __init__(self, room: int = 0) -> None:
        self.status: int | None = None
        self.length = 0
        self.body = bytearray(room)
        self._came = 0
        self._request: S3Request | None = None

    def begin(self, client: S3Client, **told: Any) -> Asked:
        self._request = S3Request(
            client=client, on_headers=self._on_headers, on_body=self._on_body, **told
        )
        return self

    def answer(self) -> Asked:
        """With whatever status but a good one whose body broke off. Raises NoAnswer."""
        assert self._request is not None
        try:
            self._request.finished_future.result(_LIMIT_S)
        except Late:
            self._request.cancel()
            raise NoAnswer(f"none within {_LIMIT_S:.0f} s") from None
        except AwsCrtError as error:
            if self.status is None or self.is_well:
                raise NoAnswer(error.name) from None
        return self

    @property
    def is_well(self) -> bool:
        return self.status in _OK

    @property
    def came(self) -> memoryview | None:
        """The whole body; None: it has no room, or did not come."""
        if not self.is_well or self._came > len(self.body):
            return None
        return memoryview(self.body)[: self._came]

    def _on_headers(self, status_code: int, headers: list[tuple[str, str]], **_: Any) -> None:
        self.status = status_code
        told = {name.lower(): value for name, value in headers}
        self.length = int(told.get("content-length", 0))

    def _on_body(self, chunk: bytes, offset: int, **_: Any) -> None:
        self._came += len(chunk)
        if offset + len(chunk) <= len(self.body):
            self.body[offset : offset + len(chunk)] = chunk


class S3Adapter(DurableAdapter):
    kind = S3
    unreachable = (NoAnswer,)
    refused = (AwsCrtError,)

    def __init__(self, config: S3Config, form: Form) -> None:
        self._config = config
        threads = EventLoopGroup(_IO_THREADS)
        bootstrap = ClientBootstrap(threads, DefaultHostResolver(threads))
        self._credentials = AwsCredentialsProvider.new_default_chain(bootstrap)
        self._client = S3Client(
            bootstrap=bootstrap,
            region=config.region,
            retry_config=_RETRIES,
            tls_mode=S3RequestTlsMode.ENABLED if config.is_tls else S3RequestTlsMode.DISABLED,
            tls_connection_options=_trusting(config.ca) if config.is_tls else None,
        )
        super().__init__(form, _HANDS, config.destination)

    def _write(self, some: ToWrite) -> list[bool]:
        begun = [self._put(key, b"".join(sealed)) for key, sealed in some]
        return [self._is_taken(asked.answer()) for asked in begun]

    def _is_taken(self, asked: Asked) -> bool:
        if not asked.is_well:
            _log.warning("the store refuses a chunk: status %s", asked.status)
        return asked.is_well

    def _find(self, keys: Sequence[ObjectKey]) -> list[bool]:
        begun = [self._ask("HEAD", key) for key in keys]
        return [asked.answer().is_well for asked in begun]

    def _read(self, some: ToRead) -> list[Read | None]:
        begun = [self._get(key, len(body)) for key, body in some]
        return [
            self._sealed(asked.answer(), into) for asked, (_, into) in zip(begun, some, strict=True)
        ]

    def _drop(self, keys: Sequence[ObjectKey]) -> list[int]:
        looked = [self._ask("HEAD", key) for key in keys]
        there = [asked.answer() for asked in looked]
        gone = [
            self._ask("DELETE", key) for key, each in zip(keys, there, strict=True) if each.is_well
        ]
        for asked in gone:
            asked.answer()
        return [each.length - self._form.head_bytes if each.is_well else 0 for each in there]

    def _sealed(self, asked: Asked, buffer: memoryview) -> Read | None:
        if not asked.is_well:
            return None
        came, head_bytes = asked.came, self._form.head_bytes
        if came is None or len(came) < head_bytes:
            return NOT_ONE
        body = buffer[: len(came) - head_bytes]
        body[:] = came[head_bytes:]
        return bytes(came[:head_bytes]), body

    def _put(self, key: ObjectKey, content: bytes) -> Asked:
        told = {"Content-Length": str(len(content))}
        request = self._request("PUT", key, told, BytesIO(content))
        return self._begin(Asked(), request, S3RequestType.PUT_OBJECT)

    def _get(self, key: ObjectKey, body_bytes: int) -> Asked:
        asked = Asked(self._form.head_bytes + body_bytes)
        return self._begin(asked, self._request("GET", key), S3RequestType.GET_OBJECT)

    def _ask(self, method: str, key: ObjectKey) -> Asked:
        request, name = self._request(method, key), f"{method.capitalize()}Object"
        return self._begin(Asked(), request, S3RequestType.DEFAULT, operation_name=name)

    def _begin(self, asked: Asked, request: HttpRequest, kind: S3RequestType, **more: Any) -> Asked:
        return asked.begin(
            self._client,
            type=kind,
            request=request,
            credential_provider=self._credentials,
            region=self._config.region,
            **more,
        )

    def _request(
        self,
        method: str,
        key: ObjectKey,
        told: dict[str, str] | None = None,
        body: BytesIO | None = None,
    ) -> HttpRequest:
        headers = HttpHeaders([("Host", self._config.host), *(told or {}).items()])
        name = f"{self._config.prefix}{_NAMESPACE}/{self._group(key)}@{key.chunk_hash.hex()}"
        return HttpRequest(method, self._config.path + quote(name), headers, body)


def register(form: Form) -> None:
    """Make the adapter known to LMCache; once in a process."""
    register_l2_adapter_type(S3, S3Config)
    register_l2_adapter_factory(S3, lambda config, _: S3Adapter(config, form))


def _trusting(ca: str | None) -> TlsConnectionOptions:
    options = TlsContextOptions()
    if ca is not None:
        options.override_default_trust_store_from_path(None, ca)
    return TlsConnectionOptions(ClientTlsContext(options))
