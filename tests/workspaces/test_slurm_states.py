"""Tests of what himl concludes from the output of Slurm's programs, and of the arguments and variables that it gives
them. Shell scripts stand in for sites with several clusters, several users, or accounting."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import himl_cli
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.engines import slurm
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns, posix

pytestmark = posix
PROGRAM = """#!/bin/sh
name=${0##*/} here=${0%/*}/.. at=
for each in "$@"; do case "$each" in
    --clusters=*) at=".${each#--clusters=}" ;;
    --user=*|--me) exit 0 ;;
esac; done
case "$*" in *config*) name=config ;; esac
echo "$name $*" >>"$here/calls"
if [ $name = sbatch ]; then cat >"$here/script"; env >"$here/variables"
elif [ "$SLURM_CLUSTERS$SQUEUE_STATES$SACCT_FORMAT" ]; then exit 0; fi
[ -e "$here/outputs/$name$at.error" ] && cat "$here/outputs/$name$at.error" >&2 && exit 1
[ -e "$here/outputs/$name$at" ] && exec cat "$here/outputs/$name$at"
case $name in
    scancel) exit 0 ;;
    sacct) echo 'Slurm accounting storage is disabled' >&2 ;;
    *) echo 'slurm_load_jobs error: Invalid job id specified' >&2 ;;
