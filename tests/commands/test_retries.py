"""Tests of `himl submit --retries N` for local jobs: attempts of a run, canceled and killed runs, and retries of
trials, folds and steps.
"""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.support.processes import processes_below, supervisor_of
from tests.support.running import Himl, until, write_files
from tests.support.runs import latest, posix
from tests.support.sweeps import children, show, statuses

# Fails unless it is the attempt that its argument names. Its log has its number and what it found of earlier attempts.
FLAKY = """
import os, pathlib, sys
from himl_cli import RUN_CONTEXT
from himl_cli.job import recovery_checkpoint
number, wanted = int(os.environ["HIML_TRY"]), int(sys.argv[-1])
found = recovery_checkpoint()
print("try", number, "after", found and found.name, sys.stdin.read().strip(), flush=True)
folder = pathlib.Path("outputs/checkpoints")
folder.mkdir(parents=True, exist_ok=True)
(folder / f"recovery_epoch={number}.ckpt").write_text("x")
# A parameter may change between attempts, but not within one.
for parameters in ({"begin": number, "seed": 1}, {"begin": 9, "end": number}):
    RUN_CONTEXT.log_parameters(parameters)
for step in range(3):
    RUN_CONTEXT.log("val/loss", 1.0 if number < wanted else 2.0 + number + step, step=step)
RUN_CONTEXT.flush()
sys.exit(10 + number if number < wanted else 0)
"""
WAITS = """
import os, pathlib, sys, time
print("try", os.environ["HIML_TRY"], flush=True)
if os.environ["HIML_TRY"] == "1":
    sys.exit(1)
pathlib.Path("../../../../up").touch()
time.sleep(600)
"""

# Its first attempt is killed in the fourth fold. Each attempt logs a table, a list and texts
FOLDS = """
import json, os, signal, urllib.request
from himl_cli import RUN_CONTEXT
attempt = int(os.environ["HIML_TRY"])

def send(route, **fields):
    headers = {"Authorization": "Bearer " + os.environ["MLFLOW_TRACKING_TOKEN"], "Content-Type": "application/json"}
    url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/" + route
    return json.load(urllib.request.urlopen(urllib.request.Request(url, json.dumps(fields).encode(), headers)))

def start(name, parent):
    tags = [{"key": "mlflow.parentRunId", "value": parent}] if parent else []
    return send("create", run_name=name, tags=tags)["run"]["info"]["run_id"]

job = start("", "")
RUN_CONTEXT.log_table("confusion", {"count": [attempt] * (4 - attempt), "label": [f"{attempt}"] * (4 - attempt)})
RUN_CONTEXT.log_list("names", [f"{attempt}"] * (4 - attempt))
for step in range(5 - 2 * attempt, 7 - 2 * attempt):
    RUN_CONTEXT.log("note", f"note {attempt}", step=step)
RUN_CONTEXT.flush()
for number in range(5):
    for name in (f"fold {number}", ""):
        fold = start(name, job)
        if number == 3 and attempt == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        send("log-metric", run_id=fold, key="acc" if name else "unnamed", value=10 * attempt + number)
        inner = start("inner", fold)
        send("log-metric", run_id=inner, key="deep", value=attempt)
        for run in (inner, fold):
            send("update", run_id=run, status="FINISHED")
"""


