"""Which replica serves: affinity to a conversation's replica and to a known beginning, and load."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.routing import by_load_alone, chats, play, prompts
from controller.core.commands import Command, GrantLease, WakeEngine
from controller.core.events import EngineLost, LeaseReleased, RequestArrived
from controller.core.lifecycle import Phase, Replica
from controller.core.names import Affinity, Instant, ModelName, ReplicaId, RequestId
from controller.core.prefixes import MOST_KEYS, Prefixes
from controller.core.routing import HOME_LEASES, PREFIX_LEASES, pick_to_serve
from tests.core.fleets import Story, spec
from tests.core.test_replicas import REST, rests

A0, A1 = ReplicaId("a#0"), ReplicaId("a#1")
PAIR = spec("a", 10, replicas=2, least_replicas=2)


def replica(index: int, leases: int = 0, served: tuple[int, ...] = ()) -> Replica:
    one = Replica(ReplicaId(f"a#{index}"), ModelName("a"), index, Phase.AWAKE)
    one.leases = {RequestId(str(number)): Instant(0.0) for number in range(leases)}
    one.prefixes.served(served)
    return one


def asks(story: Story, request: str, affinity: Affinity) -> list[Command]:
    arrival = RequestArrived(story.time, RequestId(request), ModelName("a"), affinity=affinity)
    return story.feed(arrival)


def granted_on(commands: list[Command]) -> list[str]:
    return [command.replica for command in commands if isinstance(command, GrantLease)]


def a_pair() -> Story:
    story = Story(PAIR)
    story.raises("first", "a")
    story.answers("a#1")
    story.feed(LeaseReleased(story.time, RequestId("first")))
    return story


def test_a_conversation_goes_to_the_replica_of_its_last_turn() -> None:
    story = a_pair()
    assert granted_on(asks(story, "one", Affinity(A1))) == ["a#1"]
    assert granted_on(asks(story, "two", Affinity(A1))) == ["a#1"]  # busier than the other
    assert granted_on(asks(story, "stranger", Affinity())) == ["a#0"]


def test_its_replica_is_left_once_it_is_much_more_loaded() -> None:
    story = a_pair()
    for number in range(int(HOME_LEASES)):
        assert granted_on(asks(story, f"r{number}", Affinity(A1))) == ["a#1"]
    assert granted_on(asks(story, "late", Affinity(A1))) == ["a#0"]


def test_a_replica_that_died_is_not_waited_for_while_another_serves() -> None:
    story = a_pair()
    incarnation = story.fleet.replicas[A1].incarnation
    assert incarnation is not None
    story.feed(EngineLost(story.time, A1, incarnation, "killed"))
    assert granted_on(asks(story, "one", Affinity(A1))) == ["a#0"]


def test_where_all_sleep_the_conversations_replica_wakes() -> None:
    story = Story(spec("a", 10, replicas=2, least_replicas=2, ladder=REST))
    story.raises("first", "a")
    story.answers("a#1")
    story.feed(LeaseReleased(story.time, RequestId("first")))
    rests(story, story.at + 60.0)
    story.answers("a#0")
    story.answers("a#1")
    woken = [c.replica for c in asks(story, "one", Affinity(A1)) if isinstance(c, WakeEngine)]
    assert woken == ["a#1"]


def test_requests_that_begin_alike_meet() -> None:
    story = a_pair()
    asks(story, "busy", Affinity())  # on a#0
    assert granted_on(asks(story, "one", Affinity(prefix=(1, 2, 3)))) == ["a#1"]
    story.feed(LeaseReleased(story.time, RequestId("busy")))
    assert granted_on(asks(story, "two", Affinity(prefix=(1, 2, 9)))) == ["a#1"]
    assert granted_on(asks(story, "other", Affinity(prefix=(7, 8, 9)))) == ["a#0"]


def test_what_an_engine_forgot_in_its_sleep_draws_nobody() -> None:
    story = Story(spec("a", 10, replicas=2, least_replicas=2, ladder=REST))
    story.raises("first", "a")
    story.answers("a#1")
    asks(story, "one", Affinity(prefix=(1, 2, 3)))
    assert story.fleet.replicas[A1].prefixes.matched((1, 2, 3)) == 1.0
    for request in ("first", "one"):
        story.feed(LeaseReleased(story.time, RequestId(request)))
    rests(story, story.at + 60.0)
    assert story.fleet.replicas[A1].prefixes.matched((1, 2, 3)) == 0.0


def test_a_lone_replica_keeps_no_keys() -> None:
    story = Story(spec("a", 10))
    story.raises("first", "a")
    asks(story, "one", Affinity(prefix=(1, 2, 3)))
    assert story.fleet.replicas[A0].prefixes.matched((1,)) == 0.0


def test_affinity_ends_where_a_replica_is_busy() -> None:
    busy, free = replica(0, leases=3, served=(1,)), replica(1)
    wish = Affinity(busy.id, (1,))
    assert pick_to_serve([busy, free], wish) is busy
    assert pick_to_serve([busy, free], wish, busy_leases=3) is free
    less_busy = replica(1, leases=2)
    assert pick_to_serve([busy, less_busy], wish, busy_leases=3) is less_busy


def test_a_home_is_worth_so_many_leases_and_a_known_beginning_its_share_of_fewer() -> None:
    for worth, wish, half in (
        (int(HOME_LEASES), Affinity(A1), ()),
        (int(PREFIX_LEASES), Affinity(prefix=(1, 2)), (1, 2)),
        (int(PREFIX_LEASES) // 2, Affinity(prefix=(1, 2, 3, 4)), (1, 2)),
    ):
        free, just, more = replica(0), replica(1, worth - 1, half), replica(1, worth, half)
        assert pick_to_serve([free, just], wish) is just
        assert pick_to_serve([free, more], wish) is free


def test_keys_are_forgotten_from_the_oldest_on() -> None:
    keys = Prefixes()
    keys.served((0,))
    keys.served(tuple(range(1, MOST_KEYS)))
    keys.served((0, -1))
    assert keys.matched((0, -1)) == 1.0
    assert keys.matched((1,)) == 0.0


@given(
    loads=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    home=st.integers(0, 5),
    known=st.lists(st.integers(0, 5), max_size=5),
)
def test_nobody_is_sent_where_it_is_more_crowded_than_affinity_is_worth(
    loads: list[int], home: int, known: list[int]
) -> None:
    crew = [replica(i, load, (1, 2) if i in known else ()) for i, load in enumerate(loads)]
    picked = pick_to_serve(crew, Affinity(ReplicaId(f"a#{home}"), (1, 2)))
    assert picked is not None
    assert len(picked.leases) <= min(loads) + HOME_LEASES + PREFIX_LEASES
    assert pick_to_serve(crew) is min(crew, key=lambda r: (len(r.leases), r.index))


def test_affinity_finds_more_of_its_kv_and_crowds_nobody() -> None:
    """Simulated; exact, since nothing in it is left to chance or to the clock."""
    for kind in (chats, prompts):
        alone = play(kind(60), 3, by_load_alone, until_s=120.0, seed=2)
        drawn = play(kind(60), 3, pick_to_serve, until_s=120.0, seed=2)
        assert drawn.held > alone.held + 0.05
        assert drawn.mean_s < alone.mean_s
        assert drawn.most <= alone.most + HOME_LEASES