esac
exit 1
"""
"""It prints the file with its name and `.CLUSTER`, or fails with that and `.error`, else it knows no job. With
filters of the user's shell, it lists none.
"""
RUN = "train_1_aa"
GONE = "it ended without recording an outcome, and Slurm no longer has its job, so it is unknown how"
UNSEEN = (
    "job 7 ended in Slurm as FAILED without an outcome; its node wrote no log in 'FOLDER', which it may not "
    "see (check: himl doctor --slurm NAME)"
)
AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
LOST = "sacct: error: Problem talking to the database: Connection refused"
WAITS = f"7|PENDING|Resources|N/A|{RUN}\n"


class StandIns:
    """Slurm's programs. `variables` are those of the last sbatch."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.programs = folder, folder / "bin"
        self.programs.mkdir(parents=True)
        for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel"):
            (self.programs / name).write_text(PROGRAM)
            (self.programs / name).chmod(0o755)

    def print(self, **outputs: str) -> None:
        """Set the outputs by program and cluster, as `squeue` and `squeue_c2`. The others know no job."""
        (self.folder / "outputs").mkdir(exist_ok=True)
        for path in (self.folder / "outputs").iterdir():
            path.unlink()
        for name, text in outputs.items():
            (self.folder / "outputs" / name.replace("_", ".")).write_text(text)
        (self.folder / "calls").write_text("")

    def calls(self, program: str) -> list[str]:
        return [line for line in (self.folder / "calls").read_text().splitlines() if line.startswith(f"{program} ")]

    @property
    def variables(self) -> dict[str, str]:
        lines = (self.folder / "variables").read_text().splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIns:
    """The programs on PATH, and a shell with filters for them."""
    site = StandIns(tmp_path / "site")
    for name, value in {
        "SLURM_CLUSTERS": "c9",
        "SQUEUE_STATES": "R",
        "SACCT_FORMAT": "jobid",
        "SLURM_TIME_FORMAT": "relative",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{site.programs}{os.pathsep}{os.environ['PATH']}")
    return site


def seen(project: Path, run_id: str = RUN) -> Run:
    return LocalWorkspace(project / ".himl").run(run_id)


@pytest.mark.parametrize(
    ("handle", "outputs", "status", "reason"),
    [
        ("7", {"squeue": WAITS}, "Queued", "Resources"),
        ("7;c2", {"squeue_c2": WAITS}, "Queued", "Resources"),
        (
            "7;c2",
            {"squeue_c2": WAITS, "squeue": f"7|CANCELLED|None|2026-01-02T03:04:05|{RUN}\n"},
            "Queued",
            "Resources",
        ),
        ("", {"squeue": WAITS}, "Queued", "Resources"),
        ("7", {"squeue": f"7|CANCELLED|None|2026-01-02T03:04:05|{RUN}\n"}, "Canceled", "canceled in Slurm (job 7)"),
        (
            "7",
            {"squeue": "7|CANCELLED|None|2026-01-02T03:04:05|other\n", "scontrol": "JobId=7 JobName=other"},
            "Queued",
            "unknown: squeue does not list job 7",
        ),
        (
            "7",
            {"squeue": "", "scontrol": f"JobId=7 JobName={RUN} JobState=PENDING"},
            "Queued",
            "unknown: squeue does not list job 7",
        ),
        (
            "7",
            {"squeue": "", "scontrol_error": AWAY},
            "Queued",
            f"unknown: squeue does not list job 7, scontrol failed: {AWAY.partition(': ')[2]}",
        ),
        (
            "7",
            {"squeue": "", "sacct_error": LOST},
            "Queued",
            f"unknown: squeue does not list job 7, sacct failed: {LOST.partition(': ')[2][7:]}",
        ),
        ("7", {"squeue_error": AWAY}, "Queued", f"unknown: squeue failed: {AWAY.partition(': ')[2]}"),
        (
            "7;c2",
            {"squeue": WAITS, "squeue_c2_error": AWAY},
            "Queued",
            f"unknown: squeue failed: {AWAY.partition(': ')[2]}",
        ),
        ("7", {}, "Failed", GONE),
        ("7;c2", {"squeue": WAITS}, "Failed", GONE),
        ("7", {"squeue": "", "sacct": f"7|PENDING|Unknown|{RUN}\n"}, "Queued", ""),
        ("7", {"sacct": f"7|TIMEOUT|2026-01-02T03:04:05|{RUN}\n"}, "Failed", "it reached Slurm's time limit (job 7)"),
        ("7", {"sacct": "7|TIMEOUT|2026-01-02T03:04:05|other\n"}, "Failed", GONE),
        (
            "7;c2",
            {"sacct_c2": f"7|CANCELLED by 0|2026-01-02T03:04:05|{RUN}\n"},
            "Canceled",
            "canceled in Slurm (job 7)",
        ),
        ("7", {"squeue": f"7|FAILED|NonZeroExitCode|2026-01-02T03:04:05|{RUN}\n"}, "Failed", UNSEEN),
        ("", {}, "Failed", "its submission was interrupted or got no answer, and Slurm has no job of this name"),
    ],
)
def test_what_is_not_listed_has_not_ended(
    project: Path, site: StandIns, handle: str, outputs: dict[str, str], status: str, reason: str
) -> None:
    runs = RecordedRuns(project)
    runs.add(RUN, status=RunStatus.queued, tags={"himl.slurm_job": handle})
    site.print(**outputs)
    found, reason = seen(project), reason.replace("FOLDER", str(project / ".himl" / "runs" / RUN))
    assert (found.status.value, found.reason) == (status, reason)
    site.print(squeue=WAITS, squeue_c2=WAITS)
    again = seen(project)
    assert (again.status.value, again.reason) == (("Queued", "Resources") if status == "Queued" else (status, reason))
    assert again.tags["himl.slurm_job"] == (handle or ("7" if status == "Queued" else ""))


def test_a_job_of_another_cluster_of_a_shared_folder_is_unknown(project: Path, site: StandIns) -> None:
    runs = RecordedRuns(project)
    runs.add("task_1", status=RunStatus.queued, tags={"himl.slurm_job": "7_1"})
    runs.add(RUN, status=RunStatus.queued, tags={"himl.slurm_job": "7"})
    write_files(project / ".himl" / "runs" / RUN, {"cluster": "c1"})
    site.print(config="ClusterName             = c2\n")
    found = seen(project)
    assert (found.status.value, found.reason) == (
        "Queued",
        "unknown: its job is on cluster 'c1', and this machine uses 'c2'",
    )
    write_files(project / ".himl" / "runs" / RUN, {"cluster": "c2"})
    assert seen(project).reason == GONE
    site.print(squeue="", scontrol="JobId=8 ArrayJobId=7 ArrayTaskId=0 JobName=other")
    assert seen(project, "task_1").reason == "unknown: squeue does not list job 7_1"


@pytest.mark.parametrize("is_sent", [True, False])
def test_an_interrupted_submission_is_looked_up_on_its_cluster(project: Path, site: StandIns, *, is_sent: bool) -> None:
    RecordedRuns(project).add(RUN, status=RunStatus.queued, tags={"himl.slurm_job": ""})
    write_files(project / ".himl" / "runs" / RUN, {"cluster": "c1,c2"})
    site.print(config="ClusterName             = c1\n", squeue="")
    assert seen(project).reason == "unknown: its job is on cluster 'c1,c2', and this machine uses 'c1'"
    write_files(project / ".himl" / "runs" / RUN, {"cluster": "c2"})
    site.print(config="ClusterName             = c1\n", squeue="", squeue_c2=WAITS if is_sent else "")
    found = seen(project)
    never = "its submission was interrupted or got no answer, and Slurm has no job of this name"
    assert (found.status.value, found.reason) == (("Queued", "Resources") if is_sent else ("Failed", never))
    assert found.tags["himl.slurm_job"] == ("7;c2" if is_sent else "")


def test_ctrl_c_after_sbatch_names_the_run(himl: Himl, project: Path, site: StandIns) -> None:
    write_files(project, {"train.py": "print(1)", "pyproject.toml": ""})
    site.print(sbatch="7\n", config="ClusterName             = c1\n")
    ended = himl.interrupted("interruptions", 2, "submit", "train.py", "--cluster", "slurm:gpu", "-q")
    (path,) = (project / ".himl" / "runs").iterdir()
    assert (ended.code, ended.stdout, len(site.calls("sbatch"))) == (130, "", 1)
    assert f"error: Interrupted during the start of run '{path.name}', which may exist.\n" in ended.stderr
    site.print(squeue=WAITS.replace(RUN, path.name), config="ClusterName             = c1\n")
    assert seen(project, path.name).status is RunStatus.queued


def test_a_sweep_is_queued_as_long_as_its_tasks_are(himl: Himl, project: Path, site: StandIns) -> None:
    write_files(project, {"train.py": "print(1)", "pyproject.toml": ""})
    site.print(sbatch_c2="552;c2\n", squeue_c2_error=AWAY)
    run_id = himl.ok(
        "submit", "train.py", "--cluster", "slurm:gpu", "--crossval", "3", "-q", "--sbatch", "clusters=c2"
    ).stdout.strip()
    assert seen(project, run_id).tags["himl.slurm_job"] == "552[0-2];c2"
    for outputs in (
        {"squeue_c2": "", "sacct_c2": f"552_[0-2%1]|PENDING|Unknown|{run_id}\n"},
        {"squeue_c2": f"552_[0,2]|PENDING|Priority|N/A|{run_id}\n552_1|RUNNING|None|N/A|{run_id}\n"},
        {
            "squeue_c2": "",
            "scontrol_c2": f"JobId=552 ArrayJobId=552 ArrayTaskId=0-2%1 JobName={run_id} JobState=PENDING\n",
        },
        {"squeue_c2_error": AWAY},
    ):
        site.print(**outputs)
        statuses = {
            child: seen(project, child).status.value for child in (run_id, *(f"{run_id}_{index}" for index in range(3)))
        }
        assert set(statuses.values()) == {"Queued"}, (outputs, statuses)
        assert len(site.calls("scontrol")) <= 4, "one for all tasks"
    site.print(
        squeue_c2=f"552_[0,2]|PENDING|Priority|N/A|{run_id}\n",
        scontrol_c2=f"JobId=552 ArrayJobId=552 ArrayTaskId=0,2 JobName={run_id}\n",
    )
    assert [seen(project, f"{run_id}_{index}").status.value for index in range(3)] == ["Queued", "Canceled", "Queued"]
    assert seen(project, f"{run_id}_1").reason == "canceled before it started"
    # As a submission leaves it that is killed after sbatch
    site.print(squeue_error=AWAY, squeue_c2_error=AWAY)
    for each in (run_id, f"{run_id}_0", f"{run_id}_2"):
        LocalWorkspace(project / ".himl").tag(each, {"himl.slurm_job": ""})
    ended = [f"552_{index}|FAILED|None|2026-01-02T03:04:05|{run_id}\n" for index in range(3)]
    site.print(squeue="".join(ended))
    trials = [seen(project, f"{run_id}_{index}").status.value for index in range(3)]
    assert (trials, seen(project, run_id).status.value) == (["Failed", "Canceled", "Failed"], "Queued")
    assert (seen(project, run_id).status.value, seen(project, run_id).tags["himl.slurm_job"]) == ("Failed", "552[]")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("9", "COMPLETED", RUN), ("7", "RUNNING", RUN)], ""),  # 7 is an array and its last task
        ([("7", "COMPLETED", RUN), ("9", "RUNNING", RUN)], None),
        ([("7", "PENDING", "another")], ""),  # of another cluster
        ([("7", "PENDING", RUN)], None),  # requeued
    ],
)
def test_a_job_asks_for_its_own_state(
    site: StandIns, monkeypatch: pytest.MonkeyPatch, rows: list[tuple[str, str, str]], reason: str | None
) -> None:
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": RUN}.items():
        monkeypatch.setenv(name, value)
    site.print(
        scontrol="".join(
            f"JobId={number} JobName={name} JobState={state} EndTime=Unknown\n" for number, state, name in rows
        )
    )
    assert slurm.own_job().reason_to_stop(0.0) == reason
    program, first = site.programs / "scontrol", site.folder / "first"
    ended = f"[ -e '{first}' ] || {{ touch '{first}'; kill -TERM $$; }}"  # with the other processes of a requeued job
    program.write_text(PROGRAM.replace("\n", f"\n{ended}\n", 1))
    assert slurm.own_job().reason_to_stop(0.0) == reason


