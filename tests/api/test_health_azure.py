"""Tests of the other functions of hi-ml's module of `submit_to_azure_if_needed`, and of `himl_cli.submit`: scripts that
submit and continue with the run.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

import himl_cli
from himl_cli.api.health_azure import TALKATIVE
from himl_cli.api.submit_if_needed import DEFAULT_ENVIRONMENT_VARIABLES
from tests.api.scripts import CONDA, lab, run_script
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.running import write_files

__all__ = ["lab"]
SAY = "import json, sys\nsay = lambda **values: print(json.dumps(values, default=str))\n"
STEPS = f"""{SAY}
from himl_cli import *
workspace = get_workspace()
where = create_run_configuration(workspace, "cpu-cluster", conda_environment_file="environment.yml",
    environment_variables={{"A": 1}},
    docker_base_image="mcr.microsoft.com/azureml/other:1", num_nodes=2, max_run_duration="1.5h",
        input_datasets=["faces"], output_datasets=["small"])
assert (where.target, where.node_count, where.mpi.node_count, where.max_run_duration_seconds) == (
    "cpu-cluster", 2, 2, 5400)
assert ([*where.data], [*where.output_data],
    where.environment_variables["MKL_SERVICE_FORCE_INTEL"]) == (["INPUT_0"], ["OUTPUT_0"], "1")
where.environment_variables["B"] = "two"
script = create_script_run(["--epochs", 2], entry_script="lab/train.py")
assert (script.command, script.script, script.arguments) == (["python", "lab/train.py", "--epochs", "2"], None, None)
script.run_config = where
config = create_crossval_hyperdrive_config(3, "split", "loss")
config._run_config = script
for what in (script, config):
    run = submit_run(workspace, "my experiment", what, tags={{"team": "blue"}}, display_name="mine")
    say(id=run.id, status=run.status, tags=run.get_tags(), experiment=run.experiment.name, name=run.display_name)
plain = create_run_configuration(workspace, "cpu-cluster", None, "docker", use_mpi_run_for_single_node_jobs=True,
    docker_shm_size="2g")
for program in (dict(entry_command="nvidia-smi -L"), dict(entry_script="-m lab.train", python_executable="uv run")):
    script = create_script_run(["a b"], **program)
    script.run_config = plain
    say(plain=submit_run(workspace, "e", script).id)
def refuse(what):
    try:
        what()
    except (ValueError, AttributeError) as err:
        say(refused=f"{{type(err).__mro__[-3 if isinstance(err, ValueError) else 0].__name__}} {{err}}")
