"""Tests of `himl submit --cluster` on the double of Azure ML: requests and refusals, waiting, following, interruptions,
data and limits.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml

from tests.azureml_double.faults import Status
from tests.azureml_double.jobs.runner import JobRunner
from tests.azureml_double.seeding import StagedWorkspace
from tests.commands.test_submit import KEPT, WRITES
from tests.support.azure import CONDA, SUBMIT, TRAIN
from tests.support.azure import azure_project as azure_project
from tests.support.azure import running as running
from tests.support.folders import files_with
from tests.support.running import Himl, until, write_files
from tests.support.runs import RecordedRuns, posix

INDEX = "https://ada:marked-secret@pypi.example.org/simple"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGk1 ada@lab"
PRIVATE = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
REFUSED = {
    ("--record_in", "azure"): "--record_in azure applies to local jobs only",
    ("--workspace", "local"): "has no clusters",
    ("--ssh_key", "id_rsa"): "--ssh_key 'id_rsa' is a private key, which must not leave this machine.",
    ("--ssh_key", "train.py"): "--ssh_key 'train.py' is not a public SSH key.",
    ("--build_context", "empty"): "There is no 'Dockerfile' in '{project}",
    (
        "--build_context",
        "empty",
        "--dockerfile",
        "image/Dockerfile",
    ): "--dockerfile 'image/Dockerfile' is outside --build_context 'empty'.",
    (
        "--build_context",
        "image",
        "--dockerfile",
        "../train.py",
    ): "--dockerfile '../train.py' is outside --build_context 'image'.",
    (
        "--build_context",
        "image",
        "--dockerfile",
        "Dockerfile.own",
    ): "'Dockerfile.own' is excluded from the build context",
    ("--dockerfile", "{home}/Dockerfile"): "The build context would be all of '{home}'.",
}
LOCKED = ("linkify-it-py==2.2.0", "markdown-it-py==4.3.0", "mdurl==0.1.2", "psutil==7.2.2")
OLD_NAME = "Experiment 'lab-exp' has no runs. Using experiment 'lab_exp'.\n"
LINES = "import sys, time, pathlib\nfor n in range(4):\n    print('line', n, flush=True); time.sleep(0.3)\n"
LOOK = """
import sys
from pathlib import Path
from himl_cli.job import inputs
assert inputs()["scans"] == Path("in/scans").absolute() and inputs()["more"] == Path(sys.argv[2]).parent, dict(inputs())
print(Path("in/scans/a.txt").read_text(), Path(sys.argv[2]).read_text(), sys.argv[1])
"""


@pytest.mark.large("takes long, and other tests run its branches")
def test_submit_without_wait_prints_run_experiment_and_url(
    himl: Himl, azure_project: StagedWorkspace, project: Path, tmp_path: Path
) -> None:
    options = (
        "--env_var",
        "API_TOKEN=marked-secret",
        "--pip_extra_index_url",
        INDEX,
        "-v",
        "--",
        "--epochs",
        "3",
        "--password",
        "marked-secret",
    )
    outcome = himl.ok(*SUBMIT, *options)
    run_id, experiment, studio = outcome.stdout.splitlines()
    assert experiment == "Experiment  train"
    assert studio.startswith(
        "Studio      https://ml.azure.com/runs/"
        f"{run_id}?wsid={azure_project.state.path.replace('resourceGroups', 'resourcegroups')[:20]}"
    )
    assert f"himl runs logs --follow {run_id}" in outcome.stderr
    assert f"himl runs cancel {run_id}" in outcome.stderr
    second = himl.ok(*SUBMIT, *options)
    (project / "config.json").rename(project / "lab.json")
    assert himl(*SUBMIT).code == 2
    document = himl.ok(*SUBMIT, "--json", "--config_file", "lab.json", *options).json()
    assert (document["experiment"], document["status"], document["url"][:26]) == (
        "train",
        "Queued",
        "https://ml.azure.com/runs/",
    )
    unchanged = "The code is unchanged. himl uses the earlier upload."
    assert (unchanged in outcome.stderr, unchanged in second.stderr) == (False, True)
    jobs = [run.job or {} for run in azure_project.state.runs.values()]
    assert [job["environmentVariables"]["API_TOKEN"] for job in jobs] == ["marked-secret"] * 3
    printed = [each for done in (outcome, second) for each in (done.stdout, done.stderr)]
    assert "marked-secret" not in str([printed, [run.tags for run in azure_project.state.runs.values()]])
    assert files_with(tmp_path, "marked-secret") == []


def test_runs_of_both_workspaces_are_compared_with_their_code(
    himl: Himl, azure_project: StagedWorkspace, project: Path
) -> None:
    """A run on a cluster, a local one with changed code, and the working tree after another change."""
    write_files(project, {"old.py": "gone\n", "data.bin": b"\0one"})
    there = himl.ok(*SUBMIT, "-q", "--", "--epochs", "2").stdout.strip()
    (project / "old.py").unlink()
    write_files(project, {"train.py": "print('new')\n", "data.bin": b"\0two", "new.py": "x = 1\n"})
    here = himl.ok("submit", "train.py", "-q", "--", "--epochs", "3").stdout.strip()
    document = himl.ok("runs", "diff", there, here, "--code", "--json").json()
    assert (document["first"], document["second"], document["arguments"]) == (there, here, {"epochs": ["2", "3"]})
    changes = {each["name"]: (each["change"], each["diff"].splitlines()[2:]) for each in document["code"]}
    assert (changes["old.py"], changes["data.bin"]) == (("removed", ["@@ -1 +0,0 @@", "-gone"]), ("changed", []))
    assert changes["new.py"] == ("added", ["@@ -0,0 +1 @@", "+x = 1"])
    assert (changes["train.py"][0], changes["train.py"][1][-1]) == ("changed", "+print('new')")
    assert set(changes) == {"old.py", "data.bin", "new.py", "train.py"}
    assert "  removed  old.py\n" in himl.ok("runs", "diff", here[-8:]).stdout
    write_files(project, {"new.py": "x = 2\n"})
    assert himl.ok("runs", "diff", here, ".", "--code").stdout.splitlines()[-2:] == ["-x = 1", "+x = 2"]
    assert himl.ok("runs", "diff", there, ".", "-q").stdout.split() == ["data.bin", "new.py", "old.py", "train.py"]
    assert himl("runs", "diff", ".", here).code == 2
    himl.ok("runs", "code", there, "-o", "saved")
    assert ((project / "saved" / "old.py").read_text(), (project / "saved" / "data.bin").read_bytes()) == (
        "gone\n",
        b"\0one",
    )


def test_a_run_is_repeated_here_and_there(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    """From a cluster to this machine and back: its code, arguments, variables and environment."""
    show = "import os, sys; print(*sys.argv[1:], os.environ['TOKEN'])\n"
    write_files(project, {"train.py": show, "more/x.txt": "x"})
    there = himl.ok(
        *SUBMIT,
        "-q",
        "--env_var",
        "TOKEN=t",
        "--tag",
        "team=blue",
        "--max_run_duration",
        "90m",
        "--output",
        "m=nets",
        "--",
        "--lr",
        "0.1",
        "--key",
        "a b",
    ).stdout.strip()
    write_files(project, {"train.py": "raise SystemExit('new code')\n", "environment.yml": "dependencies: [other]\n"})
    here = himl.ok("submit", "--from", there, "--cluster", "local", "--", "--lr", "0.2")
    assert here.stdout == "--lr 0.2 --key a b t\n"
    other = ("--env_var", "TOKEN=u", "--env_var", "COLOUR=red")
    back = himl.ok("submit", "--from", "latest", "--cluster", "cpu-cluster", *other, "-q").stdout.strip()
    again = himl.ok("submit", "--from", there, "-q", "--", "--lr", "0.3").stdout.strip()
    jobs = {run_id: azure_project.state.runs[run_id].job or {} for run_id in (there, back, again)}
    assert [job["command"] for job in jobs.values()] == [
        f"python train.py --lr {lr} --key 'a b'" for lr in ("0.1", "0.2", "0.3")
    ]
    assert len({job["codeId"] for job in jobs.values()}) == 1
    assert [job["environmentVariables"]["TOKEN"] for job in jobs.values()] == ["t", "u", "t"]
    assert jobs[again]["outputs"] == jobs[there]["outputs"]
    assert (jobs[again]["environmentId"], jobs[again]["limits"]) == (
        jobs[there]["environmentId"],
        jobs[there]["limits"],
    )
    tags = azure_project.state.runs[again].tags
    assert (tags["team"], tags["himl.repeats"], tags["command_line"]) == (
        "blue",
        there,
        "train.py --lr 0.3 --key 'a b'",
    )
    refused = himl("submit", "--from", there, "--cluster", "local", "--same_environment")
    assert (refused.code, "the packages are unknown: Azure ML stores the files" in refused.stderr) == (2, True)
    himl.ok("submit", "--from", there, "--same_environment", "-q")


def test_trials_and_whole_sweeps_of_a_cluster_are_repeated(
    himl: Himl, azure_project: StagedWorkspace, project: Path
) -> None:
    write_files(project, {"train.py": "import sys; print(*sys.argv[1:])\n"})
    sweep = himl.ok(
        *SUBMIT, "-q", "--sweep", "lr=0.1,0.2", "--primary_metric", "acc", "--goal", "maximize", "--", "--epochs", "2"
    ).stdout.strip()
    again = himl.ok("submit", "--from", sweep, "-q").stdout.strip()
    old, new = (azure_project.state.runs[run_id].job or {} for run_id in (sweep, again))
    parts = ("searchSpace", "objective", "samplingAlgorithm", "trial")
    assert [new[name] for name in parts] == [old[name] for name in parts]
    azure_project.add_run(f"{sweep}_1", "train", parent=sweep, tags={"hyperparameters": '{"lr": 0.2}'})
    assert himl.ok("submit", "--from", f"{sweep}_1", "--cluster", "local").stdout == "--epochs 2 --lr 0.2\n"


def test_dry_run_shows_the_job_and_asks_nobody(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": TRAIN, "environment.yml": CONDA})
    with ZipFile(project / "own-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("own-1.0.dist-info/METADATA", "Name: own\nVersion: 1.0\n")
    options = (
        "--env_var",
        "API_TOKEN=marked-secret",
        "--pip_extra_index_url",
        INDEX,
        "--private_wheel",
        "own-1.0-py3-none-any.whl",
        "--dry_run",
    )
    outcome = himl.ok(*SUBMIT, *options, "--", "--epochs", "3", "--password", "marked-secret")
    assert "compute: azureml:cpu-cluster" in outcome.stdout.splitlines()
    assert "command: python train.py --epochs 3" in outcome.stdout
    assert "marked-secret" not in outcome.stdout + outcome.stderr
    assert "Secrets are shown as ***" in outcome.stderr
    assert "himl submit adds 'own-1.0-py3-none-any.whl' to the image" in outcome.stderr
    assert himl.ok(*SUBMIT, *options, "--json").json()["job_yaml"].count("compute: azureml:cpu-cluster") == 1
    assert himl.ok("submit", "train.py", "--dry_run", "-q").stdout.count("compute: local") == 1
    assert sorted(path.name for path in project.iterdir()) == [
        "environment.yml",
        "own-1.0-py3-none-any.whl",
        "train.py",
    ]


def test_bad_options_and_clusters_are_refused(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    image = {"image/Dockerfile": "FROM x\n", "image/.gitignore": "Dockerfile.own\n", "image/Dockerfile.own": "FROM x"}
    write_files(project, {**image, "id_rsa": PRIVATE, "empty/a.txt": ""})
    for options, message in REFUSED.items():
        outcome = himl(*SUBMIT, *(option.format(home=Path.home()) for option in options))
        lines = outcome.stderr.strip().splitlines()
        said = message.format(project=project, home=Path.home()) in lines[0]
        assert (outcome.code, outcome.stdout, said, len(lines) <= 2) == (2, "", True, True), outcome.stderr
    assert azure_project.requests() == []
    outcome = himl("submit", "train.py", "--cluster", "gpu")
    assert (outcome.code, outcome.stdout) == (3, "")
    assert ("cpu-cluster" in outcome.stderr, "gpu-cluster" in outcome.stderr) == (True, True)
    assert not azure_project.requests("^PUT")
    errors = [{"code": "ClusterCoreQuotaReached", "message": "The quota of this family is reached."}]
    azure_project.state.computes["cpu-cluster"] |= {"state": "Failed", "errors": errors}
    sent = himl.ok(*SUBMIT, "--", "--epochs", "3")
    assert "The compute target 'cpu-cluster' is in state Failed: The quota of this family is reached." in " ".join(
        sent.stderr.split()
    )
    assert list(azure_project.state.runs) == sent.stdout.split()[:1]
    azure_project.state.computes["cpu-cluster"]["state"] = "Deleting"
    assert himl(*SUBMIT).code == 2


def test_what_a_job_may_be_given_reaches_the_service(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    write_files(project, {"image/Dockerfile": "FROM python:3.11\n", "image/.env": "SECRET=1", "id.pub": KEY})
    (project / "environment.yml").unlink()
    options = ("--instance_type", "gpu-large", "--vscode", "--jupyter", "--ssh_key", "id.pub")
    for built in (
        ("--build_context", "image"),
        ("--dockerfile", "image/Dockerfile"),
        ("--build_context", "image", "--dockerfile", "Dockerfile"),
    ):
        done = himl.ok(*SUBMIT, *options, *built)
        assert (
            f"Build context '{project / 'image'}': himl left out one file that may contain secrets: '.env'."
            in " ".join(done.stderr.split())
        )
    jobs = [run.job or {} for run in azure_project.state.runs.values()]
    assert len({job["environmentId"] for job in jobs}) == 1
    assert jobs[0]["resources"]["instanceType"] == "gpu-large"
    assert sorted(jobs[0]["services"]) == ["jupyterlab", "ssh", "vscode"]
    assert jobs[0]["services"]["ssh"]["properties"]["sshPublicKeys"] == KEY
    assert [
        name.rpartition("/")[2] for name in azure_project.blob_names("workspaceblobstore", "himl-environments/")
    ] == ["Dockerfile"]


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_lock_file_is_the_environment_and_what_it_lacks_is_said(
    himl: Himl, azure_project: StagedWorkspace, project: Path
) -> None:
    """The lock file is the one in the project, in a variable, or in an option. A local job ignores it."""
    lock = Path(__file__).parents[1] / "services" / "locks" / "uv.lock"
    write_files(
        project, {"uv.lock": lock.read_bytes(), "packages/core/core.py": "", ".python-version": "3.11", "id.pub": KEY}
    )
    write_files(
        project,
        {"other/pylock.toml": "what", "pyproject.toml": '[project]\nname = "lungs"\nrequires-python = ">=3.12"\n'},
    )
    (project / "environment.yml").unlink()
    done = himl.ok(*SUBMIT, "--jupyter", "--ssh_key", "id.pub")
    said = done.stderr.splitlines()
    assert f"Environment of the job: python=3.11 and 6 packages of '{project / 'uv.lock'}'." in said[0]
    warnings = [line for line in said if line.startswith("warning: ")]
    assert [
        word in line for word, line in zip(("requires >=3.12", "--jupyter needs ipykernel"), warnings, strict=True)
    ] == [True, True]
    assert said.index(warnings[-1]) < next(number for number, line in enumerate(said) if line.startswith("Snapshot of"))
    (run,) = azure_project.state.runs.values()
    name, version = (run.job or {})["environmentId"].rpartition("/environments/")[2].split("/versions/")
    environment = azure_project.state.assets["environments"][name][version]
    pip = yaml.safe_load(environment["condaFile"])["dependencies"][-1]["pip"]
    assert [line.partition(" --hash=sha256:")[0] for line in pip] == [*LOCKED, "six==1.16.0", "toolz==1.2.0"]
    refused = himl(*SUBMIT, env={"HIML_SUBMIT_LOCK": "other/pylock.toml"})
    assert (refused.code, "pylock.toml' is not a lock file in TOML" in refused.stderr) == (2, True)
    done = himl.ok(*SUBMIT, "--lock", "uv.lock[new]", "--dry_run")
    assert "      - iniconfig==2.1.0 --hash=sha256:" in done.stdout
    assert (
        "Ignored, because the job runs on this machine: --lock."
        in himl.ok("submit", "train.py", "--lock", "uv.lock", "--no_wait").stderr
    )


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_dash_stays_and_no_older_run_is_served_for_the_new_one(himl: Himl, azure_project: StagedWorkspace) -> None:
    for experiment, run_id in (("lab-exp", "of_the_sdk"), ("lab_exp", "of_old_himl")):
        azure_project.put_artifacts(azure_project.add_run(run_id, experiment), {"outputs/which.txt": run_id.encode()})
    sent = himl.ok(*SUBMIT, "--experiment", "lab-exp", "--json", "--", "--epochs", "1")
    run_id = sent.json()["id"]
    assert (sent.json()["experiment"], "experiment is called" in sent.stderr) == ("lab-exp", False)
    assert run_id.startswith("lab-exp_")
    azure_project.state.runs[run_id].status = "Completed"
    azure_project.put_artifacts(
        azure_project.state.runs[run_id], {"outputs/which.txt": b"new", "logs/events.out.tfevents.1": b"x"}
    )
    wanted = ("--experiment", "lab-exp")
    assert himl.ok("runs", "list", *wanted, "-q").stdout == f"{run_id}\nof_the_sdk\n"
    assert himl.ok("runs", "show", *wanted, "-q").stdout == f"{run_id}\n"
    himl.ok("download", *wanted, "--prefix", "outputs", "--flat", "--output_dir", "got")
    assert [path.read_bytes() for path in (himl.folder / "got").rglob("which.txt")] == [b"new"]
    himl.ok("tb", *wanted, "--sync_only", "--run_logs_dir", "curves")
    assert [path.read_bytes() for path in (himl.folder / "curves").rglob("*tfevents*")] == [b"x"]


def test_runs_kept_here_are_found_by_the_same_rule(himl: Himl, project: Path) -> None:
    runs = RecordedRuns(project)
    files = {"logs/events.out.tfevents.1": b"", "outputs/checkpoints/last.ckpt": b"weights"}
    runs.add("lab_exp_1_aa", experiment="lab_exp", files=files)
    for command in (("runs", "list"), ("runs", "show"), ("tb", "--sync_only"), ("checkpoint", "fetch")):
        assert OLD_NAME in himl.ok(*command, "--experiment", "lab-exp").stderr, command
    runs.add("a_b-c_3_cc", experiment="a_b-c")
    assert himl.ok("runs", "list", "--experiment", "a__b-c", "-q").stdout == "a_b-c_3_cc\n", (
        "hi-ml makes one _ of several"
    )
    runs.add("lab-exp_2_bb", experiment="lab-exp")
    assert himl.ok("runs", "list", "--experiment", "lab-exp", "-q").stdout == "lab-exp_2_bb\n"
    failed = himl.ok("runs", "list", "--experiment", "lab-exp", "--tags", "team=red")
    assert failed.stderr == "No runs in local workspace '.himl' match.\n", (
        "the experiment is there: no other one is meant"
    )
    assert (
        himl("runs", "show", "--experiment", "lab-epx").stderr.splitlines()[1]
        == "hint: Did you mean lab-exp or lab_exp?"
    )


@pytest.fixture
def held(azure_project: StagedWorkspace) -> Iterator[JobRunner]:
    with azure_project.run_jobs(hold=True) as jobs:
        yield jobs


@pytest.mark.large("waits for jobs of the double")
def test_waiting_says_how_it_went_and_why_it_failed(himl: Himl, running: StagedWorkspace, project: Path) -> None:
    running.stage.faults.add(Status(503, retry_after=300), "GET .*/runs/", times=2)
    outcome = himl.ok(*SUBMIT, "--wait", "--", "--epochs", "3")
    run_id = outcome.stdout.splitlines()[0]
    assert "epochs" not in outcome.stdout + outcome.stderr
    assert (f"Details: himl runs show {run_id}" in outcome.stderr, outcome.stderr.count("himl keeps trying")) == (
        True,
        1,
    )
    assert himl.ok(*SUBMIT, "--wait", "--json", "--", "--epochs", "3").json()["status"] == "Completed"
    quiet = himl.ok(*SUBMIT, "--wait", "-q", "--", "--epochs", "3")
    assert (quiet.stdout.strip() in running.state.runs, quiet.stderr) == (True, "")
    write_files(project, {"train.py": "import sys\nfor n in range(40): print('line', n)\nsys.exit(7)\n"})
    waited = himl(*SUBMIT, "--wait")
    assert waited.code == 1
    assert "line 39" in waited.stderr
    assert "line 19\n" not in waited.stderr
    run_id = waited.stdout.splitlines()[0]
    assert (
        waited.stderr.splitlines()[-2]
        == f"error: Run '{run_id}' failed: Execution failed. User process 'python' exited with status code 7."
    )
    followed = himl(*SUBMIT, "--follow")
    assert (followed.code, followed.stdout.splitlines()[-1], "line 39" in followed.stderr) == (1, "line 39", False)
    write_files(
        project,
        {
            "train.py": "import os, sys, time\nif os.environ['RANK'] == '1':\n    print('boom'); sys.exit(7)\n"
            "time.sleep(600)"
        },
    )
    followed = himl(*SUBMIT, "--processes_per_node", "2", "--follow")
    assert (followed.code, followed.stdout) == (1, "")
    assert "The last lines of user_logs/std_log_process_1.txt:\nboom\n" in followed.stderr
    assert followed.stderr.splitlines()[-1].endswith("--file std_log_process_1.txt")


@pytest.mark.large("takes long, and other tests run its branches")
def test_queued_job_is_waited_for_and_canceled(himl: Himl, held: JobRunner, azure_project: StagedWorkspace) -> None:
    first, second = (himl.ok(*SUBMIT, "-q", "--", "--epochs", "3").stdout.strip() for _ in range(2))
    azure_project.wait_for(first, "Queued")
    assert himl("runs", "logs", first).code == 3
    assert himl.ok("runs", "cancel", first).stdout == f"Requested cancellation of run '{first}'.\n"
    azure_project.wait_for(first, "Canceled")
    assert himl.ok("runs", "show", first, "--json").json()["status"] == "Canceled"
    assert "ended without a log" in himl("runs", "logs", "--follow", first).stderr
    with himl.start("runs", "logs", "--follow", second) as watcher:
        assert watcher.stderr is not None
        assert b"has no log yet" in watcher.stderr.readline()
        azure_project.stage.faults.add(Status(503, retry_after=300), "GET .*/runs/", times=2)
        held.release(second)
        printed, said = watcher.communicate(timeout=100)
    assert (watcher.returncode, printed) == (0, b"epochs 3 blue\n")
    assert (said.count(b"himl keeps trying. The run continues."), said.count(b"The service responds again.")) == (1, 1)


def test_log_of_the_image_build_comes_before_the_jobs_own(himl: Himl, azure_project: StagedWorkspace) -> None:
    build = "azureml-logs/20_image_build_log.txt"
    with azure_project.run_jobs(hold=True, image_log="Step 1/2 : FROM base\n") as held:
        with himl.start(*SUBMIT, "--follow", "--", "--epochs", "3") as watcher:
            assert watcher.stdout is not None
            assert watcher.stdout.readline() == b"Step 1/2 : FROM base\n"
            (run,) = azure_project.state.runs.values()
            azure_project.wait_for(run.run_id, "Queued")
            now = himl.ok("runs", "logs", run.run_id)
            assert now.stdout == "Step 1/2 : FROM base\n"
            assert now.stderr == f"Run '{run.run_id}' has no log yet. This is the log of its image build: {build}\n"
            azure_project.append_log(run, "Step 2/2 : RUN pip\n", name=build)
            held.release()
            printed, said = watcher.communicate(timeout=100)
        assert (watcher.returncode, printed) == (0, b"Step 2/2 : RUN pip\nepochs 3 blue\n"), said
        assert said.decode().count(f"image build: {build}\n") == 1
        assert f"The image is ready. The log of run '{run.run_id}': user_logs/std_log_process_0.txt\n" in said.decode()
        ended = himl.ok("runs", "logs", run.run_id)
        assert (ended.stdout, ended.stderr) == ("epochs 3 blue\n", "")
        assert (
            himl.ok("runs", "logs", run.run_id, "--file", "20_image_build_log.txt").stdout
            == "Step 1/2 : FROM base\nStep 2/2 : RUN pip\n"
        )


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_build_that_fails_is_told_by_its_log(himl: Himl, azure_project: StagedWorkspace) -> None:
    with azure_project.run_jobs(image_log="No matching distribution found for torsh\n", image_fails=True):
        waited, followed = himl(*SUBMIT, "--wait"), himl(*SUBMIT, "--follow")
    assert (waited.code, followed.code, followed.stdout) == (1, 1, "No matching distribution found for torsh\n")
    assert (
        "The last lines of azureml-logs/20_image_build_log.txt:\nNo matching distribution found for torsh\n"
        in waited.stderr
    )
    assert "failed: Image build failed." in followed.stderr


@pytest.mark.large("waits for jobs of the double")
@posix
@pytest.mark.parametrize("options", [("--follow",), ("--wait", "-q")], ids=" ".join)
def test_ctrl_c_leaves_job_running_and_says_how_to_cancel(
    himl: Himl, held: JobRunner, azure_project: StagedWorkspace, options: tuple[str, ...]
) -> None:
    """`run=$(himl submit -q --wait ...)` then has the id, and can continue with the job."""
    with himl.start(*SUBMIT, *options, "--", "--epochs", "3") as waiting:
        until(lambda: azure_project.requests("GET .*/history/.*/runs/"))
        os.kill(waiting.pid, signal.SIGINT)
        printed, said = waiting.communicate(timeout=100)
    (run_id,) = azure_project.state.runs
    assert (waiting.returncode, printed.decode().partition("\n")[0]) == (
        130,
        "" if "--follow" in options else run_id,
    ), said
    assert f"Stopped following run '{run_id}'. The run continues." in said.decode()
    assert "error: " not in said.decode(), "the user wanted it"
    assert f"himl runs cancel {run_id}" in said.decode()
    held.release(run_id)
    azure_project.wait_for(run_id, "Completed")


@pytest.mark.large("waits for jobs of the double")
@posix
def test_interrupted_submit_leaves_nothing_and_follow_no_repeats(
    himl: Himl, azure_project: StagedWorkspace, project: Path
) -> None:
    with azure_project.stage.holding("GET .*/computes/"), himl.start(*SUBMIT) as sending:
        until(lambda: azure_project.requests("GET .*/computes/") or azure_project.requests("token"))
        sending.send_signal(signal.SIGTERM)
        _, said = sending.communicate(timeout=100)
    assert (sending.returncode, azure_project.state.runs) == (130, {})
    assert "Nothing runs" in said.decode()
    assert not (project / "most_recent_run.txt").exists()
    write_files(project, {"train.py": LINES})
    with azure_project.run_jobs(whole_logs=True):
        assert himl.ok(*SUBMIT, "--follow").stdout == "line 0\nline 1\nline 2\nline 3\n"


def test_a_job_of_a_cluster_keeps_what_is_asked_for(himl: Himl, running: StagedWorkspace, project: Path) -> None:
    own = (
        "import os\nos.makedirs('outputs', exist_ok=True)\nopen('outputs/x.csv', 'w').write('own')\n"
        "raise SystemExit(7 * ('RANK' not in os.environ))"
    )
    write_files(project, {"models/a b/sent.pt": "not new", "train.py": f"{WRITES}\n{own}"})
    # When a rank fails, the launcher ends the others.
    for options, code in (((), 1), (("--processes_per_node", "2"), 0)):
        done = himl(*SUBMIT, *options, "--wait", "-q", "--keep", "models/a b,/x.csv")
        assert done.code == code, done.stderr
        files = himl.ok("download", done.stdout.strip(), "--list", "--json").json()
        assert {file["name"] for file in files if file["name"].startswith("outputs/")} == {
            f"outputs/{name}" for name in KEPT
        }
        himl.ok("download", done.stdout.strip(), "--prefix", "outputs/x.csv", "--output_dir", "got", "--overwrite")
        assert [path.read_text() for path in (project / "got").rglob("x.csv")] == ["own"] * (2 - code)


def test_job_that_ran_too_long_says_so(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    """himl raises a limit below a minute to a minute, because the service reads it as 60 days.

    The error of a run that was canceled earlier does not mention the limit.
    """
    write_files(project, {"train.py": "import time\nprint('begun', flush=True)\ntime.sleep(600)\n"})
    with azure_project.run_jobs(minute=1.0):
        done = himl(*SUBMIT, "--max_run_duration", "5s", "--wait")
        said = " ".join(done.stderr.split())
        assert done.code == 1
        assert "--max_run_duration is at least 60 s on a cluster, not 5 s." in said
        assert "was canceled: it ran for 60 s, the limit of --max_run_duration." in said
        ((run_id, run),) = azure_project.state.runs.items()
        assert (run.job or {})["limits"]["timeout"] == "PT1M"
        assert "--max_run_duration" in himl.ok("runs", "show", run_id, "--json").json()["reason"]
        run_id = himl.ok(*SUBMIT, "--max_run_duration", "8h", "-q").stdout.strip()
        azure_project.wait_for(run_id, "Running")
        himl.ok("runs", "cancel", run_id)
        azure_project.wait_for(run_id, "Canceled")
    assert himl.ok("runs", "show", run_id, "--json").json()["reason"] == ""


@pytest.mark.parametrize("options", [("--processes_per_node", "2"), ("--num_nodes", "2", "--distribution", "mpi")])
def test_inputs_lie_at_their_targets_for_every_rank(
    himl: Himl, running: StagedWorkspace, project: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    running.put_blobs("workspaceblobstore", {"scans/a.txt": b"A"})
    write_files(project, {"look.py": LOOK})
    fixed = (tmp_path / "with blanks" / "scans").as_posix()
    data = (
        "--input",
        "scans=scans,target=in/scans",
        "--input",
        f"more=azureml://datastores/workspaceblobstore/paths/scans,target={fixed},mode=mount",
    )
    sent = himl.ok(
        "submit",
        "look.py",
        "--cluster",
        "cpu-cluster",
        *data,
        *options,
        "-q",
        "--wait",
        "--",
        "${{inputs.scans}}",
        "${{inputs.more}}/a.txt",
    )
    for rank in range(2):
        printed = himl.ok("runs", "logs", sent.stdout.strip(), "--file", f"std_log_process_{rank}.txt").stdout
        assert (printed.startswith("A A /"), printed.endswith("/in/scans\n")) == (True, True), printed


@pytest.mark.large("takes long, and other tests run its branches")
def test_unsent_file_and_module_get_hints_that_work(himl: Himl, running: StagedWorkspace, project: Path) -> None:
    write_files(
        project,
        {
            "train.py": "print(open('outputs/a.txt').read())",
            "outputs/a.txt": "there",
            "jobs/environment.yml": "dependencies:\n- pip\n",
        },
    )
    hint = himl(*SUBMIT, "--wait").stderr.splitlines()[-1]
    assert (
        "make it an input of the job, himl datastore upload outputs outputs, then --input outputs, and "
        "read it from the folder in" in hint
    )
    himl.ok("datastore", "upload", "outputs", "outputs")
    write_files(project, {"train.py": "import os; print(open(os.environ['AZURE_ML_INPUT_INPUT_0'] + '/a.txt').read())"})
    assert himl.ok(*SUBMIT, "--input", "outputs", "--follow").stdout == "there\n"
    write_files(project, {"jobs/train.py": "import tools", "tools.py": ""})
    submit = ("submit", "jobs/train.py", "--cluster", "cpu-cluster", "--follow")
    assert (
        f"'tools' is in '{project}', outside the snapshot: add --snapshot_root . --env_var PYTHONPATH=."
        in himl(*submit).stderr
    )
    himl.ok(*submit, "--snapshot_root", ".", "--env_var", "PYTHONPATH=.")


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("option", ["--config_file", "-w"])
def test_printed_commands_name_the_configuration_file(
    option: str, himl: Himl, azure_project: StagedWorkspace, project: Path
) -> None:
    """So that they find the run when they are typed."""
    lab = project.parent / "lab.json"
    (project / "config.json").rename(lab)
    sent = himl.ok(*SUBMIT, option, str(lab))
    follow, cancel = re.findall("'himl (.*?)'", sent.stderr)
    assert f"{option} {lab}" in follow
    assert himl.ok(*shlex.split(cancel)).code == 0
