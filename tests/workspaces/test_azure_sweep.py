"""Sweeps on Azure ML: what their commands are to bash, where trials write, what records tell of them."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import ignore
from himl_cli.core.jobs import DataSpec, Draw, Entry, EntryKind, Scalar, SearchRange, SweepSpec, hyperparameters_of, value_text
from himl_cli.core.runs import Run, RunQuery, RunStatus
from himl_cli.workspaces.azure.config import PUBLIC, WorkspaceAddress
from himl_cli.workspaces.azure.jobs.body import command_line
from himl_cli.workspaces.azure.run_records import as_run
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.jobs.manner import Manner
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.sweep_seeding import add_sweep
from tests.support.azure_jobs import SWEEPS, cluster_spec
from tests.workspaces.test_azure_command_text import seen_by_script
from tests.workspaces.test_azure_submit import LOADED, asked

WORDS = ["linear", "0.1", "1e-05", "a b", "$HOME", "`ls`", "$(ls)", "*", "~", "a\nb", "\\", "é漢🙂", "#no", "a;b&c|d", "${x}", "{a,b}", 'say "x"', "-x"]
ADDRESS = WorkspaceAddress("sub", "team", "lab", PUBLIC, "a test")


def choice(*values: str | float | bool) -> SearchRange:
    return SearchRange(Draw.choice, values)


def as_text(name: str, value: str) -> str:
    """What stands for a placeholder where the service fills the value in itself."""
    return value


def as_variable(name: str, value: str) -> str:
    """What stands for it where the shell does, as public traces have it."""
    return f"$AZUREML_SWEEP_{name}"


BOTH_WAYS = pytest.mark.parametrize("stands_for", [as_text, as_variable])


def given_to_trial(
    folder: Path, bash: str, values: Mapping[str, SearchRange], stands_for: Callable[[str, str], str], *, at: int = 0, **fields: Any
) -> list[str]:
    """The arguments that the script of a trial gets: with the values at this place in each list."""
    text, variables = command_line(cluster_spec(folder / "code", sweep=SweepSpec(values), **fields)), ""
    for name, one in values.items():
        value = value_text(one.values[at])
        text = text.replace(f"${{{{search_space.{name}}}}}", stands_for(name, value))
        variables += f"export AZUREML_SWEEP_{name}={shlex.quote(value)}; "
    return seen_by_script(variables + text, folder, bash)[1:]


@BOTH_WAYS
@pytest.mark.parametrize("at", range(len(WORDS)))
def test_each_choice_reaches_the_script_as_one_word(
    tmp_path: Path, require_program: Callable[[str], str], at: int, stands_for: Callable[[str, str], str]
) -> None:
    values = {"name": choice(*WORDS), "lr": choice(*range(len(WORDS)))}
    given = given_to_trial(tmp_path, require_program("bash"), values, stands_for, at=at, arguments=["--x", "a b"])
    assert given == ["--x", "a b", "--name", WORDS[at], "--lr", str(at)]


@BOTH_WAYS
@pytest.mark.parametrize(
    ("argument", "given"), [("${{search_space.a}}_x", "1_x"), ("${{search_space.a}}${{search_space.b}}0", "120"), ("é${{search_space.a}}é a", "é1é a")]
)
def test_what_stands_behind_a_value_is_no_part_of_its_name(
    tmp_path: Path, require_program: Callable[[str], str], argument: str, given: str, stands_for: Callable[[str, str], str]
) -> None:
    values = {"a": choice(1), "b": choice(2)}
    assert given_to_trial(tmp_path, require_program("bash"), values, stands_for, arguments=[argument, "${{search_space.b}}"]) == [given, "2"]


@pytest.mark.parametrize("way", ["variable", "text"])
def test_odd_words_reach_the_trials_of_a_job(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, way: str) -> None:
    script = "import pathlib, sys\npathlib.Path('outputs').mkdir(exist_ok=True)\npathlib.Path('outputs/said.txt').write_text(sys.argv[-1])\n"
    words = ["a b", "it's $HOME", 'say "x"', "`ls`"]
    with azure.run_jobs(values_by=way):
        run = workspace.submit(cluster_spec(project / "code", {"train.py": script}, sweep=SweepSpec({"w": choice(*words)}, max_trials=4)), notify=ignore)
        azure.wait_for(run.id, "Completed")
    assert [azure.artifacts(f"{run.id}_{index}")["outputs/said.txt"].decode() for index in range(4)] == words


def test_a_value_may_stand_wherever_an_argument_says(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    arguments = ["--optimizer.lr=${{search_space.lr}}", "${{ search_space.name }}/x"]
    text = {"lr": choice(0.1), "name": choice("a b")}
    command = command_line(cluster_spec(tmp_path, sweep=SweepSpec(text), arguments=arguments))
    assert command == 'python train.py --optimizer.lr=${{search_space.lr}} "$AZUREML_SWEEP_name"/x'


def test_a_line_for_bash_stays_as_it_is(tmp_path: Path) -> None:
    line = "python train.py --lr '${{search_space.lr}}' --in ${{inputs.d}} && echo done"
    spec = cluster_spec(tmp_path, entry=Entry(EntryKind.command, line), sweep=SweepSpec({"lr": choice("a b")}), inputs=[DataSpec("d", "pictures")])
    assert command_line(spec) == line


def test_trials_run_and_write_to_places_of_their_own(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    script = "import sys, pathlib\npathlib.Path(sys.argv[1], 'said.txt').write_text(' '.join(sys.argv[2:]))\n"
    spec = cluster_spec(
        project / "code",
        {"train.py": script},
        arguments=["${{outputs.o}}"],
        outputs=[DataSpec("o", "made", mode="upload")],
        sweep=SweepSpec({"flag": choice(True, False), "n": choice(1, 0.5)}, max_trials=4, max_concurrent=2),
    )
    with azure.run_jobs():
        run = workspace.submit(spec, notify=ignore)
        azure.wait_for(run.id, "Completed")
    places = {name: azure.get_blob("workspaceblobstore", name).decode() for name in azure.blob_names("workspaceblobstore") if name.startswith("made/")}
    values = ["--flag True --n 1", "--flag True --n 0.5", "--flag False --n 1", "--flag False --n 0.5"]
    assert places == {f"made/{run.id}_{index}/said.txt": text for index, text in enumerate(values)}
    assert "made" not in azure.state.assets["data"]
    assert workspace.run(run.id).status is RunStatus.completed


def test_records_of_a_sweep_and_its_trials(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    script = "import os, sys\nfrom himl_cli import RUN_CONTEXT\nRUN_CONTEXT.log('acc', float(sys.argv[-1]))\n"
    sweep = SweepSpec({"lr": choice(0.1, 0.5)}, max_trials=2, primary_metric="acc", goal="maximize", kind="crossval")
    with azure.run_jobs():
        sent = workspace.submit(cluster_spec(project / "code", {"train.py": script}, tags={"team": "blue"}, sweep=sweep), notify=ignore)
        azure.wait_for(sent.id, "Completed")
    assert sent.tags == {"team": "blue", "himl.many": "crossval", "himl.primary_metric": "acc", "himl.goal": "maximize", "run_recovery_id": f"sent:{sent.id}"}
    parent = workspace.run(sent.id)
    assert parent.tags == {**sent.tags, "himl.best_trial": f"{sent.id}_1"}
    trials = sorted(workspace.runs(RunQuery(parent=sent.id)), key=lambda run: run.id)
    assert [(trial.tags["himl.trial"], hyperparameters_of(trial.tags)) for trial in trials] == [("0", {"lr": 0.1}), ("1", {"lr": 0.5})]


def record(**fields: Any) -> Run:
    raw = {"runId": "r1", "experimentId": "e", "status": "Running", "createdUtc": "2026-03-01T12:00:00+00:00"} | fields
    return as_run(raw, experiment="train", address=ADDRESS)


def test_service_tags_of_sweep_are_hidden_and_user_tags_kept() -> None:
    notes = {"max_total_jobs": "4", "generator_config": "{}", "r1_0": '{"lr": 0.1}'}
    tags = {**notes, **{f"_aml_system_{name}": value for name, value in notes.items()}, "r1_x": "mine", "max": "mine", "r2_0": "mine"}
    assert record(tags=tags).tags == {"max": "mine", "r1_x": "mine", "r2_0": "mine"}


def test_trial_keeps_hyperparameters_tag() -> None:
    tags = {"hyperparameters": '{"--lr": 0.1}', "_aml_system_hyperparameters": '{"--lr": 0.1}'}
    trial = record(runId="p_12", parentRunId="p", tags=tags)
    assert trial.tags == {"hyperparameters": '{"--lr": 0.1}', "himl.trial": "12"}
    assert hyperparameters_of(trial.tags) == {"lr": 0.1}
    assert record(runId="other", parentRunId="p", tags=tags).tags == {"hyperparameters": '{"--lr": 0.1}'}


@pytest.mark.parametrize("config", [None, "", "no json", "[]", "{}", '"x"'])
def test_a_property_that_is_not_understood_says_nothing(config: str | None) -> None:
    assert record(properties={"primary_metric_config": config}).tags == {}


def test_a_sweep_of_another_client_is_known_by_its_properties() -> None:
    properties = {"primary_metric_config": json.dumps({"name": "AUC", "goal": "MAXIMIZE"}), "best_child_run_id": "r1_3"}
    assert record(properties=properties).tags == {"himl.many": "sweep", "himl.primary_metric": "AUC", "himl.goal": "maximize", "himl.best_trial": "r1_3"}


def test_a_pipeline_is_known_by_its_type() -> None:
    assert record(runType="azureml.PipelineRun").tags == {"himl.many": "pipeline"}
    assert record(runType="azureml.StepRun").tags == {}


def test_invalid_hyperparameter_names_fail_before_any_request(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    for name in ("optimizer.lr", "1st", "größe", "a-b"):
        with pytest.raises(BadUsage, match="Azure ML takes letters"):
            workspace.submit(cluster_spec(project, sweep=SweepSpec({name: choice(1)})), notify=ignore)
    assert azure.requests() == []


def test_azure_ai_ml_reads_the_sweep_and_lists_its_trials(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    fields = {**SWEEPS["bandit by a factor"], "max_seconds": 3600.0}
    run = workspace.submit(cluster_spec(project, **fields), notify=ignore)
    job, client = workspace.sdk_view(run.id)
    assert (job.type, job.sampling_algorithm.type, job.objective.primary_metric) == ("sweep", "random", "val/loss")
    assert (job.limits.max_total_trials, job.limits.max_concurrent_trials, job.limits.trial_timeout) == (5, None, 3600)
    assert (job.early_termination.slack_factor, job.early_termination.delay_evaluation) == (0.1, 5)
    assert list(client.jobs.list(parent_job_name=run.id)) == []


def test_a_sweep_needs_no_sdk_and_a_second_one_two_requests(azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.write_config(project)
    (project / "train.py").write_text("")
    (project / "environment.yml").write_text("dependencies:\n- python=3.11\n- pip:\n  - himl-cli\n")
    command = [sys.executable, "-c", LOADED, "submit", "train.py", "--cluster", "cpu-cluster", "--sweep", "lr=0.1,0.2", "--", "--fixed"]
    for attempt in range(2):
        azure_environment.stage.log.clear()
        done = subprocess.run([*command, str(attempt)], cwd=project, capture_output=True, text=True, timeout=100, check=False)
        assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["not loaded"]), done.stderr
    assert [line.partition("/jobs/")[0] for line in asked(azure_environment)] == ["GET /computes/cpu-cluster", "PUT "]


@pytest.mark.parametrize(("place", "requests"), [("tag", 1), ("system_tag", 1), ("sweep", 2), ("old_sweep", 2)])
def test_trial_values_are_read_from_tags_or_sweep(workspace: AzureWorkspace, azure: StagedWorkspace, place: str, requests: int) -> None:
    rates: list[dict[str, Scalar]] = [{"lr": rate, "name": "a b"} for rate in (0.1, 0.2, 0.3)]
    add_sweep(azure, "tune", rates, manner=Manner(values_in=place))
    assert hyperparameters_of(workspace.run("tune_2").tags) == rates[2]
    azure.stage.log.clear()
    trials = {run.id: run for run in workspace.runs(RunQuery(parent="tune"))}
    assert [hyperparameters_of(trials[f"tune_{index}"].tags) for index in range(3)] == rates
    assert [trials[f"tune_{index}"].tags["himl.trial"] for index in range(3)] == ["0", "1", "2"]
    assert len(azure.requests("/runs/tune")) == requests
    assert [name for name in workspace.run("tune").tags if name.startswith(("_aml", "tune"))] == []


def test_trial_without_known_values_keeps_its_number(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    sweep = add_sweep(azure, "tune", [{"lr": 0.1}], manner=Manner(values_in="sweep"))
    sweep.tags.clear()
    assert workspace.run("tune_0").tags == {"himl.trial": "0"}


def test_a_child_that_is_called_like_a_trial_is_none(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    azure.add_run("search")
    for index in range(2):
        azure.add_run(f"search_{index}", parent="search")
    assert [run.tags for run in workspace.runs(RunQuery(parent="search"))] == [{}, {}]
    azure.stage.log.clear()
    assert workspace.run("search_1").tags == {}
    assert len(azure.requests()) == 1, "that it is no sweep is known by then"
