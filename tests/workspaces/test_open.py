"""Which workspaces are meant, by the order that the README promises. Nothing here makes a request."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, WorkspaceNotFound
from himl_cli.workspaces.local.workspace import LocalWorkspace
from himl_cli.workspaces.resolve import JoinedWorkspace, azure_to_record_in, find_workspaces, open_each, open_for_jobs, open_runs, open_workspace
from tests.support.running import write_files

SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"
VARIABLES = {"HIML_SUBSCRIPTION_ID": SUBSCRIPTION, "HIML_RESOURCE_GROUP": "by", "HIML_WORKSPACE_NAME": "variables"}
JOB = {"AZUREML_RUN_ID": "r", "AZUREML_ARM_SUBSCRIPTION": SUBSCRIPTION, "AZUREML_ARM_RESOURCEGROUP": "by", "AZUREML_ARM_WORKSPACE_NAME": "job"}


def write_config(folder: Path, name: str = "config", file: str = "config.json") -> Path:
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"subscription_id": SUBSCRIPTION, "resource_group": "by", "workspace_name": name}))
    return path


def meant(start: Path, spec: str | None = None, config_file: str | None = None) -> tuple[str | None, Path | None]:
    """The name of the Azure ML workspace that is meant, and the folder of the local one."""
    found = find_workspaces(spec, config_file, start=start)
    return (found.azure.name if found.azure else None), found.local


def set_all(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_nothing_is_configured(project: Path) -> None:
    assert meant(project) == (None, None)
    for opener in (open_runs, open_workspace):
        with pytest.raises(WorkspaceNotFound, match=r"no \.himl folder and no Azure ML config\.json"):
            opener(None, None, start=project)


def test_the_nearest_of_both_kinds_count(project: Path) -> None:
    deep = project / "a" / "b"
    deep.mkdir(parents=True)
    write_config(project)
    (project / ".himl").mkdir()
    assert meant(deep) == ("config", project / ".himl")
    write_config(project / "a", "nearer", ".azureml/config.json")
    (deep / ".himl").mkdir()
    assert meant(deep) == ("nearer", deep / ".himl")


def test_workspace_precedence_is_job_then_config_then_variables(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, VARIABLES)
    assert meant(project) == ("variables", None)
    write_config(project)
    assert meant(project) == ("config", None)
    set_all(monkeypatch, JOB)
    assert meant(project) == ("job", None)


def test_what_is_named_says_which(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, VARIABLES)
    (project / ".himl").mkdir()
    other = write_config(tmp_path / "elsewhere", "named", "team.json")
    assert meant(project, spec=str(other)) == ("named", None)
    assert meant(project, config_file=str(other)) == ("named", None)
    assert meant(project, spec="local") == (None, project / ".himl")
    assert meant(project, spec=str(tmp_path / "elsewhere")) == (None, tmp_path / "elsewhere" / ".himl")
    with pytest.raises(BadUsage, match="both given"):
        meant(project, spec="local", config_file=str(other))


def test_inside_job_named_config_file_is_ignored_with_warning(project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    other = write_config(project, "named")
    set_all(monkeypatch, JOB)
    assert meant(project, config_file=str(other)) == ("job", None)
    assert "is not used: inside an Azure ML job" in caplog.text
    assert meant(project, spec="local") == (None, None)


def test_a_named_file_must_be_there_and_hold_the_keys(project: Path) -> None:
    with pytest.raises(WorkspaceNotFound, match=r"There is no file '.*nope\.json'"):
        meant(project, config_file=str(project / "nope.json"))
    (project / "odd.json").write_text('{"subscription_id": "x"}')
    with pytest.raises(BadUsage, match=r"odd\.json' does not say resource_group and workspace_name"):
        meant(project, config_file=str(project / "odd.json"))


def test_runs_are_looked_for_in_both_and_data_in_azure(project: Path) -> None:
    (project / ".himl").mkdir()
    local = open_runs(None, None, start=project)
    assert local.label == open_workspace(None, None, start=project).label
    write_config(project)
    both = open_runs(None, None, start=project)
    assert isinstance(both, JoinedWorkspace)
    assert both.label == f"{local.label} and workspace by/config"
    assert open_workspace(None, None, start=project).label == "workspace by/config"
    assert open_runs("local", None, start=project).label == local.label
    assert open_runs(None, str(project / "config.json"), start=project).label == "workspace by/config"


def folder_for_jobs(start: Path) -> Path:
    """The local workspace that would record a job."""
    workspace = open_for_jobs(None, None, start=start)
    assert isinstance(workspace, LocalWorkspace)
    return workspace.folder


def test_a_cluster_needs_an_azure_workspace_and_gets_it(project: Path) -> None:
    with pytest.raises(BadUsage, match="needs an Azure ML workspace, and none is configured"):
        open_for_jobs(None, None, start=project, on_cluster=True)
    with pytest.raises(BadUsage, match="has no clusters"):
        open_for_jobs("local", None, start=project, on_cluster=True)
    config = write_config(project)
    for spec, config_file in ((None, None), (str(config), None), (None, str(config))):
        assert open_for_jobs(spec, config_file, start=project, on_cluster=True).label == "workspace by/config"


@pytest.mark.parametrize(("content", "said"), [("{bad", "line 1"), ('{"workspace_name": "w"}', "does not say subscription_id and resource_group")])
def test_unusable_config_is_named_if_azure_is_required(project: Path, content: str, said: str) -> None:
    write_files(project, {"config.json": content})
    for ask in (lambda: open_for_jobs(None, None, start=project, on_cluster=True), lambda: azure_to_record_in(None, None, start=project)):
        with pytest.raises(BadUsage, match=r"no config\.json can be used") as caught:
            ask()
        assert str(project / "config.json") in str(caught.value)
        assert said in str(caught.value)
        assert "himl init" in caught.value.hint


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a file that this user cannot read")
def test_a_config_that_cannot_be_read_is_named_too(project: Path) -> None:
    write_files(project, {"config.json": "{}"})
    (project / "config.json").chmod(0)
    with pytest.raises(BadUsage, match="Cannot read"):
        open_for_jobs(None, None, start=project, on_cluster=True)


def test_unusable_config_gives_warning_if_only_local_runs_open(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_for_jobs(None, None, start=project)
    (project / ".himl").mkdir()
    open_runs(None, None, start=project)
    assert not caplog.records
    write_files(project, {"config.json": "{bad"})
    open_runs(None, None, start=project)
    assert [record.getMessage().startswith(f"Passed over: '{project / 'config.json'}'") for record in caplog.records if record.levelname == "WARNING"] == [True]


def test_local_jobs_are_recorded_locally_despite_azure_config(project: Path) -> None:
    deep = project / "a" / "b"
    deep.mkdir(parents=True)
    assert folder_for_jobs(deep) == deep / ".himl"
    config = write_config(project, file=".azureml/config.json")
    assert folder_for_jobs(deep) == project / ".himl"
    (project / "a" / ".himl").mkdir()
    assert folder_for_jobs(deep) == project / "a" / ".himl"
    with pytest.raises(BadUsage, match="runs and is recorded here"):
        open_for_jobs(str(config), None, start=deep)


def test_each_workspace_says_where_it_was_read(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(project)
    (project / ".himl").mkdir()
    sources = [(each.facts.kind, each.facts.source) for each in open_each(None, None, start=project)]
    assert sources == [("azure", f"'{config}' (the nearest here or above)"), ("local", f"'{project / '.himl'}' (the nearest here or above)")]
    assert [each.facts.source for each in open_each(str(config), None, start=project)] == [f"'{config}' (as named)"]
    config.unlink()
    set_all(monkeypatch, VARIABLES)
    assert next(each.facts.source for each in open_each(None, None, start=project)) == "HIML_* variables"
