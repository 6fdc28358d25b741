"""Tests of `himl doctor --live`: each check holds on the double, and does not hold once the double differs."""

from __future__ import annotations

import json
import platform
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from himl_cli.services.live_checks.masking import Mask
from himl_cli.services.live_checks.plan import ALL_CHECKS
from tests.azureml_double.faults import Page, Rewrite, Status
from tests.azureml_double.log import listening
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.state import Right
from tests.support.azure import add_many
from tests.support.running import Himl, Outcome, until

LIVE = ("doctor", "--live", "--cluster", "cpu-cluster", "--yes")
NAMES = (
    *(
        "job",
        "same-code",
        "failed-job",
        "cancel",
        "job-name",
        "job-members",
        "sweep",
        "pipeline",
        "nodes",
        "output",
        "limits",
        "environment",
    ),
    *("connection", "secrets", "run-pages", "run-order", "run-filters", "metrics", "files", "delete"),
)
Plant = Callable[[StagedWorkspace], object]
HISTORY_RUN = r"GET .*/history/.*/runs/himl-live_[^/]*$"


def fault(match: str, action: Any) -> Plant:
    return lambda azure: azure.stage.faults.add(action, match, times=None)


def answer(match: str, status: int, code: str = "Different") -> Plant:
    return fault(match, Status(status, code=code, message="It differs."))


def rewrite(match: str, change: Callable[[Any], Any]) -> Plant:
    return fault(match, Rewrite(change))


def state(name: str, value: object) -> Plant:
    return lambda azure: setattr(azure.state, name, value)


def without_message(run: Any) -> Any:
    if run.get("error"):
        run["error"]["error"]["message"] = "ExecutionFailed: [REDACTED]"
    return run


def few_tags(run: Any) -> Any:
    return run | {"tags": dict([*run["tags"].items()][:50])}


def text_replaced(old: str, new: str) -> Callable[[Any], Any]:
    return lambda body: json.loads(json.dumps(body).replace(old, new))


def without_details(body: Any) -> Any:
    body["error"]["details"] = []
    return body


def lost_log(azure: StagedWorkspace) -> None:
    storage = azure.state.storage
    for blob in [*storage.list("azureml", "ExperimentRun/")]:
        if blob.name.endswith("std_log_process_1.txt"):
            storage.client.get_blob_client("azureml", blob.name).delete_blob()


ACCEPTED = json.dumps({"id": "/subscriptions/x/environments/y/versions/1", "name": "1", "properties": {}})
PLANTED: Mapping[str, tuple[Plant, str, str]] = {
    "connection": (
        state("tracking_host", "other.api.azureml.ms"),
        "name the same host",
        "<…>.api.azureml.ms and <…>.api.azureml.ms",
    ),
    "secrets": (state("secrets", "key"), "returns a SAS in place of the key", "AccountKey"),
    "run-pages": (state("hides_in_index", True), "The index lists the runs", "pages of [0]"),
    "run-order": (state("refused_orders", ["CreatedUtc desc"]), "accepts the order", "400"),
    "run-filters": (answer(r"POST .*/index/.*entities", 400), "accepts conditions", "400 (Different: It differs)"),
    "failed-job": (rewrite(HISTORY_RUN, without_message), "names its exit code", "[REDACTED]"),
    "metrics": (rewrite(r"POST .*/metric/.*/full", text_replaced('"NaN"', "null")), "spells them as words", "[None, "),
    "files": (state("reaches_storage", False), "with an empty prefix", "0 of 4 files"),
    "cancel": (answer(r"POST .*/cancel", 409), "of an ended job", "409 (Different: It differs)"),
    "job-name": (answer(r"PUT .*/jobs/", 409), "A second job of a name", "409 (Different: It differs)"),
    "job-members": (rewrite(r"PUT .*/jobs/", without_details), "himlUnknown in a job", "The request is invalid"),
    "sweep": (answer(r"POST .*/mlflow/runs/search", 400), "accepts attributes.run_id", "400"),
    "pipeline": (
        fault(r"POST .*/cancel", Page("null", 202, "application/json")),
        "A single step is not canceled",
        "202",
    ),
    "nodes": (lost_log, "The logs of two nodes", "(user_logs/std_log_process_0.txt)"),
    "output": (answer(r"POST .*/batchGetResolvedUris", 404), "batchGetResolvedUris", "404"),
    "limits": (rewrite(HISTORY_RUN, few_tags), "Accepted tags", "of 60 tags"),
    "environment": (
        fault(r"PUT .*/environments/", Page(ACCEPTED, 201, "application/json")),
        "refuses an image's folder",
        "No environment",
    ),
    "delete": (answer(r"DELETE .*/jobs/", 400), "Azure ML deletes a job", "[400]"),
}
# Differences that only a new submission shows
PLANTED_BEFORE: Mapping[str, tuple[Plant, str, str]] = {
    "job": (
        rewrite(r"POST .*/startPendingUpload", text_replaced("skoid", "other")),
        "user delegation SAS",
        "no user delegation",
    ),
    "same-code": (rewrite(r"GET .*/codes/", lambda body: {"value": []}), "by its hash", "0 found"),
}


