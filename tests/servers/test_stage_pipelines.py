"""Pipelines in the double, sent by plain requests: what is refused, and what becomes of the rest."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.servers.asking import Answer
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.state import Run
from tests.servers.submitting import call

JOB = "/jobs/pipe?api-version=2024-01-01-preview"
MAKE = "echo ${{inputs.word}} > ${{outputs.made}}/word.txt"
TAKE = "cat ${{inputs.made}}/word.txt"
FOLDER = {"type": "uri_folder"}


def put_component(azure: StagedWorkspace, command: str, *, version: str = "1", **fields: Any) -> Answer:
    spec = {"name": "azureml_anonymous", "version": "1", "type": "command", "command": command, "environment": azure.add_environment("training"), **fields}
    body = {"properties": {"isAnonymous": True, "componentSpec": spec}}
    return call(azure, "PUT", f"/components/azureml_anonymous/versions/{version}?api-version=2024-01-01-preview", body)


def component(azure: StagedWorkspace, command: str, version: str, **fields: Any) -> str:
    """The id of a component that was registered."""
    answer = put_component(azure, command, version=version, **fields)
    assert answer.status == 201, answer.body
    return str(answer.json["id"])


def making(azure: StagedWorkspace) -> dict[str, Any]:
    id = component(azure, MAKE, "make", inputs={"word": {"type": "string"}}, outputs={"made": FOLDER})
    return {"name": "make", "type": "command", "componentId": id, "inputs": {"word": {"job_input_type": "literal", "value": "hello"}}}


def taking(azure: StagedWorkspace, bound: str = "${{parent.jobs.make.outputs.made}}", command: str = TAKE, version: str = "take") -> dict[str, Any]:
    id = component(azure, command, version, inputs={"made": FOLDER})
    return {"name": "take", "type": "command", "componentId": id, "inputs": {"made": {"job_input_type": "literal", "value": bound}}}


def put_pipeline(azure: StagedWorkspace, jobs: Mapping[str, Any], **fields: Any) -> Answer:
    compute = f"{azure.state.path}/computes/cpu-cluster"
    settings = {"default_compute": compute, "continue_on_step_failure": False, **fields.pop("settings", {})}
    body = {"jobType": "Pipeline", "experimentName": "e", "displayName": "shown", "jobs": jobs, "inputs": {}, "outputs": {}, "settings": settings, **fields}
    return call(azure, "PUT", JOB, {"properties": body})


def ran(azure: StagedWorkspace, jobs: Mapping[str, Any], status: str = "Completed", **fields: Any) -> dict[str, Run]:
    """The runs of the steps, by name, of a pipeline that has ended in *status*."""
    with azure.run_jobs():
        answer = put_pipeline(azure, jobs, **fields)
        assert answer.status == 201, answer.body
        azure.wait_for("pipe", status)
    return {azure.state.runs[child].display_name: azure.state.runs[child] for child in azure.state.runs["pipe"].children}


def printed(azure: StagedWorkspace, run: Run) -> str:
    return azure.artifacts(run.run_id)["user_logs/std_log.txt"].decode()


def test_steps_run_in_order_and_pass_data_through_storage(azure: StagedWorkspace) -> None:
    steps = ran(azure, {"take": taking(azure), "make": making(azure)})
    assert printed(azure, steps["take"]) == "hello\n"
    make = steps["make"]
    assert make.ended is not None
    assert make.ended <= steps["take"].created
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", make.run_id)
    assert (make.run_type, make.parent_id, make.root_id, make.target) == ("azureml.StepRun", "pipe", "pipe", "cpu-cluster")
    assert make.tags == {"azureml.nodeid": make.properties["azureml.nodeid"], "azureml.pipeline": "pipe"}
    assert (make.properties["azureml.moduleName"], make.properties["azureml.moduleid"], make.properties["StepType"]) == (
        "azureml_anonymous",
        "make",
        "PythonScriptStep",
    )
    assert azure.blob_names("workspaceblobstore", "azureml/") == [f"azureml/{make.run_id}/made/word.txt"]


def test_the_pipeline_says_in_its_log_what_it_starts(azure: StagedWorkspace) -> None:
    steps = ran(azure, {"make": making(azure)})
    log = azure.artifacts("pipe")["logs/azureml/executionlogs.txt"].decode()
    assert steps["make"].run_id in log
    assert "Finishing experiment" in log
    assert azure.state.runs["pipe"].properties["azureml.runsource"] == "azureml.PipelineRun"


def test_a_step_comes_without_properties_from_resource_manager(azure: StagedWorkspace) -> None:
    steps = ran(azure, {"make": making(azure)})
    assert "properties" not in call(azure, "GET", f"/jobs/{steps['make'].run_id}").json
    pipeline = call(azure, "GET", "/jobs/pipe").json["properties"]
    assert (pipeline["status"], pipeline["jobs"]["make"]["name"]) == ("Completed", "make")


def test_pipeline_inputs_and_outputs_are_bound_to_steps(azure: StagedWorkspace) -> None:
    make = making(azure) | {"outputs": {"made": {"type": "literal", "value": "${{parent.outputs.all}}"}}}
    make["inputs"] = {"word": {"job_input_type": "literal", "value": "${{parent.inputs.word}}"}}
    ran(azure, {"make": make}, inputs={"word": {"jobInputType": "literal", "value": "bye"}}, outputs={"all": {"jobOutputType": "uri_folder"}})
    assert azure.get_blob("workspaceblobstore", "azureml/pipe/all/word.txt") == b"bye\n"
    assert azure.state.runs["pipe"].outputs["all"].uri.endswith("/azureml/pipe/all/")


def test_unset_optional_input_drops_its_command_part(azure: StagedWorkspace) -> None:
    fields = {"inputs": {"a": {"type": "string"}, "b": {"type": "string", "optional": True}}}
    id = component(azure, "echo ${{inputs.a}} $[[and ${{inputs.b}}]]", "o", **fields)
    given = {"a": {"job_input_type": "literal", "value": "one"}}
    both = given | {"b": {"job_input_type": "literal", "value": "two"}}
    nodes = {name: {"name": name, "type": "command", "componentId": id, "inputs": inputs} for name, inputs in {"one": given, "two": both}.items()}
    steps = ran(azure, nodes)
    assert [printed(azure, steps[name]).split() for name in ("one", "two")] == [["one"], ["one", "and", "two"]]


def test_failed_step_stops_pipeline_unless_set_to_continue(azure: StagedWorkspace) -> None:
    failing = taking(azure, command="cat ${{inputs.made}}/none.txt", version="fails")
    after = {"name": "after", "type": "command", "componentId": component(azure, "sleep 100", "sleep")}
    steps = ran(azure, {"make": making(azure), "take": failing, "after": after}, "Failed")
    assert {name: step.status for name, step in steps.items()} == {"make": "Completed", "take": "Failed", "after": "Canceled"}
    assert "take" in str(azure.state.runs["pipe"].error)
    azure.state.forget_run("pipe")
    quick = {"name": "quick", "type": "command", "componentId": component(azure, "sleep 1", "quick")}
    steps = ran(azure, {"make": making_again(azure), "take": failing, "quick": quick}, "Failed", settings={"continue_on_step_failure": True})
    assert {name: step.status for name, step in steps.items()} == {"make": "Completed", "take": "Failed", "quick": "Completed"}


def making_again(azure: StagedWorkspace) -> dict[str, Any]:
    id = f"{azure.state.path}/components/azureml_anonymous/versions/make"
    return {"name": "make", "type": "command", "componentId": id, "inputs": {"word": {"job_input_type": "literal", "value": "hello"}}}


def test_a_cancelation_ends_all_steps(azure: StagedWorkspace) -> None:
    sleep = {"name": "sleep", "type": "command", "componentId": component(azure, "sleep 100", "sleep")}
    with azure.run_jobs():
        assert put_pipeline(azure, {"sleep": sleep, "make": making(azure), "take": taking(azure)}).status == 201
        child = wait_for_step(azure, "sleep", "Running")
        assert call(azure, "POST", "/jobs/pipe/cancel").status == 202
        azure.wait_for("pipe", "Canceled")
    assert child.status == "Canceled"


def test_step_is_canceled_by_run_history_not_resource_manager(azure: StagedWorkspace) -> None:
    sleep = {"name": "sleep", "type": "command", "componentId": component(azure, "sleep 100", "sleep")}
    with azure.run_jobs():
        put_pipeline(azure, {"sleep": sleep})
        child = wait_for_step(azure, "sleep", "Running")
        assert call(azure, "POST", f"/jobs/{child.run_id}/cancel").status == 400
        history = f"https://{azure.state.data_plane_host}/history/v1.0{azure.state.path}/experiments/e/runs/{child.run_id}/cancel"
        assert call(azure, "POST", history).status == 200
        azure.wait_for("pipe", "Failed")
    assert child.status == "Canceled"


def wait_for_step(azure: StagedWorkspace, name: str, status: str) -> Run:
    """The run of a step once it is in *status*."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [azure.state.runs[child] for child in azure.state.runs["pipe"].children]
        run = next((one for one in found if one.display_name == name and one.status == status), None)
        if run is not None:
            return run
        time.sleep(0.02)
    raise AssertionError(f"{name} is not {status}")


