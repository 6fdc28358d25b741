"""The YAML of `--dry_run`: azure-ai-ml loads it and submits the same job, sweep or pipeline as himl."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.transport import HttpTransport

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import ignore
from himl_cli.core.jobs import DataSpec, Entry, EntryKind, EnvironmentSpec, JobSpec, StepSpec
from himl_cli.services.submission.git import git_facts
from himl_cli.services.submission.job_yaml import prepare_document
from himl_cli.services.submission.request import SubmitRequest, automatic_tags
from himl_cli.workspaces.azure.config import CLOUD_VARIABLE, CLOUDS, Cloud, WorkspaceAddress
from himl_cli.workspaces.azure.jobs.command_line import command_line
from himl_cli.workspaces.azure.jobs.sdk import client_for, load_sdk, restored_variables, silenced
from himl_cli.workspaces.azure.jobs.yaml_form import job_yaml
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.azureml_double.seeding import DEFAULT, StagedWorkspace
from tests.support.azure import opened
from tests.support.azure_jobs import MADE, SWEEPS, cluster_spec, pipeline_of, prepare, snapshot_of, step_job, train

# Compared separately: a generated name, a tag with the run's id, and git properties.
OWN = ("displayName", "tags", "properties")


@pytest.fixture
def workspace(
    azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[AzureWorkspace]:
    # azure-ai-ml searches for git in the current folder.
    monkeypatch.chdir(project)
    load_sdk()
    with opened(azure_environment, project) as opened_workspace:
        yield opened_workspace


def by_sdk(workspace: AzureWorkspace, text: str, folder: Path) -> str:
    """The id of the job that azure-ai-ml makes from the YAML *text*."""
    from azure.ai.ml import load_job

    path = folder / "job.yml"
    path.write_text(text, encoding="utf-8")
    with silenced():
        return str(client_for(workspace.connection).jobs.create_or_update(load_job(path)).name)


def both(workspace: AzureWorkspace, azure: StagedWorkspace, folder: Path, spec: JobSpec) -> Iterator[dict[str, Any]]:
    for run_id in (by_sdk(workspace, job_yaml(spec), folder), workspace.submit(spec, notify=ignore).id):
        yield dict(azure.state.runs[run_id].job or {})


SPECS: dict[str, dict[str, Any]] = {
    "plain": {},
    "words": {
        "arguments": ["--x", "a b", "it's", 'say "x"', "$HOME", "é漢🙂", "", "a\nb: c", "#no"],
        "description": "a: b # c",
        "env": {"N": "01", "E": "", "T": "yes"},
    },
    "several processes": {
        "nodes": 2,
        "processes": 4,
        "distribution": "pytorch",
        "docker_args": ["--ipc=host", "--cap-add=X"],
    },
    "mpi": {"nodes": 2, "distribution": "mpi", "shm_size": "16g", "max_seconds": 5400.0},
    "as the user": {"identity": "user", "entry": Entry(EntryKind.module, "lab.train")},
    "a shell script": {
        "entry": Entry(EntryKind.shell, "a b/it's.sh"),
        "arguments": ["-", "--x=1", "{x}", "01", "null", "a\tb", "`ls`", ""],
    },
    "as the cluster": {"identity": "managed", "display_name": "shown", "tags": {"n": "1", "b": "true", "e": ""}},
    "services": {
        "services": {"vscode": "", "jupyterlab": "", "tensorboard": "outputs/tb", "ssh": "ssh-ed25519 AAAA ada@lab"}
    },
    "services of several nodes": {
        "services": {"vscode": "", "ssh": "ssh-ed25519 AAAA ada@lab"},
        "nodes": 2,
        "distribution": "mpi",
    },
    "resources": {"instance_type": "gpu-large", "resource_properties": {"AISuperComputer": {"slaTier": "Premium"}}},
    "tier": {"cluster": "serverless", "job_tier": "spot"},
    "a command": {
        "entry": Entry(EntryKind.command, "cd lab && torchrun --nproc_per_node 2 'a b.py'"),
        "arguments": ["--x", "$HOME"],
    },
    "another program": {"python": "torchrun --nproc_per_node 2"},
    "image alone": {"environment": EnvironmentSpec(image="docker.io/python:3.11")},
    "registered": {"environment": EnvironmentSpec("torch", "1")},
    "of a registry": {
        "environment": EnvironmentSpec("azureml://registries/azureml/environments/sklearn-1.5/versions/3")
    },
    "registered, the latest": {"environment": EnvironmentSpec("torch")},
    "data": {
        "arguments": ["${{inputs.a}}", "--o=${{ outputs.o }}/x"],
        "inputs": [DataSpec("a", "pictures", version="1", mode="mount"), DataSpec("b", "pictures")],
        "outputs": [DataSpec("o", "trained"), DataSpec("p", "kept", datastore="second", mode="upload")],
    },
    "data at addresses": {
        "inputs": [
            DataSpec("a", "azureml://datastores/workspaceblobstore/paths/pictures/"),
            DataSpec("b", "azureml://datastores/workspaceblobstore/paths/pictures/list.csv", mode="mount"),
            DataSpec("c", "azureml://datastores/workspacefilestore/paths/scans/"),
            DataSpec("d", "https://example.org/data/iris.csv"),
            DataSpec("e", "wasbs://data@other.blob.core.windows.net/scans/"),
            DataSpec("f", "abfss://data@other.dfs.core.windows.net/scans/"),
            DataSpec("g", "azureml://registries/shared/data/pictures/versions/1"),
        ],
    },
}


def check_same(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, spec: JobSpec) -> dict[str, Any]:
    """Check that azure-ai-ml submits the same job for the YAML of *spec* as himl, and return it."""
    theirs, ours = both(workspace, azure, project, spec)
    assert {name: value for name, value in theirs.items() if name not in OWN} == {
        name: value for name, value in ours.items() if name not in OWN
    }
    assert {**theirs["tags"], "run_recovery_id": ours["tags"]["run_recovery_id"]} == ours["tags"]
    assert spec.display_name in ("", theirs["displayName"])
    return ours


def test_the_yaml_makes_the_same_job_or_sweep(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    azure.add_datastore("second")
    azure.add_environment("torch")
    azure.add_data("pictures", f"azureml:/{azure.state.path.lower()}/datastores/workspaceblobstore/paths/pictures/")
    azure.put_blob(DEFAULT, "pictures/list.csv", b"1")
    azure.stage.log.clear()
    specs = {name: cluster_spec(project / "code", **fields) for name, fields in {**SPECS, **SWEEPS}.items()}
    assert [job_yaml(spec) for spec in specs.values()]
    assert azure.requests() == []
    for name, spec in specs.items():
        ours = check_same(workspace, azure, project, spec)
        assert ours["jobType"] == ("Sweep" if name in SWEEPS else "Command"), name
    fields = {
        "instance_type": "gpu-large",
        "resource_properties": {"priority": "high"},
        "python": "uv run",
        **next(iter(SWEEPS.values())),
    }
    resources = check_same(workspace, azure, project, cluster_spec(project / "code", **fields))["trial"]["resources"]
    assert (resources["instanceType"], resources["properties"]) == ("gpu-large", {"priority": "high"})


class Composed(Exception):
    """A request that was composed but not sent."""


class NobodysToken:
    """Unsigned tokens. azure-ai-ml reads their audience."""

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        parts = [{"alg": "none"}, {"aud": scopes[0].removesuffix("/.default")}, {}]
        return AccessToken(
            ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts),
            int(time.time()) + 600,
        )


class Desk(HttpTransport[Any, Any]):
    """A transport that sends no request: a GET fails as if nobody were signed in."""

    def send(self, request: Any, **options: Any) -> Any:
        if request.method == "GET":
            raise ClientAuthenticationError("nobody is asked")
        raise Composed(request)

    def open(self) -> None: ...

    def close(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def test_tags_that_are_no_text_are_refused_as_by_azure_ai_ml(tmp_path: Path) -> None:
    load_sdk()
    from azure.ai.ml import load_job
    from marshmallow import ValidationError

    def by_azure_ai_ml(path: Path) -> None:
        load_job(path)

    def by_himl(path: Path) -> None:
        prepare_document(SubmitRequest(cwd=tmp_path, target=path.name), {})

    def is_refused(check: Callable[[Path], None], path: Path) -> bool:
        try:
            check(path)
        except (BadUsage, ValidationError):
            return True
        return False

    path = tmp_path / "job.yml"
    for tag in (
        "t: 1.10",
        "t: 5",
        "t: NO",
        "t: on",
        "t: ~",
        "t: 2024-01-01",
        "t: 12:30:00",
        "t: 1e5",
        "t: '1.10'",
        "t: x",
        "t: 0x10",
        "t: [1]",
        "1.10: x",
        "t: .inf",
    ):
        path.write_text(
            f"type: command\ncommand: echo\nenvironment: azureml:lab@latest\ncompute: local\ntags:\n  {tag}\n"
        )
        with silenced():
            assert is_refused(by_himl, path) == is_refused(by_azure_ai_ml, path), tag


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=list(CLOUDS))
def test_each_clouds_addresses_are_azure_ai_mls(cloud: Cloud) -> None:
    load_sdk()
    from azure.ai.ml import MLClient, command
    from azure.ai.ml.entities import UserIdentityConfiguration

    address = WorkspaceAddress("11111111-2222-3333-4444-555555555555", "group", "lab", cloud, "a test")
    before = dict(os.environ)
    with silenced(), restored_variables(CLOUD_VARIABLE):
        client = MLClient(
            NobodysToken(),
            address.subscription_id,
            "group",
            "lab",
            cloud=cloud.name,
            enable_telemetry=False,
            transport=Desk(),
        )
        environment = f"{address.path}/environments/torch/versions/7"
        job = command(
            name="j", command="c", environment=environment, compute="cpu-cluster", identity=UserIdentityConfiguration()
        )
        with pytest.raises(Composed) as composed:
            client.jobs.create_or_update(job)
    assert os.environ == before
    request = composed.value.args[0]
    claims = request.headers["x-azureml-token"].split(".")[1]
    audience = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["aud"]
    assert request.url.startswith(f"{cloud.resource_manager}{address.path}/jobs/j?")
    assert cloud.jobs_scope == f"{audience}/.default"


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_build_contexts_are_those_that_azure_ai_ml_sends(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    def environments(spec: JobSpec) -> Iterator[Any]:
        for job in both(workspace, azure, project, spec):
            name, version = job["environmentId"].rpartition("/environments/")[2].split("/versions/")
            yield azure.state.assets["environments"][name][version]["build"]

    files = {"docker/Dockerfile.gpu": "FROM python:3.11\nCOPY lib /lib\n", "lib/a.py": "1\n"}
    context = EnvironmentSpec(context=snapshot_of(project / "image", files), dockerfile="docker/Dockerfile.gpu")
    spec = cluster_spec(project / "code", environment=context)
    for build in environments(spec):
        assert build["dockerfilePath"] == "docker/Dockerfile.gpu"
        assert {
            name: content.decode()
            for name, content in files_at(azure, build["contextUri"]).items()
            if not name.endswith("/")
        } == files
    azure.stage.log.clear()
    workspace.submit(spec, notify=ignore)
    assert not azure.requests("^PUT.*/environments/")
    place = "https://github.com/example/image.git#main:docker"
    elsewhere = cluster_spec(project / "code", environment=EnvironmentSpec(context=place, dockerfile="Dockerfile"))
    assert [*environments(elsewhere)] == [{"contextUri": place, "dockerfilePath": "Dockerfile"}] * 2
    odd = cluster_spec(project / "odd", {"train.py": "", "new\nline.txt": ""})
    azure.stage.log.clear()
    for act in (job_yaml, lambda spec: workspace.submit(spec, notify=ignore)):
        with pytest.raises(BadUsage, match=r"cannot upload 'new\\nline\.txt' with the code"):
            act(odd)
    assert azure.requests() == []
    with pytest.raises(BadUsage, match="names no input"):
        job_yaml(cluster_spec(project / "none", arguments=["${{inputs.x}}"]))


def files_at(azure: StagedWorkspace, url: str) -> dict[str, bytes]:
    container = azure.state.datastores["workspaceblobstore"].container
    prefix = url.partition(f"/{container}/")[2].rstrip("/") + "/"
    return {
        name.removeprefix(prefix): azure.get_blob("workspaceblobstore", name)
        for name in azure.blob_names("workspaceblobstore", prefix)
    }


def test_facts_of_git_are_where_azure_ai_ml_puts_them(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, git: Callable[..., str]
) -> None:
    spec = cluster_spec(project)
    git(project, "init")
    git(project, "remote", "add", "origin", "https://example.org/team/lab.git")
    git(project, "add", ".")
    git(project, "commit", "-m", "first")
    for script in ("print('trained')\n", "print(2)\n"):
        (project / "train.py").write_text(script)
        tagged = cluster_spec(project, {"train.py": script}, tags=automatic_tags(git_facts(project), {}, "train.py"))
        # In the checkout, the file would be a change.
        theirs = azure.state.runs[by_sdk(workspace, job_yaml(spec), project.parent)].job or {}
        ours = azure.state.runs[workspace.submit(tagged, notify=ignore).id].job or {}
        assert theirs["properties"] == ours["properties"]
        assert ours["properties"]["azureml.git.dirty"] == str(script == "print(2)\n")


def test_yaml_masks_secrets_and_names_data_and_local_compute(project: Path, tmp_path: Path) -> None:
    text = job_yaml(cluster_spec(project, cluster="", environment=None))
    load_sdk()
    from azure.ai.ml import load_job

    (project / "job.yml").write_text(text, encoding="utf-8")
    with silenced():
        job: Any = load_job(project / "job.yml")
    assert job.compute == "local"
    assert os.path.samefile(job.code, project)
    names = {
        "azureml:pictures:3": DataSpec("i", "pictures", version="3"),
        "azureml:pictures@latest": DataSpec("i", "pictures"),
        "azureml://datastores/d/paths/pictures/": DataSpec("i", "pictures", datastore="d"),
        "azureml://datastores/own/paths/a/b/": DataSpec("i", "a/b"),
    }
    for path, data in names.items():
        assert (
            yaml.safe_load(job_yaml(cluster_spec(project, inputs=[data], default_datastore="own")))["inputs"]["i"][
                "path"
            ]
            == path
        )
    spec = cluster_spec(project, inputs=[DataSpec("d", "pictures", target="/data/d")])
    assert yaml.safe_load(job_yaml(spec))["command"] == command_line(spec)
    assert 'ln -sn "${{inputs.d}}" /data/d' in command_line(spec)
    document = yaml.safe_load(job_yaml(cluster_spec(project, **SWEEPS["every draw, with a seed"])))
    assert document["sampling_algorithm"] == {"type": "random", "seed": 7}
    assert document["limits"] == {
        "max_total_trials": 20,
        "max_concurrent_trials": 4,
        "timeout": 86400,
        "trial_timeout": 5400,
    }
    conda = "dependencies:\n- python=3.11\n- pip:\n  - --extra-index-url https://ada:pa55word@pypi.example.org/simple\n"
    wheel = project / "own-1.0-py3-none-any.whl"
    arguments = ["--url", "https://a.blob.core.windows.net/c?sig=s1gnature", "--password", "hunter2", "--token=t0ken"]
    environment = EnvironmentSpec(image=MADE.image, conda=conda, wheels=[wheel])
    text = job_yaml(
        cluster_spec(
            project, environment=environment, env={"WANDB_API_KEY": "k3y-0f-mine", "PLAIN": "x"}, arguments=arguments
        )
    )
    assert not any(secret in text for secret in ("pa55word", "k3y-0f-mine", "s1gnature", "hunter2", "t0ken"))
    document = yaml.safe_load(text)
    assert document["environment_variables"] == {"WANDB_API_KEY": "***", "PLAIN": "x"}
    assert document["command"].endswith("--password '***' '--token=***'")
    assert "shown as ***" in text
    assert any(wheel.name in line for line in text.splitlines() if line.startswith("#"))
    secret = prepare(
        tmp_path,
        arguments=["--password", "hunter2", "${{outputs.numbers}}"],
        env={"API_KEY": "k3y"},
        cluster="",
        environment=None,
    )
    text = job_yaml(pipeline_of(secret, cluster=""))
    assert not any(one in text for one in ("hunter2", "k3y"))
    step = yaml.safe_load(text)["jobs"]["step1"]
    assert (step["compute"], step["environment_variables"]) == ("local", {"API_KEY": "***"})
    with pytest.raises(BadUsage, match=r"^step1: '.*' names no input"):
        job_yaml(pipeline_of(prepare(tmp_path, arguments=["${{inputs.none}}"])))


def ran(azure: StagedWorkspace, run_id: str) -> dict[str, Any]:
    """The job of each step of the pipeline, as the service ran it, without run ids in locations and names of
    components.
    """
    run = azure.state.runs[run_id]
    steps = {}
    for child in (azure.state.runs[one] for one in run.children):
        job = dict(child.job or {})
        del job["componentId"]
        steps[child.display_name] = {**job, "inputs": {key: without_run(given) for key, given in job["inputs"].items()}}
    return steps


def without_run(given: dict[str, Any]) -> dict[str, Any]:
    """An input without the run id in the location of another step's output."""
    return {**given, "uri": re.sub(r"/azureml/[^/]+/", "/azureml/RUN/", given["uri"])}


