"""Finding runs from Python, and what a `Run` tells."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import himl_cli
from himl_cli import (
    Run,
    create_run_recovery_id,
    fetch_run,
    get_most_recent_run,
    get_most_recent_run_id,
    get_workspace,
    is_running_in_azure_ml,
    split_recovery_id,
)
from himl_cli.core.errors import BadUsage, HimlError, JobFailed, NotFound, RunNotFound
from himl_cli.core.runs import RunStatus
from tests.api.places import arrived
from tests.support.running import Himl, until, write_files
from tests.support.runs import RecordedRuns

JOB = {
    "AZUREML_RUN_ID": "r",
    "AZUREML_ARM_SUBSCRIPTION": "s",
    "AZUREML_ARM_RESOURCEGROUP": "g",
    "AZUREML_ARM_WORKSPACE_NAME": "w",
    "AZUREML_SERVICE_ENDPOINT": "https://eastus.api.azureml.ms",
}


@pytest.fixture
def run(local_runs: RecordedRuns) -> Run:
    return fetch_run(get_workspace(), "train_1_aa")


@pytest.mark.usefixtures("local_runs")
@pytest.mark.parametrize("reference", ["train_1_aa", "train:train_1_aa", "https://ml.azure.com/runs/train_1_aa?wsid=/subscriptions/s"])
def test_a_run_is_fetched_by_any_way_to_write_it(reference: str) -> None:
    for workspace in (get_workspace(), None):
        found = fetch_run(workspace, reference)
        assert (found.id, found.experiment.name, found.workspace) == ("train_1_aa", "train", get_workspace())


@pytest.mark.usefixtures("local_runs")
def test_a_run_that_is_not_there_is_named_with_similar_ones() -> None:
    with pytest.raises(RunNotFound, match="No run 'train_1_ab'") as caught:
        fetch_run(get_workspace(), "train_1_ab")
    assert "train_1_aa" in caught.value.hint
    with pytest.raises(NotFound, match="belongs to experiment 'train', not 'other'"):
        fetch_run(get_workspace(), "other:train_1_aa")
    with pytest.raises(BadUsage, match="is no run"):
        fetch_run(get_workspace(), "a:b:c")


def test_the_most_recent_run_is_the_one_in_the_file(local_runs: RecordedRuns) -> None:
    write_files(local_runs.folder, {"most_recent_run.txt": "train:train_2_bb\n", "empty.txt": "", "gone.txt": "train:train_9_99"})
    assert get_most_recent_run(local_runs.folder / "most_recent_run.txt", get_workspace()).id == "train_2_bb"
    assert get_most_recent_run_id(Path("most_recent_run.txt")) == "train:train_2_bb"
    with pytest.raises(RunNotFound, match="No run 'train_9_99'"):
        get_most_recent_run(Path("gone.txt"), get_workspace())
    with pytest.raises(BadUsage, match="is empty"):
        get_most_recent_run(Path("empty.txt"), get_workspace())
    with pytest.raises(NotFound, match="There is no file 'nope"):
        get_most_recent_run(Path("nope.txt"), get_workspace())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("exp:run", ("exp", "run")),
        ("user_branch_1772366400_0a1b2c3d", ("user_branch", "user_branch_1772366400_0a1b2c3d")),
        ("exp_123", ("exp", "exp_123")),
    ],
)
def test_recovery_ids_are_split_by_hi_mls_rule(text: str, expected: tuple[str, str]) -> None:
    assert split_recovery_id(text) == expected


@pytest.mark.parametrize("text", ["foo", "a:b:c", "", "foo_bar"])
def test_what_is_no_recovery_id_is_hi_mls_error_and_ours(text: str) -> None:
    with pytest.raises(ValueError, match="is no r") as caught:
        split_recovery_id(text)
    assert isinstance(caught.value, BadUsage)


def test_a_recovery_id_of_a_run_leads_back_to_it(run: Run) -> None:
    assert create_run_recovery_id(run) == "train:train_1_aa"
    assert fetch_run(None, create_run_recovery_id(run)) == run


def test_attributes_of_a_run(run: Run) -> None:
    assert (run.id, run.display_name, run.status, run.tags, run.parent, run.get_portal_url()) == (
        "train_1_aa",
        "first",
        "Completed",
        {"team": "blue"},
        None,
        "",
    )
    assert repr(run) == "Run('train_1_aa', experiment 'train', Completed, local workspace '.himl')"
    assert {run, fetch_run(None, run.id)} == {run}


def test_details_have_azureml_cores_names(run: Run) -> None:
    details = run.get_details()
    assert json.loads(json.dumps(details)) == details
    assert {key: details[key] for key in ("runId", "status", "tags", "parameters", "error")} == {
        "runId": "train_1_aa",
        "status": "Completed",
        "tags": {"team": "blue"},
        "parameters": {"lr": "0.1"},
        "error": None,
    }
    assert details["endTimeUtc"] > details["startTimeUtc"] > "2026"
    failed = fetch_run(None, "train_2_bb").get_details()
    assert (failed["status"], failed["exitCode"], failed["error"]) == ("Failed", 3, {"message": "exit code 3"})


def test_metrics_are_numbers_or_lists_of_them(run: Run) -> None:
    assert run.get_metrics() == {"acc": 0.9, "loss": [1.0, 0.5]}
    assert run.get_metrics("loss") == {"loss": [1.0, 0.5]}
    assert run.get_metrics(name="nope") == {}
    assert run.get_metrics(recursive=True) == {"train_1_aa": {"acc": 0.9, "loss": [1.0, 0.5]}, "child_a": {"loss": 0.25}}
    assert run.get_metrics("acc", recursive=True) == {"train_1_aa": {"acc": 0.9}}


def test_children_newest_first_and_theirs_on_request(run: Run) -> None:
    assert [child.id for child in run.get_children()] == ["child_b", "child_a"]
    assert [child.id for child in run.get_children(recursive=True)] == ["child_b", "grandchild", "child_a"]
    assert [child.id for child in run.get_children(tags={"fold": "0"})] == ["child_a"]
    assert [child.id for child in run.get_children(status="failed")] == ["child_b"]
    assert [child.parent for child in run.get_children()] == [run, run]
    with pytest.raises(BadUsage, match="'Done' is no status of a run"):
        next(run.get_children(status="Done"))


def test_tags_are_added_and_seen_by_others(run: Run) -> None:
    other = fetch_run(None, run.id)
    run.set_tags({"note": "ü=1"})
    run.tag("mark")
    assert run.tags == {"team": "blue", "note": "ü=1", "mark": ""}
    assert (other.tags, other.get_tags(), other.tags) == ({"team": "blue"}, run.tags, run.tags)
    run.tags["more"] = "x"
    assert "more" not in run.tags


def test_files_of_a_run_by_name(run: Run) -> None:
    assert run.get_file_names() == ["outputs/checkpoints/last.ckpt", "outputs/checkpoints_old/last.ckpt", "outputs/model.bin", "user_logs/std_log.txt"]


def test_one_file_goes_where_it_is_wanted(run: Run, tmp_path: Path) -> None:
    run.download_file("outputs/checkpoints/last.ckpt", output_file_path=str(tmp_path / "a" / "last.ckpt"))
    run.download_file("outputs/checkpoints/last.ckpt", tmp_path / "b" / "other name.ckpt")
    run.download_file("outputs/model.bin", tmp_path / "a")
    run.download_file("user_logs/std_log.txt")
    assert arrived(tmp_path / "a") == {"last.ckpt": "last", "model.bin": "m" * 10}
    assert arrived(tmp_path / "b") == {"other name.ckpt": "last"}
    assert Path("std_log.txt").read_text() == "hello\n"


def test_download_file_replaces_existing_and_leaves_no_folder(run: Run, tmp_path: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_text("older")
        run.download_file("outputs/checkpoints/last.ckpt", tmp_path / "out" / name)
        assert (tmp_path / "out" / name).read_text() == "last"
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]


def test_a_file_that_is_not_there_is_named_with_those_that_are(run: Run, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file 'outputs/modell\.bin' in run 'train_1_aa'") as caught:
        run.download_file("outputs/modell.bin", tmp_path / "x")
    assert isinstance(caught.value, NotFound)
    assert caught.value.hint == "There are: outputs/model.bin."
    assert not (tmp_path / "x").exists()


def test_a_file_whose_name_reads_as_a_glob_comes_alone(local_runs: RecordedRuns, tmp_path: Path) -> None:
    local_runs.add("odd_3_cc", files={"outputs/a[b].txt": "odd", "outputs/ab.txt": "not this"})
    fetch_run(None, "odd_3_cc").download_file("outputs/a[b].txt", f"{tmp_path}/out/")
    assert arrived(tmp_path / "out") == {"a[b].txt": "odd"}


def test_files_by_prefix_keep_their_names_or_drop_the_folders(run: Run, tmp_path: Path) -> None:
    run.download_files("outputs/checkpoints/", tmp_path / "kept")
    run.download_files(prefix="outputs/checkpoints/", output_directory=str(tmp_path / "dropped"), append_prefix=False)
    assert (tmp_path / "kept" / "outputs" / "checkpoints" / "last.ckpt").read_text() == "last"
    assert (tmp_path / "dropped" / "last.ckpt").read_text() == "last"
    with pytest.raises(FileNotFoundError, match="No file in run 'train_1_aa' starts with 'nope'"):
        run.download_files("nope", tmp_path / "kept")


def test_waiting_for_a_run_that_has_ended(run: Run, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run.wait_for_completion()["status"] == "Completed"
    assert capfdbinary.readouterr().out == b""
    assert run.wait_for_completion(show_output=True)["runId"] == "train_1_aa"
    assert capfdbinary.readouterr().out == b"hello\n"
    failed = fetch_run(None, "train_2_bb")
    with pytest.raises(JobFailed, match="Run 'train_2_bb' failed: exit code 3"):
        failed.wait_for_completion(show_output=True)
    assert failed.wait_for_completion(raise_on_error=False)["status"] == "Failed"


def test_waiting_for_a_run_and_stopping_it(himl: Himl, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    (project / "train.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    run = fetch_run(None, himl.ok("submit", "train.py", "--no_wait", "-q").stdout.strip())
    until(lambda: run.get_status() == "Running")
    stopper = threading.Timer(0.3, run.cancel)
    stopper.start()
    details = fetch_run(None, run.id).wait_for_completion(raise_on_error=False)
    stopper.join()
    assert (details["status"], run.cancel(), run.get_status()) == ("Canceled", False, "Canceled")
    with pytest.raises(JobFailed, match="was canceled"):
        run.wait_for_completion()


def test_a_run_that_was_deleted_meanwhile_says_so(run: Run, local_runs: RecordedRuns) -> None:
    local_runs.workspace.delete("train_1_aa")
    assert run.status == "Completed"
    for ask in (run.get_status, run.get_metrics, run.get_file_names, run.get_details):
        with pytest.raises(RunNotFound, match="No run 'train_1_aa'"):
            ask()


def test_in_an_azure_ml_job_or_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (is_running_in_azure_ml(), is_running_in_azure_ml(run), is_running_in_azure_ml(object())) == (False, False, False)
    monkeypatch.setenv("AZUREML_RUN_ID", "local_1_aa")  # as in a job that himl runs here
    assert not is_running_in_azure_ml()
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    assert is_running_in_azure_ml()


def test_errors_of_every_kind_are_himls_own() -> None:
    assert himl_cli.HimlError is HimlError
    assert issubclass(RunNotFound, himl_cli.HimlError)


PROGRAM = """
import json, sys
import himl_cli
run = himl_cli.fetch_run(None, "train_1_aa")
print(json.dumps([run.get_metrics(), sorted(name for name in sys.modules if name.split(".")[0] in ("azureml", "mlflow") or name.startswith("azure."))]))
"""


@pytest.mark.usefixtures("local_runs")
def test_reading_a_local_run_loads_no_azure_library() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    answer: Any = json.loads(done.stdout)
    assert answer == [{"acc": 0.9, "loss": [1.0, 0.5]}, []]


def test_statuses_are_the_five_of_the_command_line() -> None:
    assert {status.value for status in RunStatus} == {"Queued", "Running", "Completed", "Failed", "Canceled"}
