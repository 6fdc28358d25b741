"""Tests of `himl submit --notify`: what a webhook receives when runs, sweeps and pipelines end, who sends it, retries,
and that its URL stays secret.
"""

from __future__ import annotations

import json
import os
import platform
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.azureml_double.seeding import StagedWorkspace
from tests.support.azure import SUBMIT
from tests.support.azure import azure_project as azure_project
from tests.support.azure import running as running
from tests.support.folders import files_with
from tests.support.processes import supervisor_of
from tests.support.running import Himl, Outcome, until, write_files
from tests.support.slurm import Slurm
from tests.support.sweeps import show
from tests.support.web import KEY, WebhookServer, serving_webhook

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX, /proc")
TRAIN = """
import argparse, os, sys, time
from pathlib import Path
from himl_cli import RUN_CONTEXT
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.5)
parser.add_argument("--until", type=Path)
args, _ = parser.parse_known_args()
for step in range(3):
    RUN_CONTEXT.log("val/loss", args.lr * (3 - step), step=step)
RUN_CONTEXT.log("notes", float("nan"))
print("up", dict(os.environ), flush=True)
while args.until and not args.until.exists():
    time.sleep(0.02)
sys.exit(3 if args.lr > 1 else 0)
"""
OF_RUN = ("id", "experiment", "display_name", "status", "started", "ended", "duration", "exit_code", "reason")


@pytest.fixture
def webhook(project: Path) -> Iterator[WebhookServer]:
    write_files(project, {"train.py": TRAIN, "pyproject.toml": ""})
    with serving_webhook() as server:
        yield server


def notified(himl: Himl, run: str) -> str:
    """Wait for the notification's outcome, and return its tag."""
    until(
        lambda: show(himl, run)["tags"]["himl.notification"].partition(":")[0] in ("sent", "failed"),
        "the webhook was told",
    )
    text: str = show(himl, run)["tags"]["himl.notification"]
    return text


def secrets(folder: Path, *outcomes: Outcome) -> list[Any]:
    """Return the files and outputs that contain the webhook's key."""
    return [
        *files_with(folder, KEY),
        *(text for each in outcomes for text in (each.stdout, each.stderr) if KEY in text),
    ]


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("lr", ["0.5", "2.0"])
def test_the_end_of_a_job_is_posted_once_in_the_words_of_its_record(
    himl: Himl, tmp_path: Path, webhook: WebhookServer, lr: str
) -> None:
    outcome = himl("submit", "train.py", "-v", "--display_name", "first", "--notify", webhook.url, "--", "--lr", lr)
    shown = himl("runs", "show", "latest")
    run = himl.ok("runs", "show", "latest", "--json").json()
    (told,) = webhook.bodies
    assert {name: told[name] for name in OF_RUN} == {name: run[name] for name in OF_RUN}
    assert (outcome.code, told["status"], told["exit_code"]) == (
        (0, "Completed", 0) if lr == "0.5" else (1, "Failed", 3)
    )
    metrics = {each["name"]: each for each in run["metrics"]}
    assert [(each["name"], each["value"], each["step"]) for each in told["metrics"]] == [
        (name, metrics[name]["value"], metrics[name]["step"]) for name in ("notes", "val/loss")
    ]
    assert "Notified      sent: localhost" in shown.stdout
    assert secrets(tmp_path, outcome, shown) == []


def test_a_sweep_and_a_pipeline_are_told_as_a_whole(
    himl: Himl, project: Path, tmp_path: Path, webhook: WebhookServer
) -> None:
    swept = himl("submit", "train.py", "--sweep", "lr=0.5,0.25,2.0", "--max_concurrent", "3", "--notify", webhook.url)
    sweep = himl.ok("runs", "show", "latest", "--json").json()
    folds = himl("submit", "train.py", "--crossval", "2", "--max_concurrent", "2", "--notify", webhook.url)
    step = {"type": "PythonScriptStep", "source_directory": ".", "script": "train.py"}
    steps = {"step1": step | {"arguments": "--lr 2"}, "step2": step}
    write_files(project, {"pipeline.json": json.dumps(steps)})
    piped = himl("submit", "pipeline.json", "--notify", webhook.url)
    assert [outcome.code for outcome in (swept, folds, piped)] == [1, 0, 1]
    first, second, third = webhook.bodies
    best = next(child for child in sweep["children"] if child["hyperparameters"] == {"lr": 0.25})
    assert first["counts"] == {"Completed": 2, "Failed": 1}
    assert (
        first["primary_metric"]
        == sweep["primary_metric"]
        == {"name": "val/loss", "goal": "minimize", "best": best["id"]}
    )
    assert first["best_trial"] == {name: best[name] for name in ("id", "hyperparameters", "primary_metric")}
    assert second["primary_metric"] == {"name": "val/loss", "goal": "minimize", "best": None, "mean": 0.5, "std": 0.0}
    assert (third["status"], third["counts"], third["reason"]) == (
        "Failed",
        {"Failed": 1},
        "step 'step1' failed: exit code 3; not started: step2",
    )
    assert secrets(tmp_path, swept, folds, piped) == []


