"""Keys of the beginnings of a prompt, by which requests that begin alike find the same engine.

Read off the body's bytes from where its prompt stands: a client writes the same history the same
way each time, and nothing has to be parsed or rendered for it. Six beginnings, each twice as long
as the one before, tell short agreement from long. Keys are made with a secret of the run, since
the journal keeps them and must not tell of prompts.
"""

from __future__ import annotations

from hashlib import blake2b

_LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
_KEY_BYTES = 6
_PROMPTS = (b'"messages"', b'"prompt"', b'"input"', b'"system":', b'"instructions"')
_SEARCHED_BYTES = 4096


def prefix_keys(body: bytes, domain: str, secret: bytes) -> tuple[int, ...]:
    """``domain``: within which KV is shared. None where there is less than the shortest."""
    if len(body) < _LENGTHS[0]:
        return ()
    start = _prompt_at(body)
    seen = blake2b(domain.encode(), digest_size=_KEY_BYTES, key=secret[:64])
    keys, begin = [], start
    for length in _LENGTHS:
        end = start + length
        if end > len(body):
            break
        seen.update(body[begin:end])
        keys.append(int.from_bytes(seen.copy().digest(), "big"))
        begin = end
    return tuple(keys)


def _prompt_at(body: bytes) -> int:
    found = [body.find(name, 0, _SEARCHED_BYTES) for name in _PROMPTS]
    return min([at for at in found if at >= 0], default=0)
