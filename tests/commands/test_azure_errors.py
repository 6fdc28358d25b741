"""Failures on an Azure ML workspace: one line, a hint, the right exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.servers.azureml.faults import ChangeEtag, Status
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import DEFAULT, StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.running import Himl, write_files

NOBODY = "00000000-1111-2222-3333-444444444444"

CASES: list[tuple[list[str], int, str, str]] = [
    (["runs", "show", "train_1_ab"], 3, "No run 'train_1_ab' in workspace", "train_1_aa"),
    (["runs", "show", "train:train_1_ab"], 3, "No run 'train_1_ab' in workspace", "train_1_aa"),
    (["runs", "show", "other:train_1_aa"], 3, "belongs to experiment 'train', not 'other'", "train:train_1_aa"),
    (["runs", "show", "--experiment", "trian"], 3, "No run of an experiment 'trian'", "Did you mean train?"),
    (["runs", "show", "../../train_1_aa"], 3, "No run '../../train_1_aa'", ""),
    (["runs", "logs", "train_1_aa", "--file", "std_lg.txt"], 3, "has no log 'std_lg.txt'", "std_log.txt"),
    (["download", "train_1_aa", "--prefix", "output/"], 3, "starts with 'output/'", "outputs/"),
    (["download", "train_1_aa", "--output_key", "x"], 3, "'x'", "model"),
    (["datastore", "list", "--datastore", "workspaceblob"], 3, "No datastore 'workspaceblob'", "workspaceblobstore"),
    (["datastore", "list", "dta/"], 3, "starts with 'dta/'", "data/"),
    (["datastore", "list", "--datastore", "workspacefilestore"], 2, "file share", "azcopy"),
    (["datastore", "list", "--datastore", "gone"], 3, "gone-container", ""),
    (["runs", "list", "--config_file", "nope.json"], 3, "There is no file 'nope.json'", "config.json"),
    (["submit", "x.py", "--config_file", "config.json"], 2, "this job runs and is recorded here", ".himl"),
]


@pytest.fixture
def seeded(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure = azure_environment
    azure.write_config(project)
    run = azure.add_run("train_1_aa", "train")
    azure.put_artifacts(run, {"outputs/m.bin": b"m", "user_logs/std_log.txt": b"log\n"})
    azure.add_output(run, "model", {"m": b"m"})
    azure.put_blob(DEFAULT, "data/a.txt", b"a")
    gone = azure.add_datastore("gone", container="container-that-goes")
    gone.container = "gone-container"
    (project / "x.py").write_text("")
    return azure


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(("arguments", "code", "message", "hint"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_a_failure_is_one_line_a_hint_and_an_exit_code(himl: Himl, arguments: list[str], code: int, message: str, hint: str) -> None:
    outcome = himl(*arguments)
    lines = outcome.stderr.splitlines()
    assert (outcome.code, outcome.stdout) == (code, ""), outcome.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert hint in " ".join(lines)
    assert all(line.startswith("hint: ") for line in lines[1:])


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("subscription_id", NOBODY, f"sees no subscription '{NOBODY}'"),
        ("resource_group", "nowhere", "There is no resource group 'nowhere'"),
        ("workspace_name", "nothing", "There is no workspace 'nothing'"),
    ],
)
@pytest.mark.parametrize("command", [["runs", "list"], ["download", "train_1_aa"], ["datastore", "list"]])
def test_a_wrong_workspace_is_exit_3(himl: Himl, seeded: StagedWorkspace, project: Path, command: list[str], key: str, value: str, said: str) -> None:
    content = json.loads((project / "config.json").read_text()) | {key: value}
    (project / "config.json").write_text(json.dumps(content))
    outcome = himl(*command)
    assert (outcome.code, outcome.stdout) == (3, ""), outcome.stderr
    assert said in outcome.stderr.splitlines()[0]


def test_no_rights_is_exit_4_and_names_the_role(himl: Himl, seeded: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seeded.environment(seeded.add_principal(set())).items():
        monkeypatch.setenv(name, value)
    outcome = himl("runs", "list")
    assert (outcome.code, outcome.stdout) == (4, "")
    assert "AzureML Data Scientist" in outcome.stderr


def test_reading_without_the_right_to_tag_is_exit_4(himl: Himl, seeded: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seeded.environment(seeded.add_principal({Right.READ})).items():
        monkeypatch.setenv(name, value)
    assert himl.ok("runs", "show", "train_1_aa", "-q").stdout == "train_1_aa\n"
    assert himl("runs", "tag", "train_1_aa", "a=b").code == 4


def test_a_service_that_goes_on_failing_is_exit_5(himl: Himl, seeded: StagedWorkspace) -> None:
    himl.ok("runs", "list")
    seeded.stage.faults.add(Status(503, retry_after=0), "api.azureml.ms", times=None)
    outcome = himl("runs", "list", "--json")
    assert (outcome.code, outcome.stdout) == (5, "")
    assert json.loads(outcome.stderr.splitlines()[-1])["error"]["code"] == "service_failed"  # after the notice of a pause


def test_list_fails_if_azure_does_with_hint_to_local_workspace(himl: Himl, seeded: StagedWorkspace, project: Path) -> None:
    (project / ".himl").mkdir()
    seeded.stage.faults.add(Status(503, retry_after=0), "management|api.azureml.ms", times=None)
    outcome = himl("runs", "list")
    assert (outcome.code, outcome.stdout) == (5, "")
    assert "--workspace local" in outcome.stderr
    assert himl.ok("runs", "list", "-w", "local").code == 0


def test_a_right_that_is_missing_is_said_once_and_ends_an_upload(himl: Himl, seeded: StagedWorkspace, stage: Stage, project: Path) -> None:
    seeded.add_datastore("readable", credentials="Sas", sas_permissions="rl")
    write_files(project / "many", {f"{number:03d}.txt": "x" for number in range(300)})
    outcome = himl("datastore", "upload", "many", "up", "--datastore", "readable", "--workers", "4")
    error, *hint = outcome.stderr.splitlines()
    assert (outcome.code, outcome.stdout) == (4, "")
    assert "files; the others were not tried." in error
    assert [line.startswith("hint: ") and "Run the command again" not in line for line in hint] == [True]
    assert len(stage.log.find(r"PUT .*/up/")) < 150


def test_a_blob_that_keeps_changing_is_a_fault_of_the_transfer(himl: Himl, seeded: StagedWorkspace, stage: Stage) -> None:
    seeded.put_blob(DEFAULT, "restless", b"x" * 100)
    stage.faults.add(ChangeEtag(), r"GET .*/restless", times=None)
    outcome = himl("datastore", "download", "restless", "out")
    assert (outcome.code, outcome.stderr.splitlines()[0]) == (5, "error: 'restless' changed each of the 3 times it was read.")


def test_waiting_for_a_busy_service_is_said_in_himls_own_words(himl: Himl, seeded: StagedWorkspace, stage: Stage) -> None:
    assert seeded.label
    stage.faults.add(Status(503, retry_after=3), r"GET .*/runs/train_1_aa", times=1)
    said = himl.ok("runs", "show", "train_1_aa").stderr
    assert said.startswith("himl: ")
    assert "trying again in 3" in said
    assert "WARNING" not in said