refuse(lambda: submit_run(workspace, "e", create_script_run([])))
refuse(lambda: create_run_configuration(workspace, "cpu-cluster"))
refuse(lambda: create_run_configuration(workspace, "cpu-cluster", "environment.yml", aml_environment_name="torch"))
refuse(lambda: create_script_run([], "lab", "/elsewhere/train.py"))
refuse(lambda: setattr(where, "priority", 1))
plain.target = "nope"
refuse(lambda: submit_run(workspace, "e", script))
refuse(lambda: create_run_configuration(workspace, "cpu-cluster", "environment.yml", private_pip_wheel_path="gone.whl"))
refuse(lambda: DatasetConfig("a", datastore="nope").to_input_dataset(0, workspace))
refuse(lambda: DatasetConfig("a", target_folder="/a").to_output_dataset(workspace, 0))
refuse(lambda: setattr(script, "script_params", []))
refuse(
    lambda: submit_to_azure_if_needed(
        "cpu-cluster", aml_environment_name="torch", conda_environment_file="environment.yml", submit_to_azureml=True
    )
)
"""


def test_a_script_run_is_submitted_in_steps(lab: StagedWorkspace, project: Path) -> None:
    lab.put_blob("workspaceblobstore", "faces/1.png", b"1")
    write_files(
        project,
        {
            "send.py": STEPS,
            "lab/train.py": "print('training')",
            "lab/__init__.py": "",
            "docker/Dockerfile": "FROM python:3.11\n",
        },
    )
    done = run_script(project / "send.py")
    assert done.returncode == 0, done.stderr
    single, search, *others = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    plain, refused = [each["plain"] for each in others[:2]], [each["refused"] for each in others[2:]]
    exactly = "Pass exactly one of conda_environment_file, docker_build_context and aml_environment_name."
    assert refused[:3] == [
        "Exception script_run_config has no run_config.",
        f"Exception {exactly}",
        f"Exception {exactly}",
    ]
    expected = (
        "entry_script",
        "'priority'",
        "'nope'",
        "gone.whl",
        "'nope'",
        "target_folder",
        "'script_params'",
        "cannot be combined",
    )
    assert [found for found, words in zip(refused[3:], expected, strict=True) if words not in found] == []
    assert [(lab.state.runs[run].job or {})["command"] for run in plain] == [
        "nvidia-smi -L 'a b'",
        "uv run -m lab.train 'a b'",
    ]
    assert [lab.state.runs[run].tags["commandline_args"] for run in plain] == ["'a b'", "-m lab.train 'a b'"]
    for job in (lab.state.runs[run].job or {} for run in plain):
        assert (job["distribution"], job["resources"]["shmSize"]) == (
            {"distributionType": "Mpi", "processCountPerInstance": 1},
            "2g",
        )
    for found in (single, search):
        assert (found["experiment"], found["name"], found["tags"]["team"]) == ("my_experiment", "mine", "blue")
    job = lab.state.runs[single["id"]].job or {}
    assert (job["command"], job["resources"]["instanceCount"], job["limits"]["timeout"]) == (
        "python lab/train.py --epochs 2",
        2,
        "PT1H30M",
    )
    assert ([*job["inputs"]], [*job["outputs"]], "commandline_args" in job["tags"]) == (
        ["INPUT_0"],
        ["OUTPUT_0"],
        False,
    )
    assert {"A": "1", "B": "two", **DEFAULT_ENVIRONMENT_VARIABLES}.items() <= job["environmentVariables"].items()
    trial = lab.state.runs[search["id"]].job or {}
    assert (trial["jobType"], trial["limits"]["maxTotalTrials"]) == ("Sweep", 3)


SUBMITS = f"""{SAY}
import himl_cli
here = himl_cli.submit("lab/train.py", ["--epochs", 2], workspace="local",
    experiment="mine", tag={{"team": "blue"}}, wait=True)
say(id=here.id, status=here.status, team=here.get_tags()["team"],
    log=b"".join(here.files().read("user_logs/std_log.txt")).decode())
many = himl_cli.submit("lab/train.py", sweep={{"lr": [0.1, 0.01], "net": ["3.10,b"]}}, workspace="local", wait=True)
say(children=len(list(many.get_children())))
pipeline = himl_cli.submit("pipe.json", workspace="local", cluster="local", experiment="steps", wait=True)
say(status=pipeline.status, experiment=pipeline.experiment.name,
    steps=[step.status for step in pipeline.get_children()])
there = himl_cli.submit(command="echo hi", cluster="cpu-cluster", env_var=["A=1", "B=2"],
    num_nodes=2, display_name="mine")
say(id=there.id, status=there.status)
for options in ({{"clutser": "x"}}, {{"dry_run": True}}, {{"num_nodes": "many"}}):
    try:
        himl_cli.submit("lab/train.py", **options)
    except himl_cli.HimlError as err:
        say(code=err.exit_code, said=str(err))
try:
    himl_cli.submit("fails.py", workspace="local", wait=True)
except himl_cli.HimlError as err:
    say(code=err.exit_code, said=type(err).__name__)
"""


def test_submit_returns_the_run_here_and_on_a_cluster(lab: StagedWorkspace, project: Path) -> None:
    files = {"lab/train.py": "import sys; print('training', sys.argv[1:])", "fails.py": "raise SystemExit(3)"}
    files["pipe.json"] = json.dumps(
        {"step1": {"type": "PythonScriptStep", "script": "train.py", "source_directory": "lab"}}
    )
    write_files(
        project,
        {
            "send.py": SUBMITS,
            "environment.yml": CONDA,
            "himl.toml": "[submit]\ndescription = 'from the settings'\n",
            **files,
        },
    )
    done = run_script(project / "send.py")
    assert done.returncode == 0, done.stderr
    here, many, pipeline, there, *refused = [
        json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")
    ]
    assert (here["status"], here["team"], here["log"]) == ("Completed", "blue", "training ['--epochs', '2']\n")
    assert f"Run {here['id']} (experiment mine)" in done.stderr
    assert many == {"children": 2}
    assert pipeline == {"status": "Completed", "experiment": "steps", "steps": ["Completed"]}
    job = lab.state.runs[there["id"]].job or {}
    assert (job["command"], job["environmentVariables"]["B"], job["displayName"], job["description"]) == (
        "echo hi",
        "2",
        "mine",
        "from the settings",
    )
    assert [one["code"] for one in refused] == [2, 2, 2, 1]
    assert refused[0]["said"] == "No such option '--clutser'."
    assert refused[3]["said"] == "JobFailed"
    assert done.stdout.splitlines()[0] == "training ['--epochs', '2']", (
        "the log alone is there beside what the script says"
    )


DATA = f"""{SAY}
from azure.ai.ml.entities import Environment
from himl_cli import *
workspace, faces = get_workspace(), DatasetConfig("faces", use_mounting=True, target_folder="/tmp/faces")
found, written = faces.to_input_dataset(0, workspace), DatasetConfig("small").to_output_dataset(workspace, 0)
say(type=type(found).__name__, path=found.path, mode=found.mode, out=type(written).__name__,
    out_path=written.path, out_mode=written.mode)
