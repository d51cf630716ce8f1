from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import canary
from workers.canary import Reply, Song, disagreement

GENERATED = Reply(tokens=(5, 7, 11), logprobs=(-0.1, -2.0, -0.5))
EMBEDDED = Reply(vector=(0.6, 0.8, 0.0))


def song(*replies: Reply, dtype: str = "bfloat16", fingerprint: str = "f") -> Song:
    return Song(fingerprint, dtype, replies)


def test_the_same_answers_agree() -> None:
    assert disagreement(song(GENERATED, EMBEDDED), song(GENERATED, EMBEDDED)) is None


def test_one_other_token_is_a_disagreement_and_says_where() -> None:
    other = replace(GENERATED, tokens=(5, 7, 12))
    why = disagreement(song(EMBEDDED, GENERATED), song(EMBEDDED, other))
    assert why is not None
    assert "prompt 1" in why
    assert "[5, 7, 12]" in why


@pytest.mark.parametrize(
    ("dtype", "off", "agrees"),
    [
        ("bfloat16", 0.125, True),  # one rounding step of a logit
        ("bfloat16", 0.25, False),  # two
        ("float16", 0.125, True),
        ("float32", 0.0005, True),
        ("float32", 0.125, False),
    ],
)
def test_log_probabilities_may_differ_by_rounding_only(
    dtype: str, off: float, agrees: bool
) -> None:
    moved = replace(GENERATED, logprobs=(-0.1, -2.0 - off, -0.5))
    assert (disagreement(song(GENERATED, dtype=dtype), song(moved, dtype=dtype)) is None) is agrees


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_log_probability_that_is_no_number_disagrees(bad: float) -> None:
    assert disagreement(song(GENERATED), song(replace(GENERATED, logprobs=(bad, -2.0, -0.5))))


@pytest.mark.parametrize(
    "vector", [(0.8, 0.6, 0.0), (0.0, 0.0, 0.0), (math.nan, 0.8, 0.0), (0.6, 0.8)]
)
def test_another_vector_disagrees(vector: tuple[float, ...]) -> None:
    assert disagreement(song(EMBEDDED), song(Reply(vector=vector)))


def test_a_vector_may_be_rounded_otherwise() -> None:
    rounded = Reply(vector=(0.6 * (1 + 2**-9), 0.8, 1e-4))
    assert disagreement(song(EMBEDDED), song(rounded)) is None


def test_a_reply_too_few_is_a_disagreement() -> None:
    assert disagreement(song(GENERATED, GENERATED), song(GENERATED))


def test_an_engine_that_cannot_be_asked_agrees_with_itself() -> None:
    assert disagreement(song(), song()) is None


@given(
    st.lists(
        st.tuples(st.integers(0, 200_000), st.floats(-30, 0)).map(
            lambda pair: Reply((pair[0],), (pair[1],))
        )
    )
)
def test_every_song_agrees_with_itself_and_survives_the_disk(replies: list[Reply]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "songs" / "canary.json"
        sung = song(*replies)
        canary.save(path, sung)
        assert canary.load(path, "f") == sung
        assert disagreement(sung, sung) is None


def test_a_song_of_other_weights_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "canary.json"
    canary.save(path, song(GENERATED))
    assert canary.load(path, "another") is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"fingerprint": "f", "dtype": 1}'])
def test_a_broken_file_counts_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "canary.json"
    path.write_text(text)
    assert canary.load(path, "f") is None


def test_without_a_path_nothing_is_kept() -> None:
    canary.save(None, song(GENERATED))
    assert canary.load(None, "f") is None


def test_the_fingerprint_follows_weights_revision_and_facts(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")

    def now(revision: str | None = None, **facts: str) -> str:
        return canary.fingerprint(str(tmp_path), revision, facts)

    first = now(dtype="bfloat16")
    assert now(dtype="bfloat16") == first
    (tmp_path / "README.md").write_text("not read by an engine")
    assert now(dtype="bfloat16") == first
    assert now(dtype="float32") != first
    assert now("v2", dtype="bfloat16") != first
    weights.write_bytes(b"other")
    assert now(dtype="bfloat16") != first


def test_questions_and_answers_stay_below_the_smallest_kv_block() -> None:
    assert canary.MAX_PROMPT_TOKENS + canary.NEW_TOKENS < 16
