"""``torpor serve``: starts the Ray head and the controller, restarts the controller, buries both.

Ray is never started by the controller: it would die with it, and the engines with Ray. The
controller is a child in a session of its own, so that Ctrl-C reaches the supervisor alone and
the burial has an order: the controller lets its responses end, the engines stop, Ray goes, the
run's directory is removed. One supervisor for each state directory, held by a file lock.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from controller.settings import Settings
from workers.ray_head import RayHead
