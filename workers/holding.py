"""vLLM's scheduler, which for a while lets nobody run but the canary.

An engine that was frozen has requests inside. When it wakes they are there again, and vLLM
resumes scheduling in the very step that brings the memory back. But the canary must be heard
first: what is decoded from wrong weights could not be taken back, nor could a stream go on
identical after it. The canary beside them would be no canary either: in a batch of another
shape sums are rounded otherwise, and where ``max_num_seqs`` is reached it would wait for the
streams to end.

So before the wake a request named ``HOLD`` is put into the paused scheduler (which takes new
requests in), and while it is there, only requests named ``CANARY`` are scheduled. Everybody else
is passed over as if blocked, in vLLM's own way, and keeps its place. When the canary has agreed
the held-back go on as soon as ``HOLD`` is aborted; when it has not, they never do. The signal is
a request because that is what reaches a scheduler wherever it runs, in this process or another;
nobody else can give it, since vLLM's server puts a prefix before the ids that clients choose.

``scheduler`` stands where vLLM wants a class: which of vLLM's own is extended is known only when
the configuration is.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from workers.questions import CANARY, HOLD


class _Holding:
    """Before one of vLLM's schedulers."""

    requests: dict[str, Any]
    _hold = ""

    def add_request(self, request: Any) -> None:
        if request.request_id.startswith(HOLD):
            self._hold = request.request_id
        super().add_request(request)  # type: ignore[misc]

    def _handle_blocked_waiting_request(self, request: Any) -> bool:
        """Whether it may be scheduled in this step."""
        if self._hold in self.requests and not request.request_id.startswith(CANARY):
            return False
        return bool(super()._handle_blocked_waiting_request(request))  # type: ignore[misc]


class HoldingScheduler(_Holding, Scheduler):  # type: ignore[misc]
    pass


class HoldingAsyncScheduler(_Holding, AsyncScheduler):  # type: ignore[misc]
    pass


def scheduler(vllm_config: Any, **more: Any) -> Scheduler:
    is_async = vllm_config.scheduler_config.async_scheduling
    kind = HoldingAsyncScheduler if is_async else HoldingScheduler
    return kind(vllm_config=vllm_config, **more)