@pytest.mark.parametrize("form", ["slack", "teams"])
def test_slack_and_teams_get_a_message(
    himl: Himl, project: Path, tmp_path: Path, webhook: WebhookServer, form: str
) -> None:
    write_files(
        project,
        {"himl.private.toml": f"[notify]\nurl = '{webhook.url}'\n", "himl.toml": f"[notify]\nformat = '{form}'\n"},
    )
    himl.ok("submit", "train.py", "--display_name", "a<b & c")
    (told,) = webhook.bodies
    if form == "slack":
        title, *facts = told["text"].splitlines()
        assert set(told) == {"text"}
        assert title.startswith("*a&lt;b &amp; c (train_")
        assert "completed after" in title
    else:
        (attachment,) = told["attachments"]
        assert (told["type"], attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
        heading, table = attachment["content"]["body"]
        assert heading["text"].startswith("a<b & c (train_")
        facts = [f"{fact['title']}: {fact['value']}" for fact in table["facts"]]
    assert {"Experiment: train", "val/loss: 0.5"} <= {*facts}
    assert [path.name for path in files_with(tmp_path, KEY)] == ["himl.private.toml"]


@pytest.mark.large("kills what waits for a job")
@POSIX
@pytest.mark.parametrize("name", ["SIGHUP", "SIGKILL"])
def test_it_is_sent_when_the_terminal_is_long_closed(
    himl: Himl, tmp_path: Path, webhook: WebhookServer, name: str
) -> None:
    with himl.start(
        "submit", "train.py", "--", "--until", tmp_path / "go", env={"HIML_SUBMIT_NOTIFY": webhook.url}
    ) as waiting:
        until(lambda: "up" in himl("runs", "logs", "latest").stdout, "the job runs")
        os.killpg(waiting.pid, getattr(signal, name))
        waiting.communicate()
    assert show(himl, "latest")["tags"]["himl.notification"] == "due: localhost"
    (tmp_path / "go").touch()
    assert notified(himl, "latest") == "sent: localhost"
    assert [told["status"] for told in webhook.bodies] == ["Completed"]
    assert secrets(tmp_path) == []


@pytest.mark.large("takes long, and other tests run its branches")
@POSIX
def test_a_canceled_run_is_told_and_one_whose_supervisor_was_killed_is_not(
    himl: Himl, project: Path, tmp_path: Path, webhook: WebhookServer
) -> None:
    for number, end in enumerate(("cancel", "kill")):
        himl.ok("submit", "train.py", "--no_wait", "--notify", webhook.url, "--", "--until", tmp_path / "never")
        until(lambda: "up" in himl("runs", "logs", "latest").stdout, "the job runs")
        if end == "cancel":
            himl.ok("runs", "cancel", "latest")
            assert notified(himl, "latest") == "sent: localhost"
        else:
            os.kill(supervisor_of(project), signal.SIGKILL)
            until(lambda: show(himl, "latest")["status"] == "Failed", "the run is lost")
            assert show(himl, "latest")["tags"]["himl.notification"] == "due: localhost"
        assert [told["status"] for told in webhook.bodies] == ["Canceled"], number


@pytest.mark.parametrize(
    ("answers", "moved_to", "requests", "said"),
    [
        ([500, 429], "", 3, ""),
        pytest.param([None], "", 2, "", marks=pytest.mark.large("waits ten seconds for an answer")),
        ([500, 502, 503], "", 3, "localhost answered 503 Service Unavailable (3 attempts)"),
        ([404], "", 1, "localhost answered 404 Not Found"),
        (
            [307],
            f"http://elsewhere.invalid/{KEY}",
            1,
            "localhost redirects to elsewhere.invalid, which himl does not follow",
        ),
    ],
    ids=["busy", "silent", "failing", "removed", "moved"],
)
def test_what_a_webhook_answers_changes_nothing_of_the_run(
    himl: Himl,
    tmp_path: Path,
    webhook: WebhookServer,
    answers: list[int | None],
    moved_to: str,
    requests: int,
    said: str,
) -> None:
    webhook.answers, webhook.moved_to = [*answers], moved_to
    outcome = himl.ok("submit", "train.py", "--notify", webhook.url)
    assert len(webhook.bodies) == requests
    assert show(himl, "latest")["status"] == "Completed"
    assert notified(himl, "latest") == (f"failed: {said}" if said else "sent: localhost")
    assert outcome.stderr.splitlines()[-1] == (
        f"The notification failed: {said}." if said else outcome.stderr.splitlines()[-1]
    )
    assert (said != "") == ("The notification failed" in outcome.stderr)
    assert secrets(tmp_path, outcome) == []


def test_proxies_and_certificate_authorities_of_the_environment_count(
    himl: Himl, tmp_path: Path, webhook: WebhookServer
) -> None:
    behind = {"http_proxy": webhook.address, "no_proxy": ""}
    himl.ok("submit", "train.py", "--notify", f"http://hooks.invalid/{KEY}", env=behind)
    assert webhook.targets == [f"http://hooks.invalid/{KEY}"]
    with serving_webhook(tmp_path / "authorities.pem") as secure:
        himl.ok("submit", "train.py", "--notify", secure.url)
        assert (
            notified(himl, "latest")
            == "failed: the certificate of localhost is not trusted (unable to get local issuer certificate)"
        )
        himl.ok(
            "submit", "train.py", "--notify", secure.url, env={"REQUESTS_CA_BUNDLE": str(tmp_path / "authorities.pem")}
        )
        assert (len(secure.bodies), notified(himl, "latest")) == (1, "sent: localhost")
    himl.ok("submit", "train.py", "--notify", secure.url)
    assert notified(himl, "latest").startswith("failed: localhost cannot be reached: ")
    assert secrets(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--notify", f"hooks.slack.com/{KEY}"), "--notify: himl cannot post to the address."),
        (("--notify", f"ftp://hooks.slack.com/{KEY}"), "--notify: himl cannot post to the address at hooks.slack.com."),
        (
            ("--notify", f"https://ada:{KEY}@hooks.slack.com/"),
            "--notify: himl cannot post to the address at hooks.slack.com.",
        ),
        (("--notify_format", "slack"), "--notify_format slack needs --notify."),
        (("--notify", f"https://a.example/{KEY}", "--notify_format", "html"), "--notify_format cannot be 'html'."),
        (("--notify", f"https://a.example/{KEY}", "--epochs", "3"), "No such option '--epochs'."),
    ],
)
def test_an_address_that_cannot_be_posted_to_is_refused_unseen(
    himl: Himl, tmp_path: Path, webhook: WebhookServer, options: tuple[str, ...], message: str
) -> None:
    outcome = himl("submit", "train.py", *options)
    assert (outcome.code, outcome.stderr.splitlines()[0]) == (2, f"error: {message}")
    assert secrets(tmp_path, outcome) == []
    assert webhook.bodies == []


