"""The YAML of `--dry_run`: azure-ai-ml loads it, and the job that it then sends is the one that himl sends."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import ignore
from himl_cli.core.jobs import DataSpec, Entry, EntryKind, EnvironmentSpec, JobSpec
from himl_cli.services.submission.request import automatic_tags, git_facts
from himl_cli.workspaces.azure.jobs.body import command_line
from himl_cli.workspaces.azure.jobs.sdk import load_sdk, silenced
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.resolve import job_yaml
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened
from tests.support.azure_jobs import MADE, cluster_spec, snapshot_of

OWN = ("displayName", "tags", "properties")  # compared by themselves: a name that is made up, a tag with the run's id, facts of git


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AzureWorkspace]:
    monkeypatch.chdir(project)  # azure-ai-ml looks for git where it is called
    load_sdk()
    with opened(azure_environment, project) as opened_workspace:
        yield opened_workspace


def by_sdk(workspace: AzureWorkspace, azure: StagedWorkspace, text: str, folder: Path) -> dict[str, Any]:
    """The job that azure-ai-ml sends for the YAML *text*."""
    from azure.ai.ml import load_job

    from himl_cli.workspaces.azure.jobs.sdk import client_for

    path = folder / "job.yml"
    path.write_text(text, encoding="utf-8")
    with silenced():
        name = client_for(workspace.connection).jobs.create_or_update(load_job(path)).name
    return dict(azure.state.runs[name].job or {})


def by_himl(workspace: AzureWorkspace, azure: StagedWorkspace, spec: JobSpec) -> dict[str, Any]:
    return dict(azure.state.runs[workspace.submit(spec, notify=ignore).id].job or {})


SPECS: dict[str, dict[str, Any]] = {
    "plain": {},
    "words": {
        "arguments": ["--x", "a b", "it's", 'say "x"', "$HOME", "é漢🙂", "", "a\nb: c", "#no"],
        "description": "a: b # c",
        "env": {"N": "01", "E": "", "T": "yes"},
    },
    "several processes": {"nodes": 2, "processes": 4, "distribution": "pytorch", "docker_args": ["--ipc=host", "--cap-add=X"]},
    "mpi": {"nodes": 2, "distribution": "mpi", "shm_size": "16g", "max_seconds": 5400.0},
    "as the user": {"identity": "user"},
    "as the cluster": {"identity": "managed", "display_name": "shown", "tags": {"n": "1", "b": "true", "e": ""}},
    "services": {"services": {"vscode": "", "jupyterlab": "", "tensorboard": "outputs/tb", "ssh": "ssh-ed25519 AAAA ada@lab"}},
    "resources": {"instance_type": "gpu-large", "resource_properties": {"AISuperComputer": {"slaTier": "Premium"}}},
    "tier": {"cluster": "serverless", "job_tier": "spot"},
    "a command": {"entry": Entry(EntryKind.command, "cd lab && torchrun --nproc_per_node 2 'a b.py'"), "arguments": ["--x", "$HOME"]},
    "another program": {"python": "torchrun --nproc_per_node 2"},
    "image alone": {"environment": EnvironmentSpec(image="docker.io/python:3.11")},
    "registered": {"environment": EnvironmentSpec("torch", "1")},
    "of a registry": {"environment": EnvironmentSpec("azureml://registries/azureml/environments/sklearn-1.5/versions/3")},
    "registered, the latest": {"environment": EnvironmentSpec("torch")},
    "data": {
        "arguments": ["${{inputs.a}}", "--o=${{ outputs.o }}/x"],
        "inputs": [DataSpec("a", "pictures", version="1", mode="mount"), DataSpec("b", "pictures")],
        "outputs": [DataSpec("o", "trained"), DataSpec("p", "kept", datastore="second", mode="upload")],
    },
}


def check_same(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, spec: JobSpec) -> dict[str, Any]:
    """What azure-ai-ml sends for the YAML of *spec* is what himl sends for *spec*, which is given."""
    azure.add_datastore("second")
    seed(azure)
    azure.stage.log.clear()
    text = job_yaml(spec)
    assert azure.requests() == []
    theirs, ours = by_sdk(workspace, azure, text, project), by_himl(workspace, azure, spec)
    assert {name: value for name, value in theirs.items() if name not in OWN} == {name: value for name, value in ours.items() if name not in OWN}
    assert {**theirs["tags"], "run_recovery_id": ours["tags"]["run_recovery_id"]} == ours["tags"]
    assert spec.display_name in ("", theirs["displayName"])
    return ours


@pytest.mark.parametrize("fields", SPECS.values(), ids=list(SPECS))
def test_the_yaml_makes_the_same_job(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, fields: dict[str, Any]) -> None:
    check_same(workspace, azure, project, cluster_spec(project / "code", **fields))


def test_the_build_context_is_the_one_that_azure_ai_ml_sends(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    folder = snapshot_of(project / "image", {"docker/Dockerfile.gpu": "FROM python:3.11\nCOPY lib /lib\n", "lib/a.py": "1\n"})
    spec = cluster_spec(project / "code", environment=EnvironmentSpec(context=folder, dockerfile="docker/Dockerfile.gpu"))
    built = []
    for job in (by_sdk(workspace, azure, job_yaml(spec), project), by_himl(workspace, azure, spec)):
        environment = registered(azure, job["environmentId"])
        assert environment["build"]["dockerfilePath"] == "docker/Dockerfile.gpu"
        files = files_at(azure, environment["build"]["contextUri"])
        built.append({name: content for name, content in files.items() if not name.endswith("/")})
    assert built[0] == built[1] == {"docker/Dockerfile.gpu": b"FROM python:3.11\nCOPY lib /lib\n", "lib/a.py": b"1\n"}
    azure.stage.log.clear()
    by_himl(workspace, azure, spec)
    assert not azure.requests("^PUT.*/environments/")


def test_a_build_context_elsewhere_stays_where_it_is(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    context = "https://github.com/example/image.git#main:docker"
    spec = cluster_spec(project / "code", environment=EnvironmentSpec(context=context, dockerfile="Dockerfile"))
    for job in (by_sdk(workspace, azure, job_yaml(spec), project), by_himl(workspace, azure, spec)):
        assert registered(azure, job["environmentId"])["build"] == {"contextUri": context, "dockerfilePath": "Dockerfile"}


def registered(azure: StagedWorkspace, environment_id: str) -> dict[str, Any]:
    """What the workspace has under the id."""
    name, version = environment_id.rpartition("/environments/")[2].split("/versions/")
    return dict(azure.state.assets["environments"][name][version])


def files_at(azure: StagedWorkspace, url: str) -> dict[str, bytes]:
    """What lies in the folder of a datastore at *url*, by name."""
    container = azure.state.datastores["workspaceblobstore"].container
    prefix = url.partition(f"/{container}/")[2].rstrip("/") + "/"
    return {name.removeprefix(prefix): azure.get_blob("workspaceblobstore", name) for name in azure.blob_names("workspaceblobstore", prefix)}


def test_facts_of_git_are_where_azure_ai_ml_puts_them(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, git: Callable[..., str]) -> None:
    spec = cluster_spec(project)
    git(project, "init")
    git(project, "remote", "add", "origin", "https://example.org/team/lab.git")
    git(project, "add", ".")
    git(project, "commit", "-m", "first")
    for change in ("", "print(2)\n"):
        (project / "train.py").write_text(change or "print('trained')\n")
        tagged = cluster_spec(project, {"train.py": change or "print('trained')\n"}, tags=automatic_tags(git_facts(project), {}, "train.py"))
        theirs = by_sdk(workspace, azure, job_yaml(spec), project.parent)  # in the checkout, the file would be a change
        ours = by_himl(workspace, azure, tagged)
        assert theirs["properties"] == ours["properties"]
        assert ours["properties"]["azureml.git.dirty"] == str(bool(change))


def test_credentials_are_masked_and_the_text_stays_yaml(project: Path) -> None:
    conda = "dependencies:\n- python=3.11\n- pip:\n  - --extra-index-url https://ada:pa55word@pypi.example.org/simple\n"
    spec = cluster_spec(
        project,
        environment=EnvironmentSpec(image=MADE.image, conda=conda),
        env={"WANDB_API_KEY": "k3y-0f-mine", "PLAIN": "x"},
        arguments=["--url", "https://a.blob.core.windows.net/c?sig=s1gnature", "--password", "hunter2"],
    )
    text = job_yaml(spec)
    assert not any(secret in text for secret in ("pa55word", "k3y-0f-mine", "s1gnature", "hunter2"))
    assert yaml.safe_load(text)["environment_variables"] == {"WANDB_API_KEY": "***", "PLAIN": "x"}
    assert "shown as ***" in text


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_invalid_blob_name_is_refused_in_yaml_as_in_submit(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    spec = cluster_spec(project / "code", {"train.py": "", "new\nline.txt": ""})
    azure.stage.log.clear()
    for act in (lambda: job_yaml(spec), lambda: workspace.submit(spec, notify=ignore)):
        with pytest.raises(BadUsage, match=r"'new\\nline\.txt' cannot be sent with the code"):
            act()
    assert azure.requests() == []


def test_a_masked_argument_stays_a_quoted_word(project: Path) -> None:
    text = job_yaml(cluster_spec(project, arguments=["--wandb-key", "k3y", "--token=t0ken"]))
    assert yaml.safe_load(text)["command"] == "python train.py --wandb-key '***' '--token=***'"


def test_what_the_schema_cannot_say_stands_in_comments(project: Path) -> None:
    wheel = project / "own-1.0-py3-none-any.whl"
    environment = EnvironmentSpec(image=MADE.image, conda=MADE.conda, wheels=[wheel])
    text = job_yaml(cluster_spec(project, environment=environment))
    assert any(wheel.name in line for line in text.splitlines() if line.startswith("#"))


def test_where_an_input_is_to_lie_is_in_the_command(project: Path) -> None:
    spec = cluster_spec(project, inputs=[DataSpec("d", "pictures", target="/data/d")])
    assert yaml.safe_load(job_yaml(spec))["command"] == command_line(spec)
    assert 'ln -sn "${{inputs.d}}" /data/d' in command_line(spec)


def test_a_job_that_runs_here_is_told_as_one(project: Path) -> None:
    text = job_yaml(cluster_spec(project, cluster="", environment=None))
    load_sdk()
    from azure.ai.ml import load_job

    path = project / "job.yml"
    path.write_text(text, encoding="utf-8")
    with silenced():
        job: Any = load_job(path)
    assert job.compute == "local"
    assert os.path.samefile(job.code, project)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ({"name": "pictures", "version": "3"}, "azureml:pictures:3"),
        ({"name": "pictures"}, "azureml:pictures@latest"),
        ({"name": "pictures", "datastore": "d"}, "azureml://datastores/d/paths/pictures/"),
        ({"name": "a/b"}, "azureml://datastores/own/paths/a/b/"),
    ],
)
def test_names_of_data_stay_references(project: Path, name: dict[str, str], path: str) -> None:
    document = yaml.safe_load(job_yaml(cluster_spec(project, inputs=[DataSpec("i", **name)], default_datastore="own")))  # type: ignore[arg-type]
    assert document["inputs"]["i"]["path"] == path


def test_what_submit_refuses_is_refused_here_too(project: Path) -> None:
    with pytest.raises(BadUsage, match="names no input"):
        job_yaml(cluster_spec(project, arguments=["${{inputs.x}}"]))


def seed(azure: StagedWorkspace) -> None:
    """An environment and a data asset, registered."""
    common = {"isArchived": False, "isAnonymous": False, "properties": {}, "tags": {}, "_created": "2026-01-01T00:00:00Z"}
    azure.state.assets["environments"]["torch"] = {"1": {"image": "docker.io/x:1", **common}}
    where = f"subscriptions/{azure.state.subscription}/resourcegroups/{azure.state.group}/workspaces/{azure.state.name}"
    uri = f"azureml://{where}/datastores/workspaceblobstore/paths/pictures/"
    azure.state.assets["data"]["pictures"] = {"1": {"dataType": "uri_folder", "dataUri": uri, **common}}
