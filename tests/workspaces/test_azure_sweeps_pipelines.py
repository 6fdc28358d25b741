"""Tests of sweeps and pipelines on Azure ML: the values of trials, records of trials, and steps with their data and
order.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, NotFound
from himl_cli.core.events import Event, Notice, ignore
from himl_cli.core.jobs import DataSpec, DocumentSpec, EnvironmentSpec, StepSpec, secrets_text
from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.core.sweeps import Draw, Scalar, SearchRange, SweepSpec, hyperparameters_of, value_text
from himl_cli.services.submission.job_yaml import prepare_document
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.submission.snapshot import list_upload
from himl_cli.workspaces.azure.config import PUBLIC, WorkspaceAddress
from himl_cli.workspaces.azure.jobs.command_line import command_line
from himl_cli.workspaces.azure.jobs.sdk import load_sdk
from himl_cli.workspaces.azure.run_records import as_run
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.azureml_double.faults import Reset, Status
from tests.azureml_double.jobs.command import Manner
from tests.azureml_double.seeding import StagedWorkspace, add_sweep
from tests.support.azure_jobs import cluster_spec, pipeline_of, prepare, sent, step_job, steps_of
from tests.support.running import write_files
from tests.support.secret_cases import SECRET_FILES, files_of
from tests.workspaces.test_azure_job_bodies import seen_by_script

WORDS = [
    "linear",
    "0.1",
    "1e-05",
    "a b",
    "$HOME",
    "`ls`",
    "$(ls)",
    "*",
    "~",
    "a\nb",
    "\\",
    "é漢🙂",
    "#no",
    "a;b&c|d",
    "${x}",
    "{a,b}",
    'say "x"',
    "-x",
]
ADDRESS = WorkspaceAddress("sub", "team", "lab", PUBLIC, "a test")


def choice(*values: str | float | bool) -> SearchRange:
    return SearchRange(Draw.choice, values)


def as_text(name: str, value: str) -> str:
    """Return the replacement of a placeholder that the service fills in."""
    return value


def as_variable(name: str, value: str) -> str:
    """Return the replacement of a placeholder that the shell fills in, as in public traces."""
    return f"$AZUREML_SWEEP_{name}"


BOTH_WAYS = pytest.mark.parametrize("stands_for", [as_text, as_variable])


def given_to_trial(
    folder: Path,
    bash: str,
    values: Mapping[str, SearchRange],
    stands_for: Callable[[str, str], str],
    *,
    at: int = 0,
    **fields: Any,
) -> list[str]:
    """Return the arguments of a trial's script, with the values at index *at* of each list."""
    text, variables = command_line(cluster_spec(folder / "code", sweep=SweepSpec(values), **fields)), ""
    for name, one in values.items():
        value = value_text(one.values[at])
        text = text.replace(f"${{{{search_space.{name}}}}}", stands_for(name, value))
        variables += f"export AZUREML_SWEEP_{name}={shlex.quote(value)}; "
    return seen_by_script(variables + text, folder, bash)[1:]


@pytest.mark.large("takes long, and other tests run its branches")
@BOTH_WAYS
def test_each_choice_reaches_the_script_as_one_word(
    tmp_path: Path, require_program: Callable[[str], str], stands_for: Callable[[str, str], str]
) -> None:
    values = {"name": choice(*WORDS), "lr": choice(*range(len(WORDS)))}
    for at, word in enumerate(WORDS):
        given = given_to_trial(tmp_path, require_program("bash"), values, stands_for, at=at, arguments=["--x", "a b"])
        assert given == ["--x", "a b", "--name", word, "--lr", str(at)]
    # Text after a placeholder is not part of its name.
    values = {"a": choice(1), "b": choice(2)}
    arguments = [
        "${{search_space.a}}_x",
        "${{search_space.a}}${{search_space.b}}0",
        "é${{search_space.a}}é a",
        "${{search_space.b}}",
    ]
    assert given_to_trial(tmp_path, require_program("bash"), values, stands_for, arguments=arguments) == [
        "1_x",
        "120",
        "é1é a",
        "2",
    ]


def sweep_record(**fields: Any) -> Run:
    raw = {"runId": "r1", "experimentId": "e", "status": "Running", "createdUtc": "2026-03-01T12:00:00+00:00"} | fields
    return as_run(raw, experiment="train", address=ADDRESS)


