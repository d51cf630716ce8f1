"""What is said, from chat to items and back; what is the same; what a request adds to a history."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.errors import ApiError
from controller.api.history_answers import ChatHearing, ResponseHearing
from controller.api.history_chat import items_of_messages, messages_of_items
from controller.api.history_items import (
    identified,
    input_of_items,
    is_reasoning,
    items_of_input,
    mark,
)
from controller.api.history_joining import join

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}}
SYSTEM = {"role": "system", "content": "Be brief."}
CHAT: list[dict[str, Any]] = [
    SYSTEM,
    {"role": "user", "content": "Hello", "name": "Ann"},
    {"role": "assistant", "content": "Hi"},
    {
        "role": "user",
        "content": [{"type": "text", "text": "See"}, IMAGE, {"type": "audio", "x": 1}],
    },
    {
        "role": "assistant",
        "content": "I look it up",
        "tool_calls": [CALL, {**CALL, "id": "call_2"}],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "4"},
    {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "5"}] * 2},
    {"role": "assistant", "reasoning": "Four and five.", "content": "Nine"},
    {"role": "assistant", "content": None, "refusal": "No more."},
    {"role": "developer", "content": "Go on"},
    {"role": "assistant", "tool_calls": [CALL]},
]


def test_chat_comes_back_as_it_was_said() -> None:
    items = identified(items_of_messages(CHAT), ())
    assert messages_of_items(items) == CHAT
    assert len({item["id"] for item in items}) == len(items) == 14


texts = st.text(min_size=1, max_size=8)
calls = st.builds(
    lambda id, name: {
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": "{}"},
    },
    texts,
    texts,
)
users = st.builds(lambda text: {"role": "user", "content": text}, texts)
assistants = st.one_of(
    st.builds(lambda text: {"role": "assistant", "content": text}, texts),
    st.builds(lambda made: {"role": "assistant", "tool_calls": made}, st.lists(calls, min_size=1)),
    st.builds(
        lambda text, made: {"role": "assistant", "content": text, "tool_calls": made},
        texts,
        st.lists(calls, min_size=1),
    ),
)
turns = st.tuples(users, assistants)


@given(st.lists(turns, max_size=5))
def test_any_chat_comes_back(said: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    chat = [message for turn in said for message in turn]
    assert messages_of_items(items_of_messages(chat)) == chat


@given(st.lists(turns, min_size=1, max_size=5), users)
def test_everything_said_once_more_adds_what_is_new(
    said: list[tuple[dict[str, Any], dict[str, Any]]], new: dict[str, Any]
) -> None:
    kept = identified(items_of_messages([m for turn in said for m in turn]), ())
    turn = items_of_messages([new])
    again = items_of_messages([m for t in said for m in t] + [new])
    assert join(kept, again).fresh == join(kept, turn).fresh == turn
    assert join(kept, again).whole == [*kept, *turn]


def test_the_same_said_on_another_route_is_the_same() -> None:
    by_chat = items_of_messages(CHAT[:7])
    by_responses = items_of_input(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
            {
                "id": "msg_9",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [
                    {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
                ],
            },
        ]
    )
    assert [mark(item) for item in by_responses] == [mark(item) for item in by_chat[:3]]
    assert len({mark(item) for item in by_chat}) == len(by_chat)


def test_an_engine_gets_one_part_of_an_answer_and_no_ids_of_ours() -> None:
    parts = [{"type": "output_text", "text": t, "annotations": []} for t in ("one ", "two")]
    said = [
        {"role": "user", "content": "Hello"},
        {"type": "message", "role": "assistant", "content": parts},
        {"type": "function_call_output", "call_id": "call_1", "output": "4"},
    ]
    user, answer, output = input_of_items(identified(items_of_input(said), ()))
    assert user == {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "Hello"}],
    }
    assert [part["text"] for part in answer["content"]] == ["one two"]
    assert answer["status"] == "completed"
    assert set(output) == {"type", "call_id", "output"}


def test_ids_are_kept_unless_they_are_taken() -> None:
    said = items_of_input([{"id": "msg_1", "role": "user", "content": "a"}])
    assert identified(said, ())[0]["id"] == "msg_1"
    assert identified(said, ["msg_1"])[0]["id"] != "msg_1"


KEPT = identified(items_of_messages(CHAT[:3]), ())
NEXT = {"role": "user", "content": "And then?"}


@pytest.mark.parametrize(
    ("said", "whole", "fresh"),
    [
        ([NEXT], [*CHAT[:3], NEXT], [NEXT]),
        ([*CHAT[:3], NEXT], [*CHAT[:3], NEXT], [NEXT]),
        ([*CHAT[1:3], NEXT], [*CHAT[:3], NEXT], [NEXT]),
        ([SYSTEM, NEXT], [*CHAT[:3], NEXT], [NEXT]),
        (
            [{"role": "system", "content": "It is noon."}, *CHAT[1:3], NEXT],
            [{"role": "system", "content": "It is noon."}, *CHAT[1:3], NEXT],
            [NEXT],
        ),
        (
            [{"role": "tool", "tool_call_id": "x", "content": "4"}],
            [*CHAT[:3], {"role": "tool", "tool_call_id": "x", "content": "4"}],
            [{"role": "tool", "tool_call_id": "x", "content": "4"}],
        ),
    ],
)
def test_what_a_request_adds(said: Any, whole: Any, fresh: Any) -> None:
    joined = join(KEPT, items_of_messages(said))
    assert messages_of_items(joined.whole) == whole
    assert messages_of_items(joined.fresh) == fresh


@pytest.mark.parametrize(
    "said",
    [
        [CHAT[1], {"role": "assistant", "content": "Hallo"}, NEXT],
        [{"role": "user", "content": "Other"}, CHAT[2], NEXT],
        [CHAT[2], NEXT],
        [CHAT[1], NEXT, CHAT[2]],
    ],
)
def test_another_history_is_refused(said: Any) -> None:
    with pytest.raises(ApiError) as refused:
        join(KEPT, items_of_messages(said))
    assert refused.value.code == "history_differs"


@pytest.mark.parametrize("said", [[], CHAT[:3], CHAT[1:3], [SYSTEM]])
def test_nothing_new_is_refused(said: Any) -> None:
    with pytest.raises(ApiError) as refused:
        join(KEPT, items_of_messages(said))
    assert refused.value.code == "invalid_history"


def test_a_question_that_was_kept_may_be_asked_alone() -> None:
    kept = identified(items_of_messages([NEXT]), ())
    assert messages_of_items(join(kept, []).whole) == [NEXT]
    assert join(kept, items_of_messages([NEXT])).fresh == []


def test_the_first_request_is_kept_with_its_head_whatever_it_says() -> None:
    assert messages_of_items(join((), items_of_messages([*CHAT[:3], NEXT])).fresh) == [
        *CHAT[:3],
        NEXT,
    ]


def test_instructions_stand_in_place_of_the_head() -> None:
    joined = join(KEPT, items_of_messages([NEXT]), has_instructions=True)
    assert messages_of_items(joined.whole) == [*CHAT[1:3], NEXT]


def test_reasoning_need_not_be_said_again() -> None:
    thought = {"role": "assistant", "content": "Hi", "reasoning": "They greet me."}
    kept = identified(items_of_messages([CHAT[1], thought]), ())
    assert any(is_reasoning(item) for item in kept)
    for again in (CHAT[2], thought):
        assert messages_of_items(join(kept, items_of_messages([CHAT[1], again, NEXT])).fresh) == [
            NEXT
        ]


@pytest.mark.parametrize(
    "messages",
    [
        "Hello",
        ["Hello"],
        [{"content": "x"}],
        [{"role": "user", "content": 7}],
        [{"role": "user", "content": ["x"]}],
        [{"role": "assistant", "tool_calls": 7}],
        [{"role": "assistant", "tool_calls": [{"id": "call_1"}]}],
        [{"role": "tool", "content": "4"}],
        None,
    ],
)
def test_what_is_no_chat_is_refused(messages: Any) -> None:
    with pytest.raises(ApiError) as refused:
        items_of_messages(messages)
    assert refused.value.code == "invalid_history"


@pytest.mark.parametrize(
    "said",
    [
        None,
        7,
        [7],
        [{"role": "user"}],
        [{"role": "user", "content": [7]}],
        [{"type": "item_reference", "id": "msg_1"}],
        [{"type": 7}],
        [{"type": "function_call", "call_id": "call_1"}],
        [{"type": "function_call_output", "output": "4"}],
        [{"type": "function_call_output", "call_id": "call_1"}],
        [{"type": "reasoning", "content": "hm"}],
        [{"type": "reasoning", "summary": ["hm"]}],
    ],
)
def test_what_is_no_input_is_refused(said: Any) -> None:
    with pytest.raises(ApiError) as refused:
        items_of_input(said)
    assert refused.value.code == "invalid_history"


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + json.dumps({"id": "1", "choices": choices}).encode() + b"\n\n"


STREAM = b"".join(
    [
        b": torpor phase=waking\n\n",
        chunk(role="assistant", content=""),
        chunk(reasoning="Hm"),
        chunk(content="Hel"),
        chunk(content="lo [DONE]"),
        chunk(tool_calls=[{"index": 0, "id": "call_1", "function": {"name": "f"}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"a": '}}]),
        chunk("tool_calls", tool_calls=[{"index": 0, "function": {"arguments": "1}"}}]),
        b'data: {"id": "1", "choices": [], "usage": {"total_tokens": 9}}\n\n',
        b"data: [DONE]\n\n",
    ]
)


@pytest.mark.parametrize("size", [1, 7, 64, len(STREAM)])
def test_a_streamed_chat_is_heard_however_it_is_cut(size: int) -> None:
    hearing = ChatHearing()
    for first in range(0, len(STREAM), size):
        assert hearing.whole() is None, "not before its end"
        hearing.hear(STREAM[first : first + size])
    whole = hearing.whole()
    assert whole is not None
    assert whole["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Hello [DONE]",
        "reasoning": "Hm",
        "tool_calls": [CALL],
    }


@pytest.mark.parametrize(
    "stream",
    [
        STREAM.removesuffix(b"data: [DONE]\n\n"),
        chunk(content="Hel") + b"data: [DONE]\n\n",
        chunk("stop", content="x") + b'data: {"error": {"message": "no"}}\n\ndata: [DONE]\n\n',
    ],
)
def test_a_stream_that_did_not_end_well_is_no_answer(stream: bytes) -> None:
    hearing = ChatHearing()
    hearing.hear(stream)
    assert hearing.whole() is None


def test_a_streamed_response_is_its_closing_event() -> None:
    hearing = ResponseHearing()
    hearing.hear(b'event: response.output_text.delta\ndata: {"delta": "response.completed"}\n\n')
    assert hearing.whole() is None
    hearing.hear(b'event: response.completed\ndata: {"response": {"id": "resp_1"')
    assert hearing.whole() is None
    hearing.hear(b"}}\n\n")
    assert hearing.whole() == {"id": "resp_1"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
NAMES = ["type", "role", "content", "call_id", "name", "arguments", "output", "summary", "id"]
KINDS = ["message", "function_call", "function_call_output", "reasoning", "user", "assistant"]
loose_items = st.dictionaries(
    st.sampled_from(NAMES),
    st.sampled_from(KINDS) | JSON | st.just([{"type": "output_text", "text": "x"}]),
)


@given(st.lists(loose_items, max_size=3))
def test_whatever_is_sent_is_kept_or_refused(said: list[Any]) -> None:
    """And what is kept can be compared, and sent to an engine on either route."""
    try:
        kept = identified(items_of_input(said), ())
    except ApiError:
        return
    with contextlib.suppress(ApiError):
        join(kept, kept)
    assert len(input_of_items(kept)) == len(kept)
    with contextlib.suppress(ApiError):
        json.dumps(messages_of_items(kept))
