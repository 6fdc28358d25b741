"""A workspace of several users: two members of a group, and one who may only read (needs root). A workspace of several
machines.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.locks import ProcessLock
from himl_cli.core.runs import RunStatus
from tests.support.running import PROGRAM, Himl, until, write_files
from tests.support.runs import RecordedRuns
from tests.support.tensorboard import serving
from tests.support.users import ADA, BOB, EVE, LAB, as_user

SCRIPT = """
import os, sys, time
from himl_cli import RUN_CONTEXT

RUN_CONTEXT.log("loss", 0.5)
open("outputs/model.txt", "w").write("trained")
if "wait" in sys.argv:
    while True: time.sleep(0.1)
sys.exit("fail" in sys.argv and os.environ["HIML_TRY"] == "1")
"""

STRANGER = """
import os, sys, urllib.error, urllib.request
from pathlib import Path

def status(path):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/{path}").status
    except urllib.error.HTTPError as err:
        return err.code

print(status(""), status("ajax-api/2.0/mlflow/experiments/search?max_results=9"))
token = sys.stdin.read().encode()
for path in [Path("/proc", pid, name) for pid in os.listdir("/proc") if pid.isdigit()
    for name in ("cmdline", "environ")]:
    try:
        content = path.read_bytes()
    except OSError:
        continue
    if token in content:
        print(path, content)