def test_settings_keep_the_address_out_of_what_is_sent_and_shown(
    himl: Himl, project: Path, webhook: WebhookServer
) -> None:
    for section, name in (("notify", "url"), ("submit", "notify")):
        for file, text in (
            ("himl.toml", f"[{section}]\n{name} = '{webhook.url}'\n"),
            ("himl.private.toml", f"[{section}]\n{name} = ['{webhook.url}']\n"),
        ):
            write_files(project, {file: text})
            outcome = himl("submit", "train.py")
            assert (outcome.code, f"line 2: '{name}' m" in outcome.stderr, KEY in outcome.stderr) == (2, True, False)
            (project / file).unlink()
    write_files(project, {"himl.private.toml": f"[notify]\nurl = '{webhook.url}'\n"})
    rows = {row["option"]: row for row in himl.ok("submit", "train.py", "--show_settings", "--json").json()}
    assert rows["notify"] == {"option": "notify", "value": "***", "source": f"{project / 'himl.private.toml'}:2"}
    assert KEY not in himl.ok("submit", "train.py", "--dry_run").stdout
    write_files(project, {"himl.private.toml": "[notify]\nadress = 'x'\n"})
    assert "line 2: 'adress' is not a key of [notify]." in himl("submit", "train.py").stderr
    assert webhook.bodies == []


