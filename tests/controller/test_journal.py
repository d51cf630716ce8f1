"""The journal gives back what it was given, bounded."""

import json
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller import journal
from controller.core import commands, events
from controller.core.commands import Command, GrantLease, StartEngine
from controller.core.events import (
    Event,
    LeaseReleased,
    ModelAdded,
    NodeJoined,
    RequestArrived,
)
from controller.core.names import (
    Depth,
    DeviceId,
    Footprint,
    Instant,
    Ladder,
    ModelName,
    ModelSpec,
    ModelState,
    NodeId,
    OpId,
    ReplicaId,
    RequestId,
)

KINDS = [
    kind
    for module, base in ((events, Event), (commands, Command))
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, base) and kind is not base
]

st.register_type_strategy(float, st.floats(allow_nan=False))
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=20)
@given(data=st.data())
def test_every_event_and_command_survives_the_file(kind: type, data: st.DataObject) -> None:
    value = data.draw(drawn(kind))
    assert journal.decode(json.loads(journal.encode(value))) == value


def drawn(kind: type) -> st.SearchStrategy[Event | Command]:
    """Times of requests are the driver's, and a limit that is none is None: all finite."""
    if kind is RequestArrived:
        return st.builds(RequestArrived, at=FINITE, max_wait_s=st.none() | FINITE)
    if kind is GrantLease:
        return st.builds(GrantLease, queued_s=FINITE, wake_s=FINITE)
    return st.builds(LeaseReleased, at=FINITE) if kind is LeaseReleased else st.from_type(kind)


def test_a_specification_with_never_survives() -> None:
    spec = ModelSpec(ModelName("a"), {Depth.AWAKE: Footprint(1, 2)}, ladder=Ladder(1.0, inf))
    event = ModelAdded(Instant(1.5), spec)
    assert journal.decode(json.loads(journal.encode(event))) == event


def test_events_come_back_with_their_commands(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal.jsonl"
    first = NodeJoined(Instant(0.0), NodeId("n"), ((DeviceId("cpu"), 5),), 0)
    second = RequestArrived(Instant(1.0), RequestId("1:x"), ModelName("m"), None, "t")
    orders: list[Command] = [
        StartEngine(OpId(1), ReplicaId("m#0"), ModelName("m"), NodeId("n"), (DeviceId("cpu"),)),
        GrantLease(RequestId("1:x"), ReplicaId("m#0"), ModelState.COLD, 2.0, 1.0),
    ]
    book = journal.Journal(path)
    book.record(first, [], unix=1000.0)
    book.record(second, orders, unix=1001.0)
    book.close()
    assert list(journal.read(path)) == [(first, []), (second, orders)]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    book = journal.Journal(path)
    event = RequestArrived(Instant(1.0), RequestId("x"), ModelName("m"))
    book.record(event, [], unix=0.0)
    book.close()
    path.write_text(path.read_text() + '{"at": 2.0, "ev')
    assert list(journal.read(path)) == [(event, [])]


def test_the_lines_of_one_turn_are_written_together(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    asked: list[Callable[[], None]] = []
    book = journal.Journal(path, soon=asked.append)
    first, second, third = (
        RequestArrived(Instant(at), RequestId("x"), ModelName("m")) for at in (1.0, 2.0, 3.0)
    )
    book.record(first, [], unix=0.0)
    book.record(second, [], unix=0.0)
    assert path.read_bytes() == b""
    (flush,) = asked
    flush()
    assert [event for event, _ in journal.read(path)] == [first, second]
    book.record(third, [], unix=0.0)
    book.close()
    asked[1]()
    assert [event for event, _ in journal.read(path)] == [first, second, third]


def test_it_rotates_and_forgets(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    book = journal.Journal(path, max_bytes=600, files=2)
    for number in range(100):
        event = RequestArrived(Instant(float(number)), RequestId(str(number)), ModelName("m"))
        book.record(event, [], unix=0.0)
    book.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "journal.jsonl",
        "journal.jsonl.1",
        "journal.jsonl.2",
    ]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 3 * 900
    youngest = [event.at for event, _ in journal.read(tmp_path / "journal.jsonl.1")]
    oldest = [event.at for event, _ in journal.read(tmp_path / "journal.jsonl.2")]
    assert max(oldest) < min(youngest)