def test_step_reuses_earlier_results_unless_forced_to_rerun(azure: StagedWorkspace) -> None:
    first = ran(azure, {"make": making(azure)})["make"]
    azure.state.runs["earlier"] = azure.state.runs.pop("pipe")
    again = ran(azure, {"make": making_again(azure)})["make"]
    assert (again.properties["azureml.reusedrunid"], again.data_container_id) == (first.run_id, first.data_container_id)
    assert again.outputs["made"].uri == first.outputs["made"].uri
    azure.state.runs["later"] = azure.state.runs.pop("pipe")
    anew = ran(azure, {"make": making_again(azure)}, settings={"force_rerun": True})["make"]
    assert "azureml.isreused" not in anew.properties


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({}, 400, "needs 'jobs'"),
        ({"make": {"componentId": "/components/azureml_anonymous/versions/none"}}, 404, "Component .* not found"),
        ({"make": {"type": "spark"}}, 400, "type 'spark'"),
        ({"make": {"computeId": "/computes/none"}}, 400, "Unknown compute target 'none'"),
        ({"make": {"inputs": {}}}, 400, "jobs.make: the inputs word are missing"),
        ({"make": {"inputs": {"other": {"job_input_type": "literal", "value": "x"}}}}, 400, "no such input"),
        ({"make": {"inputs": {"word": {"job_input_type": "literal", "value": "${{parent.inputs.none}}"}}}}, 400, "names nothing"),
        ({"make": {"outputs": {"none": {"mode": "Upload"}}}}, 400, "no such output"),
        ({"make": {"outputs": {"made": {"value": "${{parent.outputs.none}}"}}}}, 400, "names nothing"),
        ({"take": {"inputs": {"made": {"value": "${{parent.jobs.none.outputs.made}}"}}}}, 400, "names nothing"),
        ({"take": {"inputs": {"made": {"value": "${{parent.jobs.make.outputs.none}}"}}}}, 400, "names nothing"),
        ({"take": {"inputs": {"made": {"value": "a ${{parent.jobs.make.outputs.made}}"}}}}, 400, "is no binding"),
    ],
)
def test_a_wrong_pipeline_is_refused(azure: StagedWorkspace, change: dict[str, Any], status: int, message: str) -> None:
    good = {"make": making(azure), "take": taking(azure)}
    answer = put_pipeline(azure, {name: node | change.get(name, {}) for name, node in good.items()} if change else {})
    assert (answer.status, bool(re.search(message, answer.json["error"]["message"]))) == (status, True), answer.body
    assert "pipe" not in azure.state.runs


