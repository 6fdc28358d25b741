"""`himl submit PIPELINE.json` here: steps in order, data passed on, errors before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.folders import files_with
from tests.support.running import Himl, write_files

EXAMPLE = Path(__file__).parents[2] / "examples" / "pipeline"

PREPARE = """
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--n", type=int, default=3)
parser.add_argument("--input_data")
parser.add_argument("--output", type=pathlib.Path, required=True)
args = parser.parse_args()
more = int(pathlib.Path(args.input_data, "seed.txt").read_text()) if args.input_data else 0
(args.output / "n.txt").write_text(str(args.n + more))
"""
READ = """
import argparse, os, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("--input_data", type=pathlib.Path, required=True)
args = parser.parse_args()
pathlib.Path("outputs").mkdir(exist_ok=True)
pathlib.Path("outputs", f"read_{os.environ['OMPI_COMM_WORLD_RANK']}.txt").write_text((args.input_data / "n.txt").read_text())
"""
STEPS: dict[str, dict[str, Any]] = {
    "step1": {"type": "MpiStep", "name": "read it", "script": "read.py", "source_directory": "src", "input_dataset_name": "clean", "processes_per_node": 2},
    "step2": {"type": "PythonScriptStep", "name": "prepare", "script": "prepare.py", "source_directory": "src", "arguments": "--n 7", "output": "clean"},
}


@pytest.fixture
def folder(project: Path) -> Path:
    write_files(project, {"src/prepare.py": PREPARE, "src/read.py": READ, "src/fail.py": "print('it is broken')\nraise SystemExit(3)\n"})
    (project / "pipeline.json").write_text(json.dumps(STEPS))
    return project


def children(himl: Himl, run_id: str) -> dict[str, dict[str, Any]]:
    """The steps' runs by display name."""
    listed = himl.ok("runs", "show", "--run", run_id, "--children", "--json").json()
    runs = listed if isinstance(listed, list) else [listed]
    return {run["display_name"]: run for run in runs}


def test_steps_run_in_the_order_of_their_data(himl: Himl, folder: Path) -> None:
    outcome = himl.ok("submit", "pipeline.json", "--tag", "team=blue")
    run_id = (folder / "most_recent_run.txt").read_text().strip().rpartition(":")[2]
    assert outcome.stdout.index("step 'prepare'") < outcome.stdout.index("step 'read it'")
    shown = himl.ok("runs", "show", run_id, "--json").json()
    assert (shown["experiment"], shown["status"], shown["tags"]["team"]) == ("pipeline", "Completed", "blue")
    runs = children(himl, run_id)
    assert {name: run["status"] for name, run in runs.items()} == {"prepare": "Completed", "read it": "Completed"}
    himl.ok("download", runs["read it"]["id"], "--output_dir", "got", "--flat", "--prefix", "outputs")
    assert {path.name: path.read_text() for path in (folder / "got" / "outputs").iterdir()} == {"read_0.txt": "7", "read_1.txt": "7"}


def test_a_step_reads_a_folder_of_the_local_datastore(himl: Himl, folder: Path) -> None:
    write_files(folder, {"data/seed.txt": "30"})
    step = {**STEPS["step2"], "input_datareference_path": "raw/first/", "input_dataset_name": "seismic"}
    (folder / "pipeline.json").write_text(json.dumps({**STEPS, "step2": step}))
    missing = himl("submit", "pipeline.json")
    assert missing.code == 3
    assert "step2: 'input_datareference_path' names 'raw/first/', and no datastore here has that folder." in missing.stderr
    assert not list(folder.glob(".himl/runs/*"))
    (folder / ".himl" / "datastores" / "local").mkdir(parents=True, exist_ok=True)
    himl.ok("datastore", "upload", "data", "raw/first")
    run = himl.ok("submit", "pipeline.json", "--json").json()
    read = children(himl, run["id"])["read it"]
    himl.ok("download", read["id"], "--output_dir", "got", "--flat", "--prefix", "outputs/read_0.txt")
    assert (folder / "got" / "outputs" / "read_0.txt").read_text() == "37"


