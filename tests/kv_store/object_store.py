"""A real S3 server on loopback: SeaweedFS, out of a package (``scripts/store-tools``)."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import httpx
from awscrt.auth import AwsCredentialsProvider
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientBootstrap, DefaultHostResolver, EventLoopGroup
from awscrt.s3 import S3Client, S3RequestTlsMode, S3RequestType

from kv_store.s3_adapter import Asked
from kv_store.settings import S3
from tests.workers.stand import eventually

ROOT = Path(__file__).parents[2]
WEED = ROOT / ".torpor" / "stores" / "bin" / "weed"
BUCKET, REGION, KEY_ID, SECRET = "kv", "us-east-1", "an-id", "a-secret-of-the-test"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
_PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
_START_S, _TRIES = 60.0, 3
_LIST_BYTES = 1 << 20


class ObjectStore:
    """``directory`` keeps what is stored, over deaths too."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports: dict[str, int] = {}
        self._identities = directory / "identities.json"
        self._identities.write_text(json.dumps({"identities": [_IDENTITY]}))
        self._process: subprocess.Popen[bytes] | None = None
        self._files = httpx.Client()
        threads = EventLoopGroup(1)
        self._client = S3Client(
            bootstrap=ClientBootstrap(threads, DefaultHostResolver(threads)),
            region=REGION,
            tls_mode=S3RequestTlsMode.DISABLED,
        )

    @property
    def settings(self) -> S3:
        return S3(BUCKET, REGION, self.endpoint, credentials=CREDENTIALS)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def port(self) -> int:
        return self._ports["s3"]

    async def start(self) -> None:
        """Ports are free when they are chosen; if they no longer are, others are."""
        for _ in range(_TRIES):
            ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
            if await self._is_started(ports):
                return
        raise AssertionError((self._directory / "log").read_text()[-2000:])

    async def restart(self) -> None:
        assert await self._is_started(self._ports)

    async def _is_started(self, ports: dict[str, int]) -> bool:
        process = self._launch(ports)
        await eventually(lambda: process.poll() is not None or self._answers(), timeout_s=_START_S)
        return process.poll() is None

    def _launch(self, ports: dict[str, int]) -> subprocess.Popen[bytes]:
        self._ports = ports
        self._files.base_url = httpx.URL(f"http://127.0.0.1:{ports['filer']}")
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command(), stdout=log, stderr=log)
        return self._process

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self.kill()
        self._files.close()

    def objects(self, model: str) -> list[str]:
        """Names, which ``read`` and ``write`` take."""
        prefix = quote(f"torpor/kv/{model}@", safe="")
        told = self._ask("GET", f"?list-type=2&prefix={prefix}", "ListObjectsV2", room=_LIST_BYTES)
        return sorted(re.findall("<Key>(.*?)</Key>", told.body.decode()))

    def read(self, name: str) -> bytes:
        size = self._ask("HEAD", quote(name), "HeadObject").length
        return bytes(self._ask("GET", quote(name), "GetObject", room=size).body)

    def write(self, name: str, content: bytes) -> None:
        assert self._ask("PUT", quote(name), "PutObject", content).is_well

    def exists(self, name: str) -> bool:
        return self._ask("HEAD", quote(name), "HeadObject").is_well

    def remove(self, name: str) -> None:
        assert self._ask("DELETE", quote(name), "DeleteObject").is_well

    def _ask(
        self, method: str, path: str, operation: str, content: bytes = b"", *, room: int = 0
    ) -> Asked:
        headers = HttpHeaders([("Host", f"127.0.0.1:{self.port}")])
        if content:
            headers.add("Content-Length", str(len(content)))
        body = BytesIO(content) if content else None
        request = HttpRequest(method, f"/{BUCKET}/{path}", headers, body)
        return (
            Asked(room)
            .begin(
                self._client,
                type=S3RequestType.DEFAULT,
                request=request,
                operation_name=operation,
                credential_provider=AwsCredentialsProvider.new_static(KEY_ID, SECRET),
                region=REGION,
            )
            .answer()
        )

    def _answers(self) -> bool:
        """With a bucket, which is a directory of the filer's, and somewhere to put what is in it:
        that takes a while the first time."""
        try:
            made = self._files.post(f"/buckets/{BUCKET}/").status_code in (201, 409)
            put = (
                made
                and self._files.put(
                    f"/buckets/{BUCKET}/torpor/kv/first", content=b"first"
                ).is_success
            )
            return put and httpx.get(self.endpoint).status_code == 403
        except httpx.TransportError:
            return False

    def _command(self) -> list[str]:
        ports = [
            f"-{name.replace('.', '.port.')}={port}" if "." in name else f"-{name}.port={port}"
            for name, port in self._ports.items()
        ]
        return [
            str(WEED),
            "server",
            f"-dir={self._directory}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.config={self._identities}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=8",
            *ports,
        ]


_IDENTITY = {
    "name": "torpor",
    "credentials": [{"accessKey": KEY_ID, "secretKey": SECRET}],
    "actions": [f"{action}:{BUCKET}" for action in ("Read", "Write", "List")],
}


@dataclass(frozen=True)
class ObjectChunk:
    """As a chunk of ``tests.kv_store.decay``."""

    store: ObjectStore
    path: str

    def read(self) -> bytes:
        return self.store.read(self.path)

    def write(self, chunk: bytes) -> None:
        self.store.write(self.path, chunk)

    def remove(self) -> None:
        self.store.remove(self.path)

    def exists(self) -> bool:
        return self.store.exists(self.path)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
