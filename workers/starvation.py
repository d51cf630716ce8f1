"""Whether an error means that memory ran out, whoever raised it and however deep.

PyTorch, vLLM and the kernel each say it in their own words, and vLLM wraps causes in others. An
EngineCore in a process of its own that does not come up tells its parent only that it did not: what
it ran out of is in its log, and the failure counts as any other.
"""

from __future__ import annotations

from collections.abc import Iterator

_NAMES = ("OutOfMemoryError", "MemoryError")
_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "no available memory for the cache",
    "less than desired gpu memory utilization",
)


def is_starvation(error: BaseException) -> bool:
    return any(_says_so(cause) for cause in _causes(error))


def _says_so(error: BaseException) -> bool:
    said = str(error).lower()
    return type(error).__name__ in _NAMES or any(words in said for words in _WORDS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        yield following
        seen.append(following)
        following = following.__cause__ or following.__context__
