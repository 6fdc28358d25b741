"""Lists of runs of an Azure ML workspace: which come, in which order, and how many requests that takes."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from itertools import islice

import pytest

from himl_cli.core.errors import NotAllowed, ServiceFailed, WorkspaceNotFound
from himl_cli.core.runs import RunQuery, RunStatus
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.faults import Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import add_many, ids, newest, times

QUERIES = r"runs:query"
STATES = {
    RunStatus.queued: ("NotStarted", "Unapproved", "Starting", "Provisioning", "Preparing", "Queued", "Paused"),
    RunStatus.running: ("Running", "Finalizing", "CancelRequested", "Pausing", "NotResponding"),
    RunStatus.completed: ("Completed",),
    RunStatus.failed: ("Failed",),
    RunStatus.canceled: ("Canceled",),
}


def test_run_list_of_100000_runs_requests_only_needed_page(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.state.page_size = 1000
    add_many(azure, 100_000)
    assert ids(workspace, RunQuery("many", limit=20)) == newest(20, of=100_000)
    (asked,) = azure.stage.log.find(QUERIES)
    assert asked.received < 40 * 4000, "about as many runs as wanted"


def test_pages_are_asked_for_as_runs_are_consumed(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    add_many(azure, 1200)
    runs = workspace.runs(RunQuery("many"))
    assert azure.requests(QUERIES) == []
    assert [run.id for run in islice(runs, 500)] == newest(500, of=1200)
    assert len(azure.requests(QUERIES)) == 1
    assert [run.id for run in runs] == newest(1200, of=1200)[500:]
    assert len(azure.requests(QUERIES)) == 3


@pytest.mark.parametrize("query", [RunQuery("many"), RunQuery("many", limit=17), RunQuery(), RunQuery(limit=17), RunQuery(parent="0")])
def test_small_pages_of_the_service_lose_no_run_and_repeat_none(workspace: AzureWorkspace, azure: StagedWorkspace, query: RunQuery) -> None:
    azure.state.page_size = 4
    add_many(azure, 30)
    for number, time in zip(range(30, 40), times(), strict=False):
        azure.add_run(str(number), "many", created=time, parent="0")
    expected = newest(10, of=40) if query.parent else newest(query.limit or 30, of=30)
    assert ids(workspace, query) == expected


@pytest.mark.parametrize("experiment", ["many", None])
def test_archived_runs_are_left_out_without_a_page_more(workspace: AzureWorkspace, azure: StagedWorkspace, experiment: str | None) -> None:
    add_many(azure, 30)
    for number in (29, 27):
        azure.state.runs[str(number)].hidden = True
    assert ids(workspace, RunQuery(experiment, limit=3)) == ["28", "26", "25"]
    assert len(azure.requests(r"runs:query|/index/")) == 1
    assert workspace.run("29").id == "29"


def test_hundreds_of_archived_runs_are_skipped_in_few_requests(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    add_many(azure, 400)
    for number in range(1, 400):
        azure.state.runs[str(number)].hidden = True
    assert ids(workspace, RunQuery("many", limit=1)) == ["0"]
    assert len(azure.requests(QUERIES)) <= 4


@pytest.mark.parametrize("experiment", ["states", None])
@pytest.mark.parametrize("status", list(RunStatus))
def test_every_state_is_found_by_our_status(workspace: AzureWorkspace, azure: StagedWorkspace, status: RunStatus, experiment: str | None) -> None:
    for states in STATES.values():
        for state in states:
            azure.add_run(f"run-{state}", "states", status=state)
    assert sorted(ids(workspace, RunQuery(experiment, statuses=[status]))) == sorted(f"run-{state}" for state in STATES[status])


@pytest.mark.parametrize("parent", [None, "0"])
@pytest.mark.parametrize("refused", [["CreatedUtc desc"], ["CreatedUtc desc", "StartTimeUtc desc"]])
def test_an_order_that_is_refused_costs_no_run_and_not_the_order(
    workspace: AzureWorkspace, azure: StagedWorkspace, refused: list[str], parent: str | None
) -> None:
    """Some began a while after they were made, others never; the newest waits."""
    azure.state.refused_orders = refused
    azure.state.page_size = 4
    add_many(azure, 1)
    for number in range(20):
        made = next(times()) + timedelta(hours=number + 1)
        run = azure.add_run(f"r{number}", "many", created=made, parent=parent)
        run.started = None if number in (3, 12, 19) else made + timedelta(minutes=number % 2 * 10)
    expected = [f"r{19 - number}" for number in range(20)] + ([] if parent else ["0"])
    query = RunQuery(parent=parent) if parent else RunQuery("many")
    assert ids(workspace, query) == expected
    azure.stage.log.clear()
    assert ids(workspace, replace(query, limit=1)) == ["r19"]
    kept = 2 if len(refused) == 1 else 6
    assert len(azure.requests(r"runs:query|/children")) <= kept, "the refused order is not asked for again"
    queued = replace(query, statuses=[RunStatus.completed], limit=2)
    assert ids(workspace, queued) == ["r19", "r18"]


def test_several_statuses_are_asked_for_at_once(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    for state in ("Running", "Failed", "Completed", "Queued"):
        azure.add_run(state, "states", status=state)
    assert sorted(ids(workspace, RunQuery("states", statuses=[RunStatus.running, RunStatus.failed]))) == ["Failed", "Running"]


@pytest.mark.parametrize("experiment", ["tagged", None])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("team", "blue"),
        ("team", "a b: c/d@e=1,2"),
        ("team", "quoted \"x\" and 'y'"),
        ("team", "größe"),
        ("team", ""),
        ("team", "x) or (Status eq Running"),
        ("a b", "1"),
        ("größe", "1"),
        ("a/b", "1"),
        ("run_recovery_id", "train:train_1_aa"),
        ("mlflow.user", "ada"),
        ("team", "null"),
    ],
)
def test_tags_are_compared_exactly_whatever_they_hold(workspace: AzureWorkspace, azure: StagedWorkspace, name: str, value: str, experiment: str | None) -> None:
    add_many(azure, 3, "tagged")
    azure.add_run("wanted", "tagged", tags={name: value, "other": "1"})
    azure.add_run("other", "tagged", tags={name: value + "x", "other": "1"})
    assert ids(workspace, RunQuery(experiment, tags={name: value})) == ["wanted"]
    assert ids(workspace, RunQuery(experiment, tags={name: value, "other": "2"})) == []


def test_an_experiment_that_is_not_there_has_no_runs(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("r1", "train")
    assert [ids(workspace, RunQuery(name)) for name in ("nothing", "", "..", "a/b", "größe")] == [[], [], [], [], []]


@pytest.mark.parametrize("name", ["a b", "größe", "50%", "a#b?c", "a&b=c"])
def test_an_experiment_of_an_odd_name_is_found(workspace: AzureWorkspace, azure: StagedWorkspace, name: str) -> None:
    azure.add_run("r1", name)
    assert [run.experiment for run in workspace.runs(RunQuery(name))] == [name]


@pytest.mark.parametrize("parent", ["nothing", "..", ""])
def test_a_run_that_is_not_there_has_no_children(workspace: AzureWorkspace, azure: StagedWorkspace, parent: str) -> None:
    azure.add_run("r1")
    assert ids(workspace, RunQuery(parent=parent)) == []


def test_children_are_picked_by_their_conditions(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("sweep", "train")
    for number, state in enumerate(("Completed", "Failed", "Completed")):
        azure.add_run(f"sweep_{number}", "train", parent="sweep", status=state, tags={"fold": str(number)})
    assert ids(workspace, RunQuery(parent="sweep", statuses=[RunStatus.completed])) == ["sweep_2", "sweep_0"]
    assert ids(workspace, RunQuery("train", parent="sweep", tags={"fold": "1"})) == ["sweep_1"]
    assert ids(workspace, RunQuery("other", parent="sweep")) == []
    assert ids(workspace, RunQuery("train")) == ["sweep"]


def test_runs_that_are_made_while_the_list_is_read_repeat_none(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.state.page_size = 4
    add_many(azure, 10)
    runs = workspace.runs(RunQuery())
    seen = [next(runs).id]
    for number in range(3):
        azure.add_run(f"new{number}", "many")
    seen += [run.id for run in runs]
    assert seen == newest(10, of=10)


@pytest.mark.parametrize("query", [RunQuery("many", tags={"fold": "1"}), RunQuery(parent="0", statuses=[RunStatus.failed])])
def test_filter_refused_by_run_history_is_applied_locally(workspace: AzureWorkspace, azure: StagedWorkspace, query: RunQuery) -> None:
    """A service that refuses every form of the request is an error."""
    add_many(azure, 150)
    azure.add_run("wanted", "many", status="Failed", tags={"fold": "1"}, parent=query.parent)
    azure.add_run("other", "many", tags={"fold": "2"}, parent=query.parent)
    orders = 3  # the order may be what is not taken
    azure.stage.faults.add(Status(400, code="UserError"), match="runs:query|/children", times=orders)
    assert ids(workspace, query) == ["wanted"]
    azure.stage.faults.add(Status(400, code="UserError"), match="runs:query|/children", times=None)
    with pytest.raises(ServiceFailed, match="400"):
        ids(workspace, query)


@pytest.mark.parametrize("query", [RunQuery("many"), RunQuery(), RunQuery(parent="0")])
def test_a_list_survives_a_moment_of_trouble_and_tells_a_refusal(workspace: AzureWorkspace, azure: StagedWorkspace, query: RunQuery) -> None:
    add_many(azure, 2)
    azure.add_run("child", "many", parent="0")
    asking = r"runs:query|/index/|/children"
    azure.stage.faults.add(Status(503, retry_after=0), match=asking, times=2)
    assert ids(workspace, query) == (["child"] if query.parent else ["1", "0"])
    azure.stage.faults.add(Status(403, code="AuthorizationFailed"), match=asking)
    with pytest.raises(NotAllowed):
        ids(workspace, query)
    azure.stage.faults.add(Status(500, retry_after=0), match=asking, times=None)
    with pytest.raises(ServiceFailed, match="500"):
        ids(workspace, query)


def test_deleted_workspace_raises_workspace_not_found(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    add_many(azure, 1)
    assert ids(workspace, RunQuery("many")) == ["0"]
    kept = azure.stage.azure.workspaces
    del kept[next(key for key, one in kept.items() if one is azure.state)]
    for query in (RunQuery("many"), RunQuery(), RunQuery(parent="0")):
        with pytest.raises(WorkspaceNotFound):
            ids(workspace, query)
    with pytest.raises(WorkspaceNotFound):
        workspace.run("0")


@pytest.mark.parametrize("seed", range(3))
def test_any_query_gives_what_it_says(workspace: AzureWorkspace, azure: StagedWorkspace, seed: int) -> None:
    """Against the plain meaning of each query, over runs and queries made by chance."""
    chance = random.Random(seed)
    azure.state.page_size = chance.choice([3, 7, 500])
    states = [(status, state) for status, names in STATES.items() for state in names]
    known: list[tuple[str, str, RunStatus, dict[str, str], str | None, bool]] = []  # oldest first
    for number, time in zip(range(60), times(), strict=False):
        (status, state), experiment = chance.choice(states), chance.choice(["a", "b c"])
        tags = {name: chance.choice(["x", 'y"', "ü"]) for name in chance.sample(["k", "odd name", "mlflow.user"], chance.randint(0, 3))}
        parent = chance.choice([None, None, "0", "1"]) if number > 1 else None
        hidden = number > 1 and chance.random() < 0.2
        azure.add_run(str(number), experiment, status=state, created=time, tags=tags, parent=parent, hidden=hidden)
        known.append((str(number), experiment, status, tags, parent, hidden))
    for _ in range(40):
        query = RunQuery(
            experiment=chance.choice([None, "a", "b c", "none"]),
            statuses=chance.sample(list(RunStatus), chance.randint(0, 3)),
            tags={name: chance.choice(["x", 'y"', "ü"]) for name in chance.sample(["k", "odd name", "mlflow.user"], chance.choice([0, 0, 1, 2]))},
            parent=chance.choice([None, "0", "1"]),
            limit=chance.choice([None, 0, 1, 4, 100]),
        )
        expected = [
            run_id
            for run_id, experiment, status, tags, parent, hidden in reversed(known)
            if not hidden
            and parent == query.parent
            and query.experiment in (None, experiment)
            and (not query.statuses or status in query.statuses)
            and query.tags.items() <= tags.items()
        ]
        assert ids(workspace, query) == expected[: query.limit], query
