"""`himl checkpoint url`: the link alone on stdout, what it is good for on stderr, and the signature nowhere else."""

from __future__ import annotations

import math
import urllib.parse
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from himl_cli.core.errors import BadUsage, HimlError, NotFound, RunNotFound
from himl_cli.services.checkpoints.source import link_checkpoint
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened
from tests.support.folders import files_with
from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns

FILES = {
    "outputs/checkpoints/last.ckpt": b"last",
    "outputs/checkpoints/epoch=3-val_loss=0.2.ckpt": b"best",
    "outputs/checkpoints/epoch=1-val_loss=0.5.ckpt": b"1",
}


@pytest.fixture
def run(azure_environment: StagedWorkspace, project: Path) -> str:
    azure_environment.write_config(project)
    run = azure_environment.add_run("train_1_aa", "train")
    azure_environment.put_artifacts(run, FILES)
    return run.run_id


def got(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        content: bytes = answer.read()
        return content


def test_the_link_alone_is_printed_and_opens_the_file(himl: Himl, run: str) -> None:
    outcome = himl.ok("checkpoint", "url", run)
    assert outcome.stdout.count("\n") == 1
    assert got(outcome.stdout.strip()) == b"last"
    ends = datetime.now(timezone.utc) + timedelta(days=10, minutes=-15)
    assert f"Whoever has this link can read 'outputs/checkpoints/last.ckpt' of run {run} until {ends:%Y-%m-%d}" in outcome.stderr
    assert himl.ok("checkpoint", "url", run, "-q").stderr == ""


def test_hi_mls_line_is_understood(himl: Himl, run: str) -> None:
    outcome = himl.ok("checkpoint", "url", f"--run_id={run}:epoch=1-val_loss=0.5.ckpt", "--expiry_days=10")
    assert got(outcome.stdout.strip()) == b"1"
    assert himl("checkpoint", "url", run, "--run", run).code == himl("checkpoint", "url").code == 2


def test_any_file_may_be_meant_as_for_fetch(himl: Himl, run: str) -> None:
    best = himl.ok("checkpoint", "url", run, "--select", "best", "--expiry_days", "0.5", "--json").json()
    assert (got(best["url"]), best["name"], best["run"]) == (b"best", "outputs/checkpoints/epoch=3-val_loss=0.2.ckpt", run)
    ends = datetime.fromisoformat(best["expires"].replace("Z", "+00:00"))
    assert timedelta(hours=11.7) < ends - datetime.now(timezone.utc) < timedelta(hours=11.8), "half a day in all, begun a quarter of an hour ago"
    assert got(himl.ok("checkpoint", "url", f"train:{run}:epoch=1-val_loss=0.5.ckpt", "--expiry_days", "365").stdout.strip()) == b"1"


def test_it_can_be_started_from_in_another_workspace(himl: Himl, project: Path, run: str) -> None:
    write_files(project, {"look.py": "from pathlib import Path\nprint(Path('outputs/checkpoints/last.ckpt').read_text())\n"})
    link = himl.ok("checkpoint", "url", run, "-q").stdout.strip()
    outcome = himl.ok("submit", "look.py", "--workspace", "local", "--checkpoint", link, "--verbose")
    assert outcome.stdout == "last\n"
    signature = parse_qs(urlsplit(link).query)["sig"][0]
    assert signature not in outcome.stderr


def test_url_without_account_key_lasts_a_week_and_prints_that(himl: Himl, azure: StagedWorkspace, run: str) -> None:
    azure.state.storage.takes_keys = False
    outcome = himl.ok("checkpoint", "url", run)
    assert got(outcome.stdout.strip()) == b"last"
    assert "That is less than the 10 days asked for" in outcome.stderr
    assert "less" not in himl.ok("checkpoint", "url", run, "--expiry_days", "6").stderr


def test_who_may_make_no_link_is_told(himl: Himl, azure: StagedWorkspace, run: str) -> None:
    azure.state.storage.sas_seconds = 30 * 86400
    reader = azure.environment(azure.add_principal({Right.READ}))
    outcome = himl("checkpoint", "url", run, env=reader)
    assert (outcome.code, outcome.stdout) == (4, "")
    assert "Storage Blob Data Reader" in outcome.stderr


def test_what_has_no_link_is_said_in_a_line(himl: Himl, azure: StagedWorkspace, project: Path, run: str) -> None:
    write_files(project, {"here.ckpt": "x"})
    for arguments, code, words in (
        ([run, "--expiry_days", "0"], 2, "--expiry_days takes a number from 0.001 to 365, got 0."),
        ([run, "--expiry_days", "0.0005"], 2, "--expiry_days takes a number from 0.001"),
        ([run, "--expiry_days", "ten"], 2, "--expiry_days"),
        ([f"{run}:outputs/checkpoints/"], 2, "is a folder with 3 files, and a link is to one file."),
    ):
        outcome = himl("checkpoint", "url", *arguments)
        assert (outcome.code, words in outcome.stderr, outcome.stdout) == (code, True, ""), outcome.stderr
    refused: list[tuple[str, float, type[HimlError], str]] = [
        (run, -1, BadUsage, "got -1."),
        (run, math.nan, BadUsage, "got nan."),
        (run, 366, BadUsage, "got 366."),
        (f"{run}:none.ckpt", 1, NotFound, "none.ckpt"),
        ("nothing", 1, RunNotFound, "No run 'nothing'"),
        ("https://example.org/a.ckpt", 1, BadUsage, "This is the address of a file already."),
        ("here.ckpt", 1, BadUsage, "'here.ckpt' is on this machine"),
    ]
    with opened(azure, project) as workspace:
        for source, days, kind, words in refused:
            with pytest.raises(kind, match=words):
                link_checkpoint(source, workspace, project, days=days)


def test_a_run_of_this_machine_has_none_and_the_way_out_is_said(himl: Himl, project: Path) -> None:
    run_id = RecordedRuns(project).add("here_1_aa", files={"outputs/checkpoints/last.ckpt": "x"})
    outcome = himl("checkpoint", "url", run_id)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert f"himl checkpoint push FILE --from {run_id} --workspace config.json" in outcome.stderr
    himl.ok("runs", "tag", run_id, "himl.recorded_in=workspace team/lab")
    assert "It is recorded in workspace team/lab too: name that by --workspace config.json." in himl("checkpoint", "url", run_id).stderr


def test_a_file_here_needs_no_workspace_to_be_refused(himl: Himl, project: Path) -> None:
    write_files(project, {"a.ckpt": "x"})
    assert "'a.ckpt' is on this machine" in himl("checkpoint", "url", "a.ckpt").stderr


def test_the_signature_is_in_no_log_and_in_no_file(himl: Himl, azure: StagedWorkspace, project: Path, run: str, tmp_path: Path) -> None:
    for takes_keys in (True, False):
        azure.state.storage.takes_keys = takes_keys
        outcome = himl.ok("checkpoint", "url", run, "--verbose")
        signature = parse_qs(urlsplit(outcome.stdout.strip()).query)["sig"][0]
        for secret in (signature, urllib.parse.quote(signature, safe=""), azure.state.storage.key, "eyJ"):
            assert secret not in outcome.stderr
            kept = files_with(tmp_path, secret)
            assert kept == [] or secret == "eyJ"  # tokens are in the cache, for their user alone
