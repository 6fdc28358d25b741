"""Tests of `himl checkpoint`: fetching checkpoints, pushing them as a new run, and links to them."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import urllib.parse
import urllib.request
from datetime import datetime, timedelta, timezone
from pathlib import Path
from threading import Event
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.azureml_double.faults import Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.state import Right
from tests.support.folders import files_with
from tests.support.running import Himl, until, write_files
from tests.support.runs import RecordedRuns
from tests.support.web import FileServer

HERE = "outputs/checkpoints"
RUN = "train_1_aa"
LAST = Path("checkpoints") / RUN / "last.ckpt"
MAKES_PARTS = """
from pathlib import Path
for name in ("last.ckpt", "epoch=3.ckpt", "part/weights.pt"):
    path = Path("outputs/checkpoints", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("made " + name)
"""
LOOKS = """
from pathlib import Path
print(sorted((path.name, path.read_text()) for path in Path("outputs/checkpoints").rglob("*") if path.is_file()))
"""
JOBS = {"make.py": MAKES_PARTS, "look.py": LOOKS, "environment.yml": "dependencies:\n- python=3.11\n"}
NAMES = {"outputs/checkpoints/last.ckpt", "outputs/checkpoints/epoch=3.ckpt", "outputs/checkpoints/part/weights.pt"}


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    runs = RecordedRuns(project)
    runs.add(
        RUN,
        files={
            f"{HERE}/last.ckpt": b"last",
            f"{HERE}/epoch=1-val_loss=0.5.ckpt": b"one",
            f"{HERE}/epoch=2-val_loss=0.1.ckpt": b"two",
        },
    )
    write_files(project, {"most_recent_run.txt": f"train:{RUN}\n"})
    return runs


def test_bad_source_is_said_and_else_the_path_alone_is_printed(
    himl: Himl, recorded: RecordedRuns, project: Path
) -> None:
    recorded.add("other_2_bb")
    for arguments, code, said in [
        (("",), 2, "The checkpoint source is empty."),
        ((f"{RUN}:/",), 2, "contains no file or folder name."),
        ((RUN, "--output_dir", "~nosuchuser/x"), 3, "There is no folder '~nosuchuser/x'"),
        (("nothing",), 3, "No run 'nothing'"),
        ((RUN, "--run", RUN), 2, "SOURCE and options that select a run cannot be combined."),
        (("--run", f"{RUN},other_2_bb"), 2, "A checkpoint comes from one run, but 2 are selected."),
        ((RUN, "--select", "newest"), 2, "must be last, best, or epoch=N"),
    ]:
        outcome = himl("checkpoint", "fetch", *arguments)
        assert (outcome.code, outcome.stdout) == (code, ""), outcome.stderr
        assert said in outcome.stderr
        assert not (project / "checkpoints").exists()
    for arguments, path in [
        ((RUN, "--goal", "maximize"), LAST.with_name("epoch=1-val_loss=0.5.ckpt")),
        (("--metric", "val/loss", "--output_dir", "weights"), Path("weights/epoch=2-val_loss=0.1.ckpt")),
        ((f"{RUN}:{HERE}/", "--output-dir", "weights", "--workers", "2"), Path("weights")),
    ]:
        assert himl.ok("checkpoint", "fetch", *arguments).stdout == f"{path}\n"
        assert (project / path).exists()
        quiet = himl.ok("checkpoint", "fetch", *arguments, "-q")
        assert (quiet.stdout, quiet.stderr) == (f"{path}\n", "")


def test_numbers_in_names_are_compared_as_the_option_says(himl: Himl, project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add("plain_1_aa", files={f"{HERE}/epoch={number}.ckpt": str(number) for number in (2, 3)})
    runs.log("plain_1_aa", [("val_loss", abs(step - 2.2), step, step) for step in range(5)])
    fetch = ("checkpoint", "fetch", "plain_1_aa", "--metric", "val_loss")
    for options, taken in (
        ((), "epoch=2.ckpt"),
        (("--name_offset", "1"), "epoch=3.ckpt"),
        (("--name_offset", "-1"), "epoch=2.ckpt"),
    ):
        outcome = himl.ok(*fetch, *options)
        assert (Path(outcome.stdout.strip()).name, "add --name_offset 1." in outcome.stderr) == (taken, not options)
    assert "--name_offset 1 applies to a logged metric." in himl(*fetch[:3], "--name_offset", "1").stderr


def test_fetch_of_path_or_url_leaves_no_secret(himl: Himl, project: Path, web: FileServer) -> None:
    write_files(project, {"weights/last.ckpt": "w"})
    home = Path(os.environ["HOME"])
    write_files(home, {"mine.ckpt": "m"})
    for written in ("./weights/last.ckpt", str(project / "weights/last.ckpt"), "weights"):
        outcome = himl.ok("checkpoint", "fetch", written)
        assert (outcome.stdout, outcome.stderr) == (f"{written}\n", "")
    assert himl.ok("checkpoint", "fetch", "~/mine.ckpt").stdout == f"{home / 'mine.ckpt'}\n"
    outcome = himl("checkpoint", "fetch", "early")
    assert (
        outcome.code,
        "File 'early' does not exist, and there is no workspace with such a run." in outcome.stderr,
    ) == (3, True)
    assert sorted(path.name for path in project.iterdir()) == ["weights"]
    web.put("/models/best%20weights.pt", b"weights")
    address = web("/models/best%20weights.pt")
    first = himl("checkpoint", "fetch", f"{address}?sv=1&sig=hush1", "-v")
    path = Path("checkpoints") / "best weights.pt"
    assert (first.code, first.stdout) == (0, f"{path}\n"), first.stderr
    assert (project / path).read_bytes() == b"weights"
    asked = len(web.seen)
    again = himl.ok("checkpoint", "fetch", f"{address}?sv=1&sig=hush2", "--json")
    assert (again.json()["status"], again.json()["address"], len(web.seen)) == ("complete", address, asked + 1)
    assert again.json()["verified"] is None, "nothing came"
    anew = himl.ok("checkpoint", "fetch", f"{address}?sv=1&sig=hush2", "--json", "--output_dir", "anew")
    assert anew.json()["verified"] is False, "the server told no MD5"
    kept = b"".join(file.read_bytes() for file in project.parent.rglob("*") if file.is_file())
    assert "hush" not in first.stderr + again.stderr + again.stdout
    assert b"hush" not in kept
    missing = himl("checkpoint", "fetch", web("/nothing.pt", "sig=hush3"))
    assert (missing.code, missing.stdout, "hush" in missing.stderr) == (3, "", False)


@pytest.mark.large("starts himl to interrupt it")
@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS POSIX signals")
def test_ctrl_c_exits_with_130_and_the_next_call_goes_on(himl: Himl, web: FileServer, project: Path) -> None:
    """The interrupt arrives in the middle of a file. The server sends the first part and holds back the others."""
    body, go_on = os.urandom(36 << 20), Event()
    web.put("/large.ckpt", body)
    web.before = lambda asked: None if len(web.ranges) < 2 else _waited(go_on)
    process = himl.start("checkpoint", "fetch", web("/large.ckpt"))
    until(lambda: len(web.ranges) >= 2)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=100)
    assert (process.returncode, out, b"Interrupted" in said) == (130, b"", True), said
    assert [path.name for path in (project / "checkpoints").glob("[!.]*")] == []
    go_on.set()
    assert himl.ok("checkpoint", "fetch", web("/large.ckpt")).stdout == f"{Path('checkpoints/large.ckpt')}\n"
    assert (project / "checkpoints/large.ckpt").read_bytes() == body


def _waited(event: Event) -> None:
    event.wait(60)


@pytest.fixture
def made(project: Path) -> str:
    write_files(project, JOBS)
    return RecordedRuns(project).add("train_1772366400_0a1b2c3d", files={name: f"made {name}" for name in NAMES})


@pytest.fixture
def kept(azure_environment: StagedWorkspace, project: Path) -> str:
    azure_environment.write_config(project)
    run = azure_environment.add_run("train_1_aa", "train")
    azure_environment.put_artifacts(run, {name: b"made " + name.rpartition("/")[2].encode() for name in NAMES})
    return run.run_id


def test_changed_checkpoints_are_pushed_and_start_next_job(himl: Himl, project: Path) -> None:
    """The round trip of hi-ml's documentation, "Modifying checkpoints stored in an AzureML run"."""
    write_files(project, JOBS)
    first = himl.ok("submit", "make.py", "-q").stdout.strip()
    folder = himl.ok("checkpoint", "fetch", f"{first}:outputs/checkpoints/").stdout.strip()
    for name in ("last.ckpt", "weights.pt"):
        (path,) = project.glob(f"checkpoints/**/{name}")
        path.write_text("changed")
    pushed = himl.ok("checkpoint", "push", folder, "--from", first)
    second = pushed.stdout.strip()
    assert second not in ("", first)
    assert "himl also pushed unchanged files: 'outputs/checkpoints/epoch=3.ckpt'." in pushed.stderr
    assert f"Start from it: himl submit SCRIPT --checkpoint {second}\n" in pushed.stderr
    third = himl.ok("submit", "look.py", "-q", "--checkpoint", second).stdout.strip()
    assert himl.ok("runs", "logs", third).stdout == "[('last.ckpt', 'changed')]\n"
    fetched = himl.ok("checkpoint", "fetch", f"{second}:part/weights.pt").stdout.strip()
    assert (project / fetched).read_text() == "changed"
    once_more = himl.ok("checkpoint", "push", f"{folder}/part/weights.pt", "--from", second, "--json").json()
    assert once_more["files"] == once_more["unchanged"] == ["outputs/checkpoints/part/weights.pt"]
    assert (project / "most_recent_run.txt").read_text().strip().endswith(third)


def test_refused_push_makes_no_run_and_a_new_one_says_what_it_is(himl: Himl, project: Path, made: str) -> None:
    write_files(project, {"a.ckpt": "a"})
    for arguments, code, said in (
        (("a.ckpt", "--from", f"{made[:-1]}x"), 3, f"Did you mean {made}?"),
        (("a.ckpt", "--from", ""), 2, "--from"),
        (("a.ckpt",), 2, "--from"),
        (("make.py", " ", "--from", made), 2, "FILE got an empty value."),
        (("https://example.org/m.ckpt", "--from", made), 3, "Fetch the file first: himl checkpoint fetch URL"),
    ):
        outcome = himl("checkpoint", "push", *arguments)
        assert (outcome.code, outcome.stdout, said in outcome.stderr) == (code, "", True), outcome.stderr
    other = himl("checkpoint", "push", "a.ckpt", "--from", made, env={"RANK": "8", "LOCAL_RANK": "0"})
    assert (other.code, other.stdout, other.stderr) == (0, "", "Skipped on rank 8: only rank 0 pushes checkpoints.\n")
    assert himl.ok("runs", "list", "-q").stdout.split() == [made]
    assert himl("checkpoint", "push", "a.ckpt", "--from", made, env={"RANK": "0", "LOCAL_RANK": "0"}).stdout.startswith(
        "train_"
    )
    write_files(project, {"new.ckpt": "new"})
    pushed = himl.ok("checkpoint", "push", "new.ckpt", "--from", f"train:{made}", "--tag", "team=blue", "--json").json()
    assert (pushed["from"], pushed["files"], pushed["unchanged"]) == (made, ["outputs/checkpoints/new.ckpt"], [])
    assert pushed["checkpoint"] == f"{pushed['id']}:new.ckpt"
    shown = himl.ok("runs", "show", pushed["id"], "--json").json()
    assert (shown["status"], shown["experiment"], shown["display_name"]) == (
        "Completed",
        "train",
        f"changed checkpoints of {made}",
    )
    assert shown["description"] == f"Changed checkpoints of run train:{made}"
    tags = {name: shown["tags"][name] for name in ("himl.checkpoint_from", "himl.pushed", "team", "run_recovery_id")}
    assert tags == {
        "himl.checkpoint_from": made,
        "himl.pushed": "1",
        "team": "blue",
        "run_recovery_id": f"train:{pushed['id']}",
    }
    assert himl.ok("submit", "look.py", "--checkpoint", pushed["checkpoint"]).stdout == "[('last.ckpt', 'new')]\n"
    named = himl.ok(
        "checkpoint",
        "push",
        "new.ckpt",
        "--from",
        made,
        "--experiment",
        "my surgery",
        "--display_name",
        "With new head",
        "--json",
    ).json()
    assert (named["experiment"], named["display_name"]) == ("my_surgery", "With new head")


def test_it_goes_where_the_source_is_and_elsewhere_on_request(
    himl: Himl, project: Path, azure: StagedWorkspace, kept: str
) -> None:
    write_files(project, {"new/last.ckpt": "new"})
    here = RecordedRuns(project).add("here_1772366400_0a1b2c3d")
    config = str(project / "config.json")

    def push(*options: str) -> str:
        return himl.ok("checkpoint", "push", "new", *options, "-q").stdout.strip()

    there = push("--from", kept)
    assert azure.artifacts(there) == {"outputs/checkpoints/last.ckpt": b"new"}
    stored = azure.state.storage.properties(
        "azureml", f"{azure.state.runs[there].artifact_prefix}outputs/checkpoints/last.ckpt"
    )
    assert stored is not None
    assert bytes(stored.content_settings.content_md5 or b"") == hashlib.md5(b"new").digest()
    assert push("--from", here) not in azure.state.runs
    sent = push("--from", here, "--workspace", config)
    assert (azure.state.runs[sent].tags["himl.checkpoint_from"], azure.state.runs[sent].status) == (here, "Completed")
    brought = push("--from", kept, "--workspace", "local")
    assert brought not in azure.state.runs
    assert (
        himl.ok("runs", "show", brought, "--workspace", "local", "--json").json()["tags"]["himl.checkpoint_from"]
        == kept
    )


def test_an_upload_that_fails_leaves_a_run_that_failed(
    himl: Himl, project: Path, azure: StagedWorkspace, kept: str
) -> None:
    write_files(project, {"new/last.ckpt": "new", "new/other.ckpt": "other"})
    azure.stage.faults.add(Status(403, code="AuthorizationPermissionMismatch"), "PUT .*last.ckpt", times=None)
    outcome = himl("checkpoint", "push", "new", "--from", kept)
    (run,) = (run for run in azure.state.runs.values() if run.run_id != kept)
    assert (outcome.code, outcome.stdout, run.status) == (4, "", "Failed"), outcome.stderr
    assert f"Run '{run.run_id}' is missing files, and ended as Failed." in outcome.stderr
    assert "Push again, which creates another run." in outcome.stderr
    assert "Not all files could be stored" in str(run.error)
    azure.stage.faults.add(Status(403, code="AuthorizationFailed"), r"POST .*/events$", skip=1, times=None)
    outcome = himl("checkpoint", "push", "new", "--from", kept)
    assert (outcome.code, "could not be ended and may stay Running" in outcome.stderr) == (4, True), outcome.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("request_line", "skip", "status"),
    [
        ("PUT .*last.ckpt", 0, "Canceled"),
        ("PATCH .*/runs/", 0, "Canceled"),
        ("POST .*/events", 0, "Canceled"),
        ("POST .*/events", 1, "Completed"),
    ],
)
def test_an_interrupted_push_leaves_no_run_that_goes_on(
    himl: Himl, project: Path, azure: StagedWorkspace, kept: str, request_line: str, skip: int, status: str
) -> None:
    write_files(project, {"last.ckpt": "new"})

    def is_sending() -> bool:
        return any("Meanwhile" in seen.faults for seen in azure.stage.log.all()) and len(azure.state.runs) == 2

    with (
        azure.stage.holding(request_line, skip=skip, times=1),
        himl.start("checkpoint", "push", "last.ckpt", "--from", kept) as pushing,
    ):
        until(is_sending)
        os.kill(pushing.pid, signal.SIGINT)
        printed, said = pushing.communicate(timeout=100)
    (run,) = (run for run in azure.state.runs.values() if run.run_id != kept)
    assert (pushing.returncode, printed, run.status) == (130, b"", status), said
    assert (b"Interrupted" in said, b"has all files, and" in said) == (True, status == "Completed")
    if request_line.startswith("PUT"):
        assert f"Run '{run.run_id}' is missing files, and ended as Canceled".encode() in said


