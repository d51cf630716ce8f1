from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from controller.cli import app
from tests.cli.stub_fleet import KEY, Asked, stub_fleet

Fleet = tuple[str, Asked]


@pytest.fixture(scope="module")
def served() -> Iterator[Fleet]:
    with stub_fleet() as fleet:
        yield fleet


@pytest.fixture
def fleet(served: Fleet) -> Fleet:
    served[1].requests.clear()
    served[1].headers.clear()
    return served


def torpor(url: str, *arguments: str, **options: Any) -> Result:
    environ = {"TORPOR_URL": url, "TORPOR_KEY": None}
    return CliRunner().invoke(app, list(arguments), env=environ, **options)


WAITED, AT_ONCE = {"wait": "true"}, {"wait": "false"}
M = "/fleet/models"
ORDERS: list[tuple[list[str], str, dict[str, str], Any, str]] = [
    (["wake", "smollm2"], f"{M}/smollm2/wake", WAITED, None, "wake smollm2: done in 0.81 s"),
    (["wake", "org/minilm"], f"{M}/org%2Fminilm/wake", WAITED, None, "wake.canary 0.50 s"),
    (["wake", "smollm2", "--no-wait"], f"{M}/smollm2/wake", AT_ONCE, None, "running"),
    (["sleep", "smollm2"], f"{M}/smollm2/sleep", WAITED, {"level": 1}, "sleep smollm2: done"),
    (["sleep", "smollm2", "--level", "2"], f"{M}/smollm2/sleep", WAITED, {"level": 2}, "done"),
    (["stop", "smollm2"], f"{M}/smollm2/stop", WAITED, None, "stop smollm2: done"),
    (["switch", "smollm2"], "/fleet/switch", WAITED, {"to": "smollm2", "level": 1}, "done"),
    (
        ["switch", "smollm2", "--from", "org/minilm", "--level", "2"],
        "/fleet/switch",
        WAITED,
        {"to": "smollm2", "from": "org/minilm", "level": 2},
        "switch smollm2: done",
    ),
    (["pin", "smollm2"], f"{M}/smollm2/pin", {}, None, "smollm2: pinned"),
    (["unpin", "smollm2"], f"{M}/smollm2/unpin", {}, None, "smollm2: not pinned"),
]


@pytest.mark.parametrize(("arguments", "path", "query", "body", "said"), ORDERS)
def test_an_order_is_posted_and_told(
    fleet: Fleet, arguments: list[str], path: str, query: dict[str, str], body: Any, said: str
) -> None:
    url, asked = fleet
    result = torpor(url, *arguments)
    assert result.exit_code == 0, result.stderr
    assert asked.requests == [("POST", path, query, body)]
    assert said in result.stdout


@pytest.mark.parametrize("arguments", [order[0] for order in ORDERS])
def test_orders_as_json(fleet: Fleet, arguments: list[str]) -> None:
    result = torpor(fleet[0], *arguments, "--json")
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told.get("status") in (None, "done", "running")


def test_status(fleet: Fleet) -> None:
    result = torpor(fleet[0], "status")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines == [
        "MODEL STATE RUN WAIT MEMORY HOST WAKES IN IDLE",
        "smollm2 awake pinned 1 0 1.0 GiB 0 - 1 min",
        "org/minilm level_1 0 2 1.0 GiB 0 1.5 s 1 min",
        "broken failed 1 0 1.0 GiB 0 1.5 s -",
        "",
        "vm: cpu 2.0 GiB of 4.0 GiB (others hold 1.0 GiB of cpu) (KV tier 1.0 GiB of 2.0 GiB)",
    ]


def test_status_as_json(fleet: Fleet) -> None:
    told = json.loads(torpor(fleet[0], "status", "--json").stdout)
    assert [model["model"] for model in told["models"]] == ["smollm2", "org/minilm", "broken"]
    assert told["nodes"][0]["devices"] == [["cpu", 2 << 30, 4 << 30]]


