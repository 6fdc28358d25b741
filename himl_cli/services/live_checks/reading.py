"""Checks of what himl reads: the workspace, secrets, lists of runs, metrics and files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit

from himl_cli.core.runs import RunQuery, RunStatus
from himl_cli.services.live_checks.session import EXPERIMENT, LiveCheck, LiveSession, end_record, submit_failing
from himl_cli.services.runs.writing import scalar, table

MARK = "himl_live_mark"
INDEX_SECONDS = 60.0  # for a new tag to be found
STEPS = 300


def connection(live: LiveSession) -> Iterator[None]:
    yield
    facts = live.request("GET", "arm").body["properties"]
    hosts = [urlsplit(str(facts.get(name) or "")).hostname or "none" for name in ("discoveryUrl", "mlFlowTrackingUri")]
    live.holds(
        "discoveryUrl and mlFlowTrackingUri name the same host of Azure ML.",
        hosts[0] == hosts[1] and ".api." in hosts[0],
        " and ".join(hosts),
    )
    mode = str(facts.get("systemDatastoresAuthMode")).lower()
    live.holds(
        "systemDatastoresAuthMode is absent, accesskey, identity or userdelegationsas.",
        mode in ("none", "accesskey", "identity", "userdelegationsas"),
        mode,
    )
    asked = live.request("GET", "history", f"/experiments/{EXPERIMENT}")
    live.holds("The services accept a token for resource manager.", asked.status in (200, 404), asked.status)
    private = "The host behind a private link ends with the same words."
    if ".workspace." in hosts[0]:
        live.holds(private, ".api." in hosts[0], hosts[0])
    else:
        live.needs(private, "a workspace with a private link")


def secrets(live: LiveSession) -> Iterator[None]:
    yield
    name = next(store.name for store in live.workspace.datastores() if store.is_default)
    answers: dict[bool, Mapping[str, Any]] = {}
    for expires in (True, False):
        body = {"expirableSecret": expires, "expireAfterHours": 8}
        answer = live.request("POST", "arm", f"/datastores/{name}/listSecrets", json=body)
        if answer.status >= 400:
            live.needs("listSecrets returns a SAS.", "a default datastore with a key, and the right to list secrets")
            return
        answers[expires] = answer.body
    kind, token = answers[True].get("secretsType"), str(answers[True].get("sasToken") or "")
    live.holds("With expirableSecret, listSecrets returns a SAS in place of the key.", kind == "Sas", kind)
    if token:
        fields = {key: values[0] for key, values in parse_qs(token.lstrip("?")).items()}
        shown = " ".join(f"{key}={fields[key]}" for key in ("srt", "ss", "sr", "sp") if key in fields)
        is_as_known = token[0] == "?" and (fields.get("srt"), fields.get("ss")) == ("co", "bf")
        came = f"{'?' if token[0] == '?' else 'no ?'} {shown}"
        live.holds("This SAS is one for the account, with a leading ?: srt=co ss=bf.", is_as_known, came)
        ends = datetime.fromisoformat(fields["se"].replace("Z", "+00:00"))
        hours = (ends - datetime.now(timezone.utc)).total_seconds() / 3600
        live.holds("This SAS is valid for the requested 8 hours.", 7.5 < hours < 8.5, f"{hours:.1f} hours")
    kind = answers[False].get("secretsType")
    live.holds("Without expirableSecret, listSecrets returns the key.", kind == "AccountKey", kind)
    begun, store = len(live.seen), live.workspace.datastore()
    for _ in range(2):
        next(store.list(f"{EXPERIMENT}/"), None)
    count = sum(one.path.endswith("/listSecrets") for one in live.seen[begun:])
    live.holds("himl requests the secret once for two lists.", count <= 1, f"{count} requests")


def run_pages(live: LiveSession) -> Iterator[None]:
    yield
    for _ in live.workspace.runs(RunQuery(limit=150)):
        pass
    pages = [one.body for one in live.find("index", "/entities") if one.status == 200]
    sizes = [len(page["value"]) for page in pages]
    live.holds("The index lists the runs of the workspace.", any(sizes), f"pages of {sizes}" if sizes else "no page")
    live.holds("A page of the index has at most 100 runs.", max(sizes, default=0) <= 100, f"pages of {sizes}")
    ids = [one["properties"]["runId"] for page in pages for one in page["value"]]
    live.holds("No run comes twice.", len({*ids}) == len(ids), f"{len(ids)} runs, {len({*ids})} ids")
    following = "The next page follows by a continuationToken."
    if len(pages) < 2:
        live.needs(following, "a workspace with more than 100 runs")
    else:
        words = [name for name in ("continuationToken", "nextSkip") if pages[0].get(name)]
        live.holds(following, words == ["continuationToken"], ", ".join(words) or "neither")


def run_order(live: LiveSession) -> Iterator[None]:
    live.submit("files", "files")
    submit_failing(live)
    yield
    query = {"filter": None, "orderby": "CreatedUtc desc", "top": 100, "continuationToken": None}
    answer = live.request("POST", "history", f"/experiments/{EXPERIMENT}/runs:query", json=query)
    came = answer.refusal or answer.status
    live.holds("runs:query accepts the order 'CreatedUtc desc'.", answer.status == 200, came)
    if answer.status == 200:
        times = [one["createdUtc"] for one in answer.body["value"]]
        live.holds("Runs in this order come newest first.", times == sorted(times, reverse=True), f"{len(times)} runs")


def run_filters(live: LiveSession) -> Iterator[None]:
    submit_failing(live)
    yield
    run, mark = live.ended("fail"), live.report.session
    live.workspace.tag(run.id, {MARK: mark})
    begun, pause = time.monotonic(), live.workspace.poll_interval[0]
    wanted = {"type": "runs", "annotations/status": "Failed", f"annotations/tags/{MARK}": mark}
    body = {
        "filters": [{"field": name, "operator": "eq", "values": [value]} for name, value in wanted.items()],
        "order": [],
        "freeTextSearch": "",
        "pageSize": 100,
        "includeTotalResultCount": False,
        "searchBuilder": "AppendPrefix",
        "continuationToken": None,
    }
    while True:
        answer, seconds = live.request("POST", "index", "/entities", json=body), time.monotonic() - begun
        found = [one["properties"]["runId"] for one in answer.body["value"]] if answer.status == 200 else []
        if run.id in found or answer.status != 200 or seconds > INDEX_SECONDS:
            break
        time.sleep(pause)
    accepts = "The index accepts conditions on the status and a tag."
    live.holds(accepts, answer.status == 200, answer.refusal or answer.status)
    live.holds("The index finds a run by a new tag within a minute.", run.id in found, f"after {seconds:.0f} s")
    live.holds("The index returns only runs that meet the conditions.", {*found} <= {run.id}, f"{len(found)} runs")
    listed = [*live.workspace.runs(RunQuery(statuses=[RunStatus.failed], tags={MARK: mark}))]
    live.holds("himl lists the run by both conditions.", [one.id for one in listed] == [run.id], f"{len(listed)} runs")


def metrics(live: LiveSession) -> Iterator[None]:
    if live.record("metrics"):
        run_id, odd = live.report.jobs["metrics"], (float("nan"), float("inf"), float("-inf"))
        entries = [scalar("loss", STEPS - step, step) for step in range(STEPS)]
        entries += [scalar("odd", value, step) for step, value in enumerate(odd)]
        entries += [scalar("text", "x" * 200), table("table", {"a": [1, 2], "b": ["x", "y"]})]
        live.workspace.log(run_id, entries)
        points = [("NaN", 0), ("Infinity", 1), (0.5, 2)]
        logged = [{"key": "mlflow", "value": value, "timestamp": step, "step": step} for value, step in points]
        answer = live.request("POST", "mlflow", "/runs/log-batch", json={"run_id": run_id, "metrics": logged})
        accepts = "MLflow's route accepts NaN and Infinity as words."
        live.holds(accepts, answer.status == 200, answer.refusal or answer.status)
        live.request("PATCH", "history", f"/runs/{run_id}", json={"runId": run_id, "tags": {"himl_live_empty": None}})
        live.workspace.settle(run_id)
        end_record(live, "metrics")
    yield
    run_id = live.report.jobs["metrics"]
    values = live.workspace.values(run_id)
    found = {one.name: [point.value for point in one.points] for one in values.metrics}
    shown = ", ".join(f"{name}: {len(points)}" for name, points in found.items())
    live.holds(f"All {STEPS} steps of a metric come back.", len(found.get("loss", ())) == STEPS, shown)
    words = [repr(value) for value in found.get("odd", ())]
    live.holds("NaN and both infinities come back.", words == ["nan", "inf", "-inf"], ", ".join(words))
    raw = {name: _full(live, run_id, name) for name in ("odd", "table")}
    spelled = [row["data"].get("odd") for row in raw["odd"]["value"]]
    as_words = "metric/v2.0 spells them NaN, Infinity and -Infinity."
    live.holds(as_words, spelled == ["NaN", "Infinity", "-Infinity"], spelled)
    columns = {name: str(kind).lower() for name, kind in raw["table"]["columns"].items()}
    live.holds("A table keeps its columns.", columns.keys() == {"a", "b"}, columns)
    texts = {one.name: len(one.points[-1].value) for one in values.texts}
    live.holds("A text of 200 characters comes back.", texts.get("text") == 200, texts)
    answer = live.request("GET", "mlflow", f"/runs/get?run_id={run_id}")
    last = {one["key"]: one["value"] for one in answer.body["run"]["data"]["metrics"]}
    is_last = float(last.get("loss", "nan")) == 1.0
    live.holds("MLflow's runs/get has the value of the highest step.", is_last, f"loss {last.get('loss')}")
    answer = live.request("POST", "metric", f"/runs/{run_id}/lastvalues", json={})
    live.holds("lastvalues answers for all metrics at once.", answer.status == 200, answer.refusal or answer.status)
    tags = live.request("GET", "history", f"/runs/{run_id}").body["tags"]
    empty = tags.get("himl_live_empty")
    live.holds("A tag without a value is no tag, or null.", empty is None, repr(empty))


def _full(live: LiveSession, run_id: str, name: str) -> Mapping[str, Any]:
    query = {"metricName": name, "metricNamespace": None, "continuationToken": None, "startTime": None, "endTime": None}
    body: Mapping[str, Any] = live.request("POST", "metric", f"/runs/{run_id}/full", json=query).body
    return body


def files(live: LiveSession) -> Iterator[None]:
    live.submit("files", "files")
    yield
    run = live.ended("files")
    stored = sorted(live.files("files"))
    is_refused = any(one.status == 403 and one.path.endswith("/listSecrets") for one in live.seen)
    container = live.request("GET", "history", f"/runs/{run.id}").body["dataContainerId"]
    answer = live.request("GET", "artifact", f"/artifacts/prefix/contentinfo/ExperimentRun/{container}/")
    listed = sorted(one["path"] for one in answer.body["value"]) if answer.status == 200 else []
    came = answer.refusal or f"{len(listed)} of {len(stored)} files"
    live.holds("prefix/contentinfo with an empty prefix lists all files.", bool(listed) and listed == stored, came)
    details = live.request("GET", "history", f"/runs/{run.id}/details")
    logs = sorted(details.body.get("logFiles") or {}) if details.status == 200 else []
    live.holds("The details of a run have links to its logs.", bool(logs) and {*logs} <= {*stored}, ", ".join(logs))
    text = "".join(live.read("files", name) for name in logs)
    live.holds("himl reads the log.", "himl-live: files" in text, f"{len(text)} characters")
    without_role = "himl reads the files through links without access to storage."
    if is_refused:
        live.holds(without_role, bool(stored), f"{len(stored)} files")
    else:
        role = "a sign-in without access to storage: sign in as such a user, and add --keep --check files"
        live.needs(without_role, role)
    live.needs("himl reads the files from outside a closed network.", "a workspace that blocks this machine")


CHECKS = (
    LiveCheck("connection", "Which hosts and tokens does the workspace use?", connection),
    LiveCheck("secrets", "Which secrets does the default datastore issue, and for how long?", secrets),
    LiveCheck("run-pages", "How does the index page the runs of the workspace?", run_pages),
    LiveCheck("run-order", "Which order do the runs of an experiment have?", run_order, ("files", "fail")),
    LiveCheck("run-filters", "Which runs does the index find by status and tag?", run_filters, ("fail",)),
    LiveCheck("metrics", "Which logged values come back, and how are they spelled?", metrics),
    LiveCheck("files", "Which files of a run are listed, and by which route?", files, ("files",)),
)
