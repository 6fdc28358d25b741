"""Checks of jobs: submission, failure, cancelation, sweeps, pipelines and nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from himl_cli.core.runs import RunQuery, RunStatus
from himl_cli.services.live_checks.session import EXPERIMENT, LiveCheck, LiveSession, submit_failing
from himl_cli.workspaces.base import Exchange

LOG = "user_logs/std_log.txt"
RANK_LOG = "user_logs/std_log_process_0.txt"  # himl sends one process as MPI, as hi-ml does


def job(live: LiveSession) -> Iterator[None]:
    if live.submit("files", "files"):
        for upload in live.find("arm", "/startPendingUpload")[:1]:
            fields = parse_qs(urlsplit(_sas_uri(upload)).query)
            sas = {name: fields[name][0] for name in ("sr", "sp") if name in fields}
            is_delegated = "skoid" in fields
            came = f"{'user delegation' if is_delegated else 'no user delegation'} {sas}"
            is_as_known = is_delegated and sas == {"sr": "c", "sp": "rcwl"}
            live.holds("The container for code has a user delegation SAS: sr=c sp=rcwl.", is_as_known, came)
        refused = [f"{one.method} {one.path}: {one.status}" for one in live.seen if one.status >= 400]
        live.holds("Azure ML refuses no request of a submission.", not refused, ", ".join(refused))
        statuses = [one.status for one in live.seen if one.method == "PUT" and one.path.startswith("/jobs/")]
        live.holds("A new job is answered with 201.", statuses == [201], statuses)
    yield
    run = live.ended("files")
    live.holds("The job completes, although himl does not mark its code as complete.", _is_completed(run), run.end_text)
    names = live.files("files")
    logs = [name for name in names if name.startswith("user_logs/")]
    live.holds(f"The log of one MPI process is {RANK_LOG}.", RANK_LOG in logs, ", ".join(logs))
    wanted = {"outputs/a b/ü#%20.txt", "outputs/empty.txt"}
    came = ", ".join(name for name in names if name.startswith("outputs/"))
    live.holds("All files come back, also an empty one and one with an odd name.", wanted <= {*names}, came)
    curated = "A job accepts a curated environment as NAME@latest."
    if (live.environment or "").endswith("@latest"):
        live.holds(curated, _is_completed(run), run.end_text)
    else:
        live.needs(curated, "--environment NAME@latest")


def _sas_uri(upload: Exchange) -> str:
    return str(upload.body["blobReferenceForConsumption"]["credential"]["sasUri"])


def _is_completed(run: Any) -> bool:
    return bool(run.status is RunStatus.completed)


def same_code(live: LiveSession) -> Iterator[None]:
    live.submit("files", "files")
    begun = len(live.seen)
    if live.submit("again", "files"):
        sent = live.seen[begun:]
        lists = [one.body["value"] for one in sent if one.path.startswith("/codes/") and one.method == "GET"]
        hits = [code for found in lists for code in found]
        flags = sorted({str(code["properties"].get("isAnonymous")) for code in hits})
        came = f"{len(hits)} found, isAnonymous {', '.join(flags)}" if hits else "none found"
        live.holds("himl finds the code of an earlier job by its hash.", bool(hits), came)
        count = sum(one.path.endswith("/startPendingUpload") for one in sent)
        live.holds("himl does not upload the same code again.", count == 0, f"{count} uploads")
    yield
    run = live.ended("again")
    live.holds("A job with known code completes.", _is_completed(run), run.end_text)


def failed_job(live: LiveSession) -> Iterator[None]:
    submit_failing(live)
    live.submit("kill", "kill", no_mpi_single_node=True)
    yield
    run = live.ended("fail")
    logs = [name for name in live.files("fail") if name.startswith("user_logs/")]
    live.holds(f"The log of a single process is {LOG}.", logs == [LOG], ", ".join(logs))
    live.holds("The error of a failed job names its exit code.", run.exit_code == 3, f"{run.exit_code}: {run.reason}")
    live.holds("The log of a failed job is stored.", any("himl-live: fail" in live.read("fail", name) for name in logs))
    run = live.ended("kill")
    came = f"{run.exit_code}: {run.reason}"
    live.holds("The error of a killed job names the signal as 137 or -9.", run.exit_code in (137, -9), came)
    live.needs("A job that exhausts the memory of its node fails alike.", "a job with more data than memory")


def cancel(live: LiveSession) -> Iterator[None]:
    live.submit("files", "files")
    live.submit("sleep", "sleep")
    if live.submit("early", "sleep"):
        status = live.run("early").status.value
        live.workspace.cancel(live.report.jobs["early"])
        _look_at_cancelation(live, "A new job is canceled with 202 and a Location.", status)
    if live.record("workstation"):
        run_id = live.report.jobs["workstation"]
        live.workspace.cancel(run_id)
        status = live.workspace.run(run_id).status
        live.holds("A run without a job ends as Canceled.", status is RunStatus.canceled, status.value)
    yield
    if live.started("sleep").status is RunStatus.running:
        begun = time.monotonic()
        live.workspace.cancel(live.report.jobs["sleep"])
        _look_at_cancelation(live, "A running job is canceled with 202 and a Location.", "Running")
        ended = live.ended("sleep")
        took = f"{ended.status.value} after {time.monotonic() - begun:.0f} s"
        live.holds("A canceled job ends as Canceled.", ended.status is RunStatus.canceled, took)
    ended = live.ended("files")
    answer = live.request("POST", "arm", f"/jobs/{ended.id}/cancel")
    came: object = answer.refusal or answer.status
    live.holds("The cancelation of an ended job is answered with 200 or 400.", answer.status in (200, 400), came)
    status = live.run("files").status
    live.holds("An ended job keeps its status.", status is ended.status, status.value)
    live.needs("Azure ML refuses to cancel a job that is Finalizing.", "a cancelation within the last seconds of a job")


def _look_at_cancelation(live: LiveSession, assumption: str, status: str) -> None:
    answer = live.find("arm", "/cancel")[-1]
    names = [name for name in ("location", "retry-after") if name in answer.headers]
    came = f"{answer.status} {' '.join(names)} while {status}"
    live.holds(assumption, answer.status == 202 and "location" in answer.headers, came)


def job_name(live: LiveSession) -> Iterator[None]:
    live.submit("files", "files")
    yield
    run_id = live.report.jobs["files"]
    answer = live.request("PUT", "arm", f"/jobs/{run_id}", json={"properties": _small_job(live, run_id)})
    is_immutable = answer.status == 400 and "JobPropertyImmutable" in json.dumps(answer.body)
    came = answer.refusal or answer.status
    live.holds("A second job of a name is refused with 400, JobPropertyImmutable.", is_immutable, came)


def _small_job(live: LiveSession, run_id: str) -> dict[str, Any]:
    known = live.request("GET", "arm", f"/jobs/{run_id}").body["properties"]
    kept = {name: known[name] for name in ("jobType", "environmentId", "computeId", "experimentName")}
    return {**kept, "command": "exit 0", "tags": live.tags("members")}


def job_members(live: LiveSession) -> Iterator[None]:
    live.submit("files", "files")
    yield
    small = _small_job(live, live.report.jobs["files"])
    output = {"jobOutputType": "uri_folder", "assetName": EXPERIMENT, "assetVersion": "1"}
    for member, more in (("himlUnknown", {"himlUnknown": 1}), ("assetVersion", {"outputs": {"o": output}})):
        name = f"{EXPERIMENT}-{live.report.session}-{len(member)}"  # a name that does not contain the member
        answer = live.request("PUT", "arm", f"/jobs/{name}", json={"properties": {**small, **more}})
        if answer.status < 400:
            live.report.jobs[member] = name
        is_named = answer.status == 400 and member in answer.refusal
        assumption = f"2024-10-01 has no member {member} in a job, and the refusal names it."
        live.holds(assumption, is_named, answer.refusal or answer.status)


def sweep(live: LiveSession) -> Iterator[None]:
    live.submit("sweep", "trial", sweep=["x=1,2,3"])
    yield
    run = live.ended("sweep")
    live.holds("A sweep completes if one of three trials fails.", _is_completed(run), run.end_text)
    trials = [*live.workspace.runs(RunQuery(parent=run.id))]
    is_numbered = {trial.id for trial in trials} == {f"{run.id}_{number}" for number in range(3)}
    came = ", ".join(trial.id.removeprefix(run.id) for trial in trials)
    live.holds("The trials have the id of the sweep and a number from 0.", is_numbered, came)
    count = sum("hyperparameters" in (_record(live, trial.id).get("tags") or {}) for trial in trials)
    live.holds("Each trial has its values in the tag 'hyperparameters'.", count == 3, f"{count} trials")
    live.workspace.results(trials, wanted=lambda name: True, whole=False)
    searches = live.find("mlflow", "/runs/search")
    statuses = [one.status for one in searches]
    live.holds("MLflow's search accepts attributes.run_id IN (…).", {*statuses} == {200}, statuses)
    body = {"requests": {trial.id: {"runId": trial.id, "selectRunMetadata": True} for trial in trials}}
    answer = live.request("POST", "history", "/batchrundata", json=body)
    found = answer.body.get("successfulResults") or {} if answer.status == 200 else {}
    live.holds("batchrundata returns many runs by their ids.", len(found) == 3, answer.refusal or f"{len(found)} runs")


def pipeline(live: LiveSession) -> Iterator[None]:
    from himl_cli.services.submission.pipelines import prepare_pipeline

    step = {"type": "PythonScriptStep", "script": "probe.py", "source_directory": ".", "arguments": ["step"]}
    steps = {"step1": {**step, "output": "number"}, "step2": {**step, "input_dataset_name": "number"}}
    (live.folder / "pipeline.json").write_text(json.dumps(steps), encoding="utf-8")
    for key in ("pipeline", "reused"):
        spec = prepare_pipeline(live.options(key, target="pipeline.json", shm_size="100g")).spec
        live.submit_pipeline(key, spec)
    yield
    run = live.ended("pipeline")
    live.holds("A pipeline of two steps completes.", _is_completed(run), run.end_text)
    steps_of = [*live.workspace.runs(RunQuery(parent=run.id))]
    live.holds("The steps of a pipeline are its child runs.", len(steps_of) == 2, f"{len(steps_of)} child runs")
    logs = [len(_logs(live, one.id)) for one in steps_of]
    live.holds("Each step has a log of its own.", all(logs), f"{logs} logs")
    answer = live.request("POST", "arm", f"/jobs/{steps_of[0].id}/cancel")
    live.holds("A single step is not canceled, 400.", answer.status == 400, answer.refusal or answer.status)
    live.ended("reused")
    raw = [_record(live, one.id) for one in live.workspace.runs(RunQuery(parent=live.report.jobs["reused"]))]
    reused = [one for one in raw if str(one["properties"].get("azureml.isreused")).lower() == "true"]
    elsewhere = "A reused step has the files of the run that it reuses."
    if reused:
        are_others = all(one["dataContainerId"] != f"dcid.{one['runId']}" for one in reused)
        live.holds(elsewhere, are_others, f"{len(reused)} steps")
    else:
        live.needs(elsewhere, "a step that Azure ML reuses")


def _record(live: LiveSession, run_id: str) -> Any:
    return live.request("GET", "history", f"/runs/{run_id}").body


def _logs(live: LiveSession, run_id: str) -> Sequence[str]:
    names = (blob.name for page in live.workspace.run_files(run_id).list() for blob in page)
    return [name for name in names if name.startswith(("user_logs/", "azureml-logs/"))]


NODES = {"pytorch": ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"), "mpi": ("OMPI_COMM_WORLD_RANK",)}


def nodes(live: LiveSession) -> Iterator[None]:
    compute = live.request("GET", "arm", f"/computes/{live.cluster}").body["properties"]
    properties = compute.get("properties") or {}
    most = int((properties.get("scaleSettings") or {}).get("maxNodeCount") or 1)
    for kind in NODES if most > 1 else ():
        live.submit(kind, "variables", num_nodes=2, distribution=kind)
    yield
    for kind, wanted in NODES.items():
        names = f"The logs of two nodes are std_log_process_0 and _1 ({kind})."
        variables = f"{kind} sets {', '.join(wanted)}."
        if most < 2:
            live.needs(names, "a cluster with two nodes")
            live.needs(variables, "a cluster with two nodes")
            continue
        live.ended(kind)
        logs = sorted(name for name in live.files(kind) if "std_log_process" in name)
        are_known = logs == [f"user_logs/std_log_process_{number}.txt" for number in range(2)]
        live.holds(names, are_known, ", ".join(logs))
        lines = [line.split() for name in logs for line in live.read(kind, name).splitlines() if "variables:" in line]
        common = {*lines[0]}.intersection(*lines) if lines else set()
        shown = [name for name in sorted(common) if name.startswith(("AZ_BATCH", "OMPI_COMM", "MASTER_", "NODE_"))]
        is_set = {*wanted} <= common
        live.holds(variables, is_set, " ".join([*sorted(common & {*wanted}), *shown]))
    live.needs("The logs of a preempted node are in user_logs/retry_NNN.", "a node that Azure preempts")


CHECKS = (
    LiveCheck("job", "What does a submission send, and what comes back?", job, ("files",)),
    LiveCheck("same-code", "Does Azure ML know the same code again?", same_code, ("files", "again")),
    LiveCheck("failed-job", "Which words has the error of a failed job?", failed_job, ("fail", "kill")),
    LiveCheck("cancel", "How is a job canceled in each status?", cancel, ("files", "sleep", "early")),
    LiveCheck("job-name", "What happens to a second job of a name?", job_name, ("files",)),
    LiveCheck("job-members", "Which members of a job are refused, and how?", job_members, ("files",)),
    LiveCheck("sweep", "Which records has a sweep of three trials, one of which fails?", sweep, ("sweep",)),
    LiveCheck("pipeline", "Which records has a pipeline that is submitted twice?", pipeline, ("pipeline", "reused")),
    LiveCheck("nodes", "Which variables and logs has each of two nodes?", nodes, ("pytorch", "mpi")),
)