folder, mounted = faces.to_input_dataset_local(workspace)
say(file=(folder / "1.png").read_text(), mounted=mounted)
environment = Environment(name="lab-env", image="mcr.microsoft.com/azureml/other:1")
first, second = (register_environment(workspace, environment) for _ in range(2))
say(name=first.name, version=first.version, same=first.id == second.id)
try:
    register_environment(workspace, "lab-env")
except TypeError as err:
    say(refused=str(err))
"""


@pytest.mark.large("imports azure-ai-ml")
def test_data_and_environments_are_those_of_azure_ai_ml(lab: StagedWorkspace, project: Path) -> None:
    lab.put_blob("workspaceblobstore", "faces/1.png", b"1")
    write_files(project, {"data.py": DATA})
    # azure-ai-ml may print warnings.
    done = subprocess.run([sys.executable, "data.py"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data, local, environment, refused = map(json.loads, done.stdout.splitlines())
    assert (data["type"], data["mode"], data["out"], data["out_mode"]) == ("Input", "ro_mount", "Output", "rw_mount")
    assert "/data/faces/versions/1" in data["path"]
    assert data["out_path"].endswith("/small/")
    assert local == {"file": "1", "mounted": None}
    assert environment == {"name": "lab-env", "version": "1", "same": True}
    assert "lab-env" in lab.state.assets["environments"]
    assert "azure.ai.ml.entities.Environment" in refused["refused"]


class Colour(Enum):
    RED = "r"
    BLUE = "b"


class Config:
    def __init__(self) -> None:
        self.epochs, self.rate, self.name, self.path, self.colour = 3, 0.5, "a", Path("data"), Colour.RED
        self.folds: tuple[int, ...] = (1, 2)
        self.nothing: Any = None
        self.inner: Any = None
        self._own = "not told"


def test_objects_become_yaml_and_come_back(caplog: pytest.LogCaptureFixture) -> None:
    written, read = Config(), Config()
    written.epochs, written.rate, written.colour, written.path, written.folds = 5, 1, Colour.BLUE, Path("other"), (3,)
    written.inner, read.inner = Config(), Config()
    written.inner.name = "inner"
    text = himl_cli.object_to_yaml(written)
    assert "not told" not in text
    himl_cli.write_yaml_to_object(read, text, strict=True)
    assert {**vars(read), "inner": vars(read.inner)} == {**vars(written), "inner": vars(written.inner)}
    wrong = "epochs: many\ncolour: GREEN\nnew: 1\nname: b\n"
    himl_cli.write_yaml_to_object(read, wrong)
    assert (read.epochs, read.name, len(caplog.records)) == (5, "b", 3)
    for text in (wrong, "- 1\n"):
        with pytest.raises(ValueError, match=r"'epochs'.*'colour'.*'new'|must contain sections"):
            himl_cli.write_yaml_to_object(read, text, strict=True)
    written.nothing = object()
    with pytest.raises(ValueError, match="'nothing'"):
        himl_cli.object_to_yaml(written)


def test_levels_of_loggers_are_set() -> None:
    before = {name: logging.getLogger(name).level for name in ("himl.test", "matplotlib", "azure", *TALKATIVE)}
    try:
        himl_cli.set_logging_levels({"himl.test": logging.ERROR})
        himl_cli.health_azure_package_setup()
        levels = [logging.getLogger(name).level for name in before]
        assert levels[:3] == [logging.ERROR, logging.INFO, logging.WARNING]
    finally:
        himl_cli.set_logging_levels(before)
