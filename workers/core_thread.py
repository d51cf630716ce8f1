"""vLLM's EngineCore in a thread of this process, where the stock front end starts a process.

A process for the core costs a second ``import vllm`` (15 s of a start on two cores) and a second
copy of everything that an import allocates. vLLM lets engines be started by somebody else: an
``AsyncLLM`` that is given addresses connects to them and starts nothing. This is that somebody:
it shakes hands with the core as vLLM's launcher does, and watches its thread.

With the core in the actor's process there is nothing to bury after a crash: it lives and dies
with the actor. The price is one interpreter lock for server and core, so this is for the CPU
with one rank, where the kernels, which release it, take nearly all the time; elsewhere vLLM
starts its own processes.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import zmq
from vllm.config import VllmConfig
from vllm.v1.engine import EngineCoreRequestType
from vllm.v1.engine.core import EngineCoreProc, EngineShutdownState
from vllm.v1.engine.utils import EngineHandshakeMetadata, EngineZmqAddresses
from vllm.v1.executor.abstract import Executor

from workers.engine import StartFailed

_POLL_MS = 200
_BIND_POLL_S = 0.005


class CoreThread:
    """One engine core; ``start`` returns when it is ready, ``client_addresses`` lead to it."""

    def __init__(self, config: VllmConfig, *, log_stats: bool, sockets: Path) -> None:
        # A process of its own would get a copy too: the front end's stays as it is.
        self._config = copy.deepcopy(config)
        self._log_stats = log_stats
        self._addresses = {
            name: f"ipc://{sockets / name}" for name in ("handshake", "input", "output")
        }
        self._thread = threading.Thread(target=self._run, name="engine-core", daemon=True)
        self._core: EngineCoreProc | None = None
        self._failure: BaseException | None = None

    @property
    def client_addresses(self) -> dict[str, Any]:
        return {
            "input_address": self._addresses["input"],
            "output_address": self._addresses["output"],
        }

    def await_client(self, has_failed: Callable[[], bool]) -> None:
        """Until the client has bound its sockets, the last thing it does before it waits."""
        last = Path(self._addresses["output"].removeprefix("ipc://"))
        while not (last.exists() or has_failed()):
            time.sleep(_BIND_POLL_S)

    def start(self) -> None:
        """Blocks until the model is loaded. Raises StartFailed if it could not be."""
        context = zmq.Context()
        handshake = context.socket(zmq.ROUTER)
        handshake.bind(self._addresses["handshake"])
        try:
            self._thread.start()
            identity, _ = self._receive(handshake, "HELLO")
            told = EngineHandshakeMetadata(
                addresses=EngineZmqAddresses(
                    inputs=[self._addresses["input"]], outputs=[self._addresses["output"]]
                ),
                parallel_config={},
            )
            handshake.send_multipart((identity, msgspec.msgpack.encode(told)))
            self._receive(handshake, "READY")
        finally:
            context.destroy(linger=0)

    def release_client(self) -> None:
        """Let go of a client that still waits, with an empty ready message, as from a core."""
        context = zmq.Context()
        core = context.socket(zmq.DEALER)
        core.setsockopt(zmq.IDENTITY, (0).to_bytes(2, "little"))
        core.connect(self._addresses["input"])
        core.send(b"")
        context.destroy(linger=1000)

    def stop(self, *, timeout_s: float) -> None:
        if self._core is not None:
            self._core.shutdown_state = EngineShutdownState.REQUESTED
            self._core.input_queue.put_nowait((EngineCoreRequestType.WAKEUP, None))
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _receive(self, handshake: Any, status: str) -> tuple[bytes, dict[str, Any]]:
        while not handshake.poll(_POLL_MS):
            if not self._thread.is_alive():
                raise StartFailed(_reason(self._failure)) from self._failure
        identity, payload = handshake.recv_multipart()
        message = msgspec.msgpack.decode(payload)
        if message["status"] != status:
            raise StartFailed(f"the engine core said {message['status']}, not {status}")
        return identity, message

    def _run(self) -> None:
        try:
            self._core = EngineCoreProc(
                vllm_config=self._config,
                local_client=True,
                handshake_address=self._addresses["handshake"],
                executor_class=Executor.get_class(self._config),
                log_stats=self._log_stats,
            )
            self._core.run_busy_loop()
        except SystemExit:
            pass
        except BaseException as failure:
            self._failure = failure
            if self._core is not None:
                self._core._send_engine_dead()
        finally:
            if self._core is not None:
                self._core.shutdown()


def _reason(failure: BaseException | None) -> str:
    """What an operator needs: the last line of the cause."""
    return f"{type(failure).__name__}: {failure}" if failure else "the engine core ended early"
