"""Azure ML's YAML as a job that runs here: what each key becomes, and what is refused by its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import DataSpec, Draw, EarlyStop, Entry, EntryKind, JobSpec, SearchRange, StepOutput, SweepSpec
from himl_cli.services.submission.job_yaml import PreparedDocument, changed_yaml, prepare_document
from himl_cli.services.submission.request import SubmitRequest
from tests.support.running import write_files

COMMAND: dict[str, Any] = {"type": "command", "command": "python fit.py", "code": "src", "environment": "azureml:lab@latest", "compute": "local"}
SWEEP: dict[str, Any] = {
    "type": "sweep",
    "trial": {"command": "python fit.py --lr ${{search_space.lr}}", "code": "src", "environment": "azureml:lab@latest"},
    "search_space": {"lr": {"type": "choice", "values": [0.1, 0.2]}},
    "sampling_algorithm": "grid",
    "objective": {"goal": "Maximize", "primary_metric": "accuracy"},
    "limits": {"max_total_trials": 9, "max_concurrent_trials": 2, "trial_timeout": 60},
}


@pytest.fixture
def folder(project: Path) -> Path:
    write_files(project, {"src/fit.py": "", "data/a.csv": ""})
    return project


def prepared(folder: Path, content: dict[str, Any], **options: Any) -> PreparedDocument:
    (folder / "job.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    return prepare_document(SubmitRequest(**{"cwd": folder, "target": "job.yml", **options}), {})


def job_of(folder: Path, content: dict[str, Any], **options: Any) -> JobSpec:
    job = prepared(folder, content, **options).job
    assert job is not None
    return job


def refusal(folder: Path, content: dict[str, Any], **options: Any) -> str:
    with pytest.raises(BadUsage) as caught:
        prepared(folder, content, **options)
    assert str(caught.value).startswith("'job.yml': ")
    return f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    "options",
    [{"checkpoint": "a.pt"}, {"in_place": True}, {"num_nodes": 2}],
)
def test_the_hint_about_options_that_do_not_count(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(BadUsage, match="does not count for a job's YAML") as caught:
        prepared(folder, COMMAND, typed=frozenset(options), **options)
    assert caught.value.hint == "Leave it out, or say the same in 'job.yml'."


def test_a_command_job(folder: Path) -> None:
    found = prepared(
        folder,
        {
            **COMMAND,
            "experiment_name": "digits",
            "display_name": "shown",
            "tags": {"n": 1, "team": "red"},
            "environment_variables": {"LR": "${{inputs.lr}}", "ON": True},
            "command": "python fit.py ${{inputs.lr}} ${{inputs.raw}} ${{ outputs.o }} $[[--more ${{inputs.more}}]]",
            "inputs": {"lr": 0.1, "raw": {"type": "uri_folder", "path": "data"}, "more": {"type": "string", "optional": True}},
            "outputs": {"o": {"type": "uri_folder"}},
            "distribution": {"type": "PyTorch", "process_count_per_instance": 2},
            "resources": {"instance_count": 3, "shm_size": "8g"},
            "limits": {"timeout": 90},
            "queue_settings": {"job_tier": "spot"},
        },
        tags={"team": "blue"},
        env_vars={"ON": "no"},
    )
    job = found.job
    assert job is not None
    assert job.entry == Entry(EntryKind.command, "python fit.py 0.1 ${{inputs.raw}} ${{ outputs.o }}")
    assert (job.experiment, job.display_name, job.tags["team"], job.tags["n"]) == ("digits", "shown", "blue", "1")
    assert job.env == {"LR": "0.1", "ON": "no"}
    assert job.inputs == [DataSpec("raw", "data", local=str(folder / "data"))]
    assert job.outputs == [DataSpec("o", "")]
    assert (job.processes, job.distribution, job.max_seconds, job.arguments) == (2, "pytorch", 90.0, ())
    assert (job.snapshot.root, list(job.snapshot.files)) == (folder / "src", ["fit.py"])
    assert "Passed over, since it runs here and not on a cluster: environment, queue_settings, resources.shm_size." in found.remarks
    assert "'resources.instance_count': one node here in place of 3." in found.remarks


@pytest.mark.parametrize(
    ("path", "item"),
    [
        ("azureml:digits:3", DataSpec("x", "digits", version="3")),
        ("azureml:digits@latest", DataSpec("x", "digits")),
        ("azureml://datastores/lab/paths/raw/first/", DataSpec("x", "raw/first", datastore="lab")),
        ("azureml://datastores/workspaceblobstore/paths/raw", DataSpec("x", "raw")),
        ("azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/lab/paths/raw", DataSpec("x", "raw", datastore="lab")),
    ],
)
def test_where_data_lies(folder: Path, path: str, item: DataSpec) -> None:
    job = job_of(folder, {**COMMAND, "command": "ls ${{inputs.x}}", "inputs": {"x": {"type": "uri_folder", "path": path}}})
    assert list(job.inputs) == [item]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"comand": "x"}, "'comand' is no key that himl knows there. Did you mean 'command'"),
        ({"command": None}, "'command' is missing"),
        ({"command": "ls ${{inputs.y}}"}, "'command' has '${{inputs.y}}', which names nothing; there are: none."),
        ({"command": "ls ${{parent.y}}"}, "'command' has '${{parent.y}}', which names nothing"),
        ({"command": "ls ${{search_space.y}}"}, "which names nothing"),
        ({"type": "spark"}, "'type' 'spark' cannot run here."),
        ({"code": "nowhere"}, "'code' 'nowhere' is no folder."),
        ({"code": "git+https://ada:hunter2@example.org/lab"}, "'code' 'git+https://***@example.org/lab' cannot be had here."),
        ({"distribution": {"type": "tensorflow"}}, "'distribution.type' 'tensorflow' cannot be had here."),
        ({"distribution": {"type": "mpi", "process_count_per_instance": 1025}}, "'distribution.process_count_per_instance' can be 1,024 at most"),
        ({"resources": {"instance_count": 10**200}}, "'resources.instance_count' can be 65,000 at most"),
        ({"command": "echo a\0b"}, "'command' has the character NUL"),
        ({"command": "echo ${{inputs.a}}", "inputs": {"a": "a\0b"}}, "'inputs.a' has the character NUL"),
        ({"distribution": {"type": "mpi", "process_count_per_instance": 0}}, "'distribution.process_count_per_instance' must be a whole number"),
        ({"limits": {"timeout": "soon"}}, "'limits.timeout' must be a number"),
        ({"limits": 3}, "'limits' must hold keys and values"),
        ({"inputs": {"x": {"type": "uri_folder", "path": "https://example.org/x"}}}, "'inputs.x.path' 'https://example.org/x' cannot be had here."),
        ({"inputs": {"x": {"type": "folder", "path": "data"}}}, "'inputs.x.type' cannot be 'folder'."),
        ({"inputs": {"a-b": 1}}, "'inputs.a-b' cannot be a key."),
        ({"inputs": {"x": [1]}}, "'inputs.x' must be a plain value or a dataset."),
        ({"environment_variables": {"A": "${{inputs.x}}"}, "inputs": {"x": {"path": "data"}}}, "'environment_variables.A' has '${{inputs.x}}'"),
    ],
)
def test_what_cannot_run_here_is_named_by_its_key(folder: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(folder, {**COMMAND, **changes})


def test_where_it_runs(folder: Path) -> None:
    named = {**COMMAND, "compute": "azureml:gpu"}
    assert prepared(folder, named).goes_to_azure
    assert prepared(folder, named).changes.cluster == ""
    assert prepared(folder, named, cluster="other").changes.cluster == "other"
    assert prepared(folder, named, cluster="local").job is not None
    assert prepared(folder, COMMAND, cluster="gpu").goes_to_azure
    nowhere = prepared(folder, {"command": "ls"})
    assert nowhere.job is not None
    assert nowhere.remarks == ["It names no compute and runs here; --cluster NAME runs it on Azure ML."]


def test_what_a_dry_run_shows_has_the_changes(folder: Path) -> None:
    shown = changed_yaml(prepared(folder, {**COMMAND, "tags": {"a": "1"}}, cluster="gpu", experiment="digits", tags={"b": "2"}, env_vars={"API_KEY": "x"}))
    content = yaml.safe_load(shown)
    assert (content["compute"], content["experiment_name"], content["tags"]["a"], content["tags"]["b"]) == ("azureml:gpu", "digits", "1", "2")
    assert content["environment_variables"] == {"API_KEY": "***"}


def test_dry_run_shows_code_folders_with_forward_slashes(folder: Path) -> None:
    """Of a command, a sweep's trial, and each step of a pipeline; what else stands beside them stays."""
    written, found = "..\\code\\new", "../code/new"
    steps = {
        "a.b": {**COMMAND, "code": written},
        "c": {**SWEEP, "trial": {**SWEEP["trial"], "code": written}},
        "d": {**COMMAND, "component": {"code": written}},
    }
    whole = {"type": "pipeline", "compute": "azureml:gpu", "jobs": steps}
    shown = yaml.safe_load(changed_yaml(prepared(folder, whole)))["jobs"]
    assert (shown["a.b"]["code"], shown["c"]["trial"]["code"], shown["d"]["component"]["code"]) == (found,) * 3
    assert {**shown["a.b"], "code": written} == steps["a.b"]
    assert yaml.safe_load(changed_yaml(prepared(folder, {**COMMAND, "code": written}, cluster="gpu")))["code"] == found


