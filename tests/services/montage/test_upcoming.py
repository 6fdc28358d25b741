"""The order in which slides come to a cache."""

from __future__ import annotations

from collections.abc import Sequence

from himl_cli.core.blobs import BlobInfo
from himl_cli.services.montage.upcoming import AT_ONCE, BYTES_AT_ONCE, Coming, State, Upcoming


def slides(count: int, size: int = 100) -> list[Coming]:
    return [Coming(str(number), [BlobInfo(str(number), size)], uses=1) for number in range(count)]


def names(some: Sequence[Coming]) -> list[int]:
    return [int(slide.name) for slide in some]


def test_they_come_in_their_order_a_batch_at_a_time() -> None:
    wanted = slides(AT_ONCE + 3)
    upcoming = Upcoming(wanted, 10_000)
    asking, is_needed = upcoming.without_room()
    assert (names(asking), is_needed) == ([*range(AT_ONCE + 3)], False)
    upcoming.reserve(asking)
    assert names(upcoming.batch()) == [*range(AT_ONCE)]
    assert names(upcoming.batch()) == [AT_ONCE, AT_ONCE + 1, AT_ONCE + 2]
    assert upcoming.batch() == []


def test_large_ones_come_few_at_a_time() -> None:
    upcoming = Upcoming([], 0)
    upcoming.reserve(slides(5, BYTES_AT_ONCE // 2))
    assert [names(upcoming.batch()) for _ in range(3)] == [[0, 1], [2, 3], [4]]
    upcoming.reserve(slides(2, 2 * BYTES_AT_ONCE))
    assert names(upcoming.batch()) == [0]


def test_what_is_waited_for_comes_first_with_room_or_without() -> None:
    wanted = slides(100)
    upcoming = Upcoming(wanted, 7000)
    upcoming.reserve(upcoming.without_room()[0][:70])
    assert upcoming.demand(wanted[69]) is False
    assert upcoming.demand(wanted[90]) is True
    assert upcoming.demand(wanted[90]) is False
    asking, is_needed = upcoming.without_room()
    assert (names(asking), is_needed) == ([90], True)
    upcoming.reserve(asking)
    assert names(upcoming.batch())[:3] == [90, 69, 0]


def test_room_is_looked_for_again_once_a_part_of_the_limit_was_freed() -> None:
    wanted = slides(30)
    upcoming = Upcoming(wanted, 3200)
    upcoming.reserve(upcoming.without_room()[0][:10])
    here = upcoming.batch()
    for number, asked in ((0, []), (1, [*range(10, 30)])):
        here[number].uses = 0
        upcoming.free(here[number])
        assert names(upcoming.without_room()[0]) == asked


def test_what_was_demanded_before_its_turn_does_not_come_again() -> None:
    wanted = slides(3)
    upcoming = Upcoming(wanted, 0)
    upcoming.demand(wanted[1])
    asking, _ = upcoming.without_room()
    assert names(asking) == [1, 0, 2]
    upcoming.reserve(asking[:1])
    (used,) = upcoming.batch()
    used.uses = 0
    upcoming.free(used)
    assert names(upcoming.without_room()[0]) == [0, 2]
    assert upcoming.demand(used) is True


def test_nothing_more_comes_once_it_is_given_up() -> None:
    wanted = slides(5)
    upcoming = Upcoming(wanted, 10_000)
    upcoming.reserve(upcoming.without_room()[0][:3])
    upcoming.demand(wanted[4])
    assert names(upcoming.give_up("gone")) == [0, 1, 2]
    assert {(slide.state, slide.reason) for slide in wanted} == {(State.failed, "gone")}
    assert (upcoming.without_room(), upcoming.batch()) == (([], False), [])