def test_a_failed_job_is_tried_again_in_its_folder(himl: Himl, started_himl: Himl, project: Path) -> None:
    write_files(project, {"flaky.py": FLAKY})
    done = started_himl("submit", "flaky.py", "--retries", "3", "--", "3", input=b"piped")
    assert done.code == 0, done.stderr
    assert (
        done.stdout
        == "try 1 after None piped\ntry 2 after recovery_epoch=1.ckpt \ntry 3 after recovery_epoch=2.ckpt \n"
    )
    assert done.stderr.count("Another attempt of run") == 2
    run = latest(himl)
    assert (run["status"], run["exit_code"], run["tags"]["himl.try"]) == ("Completed", 0, "3")
    shown = himl.ok("runs", "show", "latest").stdout
    assert "\nAttempts      3; " in shown
    assert re.search(r"^ +2  20\S+Z +\S+  failed: exit code 12$\n +3 .* completed$", shown, re.MULTILINE)
    details = show(himl, run["id"])
    first, second, third = details["attempts"]
    assert details["parameters"] == {"begin": "3", "end": "3", "seed": "1"}
    # The run lasts from the start of its first attempt to the end of the last one.
    assert (first["started"], first["outcome"], third["ended"]) == (
        run["started"],
        "failed: exit code 11",
        run["ended"],
    )
    assert first["started"] < first["ended"] < second["started"] < second["ended"] < third["started"] < run["ended"]
    assert himl.ok("runs", "logs", "latest", "--try", "2").stdout == "try 2 after recovery_epoch=1.ckpt \n"
    (told,) = himl.ok("runs", "aggregate", "latest", "--json").json()["children"]
    assert told["series"]["val/loss"]["values"] == [5, 6, 7]
    assert himl("submit", "flaky.py", "--retries", "1", "--", "9").code == 1
    run = latest(himl)
    assert (run["status"], run["exit_code"], run["reason"]) == ("Failed", 12, "exit code 12")
    # A resumed run has all of its retries again.
    assert himl("submit", "--resume", "latest").code == 1
    again = latest(himl)
    assert (again["tags"]["himl.try"], again["started"]) == ("4", run["started"])
    ends = [(each["outcome"], each["ended"]) for each in show(himl, run["id"])["attempts"]]
    assert ends[1:] == [
        ("failed: exit code 12", run["ended"]),
        ("failed: exit code 13", ends[2][1]),
        ("failed: exit code 14", again["ended"]),
    ]


@posix
def test_results_of_a_failed_attempt_are_kept_apart(himl: Himl, project: Path) -> None:
    write_files(project, {"folds.py": FOLDS})
    assert himl("submit", "folds.py", "--retries", "1").code == 0
    run = show(himl, "latest")
    told = himl.ok("runs", "aggregate", run["id"], "--json")
    assert "Omitted 7 nested runs of earlier attempts, because later ones used their names again. To" in told.stderr
    found = [each for each in told.json()["children"] if each["display_name"]]
    assert [each["display_name"] for each in found] == [f"fold {number}" for number in range(5)]
    assert [each["last"]["acc"] for each in found] == [20, 21, 22, 23, 24]
    assert told.json()["statistics"]["acc"]["count"] == told.json()["statistics"]["unnamed"]["count"] == 5
    children = [
        (each["display_name"], each["status"], each["tags"].get("himl.try"), each["tags"].get("himl.repeated_by"))
        for each in run["children"]
    ]
    assert children[6:8] == [("fold 3", "Failed", None, "2"), ("fold 0", "Completed", "2", None)]
    assert {each[3] for each in children[:7]} == {"2"}
    values = {(each["name"], each["run"] == run["id"]): each["value"] for each in run["metrics"]}
    assert {value for (name, _), value in values.items() if name == "deep"} == {2}
    assert (
        values["confusion/count", True],
        [each["count"] for each in run["metrics"] if each["name"] == "confusion/count"],
    ) == (2, [2])
    # The second attempt logged the texts from step 1 on, the first one from step 3 on.
    texts = {each["name"]: (each["value"], each["step"], each["count"]) for each in run["texts"]}
    assert texts == {"confusion/label": ("2", 1, 2), "names": ("2", 1, 2), "note": ("note 2", 2, 2)}
    shown = himl.ok("runs", "show", run["id"]).stdout
    assert re.search(r"^Repeated by a later attempt\n  ID .* ATTEMPT\n(.* 1\n){7}", shown, re.MULTILINE)
    assert re.search(r"^  acc +20 .* fold 0$", shown, re.MULTILINE)