def test_options_that_do_not_count(folder: Path) -> None:
    for option, message in (({"num_nodes": 2}, "--num_nodes does not count"), ({"cluster": "gpu", "python": "x"}, "--python does not count")):
        with pytest.raises(BadUsage, match=message):
            prepared(folder, COMMAND, **option)
    (folder / "conda.yml").write_text("name: x\ndependencies: [python]\n")
    with pytest.raises(BadUsage, match=r"'conda\.yml' holds no job"):
        prepare_document(SubmitRequest(cwd=folder, target="conda.yml"), {})


def test_a_sweep(folder: Path) -> None:
    job = job_of(folder, SWEEP)
    assert job.entry.target == "python fit.py --lr ${{search_space.lr}}"
    assert job.max_seconds == 60
    assert job.sweep == SweepSpec({"lr": SearchRange(Draw.choice, [0.1, 0.2])}, "grid", 2, 2, "accuracy", "maximize")
    drawn = {
        **SWEEP,
        "search_space": {"lr": {"type": "loguniform", "min_value": -6, "max_value": -1}, "n": {"type": "randint", "upper": 5}},
        "sampling_algorithm": {"type": "random", "seed": 7},
        "early_termination": {"type": "bandit", "slack_factor": 0.2, "evaluation_interval": 2, "delay_evaluation": 3},
    }
    sweep = job_of(folder, drawn).sweep
    assert sweep is not None
    assert dict(sweep.space) == {"lr": SearchRange(Draw.loguniform, [-6, -1]), "n": SearchRange(Draw.randint, (5,))}
    assert (sweep.sampling, sweep.seed, sweep.max_trials) == ("random", 7, 9)
    assert sweep.early_stop == EarlyStop("bandit", 2, 3, slack_factor=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search_space": {"lr": {"type": "choice", "values": []}}}, "'search_space.lr': the list is empty"),
        ({"search_space": {"lr": {"type": "uniform", "min_value": 1}}}, "'search_space.lr.max_value' is missing"),
        ({"search_space": {"lr": {"type": "gauss"}}}, "'search_space.lr.type' cannot be 'gauss'"),
        ({"search_space": {}}, "'search_space' is missing"),
        ({"sampling_algorithm": "best"}, "'sampling_algorithm' cannot be 'best'"),
        ({"sampling_algorithm": "bayesian", "early_termination": {"type": "median_stopping"}}, "exclude each other"),
        ({"sampling_algorithm": {"type": "random", "rule": "sobol"}}, "'sampling_algorithm.rule' cannot be 'sobol' here"),
        ({"sampling_algorithm": "random", "limits": {}}, "'limits.max_total_trials' is missing"),
        ({"objective": {"goal": "minimize"}}, "'objective.primary_metric' is missing"),
        ({"limits": {"max_total_trials": 9, "trial_timeout": 0}}, "'limits.trial_timeout' must be a number of seconds, not 0."),
        ({"early_termination": {"type": "bandit"}}, "'early_termination': bandit takes slack_factor or slack_amount"),
        ({"trial": {"command": "ls ${{search_space.x}}"}}, "'trial.command' has '${{search_space.x}}', which names nothing; there are: lr."),
    ],
)
def test_sweeps_that_cannot_be(folder: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(folder, {**SWEEP, **changes})


TRAIN = {"command": "python fit.py ${{inputs.data}} ${{inputs.n}}", "code": "src", "environment": "azureml:lab@latest"}
PIPELINE: dict[str, Any] = {
    "type": "pipeline",
    "inputs": {"raw": {"type": "uri_folder", "path": "data"}, "n": 3},
    "outputs": {"model": {"type": "uri_folder", "path": "azureml://datastores/lab/paths/model"}},
    "jobs": {
        "train": {
            **TRAIN,
            "inputs": {"data": "${{parent.jobs.prep.outputs.clean}}", "n": "${{parent.inputs.n}}"},
            "outputs": {"m": "${{parent.outputs.model}}"},
        },
        "prep": {"component": "parts/prep.yml", "inputs": {"raw": "${{parent.inputs.raw}}"}, "display_name": "Prepare"},
    },
}
PREP: dict[str, Any] = {
    "type": "command",
    "name": "prep",
    "version": 1,
    "inputs": {"raw": {"type": "uri_folder"}, "depth": {"type": "integer", "default": 2}, "more": {"type": "string", "optional": True}},
    "outputs": {"clean": {"type": "uri_folder"}},
    "code": "../src",
    "command": "python fit.py ${{inputs.raw}} ${{inputs.depth}} ${{outputs.clean}} $[[--more ${{inputs.more}}]]",
    "environment": "azureml:lab@latest",
}


@pytest.fixture
def with_parts(folder: Path) -> Path:
    write_files(folder, {"parts/prep.yml": yaml.safe_dump(PREP)})
    return folder


def test_a_pipeline_of_inline_jobs_and_component_files(with_parts: Path) -> None:
    pipeline = prepared(with_parts, PIPELINE).pipeline
    assert pipeline is not None
    prep, train = pipeline.steps
    assert (prep.key, prep.name, train.key, train.name) == ("prep", "Prepare", "train", "train")
    assert prep.job.entry.target == "python fit.py ${{inputs.raw}} 2 ${{outputs.clean}}"
    assert list(prep.job.inputs) == [DataSpec("raw", "data", local=str(with_parts / "data"))]
    assert list(prep.job.outputs) == [DataSpec("clean", "")]
    assert prep.job.snapshot.root == train.job.snapshot.root == with_parts / "src"
    assert train.job.entry.target == "python fit.py ${{inputs.data}} 3"
    assert train.takes == {"data": StepOutput("prep", "clean")}
    assert list(train.job.outputs) == [DataSpec("m", "model", datastore="lab")]


WRONG_KEYS = ("../x", "a/b", "a:b", "..", "9", "a b", "é", "k" * 300)


def step(**changes: Any) -> dict[str, Any]:
    return {**PIPELINE, "jobs": {**PIPELINE["jobs"], "train": {**PIPELINE["jobs"]["train"], **changes}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (step(inputs={"data": "${{parent.jobs.perp.outputs.clean}}", "n": 1}), "'jobs.train.inputs.data' names the job 'perp', which is not there."),
        (step(inputs={"data": "${{parent.jobs.prep.outputs.clear}}", "n": 1}), "names the output 'clear', which 'prep' does not make. It makes: clean."),
        (step(inputs={"data": "${{parent.jobs.train.outputs.m}}", "n": 1}), "'jobs.train' closes a cycle: train <- train."),
        (step(inputs={"data": "${{parent.inputs.rwa}}", "n": 1}), "the pipeline has no such input; there are: n, raw."),
        (step(inputs={"data": "x ${{parent.inputs.raw}}", "n": 1}), "which names nothing"),
        (step(inputs={"n": 1}), "'jobs.train.command' has '${{inputs.data}}', which names nothing"),
        (step(outputs={"m": "${{parent.outputs.nodel}}"}), "the pipeline has no such output. There are: model."),
        (step(type="sweep"), "'jobs.train.type' 'sweep' cannot run here as a step."),
        (step(component="azureml:prep:1"), "'jobs.train.component' 'azureml:prep:1' is kept by Azure ML"),
        (step(component="parts/perp.yml"), "'jobs.train.component' 'parts/perp.yml' is no file."),
        (step(component="parts/prep.yml", inputs={}), "'inputs.raw' gets no value."),
        ({"type": "pipeline", "jobs": {}}, "'jobs' is missing."),
        *(({**PIPELINE, "jobs": {key: TRAIN}}, f"'jobs.{key}' cannot be the key of a job.") for key in WRONG_KEYS),
        ({**PIPELINE, "jobs": {"prep": PREP, "Prep": PREP}}, "'jobs.Prep' and 'prep' differ only in capital letters."),
        (step(component="parts/prep.yml", inputs={"raw": "x"}, limits={"timeout": -5}), "'jobs.train.limits.timeout' must be a number of seconds, not -5."),
    ],
)
def test_pipelines_that_cannot_be(with_parts: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(BadUsage) as caught:
        prepared(with_parts, content)
    assert message in f"{caught.value} {caught.value.hint}"


def test_the_compute_of_a_step_sends_the_whole_pipeline(with_parts: Path) -> None:
    assert prepared(with_parts, step(compute="azureml:gpu")).goes_to_azure
    assert prepared(with_parts, {**PIPELINE, "settings": {"default_compute": "azureml:gpu"}}).goes_to_azure
    assert prepared(with_parts, {**PIPELINE, "settings": {"default_compute": "azureml:gpu"}}, cluster="local").pipeline is not None
