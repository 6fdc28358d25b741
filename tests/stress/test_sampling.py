"""Samples and numbers that follow from the seed."""

from __future__ import annotations

import random

import pytest

from stress.plan import PARTS, Part, cases_by_id, parts_named, seconds_for
from stress.records import Case, Outcome, Result
from stress.sampling import dice_for, sample
from stress.world import World


def nothing(world: World, dice: random.Random) -> Result:
    return Result(Outcome.survived, 0, 0.0)


CASES = [Case(f"part/{cell}/{number:02d}", nothing) for cell in ("a/x", "a/y", "b/x") for number in range(20)]


def ids(cases: list[Case]) -> list[str]:
    return [case.id for case in cases]


def test_a_sample_has_each_cell_and_keeps_the_order() -> None:
    taken = sample(CASES, 8, 2)
    assert [case.cell for case in taken] == ["part/a/x"] * 2 + ["part/a/y"] * 2 + ["part/b/x"] * 2
    assert ids(taken) == sorted(ids(taken))


def test_a_sample_follows_from_the_seed_and_not_from_other_cells() -> None:
    assert ids(sample(CASES, 8, 3)) == ids(sample(CASES, 8, 3))
    assert ids(sample(CASES[20:], 8, 3)) == ids(sample(CASES, 8, 3))[3:]
    assert len({tuple(ids(sample(CASES, seed, 3))) for seed in range(10)}) > 5


def test_a_cell_of_fewer_is_taken_whole() -> None:
    assert ids(sample(CASES[:2], 8, 5)) == ids(CASES[:2])


def test_the_numbers_of_a_case_are_its_own() -> None:
    one = dice_for(8, "part/a/x/00").random()
    assert one == dice_for(8, "part/a/x/00").random()
    assert len({one, dice_for(9, "part/a/x/00").random(), dice_for(8, "part/a/x/01").random()}) == 3


def test_what_is_large_is_left_to_a_full_run() -> None:
    part = Part("part", "", lambda: CASES, large=frozenset({"part/a/y"}))
    assert [case.cell for case in part.chosen(8, full=False)] == ["part/a/x", "part/b/x"]
    assert part.chosen(8, full=True) == CASES


def test_each_part_has_cases_with_unique_ids_and_its_name() -> None:
    for part in PARTS:
        cases = part.cases()
        assert len({case.id for case in cases}) == len(cases) > 0
        assert {case.id.partition("/")[0] for case in cases} == {part.name}
        assert {case.cell for case in part.chosen(8, full=False)} == {case.cell for case in cases} - part.large
    assert len(cases_by_id()) == sum(len(part.cases()) for part in PARTS)


def test_unknown_part_is_refused_with_known_names() -> None:
    assert parts_named([]) == list(PARTS)
    with pytest.raises(ValueError, match=r"^There is no part 'fault'; there are: faults"):
        parts_named(["fault"])


def test_parts_share_the_time_that_is_left() -> None:
    first, second = Part("first", "", lambda: CASES, share=3.0), Part("second", "", lambda: CASES)
    assert seconds_for(first, [first, second], 100.0) == 75.0
    assert seconds_for(second, [second], 40.0) == 40.0
