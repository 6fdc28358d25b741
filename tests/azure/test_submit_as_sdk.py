"""What himl sends is what azure-ai-ml sends, field by field: for generated jobs, sweeps, pipelines and environments."""

from __future__ import annotations

import base64
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from himl_cli.core.jobs import DataSpec, Entry, EntryKind, JobSpec, PipelineSpec, Snapshot, StepOutput, StepSpec
from himl_cli.workspaces.azure.config import CLOUDS, PUBLIC, Cloud, WorkspaceAddress
from himl_cli.workspaces.azure.jobs.assets import build_request, image_request
from himl_cli.workspaces.azure.jobs.body import component_request, job_request, pipeline_nodes, pipeline_request
from himl_cli.workspaces.azure.jobs.data_assets import JobData
from himl_cli.workspaces.azure.jobs.sdk import load_sdk
from tests.support.azure_jobs import SWEEPS

ADDRESS = WorkspaceAddress("11111111-2222-3333-4444-555555555555", "group", "lab", PUBLIC, "a test")
CODE, ENVIRONMENT = f"{ADDRESS.path}/codes/c0de/versions/1", f"{ADDRESS.path}/environments/torch/versions/7"
REWRITTEN = re.compile(r"(?<!\{)\{(inputs|outputs|search_space)\.")
"""What azure-ai-ml takes for an old way to write a placeholder: it writes `${{…}}` instead. himl sends what was typed."""

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
ODD = ["", " ", "a b", "it's", 'say "x"', "$HOME", "`ls`", "é漢🙂", "-", "--x=1", "${{ inputs.one }}", "a${{outputs.out}}b", "{x}", "01", "null", "a\nb"]
odd = st.sampled_from(ODD)
names = st.text(st.sampled_from("abcXYZ_09"), min_size=1, max_size=8)
some = st.one_of(texts, odd)
maps = st.dictionaries(names, some, max_size=3)
git = st.sampled_from([{}, {"build_branch": "main", "build_source_dirty": "true", "build_source_id": ""}])
slow = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    load_sdk()


@st.composite
def jobs(draw: st.DrawFn) -> JobSpec:
    """Jobs of any form with any texts."""
    spec = JobSpec(
        experiment=draw(names),
        entry=Entry(draw(st.sampled_from(EntryKind)), draw(st.sampled_from(["train.py", "a b/it's.py", "-x.sh"]))),
        snapshot=Snapshot(Path("/code"), ("train.py",), 1),
        arguments=draw(st.lists(some, max_size=4)),
        processes=draw(st.sampled_from([None, 1, 8])),
        distribution=draw(st.sampled_from(["", "pytorch", "mpi"])),
        max_seconds=draw(st.one_of(st.none(), st.floats(0.1, 1e8))),
        env=draw(maps),
        tags={**draw(maps), **draw(git)},
        display_name=draw(some),
        description=draw(some),
        inputs=[DataSpec("one", "one", target=draw(st.sampled_from([None, "/data/one"])))],
        outputs=[DataSpec("out", "out")],
        cluster=draw(st.sampled_from(["cpu-cluster", "serverless"])),
        python=draw(st.sampled_from(["", "uv run"])),
        nodes=draw(st.sampled_from([1, 2])),
        instance_type=draw(st.sampled_from(["", "gpu-large"])),
        resource_properties=draw(st.sampled_from([{}, {"AISuperComputer": {"slaTier": "Premium", "priority": 1}}])),
        services=draw(st.sampled_from([{}, {"vscode": ""}, {"jupyterlab": "", "tensorboard": "outputs/tb", "ssh": "ssh-ed25519 AAAA ada@lab"}])),
        shm_size=draw(st.sampled_from(["", "100g"])),
        docker_args=draw(st.sampled_from([(), ("--ipc=host", "--env A='b c'")])),
        identity=draw(st.sampled_from([None, "user", "managed"])),
        job_tier=draw(st.sampled_from([None, "spot", "basic", "standard", "premium"])),
        sweep=draw(st.sampled_from([None, None, *(fields["sweep"] for fields in SWEEPS.values())])),
    )
    assume(not any(REWRITTEN.search(argument) for argument in spec.arguments))
    return spec


