"""`himl submit JOB.yml`: what `--dry_run` prints runs again, sweeps and pipelines in YAML run here, others go to Azure ML as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, write_files

TRAIN = """
import argparse, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--n", type=int, default=1)
parser.add_argument("--data", type=pathlib.Path)
parser.add_argument("--out", type=pathlib.Path)
args = parser.parse_args()
more = int((args.data / "n.txt").read_text()) if args.data else 0
if args.out:
    (args.out / "n.txt").write_text(str(args.n + more))
print("trained", args.n + more, os.environ.get("COLOUR"), os.environ.get("RANK"))
"""


@pytest.fixture
def folder(project: Path) -> Path:
    write_files(project, {"pyproject.toml": "", "train.py": TRAIN, "data/n.txt": "20"})
    return project


def write_yaml(folder: Path, name: str, content: dict[str, Any]) -> None:
    write_files(folder, {name: yaml.safe_dump(content, sort_keys=False)})


def test_what_a_dry_run_prints_runs_again_here(himl: Himl, folder: Path) -> None:
    (folder / ".himl" / "datastores" / "local").mkdir(parents=True)
    himl.ok("datastore", "upload", "data", "numbers")
    options = ("--input", "d=numbers", "--output", "o=sums", "--env_var", "COLOUR=dark blue", "--experiment", "adding", "--tag", "team=blue")
    script = ("--", "--n", "3", "--data", "${{inputs.d}}", "--out", "${{outputs.o}}")
    text = himl.ok("submit", "train.py", *options, "--dry_run", *script).stdout
    (folder / "job.yml").write_text(text)
    direct = himl.ok("submit", "train.py", *options, *script)
    again = himl.ok("submit", "job.yml")
    assert direct.stdout.split()[:4] == again.stdout.split()[:4] == ["trained", "23", "dark", "blue"]
    first, second = himl.ok("runs", "list", "--experiment", "adding", "--num_runs", "all", "--json").json()
    assert first["tags"]["command_line"] == second["tags"]["command_line"]
    assert (first["tags"]["team"], first["status"]) == ("blue", "Completed")
    assert (folder / ".himl" / "datastores" / "local" / "sums" / "n.txt").read_text() == "23"


def test_a_pipeline_in_yaml_runs_here(himl: Himl, folder: Path) -> None:
    part = {
        "type": "command",
        "name": "sum",
        "version": 1,
        "inputs": {"data": {"type": "uri_folder"}, "n": {"type": "integer", "default": 5}},
        "outputs": {"sum": {"type": "uri_folder"}},
        "code": "..",
        "command": "python train.py --n ${{inputs.n}} --data ${{inputs.data}} --out ${{outputs.sum}}",
        "environment": "azureml:lab@latest",
    }
    last = {**part, "inputs": {"data": "${{parent.jobs.first.outputs.sum}}", "n": 100}, "outputs": {"sum": {"path": "azureml://datastores/lab/paths/total"}}}
    pipeline = {
        "type": "pipeline",
        "inputs": {"numbers": {"type": "uri_folder", "path": "data"}},
        "jobs": {
            "last": {**{key: last[key] for key in ("command", "environment", "inputs", "outputs")}, "code": "."},
            "first": {"component": "parts/sum.yml", "inputs": {"data": "${{parent.inputs.numbers}}"}},
        },
    }
    write_yaml(folder, "parts/sum.yml", part)
    write_yaml(folder, "pipeline.yml", pipeline)
    (folder / ".himl" / "datastores" / "lab").mkdir(parents=True)
    run = himl.ok("submit", "pipeline.yml", "--json").json()
    assert (run["experiment"], run["status"]) == ("pipeline", "Completed")
    assert (folder / ".himl" / "datastores" / "lab" / "total" / "n.txt").read_text() == "125"


def test_outputs_of_a_pipeline_in_yaml_are_the_runs_own(himl: Himl, folder: Path) -> None:
    part = {
        "type": "command",
        "code": ".",
        "command": "python train.py --n 2 --data ${{inputs.data}} --out ${{outputs.sum}}",
        "environment": "azureml:lab@latest",
        "inputs": {"data": {"type": "uri_folder", "path": "data"}},
        "outputs": {"sum": "${{parent.outputs.final}}"},
    }
    write_yaml(folder, "pipeline.yml", {"type": "pipeline", "outputs": {"final": {"type": "uri_folder"}}, "jobs": {"b": part}})
    run = himl.ok("submit", "pipeline.yml", "--json").json()
    himl.ok("download", run["id"], "--output_key", "final", "--output_dir", "got", "--flat")
    assert (folder / "got" / "n.txt").read_text() == "22"


def test_a_sweep_in_yaml_runs_here(himl: Himl, folder: Path) -> None:
    sweep = {
        "type": "sweep",
        "trial": {"command": "python train.py --n ${{search_space.n}} --out ${{outputs.o}}", "code": ".", "environment": "azureml:lab@latest"},
        "outputs": {"o": {"type": "uri_folder"}},
        "search_space": {"n": {"type": "choice", "values": [1, 2]}},
        "sampling_algorithm": "grid",
        "objective": {"goal": "minimize", "primary_metric": "loss"},
        "limits": {"max_total_trials": 9, "max_concurrent_trials": 2},
    }
    write_yaml(folder, "sweep.yml", sweep)
    run = himl.ok("submit", "sweep.yml", "--json").json()
    trials = himl.ok("runs", "show", run["id"], "--children", "--json").json()
    assert sorted(json.loads(trial["tags"]["hyperparameters"])["n"] for trial in trials) == [1, 2]
    written = (folder / ".himl" / "datastores" / "local").rglob("n.txt")
    assert sorted(path.read_text() for path in written) == ["1", "2"]


def test_the_dry_run_of_a_sweep_runs_again_here(himl: Himl, folder: Path) -> None:
    options = ("--sweep", "n=1,2", "--output", "o=sums", "--primary_metric", "loss")
    text = himl.ok("submit", "train.py", *options, "--dry_run", "--", "--out", "${{outputs.o}}").stdout
    (folder / "sweep.yml").write_text(text)
    run = himl.ok("submit", "sweep.yml", "--json").json()
    trials = himl.ok("runs", "show", run["id"], "--children", "--json").json()
    assert sorted(trial["display_name"] for trial in trials) == ["n=1", "n=2"]
    written = {path.parent.name: path.read_text() for path in (folder / ".himl" / "datastores" / "local" / "sums").glob("*/n.txt")}
    assert written == {trial["id"]: trial["display_name"][-1] for trial in trials}


@pytest.mark.parametrize(
    ("content", "options", "code", "message"),
    [
        ("command: [\n", (), 2, "'job.yml', line 2"),
        ("command: ls\ntype: spark\n", (), 2, "'type' 'spark' cannot run here"),
        ("command: ls\nlimit: 1\n", (), 2, "'limit' is no key"),
        ("command: ls\n", ("--num_nodes", "2"), 2, "--num_nodes does not count for a job's YAML"),
        ("command: ls ${{inputs.x}}\ninputs: {x: {path: 'azureml:none:1'}}\n", (), 3, "no folder 'none'"),
        ("command: exit 4\n", (), 1, "exit code 4"),
        ("command: ls\ncompute: azureml:gpu\n", (), 2, "needs an Azure ML workspace, and none is configured"),
    ],
)
def test_errors_are_one_line_with_their_code(himl: Himl, folder: Path, content: str, options: tuple[str, ...], code: int, message: str) -> None:
    (folder / "job.yml").write_text(content)
    outcome = himl("submit", "job.yml", *options)
    assert (outcome.code, message in outcome.stderr) == (code, True), outcome.stderr


@pytest.fixture
def lab(azure_environment: StagedWorkspace, folder: Path) -> StagedWorkspace:
    """The project, and the config.json of a workspace."""
    azure_environment.write_config(folder)
    return azure_environment


def test_what_a_dry_run_prints_runs_again_on_a_cluster(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    lab.put_blobs("workspaceblobstore", {"numbers/n.txt": b"20"})
    options = ("--cluster", "cpu-cluster", "--docker_image", "docker.io/python:3.11", "--env_var", "COLOUR=blue", "--experiment", "adding")
    data = ("--input", "d=numbers,datastore=workspaceblobstore", "--", "--n", "3", "--data", "${{inputs.d}}")
    (folder / "job.yml").write_text(himl.ok("submit", "train.py", *options, "--dry_run", *data).stdout)
    with lab.run_jobs():
        sent = himl.ok("submit", "job.yml", "--tag", "team=blue", "--display_name", "again", "--wait", "--json").json()
    assert (sent["experiment"], sent["status"], sent["display_name"], sent["tags"]["team"]) == ("adding", "Completed", "again", "blue")
    assert himl.ok("runs", "logs", sent["id"]).stdout.split()[:3] == ["trained", "23", "blue"]


def test_a_yaml_goes_where_the_user_says(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    job = {"type": "command", "command": "python train.py", "code": ".", "environment": {"image": "docker.io/python:3.11"}, "compute": "azureml:none"}
    write_yaml(folder, "job.yml", job)
    missing = himl("submit", "job.yml")
    assert (missing.code, "none" in missing.stderr) == (3, True), missing.stderr
    assert not (folder / "most_recent_run.txt").exists()
    with lab.run_jobs():
        sent = himl.ok("submit", "job.yml", "--cluster", "cpu-cluster", "--follow")
    assert sent.stdout.split()[:2] == ["trained", "1"]
    assert himl.ok("submit", "job.yml", "--cluster", "local").stdout.split()[:2] == ["trained", "1"]


ENVIRONMENT = {"image": "docker.io/python:3.11"}
TRIAL: dict[str, Any] = {"command": "python train.py --n ${{search_space.n}}", "code": ".\\src\\", "environment": ENVIRONMENT}
STEP: dict[str, Any] = {**TRIAL, "type": "command", "command": "python train.py"}
WITH_BACKSLASHES: dict[str, dict[str, Any]] = {
    "command": STEP,
    "pipeline": {"type": "pipeline", "jobs": {"one": STEP, "two": {"type": "command", "component": STEP}}},
    "sweep": {
        "type": "sweep",
        "trial": TRIAL,
        "search_space": {"n": {"type": "choice", "values": [1]}},
        "sampling_algorithm": "grid",
        "objective": {"goal": "minimize", "primary_metric": "loss"},
        "limits": {"max_total_trials": 1},
    },
}


@pytest.mark.parametrize("kind", WITH_BACKSLASHES)
def test_code_with_backslashes_goes_to_a_cluster(himl: Himl, lab: StagedWorkspace, folder: Path, kind: str) -> None:
    (folder / "src").mkdir()
    (folder / "train.py").rename(folder / "src" / "train.py")
    write_yaml(folder, "job.yml", WITH_BACKSLASHES[kind])
    with lab.run_jobs():
        assert himl.ok("submit", "job.yml", "--cluster", "cpu-cluster", "--wait", "--json").json()["status"] == "Completed"
