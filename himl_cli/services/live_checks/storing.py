"""Checks of what himl stores: outputs, logged values at the limits, environments, data, and deletion. Each check stands
alone, and `plan` lists them."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from uuid import uuid4

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import HimlError, NotAllowed
from himl_cli.core.events import ignore
from himl_cli.core.runs import RunEnd, RunQuery, RunStatus
from himl_cli.services.live_checks.session import LIVE_EXPERIMENT, LiveCheck, LiveSession
from himl_cli.services.runs.writing import scalar, table
from himl_cli.workspaces.base import StoreOutcome

WHEEL = "himl_live_probe-1.0-py3-none-any.whl"
CONDA = "name: himl-live\ndependencies:\n- python=3.11\n- pip\n"
BUILD_LOG = "azureml-logs/20_image_build_log.txt"


def submit_output(live: LiveSession) -> str:
    """Submit the job with an output, and return the name of its dataset, which is also its folder."""
    dataset = f"{LIVE_EXPERIMENT}-{live.report.session}"
    live.submit("output", "output", outputs=[f"O={dataset}"])
    return dataset


def output(live: LiveSession) -> Iterator[None]:
    submit_output(live)
    yield
    run = live.ended("output")
    live.completes("A job with a registered output completes.", run)
    answer = live.request("POST", "history", "/rundata", {"runId": run.id, "selectRunMetadata": True})
    parts = answer.body["runMetadata"]["outputs"]["O"]["assetId"].removeprefix("azureml://").split("/")[::2]
    is_as_known = parts == ["locations", "workspaces", "data", "versions"]
    live.holds("Its asset is azureml://locations/L/workspaces/W/data/NAME/versions/V.", is_as_known, "/".join(parts))
    names = [blob.name for page in live.workspace.output_files(run.id, "O").list() for blob in page]
    live.holds("himl lists the files of the output by its key.", names == ["number.txt"], ", ".join(names))
    live.answers("batchGetResolvedUris has its address.", live.find("data", "/batchGetResolvedUris")[0], 200)


def limits(live: LiveSession) -> Iterator[None]:
    if live.start_run("limits"):
        run_id = live.report.jobs["limits"]
        for numbers in (range(100), range(100, 200), range(200, 210)):
            params = [{"key": f"p{number}", "value": "1"} for number in numbers]
            answer = live.request("POST", "mlflow", "/runs/log-batch", {"run_id": run_id, "params": params})
        is_named = answer.status == 400 and "FieldName=Parameters, Limit=200" in answer.refusal
        came = answer.refusal or answer.status
        live.holds("A run has at most 200 parameters, and the refusal names the limit.", is_named, came)
        tags = {"runId": run_id, "tags": {f"t_{number}": str(number) for number in range(60)}}
        answer = live.request("PATCH", "history", f"/runs/{run_id}", tags)
        live.answers("60 tags are accepted or refused.", answer, 200, 400)
        row = {
            "metricId": str(uuid4()),
            "createdUtc": datetime.now(timezone.utc).isoformat(),
            "data": {"long": "x" * 300},
        }
        scalars = {"uxMetricType": "azureml.v1.scalar"}
        metric = {"name": "long", "columns": {"long": "string"}, "properties": scalars, "value": [row]}
        body = {"values": [metric], "reportErrors": True}
        answer = live.request("POST", "metric", f"/runs/{run_id}/batch", body)
        count = len(answer.body.get("errors") or ()) if answer.status == 200 else 1
        came = answer.refusal or f"{answer.status}, {count} errors"
        live.holds("A text of 300 characters is refused.", count == 1, came)
        wide = {f"c{number}": [float(number)] for number in range(16)}
        live.workspace.log(run_id, [scalar("text", "x" * 255), table("wide", wide)])
        live.workspace.settle(run_id)
        live.workspace.end_run(run_id, RunEnd(RunStatus.completed))
    yield
    run_id = live.report.jobs["limits"]
    values, count = live.workspace.values(run_id), sum(name.startswith("t_") for name in live.run("limits").tags)
    live.holds("Accepted tags come back.", count in (0, 60), f"{count} of 60 tags")
    lengths = [len(point.value) for one in values.texts for point in one.points]
    live.holds("A text of 255 characters comes back.", lengths == [255], lengths)
    count = sum(one.name.startswith("wide/") for one in values.metrics)
    live.holds("A table of 16 columns comes back.", count == 16, f"{count} columns")
    count = len(live.workspace.parameters(run_id))
    live.holds("The parameters up to the limit come back.", count == 200, f"{count} parameters")


def environment(live: LiveSession) -> Iterator[None]:
    refuses, context = "Azure ML refuses an image's folder of 1.2 MB and 110 files.", live.folder / "context"
    context.mkdir()
    for number in range(110):
        (context / f"{number}.bin").write_bytes(os.urandom(11_000))
    (context / "Dockerfile").write_text("FROM mcr.microsoft.com/azureml/openmpi5.0-ubuntu24.04\n", encoding="utf-8")
    try:
        live.submit("context", "files", build_context=str(context))
    except NotAllowed:
        raise
    except HimlError as err:
        statuses = [one.status for one in live.seen if one.path.startswith("/environments/")]
        live.holds(refuses, statuses[-1:] == [400], err)
    (live.folder / "environment.yml").write_text(CONDA, encoding="utf-8")
    wheel = write_wheel(live.folder)
    live.submit("wheel", "files", conda_env=[str(live.folder / "environment.yml")], private_wheel=str(wheel))
    yield
    if "context" in live.report.jobs:
        run = live.ended("context")
        live.holds(refuses, run.status is RunStatus.failed, f"registered, and the job {run.end_text}")
    live.completes("A job whose environment has a private wheel completes.", live.ended("wheel"))
    if builds := [name for name in live.files("wheel", "azureml-logs/") if "image" in name]:
        live.holds(f"The log of an image's build is {BUILD_LOG}.", builds == [BUILD_LOG], ", ".join(builds))
    else:
        live.needs(f"The log of an image's build is {BUILD_LOG}.", "an image that Azure ML builds for this job")


def write_wheel(folder: Path) -> Path:
    """Write a wheel without dependencies to *folder*, and return its path."""
    name = "himl_live_probe-1.0.dist-info"
    files = {
        "himl_live_probe.py": "",
        f"{name}/METADATA": "Metadata-Version: 2.1\nName: himl-live-probe\nVersion: 1.0\n",
        f"{name}/WHEEL": "Wheel-Version: 1.0\nGenerator: himl\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{name}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{name}/RECORD"])
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return folder / WHEEL


def delete(live: LiveSession) -> Iterator[None]:
    dataset = submit_output(live)
    live.submit("again", "files")
    yield
    live.ended("output")
    workspace, run = live.workspace, live.ended("again")
    for is_restored, assumption in enumerate(("An archived run is not in lists.", "A restored run is in lists.")):
        workspace.archive(run.id, restore=bool(is_restored))
        ids = [one.id for one in workspace.runs(RunQuery(experiment=LIVE_EXPERIMENT))]
        live.holds(assumption, (run.id in ids) is bool(is_restored), f"{len(ids)} runs in the list")
    _store(live, f"{dataset}/uploaded/data.bin")
    container = live.request("GET", "history", f"/runs/{run.id}").body["dataContainerId"]
    is_deleted = workspace.erase(workspace.footprint(run, outputs=False), notify=ignore)
    del live.report.jobs["again"]
    live.holds("Azure ML deletes a job.", is_deleted, [one.status for one in live.seen if one.method == "DELETE"])
    artifacts = workspace.datastore("workspaceartifactstore")
    left = [blob for page in artifacts.list(f"ExperimentRun/{container}/") for blob in page]
    live.holds("No file of a deleted run is left.", not left, f"{len(left)} files")
    live.answers("The record of a deleted run is gone.", live.request("GET", "history", f"/runs/{run.id}"), 404)
    live.needs("An expired token is answered with 401 and a challenge.", "a token that has expired")
    live.needs("The role Reader may read all of this, and is refused with 403 otherwise.", "a sign-in with that role")


def _store(live: LiveSession, name: str) -> None:
    content, store, outcome = os.urandom(1000), live.workspace.datastore(), StoreOutcome()
    md5, path = hashlib.md5(content, usedforsecurity=False).digest(), live.folder / "data.bin"
    path.write_bytes(content)
    store.store([StoreRequest(path, name, len(content), md5)], outcome, workers=1)
    sums = [blob.md5 for page in store.list(name) for blob in page] if not outcome.errors else []
    is_same = sums == [md5] and b"".join(store.read(name)) == content
    live.holds("A file is stored in a datastore, listed with its MD5, and read.", is_same, *outcome.errors)


CHECKS = (
    LiveCheck("output", "Where is a registered output, and how is it named?", output, ("output",)),
    LiveCheck("limits", "Which limits do parameters, tags and logged values have?", limits),
    LiveCheck("environment", "Which folders and wheels does an environment accept?", environment, ("wheel",)),
    LiveCheck("delete", "What is left of an archived and a deleted run?", delete, ("output", "again")),
)