@st.composite
def data_inputs(draw: st.DrawFn) -> JobData:
    kind, mode = draw(st.sampled_from(["uri_folder", "uri_file", "mltable"])), draw(st.sampled_from(["ro_mount", "download"]))
    return JobData(draw(st.sampled_from([f"{ADDRESS.path}/data/one/versions/3", "azureml://datastores/d/paths/one/"])), mode, kind)


@slow
@given(spec=jobs(), data=data_inputs(), mode=st.sampled_from(["rw_mount", "upload"]), asset=st.sampled_from([None, "out"]))
def test_a_job_is_the_one_of_azure_ai_ml(spec: JobSpec, data: JobData, mode: str, asset: str | None) -> None:
    from tests.azure.composed_by_sdk import sdk_job_request

    outputs = {"out": JobData("azureml://datastores/d/paths/out/", mode, asset_name=asset)}
    references = (CODE, ENVIRONMENT, {"one": data}, outputs)
    assert job_request(ADDRESS, "exp_1_abc", spec, *references) == sdk_job_request(ADDRESS, "exp_1_abc", spec, *references)


@slow
@given(first=jobs(), second=jobs(), data=data_inputs(), store=st.sampled_from([None, "second"]), shown=some, is_linked=st.booleans())
def test_a_pipeline_is_the_one_of_azure_ai_ml(first: JobSpec, second: JobSpec, data: JobData, store: str | None, shown: str, is_linked: bool) -> None:
    from tests.azure.composed_by_sdk import sdk_component_request, sdk_pipeline_request

    one, two = (replace(job, sweep=None, outputs=[DataSpec("out", "", datastore=store)]) for job in (first, second))
    takes = {"one": StepOutput("Step-1", "out")} if is_linked else {}
    steps = [StepSpec("Step-1", shown, one), StepSpec("2", "", two, takes=takes, waits_for=["Step-1"])]
    spec = PipelineSpec("piped", steps, first.display_name, first.description, first.tags, cluster=first.cluster, default_datastore=store)
    nodes = pipeline_nodes(spec, {("Step-1", "one"): data, ("2", "one"): data})
    for node in nodes:
        for environment in (ENVIRONMENT, "azureml:AzureML-x@latest", "azureml://registries/azureml/environments/x/versions/3"):
            assert component_request(node, CODE, environment) == sdk_component_request(ADDRESS, node, CODE, environment)
    parts = [(node, f"{ADDRESS.path}/components/azureml_anonymous/versions/{number}") for number, node in enumerate(nodes)]
    assert pipeline_request(ADDRESS, "piped_1", spec, parts) == sdk_pipeline_request(ADDRESS, "piped_1", spec, parts)


json_values = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), some), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner))


@slow
@given(image=names, conda=st.dictionaries(names, json_values, max_size=3))
def test_an_environment_is_the_one_of_azure_ai_ml(image: str, conda: dict[str, Any]) -> None:
    from tests.azure.composed_by_sdk import sdk_environment_request

    assert image_request(image, conda) == sdk_environment_request(ADDRESS, image=image, conda_file=conda or None)
    context = {"path": "https://account/container/folder/", "dockerfile_path": "d/Dockerfile"}
    assert build_request("own", "7", *context.values()) == sdk_environment_request(ADDRESS, name="own", version="7", context=context)


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=list(CLOUDS))
def test_each_cloud_s_addresses_are_azure_ai_ml_s(cloud: Cloud) -> None:
    from azure.ai.ml import command
    from azure.ai.ml.entities import UserIdentityConfiguration

    from tests.azure.composed_by_sdk import composed

    address = replace(ADDRESS, cloud=cloud)
    job = command(name="j", command="c", environment=ENVIRONMENT, compute="cpu-cluster", identity=UserIdentityConfiguration())
    before = dict(os.environ)
    request = composed(address, lambda client: client.jobs.create_or_update(job))
    assert os.environ == before
    claims = request.headers["x-azureml-token"].split(".")[1]
    audience = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["aud"]
    assert request.url.startswith(f"{cloud.resource_manager}{address.path}/jobs/j?")
    assert cloud.jobs_scope == f"{audience}/.default"
