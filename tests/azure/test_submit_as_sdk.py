"""What himl sends is what azure-ai-ml sends: for generated jobs, whether or not the form of the request was remembered."""

from __future__ import annotations

import base64
import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from himl_cli.core.jobs import DataSpec, Entry, EntryKind, JobSpec, Snapshot
from himl_cli.workspaces.azure.jobs.forms import JobInput, JobOutput
from himl_cli.workspaces.azure.jobs.job_form import JobForm, shape_of, texts_of
from himl_cli.workspaces.azure.jobs.sdk import load_sdk
from himl_cli.workspaces.azure.jobs.templates import Templates
from himl_cli.workspaces.azure.places.address import WorkspaceAddress
from himl_cli.workspaces.azure.places.clouds import CLOUDS, PUBLIC, Cloud
from himl_cli.workspaces.azure.requests.kept import Kept

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


@st.composite
def jobs(draw: st.DrawFn) -> JobForm:
    """Jobs of any shape with any texts."""
    spec = JobSpec(
        experiment=draw(names),
        entry=Entry(draw(st.sampled_from(EntryKind)), draw(st.sampled_from(["train.py", "a b/it's.py", "-x.sh"]))),
        snapshot=Snapshot(Path("/code"), ("train.py",), 1),
        arguments=draw(st.lists(some, max_size=4)),
        processes=draw(st.sampled_from([None, 1, 8])),
        distribution=draw(st.sampled_from(["", "pytorch", "mpi"])),
        max_seconds=draw(st.sampled_from([None, 0.4, 30.0, 5400.0, 129600.0])),
        env=draw(maps),
        tags=draw(maps),
        display_name=draw(some),
        description=draw(some),
        inputs=[DataSpec("one", "one")],
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
    )
    kind, way = draw(st.sampled_from(["uri_folder", "uri_file", "mltable"])), draw(st.sampled_from(["ro_mount", "download"]))
    where = draw(st.sampled_from([f"{ADDRESS.path}/data/one/versions/3", "azureml://datastores/d/paths/one/"]))
    inputs = {"one": JobInput(kind, where, way, draw(st.sampled_from([None, "/data/one"])))}
    output = JobOutput("azureml://datastores/d/paths/out/", draw(st.sampled_from(["rw_mount", "upload"])), draw(st.sampled_from([None, "out"])))
    outputs = {"out": output}
    assume(not any(REWRITTEN.search(argument) for argument in spec.arguments))
    return JobForm(shape_of(spec, inputs, outputs), texts_of(spec, "exp_1_abc", CODE, ENVIRONMENT, inputs, outputs))


@pytest.fixture(scope="module")
def kept() -> Iterator[Kept]:
    load_sdk()
    with tempfile.TemporaryDirectory() as folder:
        yield Kept(Path(folder) / "kept")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(form=jobs())
def test_the_filled_in_form_is_what_azure_ai_ml_builds(kept: Kept, form: JobForm) -> None:
    from himl_cli.workspaces.azure.jobs.builder import build_job

    templates = Templates(kept, ADDRESS)
    by_sdk = build_job(ADDRESS, form)
    first, second = templates.request(form), templates.request(form)
    assert templates.is_kept(form.shape)
    assert first == second == (by_sdk.api_version, by_sdk.body)


def test_texts_that_look_like_marks_are_texts(kept: Kept) -> None:
    """Marks are replaced once: what comes in their place is not looked through again."""
    spec = JobSpec(
        "himl-mark-command",
        Entry(EntryKind.script, "himl-mark-code"),
        Snapshot(Path("/code"), ("a",), 1),
        env={"himl-mark-tags": "himl-mark-tags"},
        tags={"himl-mark-variables": "himl-mark-variables"},
        display_name="himl-mark-description",
        cluster="cpu-cluster",
    )
    _, body = Templates(kept, ADDRESS).request(JobForm(shape_of(spec, {}, {}), texts_of(spec, "r", CODE, ENVIRONMENT, {}, {})))
    job: dict[str, Any] = body["properties"]
    assert (job["experimentName"], job["command"], job["displayName"]) == ("himl-mark-command", "python himl-mark-code", "himl-mark-description")
    assert job["environmentVariables"] == {"himl-mark-tags": "himl-mark-tags"}
    assert job["tags"] == {"himl-mark-variables": "himl-mark-variables", "run_recovery_id": "himl-mark-command:r"}


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=list(CLOUDS))
def test_each_cloud_s_addresses_are_azure_ai_ml_s(kept: Kept, cloud: Cloud) -> None:
    from azure.ai.ml import command
    from azure.ai.ml.entities import UserIdentityConfiguration

    from himl_cli.workspaces.azure.jobs.client import composed

    address = replace(ADDRESS, cloud=cloud)
    job = command(name="j", command="c", environment=ENVIRONMENT, compute="cpu-cluster", identity=UserIdentityConfiguration())
    before = dict(os.environ)
    request = composed(address, lambda client: client.jobs.create_or_update(job)).request
    assert os.environ == before
    claims = request.headers["x-azureml-token"].split(".")[1]
    audience = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["aud"]
    assert request.url.startswith(f"{cloud.resource_manager}{address.path}/jobs/j?")
    assert cloud.jobs_scope == f"{audience}/.default"


def test_two_workspaces_do_not_share_a_form(kept: Kept) -> None:
    spec = JobSpec("e", Entry(EntryKind.script, "a.py"), Snapshot(Path("/code"), ("a.py",), 1), cluster="only-here", distribution="")
    shape = shape_of(spec, {}, {})
    Templates(kept, ADDRESS).request(JobForm(shape, texts_of(spec, "r", CODE, ENVIRONMENT, {}, {})))
    other = WorkspaceAddress(ADDRESS.subscription_id, "group", "other", PUBLIC, "a test")
    assert Templates(kept, ADDRESS).is_kept(shape)
    assert not Templates(kept, other).is_kept(shape)
