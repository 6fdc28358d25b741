"""`himl submit --sdk v1`: azureml-core and its HyperDrive, unmodified, submit jobs and sweeps to the double, which
runs them. himl reads the results.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.installation import install_command
from tests.azure.lab import client_python
from tests.azureml_double.faults import Latency, Reset, Status
from tests.azureml_double.jobs.runner import JobRunner
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.state import Right
from tests.support.clients import HIML_V1, WHEEL, write_wheel
from tests.support.running import Himl, Outcome, until, write_files

# The first use of a client builds its environment.
pytestmark = pytest.mark.timeout(1800)
CONDA = "name: lab\ndependencies:\n- python=3.11\n- pip:\n  - himl-cli\n"
TRAIN = """
import json, os, sys
from pathlib import Path
Path("outputs").mkdir(exist_ok=True)
found = {"arguments": sys.argv[1:],
    "files": sorted(str(p.as_posix()) for p in Path(".").rglob("*") if p.is_file()), "colour": os.environ.get("COLOUR")}
Path("outputs/found.json").write_text(json.dumps(found))
print("trained", *sys.argv[1:])
"""
SUBMIT = ("submit", "--sdk", "v1", "--cluster", "cpu-cluster")


@pytest.fixture
def himl(project: Path) -> Himl:
    program = client_python(HIML_V1).with_name("himl.exe" if sys.platform == "win32" else "himl")
    return Himl(program, project, modules=("himl_cli.commands.submit", "azureml.core", "azureml.train.hyperdrive"))


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> StagedWorkspace:
    """A workspace, and a project with a config.json. azureml-core does not wait between retries."""
    azure_environment.write_config(project)
    for name in ("AZUREML_DEFAULT_BACKOFF", "AZUREML_DEFAULT_500_BACKOFF", "AZUREML_DEFAULT_503_BACKOFF"):
        monkeypatch.setenv(name, "0")
    write_files(project, {"train.py": TRAIN, "environment.yml": CONDA})
    return azure_environment


@pytest.fixture
def running(lab: StagedWorkspace) -> Iterator[JobRunner]:
    with lab.run_jobs() as runner:
        yield runner


def submitted(himl: Himl, *arguments: str) -> str:
    return himl.ok(*SUBMIT, "-q", *arguments).stdout.strip()


def found_by(himl: Himl, run_id: str) -> Any:
    himl.ok("download", run_id, "--prefix", "outputs", "--output_dir", himl.folder / "out")
    return json.loads((himl.folder / "out" / run_id / "outputs" / "found.json").read_text())


def definition_of(lab: StagedWorkspace, run_id: str) -> Any:
    return lab.state.runs[run_id].definition


def said(done: Outcome) -> str:
    return " ".join(done.stderr.split())


def check_refused(done: Outcome, code: int, *words: str) -> None:
    """Check that the command ended with *code* and a line that contains all *words*, without a traceback."""
    assert done.code == code, done.stderr
    assert [word for word in words if word not in said(done)] == []
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("running")
def test_script_is_sent_run_followed_and_read_by_same_commands(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    options = (
        "--display_name",
        "first try",
        "--description",
        "of the old kind",
        "--tag",
        "team=blue",
        "--env_var",
        "COLOUR=red",
    )
    run_id = submitted(himl, "train.py", *options, "--", "--name", "a 'b' $HOME")
    lab.wait_for(run_id, "Completed")
    shown = himl.ok("runs", "show", run_id, "--json").json()
    assert (shown["status"], shown["display_name"], shown["experiment"]) == ("Completed", "first try", "train")
    assert (shown["tags"]["team"], shown["tags"]["run_recovery_id"]) == ("blue", f"train:{run_id}")
    assert lab.state.runs[run_id].description == "of the old kind"
    assert "trained --name a 'b' $HOME" in himl.ok("runs", "logs", run_id).stdout
    assert [run["id"] for run in himl.ok("runs", "list", "--experiment", "train", "--json").json()] == [run_id]
    assert (project / "most_recent_run.txt").read_text().strip() == f"train:{run_id}"
    assert found_by(himl, run_id) == {
        "arguments": ["--name", "a 'b' $HOME"],
        "files": ["config.json", "environment.yml", "train.py"],
        "colour": "red",
    }
    write_files(project, {"fails.py": "print('before'); raise SystemExit(3)\n"})
    bad = himl(*SUBMIT, "--wait", "--follow", "fails.py")
    assert (bad.code, "before" in bad.stderr + bad.stdout) == (1, True)


def test_definition_has_what_is_asked_and_code_is_sent_once(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    first = himl.ok(*SUBMIT, "train.py")
    assert ("deprecated" in said(first), "Warning" in first.stderr, "azureml-core printed" in first.stderr) == (
        True,
        False,
        False,
    )
    assert "The code is unchanged" not in said(first)
    lab.stage.log.clear()
    assert "The code is unchanged" in said(himl.ok(*SUBMIT, "train.py"))
    assert lab.requests("PUT .*blob") == lab.requests("/snapshots/") == []
    write_files(project, {"train.py": TRAIN + "# changed\n", "environment.yml": CONDA.replace("3.11", "3.12")})
    lab.stage.log.clear()
    options = (
        "--docker_image",
        "example.org/lab:1",
        "--shm_size",
        "8g",
        "--docker_args",
        "--gpus all",
        "--max_run_duration",
        "2h",
    )
    sent = definition_of(lab, submitted(himl, *options, "train.py"))
    assert len(lab.requests("PUT .*blob")) == 2
    names = [definition_of(lab, run_id)["environment"]["name"] for run_id in lab.state.runs]
    assert names[0] == names[1] != names[2]
    assert (sent["target"], sent["maxRunDurationSeconds"]) == ("cpu-cluster", 7200)
    assert sent["docker"] == {"useDocker": True, "sharedVolumes": True, "arguments": ["--gpus all"], "shmSize": "8g"}
    assert sent["environment"]["docker"]["baseImage"] == "example.org/lab:1"
    assert sent["environment"]["environmentVariables"] == {}
    assert sent["environment"]["python"]["condaDependencies"]["dependencies"][-2:] == [
        "python=3.12",
        {"pip": ["himl-cli"]},
    ]
    lab.add_environment("torch", "7")
    registered = definition_of(lab, submitted(himl, "--environment", "torch:7", "train.py"))["environment"]
    assert (registered["name"], registered["version"]) == ("torch", "7")
    check_refused(himl(*SUBMIT, "--environment", "nope", "train.py"), 3, "nope")


@pytest.mark.usefixtures("running")
def test_modules_scripts_and_commands_run_with_honoured_ignores(
    lab: StagedWorkspace, himl: Himl, project: Path
) -> None:
    write_files(
        project,
        {
            ".gitignore": "*.bin\nconfig.json\n",
            "keep/.gitignore": "!*.bin\n",
            "keep/a.bin": "kept",
            "drop/b.bin": "left",
            "grün #1.txt": "x",
        },
    )
    write_files(project, {"lab/__init__.py": "", "lab/train.py": TRAIN, "train.sh": 'python train.py "$@"\n'})
    entries = {("-m", "lab.train"): [], ("train.sh",): [], ("--command", "cd . && python train.py --a"): ["--a"]}
    runs = {submitted(himl, *entry, "--", "it's", "a b"): first for entry, first in entries.items()}
    for run_id, first in runs.items():
        lab.wait_for(run_id, "Completed")
        found = found_by(himl, run_id)
        assert found["arguments"] == [*first, "it's", "a b"]
        sent = [
            "environment.yml",
            "grün #1.txt",
            "keep/.gitignore",
            "keep/a.bin",
            "lab/__init__.py",
            "lab/train.py",
            "train.py",
            "train.sh",
        ]
        assert [name for name in found["files"] if "__pycache__" not in name] == sent


@pytest.mark.usefixtures("running")
def test_data_reach_the_job_and_come_back(lab: StagedWorkspace, himl: Himl, project: Path, tmp_path: Path) -> None:
    lab.put_blobs("workspaceblobstore", {"mnist/one.txt": b"1", "mnist/two.txt": b"22"})
    script = """
