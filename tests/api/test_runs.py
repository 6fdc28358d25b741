"""Tests of `get_workspace`, of himl's `Workspace`, `Experiment` and `Datastore`, of finding and reading runs from
Python, and of comparing them.
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

import himl_cli
from himl_cli import (
    Datastore,
    HimlError,
    Run,
    Workspace,
    aggregate_hyperdrive_metrics,
    create_crossval_hyperdrive_config,
    create_run_recovery_id,
    download_files_from_hyperdrive_children,
    download_files_from_run_id,
    download_from_datastore,
    fetch_run,
    get_datastore,
    get_metrics_for_hyperdrive_run,
    get_metrics_for_run,
    get_most_recent_run,
    get_most_recent_run_id,
    get_tags_from_hyperdrive_run,
    get_workspace,
    is_running_in_azure_ml,
    split_recovery_id,
    submit_to_azure_if_needed,
    upload_to_datastore,
)
from himl_cli.core.errors import BadUsage, JobFailed, NotFound, RunNotFound
from himl_cli.core.logged import Logged
from himl_cli.core.runs import Run as RunRecord
from himl_cli.core.runs import RunEnd, RunStatus
from himl_cli.core.sweeps import HYPERPARAMETERS, MANY
from himl_cli.services.runs import writing
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.api.conftest import FILES, arrived
from tests.azureml_double.seeding import StagedWorkspace, add_sweep
from tests.support.running import Himl, until, write_files
from tests.support.runs import RecordedRuns


@pytest.fixture
def run(local_runs: RecordedRuns) -> Run:
    return fetch_run(get_workspace(), "train_1_aa")


def test_run_has_attributes_details_metrics_and_children(run: Run) -> None:
    for reference in (
        "train_1_aa",
        create_run_recovery_id(run),
        "https://ml.azure.com/runs/train_1_aa?wsid=/subscriptions/s",
    ):
        for workspace in (get_workspace(), None):
            found = fetch_run(workspace, reference)
            assert (found.id, found.experiment.name, found.workspace) == ("train_1_aa", "train", get_workspace())
    assert create_run_recovery_id(run) == "train:train_1_aa"
    assert (run.id, run.display_name, run.status, run.tags, run.parent) == (
        "train_1_aa",
        "first",
        "Completed",
        {"team": "blue"},
        None,
    )
    assert (run.get_portal_url(), run.get_file_names()) == ("", sorted(FILES))
    assert repr(run) == "Run('train_1_aa', experiment 'train', Completed, local workspace '.himl')"
    assert {run, fetch_run(None, run.id)} == {run}
    details = run.get_details()
    assert json.loads(json.dumps(details)) == details
    told = {
        "runId": "train_1_aa",
        "status": "Completed",
        "tags": {"team": "blue"},
        "parameters": {"lr": "0.1"},
        "error": None,
    }
    assert {key: details[key] for key in told} == told
    assert details["endTimeUtc"] > details["startTimeUtc"] > "2026"
    vendors = {"target", "properties", "inputDatasets", "outputDatasets", "logFiles", "submittedBy"}
    assert vendors < {*details}
    assert {name: Path(place).read_text() for name, place in details["logFiles"].items()} == {
        "user_logs/std_log.txt": "hello\n"
    }
    failed = fetch_run(None, "train_2_bb").get_details()
    assert (failed["status"], failed["exitCode"], failed["error"]) == ("Failed", 3, {"message": "exit code 3"})
    assert run.get_metrics() == {"acc": 0.9, "loss": [1.0, 0.5]}
    assert run.get_metrics("loss") == {"loss": [1.0, 0.5]}
    assert run.get_metrics(name="nope") == {}
    assert run.get_metrics(recursive=True) == {
        "train_1_aa": {"acc": 0.9, "loss": [1.0, 0.5]},
        "child_a": {"loss": 0.25},
    }
    assert run.get_metrics("acc", recursive=True) == {"train_1_aa": {"acc": 0.9}}
    assert [child.id for child in run.get_children()] == ["child_b", "child_a"]
    assert [child.id for child in run.get_children(recursive=True)] == ["child_b", "grandchild", "child_a"]
    assert [child.id for child in run.get_children(tags={"fold": "0"})] == ["child_a"]
    assert [child.id for child in run.get_children(status="failed")] == ["child_b"]
    assert [child.parent for child in run.get_children()] == [run, run]
    with pytest.raises(BadUsage, match="Unknown status 'Done'"):
        next(run.get_children(status="Done"))


def test_runs_are_found_by_recovery_id_and_file_or_named(local_runs: RecordedRuns) -> None:
    with pytest.raises(RunNotFound, match="No run 'train_1_ab'") as caught:
        fetch_run(get_workspace(), "train_1_ab")
    assert "train_1_aa" in caught.value.hint
    with pytest.raises(NotFound, match="belongs to experiment 'train', not 'other'"):
        fetch_run(get_workspace(), "other:train_1_aa")
    with pytest.raises(BadUsage, match="is not a run"):
        fetch_run(get_workspace(), "a:b:c")
    write_files(
        local_runs.folder,
        {"most_recent_run.txt": "train:train_2_bb\n", "empty.txt": "", "gone.txt": "train:train_9_99"},
    )
    assert get_most_recent_run(local_runs.folder / "most_recent_run.txt", get_workspace()).id == "train_2_bb"
    assert get_most_recent_run_id(Path("most_recent_run.txt")) == "train:train_2_bb"
    with pytest.raises(RunNotFound, match="No run 'train_9_99'"):
        get_most_recent_run(Path("gone.txt"), get_workspace())
    with pytest.raises(BadUsage, match="is empty"):
        get_most_recent_run(Path("empty.txt"), get_workspace())
    with pytest.raises(NotFound, match="There is no file 'nope"):
        get_most_recent_run(Path("nope.txt"), get_workspace())
    assert split_recovery_id("exp:run") == ("exp", "run")
    assert split_recovery_id("exp_123") == ("exp", "exp_123")
    with pytest.raises(ValueError, match="is not a recovery id"):
        split_recovery_id("foo_bar")


def test_files_go_where_wanted_and_missing_ones_are_named(run: Run, tmp_path: Path, local_runs: RecordedRuns) -> None:
    run.download_file("outputs/checkpoints/last.ckpt", output_file_path=str(tmp_path / "a" / "last.ckpt"))
    run.download_file("outputs/checkpoints/last.ckpt", tmp_path / "b" / "other name.ckpt")
    run.download_file("outputs/model.bin", tmp_path / "a")
    run.download_file("user_logs/std_log.txt")
    assert arrived(tmp_path / "a") == {"last.ckpt": "last", "model.bin": "m" * 10}
    assert arrived(tmp_path / "b") == {"other name.ckpt": "last"}
    assert Path("std_log.txt").read_text() == "hello\n"
    write_files(tmp_path / "older", {"last.ckpt": "older", "best.ckpt": "older"})
    for name in ("last.ckpt", "best.ckpt"):
        run.download_file("outputs/checkpoints/last.ckpt", tmp_path / "older" / name)
    assert arrived(tmp_path / "older") == {"last.ckpt": "last", "best.ckpt": "last"}
    assert not [path for path in (tmp_path / "older").iterdir() if path.is_dir()]
    with pytest.raises(
        FileNotFoundError, match=r"There is no file 'outputs/modell\.bin' in run 'train_1_aa'"
    ) as caught:
        run.download_file("outputs/modell.bin", tmp_path / "x")
    assert isinstance(caught.value, NotFound)
    assert caught.value.hint == "Files: outputs/model.bin."
    assert not (tmp_path / "x").exists()
    local_runs.add("odd_3_cc", files={"outputs/a[b].txt": "odd", "outputs/ab.txt": "not this"})
    fetch_run(None, "odd_3_cc").download_file("outputs/a[b].txt", f"{tmp_path}/glob/")
    assert arrived(tmp_path / "glob") == {"a[b].txt": "odd"}
    run.download_files("outputs/checkpoints/", tmp_path / "kept")
    run.download_files(prefix="outputs/checkpoints/", output_directory=str(tmp_path / "dropped"), append_prefix=False)
    assert (tmp_path / "kept" / "outputs" / "checkpoints" / "last.ckpt").read_text() == "last"
    assert (tmp_path / "dropped" / "last.ckpt").read_text() == "last"
    with pytest.raises(FileNotFoundError, match="No file in run 'train_1_aa' starts with 'nope'"):
        run.download_files("nope", tmp_path / "kept")


def test_waiting_tags_and_a_run_deleted_meanwhile(
    run: Run, capfdbinary: pytest.CaptureFixture[bytes], local_runs: RecordedRuns
) -> None:
    assert run.wait_for_completion()["status"] == "Completed"
    assert capfdbinary.readouterr().out == b""
    assert run.wait_for_completion(show_output=True)["runId"] == "train_1_aa"
    assert capfdbinary.readouterr().out == b"hello\n"
    failed = fetch_run(None, "train_2_bb")
    with pytest.raises(JobFailed, match="Run 'train_2_bb' failed: exit code 3"):
        failed.wait_for_completion(show_output=True)
    assert failed.wait_for_completion(raise_on_error=False)["status"] == "Failed"
    other = fetch_run(None, run.id)
    run.set_tags({"note": "ü=1"})
    run.tag("mark")
    assert run.tags == {"team": "blue", "note": "ü=1", "mark": ""}
    assert (other.tags, other.get_tags(), other.tags) == ({"team": "blue"}, run.tags, run.tags)
    run.remove_tags(["mark", "never"])
    assert run.get_tags() == run.tags == {"team": "blue", "note": "ü=1"}
    local_runs.workspace.delete("train_1_aa")
    assert run.status == "Completed"
    for ask in (run.get_status, run.get_metrics, run.get_file_names, run.get_details):
        with pytest.raises(RunNotFound, match="No run 'train_1_aa'"):
            ask()


def test_waiting_for_a_run_and_stopping_it(himl: Himl, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    (project / "train.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(600)\n")
    run = fetch_run(None, himl.ok("submit", "train.py", "--no_wait", "-q").stdout.strip())
    # Before it begins, a script may miss the interrupt of the cancelation, and end by SIGTERM ten seconds later.
    until(lambda: any(log.read_bytes() for log in (project / ".himl" / "runs").glob("*/user_logs/std_log.txt")))
    until(lambda: run.get_status() == "Running")
    with pytest.raises(BadUsage, match=r"is a job\. himl records its end when its script ends"):
        run.complete()
    run.log("from outside", 1.0)
    run.flush()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(fetch_run(None, run.id).wait_for_completion, raise_on_error=False)
        run.cancel()
        assert waiting.result()["status"] == "Canceled"
    assert (run.cancel(), run.get_status(), run.get_metrics()) == (False, "Canceled", {"from outside": 1.0})
    with pytest.raises(JobFailed, match="was canceled"):
        run.wait_for_completion()


CONFIG = {"subscription_id": "11111111-2222-3333-4444-555555555555", "resource_group": "team", "workspace_name": "lab"}
OTHER = {**CONFIG, "workspace_name": "other"}


def names(workspace: Workspace) -> tuple[str, str, str]:
    return workspace.subscription_id, workspace.resource_group, workspace.name


@pytest.fixture
def azure_config(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a `config.json`. The current folder is in it. The tests with it use no service."""
    write_files(
        project, {"config.json": json.dumps(CONFIG), "elsewhere/ws.json": json.dumps(OTHER), "code/deep/x.py": ""}
    )
    monkeypatch.chdir(project / "code" / "deep")
    return project


