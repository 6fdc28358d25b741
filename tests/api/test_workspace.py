"""`get_workspace` and himl's own `Workspace`, `Experiment` and `Datastore`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from himl_cli import Datastore, HimlError, Workspace, get_workspace
from himl_cli.core.errors import BadUsage, NotFound, RunNotFound
from tests.support.running import write_files
from tests.support.runs import RecordedRuns

CONFIG = {"subscription_id": "11111111-2222-3333-4444-555555555555", "resource_group": "team", "workspace_name": "lab"}
OTHER = {**CONFIG, "workspace_name": "other"}


def names(workspace: Workspace) -> tuple[str, str, str]:
    return workspace.subscription_id, workspace.resource_group, workspace.name


@pytest.fixture
def azure_config(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a `config.json`; the current folder lies in it. Nothing here asks the service."""
    write_files(project, {"config.json": json.dumps(CONFIG), "elsewhere/ws.json": json.dumps(OTHER), "code/deep/x.py": ""})
    monkeypatch.chdir(project / "code" / "deep")
    return project


def test_the_nearest_config_file_upward_names_it(azure_config: Path) -> None:
    assert names(get_workspace()) == tuple(CONFIG.values())
    assert get_workspace() == Workspace.from_config()
    assert get_workspace().is_in_azure


def test_a_config_file_that_is_given_goes_before_the_nearest(azure_config: Path) -> None:
    assert get_workspace(workspace_config_path=azure_config / "elsewhere" / "ws.json").name == "other"
    assert Workspace.from_config(path=str(azure_config / "elsewhere" / "ws.json")).name == "other"
    assert Workspace.from_config(path=azure_config).name == "lab"


def test_a_workspace_that_is_given_goes_before_a_config_file(azure_config: Path) -> None:
    given = get_workspace(workspace_config_path=azure_config / "elsewhere" / "ws.json")
    assert get_workspace(given, azure_config / "config.json") is given


