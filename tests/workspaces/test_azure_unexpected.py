"""Answers that do not have the form they should have: each ends in one clear error, none in "no runs" or a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from himl_cli.core.errors import ServiceFailed
from himl_cli.core.runs import RunQuery
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.faults import Page, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl

Ask = Callable[[AzureWorkspace], object]

ASKED: dict[str, tuple[str, Ask]] = {
    "an experiment's runs": ("runs:query", lambda workspace: list(workspace.runs(RunQuery("exp")))),
    "the workspace's runs": ("/index/", lambda workspace: list(workspace.runs(RunQuery()))),
    "records of runs": ("/batchrundata", lambda workspace: list(workspace.runs(RunQuery()))),
    "children": ("/children", lambda workspace: list(workspace.runs(RunQuery(parent="run_1")))),
    "a run": ("GET .*/runs/run_1$", lambda workspace: workspace.run("run_1")),
    "a run's place": ("GET .*/runs/run_1$", lambda workspace: workspace.run_files("run_1")),
    "an experiment": ("/experimentids/", lambda workspace: workspace.run("run_1")),
    "a tagged run": ("PATCH .*/runs/run_1", lambda workspace: workspace.tag("run_1", {"a": "b"})),
    "nested runs": ("/children", lambda workspace: workspace.metrics("run_1")),
    "names of metrics": ("/metric/.*/list", lambda workspace: workspace.metrics("run_1")),
    "points of a metric": ("/metric/.*/full", lambda workspace: workspace.metrics("run_1")),
    "parameters": ("/mlflow/.*/runs/get", lambda workspace: workspace.parameters("run_1")),
    "outputs": ("/rundata", lambda workspace: workspace.output_files("run_1", "data")),
    "an asset's place": ("batchGetResolvedUris", lambda workspace: workspace.output_files("run_1", "data")),
}
FORMS = [
    *("{}", "[]", '""', "null", "3"),
    *('{"value": [{}]}', '{"value": {}}', '{"value": [3]}', '{"run": null}'),
    '{"value": [], "nextLink": {"x": 1}, "continuationToken": {"x": 1}}',
]
ODD_RUNS = [
    {"runId": 3},
    {"experimentId": None},
    {"properties": ["x"]},
    {"properties": {"runTemplate": 1}},
    {"dataContainerId": ["x"]},
    {"status": 7},
    {"tags": "none"},
    {"status": "Failed", "error": "x"},
    {"createdUtc": 3},
    {"tags": 3},
    {"parentRunId": ["x"]},
    {"runTypeV2": 3},
]


def stage_run(azure: StagedWorkspace) -> None:
    run = azure.add_run("run_1", "exp")
    azure.add_metric(run, "loss", [1.0])
    azure.add_output(run, "data", {"file": b"1"})


def page(form: object) -> Page:
    return Page(form if isinstance(form, str) else json.dumps(form), content_type="application/json")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("asked", list(ASKED))
def test_an_answer_of_another_form_is_a_failure_of_the_service(workspace: AzureWorkspace, azure: StagedWorkspace, asked: str, form: str) -> None:
    stage_run(azure)
    match, ask = ASKED[asked]
    azure.stage.faults.add(page(form), match, times=None)
    with pytest.raises(ServiceFailed, match=r"^eastus\.api\.azureml\.ms answered with something unexpected: ") as caught:
        ask(workspace)
    assert caught.value.exit_code == 5
    assert caught.value.hint


@pytest.mark.parametrize("odd", ODD_RUNS, ids=str)
def test_a_run_with_an_odd_field_is_a_failure_of_the_service(workspace: AzureWorkspace, azure: StagedWorkspace, odd: dict[str, object]) -> None:
    stage_run(azure)
    whole = {"runId": "run_1", "experimentId": azure.state.experiment("exp").experiment_id, "status": "Completed"}
    azure.stage.faults.add(page(whole | odd), "GET .*/runs/run_1$", times=None)
    with pytest.raises(ServiceFailed, match=r"answered with something unexpected"):
        workspace.run("run_1")


@pytest.mark.parametrize("odd", ODD_RUNS, ids=str)
def test_odd_runs_in_a_list_are_a_failure_of_the_service_too(workspace: AzureWorkspace, azure: StagedWorkspace, odd: dict[str, object]) -> None:
    stage_run(azure)
    whole = {"runId": "run_1", "experimentId": azure.state.experiment("exp").experiment_id, "status": "Completed"}
    azure.stage.faults.add(page({"value": [whole | odd]}), "runs:query", times=None)
    with pytest.raises(ServiceFailed, match=r"answered with something unexpected"):
        list(workspace.runs(RunQuery("exp")))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[" * 3000 + "]" * 3000, "it is nested too deeply"),
        ('{"value": ' + "9" * 5000 + "}", "it holds a number that is too long"),
        (r'{"value": ["\ud800"]}', "it holds half a character"),
    ],
    ids=["nested", "long", "half"],
)
@pytest.mark.parametrize("asked", list(ASKED))
def test_json_that_cannot_be_held_is_a_failure_of_the_service(workspace: AzureWorkspace, azure: StagedWorkspace, asked: str, text: str, complaint: str) -> None:
    stage_run(azure)
    match, ask = ASKED[asked]
    azure.stage.faults.add(page(text), match, times=None)
    with pytest.raises(ServiceFailed, match=rf"^eastus\.api\.azureml\.ms answered with application/json that is no JSON: {complaint}\.$"):
        ask(workspace)


@pytest.mark.parametrize("form", FORMS)
def test_a_list_of_jobs_of_another_form_is_a_failure_too(workspace: AzureWorkspace, azure: StagedWorkspace, form: str) -> None:
    stage_run(azure)
    azure.stage.faults.add(Status(404), "/index/", times=None)
    azure.stage.faults.add(page(form), r"/jobs\?", times=None)
    with pytest.raises(ServiceFailed, match=r"management\.azure\.com answered with something unexpected"):
        list(workspace.runs(RunQuery()))


def test_malformed_run_response_ends_commands_with_exit_code_5(himl: Himl, azure: StagedWorkspace, project: Path) -> None:
    azure.write_config(project)
    stage_run(azure)
    azure.stage.faults.add(page("{}"), "/history/|/index/", times=None)
    for command in (["list"], ["show", "run_1"]):
        outcome = himl("runs", *command, env=azure.environment())
        assert (outcome.code, "answered with something unexpected" in outcome.stderr) == (5, True)
        assert "No runs" not in outcome.stdout + outcome.stderr


ENDLESS = {
    "an experiment's runs": '{"value": [], "continuationToken": "x"}',
    "the workspace's runs": '{"value": [], "continuationToken": "x"}',
    "children": '{"value": [], "continuationToken": "x"}',
    "names of metrics": '{"value": [], "continuationToken": "x"}',
    "points of a metric": '{"value": [], "columns": {"loss": "Double"}, "continuationToken": "x"}',
}


@pytest.mark.parametrize("asked", list(ENDLESS))
def test_a_list_that_names_the_same_page_again_is_a_failure(workspace: AzureWorkspace, azure: StagedWorkspace, asked: str) -> None:
    stage_run(azure)
    match, ask = ASKED[asked]
    azure.stage.faults.add(page(ENDLESS[asked]), match, times=None)
    with pytest.raises(ServiceFailed, match=r"unexpected: its list of (runs|metrics) does not end"):
        ask(workspace)
    assert len(azure.stage.log.find(match)) == 2


def test_a_link_that_leads_back_is_a_failure(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    stage_run(azure)
    azure.stage.faults.add(Status(404), "/index/", times=None)
    azure.stage.faults.add(page('{"value": [], "nextLink": "https://management.azure.com/more"}'), r"/jobs\?|/more", times=None)
    with pytest.raises(ServiceFailed, match="its list of jobs does not end"):
        list(workspace.runs(RunQuery()))
    assert len(azure.stage.log.find("/more")) == 1