import os, sys
from pathlib import Path
source, target = map(Path, sys.argv[1:3])
from himl_cli.job import inputs, outputs
assert source == inputs()["INPUT_0"] and target == outputs()["result"], os.environ
assert (list(inputs()), list(outputs())) == (["INPUT_0", "data"], ["result"]), os.environ
for one in source.rglob("*.txt"):
    (target / one.name).write_text(one.read_text() * 2)
print("saw", Path(sys.argv[3].partition("=")[2], "one.txt").read_text(), sys.argv[3])
"""
    write_files(project, {"double.py": script})
    place = (tmp_path / "fixed").as_posix()
    options = (
        "--input",
        "mnist",
        "--input",
        f"data=mnist,mode=mount,target={place}",
        "--output",
        "result=doubled",
        "double.py",
    )
    run_id = submitted(himl, *options, "--", "${{inputs.INPUT_0}}", "${{outputs.result}}", "--data=${{inputs.data}}")
    lab.wait_for(run_id, "Completed")
    made = {name: lab.get_blob("workspaceblobstore", name) for name in lab.blob_names("workspaceblobstore", "doubled/")}
    assert made == {"doubled/one.txt": b"11", "doubled/two.txt": b"2222"}
    assert list(lab.state.assets["data"]["doubled"]) == ["1"]
    assert f"saw 1 --data={place}" in himl.ok("runs", "logs", run_id).stdout
    assert definition_of(lab, run_id)["data"]["data"]["mechanism"] == "mount"
    himl.ok("download", run_id, "--output_key", "result", "--output_dir", project / "got", "--flat")
    assert (project / "got" / "one.txt").read_text() == "11"


@pytest.mark.usefixtures("running")
def test_ranks_of_nodes_and_processes(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    names = ("WORLD_SIZE", "RANK", "OMPI_COMM_WORLD_SIZE")
    write_files(
        project, {"ranks.py": f"import os\nfor name in {names}:\n    print(f'{{name}}={{os.environ.get(name)}}')\n"}
    )
    nodes, processes = ("--num_nodes", "2"), ("--processes_per_node", "2")
    for options, framework, variables in (
        (nodes, "Python", ["OMPI_COMM_WORLD_SIZE=2"]),
        ((*nodes, *processes), "PyTorch", ["WORLD_SIZE=4", "RANK=3"]),
    ):
        run_id = submitted(himl, *options, "ranks.py")
        lab.wait_for(run_id, "Completed")
        assert [line for line in variables if line not in lab.logs(run_id).splitlines()] == []
        assert definition_of(lab, run_id)["framework"] == framework


def test_image_is_built_from_private_wheel_or_own_folder(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    write_wheel(project)
    wheel = project / WHEEL
    sent = [
        definition_of(lab, submitted(himl, "--private_wheel", wheel.name, "train.py"))["environment"] for _ in range(2)
    ]
    assert sent[0]["name"] == sent[1]["name"]
    context = sent[0]["docker"]["buildContext"]
    [name] = [
        name for name in lab.blob_names("workspaceblobstore", "himl-environments/") if name.endswith(f"/{wheel.name}")
    ]
    assert context["location"].endswith(f"/{name.removesuffix(wheel.name)}")
    assert lab.get_blob("workspaceblobstore", name) == wheel.read_bytes()
    write_files(project, {"image/Dockerfile.own": "FROM python:3.11\n"})
    (project / "environment.yml").unlink()
    built = definition_of(
        lab, submitted(himl, "train.py", "--build_context", "image", "--dockerfile", "Dockerfile.own")
    )
    context = built["environment"]["docker"]["buildContext"]
    assert (context["dockerfilePath"], context["locationType"].lower()) == ("Dockerfile.own", "storageaccount")
    [name] = [
        name for name in lab.blob_names("workspaceblobstore", "himl-environments/") if name.endswith("/Dockerfile.own")
    ]
    assert context["location"].endswith(f"/{name.removesuffix('Dockerfile.own')}")
    assert lab.get_blob("workspaceblobstore", name) == b"FROM python:3.11\n"


ELSEWHERE = "azureml://registries/azureml/environments"
SWEPT = ("--sweep", "lr=0.1,0.2")


def test_what_cannot_run_is_refused_and_starts_no_run(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    cases: dict[tuple[str, ...], tuple[str, ...]] = {
        ("train.py", "--identity", "user"): ("--identity user", "--sdk v1"),
        ("train.py", "--cluster", "serverless"): ("--cluster serverless", "--sdk v1"),
        ("train.py", "--environment", f"{ELSEWHERE}/x/versions/1"): (ELSEWHERE, "--sdk v1"),
        ("train.py", "--vscode"): ("--sdk v1 does not support --vscode.",),
        ("train.py", "--instance_type", "x"): ("--sdk v1 does not support --instance_type.",),
        ("--command", "cat ${{inputs.a}}", "--input", "a=faces"): (
            "With --sdk v1, --command must not contain placeholders.",
        ),
        ("-m", "score", *SWEPT): ("must run a Python script",),
        ("train.py", *SWEPT, "--", "--rate", "${{search_space.lr}}"): ("must be passed as --NAME",),
        ("train.py", *SWEPT, "--input", "d=faces", "--", "--in=${{inputs.d}}"): ("must be whole arguments",),
    }
    write_files(project, {"score.py": ""})
    for options, words in cases.items():
        cluster = () if "--cluster" in options else ("--cluster", "cpu-cluster")
        check_refused(himl("submit", "--sdk", "v1", *cluster, *options), 2, *words)
    if sys.platform != "win32":
        (project / "new\nline.txt").touch()
        check_refused(himl(*SUBMIT, "train.py"), 2, r"himl cannot upload 'new\nline.txt'")
        (project / "new\nline.txt").unlink()
    assert lab.requests() == []
    check_refused(himl("submit", "--sdk", "v1", "--cluster", "nope", "train.py"), 3, "nope", "cpu-cluster")
    assert lab.requests("PUT |snapshots|snapshotrun") == []
    check_refused(himl(*SUBMIT, "train.py", env=lab.environment(lab.add_principal({Right.READ}))), 4)
    assert lab.state.runs == {}


def test_service_errors_are_retried_or_told_with_the_run_id(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    lab.stage.faults.add(Status(500), "snapshotrun", times=None)
    check_refused(himl(*SUBMIT, "train.py"), 5, "500", "No job was created.")
    assert lab.state.runs == {}
    lab.stage.faults.clear()
    (project / "train.py").write_text(TRAIN + "# changed\n")
    for fault, place in ((Status(429), "snapshots/getblob"), (Status(503), "snapshotrun"), (Reset(), "snapshotrun")):
        lab.stage.faults.add(fault, place)
    lab.stage.faults.add(Status(400), "PATCH .*/history/", times=None)
    done = himl.ok(*SUBMIT, "train.py")
    # A lost answer does not lead to a second submission.
    [run_id] = lab.state.runs
    assert run_id in done.stdout
    assert [
        words
        for words in ("The job was submitted, but a later request failed", "submitted without its tags")
        if words not in said(done)
    ] == []
    lab.stage.faults.clear()
    lab.stage.faults.add(Status(404), r"POST .*(rundata|history).*runs|GET .*history.*/runs/[^/]*$", times=None)
    done = himl.ok(*SUBMIT, "--json", "train.py", "--", "--password", "hunter2")
    run_id, shown = [*lab.state.runs][-1], done.json()
    assert (shown["id"], shown["status"], shown["experiment"], run_id in shown["url"]) == (
        run_id,
        "Queued",
        "train",
        True,
    )
    assert "hunter2" not in done.stdout + done.stderr
    assert (project / "most_recent_run.txt").read_text().strip() == f"train:{run_id}"


def test_missing_azureml_core_names_install_command_first(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    without = Himl(Path(sys.executable).with_name(himl.program.name), project)
    check_refused(without(*SUBMIT, "train.py"), 2, "azureml-core", install_command("v1"))
    assert lab.requests() == []
    assert not (project / "most_recent_run.txt").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process")
@pytest.mark.parametrize(
    ("held", "skip", "seen", "count"),
    [("snapshots/getblob", 0, "snapshots/latest", 1), ("PATCH .*/history/", 1, "PATCH .*/history/", 2)],
    ids=["before the job was created", "while it gets its tags"],
)
def test_interrupted_submit_tells_whether_a_job_runs(
    lab: StagedWorkspace, himl: Himl, held: str, skip: int, seen: str, count: int
) -> None:
    lab.stage.faults.add(Latency(4), held, skip=skip)
    process = himl.start(*SUBMIT, "train.py")
    until(lambda: len(lab.requests(seen)) >= count)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=100)
    text = " ".join(messages.decode().split())
    assert process.returncode == 130, text
    if "snapshots" in held:
        assert ("No job was submitted" in text, lab.state.runs) == (True, {})
    else:
        [run_id] = lab.state.runs
        assert f"himl runs cancel {run_id}" in text


SCORE = """
import argparse, json
from pathlib import Path
from himl_cli import RUN_CONTEXT
parser = argparse.ArgumentParser()
parser.add_argument("--fixed")
parser.add_argument("--name")
parser.add_argument("--lr", type=float)
args = parser.parse_args()
RUN_CONTEXT.log("score", args.lr)
Path("outputs").mkdir(exist_ok=True)
Path("outputs/found.json").write_text(json.dumps(vars(args)))
"""


@pytest.mark.usefixtures("running")
def test_a_grid_runs_as_hyperdrive_and_is_read(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    write_files(project, {"score.py": SCORE})
    sweep = (
        "--sweep",
        "lr=0.1,0.01",
        "--sweep",
        "name=a b,$HOME",
        "--primary_metric",
        "score",
        "--goal",
        "maximize",
        "--max_concurrent",
        "2",
    )
    run_id = submitted(himl, "score.py", *sweep, "--tag", "team=blue", "--", "--fixed", "x y")
    lab.wait_for(run_id, "Completed")
    trials = {
        run.run_id: json.loads(lab.artifacts(run.run_id)["outputs/found.json"])
        for run in lab.state.runs.values()
        if run.parent_id == run_id
    }
    assert sorted(trials) == [f"{run_id}_{index}" for index in range(4)]
    wanted = [{"fixed": "x y", "name": name, "lr": lr} for lr in (0.1, 0.01) for name in ("a b", "$HOME")]
    assert sorted(trials.values(), key=str) == sorted(wanted, key=str)
    shown = himl.ok("runs", "show", run_id, "--json").json()
    assert (shown["status"], shown["tags"]["team"], shown["tags"]["himl.goal"]) == ("Completed", "blue", "maximize")
    assert not [name for name in shown["tags"] if name.startswith("_aml_system_")]
    assert trials[lab.state.runs[run_id].properties["best_child_run_id"]]["lr"] == 0.1


def test_draws_policies_and_limits_of_a_sweep_arrive(lab: StagedWorkspace, himl: Himl) -> None:
    sweep = (
        "--sweep",
        "lr=loguniform(-6,-1)",
        "--sweep",
        "n=randint(5)",
        "--sampling",
        "random",
        "--max_trials",
        "7",
        "--max_run_duration",
        "1h",
    )
    job = (
        lab.state.runs[
            submitted(himl, "train.py", *sweep, "--early_stop", "bandit(slack_factor=0.2,evaluation_interval=2)")
        ].job
        or {}
    )
    assert job["searchSpace"] == {"lr": ["loguniform", [-6, -1]], "n": ["randint", [5]]}
    assert job["samplingAlgorithm"]["samplingAlgorithmType"] == "Random"
    assert job["earlyTermination"] == {
        "policyType": "Bandit",
        "slackFactor": 0.2,
        "evaluationInterval": 2,
        "delayEvaluation": 0,
    }
    assert (job["limits"]["maxTotalTrials"], job["limits"]["trialTimeout"]) == (7, "PT3600S")
    many = ("--sweep", f"lr={','.join(map(str, range(150)))}", "--", "--lr", "${{search_space.lr}}", "--fixed", "x")
    run = lab.state.runs[submitted(himl, "train.py", *many)]
    limits = (run.job or {})["limits"]
    assert (limits["maxTotalTrials"], limits["maxConcurrentTrials"]) == (150, 100)
    # A value with the same name as its argument appears only once.
    assert (run.definition or {})["arguments"] == ["--fixed", "x"]


REFUSES = """
import warnings
warnings.simplefilter("ignore")
from himl_cli.core.errors import HimlError
from himl_cli.workspaces.azure.jobs.v1 import quiet_sdk, sdk_errors
with quiet_sdk():
    from azureml.data import _loggerfactory as found
    from azureml.train import hyperdrive
print("telemetry", found.telemetry_enabled)
try:
    with sdk_errors(None):
        hyperdrive.TruncationSelectionPolicy(truncation_percentage=200)
except HimlError as err:
    print(type(err).__name__, err.exit_code, err)
"""


def test_what_azureml_refuses_is_a_usage_error_and_nobody_is_told() -> None:
    """The extra installs azureml-telemetry, which is on by default for some parts of azureml-core."""
    done = subprocess.run([str(client_python(HIML_V1)), "-c", REFUSES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "telemetry False\nBadUsage 2 azureml-core rejected the job: " in done.stdout, done.stdout + done.stderr