@pytest.fixture
def live_project(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure_environment.write_config(project)
    return azure_environment


def found(outcome: Outcome, state: str, name: str) -> list[str]:
    rows = [line.split("\t") for line in outcome.stdout.splitlines()]
    return [row[2] for row in rows if row[:2] == [state, name]]


def puts(azure: StagedWorkspace) -> int:
    return len(azure.stage.log.find(r"PUT .*/jobs/"))


REMAIN = "The runs of the checks remain. The same command without --keep continues and deletes them.\n"


@pytest.mark.large("makes all live checks")
def test_all_checks_hold_and_each_differs_once(himl: Himl, live_project: StagedWorkspace, project: Path) -> None:
    azure, secrets = live_project, set[str]()
    add_many(azure, 101)
    with listening(lambda kind, secret: secrets.add(secret)), azure.run_jobs():
        outcome = himl.ok(*LIVE, "--keep")
        assert REMAIN in outcome.stderr
        report = json.loads((project / "himl-live.json").read_text("utf-8"))
        assert [*report["checks"]] == [*NAMES]
        assert all(check["is_complete"] and check["requests"] for check in report["checks"].values())
        assert {*PLANTED, *PLANTED_BEFORE} == {*NAMES}
        assert all(found(outcome, "ok", name) and not found(outcome, "failed", name) for name in NAMES)
        sent = puts(azure)
        kept = {
            name: getattr(azure.state, name)
            for name in ("tracking_host", "secrets", "hides_in_index", "refused_orders", "reaches_storage")
        }
        for name, (plant, assumption, came) in PLANTED.items():
            plant(azure)
            different = himl(*LIVE, "--keep", "--check", name)
            lines = [line for line in found(different, "failed", name) if assumption in line]
            assert (different.code, bool(lines)) == (1, True), f"{name}: {different.stdout}{different.stderr}"
            assert came in lines[0], lines
            azure.stage.faults.clear()
            for field, value in kept.items():
                setattr(azure.state, field, value)
        others = [
            azure.add_principal(rights, name=f"Person {number}")
            for number, rights in enumerate(({Right.READ, Right.WRITE}, {Right.READ}))
        ]
        by_links = himl(*LIVE, "--keep", "--check", "files", env=azure.environment(others[0]))
        assert "himl reads the files without a role for storage. (4 files)" in found(by_links, "ok", "files"), (
            by_links.stdout + by_links.stderr
        )
        reader = himl(*LIVE, "--keep", "--check", "job-name", env=azure.environment(others[1]))
        assert "needs another sign-in" in found(reader, "skipped", "job-name")[0], reader.stdout + reader.stderr
        page = (project / "himl-live.md").read_text("utf-8")
        assert page.count("| does not hold |") >= len(PLANTED)
        # Only 'delete' needs a new job
        assert puts(azure) - sent <= 6
        # Nothing is left to check, but the clean-up and the verdict on the whole report
        again = himl(*LIVE)
        assert (again.code, again.stdout) == (1, ""), again.stderr
        written = page + (project / "himl-live.json").read_text("utf-8") + (project / "himl-live.md").read_text("utf-8")
    check_nothing_is_told(
        written, azure, {*secrets, *(text for one in others for text in (one.client_id, one.object_id))}
    )
    archived = [
        version["isArchived"]
        for name, versions in azure.state.assets["data"].items()
        for version in versions.values()
        if "himl-live" in name
    ]
    assert archived == [True]
    left = {run.run_id: run for run in azure.state.experiments["himl-live"].runs.values()}
    assert all(run.hidden and run.parent_id for run in left.values()), left
    assert azure.blob_names("workspaceblobstore", "himl-live") == []


def check_nothing_is_told(written: str, azure: StagedWorkspace, secrets: set[str]) -> None:
    state, principal = azure.state, azure.state.principal
    ids = (
        state.subscription,
        state.group,
        state.name,
        state.tenant,
        state.workspace_id,
        state.location,
        "cpu-cluster",
        "api.himl",
    )
    names = (
        principal.client_id,
        principal.object_id,
        principal.name,
        "Ada Lovelace",
        state.storage.account,
        platform.node(),
        str(Path.home()),
    )
    told = [word for word in (*ids, *names, state.storage.key, *secrets) if word and word.lower() in written.lower()]
    assert told == []
    assert "sig=" not in written


@pytest.mark.parametrize(("name", "planted"), PLANTED_BEFORE.items(), ids=PLANTED_BEFORE)
def test_differences_of_new_submissions(
    himl: Himl, live_project: StagedWorkspace, project: Path, name: str, planted: tuple[Plant, str, str]
) -> None:
    plant, assumption, came = planted
    plant(live_project)
    live_project.add_environment("st-marys")
    with live_project.run_jobs():
        outcome = himl(*LIVE, "--check", name, "--environment", "st-marys", "--json")
    assert "st-marys" not in (project / "himl-live.json").read_text("utf-8")
    assert outcome.code == 1
    messages = [check["message"] for check in outcome.json() if (check["name"], check["state"]) == (name, "failed")]
    assert [came in message for message in messages if assumption in message] == [True], outcome.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
def test_an_interrupted_call_continues_without_new_jobs(
    started_himl: Himl, himl: Himl, live_project: StagedWorkspace, project: Path
) -> None:
    azure, path, words = live_project, project / "himl-live.json", (*LIVE, "--check", "job,same-code")
    with azure.run_jobs(hold=True) as jobs:
        process = started_himl.start(*words)
        until(lambda: len(azure.state.runs) == 2 and "again" in json.loads(path.read_text("utf-8"))["jobs"])
        process.send_signal(signal.SIGINT)
        stderr = process.communicate(timeout=60)[1].decode()
        assert process.returncode == 130, stderr
        assert "hint: To continue: himl doctor --live --cluster cpu-cluster" in stderr
        report = json.loads(path.read_text("utf-8"))
        assert [check["is_complete"] for check in report["checks"].values()] == [False, False]
        # As after a kill between the creation of the second job and the next save
        del report["jobs"]["again"]
        path.write_text(json.dumps(report), encoding="utf-8")
        jobs.release()
        said = himl.ok(*words).stderr
        assert "himl submits a short job to cluster 'cpu-cluster'" in said
        assert ("himl continues an earlier call, which started 1 of the runs." in said, REMAIN in said) == (
            True,
            False,
        ), said
    assert puts(azure) == 2
    assert not azure.state.runs
    report = json.loads(path.read_text("utf-8"))
    assert report["is_finished"]
    assert report["checks"]["job"]["findings"]["A new job is answered with 201."]["verdict"] == "holds"
    # Another workspace or cluster needs another folder
    azure.add_compute("other")
    refused = himl("doctor", "--live", "--cluster", "other", "--yes")
    assert (refused.code, "is a report on another workspace or cluster" in refused.stderr) == (2, True)


def test_the_page_lists_all_checks() -> None:
    page = Path("docs/live-checks.md").read_text("utf-8")
    lines = [f"| `{check.name}` | {check.asks} | {len(check.jobs) or ''}".rstrip() for check in ALL_CHECKS]
    assert [
        line.removesuffix("|").rstrip()
        for line in page.splitlines()
        if line.startswith("| `") and line.count("|") == 4 and "?" in line
    ] == lines


def test_what_is_refused(himl: Himl, live_project: StagedWorkspace, project: Path) -> None:
    cases = {
        ("--live", "--cluster", "cpu-cluster"): (2, "To confirm, add --yes."),
        ("--live",): (2, "Add --cluster NAME."),
        ("--cluster", "cpu-cluster"): (2, "--cluster has no effect without --live."),
        (*LIVE[1:], "--check", "jobs"): (2, "Did you mean 'job'?"),
        ("--live", "--cluster", "none", "--yes"): (3, "No cluster 'none'"),
        (*LIVE[1:], "--workspace", "here/.himl"): (2, "Name the config.json of an Azure ML workspace."),
        (*LIVE[1:], "--slurm", "x"): (2, "--slurm and --live cannot be combined."),
    }
    (project / "here" / ".himl").mkdir(parents=True)
    for words, (code, said) in cases.items():
        outcome = himl("doctor", *words)
        assert (outcome.code, said in outcome.stderr) == (code, True), outcome.stderr
    assert (puts(live_project), (project / "himl-live.json").exists()) == (0, False)
    unknown = himl(*LIVE, "--check", "job", "--environment", "none")
    assert (unknown.code, "'none'" in unknown.stderr) == (3, True), unknown.stderr
    (project / "himl-live.json").write_text("{}")
    assert "is not a report that this version" in himl(*LIVE).stderr


MASKED = {
    "run 'x' of workspace st-marys/radiology-lab": "run 'x' of workspace <resource group>/<workspace>",
    "GET https://labstore42.blob.core.windows.net/azureml/x?sv=1&sig=abc%3D": "GET https://<…>.blob.core.windows.net/…",
    "by ada@hospital.org on 10.0.0.4": "by <user> on <address>",
    "host 0a0a-1.workspace.eastus2.api.azureml.ms": "host <…>.workspace.<…>.api.azureml.ms",
    "id 01234567-89ab-cdef-0123-456789abcdef": "id <id>",
    "key q2NtP9fXo0Zt4yT7Jw1mXr8KdE6vBcA5hUgLsQeRiOp3nYz==": "key <digest>",
    "account LABSTORE42acr": "account <storage account>acr",
    "the ml team": "the <workspace> team",
}


@pytest.mark.parametrize(("text", "shown"), MASKED.items())
def test_masking(text: str, shown: str) -> None:
    mask = Mask({"st-marys": "resource group", "radiology-lab": "workspace", "ml": "workspace"})
    mask.learn(
        {"value": [{"properties": {"accountName": "labstore42", "datastoreType": "AzureBlob"}, "name": "scans"}]}
    )
    assert mask(text) == shown
    assert mask("datastore scans") == "datastore <datastore>"


def test_the_user_of_this_machine_is_masked_unless_the_name_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, shown in (("gladys", "<user>"), ("ubuntu", "ubuntu")):
        monkeypatch.setenv("LOGNAME", name)
        assert Mask({})(f"{name} on {platform.node()} in {Path.home()}/x") == f"{shown} on <machine> in <home>/x"
