"""Listening sockets."""

from __future__ import annotations

import socket
from pathlib import Path

LOOPBACK = "127.0.0.1"
_BACKLOG = 2048


def listen(host: str, port: int = 0, is_shared: bool = False) -> socket.socket:
    """Port 0: any free one. Raises OSError. Several that are shared may have one port: the
    kernel spreads connections over them.

    Made with its protocol named: asyncio sets TCP_NODELAY only on such sockets' connections, and
    without it each answer on a kept connection waits 40 ms for the client's acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening


def listen_at(path: Path) -> socket.socket:
    """A Unix socket; one that a dead process left there is replaced. Raises OSError."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(path))
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