def test_a_failing_step_stops_the_rest(himl: Himl, folder: Path) -> None:
    (folder / "pipeline.json").write_text(json.dumps({**STEPS, "step2": {**STEPS["step2"], "script": "fail.py"}}))
    outcome = himl("submit", "pipeline.json")
    assert outcome.code == 1
    assert "it is broken" in outcome.stdout
    assert "exit code 3" in outcome.stderr
    run_id = (folder / "most_recent_run.txt").read_text().strip().rpartition(":")[2]
    assert {name: run["status"] for name, run in children(himl, run_id).items()} == {"prepare": "Failed"}


@pytest.mark.parametrize(
    ("name", "code", "message", "hint"),
    [
        ("cleam", 3, "step1: 'input_dataset_name' names 'cleam', which is neither the output of a step nor data here.", "Did you mean 'clean'?"),
        ("zebra", 3, "step1: 'input_dataset_name' names 'zebra', which is neither", "himl datastore upload FOLDER zebra"),
    ],
)
def test_an_output_that_nobody_makes(himl: Himl, folder: Path, name: str, code: int, message: str, hint: str) -> None:
    (folder / "pipeline.json").write_text(json.dumps({**STEPS, "step1": {**STEPS["step1"], "input_dataset_name": name}}))
    outcome = himl("submit", "pipeline.json")
    assert (outcome.code, message in outcome.stderr, hint in outcome.stderr) == (code, True, True), outcome.stderr
    assert not (folder / "most_recent_run.txt").exists()


def test_errors_in_json_and_nothing_made(himl: Himl, folder: Path) -> None:
    (folder / "pipeline.json").write_text('{"step1": {"type": "MpiSteps"}}')
    outcome = himl("submit", "pipeline.json", "--json")
    assert (outcome.code, outcome.error_json()["code"]) == (2, "usage")
    assert not (folder / ".himl").exists()


def test_the_cluster_of_a_dotenv_counts_unless_local_is_said(himl: Himl, folder: Path) -> None:
    (folder / ".env").write_text("AML_COMPUTE_CLUSTER_NAME=gpu\nBLOB_ACCOUNT_KEY=hunter2\n")
    outcome = himl("submit", "pipeline.json", "--environment", "lab:1")
    assert outcome.code == 2
    assert "needs an Azure ML workspace, and none is configured" in outcome.stderr
    assert "--cluster local runs it here" in outcome.stderr
    here = himl.ok("submit", "pipeline.json", "--cluster", "local")
    assert "hunter2" not in outcome.stderr + here.stdout + here.stderr
    assert files_with(folder / ".himl", "hunter2") == []


def test_create_cluster_is_for_pipelines(himl: Himl, folder: Path) -> None:
    for target in ("src/fail.py", "job.yml"):
        outcome = himl("submit", target, "--create_cluster")
        assert (outcome.code, "--create_cluster is for pipeline" in outcome.stderr) == (2, True), outcome.stderr


def test_create_cluster_is_refused_where_the_pipeline_runs_here(himl: Himl, folder: Path) -> None:
    for more in ((), ("--cluster", "local"), ("--dry_run",)):
        outcome = himl("submit", "pipeline.json", "--create_cluster", *more)
        assert (outcome.code, "--create_cluster: this pipeline runs here." in outcome.stderr) == (2, True), outcome.stderr
    assert not (folder / ".himl").exists()


def test_the_hint_about_missing_data_works_in_a_fresh_folder(himl: Himl, folder: Path) -> None:
    write_files(folder, {"data/seed.txt": "30"})
    (folder / "pipeline.json").write_text(json.dumps({**STEPS, "step2": {**STEPS["step2"], "input_datareference_path": "raw/"}}))
    outcome = himl("submit", "pipeline.json")
    assert (outcome.code, "himl init --local, then himl datastore upload FOLDER raw" in outcome.stderr) == (3, True), outcome.stderr
    (folder / ".himl").mkdir()
    himl.ok("datastore", "upload", "data", "raw")
    himl.ok("submit", "pipeline.json")