def test_errors_are_also_those_of_hi_ml(run: Run, local_runs: RecordedRuns) -> None:
    workspace = run.workspace
    script: dict[str, Any] = {"compute_cluster_name": "gpu", "submit_to_azureml": True, "entry_script": "x.py"}
    Path("x.py").touch()
    Path("most_recent_run.txt").touch()
    cases: tuple[tuple[type[HimlError], tuple[type[Exception], ...], Callable[[], object]], ...] = (
        (NotFound, (FileNotFoundError,), lambda: get_workspace(workspace_config_path="gone.json")),
        (BadUsage, (ValueError,), lambda: split_recovery_id("x")),
        (NotFound, (FileNotFoundError,), lambda: get_most_recent_run_id("gone.txt")),
        (NotFound, (FileNotFoundError,), lambda: download_files_from_run_id(run.id, "got", prefix="gone")),
        (NotFound, (FileNotFoundError,), lambda: run.download_file("gone")),
        (NotFound, (FileNotFoundError, KeyError, ValueError), lambda: download_from_datastore("gone", "a", "got")),
        (NotFound, (FileNotFoundError, KeyError, ValueError), lambda: upload_to_datastore("gone", ".himl", "a")),
        (NotFound, (FileNotFoundError, KeyError, ValueError), lambda: Datastore.get(workspace, "gone")),
        (NotFound, (FileNotFoundError, KeyError, ValueError), lambda: get_datastore(workspace, "gone")),
        (NotFound, (FileNotFoundError, TypeError), lambda: upload_to_datastore("local", "gone", "a")),
        (BadUsage, (ValueError, TypeError), lambda: upload_to_datastore("local", "x.py", "a")),
        (BadUsage, (ValueError,), lambda: aggregate_hyperdrive_metrics("fold", "train_2_bb")),
        (BadUsage, (ValueError,), lambda: get_metrics_for_run()),
        (BadUsage, (ValueError,), lambda: get_tags_from_hyperdrive_run(run, "lr")),
        (BadUsage, (ValueError,), lambda: download_files_from_hyperdrive_children(run, "a", "got")),
        (
            BadUsage,
            (ValueError, FileNotFoundError),
            lambda: submit_to_azure_if_needed(**script, conda_environment_file="gone.yml"),
        ),
        (
            BadUsage,
            (ValueError, FileNotFoundError),
            lambda: submit_to_azure_if_needed(**script, private_pip_wheel_path="gone.whl"),
        ),
        (BadUsage, (ValueError,), lambda: submit_to_azure_if_needed(**script, num_nodes=0)),
        (BadUsage, (ValueError,), lambda: create_crossval_hyperdrive_config(0)),
    )
    assert get_datastore(workspace, "") == get_datastore(workspace, "local") == workspace.get_default_datastore()
    for ours, theirs, call in cases:
        with pytest.raises(ours) as raised:
            call()
        assert [kind for kind in theirs if not isinstance(raised.value, kind)] == [], raised.value
        assert str(raised.value)[-1] in ".:", raised.value
    with pytest.raises(AttributeError, match="_max_concurrent_runs"):
        create_crossval_hyperdrive_config(2)._max_concurrent_runs = 1  # type: ignore[attr-defined]
    for wrong in (lambda: Run(workspace, cast(Any, "train_1_aa")), lambda: Datastore(workspace, cast(Any, "local"))):
        with pytest.raises(TypeError, match=r"Use workspace.get_run|Use Datastore.get"):
            wrong()