def test_only_the_job_of_the_run_is_canceled(project: Path, site: StandIns) -> None:
    for number, handle in enumerate(("7", "7;c2", "8")):
        run_id = f"train_{number}_aa"
        runs = RecordedRuns(project / str(number))
        runs.add(run_id, status=RunStatus.queued, tags={"himl.slurm_job": handle})
        site.print(
            squeue="7|PENDING|Resources|N/A|other\n",
            squeue_c2=f"7|PENDING|Resources|N/A|{run_id}\n",
            scancel="",
            scancel_c2="",
        )
        runs.workspace.cancel(run_id)
        assert site.calls("scancel") == (["scancel --clusters=c2 --state=PENDING 7"] if handle == "7;c2" else [])


def test_what_slurm_does_not_say_is_canceled_and_deleted_only_by_force(
    himl: Himl, project: Path, site: StandIns
) -> None:
    runs = RecordedRuns(project)
    for number in (1, 2):
        runs.add(f"train_{number}_aa", status=RunStatus.queued, tags={"himl.slurm_job": "7"})
    site.print(squeue_error=AWAY)
    for number, action in ((1, ["cancel"]), (2, ["delete", "--yes"])):
        words = ["runs", *action, f"train_{number}_aa"]
        done = himl(*words)
        assert (done.code, "unknown whether run" in done.stderr, "squeue failed" in done.stderr) == (2, True, True), (
            done.stderr
        )
        himl.ok(*words, "--force")
    left = seen(project)
    assert (left.status.value, left.reason) == (
        "Canceled",
        f"canceled with --force; unknown: squeue failed: {AWAY.partition(': ')[2]}",
    )
    assert himl.ok("runs", "list", "-q").stdout.split() == [RUN]


