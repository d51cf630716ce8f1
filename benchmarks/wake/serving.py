"""``python -m benchmarks.wake.serving SETTINGS.json``: what ``torpor serve`` does, of settings that
were read already."""

from __future__ import annotations

import sys
from pathlib import Path

from controller.settings import Settings
from controller.supervisor import serve

if __name__ == "__main__":
    sys.exit(serve(Settings.from_json(Path(sys.argv[1]).read_text(encoding="utf-8"))))
