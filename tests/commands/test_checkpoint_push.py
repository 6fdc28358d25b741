"""`himl checkpoint push`: changed checkpoints become a run of their own, here and on Azure ML, from which jobs start."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.servers.azureml.faults import Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, until, write_files
from tests.support.runs import RecordedRuns

MAKES = """
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
JOBS = {"make.py": MAKES, "look.py": LOOKS, "environment.yml": "dependencies:\n- python=3.11\n"}
NAMES = {"outputs/checkpoints/last.ckpt", "outputs/checkpoints/epoch=3.ckpt", "outputs/checkpoints/part/weights.pt"}


@pytest.fixture
def made(project: Path) -> str:
    """The id of a run here that kept checkpoints."""
    write_files(project, JOBS)
    return RecordedRuns(project).add("train_1772366400_0a1b2c3d", files={name: f"made {name}" for name in NAMES})


@pytest.fixture
def kept(azure_environment: StagedWorkspace, project: Path) -> str:
    """The id of a run of Azure ML that kept checkpoints; the project's config.json names its workspace."""
    azure_environment.write_config(project)
    run = azure_environment.add_run("train_1_aa", "train")
    azure_environment.put_artifacts(run, {name: b"made " + name.rpartition("/")[2].encode() for name in NAMES})
    return run.run_id


def changed(project: Path, name: str) -> None:
    """Change the file of this name, wherever it was fetched to."""
    (path,) = project.glob(f"checkpoints/**/{name}")
    path.write_text("changed")


def run_ids(himl: Himl) -> list[str]:
    return himl.ok("runs", "list", "-q").stdout.split()


@pytest.mark.parametrize("place", ["here", "azure"])
def test_changed_checkpoints_are_pushed_and_start_next_job(himl: Himl, project: Path, place: str, request: pytest.FixtureRequest) -> None:
    """The round trip of hi-ml's documents, `Modifying checkpoints stored in an AzureML run`."""
    write_files(project, JOBS)
    where: list[str] = []
    if place == "azure":
        azure: StagedWorkspace = request.getfixturevalue("azure_environment")
        azure.write_config(project)
        request.addfinalizer(azure.run_jobs().close)
        where = ["--cluster", "cpu-cluster", "--wait"]
    first = himl.ok("submit", "make.py", "-q", *where).stdout.strip()
    folder = himl.ok("checkpoint", "fetch", f"{first}:outputs/checkpoints/").stdout.strip()
    changed(project, "last.ckpt")
    changed(project, "weights.pt")
    pushed = himl.ok("checkpoint", "push", folder, "--from", first)
    second = pushed.stdout.strip()
    assert second not in ("", first)
    assert "Unchanged, and pushed all the same: 'outputs/checkpoints/epoch=3.ckpt'." in pushed.stderr
    assert f"Start from it: himl submit SCRIPT --checkpoint {second}\n" in pushed.stderr
    third = himl.ok("submit", "look.py", "-q", *where, "--checkpoint", second).stdout.strip()
    assert himl.ok("runs", "logs", third).stdout == "[('last.ckpt', 'changed')]\n"
    fetched = himl.ok("checkpoint", "fetch", f"{second}:part/weights.pt").stdout.strip()
    assert (project / fetched).read_text() == "changed"
    once_more = himl.ok("checkpoint", "push", f"{folder}/part/weights.pt", "--from", second, "--json").json()
    assert once_more["files"] == once_more["unchanged"] == ["outputs/checkpoints/part/weights.pt"]
    assert (project / "most_recent_run.txt").read_text().strip().endswith(third)


def test_the_new_run_says_what_it_is(himl: Himl, project: Path, made: str) -> None:
    write_files(project, {"new.ckpt": "new"})
    pushed = himl.ok("checkpoint", "push", "new.ckpt", "--from", f"train:{made}", "--tag", "team=blue", "--json").json()
    assert (pushed["from"], pushed["files"], pushed["unchanged"]) == (made, ["outputs/checkpoints/new.ckpt"], [])
    assert pushed["checkpoint"] == f"{pushed['id']}:new.ckpt"
    shown = himl.ok("runs", "show", pushed["id"], "--json").json()
    assert (shown["status"], shown["experiment"], shown["display_name"]) == ("Completed", "train", f"changed checkpoints of {made}")
    assert shown["description"] == f"Changed checkpoints of run train:{made}"
    tags = {name: shown["tags"][name] for name in ("himl.checkpoint_from", "himl.pushed", "team", "run_recovery_id")}
    assert tags == {"himl.checkpoint_from": made, "himl.pushed": "1", "team": "blue", "run_recovery_id": f"train:{pushed['id']}"}
    assert himl.ok("submit", "look.py", "--checkpoint", pushed["checkpoint"]).stdout == "[('last.ckpt', 'new')]\n"
    named = himl.ok("checkpoint", "push", "new.ckpt", "--from", made, "--experiment", "my surgery", "--display_name", "With new head", "--json").json()
    assert (named["experiment"], named["display_name"]) == ("my_surgery", "With new head")


