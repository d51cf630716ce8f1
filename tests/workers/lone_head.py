"""Whoever owns a Ray head, to be killed: says its address, and waits to be told to stop it."""

from __future__ import annotations

import sys
from pathlib import Path

from workers.ray_head import RayHead

head = RayHead(Path(sys.argv[1]), num_cpus=1)
print(head.start(), flush=True)
sys.stdin.read()
head.stop()