def sets(root: Path) -> dict[str, Sequence[StepSpec]]:
    mpi: dict[str, Any] = {
        "distribution": "mpi",
        "processes": 2,
        "nodes": 2,
        "shm_size": "3g",
        "docker_args": ["--ipc=host"],
        "max_seconds": 600.0,
    }
    words: dict[str, Any] = {"env": {"N": "01", "E": "", "T": "yes"}}
    whole = step_job(
        root / "whole",
        "print(1)",
        inputs=[DataSpec("d", "/", datastore="second"), DataSpec("f", "a/b", datastore="second", mode="mount")],
    )
    named = step_job(
        root / "named",
        "print(1)",
        environment=EnvironmentSpec("torch", "1"),
        outputs=[DataSpec("o", "", datastore="second", mode="upload")],
    )
    return {
        "every field": [prepare(root, **words), train(root, **mpi, identity="managed")],
        "data from outside": [StepSpec("whole", "", whole), StepSpec("Named-1", "named", named)],
    }


@pytest.mark.parametrize("name", ["every field", "data from outside"])
def test_the_yaml_makes_the_same_pipeline(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path, tmp_path: Path, name: str
) -> None:
    azure.add_datastore("second")
    azure.put_blob("second", "a/b/c.txt", b"x")
    azure.add_environment("torch")
    spec = pipeline_of(*sets(tmp_path)[name], tags={"k": "v"}, description="a: b # c", display_name="shown")
    azure.stage.log.clear()
    text = job_yaml(spec)
    assert azure.requests() == []
    with azure.run_jobs():
        theirs = by_sdk(workspace, text, project)
        azure.wait_for(theirs)
        ours = workspace.submit_pipeline(spec, notify=ignore).id
        azure.wait_for(ours)
    assert ran(azure, theirs) == ran(azure, ours)
    mine, other = (azure.state.runs[one] for one in (ours, theirs))
    assert (other.experiment, other.display_name, other.description) == (
        mine.experiment,
        mine.display_name,
        mine.description,
    )
    assert {**other.tags, "run_recovery_id": mine.tags["run_recovery_id"]} == mine.tags
    settings = [
        {name: value for name, value in (run.job or {})["settings"].items() if name != "_source"}
        for run in (mine, other)
    ]
    assert settings[0] == settings[1]
