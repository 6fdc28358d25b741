"""The bodies of the requests that create jobs, and what they refer to, are those of the golden files (`tests/support/documents.py` writes them)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.events import ignore
from himl_cli.core.jobs import DataSpec, Entry, EntryKind, EnvironmentSpec, PipelineSpec, StepSpec
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure_jobs import CONDA, PREPARE, SWEEPS, cluster_spec, pipeline_of, prepare, snapshot_of, step_job, train
from tests.support.documents import check_golden

IMAGE = "docker.io/base:1"
GIT = {"build_source_repository": "https://git/x.git", "build_branch": "main", "build_source_id": "c0ffee", "build_source_dirty": "true"}
SSH, TIER = "ssh-ed25519 AAAA ada@lab", {"AISuperComputer": {"slaTier": "Premium", "priority": 1}}
ELSEWHERE = [
    ("azureml://registries/azureml/environments/sklearn-1.5/versions/30", None),
    ("AzureML-sklearn-1.0", None),
    ("AzureML-sklearn-1.0", "3"),
]
ODD_CONDA = "name: é漢\nvariables: {A: 'yes', B: ''}\ndependencies: [python=3.11, {pip: ['x>=1 ; y == \"z\"', 'long " + "long " * 20 + "']}]\n"
COMMANDS: dict[str, dict[str, Any]] = {
    "plain": {"shm_size": ""},
    "module": {"entry": Entry(EntryKind.module, "lab.train"), "arguments": ["--x", "a b", "it's", "$HOME", "é漢", ""], "python": "uv run"},
    "shell": {"entry": Entry(EntryKind.shell, "-run.sh"), "description": "a: b # c\nd"},
    "line": {"entry": Entry(EntryKind.command, "python a.py --in ${{inputs.a}} && ls"), "inputs": [DataSpec("a", "scans")]},
    "ranks": {"nodes": 2, "processes": 4, "distribution": "pytorch", "cluster": "gpu-cluster"},
    "ranks by default": {"distribution": "pytorch"},
    "mpi": {"nodes": 2, "distribution": "mpi", "processes": 2},
    "serverless": {"cluster": "serverless", "instance_type": "Standard_NC6", "nodes": 2},
    "spot": {"cluster": "serverless", "job_tier": "spot"},
    "names": {"display_name": "shown", "description": "what it is", "tags": {"team": "blue", "empty": "", **GIT}, "env": {"EMPTY": "", "N": "01", "T": "yes"}},
    "clean git": {"tags": {"build_source_dirty": "", "build_branch": "x"}},
    "inputs": {
        "inputs": [
            DataSpec("asset", "pictures", version="1", mode="mount"),
            DataSpec("latest", "pictures", target="/data/pictures"),
            DataSpec("one", "one"),
            DataSpec("table", "table", mode="mount"),
            DataSpec("folder", "a/b", datastore="second", is_folder=True),
        ],
        "arguments": ["--in=${{ inputs.asset }}/a b", "${{inputs.latest}}"],
    },
    "outputs": {
        "outputs": [DataSpec("o", "trained"), DataSpec("p", "kept/x", datastore="second", mode="upload"), DataSpec("q", "one")],
        "arguments": ["--o=${{ outputs.o }}/x"],
    },
    "user": {"identity": "user"},
    "managed": {"identity": "managed"},
    "services": {"services": {"vscode": "", "jupyterlab": "", "tensorboard": "outputs/tb", "ssh": SSH}},
    "resources": {"resource_properties": TIER, "docker_args": ["--ipc=host", "--env A='b c'"], "instance_type": "gpu-large"},
    "a short limit": {"max_seconds": 0.4},
    "a long limit": {"max_seconds": 129600.0, "brought": {"ckpt/": "${{inputs.a}}/x y", "b.txt": "${{inputs.a}}/b.txt"}, "inputs": [DataSpec("a", "pictures")]},
    "environment by name": {"environment": EnvironmentSpec("torch")},
    "environment by version": {"environment": EnvironmentSpec("torch", "1")},
    "curated environment": {"environment": EnvironmentSpec("AzureML-sklearn-1.0", "latest")},
    "environment of a registry": {"environment": EnvironmentSpec("azureml://registries/azureml/environments/sklearn-1.5/versions/30")},
    "image alone": {"environment": EnvironmentSpec(image=IMAGE)},
    "odd conda": {"environment": EnvironmentSpec(image=IMAGE, conda=ODD_CONDA)},
    "context by address": {"environment": EnvironmentSpec(context="https://example.com/a.git#x:y", dockerfile="docker/Dockerfile")},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _seeded(azure: StagedWorkspace) -> None:
    azure.add_datastore("second")
    for datastore, name in {"workspaceblobstore": "pictures/1.png", "second": "a/b/c.txt"}.items():
        azure.put_blob(datastore, name, b"x")
    azure.put_blob("workspaceblobstore", "one.txt", b"x")
    azure.put_blob("workspaceblobstore", "scans/1.png", b"x")
    azure.add_data("pictures", "azureml://datastores/workspaceblobstore/paths/pictures/")
    azure.add_data("one", "azureml://datastores/workspaceblobstore/paths/one.txt", kind="uri_file")
    azure.add_data("table", "azureml://datastores/workspaceblobstore/paths/pictures/", kind="mltable")
    azure.add_environment("torch")


def bodies(azure: StagedWorkspace, run_id: str) -> dict[str, Any]:
    """What was put since the last call, by address: ids that are new each time replaced."""
    seen = azure.stage.log.find(r"^PUT management.*/(jobs|environments|components|data)/")
    azure.stage.log.clear()
    found: dict[str, Any] = {}
    texts = [_plain(azure, json.dumps([f"{one.path}?{one.query}", json.loads(one.body)], sort_keys=True), run_id) for one in seen]
    for address, body in map(json.loads, sorted(texts)):
        found[f"{address} #{len(found)}" if address in found else address] = body
    return found


def _plain(azure: StagedWorkspace, text: str, run_id: str) -> str:
    for given, plain in {azure.state.path: "WORKSPACE", run_id: "RUN", azure.state.storage.host: "STORAGE"}.items():
        text = text.replace(given, plain)
    text = re.sub(r"STORAGE/[^/]+/", "STORAGE/CONTAINER/", text)
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)


def test_command_jobs(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    found = {}
    for name, fields in COMMANDS.items():
        found[name] = bodies(azure, workspace.submit(cluster_spec(project, **fields), notify=ignore).id)
    wheel = project.parent / "own-1.0-py3-none-any.whl"
    wheel.write_bytes(b"PK wheel")
    built = {
        "wheels": EnvironmentSpec(image=IMAGE, conda="dependencies:\n- pip:\n  - ./own-1.0-py3-none-any.whl\n", wheels=[wheel]),
        "wheels alone": EnvironmentSpec(image=IMAGE, wheels=[wheel]),
        "context": EnvironmentSpec(context=snapshot_of(project.parent / "context", {"Dockerfile": "FROM x\n", "own": "y"})),
        "context, another file": EnvironmentSpec(context=snapshot_of(project.parent / "context", {"d/Own": "FROM x\n"}), dockerfile="d/Own"),
    }
    for name, environment in built.items():
        found[name] = bodies(azure, workspace.submit(cluster_spec(project, environment=environment), notify=ignore).id)
    check_golden("bodies/command.json", found)


def test_sweeps(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    found = {}
    for name, fields in SWEEPS.items():
        found[name] = bodies(azure, workspace.submit(cluster_spec(project, **fields), notify=ignore).id)
    check_golden("bodies/sweep.json", found)


def pipelines(root: Path) -> Mapping[str, PipelineSpec]:
    every: dict[str, Any] = {"distribution": "mpi", "processes": 2, "nodes": 2, "shm_size": "3g", "docker_args": ["--ipc=host", "-v"], "max_seconds": 600.0}
    every |= {"identity": "managed", "env": {"N": "01", "E": "", "T": "yes"}, "cluster": "gpu-cluster"}
    ranks: dict[str, Any] = {"distribution": "pytorch", "identity": "user", "environment": EnvironmentSpec("torch", "1")}
    outside = [
        DataSpec("whole", "/", datastore="second"),
        DataSpec("f", "a/b", datastore="second", mode="mount"),
        DataSpec("p", "pictures"),
        DataSpec("t", "table"),
    ]
    alone = StepSpec("B.c", "alone", step_job(root / "b", "print(2)"), waits_for=["step1"])
    silent = StepSpec("9", "", step_job(root / "c", "print(3)", inputs=outside), waits_for=["B.c"])
    named = prepare(root, PREPARE, outputs=[DataSpec("numbers", "", datastore="second", mode="upload")])
    names: dict[str, Any] = {"display_name": "shown", "description": "a: b # c", "tags": {"k": "v", **GIT}, "default_datastore": "second"}
    return {
        "two steps": pipeline_of(prepare(root), train(root)),
        "every field": pipeline_of(prepare(root, **ranks), train(root, **every), **names),
        "order alone, data from outside": pipeline_of(prepare(root), alone, silent),
        "places of outputs": pipeline_of(named, replace(train(root), name=named.name)),
        "environments of Azure ML": pipeline_of(
            *(replace(prepare(root, PREPARE, environment=EnvironmentSpec(name, version)), key=f"s{n}") for n, (name, version) in enumerate(ELSEWHERE))
        ),
        "serverless": pipeline_of(prepare(root, cluster="serverless"), cluster="serverless"),
        "no compute of all": pipeline_of(prepare(root), cluster=""),
        "odd words": pipeline_of(
            prepare(root, arguments=["${{outputs.numbers}}", "a b", "é漢", "it's"], environment=EnvironmentSpec(image=IMAGE, conda=CONDA))
        ),
    }


def test_pipelines(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    found = {}
    for name, spec in pipelines(tmp_path).items():
        found[name] = bodies(azure, workspace.submit_pipeline(spec, notify=ignore).id)
    check_golden("bodies/pipeline.json", found)
