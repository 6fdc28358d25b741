"""Jobs on a site with accounting, two clusters and two users (`site.py`), while others list, cancel, preempt and limit
them: `slurm/site/<what>/NN`.

As root, on Linux.
"""

from __future__ import annotations

import json
import os
import pwd
import random
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from himl_cli.core.logged import SYSTEM
from stress.records import Case, Outcome, Result
from stress.site import FEW, OTHER, Site, running_site
from stress.slurm import Project, killed_submit, named
from stress.world import LOG_METRIC, Ended, World, judge, lost
from tests.support import running
from tests.support.processes import is_sound
from tests.support.running import until, write_files
from tests.support.users import as_user

PATIENCE = 150.0  # seconds for all jobs of a case
LATER = ("--sbatch", "begin=now+1hour")
OPEN = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED")
FOLDS, KILLS = 3, 6
UNKNOWN, NO_ANSWER = 2, 5  # exit codes
LIMIT_OF_SHELL = "5:00"
UNRELATED = "unrelated"
MEMORY = "import time\nfull = bytearray(600 << 20)\ntime.sleep(600)\n"
# As PyTorch Lightning does after the signal of a time limit, with or without a wait for the end that Slurm brings
REQUEUES = """import os, signal, subprocess, sys, time
def again(number, frame):
    subprocess.run(['scontrol', 'requeue', os.environ['SLURM_JOB_ID']], check=True)
    sys.exit(int(sys.argv[1])) if sys.argv[1].isdigit() else time.sleep(60)
signal.signal(signal.SIGUSR1, again)
if os.environ.get('SLURM_RESTART_COUNT', '0') == '0':
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(60)
"""
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n"
VALUES = 25
LOGS = f"{LOG_METRIC}\nfor number in range({VALUES}):\n    log_metric(f'value_{{number}}', number, 0)\n"
TRIAL = f"{LOG_METRIC}\nimport sys\ntime.sleep(2)\nlog_metric('loss', float(sys.argv[2]) ** 2, 0)\n"
SWEEP = (
    "--sweep",
    "x=uniform(0,1)",
    "--sampling",
    "bayesian",
    "--max_trials",
    "4",
    "--max_concurrent",
    "2",
    "--primary_metric",
    "loss",
)
FILTERS = {
    "SLURM_CLUSTERS": "c2",
    "SQUEUE_STATES": "RUNNING",
    "SQUEUE_PARTITION": "high",
    "SQUEUE_USERS": OTHER,
    "SQUEUE_ACCOUNT": "root",
    "SQUEUE_QOS": "few",
    "SQUEUE_FORMAT": "%T",
    "SQUEUE_FORMAT2": "State",
    "SQUEUE_SORT": "-i",
    "SACCT_FORMAT": "State",
    "SLURM_TIME_FORMAT": "relative",
    "SCANCEL_STATE": "RUNNING",
    "SCANCEL_PARTITION": "high",
    "SCANCEL_INTERACTIVE": "1",
}
DEFAULTS = {
    "SBATCH_PARTITION": "low",
    "SBATCH_TIMELIMIT": LIMIT_OF_SHELL,
    "SBATCH_ARRAY_INX": "0-1",
    "SBATCH_JOB_NAME": "mine",
    "SBATCH_WAIT": "1",
    "SBATCH_ACCOUNT": "root",
    "SBATCH_CLUSTERS": "c2",
    "SBATCH_EXPORT": "NONE",
    "SBATCH_NO_REQUEUE": "1",
    "SBATCH_SIGNAL": "USR1@30",
    "SLURM_JOB_ID": "1",
}
WRAPPERS = {
    "before": "echo 'Welcome to cluster 7'\necho '--> Project 4711 has 12 hours ... OK'\n{sbatch}",
    "after": "{sbatch}\necho 'Submitted to 2 nodes. See https://site.example/jobs?id=5'",
    "around": "echo; echo ---; {sbatch}; echo; echo 'bye'",
    "colors": "printf '\\033[32mVerifying valid submit host (login4)...OK\\033[0m\\n'\n{sbatch}",
    "stderr": "echo 'sbatch: 99 credits left' >&2\n{sbatch}\necho 'sbatch: INFO: account lab' >&2",
    "silent": "{sbatch} >/dev/null",
}


