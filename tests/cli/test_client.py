from __future__ import annotations

from collections.abc import Iterator

import pytest

from controller.client import FleetClient, FleetError, FleetUnreachable
from tests.cli.stub_fleet import STORY, VIEW, Asked, stub_fleet


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Asked]]:
    with stub_fleet() as fleet:
        yield fleet


@pytest.fixture
def fleet(served: tuple[str, Asked]) -> Iterator[FleetClient]:
    with FleetClient(served[0]) as client:
        yield client


def test_views_come_back_as_they_are(fleet: FleetClient) -> None:
    assert fleet.fleet() == VIEW
    assert fleet.models() == VIEW.models
    assert fleet.model("org/minilm") == VIEW.models[1]
    assert fleet.why("smollm2") == STORY


def test_operations(fleet: FleetClient) -> None:
    done = fleet.wake("smollm2")
    assert (done.status, done.phases_s["wake.canary"]) == ("done", 0.5)
    assert fleet.sleep("smollm2", 2, wait=False).status == "running"
    assert fleet.operation("op-9").operation == "op-9"
    assert fleet.add_model({"name": "new", "path": "x"}).model == "new"


def test_events_from_where_one_was(fleet: FleetClient, served: tuple[str, Asked]) -> None:
    found = list(fleet.events(after=6))
    assert [(event.id, event.type, event.payload["to"]) for event in found] == [
        (7, "phase", "AWAKE"),
        (8, "phase", "DRAINING"),
    ]
    assert served[1].headers[-1]["last-event-id"] == "6"


def test_a_refusal_says_status_code_and_message(fleet: FleetClient) -> None:
    with pytest.raises(FleetError, match="No model 'x'") as refused:
        fleet.model("x")
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")
    with pytest.raises(FleetError) as refused:
        fleet.remove_model("x")
    assert refused.value.status == 404


def test_a_name_is_one_segment_of_the_path(fleet: FleetClient) -> None:
    with pytest.raises(FleetError, match=r"No model '\.\./switch'"):
        fleet.model("../switch")


def test_another_servers_answer_is_not_taken_for_a_fleets(served: tuple[str, Asked]) -> None:
    with FleetClient(served[0]) as client, pytest.raises(FleetUnreachable, match="another version"):
        client.read(type(VIEW), client.ask("GET", "/other"))
