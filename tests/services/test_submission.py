"""From options to a job, without running it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import DataSpec, Entry, EntryKind
from himl_cli.core.runs import friendly_experiment
from himl_cli.services.submission.data import parse_data
from himl_cli.services.submission.prepare import prepare_job
from himl_cli.services.submission.request import SubmitRequest, choose_experiment, find_python, parse_duration
from tests.support.running import write_files


@pytest.fixture
def request_here(project: Path) -> SubmitRequest:
    write_files(project, {"pyproject.toml": "", "src/train.py": "", "run.sh": "", "notes.txt": ""})
    return SubmitRequest(cwd=project, target="src/train.py")


def test_the_script_is_named_relative_to_the_snapshot_root(request_here: SubmitRequest, project: Path) -> None:
    job = prepare_job(replace(request_here, cwd=project / "src", target="train.py", arguments=("--lr", "0.1"))).spec
    assert job.entry == Entry(EntryKind.script, "src/train.py")
    assert (job.snapshot.root, job.experiment, list(job.arguments)) == (project, "train", ["--lr", "0.1"])


def test_a_shell_script_and_a_module(request_here: SubmitRequest) -> None:
    assert prepare_job(replace(request_here, target="run.sh")).spec.entry == Entry(EntryKind.shell, "run.sh")
    module = prepare_job(replace(request_here, target=None, module="lab.vision.train")).spec
    assert (module.entry, module.experiment) == (Entry(EntryKind.module, "lab.vision.train"), "lab_vision_train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": None}, "Nothing to run"),
        ({"module": "a.b"}, "both given"),
        ({"target": "src/trian.py"}, "no script 'src/trian.py'"),
        ({"target": "src"}, "'src' is a folder"),
        ({"target": "notes.txt"}, "neither a .py nor a .sh"),
        ({"target": None, "module": "train.py!"}, "no module name"),
        ({"num_nodes": 2}, "one node"),
        ({"processes_per_node": 0}, "at least 1"),
        ({"distribution": "horovod"}, "horovod"),
        ({"python": "no-such-python"}, "no-such-python"),
        ({"max_run_duration": "fast"}, "'fast' is no duration"),
        ({"snapshot_root": "nowhere"}, "'nowhere' is no folder"),
        ({"snapshot_root": "lib"}, "outside the snapshot root"),
        ({"ignored_folders": ["src"]}, "left out of the snapshot"),
        ({"inputs": ["a,target=."]}, "target=. is refused"),
        ({"experiment": " "}, "experiment's name is empty"),
        ({"experiment_from_branch": True}, "no git branch"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(request_here: SubmitRequest, project: Path, change: dict[str, object], message: str) -> None:
    (project / "lib").mkdir()
    before = sorted(project.rglob("*"))
    with pytest.raises(BadUsage, match=message):
        prepare_job(replace(request_here, **change))  # type: ignore[arg-type]
    assert sorted(project.rglob("*")) == before


def test_a_script_that_is_misspelt_brings_the_near_one_up(request_here: SubmitRequest) -> None:
    with pytest.raises(BadUsage) as caught:
        prepare_job(replace(request_here, target="src/trian.py"))
    assert "train.py" in caught.value.hint


def test_git_facts_become_tags_and_build_options_win(
    request_here: SubmitRequest, project: Path, git: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "First model")
    git(project, "remote", "add", "origin", "https://ada:hunter2@example.org/lab.git")
    (project / "run.sh").write_text("changed")
    tags = prepare_job(replace(request_here, build={"build_branch": "ci"}, tags={"team": "blue"})).spec.tags
    wanted = {"build_branch": "ci", "build_source_author": "Ada", "build_source_message": "First model", "build_source_dirty": "true", "team": "blue"}
    assert wanted.items() <= tags.items()
    assert tags["build_source_id"] == git(project, "rev-parse", "HEAD").strip()
    assert tags["build_source_repository"] == "https://***@example.org/lab.git"
    assert "hunter2" not in caplog.text, "the remote's password reached the log"


def test_secrets_in_what_ci_says_do_not_reach_the_tags(request_here: SubmitRequest) -> None:
    build = {"build_source_repository": "https://gitlab-ci-token:marked-secret@example.org/lab.git", "build_source_message": "password=marked-secret"}
    assert "marked-secret" not in str(prepare_job(replace(request_here, build=build)).spec.tags)


def test_the_experiment_can_follow_the_branch(request_here: SubmitRequest, project: Path, git: Callable[..., str]) -> None:
    git(project, "init", "-q")
    git(project, "checkout", "-qb", "ada/new-loss")
    assert prepare_job(replace(request_here, experiment_from_branch=True)).spec.experiment == "ada_new-loss"


def test_secrets_in_arguments_do_not_reach_the_tags(request_here: SubmitRequest) -> None:
    arguments = ("--api_key", "abc123", "--password=hunter2", "https://x.blob.core.windows.net/c?sv=1&sig=SIGNATURE", "--epochs", "3")
    shown = prepare_job(replace(request_here, arguments=arguments)).spec.tags["command_line"]
    assert "--epochs 3" in shown
    assert not [secret for secret in ("abc123", "hunter2", "SIGNATURE") if secret in shown]


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("30m", 1800), ("2h", 7200), ("1.5d", 129600)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "5", "h", "-1h", "1 h", "1w", "1h30m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(BadUsage, match="no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("name", "friendly"),
    [
        *((one, one) for one in ("a-b", "ok_1", "9", "A" * 256)),
        ("a-b  c", "a-b_c"),
        ("x.y/z", "x_y_z"),
        ("größe", "gr_e"),
        ("實驗", "experiment"),
        ("_-a", "a"),
        ("a" * 300, "a" * 256),
    ],
)
def test_experiments_are_named_as_azure_takes_them(name: str, friendly: str) -> None:
    assert friendly_experiment(name) == friendly


def test_the_experiment_of_a_script_is_its_stem() -> None:
    assert choose_experiment(None, "src/my-train.py", from_branch=False, git={}) == ("my-train", [])


def test_inputs_in_full() -> None:
    texts = ["mnist", "train=folder/sub:3,datastore=d,mode=mount,target=/data", "local_one=x,local=../data"]
    assert parse_data("input", texts) == [
        DataSpec("INPUT_0", "mnist"),
        DataSpec("train", "folder/sub", "3", datastore="d", mode="mount", target="/data"),
        DataSpec("local_one", "x", local="../data"),
    ]


def test_outputs_in_full() -> None:
    assert parse_data("output", ["preds", "model=m,mode=upload,overwrite=false"]) == [
        DataSpec("OUTPUT_0", "preds"),
        DataSpec("model", "m", mode="upload", overwrite=False),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1a=x", "cannot be a key"),
        ("a=x,mod=mount", "unknown 'mod'"),
        ("a=x,mode=copy", "mode cannot be 'copy'"),
        ("a=x,local=", "has no value"),
        ("a=", "no name"),
        ("a=x,target=./", "target=."),
    ],
)
def test_bad_data_specs(text: str, message: str) -> None:
    with pytest.raises(BadUsage, match=message):
        parse_data("input", [text])


@pytest.mark.parametrize("text", ["x:3", "a=x:latest"])
def test_an_output_has_no_version(text: str) -> None:
    with pytest.raises(BadUsage, match="an output has no version"):
        parse_data("output", [text])


def test_the_same_key_twice() -> None:
    with pytest.raises(BadUsage, match="key 'a'"):
        parse_data("output", ["a=x", "a=y"])


def test_an_active_environment_is_preferred(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    write_files(tmp_path, {"venv/bin/python": "#!/bin/sh\n"})
    python.chmod(0o755)
    assert find_python(None, {"VIRTUAL_ENV": str(tmp_path / "venv")}, Path(sys.prefix)) == str(python)


def test_a_tool_s_own_environment_is_not_used_for_jobs(tmp_path: Path) -> None:
    write_files(tmp_path, {"tool/bin/python": "", "tool/uv-receipt.toml": "", "usr/python3": ""})
    for name in ("tool/bin/python", "usr/python3"):
        (tmp_path / name).chmod(0o755)
    assert find_python(None, {"PATH": str(tmp_path / "usr")}, tmp_path / "tool") == str(tmp_path / "usr" / "python3")
