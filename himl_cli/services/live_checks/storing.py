"""Checks of what himl stores: outputs, logged values at the limits, environments, data, and deletion."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import HimlError, NotAllowed, RunNotFound
from himl_cli.core.runs import RunQuery, RunStatus
from himl_cli.services.live_checks.session import EXPERIMENT, LiveCheck, LiveSession, end_record
from himl_cli.services.runs.writing import scalar, table
from himl_cli.workspaces.base import StoreOutcome

WHEEL = "himl_live_probe-1.0-py3-none-any.whl"
CONDA = "name: himl-live\ndependencies:\n- python=3.11\n- pip\n"


def output(live: LiveSession) -> Iterator[None]:
    live.submit("output", "output", outputs=[f"O={_dataset(live)}"])
    yield
    run = live.ended("output")
    live.holds("A job with a registered output completes.", run.status is RunStatus.completed, run.end_text)
    answer = live.request("POST", "history", "/rundata", json={"runId": run.id, "selectRunMetadata": True})
    asset = str(((answer.body["runMetadata"].get("outputs") or {}).get("O") or {}).get("assetId") or "")
    parts = asset.removeprefix("azureml://").split("/")
    live.holds(
        "rundata names it azureml://locations/…/workspaces/…/data/NAME/versions/V.",
        parts[0::2] == ["locations", "workspaces", "data", "versions"],
        "/".join(parts[0::2]),
    )

    def listed() -> tuple[bool, object]:
        names = [blob.name for page in live.workspace.output_files(run.id, "O").list() for blob in page]
        return names == ["number.txt"], ", ".join(names)

    live.tried("himl lists the files of the output by its key.", listed)
    statuses = [one.status for one in live.find("data", "/batchGetResolvedUris")]
    live.holds("batchGetResolvedUris has its address.", {*statuses} == {200}, statuses)


def _dataset(live: LiveSession) -> str:
    return f"{EXPERIMENT}-{live.report.session}"


def limits(live: LiveSession) -> Iterator[None]:
    if live.record("limits"):
        run_id = live.report.jobs["limits"]
        for first, count in ((0, 100), (100, 100), (200, 10)):
            some = [{"key": f"p{number}", "value": "1"} for number in range(first, first + count)]
            body = {"run_id": run_id, "params": some}
            answer = live.request("POST", "mlflow", "/runs/log-batch", json=body)
        is_named = answer.status == 400 and "Parameters" in answer.refusal and "200" in answer.refusal
        came = answer.refusal or answer.status
        live.holds("A run has at most 200 parameters, and the refusal names the limit.", is_named, came)
        live.tried("A run takes 60 tags and a text of 300 characters.", lambda: _logged(live, run_id))
        end_record(live, "limits")
    yield
    run_id = live.report.jobs["limits"]
    tags = sum(name.startswith("t_") for name in live.workspace.run(run_id).tags)
    live.holds("All 60 tags come back.", tags == 60, f"{tags} tags")
    values = live.workspace.values(run_id)
    texts = [len(point.value) for one in values.texts for point in one.points]
    live.holds("A text of 300 characters comes back.", texts == [300], f"{texts} characters")
    columns = sum(one.name.startswith("wide/") for one in values.metrics)
    live.holds("A table of 16 columns comes back.", columns == 16, f"{columns} columns")
    count = len(live.workspace.parameters(run_id))
    live.holds("The parameters before the limit come back.", 100 <= count <= 200, f"{count} parameters")


def _logged(live: LiveSession, run_id: str) -> tuple[bool, object]:
    live.workspace.tag(run_id, {f"t_{number}": str(number) for number in range(60)})
    wide = {f"c{number}": [float(number)] for number in range(16)}
    live.workspace.log(run_id, [scalar("long", "x" * 300), table("wide", wide)])
    live.workspace.settle(run_id)
    return True, "accepted"


def environment(live: LiveSession) -> Iterator[None]:
    refused = "Azure ML refuses an image's folder of 2 MB and 150 files."
    context = live.folder / "context"
    if "context" not in live.report.jobs:
        context.mkdir(exist_ok=True)
        for number in range(150):
            (context / f"{number}.bin").write_bytes(os.urandom(14_000))
        (context / "Dockerfile").write_text("FROM mcr.microsoft.com/azureml/openmpi5.0-ubuntu24.04\n", encoding="utf-8")
        try:
            live.submit("context", "files", build_context=str(context))
        except NotAllowed:
            raise
        except HimlError as err:
            answers = [one.status for one in live.seen if one.path.startswith("/environments/")]
            live.holds(refused, answers[-1:] == [400], err)
    wheel = write_wheel(live.folder)
    (live.folder / "environment.yml").write_text(CONDA, encoding="utf-8")
    live.submit("wheel", "files", conda_env=["environment.yml"], private_wheel=str(wheel))
    yield
    if "context" in live.report.jobs:
        run = live.ended("context")
        live.holds(refused, False, f"accepted, and the job {run.end_text}")
    run = live.ended("wheel")
    live.holds(
        "A job whose environment has a private wheel completes.", run.status is RunStatus.completed, run.end_text
    )
    builds = [name for name in live.files("wheel") if "image_build" in name]
    log = "The log of an image's build is azureml-logs/20_image_build_log.txt."
    if builds:
        live.holds(log, builds == ["azureml-logs/20_image_build_log.txt"], ", ".join(builds))
    else:
        live.needs(log, "an image that Azure ML builds for this job")


def write_wheel(folder: Path) -> Path:
    """Write a wheel without dependencies to *folder*, and return its path."""
    name = "himl_live_probe-1.0.dist-info"
    files = {
        "himl_live_probe.py": "",
        f"{name}/METADATA": "Metadata-Version: 2.1\nName: himl-live-probe\nVersion: 1.0\n",
        f"{name}/WHEEL": "Wheel-Version: 1.0\nGenerator: himl\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{name}/RECORD"])
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for path, text in {**files, f"{name}/RECORD": record}.items():
            archive.writestr(path, text)
    return folder / WHEEL


def delete(live: LiveSession) -> Iterator[None]:
    live.submit("output", "output", outputs=[f"O={_dataset(live)}"])
    live.submit("again", "files")
    yield
    live.ended("output")
    workspace, run = live.workspace, live.ended("again")
    for is_restored in (False, True):
        workspace.archive(run.id, restore=is_restored)
        ids = [one.id for one in workspace.runs(RunQuery(experiment=EXPERIMENT))]
        assumption = f"{'A restored run is in' if is_restored else 'An archived run is not in'} lists."
        live.holds(assumption, (run.id in ids) is is_restored, f"{len(ids)} runs listed")
    live.tried("Files are stored in a datastore, listed and read.", lambda: _stored(live))
    container = live.request("GET", "history", f"/runs/{run.id}").body["dataContainerId"]
    is_deleted = workspace.erase(workspace.footprint(run, outputs=False), notify=live.notify)
    del live.report.jobs["again"]
    answers = [one.status for one in live.seen if one.method == "DELETE"]
    live.holds("Azure ML deletes a job.", is_deleted, answers)
    artifacts = workspace.datastore("workspaceartifactstore")
    left = [blob for page in artifacts.list(f"ExperimentRun/{container}/") for blob in page]
    live.holds("No file of a deleted run is left.", not left, f"{len(left)} files")
    try:
        workspace.run(run.id)
        live.holds("The record of a deleted run is gone.", False, "the run history still has it")
    except RunNotFound:
        live.holds("The record of a deleted run is gone.", True)
    live.needs("An expired token is answered with 401 and a challenge.", "a token that has expired")
    live.needs("The role Reader may read all of this, and is refused with 403 otherwise.", "a sign-in with that role")


def _stored(live: LiveSession) -> tuple[bool, object]:
    content, store, outcome = os.urandom(1000), live.workspace.datastore(), StoreOutcome()
    path, name = live.folder / "data.bin", f"{_dataset(live)}/uploaded/data.bin"
    path.write_bytes(content)
    md5 = hashlib.md5(content, usedforsecurity=False).digest()
    store.store([StoreRequest(path, name, len(content), md5)], outcome, workers=1)
    if outcome.errors:
        raise outcome.errors[0]
    listed = [blob for page in store.list(name) for blob in page]
    is_same = b"".join(store.read(name)) == content
    return is_same and [blob.md5 for blob in listed] == [md5], f"{len(listed)} files"


CHECKS = (
    LiveCheck("output", "Where is a registered output, and how is it named?", output, ("output",)),
    LiveCheck("limits", "Which limits do parameters, tags and logged values have?", limits),
    LiveCheck("environment", "Which folders and wheels does an environment accept?", environment, ("wheel",)),
    LiveCheck("delete", "What is left of an archived and a deleted run?", delete, ("output", "again")),
)
