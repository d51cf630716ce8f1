"""``torpor serve``: starts the Ray head, the controller and its carriers, restarts the latter two,
buries all.

Ray is never started by the controller: it would die with it, and the engines with Ray. The
controller is a child in a session of its own, so that Ctrl-C reaches the supervisor alone and
the burial has an order: the controller lets its responses end, the engines stop with Ray, the
run's directory goes. In a cluster that was joined the engines go on. The supervisor makes itself
the reaper of whatever its descendants leave behind, so that nothing outlives it. One supervisor
for each state directory, by a file lock.
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
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from socket import socket
from types import FrameType

import psutil
from rich.console import Console

from controller.announcer import announce
from controller.crew import Crew, doors
from controller.crew import command as carrier_command
from controller.records_server import RecordsServer
from controller.settings import RunRecords, Settings
from kv_store.settings import Redis
from workers.ray_head import RayHead

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
CANNOT_RUN = 2
"""The controller's exit code for "I cannot run like this" (its port is taken): not restarted."""
_QUICK_S = 20.0
_QUICK_DEATHS = 5
"""So many controllers in a row that lived less than _QUICK_S, and the supervisor gives up."""

console = Console(stderr=True, highlight=False)
_libc = ctypes.CDLL(None, use_errno=True)


def serve(settings: Settings) -> int:
    """Run the fleet until a signal or until its controller cannot run. The exit code."""
    with _sole_owner(settings.state_dir), _run_directory() as run_dir:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        with _signals() as stop:
            try:
                return _run(settings, run_dir, stop)
            finally:
                _bury_descendants()


class _Stop:
    """Set by the first signal; tells the child that runs then."""

    def __init__(self) -> None:
        self.signalled = False
        self.child: subprocess.Popen[bytes] | None = None
        self.crew: Crew | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        again, self.signalled = self.signalled, True
        if self.child is None:
            raise KeyboardInterrupt
        told = signal.SIGKILL if again else signal.SIGTERM
        self.child.send_signal(told)
        if self.crew is not None:
            self.crew.signal(told)


def _run(settings: Settings, run_dir: Path, stop: _Stop) -> int:
    head = None
    records = RecordsServer(settings.state_dir / "records", run_dir / "records", die_with_parent)
    try:
        address = settings.ray.address
        if address is None:
            _try_to_listen(settings)
            _tell(settings, "starting", "starting Ray")
            head = RayHead(run_dir / "ray", object_store_mib=settings.ray.object_store_mib)
            address = head.start()
        told = _records(settings, run_dir.name if head else address, records)
        environment = told.environment | ({} if head is None else head.environment)
        with _a_crew(settings, run_dir, environment, records) as (settings, stop.crew):
            return _keep_controller(settings, run_dir, address, environment, stop)
    except KeyboardInterrupt:
        return 130
    except RuntimeError as error:
        _tell(settings, "failed", str(error))
        return 1
    finally:
        stop.child = stop.crew = None
        if head is not None:
            _tell(settings, "stopping", "stopping the engines and Ray")
            head.stop()
        elif address is not None:
            _tell(settings, "stopping", f"the engines go on in the cluster at {address}")
        records.stop()


def _try_to_listen(settings: Settings) -> None:
    """A port that is taken is told before Ray is started. Raises RuntimeError."""
    try:
        with doors(settings.server.host, settings.server.port, count=1):
            pass
    except OSError as error:
        raise _cannot_listen(settings, error) from error


def _cannot_listen(settings: Settings, error: OSError) -> RuntimeError:
    where = f"{settings.server.host}:{settings.server.port}"
    return RuntimeError(f"cannot listen on {where}: {error.strerror}")


def _records(settings: Settings, run: str, server: RecordsServer) -> RunRecords:
    """Embedded, where there is something to be kept and no Redis that keeps records too."""
    has_redis = settings.kv is not None and isinstance(settings.kv.durable, Redis)
    if has_redis or (settings.kv is None and settings.history is None):
        return RunRecords(run, None)
    server.start()
    return RunRecords(run, server.socket)