def got(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
        return content


def test_a_run_of_this_machine_has_none_and_the_way_out_is_said(himl: Himl, project: Path) -> None:
    run_id = RecordedRuns(project).add("here_1_aa", files={"outputs/checkpoints/last.ckpt": "x"})
    outcome = himl("checkpoint", "url", run_id)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert f"himl checkpoint push FILE --from {run_id} --workspace config.json" in outcome.stderr
    himl.ok("runs", "tag", run_id, "himl.recorded_in=workspace team/lab")
    assert (
        "It is also recorded in workspace team/lab. To use that, add --workspace config.json."
        in himl("checkpoint", "url", run_id).stderr
    )


def test_link_alone_is_printed_and_opens_the_file(
    himl: Himl, project: Path, azure_environment: StagedWorkspace, tmp_path: Path
) -> None:
    azure = azure_environment
    azure.write_config(project)
    run = azure.add_run("train_1_aa", "train")
    content = {"last.ckpt": b"last", "epoch=3-val_loss=0.2.ckpt": b"best", "epoch=1-val_loss=0.5.ckpt": b"1"}
    azure.put_artifacts(run, {f"outputs/checkpoints/{name}": body for name, body in content.items()})
    linked = run.run_id
    write_files(project, {"here.ckpt": "x"})
    for arguments, code, words in (
        ((linked, "--expiry_days", "0.0005"), 2, "--expiry_days must be a number from 0.001 to 365, not 0.0005."),
        ((linked, "--expiry_days", "nan"), 2, "not nan."),
        ((f"{linked}:outputs/checkpoints/",), 2, "is a folder with 3 files, but a link leads to one file."),
        ((f"{linked}:none.ckpt",), 3, "none.ckpt"),
        (("nothing",), 3, "No run 'nothing'"),
        (("https://example.org/a.ckpt",), 2, "The source is already an address."),
        (("here.ckpt",), 2, "'here.ckpt' is on this machine"),
        ((linked, "--run", linked), 2, ""),
        ((), 2, ""),
    ):
        outcome = himl("checkpoint", "url", *arguments)
        assert (outcome.code, words in outcome.stderr, outcome.stdout) == (code, True, ""), outcome.stderr
    outcome = himl.ok("checkpoint", "url", linked)
    assert (outcome.stdout.count("\n"), got(outcome.stdout.strip())) == (1, b"last")
    ends = datetime.now(timezone.utc) + timedelta(days=10, minutes=-15)
    assert (
        f"Everyone with this link can read 'outputs/checkpoints/last.ckpt' of run {linked} until {ends:%Y-%m-%d}"
        in outcome.stderr
    )
    assert himl.ok("checkpoint", "url", linked, "-q").stderr == ""
    best = himl.ok("checkpoint", "url", linked, "--select", "best", "--expiry_days", "0.5", "--json").json()
    assert (got(best["url"]), best["name"], best["run"]) == (
        b"best",
        "outputs/checkpoints/epoch=3-val_loss=0.2.ckpt",
        linked,
    )
    ends = datetime.fromisoformat(best["expires"].replace("Z", "+00:00"))
    assert timedelta(hours=11.6) < ends - datetime.now(timezone.utc) < timedelta(hours=11.8), (
        "half a day in all, begun a quarter of an hour ago"
    )
    assert (
        got(
            himl.ok(
                "checkpoint", "url", f"--run_id=train:{linked}:epoch=1-val_loss=0.5.ckpt", "--expiry_days=365"
            ).stdout.strip()
        )
        == b"1"
    )
    for takes_keys in (True, False):
        azure.state.storage.takes_keys = takes_keys
        outcome = himl.ok("checkpoint", "url", linked, "--verbose")
        signature = parse_qs(urlsplit(outcome.stdout.strip()).query)["sig"][0]
        for secret in (signature, urllib.parse.quote(signature, safe=""), azure.state.storage.key, "eyJ"):
            assert secret not in outcome.stderr
            # Tokens are in the cache, which only their user can read.
            assert secret == "eyJ" or files_with(tmp_path, secret) == []
    assert got(outcome.stdout.strip()) == b"last"
    assert "The link is valid for less than 10 days" in outcome.stderr
    assert "less" not in himl.ok("checkpoint", "url", linked, "--expiry_days", "6").stderr
    azure.put_artifacts(azure.add_run("open_2_bb", "train", status="Running"), {"outputs/checkpoints/last.ckpt": b"1"})
    for action in ("fetch", "url"):
        said = himl.ok("checkpoint", action, "open_2_bb").stderr
        assert "Run 'open_2_bb' has not ended. It may write more files.\n" in said
        said = himl.ok("checkpoint", action, linked, "--select", "best").stderr
        assert said.startswith("By the name of the metric, the lowest val_loss is best.")
    azure.state.storage.sas_seconds = 30 * 86400
    outcome = himl("checkpoint", "url", linked, env=azure.environment(azure.add_principal({Right.READ})))
    assert (outcome.code, outcome.stdout, "Storage Blob Data Reader" in outcome.stderr) == (4, "", True)
