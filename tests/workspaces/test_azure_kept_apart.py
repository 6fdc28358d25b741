"""What is kept for one account, workspace or cloud never reaches another, although all of it lies in one home folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from himl_cli.core.errors import NotAllowed
from himl_cli.workspaces.azure.config import PUBLIC
from tests.servers.azureml.principals import Principal, Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import DEFAULT, opened
from tests.support.stores import listed


def sign_in(environment: pytest.MonkeyPatch, azure: StagedWorkspace, principal: Principal | None = None) -> None:
    """Let *principal* (default: the workspace's own, with all rights) be the one that signs in."""
    for name, value in azure.environment(principal).items():
        environment.setenv(name, value)


def names(azure: StagedWorkspace, folder: Path, run: str = "") -> list[str]:
    """The files of a datastore, or of *run*'s artifacts."""
    with opened(azure, folder) as workspace:
        return [blob.name for blob in listed(workspace.run_files(run) if run else workspace.datastore(DEFAULT))]


def test_cached_signature_is_not_used_for_another_account(azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    azure.put_blob(DEFAULT, "secret plans", b"1")
    sign_in(monkeypatch, azure)
    assert names(azure, project) == ["secret plans"]
    sign_in(monkeypatch, azure, azure.add_principal({Right.READ}))
    with pytest.raises(NotAllowed, match="your own sign-in"):
        names(azure, project)


def test_what_is_kept_of_storage_belongs_to_one_cloud(azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    azure.put_artifacts(azure.add_run("run_1", "demo"), {"outputs/a": b"1"})
    azure.put_blob(DEFAULT, "a", b"1")
    sign_in(monkeypatch, azure, azure.add_principal({Right.READ, Right.SECRETS}))
    names(azure, project)
    sign_in(monkeypatch, azure, azure.add_principal({Right.READ}))
    names(azure, project, "run_1")
    kept = [json.loads(path.read_text())["key"] for kind in ("secrets", "artifact_routes") for path in (project.parent / "home").rglob(f"{kind}/*.json")]
    assert len(kept) == 2
    assert all(f" {PUBLIC.name} " in key for key in kept)


def test_cached_storage_location_is_separate_per_workspace(stage: Stage, azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = stage.workspace()
    for staged, name in ((azure, "ours"), (other, "theirs")):
        staged.put_blob(DEFAULT, name, b"1")
        staged.put_artifacts(staged.add_run("run_1", "demo"), {f"outputs/{name}": b"1"})
    for _ in range(2):
        for staged, name in ((azure, "ours"), (other, "theirs")):
            sign_in(monkeypatch, staged)
            assert (names(staged, project), names(staged, project, "run_1")) == ([name], [f"outputs/{name}"])


def test_cached_storage_refusal_is_separate_per_account(stage: Stage, azure: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other account reads storage directly, without the service's links."""
    azure.put_artifacts(azure.add_run("run_1", "demo"), {"outputs/a": b"1"})
    sign_in(monkeypatch, azure, azure.add_principal({Right.READ}))
    assert names(azure, project, "run_1") == ["outputs/a"]
    assert stage.log.find("/prefix/contentinfo/")
    stage.log.clear()
    sign_in(monkeypatch, azure)
    assert names(azure, project, "run_1") == ["outputs/a"]
    assert not stage.log.find("/prefix/contentinfo/")
