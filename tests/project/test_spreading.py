"""The processes of xdist begin with tests of environments that have to be built, and get as many tests each."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.spreading import group_of, spread


def test_each_part_begins_with_a_group_and_goes_on_in_order() -> None:
    tests = list(range(24))
    groups = ["", "", "a", "a", *[""] * 8, "b", "b", "b", *[""] * 7, "c", "a"]
    assert spread(tests, groups, 4) == [2, 3, 23, 0, 1, 4, 12, 13, 14, 5, 6, 7, 22, 8, 9, 10, 11, 15, 16, 17, 18, 19, 20, 21]


@given(st.lists(st.sampled_from(["", "", "", "a", "b", "c", "d", "e"]), max_size=60), st.integers(2, 6))
def test_no_test_is_lost_and_a_group_stays_together(groups: list[str], processes: int) -> None:
    found = spread(range(len(groups)), groups, processes)
    assert Counter(found) == Counter(range(len(groups)))
    assert [number for number in found if not groups[number]] == [number for number, group in enumerate(groups) if not group]
    begins = [groups[after] for before, after in pairwise([-1, *found]) if groups[after] and (before < 0 or groups[before] != groups[after])]
    assert len(begins) == len({*groups} - {""})


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("client", ["mlflow9"])
def test_tests_of_a_client_are_a_group(request: pytest.FixtureRequest, client: str) -> None:
    assert group_of(request.node) == client


@pytest.mark.timeout(601)
def test_other_patient_tests_are_one_with_their_file(request: pytest.FixtureRequest) -> None:
    assert group_of(request.node) == str(request.node.path)


@pytest.mark.timeout(60)
def test_an_ordinary_test_is_in_no_group(request: pytest.FixtureRequest) -> None:
    assert group_of(request.node) == ""
