"""Tests of `himl runs delete` on an Azure ML workspace: what it lists, deletes and keeps, and interruptions."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.azureml_double.faults import Stall, Status
from tests.azureml_double.seeding import DEFAULT, StagedWorkspace, add_sweep
from tests.azureml_double.state import Right
from tests.support.running import Himl, until
from tests.support.runs import posix

FILES = {"outputs/a b/ü.bin": b"123", "outputs/m.bin": b"m" * 7, "user_logs/std_log.txt": b"log"}
BLOBS = r"DELETE .*\.blob\."


@pytest.fixture
def azure(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """A sweep of two trials, and a run whose id starts with the id of the sweep.

    Each has three files and the archive that Studio makes of them.
    """
    azure_environment.write_config(project)
    add_sweep(azure_environment, "sweep_1", [{"lr": 0.1}, {"lr": 0.2}])
    azure_environment.add_run("sweep_10", "tuning")
    for run_id in ("sweep_1", "sweep_1_0", "sweep_1_1", "sweep_10"):
        azure_environment.put_artifacts(azure_environment.state.runs[run_id], FILES)
        azure_environment.state.storage.put("azureml", f"ArtifactZip/ExperimentRun/dcid.{run_id}.zip", b"zip")
    return azure_environment


def names(azure: StagedWorkspace) -> list[str]:
    return [blob.name for blob in azure.state.storage.list("azureml")]


def test_runs_go_with_their_files_and_nothing_else_does(himl: Himl, azure: StagedWorkspace) -> None:
    azure.add_output(azure.state.runs["sweep_1"], "data", {"x": b"x"})
    before, place = names(azure), f"container 'azureml' of storage account '{azure.state.storage.account}'"
    asked = himl("runs", "delete", "sweep_1")
    assert asked.code == 2
    assert asked.stderr.splitlines()[:3] == [
        f"Run 'sweep_1' and its 2 child runs: 12 files, 48 B, in {place}.",
        "himl keeps data that the run registered as outputs. To delete it, add --outputs.",
        "error: Delete run 'sweep_1' with its 2 trials and all their files? This needs confirmation, and "
        "there is no terminal.",
    ]
    assert names(azure) == before
    document = himl.ok("runs", "delete", "sweep_1", "--yes", "--json").json()
    below = document.pop("below")
    assert sorted(below) == ["sweep_1_0", "sweep_1_1"]
    assert document == {
        "deleted": ["sweep_1"],
        "archived": [],
        "files": 12,
        "bytes": 48,
        "places": [place],
        "outputs": [],
    }
    assert names(azure) == [name for name in before if "/dcid.sweep_10" in name]
    assert azure.get_blob(DEFAULT, "azureml/sweep_1/data/x") == b"x"
    assert himl("runs", "delete", "sweep_1", "--yes").code == 3
    told = "Using run 'sweep_10', the only one like 'sweep_1' among the newest runs of "
    assert himl.ok("runs", "show", "sweep_1").stderr.startswith(told)
    assert himl.ok("runs", "show", "sweep_1_0", "--json").json()["archived"]
    assert himl.ok("runs", "delete", "sweep_10", "--yes").stdout == "Deleted run 'sweep_10': 4 files, 16 B.\n"
    assert (names(azure), himl.ok("runs", "list", "-q").stdout) == ([], "")


@pytest.mark.large("takes long, and other tests run its branches")
def test_deletion_takes_no_other_spelling_of_an_experiment(himl: Himl, azure: StagedWorkspace) -> None:
    azure.add_run("old_1", "my_exp")
    azure.put_artifacts(azure.state.runs["old_1"], FILES)
    before = names(azure)
    for command, name in (
        *((command, "my-exp") for command in (("delete", "--yes"), ("cancel",), ("tag", "a=b"), ("archive",))),
        (("delete", "--yes"), "MY_EXP"),  # Azure ML ignores case
    ):
        outcome = himl("runs", *command, "--experiment", name, "--num_runs", "all")
        assert (outcome.code, outcome.stderr.splitlines()[-1]) == (
            3,
            "hint: There is an experiment 'my_exp'. Name it exactly: --experiment my_exp",
        )
    assert (names(azure), azure.state.runs["old_1"].hidden, "a" in azure.state.runs["old_1"].tags) == (
        before,
        False,
        False,
    )


@pytest.mark.large("takes long, and other tests run its branches")
def test_deletion_that_broke_off_goes_on_when_it_is_repeated(himl: Himl, azure: StagedWorkspace) -> None:
    faults = azure.stage.faults
    faults.add(Status(503, retry_after=0), BLOBS, times=3)  # a temporary failure
    faults.add(Status(409, code="LeaseIdMissing"), f"{BLOBS}.*dcid.sweep_1_0/outputs/m.bin", times=None)
    azure.add_output(azure.state.runs["sweep_10"], "own", {"x": b"x"})
    outcome = himl("runs", "delete", "sweep_1", "sweep_10", "--outputs", "--yes")
    assert outcome.code == 5
    assert "'outputs/m.bin' in run 'sweep_1_0' is locked by a lease." in outcome.stderr
    assert "of 12 files, but not run 'sweep_1'.\n" in outcome.stderr
    assert "To continue: himl runs delete sweep_1 --outputs\n" in outcome.stderr, "the runs that are left"
    left = names(azure)
    assert ("sweep_10" in azure.state.runs, [name for name in left if "sweep_10/" in name]) == (False, []), (
        "one failure does not stop the others"
    )
    assert "ExperimentRun/dcid.sweep_1_0/outputs/m.bin" in left
    assert {name.split("/")[1] for name in left if name.startswith("E")} >= {"dcid.sweep_1", "dcid.sweep_1_0"}, (
        "a run's files go before those above it"
    )
    assert not azure.state.runs["sweep_1_0"].hidden
    faults.clear()
    himl.ok("runs", "delete", "sweep_1", "--yes")
    assert (names(azure), "sweep_1" in azure.state.runs) == ([], False)


@posix
def test_ctrl_c_leaves_the_run_to_be_deleted_again(himl: Himl, azure: StagedWorkspace) -> None:
    azure.stage.faults.add(Stall(60), f"{BLOBS}.*dcid.sweep_10/outputs/m.bin")
    process = himl.start("runs", "delete", "sweep_10", "--yes")
    until(lambda: azure.requests(f"{BLOBS}.*user_logs"))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert (process.returncode, b"To continue: himl runs delete sweep_10" in said) == (130, True)
    assert "sweep_10" in azure.state.runs
    azure.stage.faults.clear()
    himl.ok("runs", "delete", "sweep_10", "--yes")
    assert not [name for name in names(azure) if "sweep_10" in name]


def test_who_may_not_delete_loses_nothing(himl: Himl, azure: StagedWorkspace) -> None:
    azure.put_artifacts(azure.state.runs["sweep_10"], {f"logs/{number}": b"" for number in range(96)})
    before = names(azure)
    identity = azure.state.datastores["workspaceartifactstore"]
    identity.credentials = "None"
    for rights, what in (
        ({Right.READ, Right.WRITE, Right.STORAGE_READ}, "himl deleted 0 of 100 files"),
        ({Right.READ, Right.WRITE}, "You may not do this"),
    ):
        outcome = himl("runs", "delete", "sweep_10", "--yes", env=azure.environment(azure.add_principal(rights)))
        assert (outcome.code, what in outcome.stderr, "Storage Blob Data Contributor" in outcome.stderr) == (
            4,
            True,
            True,
        ), outcome.stderr
    assert (names(azure), azure.state.runs["sweep_10"].hidden) == (before, False)
    assert len(azure.requests(BLOBS)) < 60, "himl stops after some refusals"
    reader = azure.environment(azure.add_principal({Right.READ, Right.STORAGE_READ, Right.STORAGE_WRITE}))
    outcome = himl("runs", "delete", "sweep_10", "--yes", env=reader)
    assert (outcome.code, "himl deleted 100 of 100 files, but not run 'sweep_10'." in outcome.stderr) == (4, True), (
        outcome.stderr
    )


def test_runs_at_work_and_files_of_others_are_left(himl: Himl, azure: StagedWorkspace) -> None:
    azure.add_run("busy", "train", status="Running")
    azure.add_run("pipeline", "train")
    azure.add_run("late", "train", parent="pipeline", status="Queued")
    for run_id, busy in (("busy", "busy"), ("pipeline", "late")):
        outcome = himl("runs", "delete", run_id, "--yes")
        assert (outcome.code, f"hint: Stop it first: himl runs cancel {busy}" in outcome.stderr) == (2, True)
    reused = {"azureml.isreused": "true", "azureml.reusedrunid": "sweep_10"}
    azure.add_run("again", "train", data_container_id="dcid.sweep_10", properties=reused)
    azure.add_output(azure.state.runs["again"], "data", {"x": b"x"})
    before = names(azure)
    # The answer for a run that is not a job.
    azure.stage.faults.add(Status(400, code="UserError"), "DELETE .*/jobs/again")
    stays = "Deleted the files of run 'again', 0 files, 0 B. Azure ML archived the run instead of deleting it.\n"
    assert himl.ok("runs", "delete", "again", "--outputs", "--yes").stdout == stays
    assert (names(azure), azure.state.runs["again"].hidden) == (before, True)


def test_outputs_go_with_them_unless_others_need_them(himl: Himl, azure: StagedWorkspace) -> None:
    run, state = azure.state.runs["sweep_10"], azure.state
    azure.add_output(run, "own", {"x": b"x", "y": b"yy"})
    azure.add_output(run, "model", {"m": b"m"}, kind="CustomModel")
    for key, name, version in (("scans", "scans", "2"), ("apart", "apart", "1")):
        output = azure.add_output(run, key, {"s": b"s"}, path=f"{name}/")
        output.asset_id = output.asset_id.partition("/data/")[0] + f"/data/{name}/versions/{version}"
        azure.add_data(name, output.uri, version)
    azure.add_data("azureml_sweep_10_output_data_own", run.outputs["own"].uri)
    azure.add_data("scans", "azureml://datastores/workspaceblobstore/paths/scans", "1")
    azure.put_blob(DEFAULT, "apart_too/s", b"s")
    asked = himl("runs", "delete", "sweep_10", "--outputs").stderr
    place = f"container '{state.datastores[DEFAULT].container}' of storage account '{state.storage.account}'"
    assert f"Output 'own' of run 'sweep_10', azureml_sweep_10_output_data_own:1: 2 files, 3 B, in {place}." in asked
    assert "Output 'scans' of run 'sweep_10', scans:2, is not deleted: version 1 of it is in the same folder." in asked
    document = himl.ok("runs", "delete", "sweep_10", "--outputs", "--yes", "--json").json()
    assert (
        document["files"],
        [(each["asset"], each["files"], bool(each["kept"])) for each in document["outputs"]],
    ) == (
        4,
        [("azureml_sweep_10_output_data_own:1", 2, False), ("scans:2", 0, True), ("apart:1", 1, False)],
    )
    assert azure.blob_names(DEFAULT) == ["apart_too/s", "azureml/sweep_10/model/m", "scans/s"]
    archived = {
        name: [version["isArchived"] for version in state.assets["data"][name].values()] for name in ("apart", "scans")
    }
    assert archived == {"apart": [True], "scans": [False, False]}
    azure.add_output(state.runs["sweep_1"], "own", {"z": b"z"})
    state.runs["sweep_1"].outputs["scans"] = run.outputs["scans"]
    gone = himl.ok("runs", "delete", "sweep_1", "--outputs", "--yes").stdout
    assert gone == "Deleted run 'sweep_1' and its 2 trials: 12 files, 48 B; output 'own': 1 file, 1 B.\n"