class Job(NamedTuple):
    """A job in Slurm. `id` is `12`, `12_3` or `12_[0-2]`."""

    cluster: str
    id: str
    name: str
    state: str
    partition: str
    account: str
    limit: str
    reason: str


class RefusedError(Exception):
    """A command that must succeed fails, or hangs."""


class Lab(Project):
    """A project on the site that every user can read. `problems` are what himl does wrong in a case, `facts` its
    figures, and `codes` the exit codes that `himl submit` may have."""

    slurm: Site

    def __init__(self, world: World, site: Site, number: int = 0, folder: str = "project") -> None:
        super().__init__(world, site, site.folder / folder)
        write_files(
            self.folder,
            {"memory.py": MEMORY, "stubborn.py": STUBBORN, "requeues.py": REQUEUES, "logs.py": LOGS, "trial.py": TRIAL},
        )
        self.problems: list[str] = []
        self.number, self.codes = number, {0}
        self.facts: dict[str, Any] = {}

    def variant(self, *choices: Any) -> Any:
        """One of the *choices*, so that the cases of a cell have all of them in turn."""
        return choices[self.number % len(choices)]

    def check(self, holds: object, what: str) -> None:
        if not holds:
            self.problems.append(what)

    def submit(self, *options: str, script: str = "train.py", steps: str = "1") -> tuple[Ended, str]:
        """The end of `himl submit` and the id of its run. Raises RefusedError."""
        ended = self.call(
            "submit",
            script,
            "--cluster",
            "slurm:gpu",
            "-q",
            *options,
            *(["--", steps] if script in ("train.py", "requeues.py") else []),
        )
        ids = named(ended) or [run["id"] for run in self.runs()]
        if ended is None or not ids:
            raise RefusedError(
                "it hangs"
                if ended is None
                else f"there is no run: exit code {ended.code}: {ended.stderr.strip()[:300]}"
            )
        return ended, ids[0]

    def show(self, run: str) -> dict[str, Any]:
        done = self.world.himl("runs", "show", run, "--json", cwd=self.folder, env=self.env)
        if done.code != 0:
            raise RefusedError(f"runs show ends with {done.code}: {done.stderr.strip()[:300]}")
        shown: dict[str, Any] = done.json()
        return shown

    def expect(self, run: str, status: str, when: str, reason: str = "") -> None:
        if status == "Queued" and reason:  # Slurm gives a job its reason some time after it took it
            until(
                lambda: all(job.reason == reason for job in self.jobs(run) if job.state in OPEN),
                lambda: f"Slurm has a reason: {self.jobs(run)}",
            )
        for shown in (self.show(run), next(each for each in self.runs() if each["id"] == run)):
            right = shown["status"] == status and reason in shown["reason"]
            self.check(
                right,
                f"{when} the run is {shown['status']} ({shown['reason']}) in place of "
                f"{status}{f' ({reason})' if reason else ''}",
            )

    def expect_end(self, run: str, status: str, reason: str = "") -> None:
        """Wait for the end of the run and of its jobs."""
        shown = self.show(run)
        deadline = time.monotonic() + PATIENCE
        while shown["status"] in ("Queued", "Running") and time.monotonic() < deadline:
            self.slurm.start_requeued(run)
            time.sleep(1.0)
            shown = self.show(run)
        children = [
            (child["status"], child["reason"])
            for child in shown["children"]
            if child["status"] not in (status, "Canceled" if status == "Failed" else "")
        ]
        self.expect(run, status, "at the end", reason)
        self.check(not children, f"of its trials {len(children)} are otherwise: {children[:2]}")

    def jobs(self, name: str) -> list[Job]:
        """All jobs whose names start with *name*, open ones and those that ended within minutes."""
        ask = ("-h", "-t", "all", "-o", "%i|%j|%T|%P|%a|%l|%r")
        lines = {cluster: self.slurm("squeue", "-M", cluster, *ask).splitlines() for cluster in self.slurm.nodes}
        found = [Job(cluster, *line.split("|", 6)) for cluster, told in lines.items() for line in told if "|" in line]
        return [job for job in found if job.name.startswith(name)]

    def job_names(self) -> list[str]:
        numbers = {(job.cluster, job.id.partition("_")[0]): job.name.partition("+")[0] for job in self.jobs("")}
        return [*numbers.values()]

    def has_taken_steps(self, run: str) -> None:
        steps = self.folder / ".himl" / "runs" / run / "code" / "outputs" / "steps.txt"
        until(
            lambda: steps.exists() and len(steps.read_text().split()) > 2, lambda: f"it takes steps: {self.show(run)}"
        )

    def cancel(self, run: str) -> None:
        """Cancel the run, which must end all its jobs."""
        done = self.call("runs", "cancel", run)
        self.check(
            done is not None and done.code == 0, f"runs cancel: {done and (done.code, done.stderr.strip()[:200])}"
        )
        left: list[Job] = []

        def is_gone() -> bool:
            left[:] = [job for job in self.jobs(run) if job.state in OPEN]
            return not left

        try:
            until(is_gone, seconds=30.0)
        except AssertionError:
            self.problems.append(f"after runs cancel job {left[0].id} of {left[0].cluster} is {left[0].state}")
            return
        self.expect_end(run, "Canceled")

    def add_unrelated(self, ahead: str, behind: str, count: int) -> None:
        """Jobs of the same user which himl must not touch: *count* of them on the cluster *ahead*, so that the next job
        *behind* has the number of the last one."""
        for cluster, times in ((ahead, count), (behind, count - 1)):
            for _ in range(times):
                self.slurm(
                    "sbatch", "-M", cluster, "-J", UNRELATED, "-b", "now+1hour", "-o", "/dev/null", "--wrap", "true"
                )
        self.unrelated = 2 * count - 1

    def check_unrelated(self) -> None:
        waiting = [job for job in self.jobs(UNRELATED) if job.state == "PENDING"]
        self.check(
            len(waiting) == self.unrelated,
            f"{self.unrelated - len(waiting)} unrelated jobs of another number or cluster are gone",
        )

    def other(self, *arguments: str) -> running.Outcome:
        """Call himl in the project's folder as another user."""
        folder, user = self.slurm.folder / "users", pwd.getpwnam(OTHER).pw_uid
        folder.mkdir(exist_ok=True)
        prefix = as_user(user, folder)
        self.trust(folder / f"home_{user}")
        own = {
            name: str(folder / f"home_{user}")
            for name in self.env
            if name in ("HOME", "TMPDIR", "TEMP", "TMP") or name.startswith("XDG_")
        }
        return running.Himl(running.PROGRAM, self.folder)(*arguments, env={**self.env, **own}, prefix=prefix)

    def shown_to_other(self, *arguments: str) -> Any:
        """The JSON output of a command of another user."""
        done = self.other(*arguments, "--json")
        if done.code != 0:
            raise RefusedError(
                f"{' '.join(arguments[:2])} of another user ends with {done.code}: {done.stderr.strip()[:300]}"
            )
        return done.json()

    def trust(self, home: Path) -> None:
        write_files(home, {"himl.toml": f"[trust]\nfolders = [{json.dumps(str(self.folder))}]\n"})

    def let_others_write(self) -> None:
        self.trust(self.world.home)
        subprocess.run(["chmod", "-R", "a+rwX", str(self.folder / ".himl")], check=True)