def test_it_goes_where_the_source_is_and_elsewhere_on_request(himl: Himl, project: Path, azure: StagedWorkspace, kept: str) -> None:
    """A run of Azure ML is pushed to there, beside a local workspace; a run of here goes there by name, and the other way round."""
    write_files(project, {"new/last.ckpt": "new"})
    here = RecordedRuns(project).add("here_1772366400_0a1b2c3d")
    config = str(project / "config.json")

    def push(*options: str) -> str:
        return himl.ok("checkpoint", "push", "new", *options, "-q").stdout.strip()

    there = push("--from", kept)
    assert azure.artifacts(there) == {"outputs/checkpoints/last.ckpt": b"new"}
    stored = azure.state.storage.properties("azureml", f"{azure.state.runs[there].artifact_prefix}outputs/checkpoints/last.ckpt")
    assert stored is not None
    assert bytes(stored.content_settings.content_md5 or b"") == hashlib.md5(b"new").digest()
    assert push("--from", here) not in azure.state.runs
    sent = push("--from", here, "--workspace", config)
    assert (azure.state.runs[sent].tags["himl.checkpoint_from"], azure.state.runs[sent].status) == (here, "Completed")
    brought = push("--from", kept, "--workspace", "local")
    assert brought not in azure.state.runs
    assert himl.ok("runs", "show", brought, "--workspace", "local", "--json").json()["tags"]["himl.checkpoint_from"] == kept


def test_failed_push_prints_one_line_and_creates_no_run(himl: Himl, project: Path, made: str) -> None:
    write_files(project, {"a/last.ckpt": "a", "b/last.ckpt": "b"})
    outcome = himl("checkpoint", "push", "a", "b", "--from", made)
    assert (outcome.code, outcome.stdout, "would both be 'outputs/checkpoints/last.ckpt' in the new run." in outcome.stderr) == (2, "", True)
    assert himl("checkpoint", "push", "no.ckpt", "--from", made).code == 3
    assert run_ids(himl) == [made]


def test_an_unknown_source_is_said_and_one_has_to_be_named(himl: Himl, project: Path, made: str) -> None:
    write_files(project, {"a.ckpt": "a"})
    unknown = himl("checkpoint", "push", "a.ckpt", "--from", f"{made[:-1]}x")
    assert (unknown.code, f"Did you mean {made}?" in unknown.stderr) == (3, True), unknown.stderr
    assert himl("checkpoint", "push", "a.ckpt", "--from", "").code == 2
    missing = himl("checkpoint", "push", "a.ckpt")
    assert (missing.code, "--from" in missing.stderr) == (2, True)
    assert run_ids(himl) == [made]


def test_of_several_ranks_only_the_first_pushes(himl: Himl, project: Path, made: str) -> None:
    write_files(project, {"a.ckpt": "a"})
    other = himl("checkpoint", "push", "a.ckpt", "--from", made, env={"RANK": "8", "LOCAL_RANK": "0"})
    assert (other.code, other.stdout, other.stderr) == (0, "", "Rank 8 pushes nothing: rank 0 does.\n")
    assert himl("checkpoint", "push", "a.ckpt", "--from", made, env={"RANK": "0", "LOCAL_RANK": "0"}).stdout.strip() in run_ids(himl)


def test_an_upload_that_fails_leaves_a_run_that_failed(himl: Himl, project: Path, azure: StagedWorkspace, kept: str) -> None:
    write_files(project, {"new/last.ckpt": "new", "new/other.ckpt": "other"})
    azure.stage.faults.add(Status(403, code="AuthorizationPermissionMismatch"), "PUT .*last.ckpt", times=None)
    outcome = himl("checkpoint", "push", "new", "--from", kept)
    (run,) = (run for run in azure.state.runs.values() if run.run_id != kept)
    assert (outcome.code, outcome.stdout, run.status) == (4, "", "Failed"), outcome.stderr
    assert f"Run '{run.run_id}' has not all of the files, and ended as Failed." in outcome.stderr
    assert "Push again: that makes another run." in outcome.stderr
    assert "Not all files could be stored" in str(run.error)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("request_line", ["PUT .*last.ckpt", "PATCH .*/runs/", "POST .*/events"])
def test_an_interrupted_push_leaves_a_canceled_run(himl: Himl, project: Path, azure: StagedWorkspace, kept: str, request_line: str) -> None:
    write_files(project, {"last.ckpt": "new"})

    def is_sending() -> bool:
        return any("Meanwhile" in seen.faults for seen in azure.stage.log.all()) and len(azure.state.runs) == 2

    with azure.stage.holding(request_line, times=1), himl.start("checkpoint", "push", "last.ckpt", "--from", kept) as pushing:
        until(is_sending)
        os.kill(pushing.pid, signal.SIGINT)
        printed, said = pushing.communicate(timeout=100)
    (run,) = (run for run in azure.state.runs.values() if run.run_id != kept)
    assert (pushing.returncode, printed, run.status) == (130, b"", "Canceled"), said
    assert b"Interrupted" in said
    if request_line.startswith("PUT"):
        assert f"run '{run.run_id}' has not all of the files, and ended as Canceled".encode() in said


def test_where_the_end_cannot_be_told_that_is_said(himl: Himl, project: Path, azure: StagedWorkspace, kept: str) -> None:
    write_files(project, {"last.ckpt": "new"})
    azure.stage.faults.add(Status(403, code="AuthorizationPermissionMismatch"), "PUT .*last.ckpt", times=None)
    azure.stage.faults.add(Status(403, code="AuthorizationFailed"), r"POST .*/events$", skip=1, times=None)
    outcome = himl("checkpoint", "push", "last.ckpt", "--from", kept)
    assert (outcome.code, "could not be ended: it may go on as Running" in outcome.stderr) == (4, True), outcome.stderr


def test_an_unset_shell_variable_is_no_file(himl: Himl, made: str) -> None:
    for files in ([""], ["make.py", " "]):
        outcome = himl("checkpoint", "push", *files, "--from", made)
        assert (outcome.code, "FILE got an empty value." in outcome.stderr) == (2, True), outcome.stderr
    assert run_ids(himl) == [made]