"""


@pytest.mark.large("starts himl many times as other users")
def test_members_of_a_group_share_a_workspace_and_readers_leave_nothing(started_himl: Himl, shared: Path) -> None:
    project = shared / "project"
    project.mkdir()
    os.chown(project, ADA, LAB)
    project.chmod(0o2775)
    write_files(project, {"train.py": SCRIPT, "pyproject.toml": ""})
    ada, bob, eve = (as_user(user, shared, group) for user, group in ((ADA, LAB), (BOB, LAB), (EVE, None)))

    def himl(who: object, *words: str, code: int = 0) -> str:
        done = started_himl(*words, cwd=project, prefix=who)  # type: ignore[arg-type]
        assert done.code == code, done.stderr
        return done.stdout.strip()

    first = himl(ada, "submit", "train.py", "-q", "--", "fail", code=1)
    # A process that ends just now may still remove files of its own.
    before = set((project / ".himl").iterdir())
    assert first in himl(eve, "runs", "list", "--num_runs", "all")
    assert set((project / ".himl").iterdir()) <= before, "a reader leaves no files"
    assert stat.S_IMODE((project / ".himl" / "workspace.db").stat().st_mode) == 0o664
    assert first in himl(bob, "runs", "list")
    running = himl(ada, "submit", "train.py", "-q", "--no_wait", "--", "wait")
    until(lambda: "Running" in himl(eve, "runs", "show", running))
    ui, home = shared / "ui", shared / f"home_{EVE}"
    ui.mkdir()
    (ui / "tmp").symlink_to(home)
    before = set((project / ".himl").iterdir())
    with serving(Himl(PROGRAM, project), ui, prefix=eve, command=["ui"]) as board:
        shown = board.ask("ajax-api/2.0/mlflow/runs/get", run_id=first)["run"]
        assert (shown["info"]["status"], shown["data"]["metrics"][0]["value"]) == ("FAILED", 0.5)
        assert set((project / ".himl").iterdir()) <= before, "a reader's server leaves no files"
        looked = subprocess.run(
            [*bob, sys.executable, "-c", STRANGER, str(board.port)], input=board.token, capture_output=True, text=True
        )
        assert (looked.stdout, looked.stderr) == ("403 403\n", ""), "another user is refused and finds no token"
    himl(bob, "runs", "cancel", running)
    until(lambda: "Canceled" in himl(eve, "runs", "show", running))
    himl(bob, "runs", "tag", first, "reviewed=yes")
    himl(bob, "submit", "--resume", first, "-q")
    assert "reviewed" in himl(ada, "runs", "show", first)
    himl(bob, "download", first, "--output_dir", str(shared / f"home_{BOB}" / "files"))
    himl(eve, "download", first, "--output_dir", str(shared / f"home_{EVE}" / "files"))
    himl(eve, "runs", "tag", first, "mine=yes", code=1)
    mark = project / ".himl" / "starting" / "train_0"
    mark.parent.mkdir(exist_ok=True)
    mark.touch(mode=0o600)  # of a start by root that was killed
    himl(bob, "runs", "delete", first, "--yes")
    himl(ada, "submit", "train.py", "-q")


def sign(lock: Path, *, since_start: bool = True, **changed: str) -> None:
    """Leave a lock as a process left it that was killed: this one, or one that differs in *changed*."""
    held = ProcessLock(lock)
    assert held.take()
    held.sign()
    names = ("host", "boot", "space", "process")
    words = dict(zip(names, lock.read_text().split(), strict=True)) | changed
    held.release()
    lock.write_text(" ".join(words.values()))
    if not since_start:
        os.utime(lock, (0, 0))


@pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="NEEDS /proc")
def test_run_whose_lock_is_not_visible_is_neither_ended_nor_deleted(himl: Himl, project: Path) -> None:
    empty, host = RecordedRuns(project), os.uname().nodename
    signed = {
        "elsewhere": ({"host": "node7", "boot": "b"}, "Running (unknown: node7 holds its lock)"),
        "container": ({"space": "pid:[1]"}, f"Running (unknown: another container on {host} holds its lock)"),
        "namesake": ({"boot": "b"}, f"Running (unknown: {host} holds its lock)"),
        "alive": ({}, "Running"),
        "killed": ({"process": "1@1"}, "Failed"),
        "before": ({"boot": "b", "since_start": False}, "Failed"),
        "released": (None, "Failed"),
        "noted": ({"host": "node7", "boot": "b"}, "Completed"),
    }
    runs = {name: empty.folder / ".himl" / "runs" / empty.add(name, status=RunStatus.running) for name in signed}
    for name, (changed, _) in signed.items():
        if changed is not None:
            sign(runs[name] / "lock", **changed)  # type: ignore[arg-type]
    empty.add("nested", parent="elsewhere", status=RunStatus.running)
    end = {"status": "Completed", "reason": "", "exit_code": 0, "ended": 1_772_366_500_000}
    write_files(runs["noted"], {"end.json": json.dumps(end)})

    listed = dict(line.split("\t")[:4:3] for line in himl("runs", "list").stdout.splitlines()[1:])
    assert listed == {name: status for name, (_, status) in signed.items()}
    assert himl("runs", "show", "nested", "--json").json()["reason"] == "unknown: node7 holds its lock"
    assert "In progress   unknown: node7 holds its lock" in himl("runs", "show", "elsewhere").stdout
    for run in ("elsewhere", "nested", "container"):
        for command in ("cancel", "delete"):
            refused = himl("runs", command, run, "--yes")
            holder = "node7" if run != "container" else f"another container on {host}"
            doubt = f"error: It is unknown whether run '{run}' is in progress: {holder} holds its lock."
            assert (refused.code, refused.stderr.splitlines()[0]) == (2, doubt)
            assert f"himl runs {command} {run} --force" in refused.stderr
    for act in (empty.workspace.cancel, empty.workspace.delete):
        with pytest.raises(BadUsage, match="It is unknown whether run 'elsewhere' is in progress"):
            act("elsewhere")
    assert "It is unknown whether" in himl("submit", "--resume", "elsewhere").stderr
    assert {path.name for path in runs["elsewhere"].iterdir()} == {"job.json", "lock"}, (
        "nothing was requested or deleted"
    )

    himl("runs", "cancel", "elsewhere", "--force")
    ended = himl("runs", "show", "elsewhere", "nested", "--json").json()
    assert [(run["status"], run["reason"]) for run in ended] == [
        ("Canceled", "canceled with --force; unknown: node7 holds its lock"),
        ("Canceled", "the job ended"),
    ]
    assert (runs["elsewhere"] / "canceled").exists(), "its supervisor stops it, if it exists"
    himl("runs", "delete", "container", "--yes", "--force")
    assert not runs["container"].exists()
    assert "is running. Nothing was deleted" in himl("runs", "delete", "alive", "--yes", "--force").stderr


def test_marks_of_starts_on_another_machine_stay(himl: Himl, project: Path) -> None:
    folder = RecordedRuns(project).folder / ".himl"
    write_files(folder, {"starting/dead_1": "", "starting/far_1": "", "runs/dead_1/go": "", "runs/far_1/go": ""})
    sign(folder / "starting" / "dead_1", process="1@1")
    sign(folder / "starting" / "far_1", host="node7", boot="b")
    write_files(project, {"a.py": ""})
    himl("submit", "a.py", "-q")
    assert [path.name for path in (folder / "starting").iterdir()] == ["far_1"]
    assert {path.name for path in (folder / "runs").iterdir()} >= {"far_1"}


SQUEUE = """#!/bin/sh
for each in "$@"; do case "$each" in --user=*|--me) exit 0 ;; esac; done
[ -e {hidden} ] && echo 'slurm_load_jobs error: Invalid job id specified' >&2 && exit 1
echo "7|PENDING|Resources|N/A|$(cat {name})"
"""


def test_a_job_of_another_user_is_queued_or_unknown(started_himl: Himl, shared: Path) -> None:
    """Sites may hide the jobs of others (`PrivateData=jobs`)."""
    project, hidden, name = (shared / each for each in ("project", "hidden", "name"))
    project.mkdir()
    os.chown(project, ADA, LAB)
    project.chmod(0o2775)
    invalid = "#!/bin/sh\necho 'slurm_load_jobs error: Invalid job id specified' >&2\nexit 1\n"
    programs = {
        "sbatch": "#!/bin/sh\ncat >/dev/null\necho 7\n",
        "squeue": SQUEUE.format(hidden=hidden, name=name),
        "scontrol": invalid,
        "sacct": invalid,
    }
    write_files(
        shared,
        {
            "project/train.py": "",
            "project/pyproject.toml": "",
            **{f"bin/{each}": text for each, text in programs.items()},
        },
    )
    for each in programs:
        (shared / "bin" / each).chmod(0o755)

    def himl(user: int, *words: str) -> str:
        done = started_himl(
            *words,
            cwd=project,
            prefix=as_user(user, shared, LAB),
            env={"PATH": f"{shared / 'bin'}:{os.environ['PATH']}"},
        )
        assert done.code == 0, done.stderr
        return done.stdout

    run_id = himl(ADA, "submit", "train.py", "--cluster", "slurm:gpu", "-q").strip()
    name.write_text(run_id)
    assert "Waits for     Resources" in himl(BOB, "runs", "show", run_id)
    hidden.touch()
    assert " unknown: Slurm may hide jobs of other users" in himl(BOB, "runs", "show", run_id)