def test_tags_of_sweeps_trials_and_pipelines_are_read() -> None:
    notes = {"max_total_jobs": "4", "generator_config": "{}", "r1_0": '{"lr": 0.1}'}
    own = {"r1_x": "mine", "max": "mine", "r2_0": "mine"}
    assert (
        sweep_record(tags={**notes, **{f"_aml_system_{name}": value for name, value in notes.items()}, **own}).tags
        == own
    )
    tags = {"hyperparameters": '{"--lr": 0.1}', "_aml_system_hyperparameters": '{"--lr": 0.1}'}
    trial = sweep_record(runId="p_12", parentRunId="p", tags=tags)
    assert trial.tags == {"hyperparameters": '{"--lr": 0.1}', "himl.trial": "12"}
    assert hyperparameters_of(trial.tags) == {"lr": 0.1}
    assert sweep_record(runId="other", parentRunId="p", tags=tags).tags == {"hyperparameters": '{"--lr": 0.1}'}
    properties = {"primary_metric_config": json.dumps({"name": "AUC", "goal": "MAXIMIZE"}), "best_child_run_id": "r1_3"}
    assert sweep_record(properties=properties).tags == {
        "himl.many": "sweep",
        "himl.primary_metric": "AUC",
        "himl.goal": "maximize",
        "himl.best_trial": "r1_3",
    }
    assert sweep_record(runType="azureml.PipelineRun").tags == {"himl.many": "pipeline"}
    assert sweep_record(runType="azureml.StepRun").tags == {}
    assert [
        sweep_record(properties={"primary_metric_config": config}).tags
        for config in (None, "no json", "[]", "{}", "[" * 3000)
    ] == [{}] * 5