def test_a_cycle_is_refused(azure: StagedWorkspace) -> None:
    id = component(azure, "cp ${{inputs.i}}/x ${{outputs.o}}/", "c", inputs={"i": FOLDER}, outputs={"o": FOLDER})

    def node(name: str, other: str) -> dict[str, Any]:
        return {"name": name, "type": "command", "componentId": id, "inputs": {"i": {"value": f"${{{{parent.jobs.{other}.outputs.o}}}}"}}}

    answer = put_pipeline(azure, {"a": node("a", "b"), "b": node("b", "a")})
    assert (answer.status, "cycle: a, b" in answer.json["error"]["message"]) == (400, True)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"command": "echo ${{inputs.none}}"}, 400),
        ({"environment": ""}, 400),
        ({"environment": "azureml:none:1"}, 404),
        ({"code": "azureml:/codes/none/versions/1"}, 404),
    ],
)
def test_a_wrong_component_is_refused(azure: StagedWorkspace, fields: dict[str, Any], status: int) -> None:
    assert put_component(azure, fields.pop("command", "true"), **fields).status == status


def test_a_component_is_registered_once(azure: StagedWorkspace) -> None:
    assert [put_component(azure, command).status for command in ("true", "false")] == [201, 200]
    assert call(azure, "GET", "/components/azureml_anonymous/versions/1").json["properties"]["componentSpec"]["command"] == "true"
