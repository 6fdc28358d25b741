"""Checks of jobs: submission, failure, cancelation, sweeps, pipelines and nodes. Each check stands alone, and
`plan` lists them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

from himl_cli.core.events import ignore
from himl_cli.core.runs import RunQuery, RunStatus
from himl_cli.services.live_checks.session import CODE, LIVE_EXPERIMENT, LiveCheck, LiveSession

LOG = "user_logs/std_log.txt"
RANK_LOG = "user_logs/std_log_process_0.txt"  # himl sends one process as MPI, as hi-ml does
NODES = {"pytorch": ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"), "mpi": ("OMPI_COMM_WORLD_RANK",)}
NODE_VARIABLES = ("AZ_BATCH", "OMPI_COMM", "MASTER_", "NODE_", "RANK", "WORLD_SIZE")


def job(live: LiveSession) -> Iterator[None]:
    if live.submit("files", "files"):
        reference = live.find("arm", "/startPendingUpload")[0].body["blobReferenceForConsumption"]
        fields = parse_qs(urlsplit(reference["credential"]["sasUri"]).query)
        sas = {name: "".join(fields.get(name, [])) for name in ("sr", "sp")}
        came = f"{'user delegation' if 'skoid' in fields else 'no user delegation'}, {sas}"
        is_as_known = "skoid" in fields and sas == {"sr": "c", "sp": "rcwl"}
        live.holds("The container for code has a user delegation SAS: sr=c sp=rcwl.", is_as_known, came)
        refused = [f"{one.method} {one.path}: {one.status}" for one in live.seen if one.status >= 400]
        live.holds("Azure ML refuses no request of a submission.", not refused, ", ".join(refused))
        statuses = [one.status for one in live.seen if one.method == "PUT" and one.path.startswith("/jobs/")]
        live.holds("A new job is answered with 201.", statuses == [201], statuses)
    else:
        live.needs("A new job is answered with 201.", "a new session: move himl-live.json")
    yield
    run, logs, outputs = live.ended("files"), live.files("files", "user_logs/"), live.files("files", "outputs/")
    live.completes("The job completes, although himl does not mark its code as complete.", run)
    live.holds(f"The log of one MPI process is {RANK_LOG}.", RANK_LOG in logs, ", ".join(logs))
    wanted = {"outputs/a b/ü#%20.txt", "outputs/empty.txt"}
    live.holds("All files come back, also an empty one and one with an odd name.", wanted <= {*outputs}, outputs)
    if (live.environment or "").endswith("@latest"):
        live.completes("A job accepts a curated environment as NAME@latest.", run)
    else:
        live.needs("A job accepts a curated environment as NAME@latest.", "--environment NAME@latest")


def same_code(live: LiveSession) -> Iterator[None]:
    live.submit("files", "files")
    begun = len(live.seen)
    if live.submit("again", "files"):
        sent = [one for one in live.seen[begun:] if one.path.startswith("/codes/")]
        hits = [code for one in sent if one.method == "GET" for code in one.body["value"]]
        flags = {str(code["properties"].get("isAnonymous")) for code in hits}
        came = f"{len(hits)} found, isAnonymous {', '.join(sorted(flags)) or 'unknown'}"
        live.holds("himl finds the code of an earlier job by its hash.", bool(hits), came)
        count = sum(one.method != "GET" for one in sent)
        live.holds("himl does not upload the same code again.", count == 0, f"{count} uploads")
    else:
        live.needs("himl does not upload the same code again.", "a new session: move himl-live.json")
    yield
    live.completes("A job with known code completes.", live.ended("again"))


def submit_failing(live: LiveSession) -> None:
    live.submit("fail", "fail", no_mpi_single_node=True)


def failed_job(live: LiveSession) -> Iterator[None]:
    submit_failing(live)
    live.submit("kill", "kill", no_mpi_single_node=True)
    yield
    run, logs = live.ended("fail"), live.files("fail", "user_logs/")
    live.holds("The error of a failed job names its exit code.", run.exit_code == 3, f"{run.exit_code}: {run.reason}")
    live.holds(f"The log of a single process is {LOG}.", logs == [LOG], ", ".join(logs))
    texts = [live.read("fail", name) for name in logs]
    live.holds("The log of a failed job is stored.", any("himl-live: fail" in text for text in texts))
    run = live.ended("kill")
    came = f"{run.exit_code}: {run.reason}"
    live.holds("The error of a killed job names the signal as 137 or -9.", run.exit_code in (137, -9), came)
    live.needs("A job that exhausts the memory of its node fails alike.", "a job with more data than memory")


def cancel(live: LiveSession) -> Iterator[None]:
    live.submit("files", "files")
    live.submit("sleep", "sleep")
    if live.submit("early", "sleep"):
        _cancel(live, "early", "A new job is canceled with 202 and a Location.")
    if live.start_run("workstation"):
        live.workspace.cancel(live.report.jobs["workstation"])
        status = live.run("workstation").status
        live.holds("A run without a job ends as Canceled.", status is RunStatus.canceled, status.value)
    yield
    while live.run("sleep").status is RunStatus.queued:
        time.sleep(live.workspace.poll_interval[0])
    if live.run("sleep").status is RunStatus.running:
        begun = time.monotonic()
        _cancel(live, "sleep", "A running job is canceled with 202 and a Location.")
        status = live.ended("sleep").status
        came = f"{status.value} after {time.monotonic() - begun:.0f} s"
        live.holds("A canceled job ends as Canceled.", status is RunStatus.canceled, came)
    run = live.ended("files")
    answer = live.request("POST", "arm", f"/jobs/{run.id}/cancel")
    live.answers("The cancelation of an ended job is answered with 200 or 400.", answer, 200, 400)
    status = live.run("files").status
    live.holds("An ended job keeps its status.", status is run.status, status.value)
    live.needs("Azure ML refuses to cancel a job that is Finalizing.", "a cancelation within the last seconds of a job")


def _cancel(live: LiveSession, key: str, assumption: str) -> None:
    status = live.run(key).status.value
    live.workspace.cancel(live.report.jobs[key])
    answer = live.find("arm", "/cancel")[-1]
    names = [name for name in ("location", "retry-after") if name in answer.headers]
    came = f"{answer.status} {' '.join(names)}, while {status}"
    live.holds(assumption, answer.status == 202 and "location" in names, came)


def job_name(live: LiveSession) -> Iterator[None]:
    live.submit("files", "files")
    yield
    run_id = live.report.jobs["files"]
    answer = live.request("PUT", "arm", f"/jobs/{run_id}", {"properties": _small_job(live, run_id)})
    is_immutable = answer.status == 400 and "JobPropertyImmutable" in answer.refusal
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
    output = {"jobOutputType": "uri_folder", "assetName": LIVE_EXPERIMENT, "assetVersion": "1"}
    for number, (member, more) in enumerate({"himlUnknown": 1, "assetVersion": {"o": output}}.items()):
        name = f"{LIVE_EXPERIMENT}-{live.report.session}-{number}"
        added = {"outputs": more} if number else {member: more}
        answer = live.request("PUT", "arm", f"/jobs/{name}", {"properties": {**small, **added}})
        if answer.status < 400:
            live.report.jobs[member] = name
        is_named = answer.status == 400 and member in answer.refusal
        assumption = f"2024-10-01 has no member {member} in a job, and the refusal names it."
        live.holds(assumption, is_named, answer.refusal or answer.status)


def sweep(live: LiveSession) -> Iterator[None]:
    live.submit("sweep", "trial", sweep=["x=1,2,3"])
    yield
    run = live.ended("sweep")
    live.completes("A sweep completes if one of three trials fails.", run)
    trials = [*live.workspace.runs(RunQuery(parent=run.id))]
    numbers = sorted(trial.id.removeprefix(run.id) for trial in trials)
    live.holds("The trials have the id of the sweep and a number from 0.", numbers == ["_0", "_1", "_2"], numbers)
    count = sum("hyperparameters" in (_record(live, trial.id).get("tags") or {}) for trial in trials)
    live.holds("Each trial has its values in the tag 'hyperparameters'.", count == 3, f"{count} trials")
    live.workspace.results(trials, wanted=lambda name: True, whole=False)
    live.answers("MLflow's search accepts attributes.run_id IN (…).", live.find("mlflow", "/runs/search")[0], 200)
    body = {"requests": {trial.id: {"runId": trial.id, "selectRunMetadata": True} for trial in trials}}
    answer = live.request("POST", "history", "/batchrundata", body)
    live.answers("batchrundata returns many runs by their ids.", answer, 200)


def _record(live: LiveSession, run_id: str) -> Any:
    return live.request("GET", "history", f"/runs/{run_id}").body


def pipeline(live: LiveSession) -> Iterator[None]:
    from himl_cli.services.submission.pipelines import prepare_pipeline

    step = {"type": "PythonScriptStep", "script": "probe.py", "source_directory": CODE, "arguments": ["step"]}
    steps = {"step1": {**step, "output": "number"}, "step2": {**step, "input_dataset_name": "number"}}
    (live.folder / "pipeline.json").write_text(json.dumps(steps), encoding="utf-8")
    for key in ("pipeline", "reused"):
        spec = prepare_pipeline(live.options(key, target="pipeline.json")).spec
        live.start(key, lambda: live.workspace.submit_pipeline(spec, notify=ignore))  # noqa: B023 - called at once
    yield
    run = live.ended("pipeline")
    live.completes("A pipeline of two steps completes.", run)
    ids = [one.id for one in live.workspace.runs(RunQuery(parent=run.id))]
    live.holds("The steps of a pipeline are its child runs.", len(ids) == 2, f"{len(ids)} child runs")
    logs = [[blob.name for page in live.workspace.run_files(one).list("user_logs/") for blob in page] for one in ids]
    live.holds("Each step has a log of its own.", all(logs), logs)
    answer = live.request("POST", "arm", f"/jobs/{ids[0]}/cancel")
    live.answers("A single step is not canceled, 400.", answer, 400)
    parent = live.ended("reused").id
    raw = [_record(live, one.id) for one in live.workspace.runs(RunQuery(parent=parent))]
    reused = [one for one in raw if str(one["properties"].get("azureml.isreused")).lower() == "true"]
    if reused:
        are_others = all(one["dataContainerId"] != f"dcid.{one['runId']}" for one in reused)
        live.holds("A reused step has the files of the run that it reuses.", are_others, f"{len(reused)} steps")
    else:
        live.needs("A reused step has the files of the run that it reuses.", "a step that Azure ML reuses")


def nodes(live: LiveSession) -> Iterator[None]:
    properties = live.request("GET", "arm", f"/computes/{live.cluster}").body["properties"].get("properties") or {}
    has_two = int((properties.get("scaleSettings") or {}).get("maxNodeCount") or 1) > 1
    for kind in NODES if has_two else ():
        live.submit(kind, "variables", num_nodes=2, distribution=kind)
    yield
    for kind, wanted in NODES.items() if has_two else ():
        live.ended(kind)
        logs = live.files(kind, "user_logs/std_log_process")
        expected = [f"user_logs/std_log_process_{number}.txt" for number in range(2)]
        live.holds(f"The logs of two nodes are std_log_process_0 and _1 ({kind}).", logs == expected, ", ".join(logs))
        lines = [line for name in logs for line in live.read(kind, name).splitlines() if "variables:" in line]
        common = set.intersection(*({*line.split()} for line in lines))
        shown = [name for name in sorted(common) if name.startswith(NODE_VARIABLES)]
        live.holds(f"{kind} sets {', '.join(wanted)}.", {*wanted} <= common, " ".join(shown))
    if not has_two:
        live.needs("The logs of two nodes are std_log_process_0 and _1.", "a cluster with two nodes")
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
