"""Tests of the choice of workspace by config files, variables and jobs, their precedence, and two joined workspaces."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage, NotAllowed, NotFound, RunNotFound, ServiceFailed, WorkspaceNotFound
from himl_cli.core.runs import RECORDED_FROM, RunQuery, RunStatus
from himl_cli.core.workspaces import parse_workspace_id
from himl_cli.services.runs.deletion import delete_runs, footprints_of
from himl_cli.workspaces.azure.config import (
    CHINA,
    JOB_SOURCE,
    PUBLIC,
    US_GOVERNMENT,
    address_from_config,
    address_from_environment,
    address_of_job,
    current_cloud,
    find_config,
)
from himl_cli.workspaces.base import Workspace
from himl_cli.workspaces.local.workspace import LocalWorkspace
from himl_cli.workspaces.resolve import (
    JoinedWorkspace,
    azure_for_mirror,
    find_workspaces,
    open_each,
    open_for_jobs,
    open_runs,
    open_workspace,
)
from tests.support.azure import set_all
from tests.support.running import write_files
from tests.support.runs import RecordedRuns

SUBSCRIPTION = "00000000-1111-2222-3333-444444444444"
KEYS = {"subscription_id": SUBSCRIPTION, "resource_group": "team", "workspace_name": "lab"}
SCOPE = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/team/providers/Microsoft.MachineLearningServices/workspaces/lab"
BY_VARIABLES = {"HIML_SUBSCRIPTION_ID": SUBSCRIPTION, "HIML_RESOURCE_GROUP": "team", "HIML_WORKSPACE_NAME": "variables"}
BY_JOB = {
    "AZUREML_RUN_ID": "r",
    "AZUREML_ARM_SUBSCRIPTION": SUBSCRIPTION,
    "AZUREML_ARM_RESOURCEGROUP": "by",
    "AZUREML_ARM_WORKSPACE_NAME": "job",
}


def put(folder: Path, file: str = "config.json", content: Any = KEYS, encoding: str = "utf-8") -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    write_files(folder, {file: text.encode(encoding)})
    return folder / file


def meant(start: Path, spec: str | None = None, config_file: str | None = None) -> tuple[str | None, Path | None]:
    """Return the name of the selected Azure ML workspace, and the folder of the local one."""
    found = find_workspaces(spec, config_file, start=start)
    return (found.azure.name if found.azure else None), found.local


def test_every_form_of_config_names_its_workspace(project: Path) -> None:
    spaced = {name: f" {value} " for name, value in KEYS.items()}
    for content in (KEYS, KEYS | {"tenant_id": "t", "extra": 1}, {"Id": None, "Scope": SCOPE}, spaced):
        path = put(project, content=content, encoding="utf-8-sig" if content is KEYS else "utf-8")
        address = address_from_config(path)
        assert (address.subscription_id, address.resource_group, address.name) == (SUBSCRIPTION, "team", "lab")
        assert (address.path, address.label, address.source) == (SCOPE, "workspace team/lab", str(path))
        assert find_config(path.parent) == path


def test_a_wrong_config_is_told_by_file_and_key(project: Path) -> None:
    for content, complaint in (
        ("{", r"config\.json', line 1: "),
        ("[1]", r"config\.json' contains no JSON object"),
        ({**KEYS, "workspace_name": ""}, r"config\.json' lacks workspace_name\."),
        ("[" * 3000 + "]" * 3000, r"config\.json': it is nested too deeply\."),
        ('{"subscription_id": ' + "9" * 5000 + "}", r"config\.json': it contains a number that is too long\."),
        ({**KEYS, "workspace_name": "lab\ud800"}, r"'workspace_name' is not a valid workspace name"),
        ({**KEYS, "resource_group": 7}, r"config\.json': 'resource_group' must be text, not 7"),
        ({**KEYS, "workspace_name": "<YOUR_WORKSPACE>"}, r"'workspace_name' is still the placeholder <YOUR_WORKSPACE>"),
        (
            {**KEYS, "subscription_id": "my subscription"},
            r"'subscription_id' is not a subscription id .*: 'my subscription'",
        ),
        ({**KEYS, "resource_group": "../other"}, r"'resource_group' is not a valid resource group name: '\.\./other'"),
    ):
        with pytest.raises(BadUsage, match=complaint) as caught:
            address_from_config(put(project, content=content))
        assert "config.json" in caught.value.hint
    path = put(project, encoding="utf-16")
    with pytest.raises(BadUsage, match="not UTF-8"):
        address_from_config(path)
    with pytest.raises(WorkspaceNotFound, match=r".*none\.json' does not exist"):
        address_from_config(path.with_name("none.json"))


def test_config_search_finds_the_nearest_valid_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = project / "a" / "b" / "c"
    deep.mkdir(parents=True)
    assert find_config(deep) is None
    top = put(project)
    put(project, "a/config.json", {"model": "unet"})
    put(project, "a/b/config.json", "no json")
    assert find_config(deep) == top
    for text in ("[" * 3000 + "]" * 3000, '{"a": ' + "9" * 5000 + "}"):
        put(project, "a/b/config.json", text)
        assert find_config(deep) == top
    hidden = put(project, "a/.azureml/config.json")
    assert find_config(deep) == hidden
    nearer = put(project, "a/b/config.json")
    assert find_config(deep) == nearer
    nearer.unlink()
    hidden.unlink()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(project / "elsewhere"), str(deep), str(project / "a")]))
    assert find_config(deep) is None, "it stops at the last parent on PYTHONPATH"
    inside = put(project, "a/config.json")
    assert find_config(deep) == inside
    inside.unlink()
    monkeypatch.setenv("PYTHONPATH", str(project / "elsewhere"))
    assert find_config(deep) == top


def test_the_variables_name_a_workspace_together_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert address_from_environment() is None
    monkeypatch.setenv("HIML_RESOURCE_GROUP", "team")
    with pytest.raises(
        BadUsage, match=r"HIML_RESOURCE_GROUP is set, but not HIML_SUBSCRIPTION_ID and HIML_WORKSPACE_NAME\."
    ):
        address_from_environment()
    set_all(monkeypatch, BY_VARIABLES)
    address = address_from_environment()
    assert address is not None
    assert (address.path, address.source) == (SCOPE.replace("/lab", "/variables"), "HIML_* variables")


def test_clouds_are_chosen_by_name_or_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_cloud() == PUBLIC
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "azureusgovernment")
    assert current_cloud() == US_GOVERNMENT
    assert current_cloud("AzureChinaCloud") == CHINA
    assert CHINA.management_scope == "https://management.chinacloudapi.cn/.default"
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "login.partner.microsoftonline.cn/")
    assert current_cloud("AzureChinaCloud").authority == "https://login.partner.microsoftonline.cn"
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "AzureUSGoverment")
    with pytest.raises(BadUsage, match="AZUREML_CURRENT_CLOUD") as caught:
        current_cloud()
    assert "AzureUSGovernment" in caught.value.hint


def test_a_workspace_is_read_from_ids_and_studio_links() -> None:
    wsid = f"/subscriptions/{SUBSCRIPTION}/resourcegroups/team/workspaces/lab"
    for text in (SCOPE, f"https://ml.azure.com/runs/r?wsid={wsid}&tid=t", f"{SCOPE}/jobs/j"):
        assert parse_workspace_id(text) == (SUBSCRIPTION, "team", "lab")
    assert parse_workspace_id("https://ml.azure.com/runs/r") is None


def test_the_nearest_of_both_kinds_count(project: Path) -> None:
    deep = project / "a" / "b"
    deep.mkdir(parents=True)
    assert meant(project) == (None, None)
    for opener in (open_runs, open_workspace):
        with pytest.raises(WorkspaceNotFound, match=r"no \.himl folder and no Azure ML config\.json"):
            opener(None, None, start=project)
    put(project)
    (project / ".himl").mkdir()
    assert meant(deep) == ("lab", project / ".himl")
    put(project / "a", ".azureml/config.json", KEYS | {"workspace_name": "nearer"})
    (deep / ".himl").mkdir()
    assert meant(deep) == ("nearer", deep / ".himl")


def test_workspace_precedence_is_job_then_config_then_variables(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, BY_VARIABLES)
    assert meant(project) == ("variables", None)
    put(project)
    assert meant(project) == ("lab", None)
    monkeypatch.setenv("AZUREML_RUN_ID", "r")
    assert meant(project) == ("lab", None), "a job that runs here has none of its own"
    set_all(monkeypatch, BY_JOB)
    assert getattr(address_of_job(), "source", "") == JOB_SOURCE
    assert meant(project) == ("job", None)


def test_what_is_named_says_which_but_in_a_job(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_all(monkeypatch, BY_VARIABLES)
    (project / ".himl").mkdir()
    other = put(tmp_path / "elsewhere", "team.json", KEYS | {"workspace_name": "named"})
    assert meant(project, spec=str(other)) == ("named", None)
    assert meant(project, config_file=str(other)) == ("named", None)
    assert meant(project, spec="local") == (None, project / ".himl")
    assert meant(project, spec=str(tmp_path / "elsewhere")) == (None, tmp_path / "elsewhere" / ".himl")
    with pytest.raises(BadUsage, match="cannot be combined"):
        meant(project, spec="local", config_file=str(other))
    with pytest.raises(WorkspaceNotFound, match=r".*nope\.json' does not exist"):
        meant(project, config_file=str(project / "nope.json"))
    (project / "odd.json").write_text('{"subscription_id": "x"}')
    with pytest.raises(BadUsage, match=r"odd\.json' lacks resource_group and workspace_name"):
        meant(project, config_file=str(project / "odd.json"))
    set_all(monkeypatch, BY_JOB)
    assert not caplog.text
    assert meant(project, config_file=str(other)) == ("job", None)
    assert "since an Azure ML job always uses its own workspace" in caplog.text
    assert meant(project, spec="local") == (None, project / ".himl")


def test_runs_are_looked_for_in_both_and_data_in_azure(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (project / ".himl").mkdir()
    local = open_runs(None, None, start=project)
    assert not caplog.records
    assert local.label == open_workspace(None, None, start=project).label
    config = put(project)
    both = open_runs(None, None, start=project)
    assert isinstance(both, JoinedWorkspace)
    assert both.label == f"{local.label} and workspace team/lab"
    assert open_workspace(None, None, start=project).label == "workspace team/lab"
    assert open_runs("local", None, start=project).label == local.label
    assert open_runs(None, str(config), start=project).label == "workspace team/lab"
    sources = [(each.facts.kind, each.facts.source) for each in open_each(None, None, start=project)]
    assert sources == [
        ("azure", f"'{config}' (the nearest one upward)"),
        ("local", f"'{project / '.himl'}' (the nearest one upward)"),
    ]
    assert [each.facts.source for each in open_each(str(config), None, start=project)] == [f"'{config}' (as named)"]
    config.unlink()
    set_all(monkeypatch, BY_VARIABLES)
    assert next(each.facts.source for each in open_each(None, None, start=project)) == "HIML_* variables"


def test_a_cluster_needs_an_azure_workspace_and_gets_it(project: Path) -> None:
    with pytest.raises(BadUsage, match="needs an Azure ML workspace, and none is configured"):
        open_for_jobs(None, None, start=project, on_azure=True)
    with pytest.raises(BadUsage, match="has no clusters"):
        open_for_jobs("local", None, start=project, on_azure=True)
    config = put(project)
    for spec, config_file in ((None, None), (str(config), None), (None, str(config))):
        assert open_for_jobs(spec, config_file, start=project, on_azure=True).label == "workspace team/lab"


def test_unusable_config_is_named_if_azure_is_required(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    for content, said in (("{bad", "line 1"), ('{"workspace_name": "w"}', "lacks subscription_id and resource_group")):
        write_files(project, {"config.json": content})
        for ask in (
            lambda: open_for_jobs(None, None, start=project, on_azure=True),
            lambda: azure_for_mirror(None, None, start=project),
        ):
            with pytest.raises(BadUsage, match=r"himl found no valid config\.json") as caught:
                ask()
            assert str(project / "config.json") in str(caught.value)
            assert said in str(caught.value)
            assert "himl init" in caught.value.hint
    (project / ".himl").mkdir()
    caplog.clear()
    open_runs(None, None, start=project)
    assert [
        record.getMessage().startswith(f"himl skipped '{project / 'config.json'}'")
        for record in caplog.records
        if record.levelname == "WARNING"
    ] == [True]


def test_local_jobs_are_recorded_locally_despite_azure_config(project: Path) -> None:
    deep = project / "a" / "b"
    deep.mkdir(parents=True)

    def folder() -> Path:
        workspace = open_for_jobs(None, None, start=deep)
        assert isinstance(workspace, LocalWorkspace)
        return workspace.folder

    assert folder() == deep / ".himl"
    config = put(project, ".azureml/config.json")
    assert folder() == project / ".himl"
    (project / "a" / ".himl").mkdir()
    assert folder() == project / "a" / ".himl"
    with pytest.raises(BadUsage, match="this job runs locally"):
        open_for_jobs(str(config), None, start=deep)


@pytest.fixture
def near(tmp_path: Path) -> RecordedRuns:
    return RecordedRuns(tmp_path / "near")


@pytest.fixture
def far(tmp_path: Path) -> RecordedRuns:
    return RecordedRuns(tmp_path / "far")


@pytest.fixture
def both(near: RecordedRuns, far: RecordedRuns) -> JoinedWorkspace:
    """Two joined workspaces with alternating runs: near_1, far_1 (the same second), near_2, far_2, ..."""
    for number in (1, 2, 3):
        near.add(f"near_{number}", tags={"place": "near"}, files={"outputs/x": f"near {number}"})
        far.add(
            f"far_{number}",
            experiment="other" if number == 3 else "train",
            tags={"place": "far"},
            files={"outputs/x": f"far {number}"},
        )
    near.add("near_child", parent="near_1")
    far.add("far_child", parent="far_1", status=RunStatus.failed)
    far.log("far_1", [("loss", 0.5, 1, 1)], {"lr": "0.1"})
    return JoinedWorkspace(near.workspace, lambda: far.workspace, far.workspace.label)


def ids(workspace: Workspace, query: RunQuery) -> list[str]:
    return [run.id for run in workspace.runs(query)]


def test_runs_of_both_come_newest_first(both: JoinedWorkspace) -> None:
    for query, expected in (
        (RunQuery(), ["near_3", "far_3", "near_2", "far_2", "near_1", "far_1"]),
        (RunQuery(limit=3), ["near_3", "far_3", "near_2"]),
        (RunQuery(limit=0), []),
        (RunQuery("train", limit=3), ["near_3", "near_2", "far_2"]),
        (RunQuery("other"), ["far_3"]),
        (RunQuery(tags={"place": "far"}, limit=2), ["far_3", "far_2"]),
        (RunQuery(parent="far_1"), ["far_child"]),
    ):
        assert ids(both, query) == expected


@pytest.mark.large("takes long, and other tests run its branches")
def test_records_of_local_runs_in_the_service_hide_no_other_runs(near: RecordedRuns, far: RecordedRuns) -> None:
    far.add("cluster_1", experiment="cluster", status=RunStatus.failed, tags={"team": "blue"})
    far.add("cluster_2")
    for number in range(30):
        far.add(f"twin_{number}", tags={RECORDED_FROM: "laptop", "team": "blue"}, status=RunStatus.failed)
    for number in range(30):
        near.add(f"twin_{number}", status=RunStatus.failed, experiment="here")
    far.add("deleted_here", tags={RECORDED_FROM: "laptop"})
    both = JoinedWorkspace(near.workspace, lambda: far.workspace, far.workspace.label)
    for query, expected in (
        (RunQuery("train", limit=1), ["deleted_here"]),
        (RunQuery("train", limit=2), ["deleted_here", "cluster_2"]),
        (RunQuery(tags={"team": "blue"}, limit=1), ["cluster_1"]),
        (RunQuery(tags={"team": "blue"}, statuses=[RunStatus.failed], limit=20), ["cluster_1"]),
        (RunQuery("train", limit=20), ["deleted_here", "cluster_2"]),
    ):
        assert ids(both, query) == expected
    assert {*ids(both, RunQuery(limit=33))} == {
        "deleted_here",
        "cluster_1",
        "cluster_2",
        *(f"twin_{number}" for number in range(30)),
    }


def test_each_run_is_asked_of_the_workspace_that_keeps_it(
    both: JoinedWorkspace, near: RecordedRuns, far: RecordedRuns
) -> None:
    assert {run.id: run.workspace for run in both.runs(RunQuery(limit=2))} == {
        id: both.run(id).workspace for id in ("near_3", "far_3")
    }
    assert (both.home_of("near_1"), both.home_of("far_1")) == (near.workspace, far.workspace)
    assert b"".join(both.run_files("near_1").read("outputs/x")) == b"near 1"
    assert b"".join(both.run_files("far_1").read("outputs/x")) == b"far 1"
    assert (both.parameters("far_1"), [metric.name for metric in both.metrics("far_1")], both.metrics("near_1")) == (
        {"lr": "0.1"},
        ["loss"],
        [],
    )
    assert both.cancel("far_1") is False
    assert both.tag("far_2", {"note": "x"}).tags == {"place": "far", "note": "x"}
    assert far.workspace.run("far_2").tags["note"] == "x"
    assert "note" not in near.workspace.run("near_2").tags
    assert both.datastores() == far.workspace.datastores()
    assert both.datastore().label == far.workspace.datastore().label
    with pytest.raises(NotFound, match="has no output 'x'") as caught:
        both.output_files("far_1", "x")
    assert "--workspace" not in caught.value.hint
    delete_runs(both, footprints_of(both, [both.run("near_1")], outputs=False))
    with pytest.raises(RunNotFound):
        both.run("near_1")


def test_unknown_runs_and_those_of_both(both: JoinedWorkspace, near: RecordedRuns, far: RecordedRuns) -> None:
    near.add("twin", display_name="near twin")
    far.add("twin", display_name="far twin")
    assert (both.run("twin").display_name, both.home_of("twin")) == ("near twin", near.workspace)
    near.add("train_77_aa")
    far.add("train_78_aa")
    with pytest.raises(RunNotFound, match="No run 'train_79_aa'") as caught:
        both.run("train_79_aa")
    assert {"train_77_aa", "train_78_aa"} <= set(caught.value.similar)
    assert near.workspace.label in str(caught.value)
    assert far.workspace.label in str(caught.value)
    for ask in (both.run, both.cancel, both.metrics, both.parameters, both.run_files, both.home_of):
        with pytest.raises(RunNotFound):
            ask("nothing")


def unreachable() -> Workspace:
    raise ServiceFailed("management.azure.com cannot be reached.", hint="Check the network.")


def test_what_is_kept_here_needs_no_service_and_lists_do(both: JoinedWorkspace, near: RecordedRuns) -> None:
    alone = JoinedWorkspace(near.workspace, unreachable, "workspace far/away")
    assert alone.run("near_1") == both.run("near_1")
    assert b"".join(alone.run_files("near_1").read("outputs/x")) == b"near 1"
    assert ids(alone, RunQuery(parent="near_1")) == ["near_child"]
    assert alone.label.endswith("and workspace far/away")
    with pytest.raises(ServiceFailed, match="cannot be reached") as caught:
        list(alone.runs(RunQuery()))
    assert caught.value.hint == "Check the network. To use only local runs, add --workspace local"

    def refused() -> Workspace:
        raise NotAllowed("Nobody is signed in.")

    with pytest.raises(NotAllowed) as not_signed_in:
        list(JoinedWorkspace(near.workspace, refused, "workspace far/away").runs(RunQuery(limit=1)))
    assert not_signed_in.value.hint == "To use only local runs, add --workspace local"
    with pytest.raises(ServiceFailed) as caught:
        alone.run("near_9")
    assert caught.value.hint.startswith("Did you mean the local run near_3 or near_2 or near_1?")
    assert "--workspace local" in caught.value.hint
