"""A listening socket on a free port, for a server inside an engine actor."""

from __future__ import annotations

import socket


def listen(host: str, backlog: int = 2048) -> socket.socket:
    """Made with its protocol named: asyncio sets TCP_NODELAY only on such sockets' connections,
    and without it each answer on a kept connection waits 40 ms for the client's acknowledgement."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, 0))
    listening.listen(backlog)
    return listening
