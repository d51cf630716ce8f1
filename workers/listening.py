"""A listening TCP socket."""

from __future__ import annotations

import socket


def listen(host: str, port: int = 0, backlog: int = 2048) -> socket.socket:
    """Port 0: any free one. Raises OSError.

    Made with its protocol named: asyncio sets TCP_NODELAY only on such sockets' connections, and
    without it each answer on a kept connection waits 40 ms for the client's acknowledgement.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(backlog)
    except OSError:
        listening.close()
        raise
    return listening