def test_workspace_comes_from_config_file_then_variables(
    azure_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = azure_config / "elsewhere" / "ws.json"
    assert names(get_workspace()) == tuple(CONFIG.values())
    assert get_workspace() == Workspace.from_config()
    assert get_workspace().is_in_azure
    assert get_workspace(workspace_config_path=other).name == Workspace.from_config(path=str(other)).name == "other"
    assert Workspace.from_config(path=azure_config).name == "lab"
    named = Workspace(
        subscription_id=CONFIG["subscription_id"], resource_group="team", workspace_name="lab", auth=object()
    )
    assert named == get_workspace() == Workspace.get("lab", None, CONFIG["subscription_id"], "team")
    given = get_workspace(workspace_config_path=other)
    assert get_workspace(given, azure_config / "config.json") is given
    with pytest.raises(FileNotFoundError, match="does not exist") as caught:
        get_workspace(workspace_config_path=azure_config / "nope.json")
    assert isinstance(caught.value, NotFound)
    with pytest.raises(FileNotFoundError, match="No workspace at"):
        get_workspace(workspace_config_path=azure_config / "code")
    write_files(azure_config, {"ws.json": '{"subscription_id": "s"}'})
    with pytest.raises(BadUsage, match="lacks resource_group and workspace_name"):
        get_workspace(workspace_config_path=azure_config / "ws.json")
    for name, value in zip(("SUBSCRIPTION_ID", "RESOURCE_GROUP", "WORKSPACE_NAME"), OTHER.values(), strict=True):
        monkeypatch.setenv(f"HIML_{name}", value)
    assert get_workspace().name == "lab"
    monkeypatch.chdir(tmp_path)
    assert names(get_workspace()) == tuple(OTHER.values())


def test_inside_an_azure_ml_job_it_is_always_the_jobs_own(azure_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = get_workspace()
    assert (is_running_in_azure_ml(), is_running_in_azure_ml(object())) == (False, False)
    # As in a local job of himl.
    monkeypatch.setenv("AZUREML_RUN_ID", "local_1_aa")
    assert not is_running_in_azure_ml()
    job = {
        "AZUREML_RUN_ID": "r",
        "AZUREML_ARM_SUBSCRIPTION": "s",
        "AZUREML_ARM_RESOURCEGROUP": "g",
        "AZUREML_ARM_WORKSPACE_NAME": "jobs",
    }
    for name, value in {**job, "AZUREML_SERVICE_ENDPOINT": "https://eastus.api.azureml.ms"}.items():
        monkeypatch.setenv(name, value)
    assert is_running_in_azure_ml()
    assert [names(get_workspace(given, azure_config / "config.json")), names(get_workspace())] == [
        ("s", "g", "jobs")
    ] * 2
    own = get_workspace()
    assert get_workspace(own) is own


def test_without_any_it_is_hi_mls_error_and_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="No workspace") as caught:
        get_workspace()
    assert isinstance(caught.value, HimlError)
    assert "himl submit" in caught.value.hint
    wrongs: tuple[object, ...] = ("lab", 3, Path("config.json"), {"name": "lab"})
    for wrong in wrongs:
        with pytest.raises(TypeError, match="is not a workspace"):
            get_workspace(wrong)
    monkeypatch.setenv("HIML_WORKSPACE_NAME", "lab")
    with pytest.raises(ValueError, match="HIML_WORKSPACE_NAME is set, but not HIML_SUBSCRIPTION_ID"):
        get_workspace()


def test_local_workspace_has_runs_and_datastores_and_comes_last(local_runs: RecordedRuns) -> None:
    workspace = get_workspace()
    (local_runs.folder / ".himl" / "datastores" / "more").mkdir()
    assert workspace.get_run("train_1_aa").display_name == "first"
    experiment = workspace.get_run("train_1_aa").experiment
    assert (experiment.name, experiment.workspace) == ("train", workspace)
    assert [run.id for run in experiment.get_runs()] == ["train_2_bb", "train_1_aa"]
    assert [run.id for run in experiment.get_runs(tags={"team": "blue"})] == ["train_1_aa"]
    assert [*workspace.experiment("other").get_runs()] == []
    assert [*workspace.datastores] == ["local", "more"]
    default = workspace.get_default_datastore()
    assert (default.name, default.is_default, default.datastore_type) == ("local", True, "folder")
    assert Datastore.get(workspace, "more") == workspace.datastores["more"]
    with pytest.raises(NotFound, match=r"No datastore 'nope' in .*; there are: local, more"):
        Datastore.get(workspace, "nope")
    assert names(workspace) == ("", "", "project")
    assert not workspace.is_in_azure
    assert repr(workspace) == "Workspace(local workspace '.himl')"
    assert workspace == get_workspace(workspace_config_path=local_runs.folder / ".himl")
    (local_runs.folder / "config.json").write_text(json.dumps(CONFIG))
    assert get_workspace().name == "lab"


def test_cloud_setting_applies_however_workspace_is_named(azure_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(azure_config, {"himl.toml": '[azure]\ncloud = "AzureUSGovernment"\n'})
    found = [Workspace(*CONFIG.values()), get_workspace()]
    monkeypatch.setenv("AZUREML_RUN_ID", "sleepy_fig_1")
    monkeypatch.setattr("sys.argv", ["train.py"])  # that of pytest may name a folder
    for name, value in zip(("SUBSCRIPTION", "RESOURCEGROUP", "WORKSPACE_NAME"), CONFIG.values(), strict=True):
        monkeypatch.setenv(f"AZUREML_ARM_{name}", value)
    found.append(get_workspace())
    assert [workspace.address and workspace.address.cloud.name for workspace in found] == ["AzureUSGovernment"] * 3


COMPLETED = RunEnd(RunStatus.completed)
PARENT = "crossval_1_aa"
CURVES: tuple[dict[str, list[float]], ...] = (
    {"epoch": [1, 2, 3], "accuracy": [0.7, 0.8, 0.9], "loss": [0.5, 0.4, 0.3]},
    {"epoch": [1, 2, 3], "accuracy": [0.71, 0.82, 0.91], "loss": [0.45, 0.37, 0.29]},
)


def scalars(name: str, values: Sequence[float]) -> list[Logged]:
    return [writing.scalar(name, value, step) for step, value in enumerate(values)]


@pytest.fixture
def workspace(project: Path, monkeypatch: pytest.MonkeyPatch) -> LocalWorkspace:
    """A cross-validation with two folds as in hi-ml's documentation. The second fold was created first."""
    found = RecordedRuns(project).workspace
    monkeypatch.chdir(project)
    found.start_run(RunRecord(PARENT, "crossval"))
    for fold in (1, 0):
        child = found.start_run(
            RunRecord(
                f"{PARENT}_{fold}",
                "crossval",
                parent=PARENT,
                tags={HYPERPARAMETERS: json.dumps({"child_run_index": fold})},
            )
        ).id
        found.log(child, [entry for name, values in CURVES[fold].items() for entry in scalars(name, values)])
        found.end_run(child, COMPLETED)
    found.end_run(PARENT, COMPLETED)
    return found


def rows(frame: Any) -> dict[str, list[Any]]:
    return {name: list(frame.loc[name]) for name in frame.index}


def test_metrics_of_children_and_of_one_run(caplog: pytest.LogCaptureFixture, workspace: LocalWorkspace) -> None:
    found = aggregate_hyperdrive_metrics("child_run_index", run_id=PARENT)
    assert list(found.columns) == [0, 1]
    assert rows(found) == {name: [CURVES[0][name], CURVES[1][name]] for name in ("accuracy", "epoch", "loss")}
    assert found.equals(aggregate_hyperdrive_metrics("child_run_index", run=fetch_run(None, PARENT)))
    assert found.equals(aggregate_hyperdrive_metrics("--child_run_index", run_id=PARENT, aml_workspace=get_workspace()))
    assert found.equals(
        aggregate_hyperdrive_metrics(
            "child_run_index", run_id=f"crossval:{PARENT}", workspace_config_path=Path(".himl")
        )
    )
    assert list(
        aggregate_hyperdrive_metrics("child_run_index", run_id=PARENT, keep_metrics=["loss", "epoch", "acc*"]).index
    ) == ["epoch", "loss"]
    child = fetch_run(None, f"{PARENT}_1")
    assert get_metrics_for_hyperdrive_run("child_run_index", run=fetch_run(None, PARENT), keep_metrics=["loss"]) == {
        fold: {"loss": CURVES[fold]["loss"]} for fold in (0, 1)
    }
    assert get_metrics_for_run(child.id) == get_metrics_for_run(run=child) == CURVES[1]
    assert get_metrics_for_run(run=child, keep_metrics=["loss", "auc"]) == {"loss": CURVES[1]["loss"]}
    assert f"Run '{child.id}' has no metric 'auc'." in caplog.text
    assert (get_tags_from_hyperdrive_run(child, "child_run_index"), get_tags_from_hyperdrive_run(child, "lr")) == (
        1,
        None,
    )
    with pytest.raises(ValueError, match=f"'{PARENT}' is not a trial of a sweep"):
        get_tags_from_hyperdrive_run(fetch_run(None, PARENT), "child_run_index")
    with pytest.raises(ValueError, match="A run is missing"):
        get_metrics_for_run()
    himl_cli.RUN_CONTEXT.log("loss", 1)
    assert get_metrics_for_run(run=himl_cli.RUN_CONTEXT) == {}
    assert get_metrics_for_hyperdrive_run("child_run_index", run=himl_cli.RUN_CONTEXT) == {}
    assert aggregate_hyperdrive_metrics("child_run_index", run=himl_cli.RUN_CONTEXT).empty
    assert download_files_from_hyperdrive_children(himl_cli.RUN_CONTEXT, "outputs", ".", "lr") == []
    assert caplog.text.count("This process is not in a job") == 4
    with pytest.raises(RunNotFound, match="No run 'nope'"):
        aggregate_hyperdrive_metrics("child_run_index", run_id="nope")
    with pytest.raises(RunNotFound) as swapped:
        aggregate_hyperdrive_metrics(PARENT, "child_run_index")
    assert (
        f"The argument's name comes first: aggregate_hyperdrive_metrics('child_run_index', '{PARENT}')?"
        in swapped.value.hint
    )
    with pytest.raises(
        BadUsage, match="None of the runs has a hyperparameter, tag, parameter or argument 'fold'"
    ) as unknown:
        aggregate_hyperdrive_metrics("fold", run_id=PARENT)
    assert unknown.value.hint == "Available: child_run_index."
    with pytest.raises(ValueError, match=f"Run '{PARENT}_0' has no child runs"):
        aggregate_hyperdrive_metrics("child_run_index", run_id=f"{PARENT}_0")


def test_columns_are_called_as_in_hi_ml(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of a cross-validation have strings as names, whichever client submitted it.

    Other columns have the values of the tags as names, unless two of these are equal.
    """
    workspace = RecordedRuns(project).workspace
    monkeypatch.chdir(project)
    cases: list[tuple[str, Sequence[float | str], list[object]]] = [
        ("crossval", (0, 1), ["0", "1"]),
        ("sweep", (0.5, 0.1), [0.5, 0.1]),
        ("sweep", ("0", "1"), ["0", "1"]),
        ("sweep", (1, 1.0), ["1", "1.0"]),
    ]
    for number, (kind, values, columns) in enumerate(cases):
        workspace.start_run(RunRecord(f"cv{number}", "e", tags={MANY: kind}))
        for index, each in enumerate(values):
            child = workspace.start_run(
                RunRecord(
                    f"cv{number}_{index}", "e", parent=f"cv{number}", tags={HYPERPARAMETERS: json.dumps({"fold": each})}
                )
            ).id
            workspace.log(child, scalars("loss", [float(index)]))
        found = aggregate_hyperdrive_metrics("fold", run_id=f"cv{number}")
        assert [(name, found[name]["loss"]) for name in found.columns] == [(columns[0], 0.0), (columns[1], 1.0)]
        assert get_metrics_for_hyperdrive_run("fold", run_id=f"cv{number}") == {
            column: {"loss": float(index)} for index, column in enumerate(columns)
        }


def test_sweep_on_azure_is_aggregated_and_its_files_downloaded(
    azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    azure_environment.write_config(project)
    monkeypatch.chdir(project)
    add_sweep(
        azure_environment,
        "hyper_1",
        [{"lr": 0.1, "x": "a-b"}, {"lr": 0.2, "x": "ab"}],
        lambda _, values: {"loss": [values["lr"], 0.5], "final": [2.0]},
    )
    for index in range(2):
        azure_environment.put_artifacts(
            azure_environment.state.runs[f"hyper_1_{index}"], {"outputs/a.txt": b"a%d" % index, "outputs/b/c.txt": b"c"}
        )
    azure_environment.put_artifacts(azure_environment.state.runs["hyper_1_1"], {"only.txt": b"one"})
    frame = aggregate_hyperdrive_metrics("lr", run_id="hyper_1", aml_workspace=get_workspace())
    assert (list(frame.columns), rows(frame)) == ([0.1, 0.2], {"final": [2.0, 2.0], "loss": [[0.1, 0.5], [0.2, 0.5]]})
    parent = fetch_run(get_workspace(), "hyper_1")
    found = download_files_from_hyperdrive_children(parent, "outputs/a.txt,outputs/b,only.txt", project / "got", "lr")
    names = ["01/outputs/a.txt", "01/outputs/b", "02/outputs/a.txt", "02/outputs/b", "02/only.txt"]
    assert found == [str(project / "got" / name) for name in names]
    assert [(project / "got" / f"0{number}" / "outputs" / "a.txt").read_bytes() for number in (1, 2)] == [b"a0", b"a1"]
    assert "only.txt" in caplog.text
    for argument, words in (
        ("", "hyperparam_name, which names"),
        ("depth", "has no hyperparameter 'depth'"),
        ("x", "have the same folder 'ab'"),
    ):
        with pytest.raises(ValueError, match=words):
            download_files_from_hyperdrive_children(parent, "outputs/a.txt", project / "other", argument)
    assert not (project / "other").exists()
    azure_environment.add_run("train_1", "train", status="Running")
    assert get_metrics_for_run("train_1") == {}
    assert "Run 'train_1' is Running. Its metrics may be incomplete." in caplog.text


def test_tables_images_texts_and_what_is_missing(workspace: LocalWorkspace) -> None:
    for fold, accuracies in enumerate(([0.7, 0.9], [0.8, 0.9])):
        run_id = f"{PARENT}_{fold}"
        workspace.log(
            run_id,
            [
                writing.table("accuracy_table", {"epoch": [1, 2], "accuracy": accuracies}),
                writing.image("plot", f"plot_{fold}.png"),
            ],
        )
    workspace.log(
        f"{PARENT}_0",
        [writing.scalar("final", 0.5), writing.row("row", {"a": 1, "b": "x"}), writing.scalar("word", "yes")],
    )
    found = aggregate_hyperdrive_metrics(
        "child_run_index", run_id=PARENT, keep_metrics=["accuracy_table", "plot", "final", "row", "word"]
    )
    assert rows(found.loc[["accuracy_table", "plot"]]) == {
        "accuracy_table": [{"epoch": [1, 2], "accuracy": [0.7, 0.9]}, {"epoch": [1, 2], "accuracy": [0.8, 0.9]}],
        "plot": ["plot_0.png", "plot_1.png"],
    }
    assert [found[0][name] for name in ("final", "row", "word")] == [0.5, {"a": 1, "b": "x"}, "yes"]
    assert all(math.isnan(found[1][name]) for name in ("final", "row", "word"))


def test_without_pandas_the_line_that_installs_it_is_said() -> None:
    program = (
        "from himl_cli import aggregate_hyperdrive_metrics as f\ntry: f('x', run_id='y')\n"
        "except ImportError as err: print(err.hint)"
    )
    sources = Path(himl_cli.__file__).parent.parent
    # -S excludes all installed packages.
    done = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, cwd=sources)
    assert done.stdout.strip() == f"Install it: pip install {shlex.quote(f'{sources}[frames]')}", done.stderr
