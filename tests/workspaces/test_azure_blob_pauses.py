"""How long a busy or silent storage service is waited for, and what is said of it."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from himl_cli.core.blobs import FetchRequest
from himl_cli.core.errors import ServiceFailed
from himl_cli.workspaces.retry import RetryPolicy
from tests.servers.azureml.faults import Stall, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT, HASTY_STORE, hasty_store
from tests.support.running import until
from tests.support.stores import Received, listed, named
from tests.workspaces.big_blob import BODY, GET
from tests.workspaces.big_blob import azure as azure


def test_service_outage_limits_retries_across_blobs(stage: Stage, azure: StagedWorkspace) -> None:
    azure.put_blobs(DEFAULT, {f"many/{number:02}": b"x" for number in range(40)})
    store, sink = hasty_store(azure), Received()
    blobs = listed(store, "many/")
    stage.faults.add(Status(500), "GET .*/many/", times=None)
    store.fetch([FetchRequest(blob, 0, 1) for blob in blobs], sink, workers=4)
    assert len(sink.errors) == 40
    assert len(stage.log.find("GET .*/many/")) <= 8 * HASTY_STORE.attempts + 32 * 2


def test_retry_after_is_waited_for(stage: Stage, azure: StagedWorkspace) -> None:
    stage.faults.add(Status(503, retry_after=1), GET)
    store, sink = hasty_store(azure), Received()
    blob, started = named(store, "big"), time.monotonic()
    store.fetch([FetchRequest(blob, 0, blob.size)], sink, workers=1)
    assert sink.bodies == {("big", 0): BODY}
    assert time.monotonic() - started >= 0.95


def test_a_pause_that_is_felt_is_said_once_for_all_that_make_it(stage: Stage, azure: StagedWorkspace, caplog: pytest.LogCaptureFixture) -> None:
    azure.put_blobs(DEFAULT, {f"many/{number}": b"x" for number in range(4)})
    store, sink = hasty_store(azure), Received()
    blobs = listed(store, "many/")
    stage.faults.add(Status(503, retry_after=2), "GET .*/many/", times=4)
    store.fetch([FetchRequest(blob, 0, 1) for blob in blobs], sink, workers=4)
    said = [record for record in caplog.records if record.levelname == "WARNING" and record.name.startswith("himl_cli")]
    text = f"Storage account '{azure.state.storage.account}' answered 503; trying again in 2 s"
    assert {record.getMessage() for record in said} == {text}
    assert all(later.created - earlier.created > 1.9 for earlier, later in pairwise(said)), "once as long as it lasts"
    assert len(sink.md5s) == 4


def test_milliseconds_to_wait_count_as_the_other_services_do(stage: Stage, azure: StagedWorkspace) -> None:
    stage.faults.add(Status(503, headers=(("x-ms-retry-after-ms", "700"),)), GET)
    store, sink = hasty_store(azure), Received()
    blob, started = named(store, "big"), time.monotonic()
    store.fetch([FetchRequest(blob, 0, blob.size)], sink, workers=1)
    assert sink.bodies == {("big", 0): BODY}
    assert time.monotonic() - started >= 0.65


def test_too_long_retry_after_fails_without_retry(stage: Stage, azure: StagedWorkspace) -> None:
    stage.faults.add(Status(503, retry_after=3600), GET, times=None)
    store, sink = hasty_store(azure), Received()
    blob = named(store, "big")
    store.fetch([FetchRequest(blob, 0, blob.size)], sink, workers=1)
    assert "asks to wait 3600 s" in str(sink.errors["big"])
    assert len(stage.log.find(GET)) == 1


def test_unresponsive_service_fails_after_three_tries(stage: Stage, azure: StagedWorkspace) -> None:
    stage.faults.add(Stall(120), GET, times=None)
    blob, sink = named(hasty_store(azure), "big"), Received()
    hasty_store(azure, stall=1).fetch([FetchRequest(blob, 0, blob.size)], sink, workers=1)
    assert "3 times in a row" in str(sink.errors["big"])
    until(lambda: len(stage.log.find(GET)) == 3)


def test_waiting_costs_no_processor_time(stage: Stage, azure: StagedWorkspace) -> None:
    stage.faults.add(Status(503), "comp=list", times=None)
    store = hasty_store(azure, retries=RetryPolicy(attempts=3, first=1.0))
    processor, clock = time.thread_time(), time.monotonic()
    with pytest.raises(ServiceFailed):
        listed(store)
    elapsed = time.monotonic() - clock
    assert elapsed > 1.0
    assert time.thread_time() - processor < elapsed / 4
