"""What is drawn for a fault, and which requests it meets."""

from __future__ import annotations

import random
import re

import pytest

from stress.faults.cases import A_CELL, draw, fault_cases
from stress.faults.commands import COMMANDS
from stress.faults.faults import FAULTS, Fault, at_byte
from stress.faults.found import is_unfinished
from stress.faults.places import COMMIT, FETCH, JOB, LISTING, PUT, SIGN_IN, Place
from tests.servers.azureml.faults import FlipByte, FlipUpload

STORE = "himl01234567000.blob.core.windows.net/azureml"
FILES = {"part_01.bin": b"", "large.bin": bytes(2 << 20)}
LINES = {
    "listing": f"GET {STORE}?restype=container&comp=list&prefix=ExperimentRun/dcid.a/part_01.bin",
    "small": f"GET {STORE}/ExperimentRun/dcid.a/part_01.bin",
    "signed": f"GET {STORE}/ExperimentRun/dcid.a/part_01.bin?sv=1&sig=***",
    "put": f"PUT {STORE}/case/part_01.bin?sig=***",
    "block": f"PUT {STORE}/case/large.bin?comp=block&blockid=AAAA&sig=***",
    "commit": f"PUT {STORE}/case/large.bin?comp=blocklist&sig=***",
    "sign in": "POST login.microsoftonline.com/0/oauth2/v2.0/token",
    "job": "PUT management.azure.com/subscriptions/0/workspaces/w/jobs/train_1?api-version=2024",
}


@pytest.mark.parametrize(
    ("place", "met"),
    [
        (LISTING, {"listing"}),
        (FETCH, {"small", "signed"}),
        (FETCH.of_file("part_01.bin", 0), {"small", "signed"}),
        (FETCH.of_file("part_02.bin", 0), set()),
        (PUT, {"put", "block"}),
        (PUT.of_file("large.bin", 2 << 20), {"block"}),
        (COMMIT, {"commit"}),
        (SIGN_IN, {"sign in"}),
        (JOB, {"job"}),
    ],
)
def test_a_place_is_met_by_its_requests_and_no_others(place: Place, met: set[str]) -> None:
    assert {name for name, line in LINES.items() if re.search(place.match, line)} == met


def test_the_hosts_of_places_are_those_of_their_requests() -> None:
    for command in COMMANDS.values():
        for place, weight in command.places:
            assert weight > 0
            assert place.host in place.match


def test_each_cell_that_has_a_meaning_has_all_its_cases() -> None:
    cases = fault_cases()
    cells = {case.cell for case in cases}
    assert len(cases) == A_CELL * len(cells)
    for fault in FAULTS:
        assert {f"faults/{command}/{fault.name}" in cells for command in fault.lacks} <= {False}
    assert len(cells) == sum(len(COMMANDS.keys() - fault.lacks) for fault in FAULTS)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_each_fault_cell_has_reproducible_draws(fault: Fault, command: str) -> None:
    if command in fault.lacks:
        assert 0 in fault.documented(command)
        return
    places = COMMANDS[command].places
    drawn = [draw(fault, places, FILES, random.Random(seed)) for seed in range(30)]
    assert [one.match for one in drawn] == [draw(fault, places, FILES, random.Random(seed)).match for seed in range(30)]
    assert {one.times is None for one in drawn} == {True, False}
    assert all(one.match.startswith("^CONNECT ") == fault.on_connect for one in drawn)


def test_a_byte_is_one_of_the_body_and_edges_come_often() -> None:
    place, dice = FETCH.of_file("part_01.bin", 40_000), random.Random(8)
    drawn = [at_byte(dice, place) for _ in range(500)]
    assert 0 <= min(drawn) < max(drawn) < 40_000
    assert {0, 1, 16_383, 16_384, 16_385, 39_999} <= set(drawn)
    assert at_byte(dice, FETCH.of_file("part_01.bin", 0)) == 0


def test_a_flip_is_in_what_is_sent_or_in_what_comes() -> None:
    (flip,) = [fault for fault in FAULTS if fault.name == "flip"]
    assert isinstance(flip.make(random.Random(8), PUT), FlipUpload)
    assert isinstance(flip.make(random.Random(8), FETCH), FlipByte)


@pytest.mark.parametrize(
    ("name", "expected"), [(".himl-transfer.db", False), (".a.bin.himl-part", True), ("a.himl-part", False), ("a.bin", False), (".x", False)]
)
def test_what_himl_keeps_while_it_is_not_done_is_no_final_name(name: str, expected: bool) -> None:
    assert is_unfinished(name) is expected