def test_a_run_that_is_resumed_needs_the_address_again(
    himl: Himl, project: Path, tmp_path: Path, webhook: WebhookServer
) -> None:
    himl("submit", "train.py", "--notify", webhook.url, "--", "--lr", "2")
    without = himl("submit", "--resume", "latest")
    assert (
        "himl sends no notification, because it does not store the address. Pass it again: --notify URL"
        in without.stderr
    )
    assert "himl.notification" not in show(himl, "latest")["tags"]
    again = himl("submit", "--resume", "latest", "--notify", webhook.url, "--notify_format", "slack")
    assert notified(himl, "latest") == "sent: localhost"
    assert [len(webhook.bodies), *webhook.bodies[1]] == [2, "text"]
    assert secrets(tmp_path, without, again) == []


def test_on_azure_the_command_that_waits_sends_it(
    himl: Himl, running: StagedWorkspace, project: Path, tmp_path: Path, webhook: WebhookServer
) -> None:
    refused = himl(*SUBMIT, "--notify", webhook.url)
    assert (refused.code, refused.stderr.splitlines()[-1]) == (2, "hint: Add --wait.")
    assert not running.state.runs
    sent = himl.ok(*SUBMIT, "--wait", "--notify", webhook.url)
    webhook.answers = [404]
    untold = himl(*SUBMIT, "--wait", "--notify", webhook.url, "--", "--lr", "2")
    assert untold.code == 1
    assert "The notification failed: localhost answered 404 Not Found." in untold.stderr
    passed_over = himl.ok(*SUBMIT, env={"HIML_SUBMIT_NOTIFY": webhook.url})
    assert "Ignored: notify, since" in passed_over.stderr
    assert [(told["status"], told["host"]) for told in webhook.bodies] == [("Completed", ""), ("Failed", "")]
    assert webhook.bodies[0]["url"].startswith("https://ml.azure.com/runs/")
    assert [run.tags.get("himl.notification") for run in running.state.runs.values()] == [
        None,
        "failed: localhost answered 404 Not Found",
        None,
    ]
    here = himl.ok("submit", "train.py", "--record_in", "azure", "--notify", webhook.url)
    assert [webhook.bodies[2][name] for name in ("host", "url")] == [
        platform.node(),
        show(himl, "latest")["tags"]["himl.studio"],
    ]
    assert KEY not in str([(run.job, run.tags) for run in running.state.runs.values()])
    assert secrets(tmp_path, refused, sent, untold, passed_over, here) == []


def test_on_slurm_who_ends_the_whole_sends_it(
    himl: Himl, project: Path, tmp_path: Path, slurm: Slurm, webhook: WebhookServer
) -> None:
    step = {"type": "PythonScriptStep", "source_directory": ".", "script": "train.py"}
    write_files(
        project, {"pipeline.json": json.dumps({"step1": step | {"arguments": "--lr 2"}, "step2": step, "step3": step})}
    )
    on_slurm = ("submit", "--cluster", "slurm:gpu", "-q", "--notify", webhook.url)
    shown = himl.ok(*on_slurm, "train.py", "--dry_run")
    sent = [
        himl.ok(*on_slurm, *words) for words in (["train.py"], ["train.py", "--sweep", "lr=0.5,2"], ["pipeline.json"])
    ]
    ids = [outcome.stdout.strip() for outcome in sent]
    assert [notified(himl, run) for run in ids] == ["sent: localhost"] * 3
    told = {body["id"]: (body["status"], body.get("counts")) for body in webhook.bodies}
    assert told == {
        ids[0]: ("Completed", None),
        ids[1]: ("Failed", {"Completed": 1, "Failed": 1}),
        ids[2]: ("Failed", {"Failed": 1, "Canceled": 2}),
    }
    assert len(webhook.bodies) == 3
    assert KEY not in slurm.calls.read_text()
    assert secrets(tmp_path, shown, *sent) == []
