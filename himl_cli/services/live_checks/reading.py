"""Checks of what himl reads: the workspace, secrets, lists of runs, metrics and files. Each check stands alone, and
`plan` lists them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit

from himl_cli.core.runs import RunEnd, RunQuery, RunStatus
from himl_cli.core.text import iso_time
from himl_cli.services.live_checks.jobs import RANK_LOG, submit_failing
from himl_cli.services.live_checks.session import LIVE_EXPERIMENT, LiveCheck, LiveSession
from himl_cli.services.runs.writing import scalar, table

MARK = "himl_live_mark"
INDEX_SECONDS = 60.0  # for a new tag to be found
STEPS = 300


def connection(live: LiveSession) -> Iterator[None]:
    yield
    facts = live.request("GET", "arm").body["properties"]
    hosts = [urlsplit(str(facts.get(name) or "")).hostname or "none" for name in ("discoveryUrl", "mlFlowTrackingUri")]
    is_same = hosts[0] == hosts[1] and ".api." in hosts[0]
    live.holds("discoveryUrl and mlFlowTrackingUri name the same host of Azure ML.", is_same, " and ".join(hosts))
    mode = str(facts.get("systemDatastoresAuthMode")).lower()
    modes = ("none", "accesskey", "identity", "userdelegationsas")
    live.holds("systemDatastoresAuthMode is absent, accesskey, identity or userdelegationsas.", mode in modes, mode)
    asked = live.request("GET", "history", f"/experiments/{LIVE_EXPERIMENT}")
    live.answers("The services accept a token for resource manager.", asked, 200, 404)
    private = "The host behind a private link has the form ID.workspace.REGION.api.azureml.ms."
    if ".workspace." in hosts[0]:
        live.holds(private, ".api." in hosts[0], hosts[0])
    else:
        live.needs(private, "a workspace with a private link")


def secrets(live: LiveSession) -> Iterator[None]:
    yield
    path = f"/datastores/{live.workspace.datastores()[0].name}/listSecrets"
    bodies = [{"expirableSecret": expires, "expireAfterHours": 8} for expires in (True, False)]
    answers = [live.request("POST", "arm", path, body) for body in bodies]
    if any(answer.status >= 400 for answer in answers):
        live.needs("listSecrets returns a SAS.", "a default datastore with a key")
        return
    (kind, token), (other, _) = ((one.body["secretsType"], str(one.body.get("sasToken") or "")) for one in answers)
    live.holds("With expirableSecret, listSecrets returns a SAS in place of the key.", kind == "Sas", kind)
    live.holds("Without expirableSecret, listSecrets returns the key.", other == "AccountKey", other)
    if token:
        fields = {key: values[0] for key, values in parse_qs(token.lstrip("?")).items()}
        came = " ".join([token[0], *(f"{key}={fields[key]}" for key in ("srt", "ss", "sr", "sp") if key in fields)])
        live.holds("This SAS is one for the account, with a leading ?.", came.startswith("? srt=co ss=bf"), came)
        ends = iso_time(fields["se"])
        hours = (ends - datetime.now(timezone.utc)).total_seconds() / 3600
        live.holds("This SAS is valid for the requested 8 hours.", 7.5 < hours < 8.5, f"{hours:.1f} hours")
    store = live.workspace.datastore()
    for _ in range(2):
        next(store.list(f"{LIVE_EXPERIMENT}/"), None)
    count = len(live.find("arm", "/listSecrets")) - 2
    live.holds("himl requests the secret at most once for two lists.", count <= 1, f"{count} requests")


def run_pages(live: LiveSession) -> Iterator[None]:
    yield
    if not [*live.workspace.runs(RunQuery(limit=150))]:
        live.needs("The index lists the runs of the workspace.", "a workspace with runs")
        return
    pages = [one.body for one in live.find("index", "/entities") if one.status == 200]
    ids = [[one["properties"]["runId"] for one in page["value"]] for page in pages]
    sizes = [*map(len, ids)]
    live.holds("The index lists the runs of the workspace.", any(sizes), f"pages of {sizes}")
    live.holds("A page of the index has at most 100 runs.", max(sizes, default=0) <= 100, f"pages of {sizes}")
    count = len({one for page in ids for one in page})
    live.holds("No run comes twice.", count == sum(sizes), f"{sum(sizes)} runs, {count} ids")
    if len(pages) > 1:
        words = [name for name in ("continuationToken", "nextSkip") if pages[0].get(name)]
        live.holds("The next page follows by a continuationToken.", words == ["continuationToken"], words)
    else:
        live.needs("The next page follows by a continuationToken.", "a workspace with more than 100 runs")


def run_order(live: LiveSession) -> Iterator[None]:
    live.submit("files", "files")
    submit_failing(live)
    yield
    query = {"filter": None, "orderby": "CreatedUtc desc", "top": 100, "continuationToken": None}
    answer = live.request("POST", "history", f"/experiments/{LIVE_EXPERIMENT}/runs:query", query)
    live.answers("runs:query accepts the order 'CreatedUtc desc'.", answer, 200)
    if answer.status == 200:
        times = [one["createdUtc"] for one in answer.body["value"]]
        live.holds("Runs in this order come newest first.", times == sorted(times, reverse=True), f"{len(times)} runs")


def run_filters(live: LiveSession) -> Iterator[None]:
    submit_failing(live)
    yield
    run, mark = live.ended("fail"), live.report.session
    live.workspace.tag(run.id, {MARK: mark})
    begun, seconds, found = time.monotonic(), 0.0, list[str]()
    wanted = {"type": "runs", "annotations/status": "Failed", f"annotations/tags/{MARK}": mark}
    filters = [{"field": name, "operator": "eq", "values": [value]} for name, value in wanted.items()]
    body = {"filters": filters, "order": [], "freeTextSearch": "", "pageSize": 100, "continuationToken": None}
    while run.id not in found and seconds < INDEX_SECONDS:
        answer = live.request("POST", "index", "/entities", body)
        if answer.status != 200:
            break
        found, seconds = [one["properties"]["runId"] for one in answer.body["value"]], time.monotonic() - begun
        time.sleep(0 if found else live.workspace.poll_interval[0])
    live.answers("The index accepts conditions on the status and a tag.", answer, 200)
    live.holds("The index finds a run by a new tag within a minute.", run.id in found, f"after {seconds:.0f} s")
    live.holds("The index returns only runs that meet the conditions.", {*found} <= {run.id}, f"{len(found)} runs")
    listed = [one.id for one in live.workspace.runs(RunQuery(statuses=[RunStatus.failed], tags={MARK: mark}))]
    live.holds("himl lists the run by both conditions.", listed == [run.id], f"{len(listed)} runs")


def metrics(live: LiveSession) -> Iterator[None]:
    if live.start_run("metrics"):
        run_id = live.report.jobs["metrics"]
        entries = [scalar("loss", STEPS - step, step) for step in range(STEPS)]
        entries += [scalar("odd", float(text), step) for step, text in enumerate(("nan", "inf", "-inf"))]
        entries += [scalar("text", "x" * 200), table("table", {"a": [1, 2], "b": ["x", "y"]})]
        live.workspace.log(run_id, entries)
        points = [("NaN", 0), ("Infinity", 1), (0.5, 2)]
        logged = [{"key": "mlflow", "value": value, "timestamp": step, "step": step} for value, step in points]
        answer = live.request("POST", "mlflow", "/runs/log-batch", {"run_id": run_id, "metrics": logged})
        live.answers("MLflow's route accepts NaN and Infinity as words.", answer, 200)
        live.request("PATCH", "history", f"/runs/{run_id}", {"runId": run_id, "tags": {"himl_live_empty": None}})
        live.workspace.settle(run_id)
        live.workspace.end_run(run_id, RunEnd(RunStatus.completed))
    yield
    run_id = live.report.jobs["metrics"]
    values = live.workspace.values(run_id)
    found = {one.name: [point.value for point in one.points] for one in values.metrics}
    shown = {name: len(points) for name, points in found.items()}
    live.holds(f"All {STEPS} steps of a metric come back.", shown.get("loss") == STEPS, shown)
    words = [*map(repr, found.get("odd", ()))]
    live.holds("NaN and both infinities come back.", words == ["nan", "inf", "-inf"], words)
    odd, columns = (_full(live, run_id, name) for name in ("odd", "table"))
    spelled = [row["data"].get("odd") for row in odd["value"]]
    live.holds("metric/v2.0 spells them as words.", spelled == ["NaN", "Infinity", "-Infinity"], spelled)
    live.holds("A table keeps its columns.", columns["columns"].keys() == {"a", "b"}, columns["columns"])
    texts = {one.name: len(one.points[-1].value) for one in values.texts}
    live.holds("A text of 200 characters comes back.", texts.get("text") == 200, texts)
    answer = live.request("GET", "mlflow", f"/runs/get?run_id={run_id}")
    last = {one["key"]: one["value"] for one in answer.body["run"]["data"]["metrics"]}
    live.holds(
        "MLflow's runs/get has the value of the highest step.", last.get("loss") == 1, f"loss {last.get('loss')}"
    )
    answer = live.request("POST", "metric", f"/runs/{run_id}/lastvalues", {})
    live.answers("lastvalues answers for all metrics at once.", answer, 200)
    empty = live.request("GET", "history", f"/runs/{run_id}").body["tags"].get("himl_live_empty")
    live.holds("A tag without a value is no tag, or null.", empty is None, repr(empty))


def _full(live: LiveSession, run_id: str, name: str) -> Mapping[str, Any]:
    query = {"metricName": name, **dict.fromkeys(("metricNamespace", "continuationToken", "startTime", "endTime"))}
    body: Mapping[str, Any] = live.request("POST", "metric", f"/runs/{run_id}/full", query).body
    return body


def files(live: LiveSession) -> Iterator[None]:
    live.submit("files", "files")
    yield
    run_id, stored = live.ended("files").id, sorted(live.files("files"))
    refusals = [one for one in live.find("arm", "/listSecrets") if one.status == 403]
    container = live.request("GET", "history", f"/runs/{run_id}").body["dataContainerId"]
    answer = live.request("GET", "artifact", f"/artifacts/prefix/contentinfo/ExperimentRun/{container}/")
    listed = sorted(one["path"] for one in answer.body["value"]) if answer.status == 200 else []
    came = answer.refusal or f"{len(listed)} of {len(stored)} files"
    live.holds("prefix/contentinfo with an empty prefix lists all files.", bool(listed) and listed == stored, came)
    logs = live.request("GET", "history", f"/runs/{run_id}/details").body.get("logFiles") or {}
    live.holds("The details of a run have links to its logs.", RANK_LOG in logs, ", ".join(logs))
    live.holds("himl reads the log.", "himl-live: files" in live.read("files", RANK_LOG))
    sums = {blob.name: blob.md5 is not None for blob in live.stored("files") if blob.name in (RANK_LOG, EMPTY)}
    live.holds("Files have an MD5, and logs have none.", sums == {RANK_LOG: False, EMPTY: True}, sums)
    if refusals:
        live.holds("himl reads the files without a role for storage.", bool(stored), f"{len(stored)} files")
    else:
        role = "a sign-in without access to storage: sign in as such a user, and add --keep --check files"
        live.needs("himl reads the files without a role for storage.", role)
    live.needs("himl reads the files from outside a closed network.", "a workspace that blocks this machine")


EMPTY = "outputs/empty.txt"

CHECKS = (
    LiveCheck("connection", "Which hosts and tokens does the workspace use?", connection),
    LiveCheck("secrets", "Which secrets does the default datastore issue, and for how long?", secrets),
    LiveCheck("run-pages", "How does the index page the runs of the workspace?", run_pages),
    LiveCheck("run-order", "Which order do the runs of an experiment have?", run_order, ("files", "fail")),
    LiveCheck("run-filters", "Which runs does the index find by status and tag?", run_filters, ("fail",)),
    LiveCheck("metrics", "Which logged values come back, and how are they spelled?", metrics),
    LiveCheck("files", "Which files of a run are listed, and by which route?", files, ("files",)),
)