@pytest.mark.large("waits for a job to be tried again")
@posix
def test_a_canceled_run_is_not_tried_again_and_a_killed_one_ends(himl: Himl, project: Path) -> None:
    write_files(project, {"waits.py": WAITS, "fails.py": "import sys; print('up', flush=True); sys.exit(1)"})
    run = himl.ok("submit", "waits.py", "--retries", "5", "--no_wait", "-q").stdout.strip()
    until((project / "up").exists, "the second try runs")
    himl.ok("runs", "cancel", run)
    until(lambda: show(himl, run)["status"] == "Canceled", "it is canceled")
    until(lambda: not processes_below(project / ".himl"), "nothing is left of it")
    assert show(himl, run)["tags"]["himl.try"] == "2"
    between = himl.ok("submit", "fails.py", "--retries", "1000", "--no_wait", "-q").stdout.strip()
    until(lambda: "himl.try" in show(himl, between)["tags"], "it failed twice")
    himl.ok("runs", "cancel", between)
    until(lambda: show(himl, between)["status"] == "Canceled", "it is canceled")
    until(lambda: not processes_below(project / ".himl"), "nothing is left of it")
    (project / "up").unlink()
    killed = himl.ok("submit", "waits.py", "--retries", "5", "--no_wait", "-q").stdout.strip()
    until((project / "up").exists, "the second try runs")
    os.kill(supervisor_of(project), signal.SIGKILL)
    until(
        lambda: show(himl, killed)["status"] == "Failed" and not processes_below(project / ".himl"),
        "nothing is left of it",
    )
    assert "ended without recording an outcome" in show(himl, killed)["reason"]


@pytest.mark.large("runs many trials and steps")
def test_trials_and_steps_are_tried_again_by_themselves(himl: Himl, project: Path) -> None:
    fields = {"type": "PythonScriptStep", "script": "flaky.py", "source_directory": "."}
    document = {"step1": {**fields, "arguments": [2]}, "step2": {**fields, "arguments": [1]}}
    repairs = f"open({str(project / 'lib.py')!r}, 'w').write('x = 1')\n"
    write_files(project, {"flaky.py": repairs + FLAKY, "lib.py": "", "pipe.json": json.dumps(document)})
    # The policy reads metrics between the attempts, but stops no trial.
    looks = ("--early_stop", "bandit(slack_factor=100,delay_evaluation=50)")
    told = himl.ok(
        "submit", "flaky.py", "--sweep", "wanted=1,2", "--retries", "1", "--max_concurrent", "2", *looks
    ).stderr
    sweep = latest(himl)
    lacking = "ran the code of the submission, which lacks changes of 'lib.py'"
    assert told.count(f"Further attempts of '{sweep['id']}_1' {lacking}") == 1, told
    assert [run["tags"].get("himl.try") for run in children(himl, sweep["id"])] == [None, "2"]
    # The first attempt of the second trial logged 1, which would be the best value, but does not count.
    assert show(himl, sweep["id"])["primary_metric"]["best"] == f"{sweep['id']}_0"
    assert lacking not in himl.ok("submit", "pipe.json", "--retries", "1").stderr
    assert [run["tags"].get("himl.try") for run in children(himl, latest(himl)["id"])] == ["2", None]
    assert (
        himl("submit", "flaky.py", "--crossval", "2", "--crossval_arg", "wanted", "--retries", "1", "--", "3").code == 0
    )
    assert statuses(himl, latest(himl)["id"]) == ["Completed", "Completed"]


@pytest.mark.parametrize("target", ["flaky.py", "pipe.json", "job.yml"])
def test_azure_ml_has_no_retries_which_is_said(himl: Himl, project: Path, target: str) -> None:
    fields = {"type": "PythonScriptStep", "script": "flaky.py", "source_directory": "."}
    job = "command: python flaky.py\ncode: .\ncompute: azureml:gpu\nenvironment: {image: x}\n"
    write_files(project, {"flaky.py": FLAKY, "pipe.json": json.dumps({"step1": fields}), "job.yml": job})
    image = () if target == "job.yml" else ("--docker_image", "x")
    sent = ("submit", target, "--cluster", "gpu", *image, "--dry_run")
    refused = himl(*sent, "--retries", "2")
    assert (refused.code, "--retries 2: Azure ML does not restart failed jobs." in refused.stderr) == (2, True), (
        refused.stderr
    )
    told = himl.ok(*sent, env={"HIML_SUBMIT_RETRIES": "2"}).stderr
    assert "Ignored: retries = 2. Azure ML does not restart failed jobs." in told
    assert himl("submit", target, "--cluster", "local", "--retries", "1001").code == 2
    refused = himl(*sent, "--gpus", "2")
    assert (refused.code, "--gpus 2: On Azure ML, the instance decides how many GPUs a job has." in refused.stderr) == (
        2,
        True,
    ), refused.stderr
    told = himl.ok(*sent, env={"HIML_SUBMIT_GPUS": "2"}).stderr
    assert "Ignored: gpus = 2. On Azure ML, the instance decides how many GPUs a job has." in told
    for word in ("-1", "1.5", "0.001", "nan", "inf"):
        assert himl("submit", target, "--cluster", "local", "--gpus", word).code == 2, word