def dice_many(dice: random.Random) -> tuple[str, ...]:
    return dice.choice(((), ("--crossval", str(FOLDS))))


def listed_by_another(lab: Lab, dice: random.Random) -> Ended:
    """Another user lists, shows and cancels a queued run: nothing changes."""
    lab.facts["writable"] = lab.variant(True, False)
    ended, run = lab.submit(*dice_many(dice), *LATER)
    if lab.facts["writable"]:
        lab.let_others_write()
    for _ in range(2):
        found = lab.shown_to_other("runs", "list")
        lab.check(
            found[0]["status"] == "Queued", f"for another user, the run is {found[0]['status']} ({found[0]['reason']})"
        )
    refused = lab.other("runs", "cancel", run)
    lab.check(
        refused.code != 0 and "Traceback" not in refused.stderr,
        f"another user cancels it: exit code {refused.code}: {refused.stderr.strip()[:200]}",
    )
    lab.expect(run, "Queued", "after another user's commands")
    lab.cancel(run)
    return ended


def other_cluster(lab: Lab, dice: random.Random) -> Ended:
    """`--sbatch clusters=c2`, where `c1` has an unrelated job of the same number."""
    how = lab.facts["how"] = lab.variant("cancel", "delete", "complete", "scancel")
    lab.add_unrelated("c1", "c2", dice.randrange(1, 4))
    many = dice_many(dice)
    ended, run = lab.submit("--sbatch", "clusters=c2", *many, *(() if how == "complete" else LATER))
    if how == "complete":
        lab.expect_end(run, "Completed")
    else:
        lab.expect(run, "Queued", "while its job waits,", "BeginTime")
    if how == "delete":
        done = lab.call("runs", "delete", run, "--yes")
        is_kept = any(each["id"] == run for each in lab.runs())
        waiting = [job for job in lab.jobs(run) if job.state in OPEN]
        lab.check(
            is_kept or not waiting,
            f"runs delete ends with {done and done.code}, and its job {waiting and waiting[0].id} may still start",
        )
        if not is_kept:
            return ended
    if how == "scancel":
        lab.slurm("scancel", "-M", "c2", lab.jobs(run)[0].id.partition("_")[0])
        if many:
            lab.expect_end(run, "Failed", f"{FOLDS} of {FOLDS} trials were canceled")
        else:
            lab.expect_end(run, "Canceled", "canceled in Slurm")
    elif how != "complete":
        lab.cancel(run)
    lab.check({job.cluster for job in lab.jobs(run)} == {"c2"}, "its job is not on c2")
    lab.check_unrelated()
    return ended