def test_a_name_of_a_step_does_not_break_lines(himl: Himl, folder: Path) -> None:
    name = "a\nb\x1b[31m" + "c" * 120
    (folder / "pipeline.json").write_text(json.dumps({**STEPS, "step2": {**STEPS["step2"], "name": name}}))
    outcome = himl.ok("submit", "pipeline.json")
    assert "step 'a b [31mccc" in outcome.stdout
    assert "\x1b" not in outcome.stdout + outcome.stderr
    shown = himl.ok("runs", "show", "latest").stdout
    (line,) = [line for line in shown.splitlines() if "a b [31mccc" in line]
    assert "c" * 40 not in line


def test_the_example_runs_here(himl: Himl, project: Path) -> None:
    shutil.copytree(EXAMPLE, project / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    run = himl.ok("submit", "pipeline/pipeline.json", "--json").json()
    runs = children(himl, run["id"])
    assert sorted(runs) == ["evaluate", "prepare digits", "train"]
    himl.ok("download", runs["evaluate"]["id"], "--output_dir", "got", "--flat", "--prefix", "outputs")
    results = json.loads((project / "got" / "outputs" / "results.json").read_text())
    assert results["test_images"] == 719
    assert results["test_accuracy"] > 0.9


@pytest.fixture
def lab(azure_environment: StagedWorkspace, folder: Path) -> StagedWorkspace:
    """The project, and the config.json of a workspace."""
    azure_environment.write_config(folder)
    return azure_environment


IMAGE = ("--docker_image", "docker.io/python:3.11")


def test_the_same_pipeline_on_a_cluster(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    lab.put_blobs("workspaceblobstore", {"raw/first/seed.txt": b"30"})
    step = {**STEPS["step2"], "input_datareference_path": "raw/first/", "input_datareference_name": "no_datastore"}
    (folder / "pipeline.json").write_text(json.dumps({**STEPS, "step2": step}))
    with lab.run_jobs():
        run = himl.ok("submit", "pipeline.json", "--cluster", "cpu-cluster", *IMAGE, "--wait", "--json").json()
    runs = children(himl, run["id"])
    assert {name: each["status"] for name, each in runs.items()} == {"prepare": "Completed", "read it": "Completed"}
    himl.ok("download", runs["read it"]["id"], "--output_dir", "got", "--flat", "--prefix", "outputs")
    assert (folder / "got" / "outputs" / "read_0.txt").read_text() == "37"


def test_a_dotenv_names_cluster_and_storage(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    other = lab.state.second_storage
    lab.add_datastore("seeded", container="field", account=other)
    lab.put_blobs("seeded", {"raw/seed.txt": b"40"})
    del lab.state.datastores["seeded"]  # the container is there, and the workspace knows nothing of it
    step = {**STEPS["step2"], "input_datareference_path": "raw", "input_dataset_name": "seismic"}
    (folder / "pipeline.json").write_text(json.dumps({**STEPS, "step2": step}))
    blobs = f"BLOB_ACCOUNT_NAME={other.account}\nBLOB_CONTAINER_NAME=field\nBLOB_ACCOUNT_KEY={other.key}\n"
    (folder / ".env").write_text(f"{blobs}AML_COMPUTE_CLUSTER_NAME=seismic-gpu\nAML_COMPUTE_CLUSTER_SKU=Standard_NC6s_v3\nAML_COMPUTE_CLUSTER_MAX_NODES=2\n")
    missing = himl("submit", "pipeline.json", *IMAGE)
    assert (missing.code, "--create_cluster makes it" in missing.stderr) == (3, True), missing.stderr
    assert "seismic" not in lab.state.datastores
    with lab.run_jobs():
        made = himl.ok("submit", "pipeline.json", *IMAGE, "--create_cluster", "--wait", "--json")
    assert "Making cluster 'seismic-gpu': 0 to 2 nodes of Standard_NC6s_v3." in made.stderr
    assert lab.state.datastores["seismic"].container == "field"
    read = children(himl, made.json()["id"])["read it"]
    himl.ok("download", read["id"], "--output_dir", "got", "--flat", "--prefix", "outputs/read_0.txt")
    assert (folder / "got" / "outputs" / "read_0.txt").read_text() == "47"
    assert other.key not in missing.stdout + missing.stderr + made.stdout + made.stderr


def test_no_cluster_is_made_for_a_pipeline_that_is_refused(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    new = ("--cluster", "newpool", "--create_cluster")
    (folder / "pipeline.json").write_text(json.dumps({**STEPS, "step1": {**STEPS["step1"], "input_dataset_name": "cleam"}}))
    outcome = himl("submit", "pipeline.json", *new, *IMAGE)
    assert (outcome.code, "'pipeline.json', step1: 'input_dataset_name' 'cleam': no " in outcome.stderr) == (3, True), outcome.stderr
    step = {**STEPS["step2"], "input_datareference_path": "raw"}
    (folder / "pipeline.json").write_text(json.dumps({**STEPS, "step2": step}))
    other = lab.state.second_storage
    (folder / ".env").write_text(f"BLOB_ACCOUNT_NAME={other.account}\nBLOB_CONTAINER_NAME=field\nBLOB_ACCOUNT_KEY=d3Jvbmc=\n")
    outcome = himl("submit", "pipeline.json", *new, *IMAGE)
    assert outcome.code != 0
    assert lab.requests("^GET .*/computes/newpool")
    assert not lab.requests("^PUT .*/computes/")


def test_a_step_larger_than_its_cluster_is_named(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    (folder / "pipeline.json").write_text(json.dumps({**STEPS, "step1": {**STEPS["step1"], "node_count": 77}}))
    outcome = himl("submit", "pipeline.json", "--cluster", "cpu-cluster", *IMAGE)
    assert (outcome.code, "'pipeline.json', step1: 'node_count' 77: the compute" in outcome.stderr) == (2, True), outcome.stderr


def test_a_step_without_requirements_runs_on_a_cluster(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    with lab.run_jobs():
        run = himl.ok("submit", "pipeline.json", "--cluster", "cpu-cluster", "--wait", "--json").json()
    assert run["status"] == "Completed"


def test_a_dry_run_is_yaml_that_runs_again_here(himl: Himl, folder: Path) -> None:
    text = himl.ok("submit", "pipeline.json", "--cluster", "gpu", *IMAGE, "--dry_run").stdout
    (folder / "pipeline.yml").write_text(text)
    run = himl.ok("submit", "pipeline.yml", "--cluster", "local", "--json").json()
    read = children(himl, run["id"])["read it"]
    himl.ok("download", read["id"], "--output_dir", "got", "--flat", "--prefix", "outputs/read_1.txt")
    assert (folder / "got" / "outputs" / "read_1.txt").read_text() == "7"


def test_data_that_azure_ml_does_not_have_is_named_by_its_step(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    (folder / "pipeline.json").write_text(json.dumps({**STEPS, "step1": {**STEPS["step1"], "input_dataset_name": "cleam"}}))
    outcome = himl("submit", "pipeline.json", "--cluster", "cpu-cluster", *IMAGE)
    assert (outcome.code, "step1" in outcome.stderr, "cleam" in outcome.stderr) == (3, True, True), outcome.stderr


def test_the_example_runs_on_a_cluster(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    shutil.copytree(EXAMPLE, folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    with lab.run_jobs():
        run = himl.ok("submit", "pipeline/pipeline.json", "--cluster", "cpu-cluster", "--wait", "--json").json()
    runs = children(himl, run["id"])
    assert {name: each["status"] for name, each in runs.items()} == dict.fromkeys(("prepare digits", "train", "evaluate"), "Completed")
    himl.ok("download", runs["evaluate"]["id"], "--output_dir", "got", "--flat", "--prefix", "outputs")
    assert json.loads((folder / "got" / "outputs" / "results.json").read_text())["test_images"] == 719


WRITE = "import pathlib, sys\npathlib.Path(sys.argv[1], 'n.txt').write_text('11')\n"
LATER = {"type": "PythonScriptStep", "script": "read.py", "source_directory": "src", "input_datareference_path": "later/", "input_datareference_name": "x"}


def test_a_folder_that_a_step_before_it_makes_need_not_be_there(himl: Himl, folder: Path) -> None:
    write_files(folder, {"src/write.py": WRITE})
    place = folder / ".himl" / "datastores" / "local" / "later"
    writes = {"type": "PythonScriptStep", "script": "write.py", "source_directory": "src", "arguments": [str(place)]}
    (folder / "pipeline.json").write_text(json.dumps({"step1": writes, "step2": {**LATER, "type": "MpiStep"}}))
    outcome = himl.ok("submit", "pipeline.json", "--json")
    assert f"step2: there is no folder 'later' yet; it is '{place}', and a step before it has to fill it." in outcome.stderr
    himl.ok("download", children(himl, outcome.json()["id"])["step2"]["id"], "--output_dir", "got", "--flat", "--prefix", "outputs")
    assert (folder / "got" / "outputs" / "read_0.txt").read_text() == "11"


def test_datastore_in_pipeline_file_beats_dotenv_container(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    """As in DeepSeismic, where the first step named the datastore of all."""
    lab.add_datastore("seismic", container="named")
    lab.put_blobs("seismic", {"raw/seed.txt": b"40", "later/n.txt": b"5"})
    first = {**STEPS["step2"], "input_datareference_path": "raw", "input_dataset_name": "seismic"}
    (folder / "pipeline.json").write_text(json.dumps({"step1": first, "step2": {**LATER, "type": "MpiStep"}}))
    (folder / ".env").write_text("BLOB_ACCOUNT_NAME=labstore\nBLOB_CONTAINER_NAME=other\nBLOB_ACCOUNT_KEY=aGVsbG8=\n")
    run = himl.ok("submit", "pipeline.json", "--cluster", "cpu-cluster", *IMAGE, "--no_wait", "--json")
    jobs = (lab.state.runs[run.json()["id"]].job or {})["jobs"]
    assert [jobs[step]["inputs"]["input_data"]["uri"] for step in ("step1", "step2")] == [
        "azureml://datastores/seismic/paths/raw/",
        "azureml://datastores/seismic/paths/later/",
    ]
    assert "Reads datastore 'seismic', which the file names, whatever container BLOB_CONTAINER_NAME says." in run.stderr


def test_a_dry_run_keeps_the_order_of_steps_that_share_no_data(himl: Himl, folder: Path) -> None:
    write_files(folder, {"src/note.py": "import sys\nprint('noted', sys.argv[1:])\n"})
    note = {"type": "PythonScriptStep", "script": "note.py", "source_directory": "src"}
    (folder / "pipeline.json").write_text(json.dumps({"step1": note, "step2": STEPS["step2"] | {"input_datareference_path": "raw"}, "step3": note}))
    text = himl.ok("submit", "pipeline.json", "--cluster", "gpu", *IMAGE, "--dry_run").stdout
    assert "${{parent.jobs.step1.outputs.himl_done}}" in text
    assert "mode: direct" in text
    (folder / "pipeline.json").write_text(json.dumps({"step1": note, "step2": note, "step3": note}))
    (folder / "pipeline.yml").write_text(himl.ok("submit", "pipeline.json", "--cluster", "gpu", *IMAGE, "--dry_run").stdout)
    run = himl.ok("submit", "pipeline.yml", "--cluster", "local", "--json").json()
    assert {name: each["tags"]["himl.after"] for name, each in children(himl, run["id"]).items()} == {"step1": "", "step2": "step1", "step3": "step2"}
    assert himl.ok("runs", "logs", f"{run['id']}_step3").stdout == "noted []\n"