def test_what_himl_gives_to_sbatch_wins_over_the_shell(
    himl: Himl, project: Path, site: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(project, {"train.py": "print(1)", "pyproject.toml": ""})
    shell = {
        "PARTITION": "debug",
        "TIMELIMIT": "1",
        "ARRAY_INX": "0-1",
        "ERROR": "/e",
        "ACCOUNT": "lab",
        "CLUSTERS": "c3",
    }
    for name, value in shell.items():
        monkeypatch.setenv(f"SBATCH_{name}", value)
    monkeypatch.setenv("SLURM_JOB_ID", "3")
    site.print(sbatch="9;c3\n")
    himl.ok(
        "submit",
        "train.py",
        "--cluster",
        "slurm:gpu",
        "--sbatch",
        "comment=two words",
        "--max_run_duration",
        "2h",
        "-q",
        "--no_wait",
    )
    (call,) = site.calls("sbatch --parsable")
    assert all(option in call.split(" --") for option in ("partition=gpu", "time=120", "comment=two words")), call
    assert {name for name in site.variables if name.startswith(("SBATCH_", "SLURM_"))} == {
        "SBATCH_PARTITION", "SBATCH_TIMELIMIT", "SBATCH_ACCOUNT", "SBATCH_CLUSTERS", "SLURM_CLUSTERS"
    }  # fmt: skip


def test_what_only_the_user_may_see_is_no_argument_of_sbatch(himl: Himl, project: Path, site: StandIns) -> None:
    write_files(project, {"train.py": "print(1)", "pyproject.toml": ""})
    site.print(sbatch="7\n")
    himl.ok(
        "submit", "train.py", "--cluster", "slurm:gpu", "--sbatch", "export=ALL,KEY=very-secret-3", "-q", "--no_wait"
    )
    assert "very-secret-3" not in "".join(site.calls("sbatch"))
    assert ("--export=ALL,KEY " in site.calls("sbatch")[-1], site.variables["KEY"]) == (True, "very-secret-3")
    assert '"KEY": "very-secret-3"' in (site.folder / "script").read_text()
    kept = [path for path in (project / ".himl").rglob("*") if path.is_file()]
    assert not [path for path in kept if b"very-secret-3" in path.read_bytes()]


def test_a_job_waits_only_for_those_of_its_cluster(
    himl: Himl, project: Path, site: StandIns, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(
        project, {"train.py": "print(1)", "pyproject.toml": "", "himl.toml": '[slurm.far]\nsbatch = "clusters=c2"\n'}
    )
    monkeypatch.delenv("SLURM_CLUSTERS")
    answers = {
        "config": "ClusterName             = c1\n",
        "sbatch": "7\n",
        "sbatch_c2": "8;c2\n",
        "squeue_error": AWAY,
        "squeue_c2_error": AWAY,
    }
    site.print(**answers)
    submit = "submit", "train.py", "-q", "--no_wait", "--cluster"
    near, far = (
        himl.ok(*submit, "slurm:gpu").stdout.strip(),
        himl.ok(*submit, "slurm:far", "--crossval", "2").stdout.strip(),
    )
    wrong = {(near, "slurm:far"): ("7", "c1", "c2"), (f"{far}_1", "slurm:gpu"): ("8_1", "c2", "c1")}
    for (run, cluster), (number, there, here) in wrong.items():
        refused = himl("submit", "train.py", "--cluster", cluster, "--after", run)
        message = f"error: --after: job {number} is on cluster '{there}', and this job would be on '{here}'.\n"
        assert (refused.code, message in refused.stderr, f"hint: Add --sbatch clusters={there}" in refused.stderr) == (
            2,
            True,
            True,
        ), refused.stderr
    for run, cluster, dependency in (
        (near, "slurm:gpu", "afterok:7"),
        (f"{far}_1", "slurm:far", "afterok:8_1"),
        (far, "slurm:far", "afterok:8"),
    ):
        himl.ok(*submit, cluster, "--after", run)
        assert f"--dependency={dependency} " in site.calls("sbatch")[-1]


@pytest.mark.parametrize(("name", "lacks"), [("slurm", "PARTITION"), ("Slurm", "PARTITION"), ("ssh", "HOST")])
def test_an_engine_without_a_place_is_no_cluster_of_azure_ml(himl: Himl, project: Path, name: str, lacks: str) -> None:
    write_files(project, {"train.py": "print(1)", "job.yml": f"command: python train.py\ncode: .\ncompute: {name}\n"})
    for arguments in (["train.py", "--cluster", name], ["job.yml"]):
        refused = himl("submit", *arguments)
        assert (refused.code, refused.stderr.splitlines()) == (
            2,
            [
                f"error: The cluster '{name}' names no {lacks.lower()}.",
                f"hint: Write {name}:{lacks}, or for the compute of Azure ML with this name, azureml:{name}",
            ],
        )


@pytest.mark.parametrize("many", [[], ["--crossval", "2"]])
def test_a_request_of_another_version_is_read_or_refused(
    himl: Himl, project: Path, site: StandIns, many: list[str]
) -> None:
    write_files(project, {"train.py": "print('trained')", "pyproject.toml": ""})
    site.print(sbatch="7\n", squeue_error=AWAY)
    run_id = himl.ok("submit", "train.py", "--cluster", "slurm:gpu", "-q", "--no_wait", *many).stdout.strip()
    script = (site.folder / "script").read_text()
    start, end = script.index("\n{") + 1, script.rindex("}") + 1
    before, document, after = script[:start], script[start:end], script[end:]

    def run(change: Callable[[dict[str, Any]], object]) -> subprocess.CompletedProcess[str]:
        form = json.loads(document)
        request = json.loads(form["plan"]) if many else form
        change(request)
        text = json.dumps({**form, "plan": json.dumps(request)} if many else request)
        return subprocess.run(
            ["bash"],
            input=before + text + after,
            env=os.environ | {"SLURM_ARRAY_TASK_ID": "0"},
            capture_output=True,
            text=True,
        )

    def make_older(request: dict[str, Any]) -> None:
        del (request["jobs"][0] if many else request)["spec"]["snapshot"]
        request["himl"] = "0.0.9"

    def make_newer(request: dict[str, Any]) -> None:
        for form in (request, (request["jobs"][0] if many else request)["spec"]):
            form["later"] = {"fields": 1}

    old = run(make_older)
    assert (old.returncode, old.stderr.splitlines()[-1]) == (
        1,
        f"himl {himl_cli.__version__} cannot read the request of himl 0.0.9 (KeyError: 'snapshot')",
    )
    assert run(make_newer).returncode == 0
    assert himl.ok("runs", "logs", f"{run_id}_0" if many else run_id).stdout == "trained\n"
