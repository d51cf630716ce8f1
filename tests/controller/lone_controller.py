"""A controller without Ray or a supervisor: ``lone_controller.py FLEET.yaml``; says its port."""

from __future__ import annotations

import sys
from pathlib import Path

from controller.serving import serve
from controller.settings import load
from controller.wiring import assemble
from workers.listening import listen
from workers.local_pool import LocalPool

if __name__ == "__main__":
    settings = load(Path(sys.argv[1]))
    with listen("127.0.0.1") as listening:
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        sys.exit(serve(assemble(settings, LocalPool()), listening))