def test_invalid_hyperparameter_names_fail_before_any_request(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    for names, words in (
        (["1st"], "not a valid name"),
        (["größe"], "not a valid name"),
        (["a.b", "a_b"], "'a.b' and 'a_b' would both be 'a_b'"),
    ):
        with pytest.raises(BadUsage, match=words):
            workspace.submit(cluster_spec(project, sweep=SweepSpec({name: choice(1) for name in names})), notify=ignore)
    assert azure.requests() == []


def test_hyperparameters_are_sent_under_names_that_azure_ml_accepts(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    """hi-ml sent `--trainer.lr=${{inputs.trainer_lr}}`: the script gets the name of the user."""
    space = {"trainer.lr": choice(0.1, 0.2), "model/width": choice(8), "depth": choice(1), "opt.name": choice("a b")}
    space["amp.on"] = SearchRange(Draw.choice, (True, False), form="switch")
    events: list[Event] = []
    spec = cluster_spec(project, sweep=SweepSpec(space), arguments=["+x=${{search_space.model/width}}"])
    job = sent(azure, workspace.submit(spec, notify=events.append).id)
    assert sorted(job["searchSpace"]) == ["amp_on", "depth", "model_width", "opt_name", "trainer_lr"]
    words = ["+x=${{search_space.model_width}}", "--trainer.lr ${{search_space.trainer_lr}}"]
    words += [
        "--depth ${{search_space.depth}}",
        '--opt.name "$AZUREML_SWEEP_opt_name"',
        '$(case "$AZUREML_SWEEP_amp_on" in',
    ]
    assert job["trial"]["command"].startswith(f"python train.py {' '.join(words)} ")
    assert "--amp.on" in job["trial"]["command"]
    told = (
        "Azure ML records 'trainer.lr' as 'trainer_lr', 'model/width' as 'model_width', 'opt.name' as "
        "'opt_name' and 1 more."
    )
    assert f"{told} Scripts get the name that you gave." in [
        event.text for event in events if isinstance(event, Notice)
    ]


def test_trial_values_are_read_from_tags_or_sweep(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    rates: list[dict[str, Scalar]] = [{"lr": rate, "name": "a b"} for rate in (0.1, 0.2, 0.3)]
    for place, requests in {"tag": 1, "system_tag": 1, "sweep": 2, "old_sweep": 2}.items():
        tune = f"tune-{place}"
        add_sweep(azure, tune, rates, manner=Manner(values_in=place))
        assert hyperparameters_of(workspace.run(f"{tune}_2").tags) == rates[2]
        azure.stage.log.clear()
        trials = {run.id: run for run in workspace.runs(RunQuery(parent=tune))}
        assert [hyperparameters_of(trials[f"{tune}_{index}"].tags) for index in range(3)] == rates
        assert [trials[f"{tune}_{index}"].tags["himl.trial"] for index in range(3)] == ["0", "1", "2"]
        assert len(azure.requests(f"/runs/{tune}")) == requests
        assert [name for name in workspace.run(tune).tags if name.startswith(("_aml", "tune"))] == []


def test_a_child_that_is_called_like_a_trial_is_none(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("search")
    for index in range(2):
        azure.add_run(f"search_{index}", parent="search")
    assert [run.tags for run in workspace.runs(RunQuery(parent="search"))] == [{}, {}]
    azure.stage.log.clear()
    assert workspace.run("search_1").tags == {}
    assert len(azure.requests()) == 1, "that it is no sweep is known by then"


def interrupt(event: Event) -> None:
    raise KeyboardInterrupt


def test_steps_of_same_folder_share_code_environment_and_inputs(
    workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path
) -> None:
    azure.put_blob("workspaceblobstore", "volumes/1.npy", b"x")
    inputs = [DataSpec("data", "volumes")]
    steps = [
        StepSpec(f"step{n}", "the same", step_job(tmp_path / "all", "print(1)", arguments=[str(n)], inputs=inputs))
        for n in range(3)
    ]
    run = workspace.submit_pipeline(pipeline_of(*steps), notify=ignore)
    for pattern in ("startPendingUpload", "^PUT .*/environments/", "^PUT .*/data/", "GET .*/data/volumes"):
        assert len(azure.requests(pattern)) == 1
    assert [node["display_name"] for node in sent(azure, run.id)["jobs"].values()] == [
        f"the same (step{n})" for n in range(3)
    ]


@pytest.mark.large("takes long, and other tests run its branches")
def test_invalid_step_fails_pipeline_before_any_change(
    workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path
) -> None:
    refused: list[tuple[dict[str, Any], type[HimlError], str]] = [
        ({"cluster": "cpu-clutser"}, NotFound, "Unknown compute target 'cpu-clutser'"),
        ({"nodes": 9}, BadUsage, "has at most 4 nodes"),
        ({"environment": EnvironmentSpec("nowhere")}, NotFound, "^step2: Unknown environment 'nowhere'"),
        ({"environment": None}, BadUsage, "needs an environment"),
        ({"inputs": [DataSpec("d", "nowhere")]}, NotFound, "^step2: Input 'd': unknown data asset 'nowhere'"),
        ({"inputs": [DataSpec("d", "x", datastore="nowhere")]}, NotFound, "^step2: No datastore 'nowhere'"),
        ({"arguments": ["${{inputs.none}}"]}, BadUsage, "^step2: '.*inputs.none.*' names no input"),
    ]
    for fields, error, message in refused:
        wrong = StepSpec("step2", "", step_job(tmp_path / "wrong", "print(1)", **fields))
        with pytest.raises(error, match=message) as caught:
            workspace.submit_pipeline(pipeline_of(prepare(tmp_path), wrong), notify=ignore)
        assert str(caught.value.hint).endswith("add --create_cluster.") is ("cluster" in fields)
    assert azure.requests("^PUT|startPendingUpload") == []
    assert azure.state.runs == {}


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("lost", ["codes", "environments"])
def test_what_the_workspace_has_lost_is_made_anew(
    workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path, lost: str
) -> None:
    spec = pipeline_of(prepare(tmp_path))
    workspace.submit_pipeline(spec, notify=ignore)
    azure.state.assets[lost].clear()
    azure.state.assets["components"].clear()
    with azure.run_jobs():
        run = workspace.submit_pipeline(spec, notify=ignore)
        azure.wait_for(run.id)
    assert workspace.run(run.id).status is RunStatus.completed


@pytest.mark.large("takes long, and other tests run its branches")
def test_interrupted_or_refused_pipeline_leaves_nothing(
    workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match="Nothing runs"):
        workspace.submit_pipeline(pipeline_of(prepare(tmp_path)), notify=interrupt)
    azure.stage.faults.add(
        Status(400, code="UserError", message="The pipeline is too large."), "PUT .*/jobs/", times=None
    )
    with pytest.raises(HimlError, match="too large") as caught:
        workspace.submit_pipeline(pipeline_of(prepare(tmp_path)), notify=ignore)
    assert "No job was created" in caught.value.hint
    assert azure.state.runs == {}
    azure.stage.faults.only(Reset(), "PUT .*/(jobs|components)/", times=2)
    run = workspace.submit_pipeline(pipeline_of(prepare(tmp_path)), notify=ignore)
    assert list(azure.state.runs) == [run.id], "it is created once, whatever the network does"


@pytest.mark.large("takes long, and other tests run its branches")
def test_steps_that_share_no_data_run_in_their_order(
    workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path
) -> None:
    place = tmp_path / "order"
    script = (
        "import os, pathlib, sys, time\ntime.sleep(float(sys.argv[2]))\n"
        "pathlib.Path(os.environ['PLACE']).open('a').write(sys.argv[1])\n"
    )
    script += "from himl_cli.job import inputs, outputs\nprint(sys.argv[3:], dict(inputs()), sorted(outputs()))\n"
    env = {"PLACE": str(place)}

    def alone(key: str, seconds: str, *waits_for: str) -> StepSpec:
        return StepSpec(
            key, key, step_job(tmp_path / key, script, arguments=[key[-1], seconds], env=env), waits_for=waits_for
        )

    makes = prepare(tmp_path, script, arguments=["m", "0.2", "${{outputs.numbers}}"], env=env)
    with azure.run_jobs():
        run = workspace.submit_pipeline(
            pipeline_of(alone("a", "0.4"), replace(makes, waits_for=["a"]), alone("b", "0", "step1")), notify=ignore
        )
        azure.wait_for(run.id)
    assert place.read_text() == "amb"
    steps = steps_of(workspace, run.id)
    assert {key: step.tags.get("himl.after") for key, step in steps.items()} == {"a": None, "step1": "a", "b": "step1"}
    assert azure.artifacts(steps["b"].id)["user_logs/std_log.txt"] == b"[] {} []\n"
    jobs = sent(azure, run.id)["jobs"]
    assert jobs["b"]["inputs"] == {
        "himl_after_step1": {
            "job_input_type": "literal",
            "mode": "Direct",
            "value": "${{parent.jobs.step1.outputs.numbers}}",
        }
    }
    assert list(jobs["a"]["outputs"]) == ["himl_done"]
    assert list(jobs["step1"]["outputs"]) == ["numbers"]


def test_missing_folder_is_refused_for_first_pipeline_step_only(
    workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path
) -> None:
    reader = StepSpec(
        "reader",
        "",
        step_job(tmp_path / "a", "print(1)", inputs=[DataSpec("d", "x", datastore="workspaceblobstore")]),
        waits_for=["step1"],
    )
    with pytest.raises(
        NotFound, match=r"^reader: Input 'd': the folder 'x' does not exist in datastore 'workspaceblobstore'"
    ):
        workspace.submit_pipeline(pipeline_of(reader, prepare(tmp_path)), notify=ignore)
    assert azure.state.runs == {}
    events: list[Event] = []
    run = workspace.submit_pipeline(pipeline_of(prepare(tmp_path), reader), notify=events.append)
    assert (
        Notice(
            "reader: the folder 'x' does not exist in datastore 'workspaceblobstore' yet. An earlier step "
            "must create it."
        )
        in events
    )
    assert (
        sent(azure, run.id)["jobs"]["reader"]["inputs"]["d"]["uri"]
        == "azureml://datastores/workspaceblobstore/paths/x/"
    )


@pytest.mark.large("takes long, and other tests run its branches")
def test_step_input_with_datastore_is_folder_not_data_asset(
    workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path
) -> None:
    azure.put_blob("workspaceblobstore", "volumes/1.npy", b"x")
    azure.add_data("volumes", "azureml://datastores/workspaceblobstore/paths/elsewhere/")
    kinds = {"folder": "workspaceblobstore", "asset": None}
    steps = [
        StepSpec(key, "", step_job(tmp_path / key, "print(1)", inputs=[DataSpec("d", "volumes", datastore=store)]))
        for key, store in kinds.items()
    ]
    run = workspace.submit_pipeline(pipeline_of(*steps, default_datastore="workspaceblobstore"), notify=ignore)
    uris = {key: node["inputs"]["d"]["uri"] for key, node in sent(azure, run.id)["jobs"].items()}
    assert uris["folder"] == "azureml://datastores/workspaceblobstore/paths/volumes/"
    assert uris["asset"].endswith("/data/volumes/versions/1")


CONDA = "name: e\ndependencies:\n- python=3.11\n"
JOB = """
$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json
name: always_the_same
command: python a.py ${{inputs.text}} && cp -r ${{inputs.data}}/. ${{outputs.copy}}/
code: ../src
environment: {image: docker.io/python:3.11, conda_file: env.yml}
compute: azureml:cpu-cluster
tags: {of: file}
environment_variables: {A: file, B: file}
inputs:
  text: hello
  data: {type: uri_folder, path: data}
outputs:
  copy: {type: uri_folder}
"""
PIPELINE = """
type: pipeline
description: two steps
settings: {default_compute: azureml:cpu-cluster}
inputs:
  word: hello
jobs:
  make:
    type: command
    component: ../parts/make.yml
    inputs: {word: "${{parent.inputs.word}}"}
  take:
    command: grep hello ${{inputs.made}}/word.txt
    environment: {image: docker.io/python:3.11}
    inputs: {made: "${{parent.jobs.make.outputs.made}}"}
"""
COMPONENT = """
type: command
name: make
command: python a.py ${{inputs.word}} > ${{outputs.made}}/word.txt
code: ../src
environment: {image: docker.io/python:3.11}
inputs: {word: {type: string}}
outputs: {made: {type: uri_folder}}
"""
FILES = {
    "jobs/env.yml": CONDA,
    "jobs/data/a.txt": "x",
    "src/a.py": "import sys\nprint(sys.argv[1])\n",
    "parts/make.yml": COMPONENT,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path, FILES)
    (tmp_path / "jobs" / "empty").mkdir()
    return tmp_path / "jobs"


def job_in(folder: Path, text: str, experiment: str = "lab") -> DocumentSpec:
    return DocumentSpec(folder / "job.yml", text, experiment, list_upload)


def changed_job(folder: Path, text: str, **options: Any) -> DocumentSpec:
    """The job in *text* with the options of `himl submit`."""
    (folder / "job.yml").write_text(text, encoding="utf-8")
    return prepare_document(SubmitRequest(cwd=folder, target="job.yml", **options)).sent


@pytest.mark.large("prepares many jobs")
@pytest.mark.parametrize("text", [JOB, PIPELINE], ids=["command", "pipeline"])
def test_a_document_runs_with_files_beside_it_but_not_secrets(
    workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    write_files(folder.parent / "src", dict.fromkeys((".env", ".ssh/id_rsa", "id_rsa.pub", "sub/kept.env"), "secret"))
    listing = (
        "from pathlib import Path\n"
        "print('hello', sorted(path.as_posix() for path in Path('.').rglob('*') if path.is_file()))"
    )
    write_files(folder.parent / "src", {"a.py": listing, ".himl/runs/x/code/train.py": ""})
    # As a file that a local run removes while azure-ai-ml reads the folder
    (folder.parent / "src" / ".himl" / "runs" / "x" / "code" / "last.ckpt").symlink_to("removed")
    events: list[Event] = []
    changed = changed_job(folder, text, include_secret=["kept.env"], env_vars={"X": "1"}, experiment="Upper")
    with azure.run_jobs():
        run = workspace.submit_document(changed, notify=events.append)
        azure.wait_for(run.id)
    assert capfd.readouterr() == ("", "")
    steps = {step.tags["himl.step"]: step for step in workspace.runs(RunQuery(parent=run.id))}
    last = steps["take"].id if steps else run.id
    assert azure.artifacts(last)["user_logs/std_log.txt"].startswith(b"hello ['a.py', 'id_rsa.pub', 'sub/kept.env']")
    assert [event.text for event in events if isinstance(event, Notice) and "secrets" in event.text] == [
        "himl left out 2 files that may contain secrets: '.env', '.ssh/id_rsa'. To include one, use 'himl "
        "submit --include_secret GLOB'."
    ]
    assert {key: step.tags.get("himl.after") for key, step in steps.items()} == (
        {"make": None, "take": "make"} if text == PIPELINE else {}
    )
    assert {
        sent(azure, one)["environmentVariables"]["X"] for one in [step.id for step in steps.values()] or [run.id]
    } == {"1"}
    assert workspace.run(run.id).status is RunStatus.completed
    if text == JOB:
        assert (run.experiment, run.display_name, run.url) == ("Upper", "always_the_same", workspace.run(run.id).url)


WAYS = """
type: pipeline
settings: {default_compute: azureml:cpu-cluster}
inputs: {shared: {type: uri_folder, path: ../shared}}
jobs:
  component: {type: command, component: ../parts/part.yml, inputs: {data: {type: uri_folder, path: ../data}}}
  inline: {command: ls, code: ../inline, environment: {build: {path: ../image}},
      inputs: {all: "${{parent.inputs.shared}}"}}
"""
PART = """
type: command
name: part
command: ls ${{inputs.data}}
code: ../code
additional_includes: [../included]
environment: {image: docker.io/python:3.11}
inputs: {data: {type: uri_folder}}
"""
UPLOAD = re.compile(
    r"PUT [^/]+\.blob\.[^/]+/(?P<place>.*)/(?P<name>(?:outputs|plain|secret|\.git|\.himl|venv)/.*?)\?.*"
)


def uploaded(azure: StagedWorkspace) -> list[tuple[str, str]]:
    """The places and names of all files that were uploaded so far."""
    found = [UPLOAD.fullmatch(unquote(line)) for line in azure.requests(r"^PUT [^/]*\.blob\.")]
    return [(each["place"], each["name"]) for each in found if each is not None]


def test_no_folder_that_a_file_names_is_sent_with_secrets(
    workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path
) -> None:
    secret = {f"secret/{name}": text for name, text in files_of(SECRET_FILES).items()}
    state = dict.fromkeys([".git/config", ".himl/workspace.db", "venv/pyvenv.cfg", "venv/lib.py"], "x")
    assert len(secret) > 60
    for name in (ways := ("code", "included", "inline", "image", "data", "shared")):
        write_files(
            folder.parent / name,
            {
                **secret,
                **state,
                "outputs/x": name,
                "Dockerfile": "FROM python",
                "plain/a.pem": f"{name} BEGIN CERTIFICATE",
            },
        )
    write_files(folder.parent, {"parts/part.yml": PART, "alone/.env": "SECRET=x"})
    events: list[Event] = []
    workspace.submit_document(changed_job(folder, WAYS), notify=events.append)
    places: dict[str, set[str]] = {}
    for place, name in uploaded(azure):
        places.setdefault(place, set()).add(name)
    assert len(places) == len(ways)
    # As data, and below the root of code, `outputs` is no result of an earlier run
    assert sorted(map(sorted, places.values())) == [["outputs/x", "plain/a.pem"]] * 3 + [["plain/a.pem"]] * 3
    assert [event.text for event in events if isinstance(event, Notice) and "secrets" in event.text] == [
        secrets_text(sorted([*secret, *(f"included/{name}" for name in secret)]))
    ]
    alone = JOB.replace("path: data", "path: ../alone/.env").replace("uri_folder, path", "uri_file, path")
    for text, path in ((alone, ".env"), (JOB.replace("../src", "../alone"), "alone")):
        with pytest.raises(BadUsage, match=f"himl sends no file of '.*{path}', which the job needs") as caught:
            workspace.submit_document(changed_job(folder, text), notify=ignore)
        assert "'.env'" in caught.value.hint


def test_a_registered_build_context_has_no_secrets(
    workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path
) -> None:
    load_sdk()
    from azure.ai.ml.entities import BuildContext, Environment

    write_files(
        folder,
        {
            **{f"secret/{name}": text for name, text in files_of(SECRET_FILES).items()},
            "Dockerfile": "FROM x",
            "plain/a.py": "",
        },
    )
    events: list[Event] = []
    made = workspace.register_environment(
        Environment(name="built", build=BuildContext(path=str(folder))), list_upload, notify=events.append
    )
    assert [name for _, name in uploaded(azure)] == ["plain/a.py"]
    assert (made.name, made.version, ["secrets" in str(event) for event in events]) == ("built", "1", [True])


@pytest.mark.large("takes long, and other tests run its branches")
def test_changes_count_and_the_rest_stays(workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path) -> None:
    names = {"experiment": "mine", "display_name": "shown", "description": "why", "cluster": "gpu-cluster"}
    changed = changed_job(folder, JOB, tags={"k": "v"}, env_vars={"A": "typed"}, **names)
    run = workspace.submit_document(changed, notify=ignore)
    job = sent(azure, run.id)
    assert (run.experiment, run.display_name, run.description, run.command) == ("mine", "shown", "why", "job.yml")
    assert {"of": "file", "k": "v", "run_recovery_id": f"mine:{run.id}"}.items() <= run.tags.items()
    assert job["environmentVariables"] == {"A": "typed", "B": "file"}
    assert job["computeId"].endswith("/computes/gpu-cluster")


def test_computes_that_are_no_names_go_to_the_service_as_they_are(
    workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path, tmp_path: Path
) -> None:
    virtual = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/virtualclusters/vc"
    own, bound = f"{azure.state.path}/computes/gpu-cluster", "${{parent.inputs.where}}"

    def made(document: DocumentSpec) -> dict[str, Any]:
        return sent(azure, workspace.submit_document(document, notify=ignore).id)

    places = {"a": virtual, "b": f"azureml:{virtual}", "c": own, "d": bound, "e": None}
    steps = {
        key: {"command": "ls", "environment": {"image": "python:3.11"}} | ({"compute": place} if place else {})
        for key, place in places.items()
    }
    content = {
        "type": "pipeline",
        "inputs": {"where": "gpu-cluster"},
        "settings": {"default_compute": virtual},
        "jobs": steps,
    }
    pipeline = made(changed_job(folder, yaml.safe_dump(content)))
    assert {key: step.get("computeId") for key, step in pipeline["jobs"].items()} == {
        "a": virtual,
        "b": virtual,
        "c": own,
        "d": bound,
        "e": None,
    }
    assert pipeline["settings"]["default_compute"] == virtual
    moved = made(changed_job(folder, yaml.safe_dump(content), cluster="azureml:gpu-cluster"))
    assert (moved["settings"]["default_compute"], [step.get("computeId") for step in moved["jobs"].values()]) == (
        own,
        [None] * 5,
    )
    command = "command: ls\nenvironment: {image: 'python:3.11'}\ncompute: cpu-cluster\n"
    assert made(changed_job(folder, command, cluster=virtual))["computeId"] == virtual
    spec = cluster_spec(tmp_path / "code", cluster=virtual)
    assert sent(azure, workspace.submit(spec, notify=ignore).id)["computeId"] == virtual
    spec_of_steps = pipeline_of(StepSpec("a", "a", step_job(tmp_path / "a", "1")), cluster=virtual)
    assert (
        sent(azure, workspace.submit_pipeline(spec_of_steps, notify=ignore).id)["settings"]["default_compute"]
        == virtual
    )
    with pytest.raises(NotFound, match="Unknown compute target 'no-cluster'"):
        made(changed_job(folder, command, cluster=own.replace("gpu", "no")))


def test_what_is_wrong_is_one_line_with_the_key(
    workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path
) -> None:
    wrong = {
        JOB.replace("command:", "cmd:"): "(cmd: Unknown field|command: Missing data for required field)",
        JOB + "resources: {instance_count: two}\n": "resources.instance_count: Not a valid integer",
        JOB.replace("../src", "../nowhere"): "code: '.*nowhere' does not exist",
        PIPELINE.replace("make.yml", "none.yml"): "jobs.make.component: '.*none.yml' does not exist",
        PIPELINE.replace("jobs.make.outputs", "jobs.mkae.outputs"): ".*jobs.mkae.outputs.made",
        "type: comand\ncommand: x\n": "Unsupported job type: comand",
        "a: [b\n": "Error while parsing yaml file.*line 1, column 4",
        "- a\n": "Expect dict but get",
        PIPELINE.replace("make.yml", "open.yml"): "while parsing a flow node .* line 2, column 1:$",
        PIPELINE.replace("make.yml", "wrong.yml"): "jobs.make.component.command: Missing data for required field",
        PIPELINE.replace(
            "word: hello", "word: {type: dance, path: data}"
        ): "inputs.word.type: Value passed is not a data binding string: dance",
    }
    write_files(
        folder.parent / "parts",
        {"open.yml": "a: [\n", "wrong.yml": COMPONENT.replace("command: python", "comand: python")},
    )
    for text, message in wrong.items():
        with pytest.raises(BadUsage, match=f"job.yml: {message}") as caught:
            workspace.submit_document(job_in(folder, text), notify=ignore)
        assert "\n" not in str(caught.value)
    with pytest.raises(NotFound, match="Unknown compute target 'cpu-clutser'"):
        workspace.submit_document(job_in(folder, JOB.replace("cpu-cluster", "cpu-clutser")), notify=ignore)
    with pytest.raises(NotFound, match="Unknown compute target 'nowhere'"):
        workspace.submit_document(changed_job(folder, PIPELINE, cluster="nowhere"), notify=ignore)
    assert azure.requests("^PUT|startPendingUpload") == []


@pytest.mark.large("takes long, and other tests run its branches")
def test_what_azure_ai_ml_finds_wrong_late_starts_nothing(
    workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path
) -> None:
    for right, wrong, message in (
        ("inputs.text", "inputs.none", "job.yml: Inputs to job does not contain 'none'"),
            ("path: data", "path: no_data", "job.yml: .*no_data"),
        ("../src", "empty", "himl sends no file of '.*empty', which the job needs"),
    ):  # fmt: skip
        with pytest.raises(BadUsage, match=message) as caught:
            workspace.submit_document(job_in(folder, JOB.replace(right, wrong)), notify=ignore)
        assert not {"\n", "\x1b"} & set(str(caught.value))
    with pytest.raises(Interrupted, match="Nothing runs"):
        workspace.submit_document(job_in(folder, JOB), notify=interrupt)
    assert azure.state.runs == {}


FLOW = """
$schema: https://azuremlschemas.azureedge.net/promptflow/latest/Flow.schema.json
inputs: {q: {type: string}}
outputs: {a: {type: string, reference: "${one.output}"}}
nodes: [{name: one, type: python, source: {type: code, path: a.py}, inputs: {q: "${inputs.q}"}}]
"""


def test_what_fails_in_azure_ai_ml_is_named_as_its_own(
    workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path
) -> None:
    write_files(
        folder.parent / "parts", {"flow.dag.yaml": FLOW, "a.py": "", ".promptflow/flow.tools.json": '{"code": {}}'}
    )
    node = "{type: parallel, component: ../parts/flow.dag.yaml, inputs: {data: {type: uri_folder, path: data}, q: x}}"
    flow = f"type: pipeline\nsettings: {{default_compute: azureml:cpu-cluster}}\njobs: {{one: {node}}}\n"
    failures: list[tuple[str, type[HimlError], int, str]] = [
        (
            PIPELINE.replace("word: hello", "word: {type: uri_folder}"),
            BadUsage,
            2,
            r"job\.yml: inputs\.word: Missing 'path'",
        ),
        (flow, HimlError, 1, "azure-ai-ml cannot prepare job.yml: "),
    ]
    for text, kind, code, message in failures:
        with pytest.raises(HimlError, match=message) as caught:
            workspace.submit_document(job_in(folder, text), notify=ignore)
        assert (type(caught.value), caught.value.exit_code, "\n" in str(caught.value)) == (kind, code, False), str(
            caught.value
        )
    assert azure.state.runs == {}
    azure.stage.faults.add(Status(403, code="KeyBasedAuthenticationNotPermitted"), r"\.blob\..*sig=", times=None)
    run = workspace.submit_document(job_in(folder, JOB), notify=ignore)  # by the user's own sign-in
    assert list(azure.state.runs) == [run.id]


@pytest.mark.large("takes long, and other tests run its branches")
def test_the_job_is_created_once_whatever_the_network_does(
    workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path
) -> None:
    refused = JOB.replace("{image: docker.io/python:3.11, conda_file: env.yml}", "azureml:nowhere:1")
    with pytest.raises(HimlError, match="No environment exists") as caught:
        workspace.submit_document(job_in(folder, refused), notify=ignore)
    assert "No job was created" in caught.value.hint
    azure.stage.faults.add(Reset(), "PUT .*/jobs/")
    run = workspace.submit_document(job_in(folder, JOB, "once"), notify=ignore)
    assert list(azure.state.runs) == [run.id]
