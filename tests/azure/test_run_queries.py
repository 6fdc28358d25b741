"""The double's filter language and its pages: what azureml-core and azure-ai-ml send is understood, and nothing else."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from tests.servers.azureml.answers import ServiceError
from tests.servers.azureml.history_query import RunQuery, page_of
from tests.servers.azureml.state import Experiment, Run
from tests.support.hostile_texts import SECONDS, within

BEGUN = datetime(2026, 3, 1, tzinfo=timezone.utc)


def made(run_id: str, **fields: object) -> Run:
    given = {"status": "Completed", "created": BEGUN, "started": BEGUN, "ended": None, "number": 1, "parent_id": None} | fields
    return Run(run_id=run_id, experiment=EXPERIMENT, display_name=run_id, user_name="Ada", data_container_id=f"dcid.{run_id}", **given)  # type: ignore[arg-type]


EXPERIMENT = Experiment("lungs")
RUNS = [
    made("a", tags={"kind": "best", "odd key": "1"}, created=BEGUN - timedelta(days=2), properties={"azureml.runsource": "hyperdrive"}),
    made("b", tags={"kind": "it's"}, status="Running", target="cpu"),
    made("c", parent_id="a", root_id="a", created=BEGUN + timedelta(days=1), hidden=True),
    made("d", status="Failed", tags={"kind": "no (not) this", "and": "or"}, started=None),
]


def found(text: str | None, order: str = "CreatedUtc asc") -> str:
    return "".join(run.run_id for run in page_of(RUNS, RunQuery(text, order), limit=500).runs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "abdc"),
        ("(ParentRunId eq null)", "abd"),
        ("ParentRunId ne null", "c"),
        ('(Tags/kind eq "best")', "a"),
        ("Tags/kind eq 'it''s'", "b"),
        ('Tags/kind ne "best"', "bd"),
        ("(Tags/kind ne null or Tags/kind eq null)", "abd"),
        ('Tags/odd key eq "1"', "a"),
        ('Tags/kind eq "no (not) this"', "d"),
        ('Tags/and eq "or"', "d"),
        ("((Status eq Running) and (Tags/kind ne null or Tags/kind eq null))", "b"),
        ("Status eq Completed or Status eq Failed and Target eq cpu", "ac"),
        ("(Status eq Completed or Status eq Failed) and Target eq cpu", ""),
        ("not (Status eq Completed)", "bd"),
        ("(RunType eq hyperdrive or Properties/azureml.runsource eq hyperdrive)", "a"),
        ("(RunTypeV2/Traits/remote ne null) or (RunTypeV2/Traits/remote eq null)", "abdc"),
        ("(RunTypeV2/Traits/automl ne null) or (RunTypeV2/Traits/automl eq null)", ""),
        ("(RunTypeV2/Orchestrator eq Execution) and RunId eq d", "d"),
        ("(CreatedUtc ge 2026-03-01T00:00:00Z)", "bdc"),
        ("(CreatedUtc ge 2026-03-01 00:00:00.000001+00:00)", "c"),
        ("CreatedUtc lt 2026-03-01T01:00:00.0000000+01:00", "a"),
        ("RunId eq a or RunId eq b", "ab"),
        ("(RootRunId eq a and RunId ne a)", "c"),
        ("Hidden eq true", "c"),
        ("StartTimeUtc eq null", "d"),
    ],
)
def test_a_filter_finds_what_it_says(text: str | None, expected: str) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Status eq",
        "Status is Running",
        "(Status eq Running",
        "Status eq Running)",
        "Status eq Running and",
        "Colour eq red",
        'Tags/kind eq "a" b',
        'Tags/kind eq "a"b"',
        "CreatedUtc gt null",
        "CreatedUtc gt yesterday",
        "RunNumber gt many",
        "contains(Status, 'x')",
    ],
)
def test_a_filter_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ServiceError, match="Invalid filter") as refused:
        found(text)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("order", "expected"),
    [("CreatedUtc desc", "cdba"), ("StartTimeUtc desc", "cbad"), ("RunId desc", "dcba"), ("RunId", "abcd"), ("runid ASC", "abcd")],
)
def test_runs_come_in_the_order_asked_for(order: str, expected: str) -> None:
    assert found(None, order) == expected


@pytest.mark.parametrize("order", ["Colour desc", "RunId down"])
def test_an_order_that_means_nothing_is_refused(order: str) -> None:
    with pytest.raises(ServiceError, match="Invalid order"):
        found(None, order)


def test_pages_hold_each_run_once_up_to_service_limit() -> None:
    runs = [made(f"r{place}", number=place, created=BEGUN + timedelta(seconds=place)) for place in range(25)]
    seen, sizes, token = [], [], None
    while True:
        page = page_of(runs, RunQuery("Status eq Completed", "CreatedUtc desc", 100, token), limit=10)
        seen += [run.number for run in page.runs]
        sizes.append(len(page.runs))
        token = page.token
        if token is None:
            break
    assert (seen, sizes) == (list(range(24, -1, -1)), [10, 10, 5])
    assert len(page_of(runs, RunQuery(top=3), limit=10).runs) == 3


@pytest.mark.parametrize("token", ["bm9ib2R5", "%%%", "_w=="])
def test_a_token_that_nobody_gave_is_refused(token: str) -> None:
    with pytest.raises(ServiceError, match="continuation token"):
        page_of(RUNS, RunQuery(token=token), limit=10)


def test_a_page_of_100_000_runs_takes_a_moment() -> None:
    runs = [made(f"r{place}", number=place, created=BEGUN + timedelta(seconds=place)) for place in range(100_000)]
    with within(SECONDS):
        page = page_of(runs, RunQuery('(Tags/kind eq "best")', "CreatedUtc desc", 20), limit=500)
    assert (page.runs, page.token) == ([], None)