def shell(lab: Lab, dice: random.Random) -> Ended:
    """Variables of the user's shell filter and sort Slurm's answers, and give defaults for jobs."""
    chosen = {**dict(dice.sample(sorted(FILTERS.items()), 2)), **dict(dice.sample(sorted(DEFAULTS.items()), 2))}
    lab.facts["variables"] = " ".join(sorted(chosen))
    ahead, behind = dice.sample(("c1", "c2"), 2)
    lab.add_unrelated(ahead, behind, dice.randrange(1, 3))
    many = dice_many(dice)
    before, lab.env = lab.env, {**lab.env, **chosen}
    ended, run = lab.submit(*many, *LATER, "--max_run_duration", "10m")
    lab.expect(run, "Queued", "while its job waits,", "BeginTime")
    jobs = lab.jobs(run)
    typed = all(job.partition == "gpu" and job.limit != LIMIT_OF_SHELL for job in jobs)
    lab.check(typed, f"its jobs have another partition or time limit than himl was given: {jobs}")
    lab.check(
        {job.account for job in jobs} == {chosen.get("SBATCH_ACCOUNT", "lab")}, f"the account of its jobs: {jobs}"
    )
    lab.check(len(jobs) == 1 and ("_" in jobs[0].id) == bool(many), f"its jobs are {jobs}")
    lab.env = dice.choice((before, lab.env))
    lab.cancel(run)
    lab.check_unrelated()
    return ended


def same_number(lab: Lab, dice: random.Random) -> Ended:
    """A shell that uses the other cluster, where an unrelated job has the number of the run's job."""
    lab.add_unrelated("c2", "c1", dice.randrange(1, 4))
    ended, run = lab.submit(*dice_many(dice), *LATER)
    lab.env = {**lab.env, "SLURM_CLUSTERS": lab.variant("c2", "all", "c1,c2")}
    lab.facts["clusters"] = lab.env["SLURM_CLUSTERS"]
    lab.expect(run, "Queued", "while its job waits,")
    lab.cancel(run)
    lab.check_unrelated()
    return ended