def test_why(fleet: Fleet) -> None:
    result = torpor(fleet[0], "why", "org/minilm")
    assert result.exit_code == 0
    assert "evicted (for smollm2)" in result.stdout
    assert "org/minilm is level_1; awake again within 1.5 s" in result.stdout
    told = json.loads(torpor(fleet[0], "why", "org/minilm", "--json").stdout)
    assert (told["wake_estimate_s"], len(told["story"])) == (1.5, 2)


def test_chat_streams_and_shows_the_waking(fleet: Fleet) -> None:
    url, asked = fleet
    result = torpor(url, "chat", "org/minilm", "Capital of France?", "--system", "Be brief.")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "The capital is Paris.\n"
    assert "woken: up in 1.60 s, first token after" in result.stderr
    assert "cut at --max-tokens" in result.stderr
    ((_, path, _, body),) = asked.requests
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "org/minilm",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Capital of France?"},
        ],
        "max_tokens": 512,
        "stream": True,
    }


def test_chat_as_json(fleet: Fleet) -> None:
    told = json.loads(torpor(fleet[0], "chat", "smollm2", "Hi", "--json").stdout)
    assert told["text"] == "The capital is Paris."
    assert (told["state"], told["queue_ms"], told["wake_ms"]) == ("woken", 1710, 1604)


def test_a_conversation_remembers_its_turns(fleet: Fleet) -> None:
    url, asked = fleet
    result = torpor(url, "chat", "smollm2", input="Hi\n\nAnd then?\n")
    assert result.exit_code == 0
    first, second = (request[3]["messages"] for request in asked.requests)
    assert [turn["content"] for turn in first] == ["Hi"]
    assert [turn["content"] for turn in second] == ["Hi", "The capital is Paris.", "And then?"]


def test_chat_with_a_model_that_cannot_start(fleet: Fleet) -> None:
    result = torpor(fleet[0], "chat", "broken", "Hi")
    assert result.exit_code == 1
    assert "torpor: It cannot start. (cannot_start)" in result.stderr


def test_an_order_that_fails(fleet: Fleet) -> None:
    result = torpor(fleet[0], "wake", "broken")
    assert result.exit_code == 1
    assert "wake broken: failed in 2.00 s: the canary disagreed" in result.stderr
    told = torpor(fleet[0], "wake", "broken", "--json")
    assert (told.exit_code, json.loads(told.stdout)["status"]) == (1, "failed")


def test_what_the_fleet_refuses_is_one_line(fleet: Fleet) -> None:
    for command in (["wake", "nobody"], ["why", "nobody"], ["pin", "nobody"]):
        result = torpor(fleet[0], *command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == "torpor: No model 'nobody'. (model_not_found)\n"


def test_the_key_is_sent_and_a_wrong_one_is_refused(fleet: Fleet) -> None:
    url, asked = fleet
    assert torpor(url, "status", "--key", KEY).exit_code == 0
    assert asked.headers[0]["authorization"] == f"Bearer {KEY}"
    wrong = torpor(url, "status", "--key", "wrong")
    assert (wrong.exit_code, wrong.stderr) == (1, "torpor: No valid API key. (invalid_key)\n")


def test_nobody_answers() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = torpor(url, "status")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == f"torpor: no fleet answers at {url}: is `torpor serve` running?\n"


def test_what_answers_is_no_fleet(fleet: Fleet) -> None:
    result = torpor(f"{fleet[0]}/other", "status")
    assert result.exit_code == 1, "404 as a refusal"
    for url in ("nonsense", "ftp://x"):
        assert torpor(url, "status").exit_code == 3


USAGE = [
    ["wake"],
    ["sleep", "a", "--level", "3"],
    ["no-such-command"],
    ["status", "--no-such-option"],
    ["chat", "m", "hi", "--max-tokens", "0"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage(arguments: list[str]) -> None:
    result = torpor("http://127.0.0.1:1", *arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
