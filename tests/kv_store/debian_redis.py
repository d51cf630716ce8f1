"""Debian's redis-server, which speaks TLS itself; the Valkey of the wheel does not."""

from __future__ import annotations

import subprocess
from pathlib import Path

_CONFIGURATION = """
bind 127.0.0.1
port 0
tls-port {port}
tls-cert-file {certificate}
tls-key-file {key}
tls-auth-clients no
dir {directory}
save ""
user default off
user {user} on >{password} ~torpor:kv:* +@all
"""


def launched(
    directory: Path, *, port: int, certificate: Path, user: str, password: str
) -> subprocess.Popen[bytes]:
    """``user`` reaches our keys and no others, and nobody else is let in."""
    told = directory / "redis.conf"
    told.write_text(
        _CONFIGURATION.format(
            port=port,
            certificate=certificate,
            key=certificate.with_suffix(".key"),
            directory=directory,
            user=user,
            password=password,
        )
    )
    with (directory / "redis.log").open("wb") as log:
        return subprocess.Popen(["redis-server", str(told)], stdout=log, stderr=log)
