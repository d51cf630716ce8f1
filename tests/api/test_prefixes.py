"""Keys of prompts' beginnings: who meets whom, and what they do not tell."""

from __future__ import annotations

import json

from controller.api.prefixes import prefix_keys


def body(*messages: str, **more: object) -> bytes:
    return json.dumps({"messages": messages, "model": "m", **more}).encode()


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))


def test_the_longer_two_prompts_agree_the_more_keys_they_share() -> None:
    told = "So it was told. " * 500
    one = prefix_keys(body(told), "tenant", b"run")
    assert len(one) == 5  # to 4,096 bytes of 8,000
    assert common(one, prefix_keys(body(told, "And then?"), "tenant", b"run")) == 5
    assert common(one, prefix_keys(body(told[:600] + "Not so. " * 500), "tenant", b"run")) == 2
    assert common(one, prefix_keys(body("No. " * 2000), "tenant", b"run")) == 0


def test_what_stands_before_the_prompt_does_not_matter() -> None:
    told = ["So it was told. " * 50]
    first = json.dumps({"model": "m", "temperature": 0.5, "messages": told}).encode()
    second = json.dumps({"messages": told}).encode()
    assert prefix_keys(first, "t", b"")[:1] == prefix_keys(second, "t", b"")[:1] != ()


def test_short_prompts_have_none() -> None:
    assert prefix_keys(body("Hello"), "tenant", b"run") == ()


def test_tenants_and_runs_have_keys_of_their_own() -> None:
    said = body("So it was told. " * 100)
    assert not set(prefix_keys(said, "a", b"run")) & set(prefix_keys(said, "b", b"run"))
    assert not set(prefix_keys(said, "a", b"run")) & set(prefix_keys(said, "a", b"other"))
