"""Joining a Ray that runs, as a driver that keeps quiet."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import ray
from ray._private import worker
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

log = logging.getLogger(__name__)


def join(address: str, namespace: str, environment: dict[str, str]) -> None:
    """Blocks for some seconds. ``environment`` goes into this process's first.

    Ray read its settings, its mode of authentication among them, when it was imported; it is
    made to read them again. Its hook for uncaught exceptions is taken out, since it waits a
    minute for a Ray that is gone. What it would print on each dead process goes to the log:
    deaths are ours to tell.
    """
    os.environ.update(environment)
    if environment:
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()
    sys.excepthook = sys.__excepthook__
    worker.print_to_stdstream = _into_the_log
    ray.init(address=address, namespace=namespace, log_to_driver=False, logging_level="ERROR")


def _into_the_log(batch: dict[str, Any], ignore_prefix: bool) -> None:
    for line in batch["lines"]:
        log.debug("%s: %s", batch["pid"], line)