def _keep_controller(
    settings: Settings, run_dir: Path, address: str, environment: dict[str, str], stop: _Stop
) -> int:
    assert stop.crew is not None
    quick_deaths = 0
    while True:
        began = time.monotonic()
        child = _start_controller(settings, run_dir, address, environment)
        stop.child = child
        if stop.signalled:
            child.terminate()
        else:
            stop.crew.begin()
        code = stop.crew.tend(child)
        if stop.signalled:
            return 0
        if code == CANNOT_RUN:
            return 1
        quick_deaths = quick_deaths + 1 if time.monotonic() - began < _QUICK_S else 1
        if quick_deaths >= _QUICK_DEATHS:
            reason = f"the controller died {quick_deaths} times in a row; giving up"
            _tell(settings, "failed", reason)
            return 1
        reason = f"the controller ended with {code}; starting it again"
        _tell(settings, "restarting", reason)


def _tell(settings: Settings, event: str, what: str) -> None:
    """A reader of stdout who has gone stops nothing."""
    if not settings.announces_json:
        console.print(f"torpor: {what}")
        return
    with suppress(BrokenPipeError):
        announce(event, what=what)


def _start_controller(
    settings: Settings, run_dir: Path, address: str, environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    config = run_dir / "fleet.json"
    config.write_text(settings.to_json())
    config.chmod(0o600)
    command = [sys.executable, "-m", "controller.process", str(config), address]
    if settings.server.workers:
        command.append(str(_sockets(run_dir)))
    return _start(command, run_dir, environment)


@contextmanager
def _a_crew(
    settings: Settings, run_dir: Path, environment: dict[str, str], records: RecordsServer
) -> Iterator[tuple[Settings, Crew]]:
    """The carriers, if any, not begun, and the records' store; and the settings with the port that
    carriers listen on. Raises RuntimeError if they cannot."""
    server = settings.server
    with ExitStack() as stack:
        try:
            listening = stack.enter_context(doors(server.host, server.port, server.workers))
        except OSError as error:
            raise _cannot_listen(settings, error) from error
        if listening:
            _sockets(run_dir).mkdir()
            server = replace(server, port=listening[0].getsockname()[1])

        def start(door: socket) -> subprocess.Popen[bytes]:
            argv = carrier_command(run_dir / "fleet.json", _sockets(run_dir), door)
            return _start(argv, run_dir, environment, door.fileno())

        def died(who: str, code: int) -> None:
            _tell(settings, "restarting", f"{who} ended with {code}; starting it again")

        store_died = partial(died, "the records' store")
        crew = Crew(listening, start, partial(died, "a carrier"), records, store_died)
        stack.callback(crew.close)
        yield replace(settings, server=server), crew


def _sockets(run_dir: Path) -> Path:
    return run_dir / "carriers"


def _start(
    command: list[str], run_dir: Path, environment: dict[str, str], *fds: int
) -> subprocess.Popen[bytes]:
    own = {**os.environ, **environment, "TMPDIR": str(run_dir / "tmp")}
    (run_dir / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        command, env=own, start_new_session=True, preexec_fn=die_with_parent, pass_fds=fds
    )


def die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@contextmanager
def _sole_owner(state_dir: Path) -> Iterator[None]:
    state_dir.mkdir(parents=True, exist_ok=True)
    with (state_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"torpor: another fleet runs from {state_dir}")
            raise SystemExit(1) from None
        yield


@contextmanager
def _run_directory() -> Iterator[Path]:
    """A short path: Ray's sockets lie below it, and a socket's path is at most 107 bytes."""
    run_dir = Path(tempfile.mkdtemp(prefix="torpor-"))
    try:
        yield run_dir
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)


@contextmanager
def _signals() -> Iterator[_Stop]:
    stop = _Stop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bury_descendants() -> None:
    """Whatever is left below this process: asked to end, then killed, then waited for."""
    me = psutil.Process()
    left = me.children(recursive=True)
    for process in left:
        with _gone_is_fine():
            process.terminate()
    psutil.wait_procs(left, timeout=3)
    while left := me.children(recursive=True):
        for process in left:
            with _gone_is_fine():
                process.kill()
        psutil.wait_procs(left, timeout=3)


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except psutil.NoSuchProcess:
        return
