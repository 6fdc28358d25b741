"""Jobs, sweeps and pipelines of the double, where no client proves it: rejected jobs, their environment, inputs and
outputs, and how each ends.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.azureml_double.seeding import DEFAULT, StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.azureml_double.tests.asking import (
    Answer,
    call,
    data_plane,
    ended,
    limits,
    printed,
    put_command,
    put_job,
    put_sweep,
    token_for,
    trials,
)
from tests.support.processes import MARK, processes_marked
from tests.support.running import until

SHORT = "azureml://datastores/workspaceblobstore/paths/"
SLEEP = "trap 'echo asked to end; exit 3' TERM; echo begun; while true; do sleep 0.02; done"
FOLDER = {"type": "uri_folder"}
RANDOM, BAYESIAN = {"samplingAlgorithmType": "Random", "seed": 7}, {"samplingAlgorithmType": "Bayesian"}


@pytest.fixture
def running(azure: StagedWorkspace) -> Iterator[StagedWorkspace]:
    """A workspace with data that runs submitted jobs."""
    azure.put_blobs(DEFAULT, {"scans/a.txt": b"A", "scans/deep/b c.txt": b"B", "scans-old/c.txt": b"C"})
    with azure.run_jobs(minute=0.2):
        yield azure


def wait_for_text(azure: StagedWorkspace, text: str) -> None:
    until(lambda: text in azure.logs("job_1"), lambda: azure.logs("job_1"))


def folder(uri: str, **more: Any) -> dict[str, Any]:
    return {"jobInputType": "uri_folder", "uri": uri, "mode": "ReadOnlyMount", **more}


def output(kind: str = "uri_folder", **more: Any) -> dict[str, Any]:
    return {"jobOutputType": kind, "mode": "ReadWriteMount", **more}


def test_a_job_that_names_what_is_not_there_is_refused(azure: StagedWorkspace) -> None:
    # This token is for Resource Manager.
    token = {"x-azureml-token": token_for(azure.stage, azure.state.principal)}
    changes: list[tuple[dict[str, Any], int]] = [
        ({"command": None}, 400),
        ({"command": "cat ${{inputs.nothing}}"}, 400),
        ({"computeId": "/computes/none"}, 400),
        ({"codeId": "/codes/none/versions/1"}, 404),
        ({"environmentId": "azureml:other@latest"}, 404),
        ({"experimentName": "two words"}, 400),
        ({"inputs": {"x": {"jobInputType": "uri_folder", "uri": "azureml:none:1"}}}, 404),
        ({"resources": {"shmSize": "100 GB"}}, 400),
        ({"limits": {"jobLimitsType": "Command", "timeout": "PT1.5S"}}, 400),
        ({"identity": {"identityType": "UserIdentity"}}, 400),
        ({"identity": {"identityType": "UserIdentity"}, "headers": token}, 400),
        *(({"name": name}, 400) for name in ("-a", "a.b", "a" * 256)),
    ]
    for change, status in changes:
        assert put_command(azure, **{"command": "python train.py", **change}).status == status, change
    assert (put_job(azure, "Dance").status, azure.state.runs) == (400, {})
    assert put_command(azure, "python train.py", environmentId="azureml:AzureML-torch@latest").status == 201
    again = put_command(azure, "python other.py")
    assert (again.status, "JobPropertyImmutable" in again.body.decode(), list(azure.state.runs)) == (
        400,
        True,
        ["job_1"],
    )


def test_a_job_leaves_logs_and_outputs_and_sees_no_foreign_variables(
    running: StagedWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "leaks")
    writes = (
        "echo hello; echo oops >&2; mkdir outputs; echo 1 > outputs/a.txt; mkdir -p logs/deep; env > "
        "logs/deep/env; echo 3 > other; exit 7"
    )
    run = ended(
        running,
        put_command(running, writes, environmentVariables={"EPOCHS": "3", "AZUREML_RUN_ID": "another"}),
        "Failed",
    )
    files = running.artifacts(run.run_id)
    variables = files.pop("logs/deep/env").decode()
    assert files == {"user_logs/std_log.txt": b"hello\noops\n", "outputs/a.txt": b"1\n"}
    assert not re.search("leaks|AZURE_CLIENT|OBO_ENDPOINT|MSI_ENDPOINT", variables)
    assert {"EPOCHS=3", "AZUREML_RUN_ID=job_1", f"AZUREML_ARM_WORKSPACE_NAME={running.state.name}"} <= set(
        variables.splitlines()
    )
    assert "exited with status code 7. Please check log file 'user_logs/std_log.txt'" in str(run.error)


def test_cancelation_waits_for_the_end_which_the_job_hears(running: StagedWorkspace) -> None:
    put_command(running, SLEEP)
    wait_for_text(running, "begun")
    where, found = call(running, "POST", "/jobs/job_1/cancel").headers["location"], set[int]()
    while (status := call(running, "GET", where).status) != 200:
        found.add(status)
        time.sleep(0.02)
    assert (found, running.state.runs["job_1"].status) == ({202}, "Canceled")
    assert printed(running, running.state.runs["job_1"]).endswith("asked to end\n")


def test_nothing_of_a_job_outlives_its_workspace(stage: Stage) -> None:
    def sleeping() -> list[str]:
        return [line for line in processes_marked(os.environ[MARK], patience=0) if "sleep 600" in line]

    with stage.own_workspaces():
        azure = stage.workspace()
        azure.run_jobs()
        put_command(azure, "setsid sleep 600 & (trap '' TERM; sleep 600) & echo begun; sleep 600")
        wait_for_text(azure, "begun")
        assert sleeping()
    assert azure.state.runs["job_1"].status == "Canceled"
    until(lambda: not sleeping(), lambda: "processes are left")


def test_data_is_there_whatever_way_it_is_named(running: StagedWorkspace, tmp_path: Path) -> None:
    state, container, fixed = running.state, running.state.datastores[DEFAULT].container, tmp_path / "fixed" / "scans"
    running.add_data("scans", f"{SHORT}scans-old/", "1")
    uris = {
        "id": running.add_data("scans", f"{SHORT}scans/", "2"),
        "short": f"{SHORT}scans",
        "long": state.long_uri(f"{SHORT}scans"),
        "version": "azureml:scans:2",
        "latest": "azureml:scans@latest",
        "https": f"https://{state.storage.host}/{container}/scans/",
        "wasbs": f"wasbs://{container}@{state.storage.host}/scans",
    }
    inputs = {name: folder(uri) for name, uri in uris.items()} | {
        "fixed": folder(uris["short"], pathOnCompute=str(fixed))
    }
    shown = " ".join(f"${{{{inputs.{name}}}}}/a.txt" for name in inputs)
    more = {
        "file": {"jobInputType": "uri_file", "uri": f"{SHORT}scans/deep/b%20c.txt", "mode": "Download"},
        "n": {"jobInputType": "literal", "value": "3"},
        "place": folder(f"{SHORT}scans", mode="Direct"),
    }
    rest = (
        'ls ${{inputs.short}}; cat "${{inputs.file}}"; echo " ${{inputs.n}} ${{ name }} ${{inputs.place}} '
        '${AZURE_ML_INPUT_n:-unset} $MINE"'
    )
    command = f"cat {shown} {fixed}/a.txt; [ ${{{{inputs.id}}}} = $AZURE_ML_INPUT_id ] && {rest}"
    version = "?api-version=2024-01-01-preview"
    run = ended(
        running,
        put_command(
            running, command, inputs=inputs | more, environmentVariables={"MINE": "${{inputs.n}}"}, version=version
        ),
    )
    assert printed(running, run) == "A" * 9 + f"a.txt\ndeep\nB 3 job_1 {SHORT}scans unset ${{{{inputs.n}}}}\n"
    assert not fixed.parent.exists()


def test_a_job_fails_for_data_that_is_not_there(running: StagedWorkspace) -> None:
    uris = [
        f"{SHORT}none/",
        "azureml://datastores/none/paths/x",
        "https://elsewhere.blob.core.windows.net/c/x",
        "ftp://x/y",
    ]
    for number, uri in enumerate(uris):
        run = ended(
            running, put_command(running, "echo never", name=f"job_{number}", inputs={"d": folder(uri)}), "Failed"
        )
        assert run.error is not None
        assert (run.error["componentName"], uri in run.error["error"]["message"], running.artifacts(run.run_id)) == (
            "data-capability",
            True,
            {},
        )


def test_outputs_go_to_their_places_and_are_registered(running: StagedWorkspace) -> None:
    running.add_data("masks", "https://example.org/x", "4")
    running.add_data("table", "https://example.org/x.csv", "1", kind="uri_file")
    outputs = {
        "o": output(),
        "named": output(uri=f"{SHORT}masks/${{{{name}}}}/", assetName="masks"),
        # Not registered, since the asset has another type.
        "other": output(uri=f"{SHORT}table/", assetName="table"),
        "f": output("uri_file", uri=f"{SHORT}single/result.csv"),
        "late": output(uri=f"{SHORT}late/", mode="Upload"),
    }
    command = (
        "mkdir ${{outputs.o}}/deep; echo 1 > $AZURE_ML_OUTPUT_o/deep/x; echo 2 > ${{outputs.named}}/x; echo 3 "
        "> ${{outputs.other}}/y; "
    )
    command += "echo 4 > ${{outputs.f}}; echo 5 > ${{outputs.late}}/z"
    ended(running, put_command(running, f"{command}; exit 1", outputs=outputs), "Failed")
    # After a failure, only mounted outputs are uploaded.
    assert running.blob_names(DEFAULT, "late/") == []
    run = ended(running, put_command(running, command, name="job_2", outputs=outputs))
    names = (
        "azureml/job_1/o/deep/x",
        "azureml/job_2/o/deep/x",
        "masks/job_2/x",
        "table/y",
        "single/result.csv",
        "late/z",
    )
    assert b"".join(running.get_blob(DEFAULT, name) for name in names) == b"1\n1\n2\n3\n4\n5\n"
    assert [list(running.state.assets["data"][name]) for name in ("masks", "table")] == [["4", "5", "6"], ["1"]]
    assert run.outputs["o"].uri.endswith("/datastores/workspaceblobstore/paths/azureml/job_2/o/")


@pytest.mark.parametrize(
    "change",
    [
        {"samplingAlgorithm": BAYESIAN, "earlyTermination": {"policyType": "MedianStopping"}},
        {"samplingAlgorithm": RANDOM, "searchSpace": {"lr": ["uniform", [2, 1]]}},
        {"searchSpace": {"lr": ["uniform", [0, 1]]}},
        {"limits": limits(1001, 1)},
        {"earlyTermination": {"policyType": "TruncationSelection", "truncationPercentage": 100}},
        {"trial": {"command": "echo ${{search_space.other}}"}},
    ],
    ids=str,
)
def test_what_cannot_be_swept_is_refused(azure: StagedWorkspace, change: dict[str, Any]) -> None:
    assert (put_sweep(azure, "echo", **change).status, azure.state.runs) == (400, {})


def test_a_sweep_ends_by_failed_or_late_trials(running: StagedWorkspace) -> None:
    sweep = ended(running, put_sweep(running, "exit 1", name="at_once"), "Failed")
    assert (len(trials(running, "at_once")), "initial child jobs have failed" in str(sweep.error)) == (3, True)
    sweep = ended(running, put_sweep(running, "exit 1", 0.1, 0.2, name="all"), "Failed")
    assert "User errors were found in at least one of the child runs." in str(sweep.error)
    one_minute = {"limits": limits(1, 1, trialTimeout="PT1M")}
    ended(running, put_sweep(running, "sleep 600", name="late_trial", **one_minute))
    assert [trial.status for trial in trials(running, "late_trial")] == ["Canceled"]
    ended(running, put_sweep(running, "sleep 600", name="late", limits=limits(2, 2, timeout="PT1M")), "Canceled")


def test_cancelation_of_a_sweep_reaches_its_trials(running: StagedWorkspace) -> None:
    put_sweep(running, "sleep 600", name="all", limits=limits(4, 2))
    until(lambda: [trial.status for trial in trials(running, "all")] == ["Running"] * 2, lambda: running.state.runs)
    assert call(running, "POST", "/jobs/all/cancel").status == 202
    running.wait_for("all", "Canceled")
    assert [trial.status for trial in trials(running, "all")] == ["Canceled"] * 2


def component(azure: StagedWorkspace, command: str, version: str, **fields: Any) -> Answer:
    spec = {
        "name": "azureml_anonymous",
        "version": "1",
        "type": "command",
        "command": command,
        "environment": azure.add_environment("training"),
        **fields,
    }
    return call(
        azure,
        "PUT",
        f"/components/azureml_anonymous/versions/{version}",
        {"properties": {"isAnonymous": True, "componentSpec": spec}},
    )


def node(
    azure: StagedWorkspace, name: str, command: str, values: Mapping[str, str] | None = None, **fields: Any
) -> dict[str, Any]:
    """A step *name* with a separate component. The *values* of its inputs are literals or bindings."""
    given = {key: {"job_input_type": "literal", "value": value} for key, value in (values or {}).items()}
    return {
        "name": name,
        "type": "command",
        "componentId": component(azure, command, name, **fields).json["id"],
        "inputs": given,
    }


def making(azure: StagedWorkspace) -> dict[str, Any]:
    fields = {"inputs": {"word": {"type": "string"}}, "outputs": {"made": FOLDER}}
    return node(azure, "make", "echo ${{inputs.word}} > ${{outputs.made}}/word.txt", {"word": "hello"}, **fields)


def taking(azure: StagedWorkspace, file: str = "word.txt") -> dict[str, Any]:
    return node(
        azure,
        "take",
        f"cat ${{{{inputs.made}}}}/{file}",
        {"made": "${{parent.jobs.make.outputs.made}}"},
        inputs={"made": FOLDER},
    )


def put_pipeline(azure: StagedWorkspace, jobs: Mapping[str, Any], **fields: Any) -> Answer:
    settings = {
        "default_compute": f"{azure.state.path}/computes/cpu-cluster",
        "continue_on_step_failure": False,
        **fields.pop("settings", {}),
    }
    return put_job(
        azure,
        "Pipeline",
        **{"jobs": jobs, "inputs": {}, "outputs": {}, "settings": settings, "computeId": None, **fields},
    )


def steps_of(azure: StagedWorkspace, answer: Answer, status: str = "Completed") -> dict[str, Any]:
    """The runs of the steps, by name, of a pipeline that has ended with *status*."""
    return {step.display_name: step for step in trials(azure, ended(azure, answer, status).run_id)}


@pytest.mark.parametrize(("continues", "after"), [(False, "Canceled"), (True, "Completed")])
def test_failed_step_stops_pipeline_unless_set_to_continue(
    running: StagedWorkspace, continues: bool, after: str
) -> None:
    nodes = {
        "make": making(running),
        "take": taking(running, "none.txt"),
        "after": node(running, "after", f"sleep {0.5 if continues else 600}"),
    }
    steps = steps_of(running, put_pipeline(running, nodes, settings={"continue_on_step_failure": continues}), "Failed")
    assert {name: step.status for name, step in steps.items()} == {
        "make": "Completed",
        "take": "Failed",
        "after": after,
    }
    assert "take" in str(running.state.runs["job_1"].error)


def test_canceling_one_step_fails_the_pipeline(running: StagedWorkspace) -> None:
    put_pipeline(running, {"sleep": node(running, "sleep", "sleep 600")})
    until(
        lambda: any(run.status == "Running" for run in running.state.runs.values() if run.parent_id),
        lambda: running.state.runs,
    )
    step = trials(running)[0]
    assert call(running, "POST", f"/jobs/{step.run_id}/cancel").status == 400
    assert data_plane(running, "POST", "history/v1.0", f"/experiments/e/runs/{step.run_id}/cancel").status == 200
    running.wait_for("job_1", "Failed")
    assert step.status == "Canceled"


def test_wrong_pipelines_and_components_are_refused(azure: StagedWorkspace) -> None:
    good = {"make": making(azure), "take": taking(azure)}
    fields = {"inputs": {"i": FOLDER}, "outputs": {"o": FOLDER}}
    circle = {
        one: node(azure, one, "true", {"i": f"${{{{parent.jobs.{other}.outputs.o}}}}"}, **fields)
        for one, other in ("ab", "ba")
    }
    changes: list[tuple[dict[str, Any], int, str]] = [
        ({}, 400, "needs 'jobs'"),
        (circle, 400, "cycle: a, b"),
        ({"make": {"componentId": "/components/azureml_anonymous/versions/none"}}, 404, "Component .* not found"),
        ({"make": {"inputs": {}}}, 400, "jobs.make: the inputs word are missing"),
        ({"make": {"inputs": {"other": {"job_input_type": "literal", "value": "x"}}}}, 400, "no such input"),
        (
            {"make": {"inputs": {"word": {"job_input_type": "literal", "value": "${{parent.inputs.none}}"}}}},
            400,
            "names nothing",
        ),
        ({"make": {"outputs": {"none": {"mode": "Upload"}}}}, 400, "no such output"),
        ({"take": {"inputs": {"made": {"value": "a ${{parent.jobs.make.outputs.made}}"}}}}, 400, "is no binding"),
    ]
    for jobs, status, message in changes:
        changed = (
            {name: step | jobs.get(name, {}) for name, step in good.items()} if jobs and jobs is not circle else jobs
        )
        answer = put_pipeline(azure, changed)
        assert (answer.status, bool(re.search(message, answer.json["error"]["message"]))) == (status, True), answer.body
    assert azure.state.runs == {}
    assert [component(azure, command, "1").status for command in ("echo ${{inputs.none}}", "true", "false")] == [
        400,
        201,
        200,
    ]
    assert component(azure, "true", "2", environment="azureml:none:1").status == 404
    assert azure.state.assets["components"]["azureml_anonymous"]["1"]["componentSpec"]["command"] == "true"