def test_a_resumed_run_says_which_code_it_runs_and_takes_new_code(himl: Himl, project: Path) -> None:
    """The folder of the script stays, with what earlier attempts wrote."""
    script = (
        "import os, lib\nopen('own', 'a').write('x')\n"
        "print(lib.VALUE, open('own').read(), os.path.exists('gone.py'), os.path.exists('added.py'))\n"
    )
    write_files(
        project, {"train.py": f"{script}raise SystemExit(lib.VALUE < 3)\n", "lib.py": "VALUE = 1", "gone.py": ""}
    )
    repairs = f"from pathlib import Path\nPath({str(project / 'lib.py')!r}).write_text('VALUE = 2')\n"
    write_files(project, {"train.py": f"{repairs}{script}raise SystemExit(lib.VALUE < 3)\n"})
    done = himl("submit", "train.py", "--retries", "1")
    assert (done.code, done.stderr.count("It runs the code of the submission, which lacks changes of 'lib.py'")) == (
        1,
        1,
    ), done.stderr
    run_id = latest(himl)["id"]
    kept = himl("submit", "--resume", run_id)
    assert kept.stdout.startswith("1 xxx True False\n")
    hint = f"For the new code: himl submit --resume {run_id} --new_code"
    assert kept.stderr.count(f"The code of the submission runs, which lacks changes of 'lib.py'. {hint}") == 1
    write_files(
        project, {"train.py": f"{script}raise SystemExit(lib.VALUE < 3)\n", "lib.py": "VALUE = 3", "added.py": ""}
    )
    (project / "gone.py").unlink()
    renewed = himl.ok("submit", "--resume", run_id, "--new_code")
    assert renewed.stdout == "3 xxxxx False True\n"
    assert "lacks changes" not in renewed.stderr
    assert (
        "New code      from attempt 5: 'gone.py', 'lib.py', 'train.py' and 1 more"
        in himl.ok("runs", "show", run_id).stdout
    )
    earlier = project / ".himl" / "runs" / run_id / "code_1"
    assert sorted(path.name for path in earlier.iterdir()) == ["gone.py", "lib.py", "train.py"]
    assert (earlier / "lib.py").read_text() == "VALUE = 1"
    refused = himl("submit", "train.py", "--new_code")
    assert (refused.code, "--new_code has no effect without --resume RUN" in refused.stderr) == (2, True)


@pytest.mark.usefixtures("known_disk")
def test_missing_trials_run_the_new_code(himl: Himl, project: Path) -> None:
    write_files(
        project,
        {
            "train.py": "import sys, lib\nprint(lib.VALUE)\nsys.exit(lib.VALUE == 'old' and sys.argv[-1] != '1')",
            "lib.py": "VALUE = 'old'",
        },
    )
    run = himl("submit", "train.py", "--sweep", "x=1,2,3", "--max_failures", "1", "-q").stdout.strip()
    write_files(project, {"lib.py": "VALUE = 'new'"})
    code = project / ".himl" / "runs" / run / "code"
    until(lambda: not (code / "lib.py").exists())
    (damaged,) = (path for path in (project / ".himl" / "store").glob("??/*") if path.read_text() == "VALUE = 'old'")
    damaged.chmod(0o644)
    damaged.write_text("")
    hint = f"hint: Run the project's present code: himl submit --resume {run} --new_code\n"
    message = f"error: The run's copy of 'lib.py' is damaged: '{damaged}' is missing or has other content.\n{hint}"
    assert himl("submit", "--resume", run).stderr == message
    himl.ok("submit", "--resume", run, "--new_code")
    assert [himl.ok("runs", "logs", f"{run}_{index}").stdout for index in range(3)] == ["old\n", "new\n", "new\n"]
    told = [
        show(himl, each)["tags"].get("himl.new_code", "") for each in (run, *(f"{run}_{index}" for index in range(3)))
    ]
    assert [text.endswith("UTC: 'lib.py'") for text in told] == [True, False, True, True]
