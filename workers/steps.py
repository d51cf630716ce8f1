"""How far a vLLM engine is: its scheduler's steps, counted as it reports them.

vLLM reports statistics after each step of its scheduler, also after one that computed only a part
of a prompt and so gave no token. A step computes at most ``max_num_batched_tokens`` of prompts; how
long that takes follows from the best speed at which a prompt was computed.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

_FEWEST_TOKENS = 8
"""Of shorter prompts the speed says nothing."""


class Steps(StatLoggerBase):  # type: ignore[misc]
    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self._most_tokens = vllm_config.scheduler_config.max_num_batched_tokens
        self._token_s: float | None = None
        self.count = 0

    @property
    def longest_s(self) -> float | None:
        return None if self._token_s is None else self._token_s * self._most_tokens

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        self.count += 1
        for request in iteration_stats.finished_requests if iteration_stats is not None else ():
            tokens = request.num_prompt_tokens - request.num_cached_tokens
            if tokens >= _FEWEST_TOKENS and request.prefill_time > 0:
                token_s = request.prefill_time / tokens
                self._token_s = token_s if self._token_s is None else min(self._token_s, token_s)

    def log_engine_initialized(self) -> None: ...