def array(lab: Lab, dice: random.Random) -> Ended:
    """An array that waits is canceled in Slurm, as a whole or a task of it, and squeue may have forgotten it when
    himl asks.
    """
    whole, forgotten = lab.variant((True, True), (True, False), (False, False))
    lab.facts.update(whole=whole, forgotten=forgotten)
    lab.slurm("sbatch", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 600")
    ended, run = lab.submit("--crossval", str(FOLDS))
    lab.expect(run, "Queued", "while its job waits,")
    (job,) = lab.jobs(run)
    number = job.id.partition("_")[0]
    lab.slurm("scancel", number if whole else f"{number}_1")
    if forgotten:
        lab.slurm.forget(run)
    if whole:
        until(
            lambda: lab.show(run)["status"] not in ("Queued", "Running"), lambda: str(lab.show(run)), seconds=PATIENCE
        )
    else:
        lab.expect(run, "Queued", "while its other trials wait,")
    for child in lab.show(run)["children"] if whole else lab.show(run)["children"][1:2]:
        # Slurm keeps no record of a task that was canceled before it started, but lists the others
        right = (
            child["status"] == "Canceled"
            and ("canceled in Slurm" if whole else "canceled before it started") in child["reason"]
        )
        lab.check(right, f"a trial that was canceled in Slurm is {child['status']} ({child['reason']})")
    if not whole:
        lab.cancel(run)
    return ended


def out_of_memory(lab: Lab, dice: random.Random) -> Ended:
    ended, run = lab.submit("--sbatch", f"mem={dice.choice((200, 300))}M", script="memory.py")
    lab.expect_end(run, "Failed", "memory")
    return ended


def time_limit(lab: Lab, dice: random.Random) -> Ended:
    """The job reaches its time limit in Slurm, with a script that ends at SIGTERM, or not."""
    heeds = lab.facts["heeds"] = lab.variant(True, False)
    ended, run = lab.submit("--sbatch", "time=1", script="train.py" if heeds else "stubborn.py", steps="100000")
    lab.expect_end(run, "Failed", "time limit")
    return ended


def preempted(lab: Lab, dice: random.Random) -> Ended:
    """A job of a partition with a higher priority ends the run's job, at once or after the time to save of its
    partition. It goes on later or fails."""
    partition, script = lab.variant(
        ("low", "train.py"), ("spare", "train.py"), ("soft", "train.py"), ("soft", "stubborn.py")
    )
    lab.facts |= {"partition": partition, "script": script}
    ended, run = lab.submit(
        "--sbatch", f"partition={partition}", script=script, steps="1000" if partition == "soft" else "40"
    )
    if script == "train.py":
        lab.has_taken_steps(run)
    else:
        until(lambda: lab.show(run)["status"] == "Running", "it runs")
    lab.slurm("sbatch", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")
    if partition == "low":
        lab.expect_end(run, "Completed")
        lab.check(len(lab.show(run).get("attempts", ())) == 2, f"its attempts are {lab.show(run).get('attempts')}")
    else:
        lab.expect_end(run, "Failed", "preempted")
    return ended


def requeues_itself(lab: Lab, dice: random.Random) -> Ended:
    """A script has its own job requeued, and ends or waits for its end. The next attempt completes."""
    after = lab.facts["then"] = lab.variant("0", "1", "wait")
    ended, run = lab.submit(script="requeues.py", steps=after)
    lab.expect_end(run, "Completed")
    lab.check(len(lab.show(run).get("attempts", ())) == 2, f"its attempts are {lab.show(run).get('attempts')}")
    return ended


def lost_node(lab: Lab, dice: random.Random) -> Ended:
    """The node of the run fails, and Slurm starts its job on the other one, or not (`no-requeue`)."""
    again = lab.facts["requeued"] = lab.variant(True, False)
    ended, run = lab.submit(*(() if again else ("--sbatch", "no-requeue")), steps="40")
    lab.has_taken_steps(run)
    node = lab.slurm("squeue", "-h", "-n", run, "-o", "%N")
    lab.slurm("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    if again:
        lab.expect_end(run, "Completed")
    else:
        lab.expect_end(run, "Failed", "node")
    return ended


def canceled_by_admin(lab: Lab, dice: random.Random) -> Ended:
    """An administrator cancels the waiting job of another user, in whose workspace both list it."""
    lab.folder.chmod(0o777)
    lab.trust(lab.world.home)
    done = lab.other("submit", "train.py", "--cluster", "slurm:gpu", "-q", *dice_many(dice), *LATER)
    ended = Ended(done.code, done.stdout, done.stderr)
    if not named(ended):
        raise RefusedError(f"there is no run: exit code {ended.code}: {ended.stderr.strip()[:300]}")
    (run,) = named(ended)
    lab.expect(run, "Queued", "for an administrator", "BeginTime")
    lab.slurm("scancel", lab.jobs(run)[0].id.partition("_")[0])
    until(
        lambda: lab.shown_to_other("runs", "show", run)["status"] not in ("Queued", "Running"),
        "it ends",
        seconds=PATIENCE,
    )
    shown = lab.shown_to_other("runs", "show", run)
    for each in shown["children"] or [shown]:
        right = each["status"] == "Canceled" and "canceled in Slurm" in each["reason"]
        lab.check(right, f"a run that an administrator canceled is {each['status']} ({each['reason']})")
    return ended


def wrapper(lab: Lab, dice: random.Random) -> Ended:
    """A site's own sbatch prints lines around the number of the job."""
    how = lab.facts["lines"] = lab.variant(*sorted(WRAPPERS))
    lab.codes |= {NO_ANSWER} if how == "silent" else set()
    folder, real = lab.slurm.folder / "wrapper", lab.slurm.programs / "sbatch"
    text = WRAPPERS[how].format(sbatch=f'{shlex.quote(str(real))} "$@"')
    only = f'case "$1" in --help|--version) exec {real} "$@";; esac\n'
    write_files(folder, {"sbatch": f"#!/bin/sh\n{only}{text}\n"})
    (folder / "sbatch").chmod(0o755)
    lab.env = {**lab.env, "PATH": f"{folder}:{lab.env['PATH']}"}
    many = dice_many(dice)
    ended, run = lab.submit(*many)
    lab.expect_end(run, "Completed")
    jobs = lab.jobs(run)
    lab.check(len(jobs) == (FOLDS if many else 1), f"its jobs are {jobs}")
    return ended


def few_at_once(lab: Lab, dice: random.Random) -> Ended:
    """A sweep with more trials than the QOS lets a user submit."""
    count = lab.facts["trials"] = FEW + dice.randrange(1, FEW + 2)
    ended, run = lab.submit("--crossval", str(count), "--sbatch", "qos=few")
    lab.expect_end(run, "Completed")
    return ended


def services_away(lab: Lab, dice: random.Random) -> Ended:
    """The controller or slurmdbd does not answer: what is not known is not recorded, and the run goes on."""
    waits, away = lab.variant(*((waits, away) for away in ("c1", "slurmdbd", "both") for waits in (True, False)))
    lab.facts.update(waits=waits, away=away)
    ended, run = lab.submit(*(LATER if waits else ()), steps="60")
    if not waits:
        lab.has_taken_steps(run)
    for name in ("c1", "slurmdbd") if away == "both" else (away,):
        lab.slurm.stop_daemon(name)
    if waits:
        lab.expect(run, "Queued", "while Slurm is away,")
    status = lab.show(run)["status"]
    lab.check(status in ("Queued", "Running", "Completed"), f"while Slurm is away, the run is {status}")
    if waits and away != "slurmdbd":
        done = lab.call("runs", "cancel", run)
        lab.check(
            done is not None and done.code in (UNKNOWN, NO_ANSWER),
            f"runs cancel without a controller: {done and (done.code, done.stderr.strip()[:200])}",
        )
        lab.expect(run, "Queued", "after a cancel that Slurm did not get,")
    if away != "c1":
        lab.slurm.start_accounting()
    if away != "slurmdbd":
        lab.slurm.start_controller()
        lab.slurm.wait_for_nodes()
    if waits:
        lab.cancel(run)
    else:
        lab.expect_end(run, "Completed")
    return ended


def supervisor(lab: Lab, dice: random.Random) -> Ended:
    """Slurm kills the batch step of a job: the run has failed, and nothing of it goes on."""
    cluster = lab.facts["cluster"] = lab.variant("c1", "c2")
    ended, run = lab.submit("--sbatch", f"clusters={cluster}", steps="100000")
    lab.has_taken_steps(run)
    lab.slurm("scancel", "-M", cluster, "--signal=KILL", "--batch", lab.jobs(run)[0].id)
    lab.expect_end(run, "Failed", f"job {lab.jobs(run)[0].id}")
    return ended


def controller(lab: Lab, dice: random.Random) -> Ended:
    """The controller of a sweep is requeued or gets SIGTERM of Slurm: its trials go on, and the sweep ends with all
    of them.
    """
    how = lab.facts["how"] = lab.variant("requeue", "TERM", "KILL")
    ended, run = lab.submit(*SWEEP, script="trial.py")
    until(
        lambda: len([job for job in lab.jobs(run) if job.name != run]) >= 2, "it has submitted trials", seconds=PATIENCE
    )
    (number,) = [job.id for job in lab.jobs(run) if job.name == run]
    time.sleep(dice.uniform(0.0, 2.0))
    if how == "requeue":
        lab.slurm("scontrol", "requeue", number)
    else:
        lab.slurm("scancel", f"--signal={how}", "--batch", number)
    if how == "KILL":  # there is no controller any more, and the user resumes the sweep
        until(lambda: not [job for job in lab.jobs(run) if job.state in OPEN], "all jobs end", seconds=PATIENCE)
        done = lab.call("submit", "--resume", run)
        lab.check(
            done is not None and done.code == 0, f"submit --resume: {done and (done.code, done.stderr.strip()[:200])}"
        )
    lab.expect_end(run, "Completed")
    lab.check(not any(job.state == "CANCELLED" for job in lab.jobs(f"{run}_")), "trials were canceled")
    return ended


def clients(lab: Lab, dice: random.Random) -> Ended:
    """A workspace on a file system of which each node has a client with its own cache: trials of both nodes log at
    once, and all values are there.
    """
    count = lab.facts["trials"] = dice.randrange(3, 7)
    full = ("--sbatch", "cpus-per-task=8") if dice.random() < 0.5 else ()  # one trial per node at a time
    ended, run = lab.submit("--crossval", str(count), *full, script="logs.py")
    lab.expect_end(run, "Completed")
    for child in lab.show(run)["children"]:
        # A trial of some seconds also has metrics of its machine
        found = sum(not metric["name"].startswith(SYSTEM) for metric in lab.show(child["id"])["metrics"])
        lab.check(found == VALUES, f"a trial has {found} values of {VALUES}")
    lab.check(is_sound(lab.slurm.folder / "backing" / "project"), "the database is damaged")
    return ended


TRIED: Mapping[str, tuple[int, Callable[[Lab, random.Random], Ended]]] = {
    "clients": (4, clients),
    "another-user": (4, listed_by_another),
    "another-cluster": (6, other_cluster),
    "shell": (6, shell),
    "same-number": (3, same_number),
    "array": (3, array),
    "out-of-memory": (2, out_of_memory),
    "time-limit": (2, time_limit),
    "preemption": (4, preempted),
    "requeues-itself": (3, requeues_itself),
    "lost-node": (4, lost_node),
    "canceled-by-admin": (2, canceled_by_admin),
    "wrapper": (6, wrapper),
    "away": (6, services_away),
    "few-at-once": (2, few_at_once),
    "supervisor": (2, supervisor),
    "controller": (4, controller),
}


def on_site(run: Callable[[Lab, random.Random], Ended], number: int) -> Callable[[World, random.Random], Result]:
    def case(world: World, dice: random.Random) -> Result:
        with running_site() as site:
            lab = Lab(world, site, number, "shared/project" if run is clients else "project")
            begun, ended = time.monotonic(), None
            try:
                ended = run(lab, dice)
                verdict = judge(ended, lab.codes, lab.problems, prints=True)
            except RefusedError as e:
                verdict = lost("; ".join([*lab.problems, str(e)]))
            return world.told(verdict, ended, time.monotonic() - begun, 1, **lab.facts)

    return case


def kill(world: World, dice: random.Random) -> Result:
    """As `submit/kill`, on either of the clusters."""
    with running_site() as site:
        return killed_submit(Lab(world, site), dice, "--sbatch", f"clusters={dice.choice(('c1', 'c2'))}")


def accounting_cases() -> list[Case]:
    cells = {what: [on_site(run, number) for number in range(count)] for what, (count, run) in TRIED.items()}
    cells["kill"] = [kill] * KILLS
    return [
        Case(f"slurm/site/{what}/{number:02d}", as_root(run))
        for what, runs in cells.items()
        for number, run in enumerate(runs)
    ]


def as_root(run: Callable[[World, random.Random], Result]) -> Callable[[World, random.Random], Result]:
    """*run*, which is not met for other users."""
    return run if os.geteuid() == 0 else lambda world, dice: Result(Outcome.not_met, None, 0.0, why="it needs root")