def test_variables_come_after_config_files(azure_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(("SUBSCRIPTION_ID", "RESOURCE_GROUP", "WORKSPACE_NAME"), OTHER.values(), strict=True):
        monkeypatch.setenv(f"HIML_{name}", value)
    assert get_workspace().name == "lab"
    monkeypatch.chdir(tmp_path)
    assert names(get_workspace()) == tuple(OTHER.values())


def test_incomplete_variables_are_a_value_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HIML_WORKSPACE_NAME", "lab")
    with pytest.raises(ValueError, match="HIML_WORKSPACE_NAME is set, HIML_SUBSCRIPTION_ID"):
        get_workspace()


def test_inside_an_azure_ml_job_it_is_always_the_jobs_own(azure_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = get_workspace()
    job = {"AZUREML_RUN_ID": "r", "AZUREML_ARM_SUBSCRIPTION": "s", "AZUREML_ARM_RESOURCEGROUP": "g", "AZUREML_ARM_WORKSPACE_NAME": "jobs"}
    for name, value in {**job, "AZUREML_SERVICE_ENDPOINT": "https://eastus.api.azureml.ms"}.items():
        monkeypatch.setenv(name, value)
    assert [names(get_workspace(given, azure_config / "config.json")), names(get_workspace())] == [("s", "g", "jobs")] * 2
    own = get_workspace()
    assert get_workspace(own) is own


def test_a_local_workspace_comes_last(local_runs: RecordedRuns) -> None:
    workspace = get_workspace()
    assert names(workspace) == ("", "", "project")
    assert not workspace.is_in_azure
    assert repr(workspace) == "Workspace(local workspace '.himl')"
    assert workspace == get_workspace(workspace_config_path=local_runs.folder / ".himl")
    (local_runs.folder / "config.json").write_text(json.dumps(CONFIG))
    assert get_workspace().name == "lab"


def test_without_any_it_is_hi_mls_error_and_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="No workspace") as caught:
        get_workspace()
    assert isinstance(caught.value, HimlError)
    assert "himl submit" in caught.value.hint


def test_missing_config_file_is_file_not_found_and_himl_error(azure_config: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file") as caught:
        get_workspace(workspace_config_path=azure_config / "nope.json")
    assert isinstance(caught.value, NotFound)
    with pytest.raises(FileNotFoundError, match="There is no workspace at"):
        get_workspace(workspace_config_path=azure_config / "code")


def test_a_config_file_without_the_keys_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "ws.json").write_text('{"subscription_id": "s"}')
    with pytest.raises(BadUsage, match="does not say resource_group and workspace_name"):
        get_workspace(workspace_config_path=tmp_path / "ws.json")


@pytest.mark.parametrize("given", ["lab", 3, Path("config.json"), {"name": "lab"}])
def test_what_is_no_workspace_is_refused(given: object) -> None:
    with pytest.raises(TypeError, match="is no workspace"):
        get_workspace(given)


@pytest.mark.usefixtures("local_runs")
def test_runs_and_experiments_of_a_workspace() -> None:
    workspace = get_workspace()
    assert workspace.get_run("train_1_aa").display_name == "first"
    with pytest.raises(RunNotFound, match="No run 'train_1_ab'") as caught:
        workspace.get_run("train_1_ab")
    assert "train_1_aa" in caught.value.hint
    experiment = workspace.get_run("train_1_aa").experiment
    assert (experiment.name, experiment.workspace) == ("train", workspace)
    assert [run.id for run in experiment.get_runs()] == ["train_2_bb", "train_1_aa"]
    assert [run.id for run in experiment.get_runs(tags={"team": "blue"})] == ["train_1_aa"]
    assert [*workspace.experiment("other").get_runs()] == []


def test_datastores_by_name_and_the_default_one(local_runs: RecordedRuns) -> None:
    (local_runs.folder / ".himl" / "datastores" / "more").mkdir()
    workspace = get_workspace()
    assert [*workspace.datastores] == ["local", "more"]
    default = workspace.get_default_datastore()
    assert (default.name, default.is_default, default.datastore_type) == ("local", True, "folder")
    assert Datastore.get(workspace, "more") == workspace.datastores["more"]
    with pytest.raises(NotFound, match=r"No datastore 'nope' in .*; there are: local, more"):
        Datastore.get(workspace, "nope")


def test_files_of_a_datastore_object_go_both_ways(local_runs: RecordedRuns, tmp_path: Path) -> None:
    datastore = get_workspace().get_default_datastore()
    assert datastore.download(tmp_path / "out", prefix="foo/bar") == 2
    assert (tmp_path / "out" / "foo" / "bar" / "1.txt").read_text() == "one"
    (tmp_path / "out" / "foo" / "bar" / "1.txt").write_text("changed")
    assert datastore.upload(tmp_path / "out" / "foo" / "bar", "foo/bar") == 0
    assert datastore.upload(tmp_path / "out" / "foo" / "bar", "foo/bar", overwrite=True) == 1
    assert (local_runs.folder / ".himl" / "datastores" / "local" / "foo" / "bar" / "1.txt").read_text() == "changed"


@pytest.mark.usefixtures("azure_config")
def test_a_workspace_in_azure_can_be_named_directly() -> None:
    """The call in DeepSeismic's notes; signing in is himl's own business."""
    named = Workspace(subscription_id=CONFIG["subscription_id"], resource_group="team", workspace_name="lab", auth=object())
    assert named == get_workspace() == Workspace.get("lab", CONFIG["subscription_id"], "team")
    assert names(named) == tuple(CONFIG.values())


def test_cloud_setting_applies_however_workspace_is_named(azure_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(azure_config, {"himl.toml": '[azure]\ncloud = "AzureUSGovernment"\n'})
    found = [Workspace(*CONFIG.values()), get_workspace()]
    monkeypatch.setenv("AZUREML_RUN_ID", "sleepy_fig_1")
    for name, value in zip(("SUBSCRIPTION", "RESOURCEGROUP", "WORKSPACE_NAME"), CONFIG.values(), strict=True):
        monkeypatch.setenv(f"AZUREML_ARM_{name}", value)
    found.append(get_workspace())
    assert [workspace.address and workspace.address.cloud.name for workspace in found] == ["AzureUSGovernment"] * 3
