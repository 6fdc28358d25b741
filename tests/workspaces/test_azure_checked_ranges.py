"""Requests whose bytes have to be proved: asked for in ranges with an MD5 each, of which a sink gets whole and right ones only."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from himl_cli.core.blobs import MOST_CHECKED, FetchRequest
from himl_cli.core.errors import IntegrityFailed, ServiceFailed
from tests.servers.azureml.faults import Action, FlipByte, Reset, Status, Truncate, WrongMd5
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT, hasty_store, storage_that_lists
from tests.support.stores import Received, listed, named

BODY = random.Random(8).randbytes(2 * MOST_CHECKED + 1_000_000)
GET = r"GET .*/big"
KINDS = ["block", "append"]


@pytest.fixture(params=KINDS)
def azure(request: pytest.FixtureRequest, azure_environment: StagedWorkspace) -> StagedWorkspace:
    """With a blob that has an MD5 on record, and one that has none."""
    if request.param == "block":
        azure_environment.put_blob(DEFAULT, "big", BODY)
    else:
        container = azure_environment.state.datastores[DEFAULT].container
        for start in range(0, len(BODY), MOST_CHECKED):
            azure_environment.state.storage.append(container, "big", BODY[start : start + MOST_CHECKED])
    return azure_environment


def fetched(azure: StagedWorkspace, offset: int = 0) -> Received:
    """All of the blob from *offset* on, checked."""
    store, sink = hasty_store(azure), Received()
    blob = named(store, "big")
    store.fetch([FetchRequest(blob, offset, blob.size - offset, checked_each=MOST_CHECKED)], sink, workers=2)
    return sink


def ranges(stage: Stage) -> list[str]:
    return [seen.headers["range"].removeprefix("bytes=") for seen in stage.log.find(GET)]


def test_bytes_come_in_ranges_that_are_asked_for_once(stage: Stage, azure: StagedWorkspace) -> None:
    sink = fetched(azure, 16)
    assert (sink.bodies, sink.errors) == ({("big", 16): BODY[16:]}, {})
    ends = [16, 16 + MOST_CHECKED, 16 + 2 * MOST_CHECKED, len(BODY)]
    assert ranges(stage) == [f"{start}-{stop - 1}" for start, stop in pairwise(ends)]


@pytest.mark.parametrize("fault", [FlipByte(1000), FlipByte(-1), WrongMd5(), Truncate(after=700_000), Reset(after=700_000), Status(503)], ids=str)
def test_what_goes_wrong_twice_is_mended_by_other_tries(stage: Stage, azure: StagedWorkspace, fault: Action) -> None:
    stage.faults.add(fault, GET, times=2, skip=1)
    sink = fetched(azure)
    assert (sink.bodies, sink.errors, len(ranges(stage))) == ({("big", 0): BODY}, {}, 5)


@pytest.mark.parametrize("fault", [FlipByte(1000), FlipByte(-1), WrongMd5()], ids=str)
def test_what_is_damaged_in_each_try_ends_where_the_range_begins(stage: Stage, azure: StagedWorkspace, fault: Action) -> None:
    stage.faults.add(fault, GET, times=None, skip=1)
    sink = fetched(azure)
    assert (type(sink.errors["big"]), sink.bodies, sink.md5s) == (IntegrityFailed, {("big", 0): BODY[:MOST_CHECKED]}, {})
    assert len(ranges(stage)) == 1 + 3


def test_broken_range_is_resumed_and_checked_as_a_whole(stage: Stage, azure: StagedWorkspace) -> None:
    stage.faults.add(FlipByte(1000), GET)
    stage.faults.add(Truncate(after=3_000_000), GET)
    sink = fetched(azure)
    assert sink.bodies == {("big", 0): BODY}
    asked = ranges(stage)
    assert 2_900_000 < int(asked[1].split("-")[0]) <= 3_000_000, "what came is kept"
    assert asked[2] == asked[0], "until its end shows the damage"
    assert len(asked) == 5


@pytest.mark.parametrize(("tells_md5", "body", "error"), [(True, b"1234", None), (False, b"1234", ServiceFailed), (True, b"12345", ServiceFailed)])
def test_bytes_without_a_checksum_are_not_taken(tells_md5: bool, body: bytes, error: type[ServiceFailed] | None) -> None:
    sink = Received()
    with storage_that_lists(["a"], body, content_range="bytes 4-7/8", tells_md5=tells_md5) as store:
        store.fetch([FetchRequest(replace(blob, size=8), 4, 4, checked_each=MOST_CHECKED) for blob in listed(store)], sink, workers=1)
    assert [type(one) for one in sink.errors.values()] == ([error] if error else [])
    assert sink.bodies == ({} if error else {("a", 4): b"1234"})
