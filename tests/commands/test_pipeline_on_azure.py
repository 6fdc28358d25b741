"""A pipeline file of DeepSeismic's on Azure ML, by the installed program: submitted, run, shown, canceled, its steps by their ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, write_files

STEP = {
    "type": "MpiStep",
    "name": "train step",
    "script": "train.py",
    "input_datareference_path": "normalized_data/",
    "input_datareference_name": "normalized_data_conditioned",
    "input_dataset_name": "normalizeddataconditioned",
    "source_directory": "train/",
    "arguments": ["--splits", "splits", "--train_data_paths", "normalized_data/file.npy", "--label_paths", "label.npy"],
    "requirements": "train/requirements.txt",
    "node_count": 1,
    "processes_per_node": 1,
    "base_image": "pytorch/pytorch",
}
TRAIN = """
import argparse, pathlib
parser = argparse.ArgumentParser()
for name in ("splits", "train_data_paths", "label_paths", "input_data"):
    parser.add_argument(f"--{name}")
args = parser.parse_args()
print(args.splits, args.train_data_paths, args.label_paths, sorted(path.name for path in pathlib.Path(args.input_data).iterdir()))
"""
SLEEP = "import time\nprint('asleep', flush=True)\ntime.sleep(600)\n"


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """A workspace that the project's config.json names, with the volumes that the pipeline reads."""
    azure_environment.write_config(project)
    azure_environment.put_blob("workspaceblobstore", "normalized_data/file.npy", b"x")
    write_files(project, {"train/train.py": TRAIN, "train/requirements.txt": "numpy\n", "pipeline_config.json": json.dumps({"step1": STEP})})
    return azure_environment


def test_the_documented_example_runs_as_one_pipeline_job(himl: Himl, lab: StagedWorkspace) -> None:
    with lab.run_jobs():
        run = himl.ok("submit", "pipeline_config.json", "--cluster", "cpu-cluster", "--wait", "--json").json()
    assert run["status"] == "Completed"
    job = lab.state.runs[run["id"]].job or {}
    assert (job["jobType"], list(job["jobs"]), job["settings"]["continue_on_step_failure"]) == ("Pipeline", ["step1"], False)
    node = job["jobs"]["step1"]
    spec = lab.state.assets["components"]["azureml_anonymous"][node["componentId"].rpartition("/")[2]]["componentSpec"]
    words = "--splits splits --train_data_paths normalized_data/file.npy --label_paths label.npy --input_data ${{inputs.input_data}}"
    assert spec["command"] == f"python train.py {words}"
    environment = spec["environment"].removeprefix("azureml:").split("/")
    made = lab.state.assets["environments"][environment[-3]][environment[-1]]
    assert (made["image"], "numpy" in made["condaFile"]) == ("pytorch/pytorch", True)
    assert node["distribution"] == {"distribution_type": "Mpi", "process_count_per_instance": 1}
    assert (node["display_name"], node["resources"]["instance_count"]) == ("train step", 1)
    step = lab.state.runs[lab.state.runs[run["id"]].children[0]]
    assert b"splits normalized_data/file.npy label.npy ['file.npy']" in lab.artifacts(step.run_id)["user_logs/std_log_process_0.txt"]
    shown = himl.ok("runs", "show", run["id"]).stdout
    assert "train step" in shown
    assert step.run_id in shown


def test_one_step_is_canceled_by_its_id_and_the_pipeline_ends(himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    write_files(project, {"train/train.py": SLEEP})
    with lab.run_jobs():
        run = himl.ok("submit", "pipeline_config.json", "--cluster", "cpu-cluster", "--no_wait", "--json").json()
        lab.wait_for(run["id"], "Running")
        step = children(himl, run["id"])["train step"]
        lab.wait_for(step, "Running")
        himl.ok("runs", "cancel", step)
        lab.wait_for(step, "Canceled")
        lab.wait_for(run["id"], "Failed")


def children(himl: Himl, run_id: str) -> dict[str, str]:
    """The ids of a pipeline's steps by their names; waits until there are some."""
    for _ in range(50):
        listed = himl.ok("runs", "show", "--run", run_id, "--children", "--json").json()
        runs = listed if isinstance(listed, list) else [listed]
        if any(run["id"] != run_id for run in runs):
            return {run["display_name"]: run["id"] for run in runs if run["id"] != run_id}
    raise AssertionError("the pipeline has no steps")
