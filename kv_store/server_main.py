"""LMCache's server with our parts in it: the process behind ``kv_store.lmcache_server``.

Our adapters and our policy must be known before LMCache reads its arguments, which is why
this is not ``lmcache server``. It dies with whoever started it: its standard input is a pipe, and
when that ends it goes, with its shared memory. (The kernel's parent-death signal follows the
*thread* that forked, so it is not used.)
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from lmcache.v1.distributed.config import add_storage_manager_args, parse_args_to_config
from lmcache.v1.distributed.l2_adapters import factory
from lmcache.v1.mp_observability.config import (
    add_observability_args,
    parse_args_to_observability_config,
)
from lmcache.v1.multiprocess.config import (
    add_coordinator_args,
    add_http_frontend_args,
    add_mp_server_args,
    add_p2p_args,
    parse_args_to_coordinator_config,
    parse_args_to_http_frontend_config,
    parse_args_to_mp_server_config,
)
from lmcache.v1.multiprocess.http_server import run_http_server

from kv_store import destinations, directory_adapter, redis_adapter, s3_adapter
from kv_store.forms import Form
from kv_store.packing import packing_of
from kv_store.seals import CipherSeal, DigestSeal
from kv_store.server_command import COMPRESSION, KEY

_POLITE_S = 5.0


def main() -> int:
    # LMCache imports each of its own adapters, and the clients of every cloud with them, to name
    # them in a help text: a third of a start.
    factory._PENDING_MODULES.clear()
    form = _form()
    for kind in (directory_adapter, redis_adapter, s3_adapter):
        kind.register(form)
    destinations.register()
    args = _parser().parse_args()
    threading.Thread(target=_die_with_parent, args=(args.shm_name,), daemon=True).start()
    # A line for each health check is no news.
    logging.getLogger("uvicorn.access").addFilter(lambda _: False)
    run_http_server(
        http_config=parse_args_to_http_frontend_config(args),
        mp_config=parse_args_to_mp_server_config(args),
        storage_manager_config=parse_args_to_config(args),
        obs_config=parse_args_to_observability_config(args),
        coordinator_config=parse_args_to_coordinator_config(args),
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kv_store.server_main")
    for add in (
        add_mp_server_args,
        add_p2p_args,
        add_storage_manager_args,
        add_http_frontend_args,
        add_observability_args,
        add_coordinator_args,
    ):
        add(parser)
    return parser


def _form() -> Form:
    """The key is in nobody's environment afterwards that this process may start."""
    key = bytes.fromhex(os.environ.pop(KEY, ""))
    seal = CipherSeal(key) if key else DigestSeal()
    return Form(seal, packing_of(os.environ[COMPRESSION]))


def _die_with_parent(segment: str) -> None:
    while os.read(sys.stdin.fileno(), 64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(_POLITE_S)
    if segment:
        Path("/dev/shm", segment).unlink(missing_ok=True)  # noqa: S108
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
