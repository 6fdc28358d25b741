"""Tests of pipelines and job files of `himl submit`, locally and on Azure ML: order, data between steps, failures, and
resubmitted YAML.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.azureml_double.seeding import StagedWorkspace
from tests.support.folders import files_with
from tests.support.running import Himl, until, write_files
from tests.support.sweeps import KEEPER, NOTING, lines, log_of, notes_folder, pids, show, statuses
from tests.support.sweeps import children as steps_of

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX, /proc")
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
pathlib.Path("outputs", f"read_{os.environ['OMPI_COMM_WORLD_RANK']}.txt").write_text(
    (args.input_data / "n.txt").read_text())
"""
STEPS: dict[str, dict[str, Any]] = {
    "step1": {
        "type": "MpiStep",
        "name": "read it",
        "script": "read.py",
        "source_directory": "src",
        "input_dataset_name": "clean",
        "processes_per_node": 2,
    },
    "step2": {
        "type": "PythonScriptStep",
        "name": "prepare",
        "script": "prepare.py",
        "source_directory": "src",
        "arguments": "--n 7",
        "output": "clean",
    },
}
IMAGE = ("--docker_image", "docker.io/python:3.11")
LATER = {
    "type": "MpiStep",
    "script": "read.py",
    "source_directory": "src",
    "input_datareference_path": "later/",
    "input_datareference_name": "x",
}
ADDS = """
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


@pytest.mark.large("takes long, and other tests run its branches")
@POSIX
@pytest.mark.parametrize("target", ["pipeline", "step"])
def test_canceling_the_pipeline_or_a_step_stops_all(himl: Himl, project: Path, tmp_path: Path, target: str) -> None:
    write_pipeline(project, {"train.py": NOTING}, step("train.py", name="a"), step("train.py", name="b"))
    notes = notes_folder(tmp_path, holds=True)
    himl.ok("submit", "pipe.json", "--no_wait", env={"NOTES": str(notes)})
    parent = himl.ok("runs", "list", "-q").stdout.strip()
    until(lambda: len(lines(notes / "starts")) == 1)
    himl.ok("runs", "cancel", parent if target == "pipeline" else f"{parent}_step1")
    until(lambda: not pids(project, KEEPER))
    run = show(himl, parent)
    assert (run["status"], [each["status"] for each in steps_of(himl, parent)]) == ("Canceled", ["Canceled"])
    assert run["reason"] == (
        "canceled" if target == "pipeline" else "step 'a' (step1) was canceled; not started: step2"
    )


@pytest.mark.large("waits for jobs of several seconds")
def test_a_finished_step_whose_output_is_gone_runs_again(himl: Himl, project: Path, tmp_path: Path) -> None:
    makes = NOTING + "\nimport sys\nif '--output' in sys.argv: Path(sys.argv[-1], 'made.txt').write_text('1')\n"
    reads = (
        NOTING
        + "\nimport sys\nassert not (notes / 'broken').exists()\nprint(Path(sys.argv[2], 'made.txt').read_text())\n"
    )
    chain = (
        step("makes.py", output="first"),
        step("makes.py", output="second"),
        step("reads.py", input_dataset_name="second"),
    )
    write_pipeline(project, {"makes.py": makes, "reads.py": reads}, *chain)
    notes = notes_folder(tmp_path)
    (notes / "broken").touch()
    parent = submit_pipe(himl, code=1, NOTES=str(notes))
    (notes / "broken").unlink()
    for folder in (project / ".himl" / "datastores" / "local" / "azureml").iterdir():
        shutil.rmtree(folder)
    himl.ok("submit", "--resume", parent, env={"NOTES": str(notes)})
    assert show(himl, parent)["status"] == "Completed"
    assert "step 'makes' (step2) runs again: step3 reads its output '" in log_of(project, parent)
    assert [run["status"] for run in steps_of(himl, parent)] == ["Completed"] * 3


def step(script: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "PythonScriptStep",
        "name": script.removesuffix(".py"),
        "script": script,
        "arguments": [],
        "source_directory": ".",
        **more,
    }


def write_pipeline(project: Path, scripts: Mapping[str, str], *steps: dict[str, Any]) -> None:
    document = {f"step{number}": each for number, each in enumerate(steps, 1)}
    write_files(project, {**scripts, "pipe.json": json.dumps(document)})


def submit_pipe(himl: Himl, *options: str, code: int = 0, **env: str) -> str:
    done = himl("submit", "pipe.json", "-q", *options, env=env)
    assert done.code == code, done.stderr
    return str(himl.ok("runs", "list", "-q", "--num_runs", "1").stdout.strip())


def test_failing_step_stops_the_rest_and_is_resumed(himl: Himl, project: Path, tmp_path: Path) -> None:
    """Steps use the submitted files even if an earlier step changed the project. Completed steps do not run again."""
    notes = notes_folder(tmp_path)
    changes = NOTING + "\n(notes.parent / 'project' / 'two.py').write_text('raise SystemExit(1)')\n"
    breaks = NOTING + "\nprint('no such luck') if (notes / 'broken').exists() else exit()\nraise SystemExit(7)\n"
    steps = (step("one.py"), step("two.py"), step("good.py"), step("good.py", name="x"))
    write_pipeline(project, {"one.py": changes, "two.py": breaks, "good.py": NOTING}, *steps)
    (notes / "broken").touch()
    done = himl("submit", "pipe.json", env={"NOTES": str(notes)})
    assert (done.code, "step2: no such luck" in done.stdout) == (1, True)
    run = show(himl, "latest")
    assert (run["status"], run["exit_code"], run["reason"]) == (
        "Failed",
        7,
        "step 'two' (step2) failed: exit code 7; not started: step3, step4",
    )
    assert statuses(himl, run["id"]) == ["Completed", "Failed"]
    (notes / "broken").unlink()
    himl.ok("submit", "--resume", run["id"], env={"NOTES": str(notes)})
    assert lines(notes / "ends") == [f"{run['id']}_step{number}" for number in (1, 2, 2, 3, 4)]
    assert "resumed: 3 of 4 steps remaining" in log_of(project, run["id"])


@pytest.fixture
def folder(project: Path) -> Path:
    write_files(
        project,
        {"src/prepare.py": PREPARE, "src/read.py": READ, "src/fail.py": "print('it is broken')\nraise SystemExit(3)\n"},
    )
    (project / "pipeline.json").write_text(json.dumps(STEPS))
    return project


def test_refused_pipeline_makes_nothing(himl: Himl, folder: Path) -> None:
    change_step(folder, "step1", input_dataset_name="cleam")
    zebra = {**STEPS, "step1": {**STEPS["step1"], "input_dataset_name": "zebra"}}
    write_files(folder, {"zebra.json": json.dumps(zebra)})
    here = "--create_cluster does not apply to a local pipeline."
    for arguments, code, said in (
        (("src/fail.py", "--create_cluster"), 2, "--create_cluster is for pipeline"),
        (("job.yml", "--create_cluster"), 2, "--create_cluster is for pipeline"),
        (("pipeline.json", "--create_cluster"), 2, here),
        (("pipeline.json", "--create_cluster", "--cluster", "local"), 2, here),
        (
            ("pipeline.json",),
            3,
            "step1: 'input_dataset_name' names 'cleam', which is neither the output of a step nor local data.",
        ),
        (("pipeline.json",), 3, "Did you mean 'clean'?"),
        (("zebra.json",), 3, "himl datastore upload FOLDER zebra"),
    ):
        outcome = himl("submit", *arguments)
        assert (outcome.code, said in outcome.stderr) == (code, True), outcome.stderr
    assert not (folder / ".himl").exists()
    change_step(folder, "step1")
    (folder / ".env").write_text("AML_COMPUTE_CLUSTER_NAME=gpu\nBLOB_ACCOUNT_KEY=hunter2\n")
    outcome = himl("submit", "pipeline.json", "--environment", "lab:1")
    assert outcome.code == 2
    assert "needs an Azure ML workspace, and none is configured" in outcome.stderr
    assert "To use this machine, add --cluster local." in outcome.stderr
    done = himl.ok("submit", "pipeline.json", "--cluster", "local")
    assert "hunter2" not in outcome.stderr + done.stdout + done.stderr
    assert files_with(folder / ".himl", "hunter2") == []


@pytest.fixture
def lab(azure_environment: StagedWorkspace, folder: Path) -> StagedWorkspace:
    azure_environment.write_config(folder)
    return azure_environment


def test_a_dotenv_names_cluster_and_storage(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    other = lab.state.second_storage
    lab.add_datastore("seeded", container="field", account=other)
    lab.put_blobs("seeded", {"raw/seed.txt": b"40"})
    # The container exists, but is not registered in the workspace.
    del lab.state.datastores["seeded"]
    step = {**STEPS["step2"], "input_datareference_path": "raw", "input_dataset_name": "seismic"}
    (folder / "pipeline.json").write_text(json.dumps({**STEPS, "step2": step}))
    blobs = f"BLOB_ACCOUNT_NAME={other.account}\nBLOB_CONTAINER_NAME=field\nBLOB_ACCOUNT_KEY={other.key}\n"
    (folder / ".env").write_text(
        f"{blobs}AML_COMPUTE_CLUSTER_NAME=seismic-gpu\nAML_COMPUTE_CLUSTER_SKU=Standard_NC6s_v3\n"
        "AML_COMPUTE_CLUSTER_MAX_NODES=2\n"
    )
    missing = himl("submit", "pipeline.json", *IMAGE)
    assert (missing.code, "Add --create_cluster" in missing.stderr) == (3, True), missing.stderr
    assert "seismic" not in lab.state.datastores
    with lab.run_jobs():
        made = himl.ok("submit", "pipeline.json", *IMAGE, "--create_cluster", "--wait", "--json")
    assert "Creating cluster 'seismic-gpu': 0 to 2 nodes of Standard_NC6s_v3." in made.stderr
    assert lab.state.datastores["seismic"].container == "field"
    read = children(himl, made.json()["id"])["read it"]
    assert kept(himl, folder, read["id"]) == "47"
    assert other.key not in missing.stdout + missing.stderr + made.stdout + made.stderr


def children(himl: Himl, run_id: str) -> dict[str, dict[str, Any]]:
    return {run["display_name"]: run for run in steps_of(himl, run_id)}


def change_step(folder: Path, key: str, **fields: Any) -> None:
    (folder / "pipeline.json").write_text(json.dumps({**STEPS, key: {**STEPS[key], **fields}}))


def kept(himl: Himl, folder: Path, run_id: str, name: str = "read_0.txt") -> str:
    himl.ok("download", run_id, "--output_dir", "got", "--flat", "--prefix", "outputs")
    return (folder / "got" / "outputs" / name).read_text()


def test_no_cluster_is_made_for_a_pipeline_that_is_refused(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    new = ("--cluster", "newpool", "--create_cluster")
    change_step(folder, "step1", input_dataset_name="cleam")
    outcome = himl("submit", "pipeline.json", *new, *IMAGE)
    assert (
        outcome.code,
        "'pipeline.json', step1: 'input_dataset_name' 'cleam': unknown data asset " in outcome.stderr,
    ) == (3, True), outcome.stderr
    change_step(folder, "step1", node_count=77)
    outcome = himl("submit", "pipeline.json", "--cluster", "cpu-cluster", *IMAGE)
    assert (outcome.code, "'pipeline.json', step1: 'node_count' 77: the compute" in outcome.stderr) == (2, True), (
        outcome.stderr
    )
    change_step(folder, "step2", input_datareference_path="raw")
    account = lab.state.second_storage.account
    (folder / ".env").write_text(f"BLOB_ACCOUNT_NAME={account}\nBLOB_CONTAINER_NAME=field\nBLOB_ACCOUNT_KEY=d3Jvbmc=\n")
    assert himl("submit", "pipeline.json", *new, *IMAGE).code != 0
    assert lab.requests("^GET .*/computes/newpool")
    assert not lab.requests("^PUT .*/computes/")


def test_step_reads_a_folder_of_the_local_datastore(himl: Himl, folder: Path) -> None:
    write_files(folder, {"data/seed.txt": "30"})
    change_step(
        folder,
        "step2",
        input_datareference_path="raw/first/",
        input_dataset_name="seismic",
        name="a\nb\x1b[31m" + "c" * 120,
    )
    missing = himl("submit", "pipeline.json")
    assert missing.code == 3
    assert (
        "step2: 'input_datareference_path' names 'raw/first/', but no local datastore has that folder."
        in missing.stderr
    )
    assert "himl init --local, then himl datastore upload FOLDER raw/first" in missing.stderr
    assert not list(folder.glob(".himl/runs/*"))
    himl.ok("init", "--local")
    himl.ok("datastore", "upload", "data", "raw/first")
    outcome = himl.ok("submit", "pipeline.json")
    assert "step 'a b [31mccc" in outcome.stdout
    assert "\x1b" not in outcome.stdout + outcome.stderr
    (line,) = [line for line in himl.ok("runs", "show", "latest").stdout.splitlines() if "a b [31mccc" in line]
    assert "c" * 40 not in line
    assert kept(himl, folder, show(himl, "latest")["id"] + "_step1", "read_1.txt") == "37"
    place = folder / ".himl" / "datastores" / "local" / "later"
    writes = {"type": "PythonScriptStep", "script": "write.py", "source_directory": "src", "arguments": [str(place)]}
    write = "import pathlib, sys\npathlib.Path(sys.argv[1], 'n.txt').write_text('11')\n"
    write_files(folder, {"src/write.py": write, "pipeline.json": json.dumps({"step1": writes, "step2": LATER})})
    shutil.rmtree(folder / "got")
    outcome = himl.ok("submit", "pipeline.json", "--json")
    assert f"step2: created the empty folder '{place}' as input. A previous step must fill it." in outcome.stderr
    assert kept(himl, folder, children(himl, outcome.json()["id"])["step2"]["id"]) == "11"


def test_steps_on_a_cluster_read_the_default_or_named_store(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    lab.add_datastore("seismic", container="named")
    lab.put_blobs("seismic", {"raw/seed.txt": b"40", "later/n.txt": b"5"})
    lab.put_blobs("workspaceblobstore", {"raw/seed.txt": b"30", "later/n.txt": b"5"})
    submit = ("submit", "pipeline.json", "--cluster", "cpu-cluster", *IMAGE, "--no_wait", "--json")

    def read(run_id: str) -> list[str]:
        jobs = (lab.state.runs[run_id].job or {})["jobs"]
        return [jobs[step]["inputs"]["input_data"]["uri"] for step in ("step1", "step2")]

    for name, store in (("no_datastore", "workspaceblobstore"), ("seismic", "seismic")):
        first = {**STEPS["step2"], "input_datareference_path": "raw", "input_dataset_name": name}
        write_files(folder, {"pipeline.json": json.dumps({"step1": first, "step2": LATER})})
        run = himl.ok(*submit)
        assert read(run.json()["id"]) == [f"azureml://datastores/{store}/paths/{path}/" for path in ("raw", "later")]
        write_files(
            folder, {".env": "BLOB_ACCOUNT_NAME=labstore\nBLOB_CONTAINER_NAME=other\nBLOB_ACCOUNT_KEY=aGVsbG8=\n"}
        )
    assert "Using datastore 'seismic' from the file instead of the container in BLOB_CONTAINER_NAME." in run.stderr
    assert read(himl.ok("submit", "--from", run.json()["id"], "-q").stdout.strip()) == read(run.json()["id"])


def test_a_pipeline_is_repeated_on_azure_ml_and_here(himl: Himl, lab: StagedWorkspace, folder: Path) -> None:
    """The same code, arguments, order, data and environments, although all files have changed. Also one step alone."""
    write_files(folder, {"reqs.txt": "numpy==2.1.0\n"})
    change_step(folder, "step2", requirements="reqs.txt")
    himl.ok("submit", "pipeline.json", "--tag", "team=blue")
    here = show(himl, "latest")["id"]
    write_files(
        folder,
        {
            "src/read.py": "raise SystemExit(1)",
            "src/prepare.py": "raise SystemExit(1)",
            "reqs.txt": "scipy\n",
            "pipeline.json": "{}",
        },
    )
    with lab.run_jobs():
        sent = himl.ok("submit", "--from", here, "--cluster", "cpu-cluster", "--wait", "--json")
        there = sent.json()["id"]
        assert kept(himl, folder, children(himl, there)["read it"]["id"]) == "7"
        again = himl.ok("submit", "--from", there, "--cluster", "gpu-cluster", "--wait", "-q").stdout.strip()
        assert show(himl, again)["tags"]["himl.repeats"] == there
        step = children(himl, there)["read it"]["id"]
        alone = himl.ok("submit", "--from", step, "--wait", "-q").stdout.strip()
    assert "step1: No file lists its packages" in sent.stderr
    specs = [spec["componentSpec"] for spec in lab.state.assets["components"]["azureml_anonymous"].values()]
    assert len(specs) == 2, "both pipelines have the same components"
    conda = [json.dumps(spec) for spec in lab.state.assets["environments"]["CliV2AnonymousEnvironment"].values()]
    assert ["numpy==2.1.0" in text for text in conda] == [True, False]
    jobs = [(lab.state.runs[run_id].job or {})["jobs"] for run_id in (there, again)]
    assert [{**node, "computeId": ""} for node in jobs[0].values()] == [
        {**node, "computeId": ""} for node in jobs[1].values()
    ]
    assert (lab.state.runs[there].tags["team"], lab.state.runs[alone].tags["himl.repeats"]) == ("blue", step)
    assert kept(himl, folder, alone) == "7"
    assert himl.ok("runs", "code", step, "-q").stdout.split() == ["fail.py", "prepare.py", "read.py"]
    himl.ok("submit", "--from", again, "--cluster", "local")
    back = show(himl, "latest")
    assert (back["status"], back["tags"]["himl.repeats"], back["workspace"]) == (
        "Completed",
        again,
        "local workspace '.himl'",
    )
    assert kept(himl, folder, f"{back['id']}_step1", "read_1.txt") == "7"
    himl.ok("submit", "--from", step, "--cluster", "local")
    assert kept(himl, folder, show(himl, "latest")["id"], "read_1.txt") == "7"


@pytest.mark.large("runs several jobs")
def test_dry_run_is_yaml_that_runs_again_here(himl: Himl, folder: Path) -> None:
    write_files(folder, {"src/note.py": "import sys\nprint('noted', sys.argv[1:])\n"})
    note = {"type": "PythonScriptStep", "script": "note.py", "source_directory": "src"}
    dry = ("submit", "pipeline.json", "--cluster", "gpu", *IMAGE, "--dry_run")
    (folder / "pipeline.json").write_text(
        json.dumps({"step1": note, "step2": STEPS["step2"] | {"input_datareference_path": "raw"}, "step3": note})
    )
    text = himl.ok(*dry).stdout
    assert ("${{parent.jobs.step1.outputs.himl_done}}" in text, "mode: direct" in text) == (True, True)
    (folder / "pipeline.json").write_text(
        json.dumps({"step1": note, "step2": note, "step3": STEPS["step2"], "step4": STEPS["step1"]})
    )
    (folder / "pipeline.yml").write_text(himl.ok(*dry).stdout)
    run = himl.ok("submit", "pipeline.yml", "--cluster", "local", "--json").json()
    runs = children(himl, run["id"])
    assert [runs[name]["tags"]["himl.after"].split(",")[-1] for name in ("step1", "step2")] == ["", "step1"]
    assert himl.ok("runs", "logs", f"{run['id']}_step2").stdout == "noted []\n"
    told = [line.split(" ", 1)[1].split(" after ")[0] for line in log_of(folder, run["id"]).splitlines()]
    assert (told[0], told[-1]) == ("4 steps", "completed")
    assert [f"step 'step1': {words}" for words in (f"started, {run['id']}_step1", "completed")] == told[1:3]
    assert kept(himl, folder, runs["read it"]["id"], "read_1.txt") == "7"


@pytest.fixture
def sources(project: Path) -> Path:
    write_files(project, {"pyproject.toml": "", "train.py": ADDS, "data/n.txt": "20"})
    return project


def write_yaml(sources: Path, name: str, content: dict[str, Any]) -> None:
    write_files(sources, {name: yaml.safe_dump(content, sort_keys=False)})


@pytest.fixture
def cluster(azure_environment: StagedWorkspace, sources: Path) -> StagedWorkspace:
    azure_environment.write_config(sources)
    return azure_environment


PARTS: dict[str, Any] = {
    "type": "pipeline",
    "inputs": {"raw": {"type": "uri_folder", "path": "azureml://datastores/workspaceblobstore/paths/raw/"}, "more": 5},
    "outputs": {"final": {"type": "uri_folder", "path": "azureml://datastores/workspaceblobstore/paths/sums/"}},
    "jobs": {
        "sum": {
            "type": "command",
            "component": "add.yml",
            "inputs": {"data": "${{parent.inputs.raw}}", "n": "${{parent.inputs.more}}"},
            "outputs": {"sum": "${{parent.outputs.final}}"},
            "environment_variables": {"COLOUR": "red"},
            "limits": {"timeout": 600},
        },
        "show": {
            "type": "command",
            "code": ".",
            "command": "python train.py --data ${{inputs.of_sum}}",
            "environment": {"image": "docker.io/python:3.11", "conda_file": {"dependencies": ["python=3.11"]}},
            "inputs": {"of_sum": "${{parent.jobs.sum.outputs.sum}}"},
        },
    },
}
ADD = {
    "type": "command",
    "inputs": {
        "data": {"type": "uri_folder"},
        "n": {"type": "integer"},
        "x": {"type": "integer", "optional": True},
        "y": {"type": "integer", "default": 3},
    },
    "outputs": {"sum": {"type": "uri_folder"}},
    "command": "echo ${{inputs.y}}; python train.py --n ${{inputs.n}} --data ${{inputs.data}} --out ${{outputs.sum}} "
    "$[[--x ${{inputs.x}}]]",
    "code": ".",
    "environment": "azureml:lab:1",
}


def test_a_pipeline_of_a_yaml_file_is_repeated(himl: Himl, cluster: StagedWorkspace, sources: Path) -> None:
    """As azure-ai-ml sends it: with components, inputs and outputs of the pipeline, values and environments of
    steps.
    """
    cluster.put_blobs("workspaceblobstore", {"raw/n.txt": b"20"})
    cluster.add_environment("lab", "1")
    write_yaml(sources, "flow.yml", PARTS)
    write_yaml(sources, "add.yml", ADD)
    first = himl.ok("submit", "flow.yml", "--cluster", "cpu-cluster", "-q").stdout.strip()
    write_files(sources, {"train.py": "raise SystemExit(1)"})
    again = himl.ok("submit", "--from", first, "-q").stdout.strip()
    jobs = (cluster.state.runs[again].job or {})["jobs"]
    assert jobs["sum"]["inputs"] == {
        "data": {
            "job_input_type": "uri_folder",
            "uri": "azureml://datastores/workspaceblobstore/paths/raw/",
            "mode": "ReadOnlyMount",
        }
    }
    assert jobs["sum"]["outputs"]["sum"]["uri"] == "azureml://datastores/workspaceblobstore/paths/sums/"
    assert (jobs["sum"]["environment_variables"], jobs["sum"]["limits"]["timeout"]) == ({"COLOUR": "red"}, "PT10M")
    components = cluster.state.assets["components"]["azureml_anonymous"]
    specs = {node: components[given["componentId"].rpartition("/")[2]]["componentSpec"] for node, given in jobs.items()}
    assert specs["sum"]["command"] == "echo 3; python train.py --n 5 --data ${{inputs.data}} --out ${{outputs.sum}} "
    assert specs["sum"]["environment"].endswith("/environments/lab/versions/1")
    assert jobs["show"]["inputs"]["of_sum"]["value"] == "${{parent.jobs.sum.outputs.sum}}"
    himl.ok("submit", "--from", first, "--cluster", "local", "--env_var", "COLOUR=blue")
    assert {himl.ok("runs", "logs", f"{show(himl, 'latest')['id']}_{key}").stdout for key in ("sum", "show")} == {
        "3\ntrained 25 blue None\n",
        "trained 26 blue None\n",
    }
    steps = (cluster.state.runs[first].job or {})["jobs"]
    steps["sum"]["type"] = "parallel"
    refused = himl("submit", "--from", first)
    assert (
        refused.code,
        "The step 'sum' is of type 'parallel', and himl repeats commands only." in refused.stderr,
    ) == (2, True)


def test_a_pipeline_of_a_yaml_file_here_is_repeated_on_azure_ml(
    himl: Himl, cluster: StagedWorkspace, sources: Path
) -> None:
    """In the environments that its file states. Others are asked for."""
    cluster.add_environment("lab", "1")
    parts = {key: {**part, "type": "command"} for key, part in {"one": ADD, "two": PARTS["jobs"]["show"]}.items()}
    one = {**parts["one"], "command": "python train.py --out ${{outputs.sum}}", "inputs": {}}
    two = {**parts["two"], "inputs": {"of_sum": "${{parent.jobs.one.outputs.sum}}"}}
    write_yaml(sources, "flow.yml", {"type": "pipeline", "jobs": {"one": one, "two": two}})
    himl.ok("submit", "flow.yml")
    sent = himl.ok("submit", "--from", "latest", "--cluster", "cpu-cluster", "-q").stdout.strip()
    nodes = (cluster.state.runs[sent].job or {})["jobs"]
    components = cluster.state.assets["components"]["azureml_anonymous"]
    named = {
        node: components[given["componentId"].rpartition("/")[2]]["componentSpec"]["environment"]
        for node, given in nodes.items()
    }
    assert named["one"].endswith("/environments/lab/versions/1")
    (made,) = cluster.state.assets["environments"]["CliV2AnonymousEnvironment"].values()
    assert (made["image"], "python=3.11" in made["condaFile"]) == ("docker.io/python:3.11", True)
    write_yaml(
        sources, "flow.yml", {"type": "pipeline", "jobs": {"one": {**one, "environment": {"build": {"path": "."}}}}}
    )
    himl.ok("submit", "flow.yml")
    refused = himl("submit", "--from", "latest", "--cluster", "cpu-cluster")
    assert (refused.code, "--environment" in refused.stderr) == (2, True), refused.stderr
    himl.ok("submit", "--from", "latest", "--cluster", "cpu-cluster", "--environment", "lab:1")


def test_sweep_in_yaml_runs_here(himl: Himl, sources: Path) -> None:
    command = (
        "python train.py --n ${{search_space.n}} --out ${{outputs.o}} && echo ${{search_space.word}} "
        "'${{search_space.word}}'"
    )
    sweep = {
        "type": "sweep",
        "trial": {"command": command, "code": ".", "environment": "azureml:lab@latest"},
        "outputs": {"o": {"type": "uri_folder"}},
        "search_space": {"n": {"type": "choice", "values": [1, 2]}, "word": {"type": "choice", "values": ["it's a b"]}},
        "sampling_algorithm": "grid",
        "objective": {"goal": "minimize", "primary_metric": "loss"},
        "limits": {"max_total_trials": 9, "max_concurrent_trials": 2},
    }
    write_yaml(sources, "sweep.yml", sweep)
    run = himl.ok("submit", "sweep.yml", "--json").json()
    trials = himl.ok("runs", "show", run["id"], "--children", "--json").json()
    assert sorted(json.loads(trial["tags"]["hyperparameters"])["n"] for trial in trials) == [1, 2]
    written = (sources / ".himl" / "datastores" / "local").rglob("n.txt")
    assert sorted(path.read_text() for path in written) == ["1", "2"]
    assert himl.ok("runs", "logs", f"{run['id']}_0").stdout.endswith("\nit's a b it's a b\n")
    options = ("--sweep", "n=1,2", "--output", "o=sums", "--primary_metric", "loss")
    (sources / "again.yml").write_text(
        himl.ok("submit", "train.py", *options, "--dry_run", "--", "--out", "${{outputs.o}}").stdout
    )
    again = himl.ok("submit", "again.yml", "--json")
    assert "2 trials, 1 at once" in again.stderr
    trials = himl.ok("runs", "show", again.json()["id"], "--children", "--json").json()
    sums = {
        path.parent.name: path.read_text()
        for path in (sources / ".himl" / "datastores" / "local" / "sums").glob("*/n.txt")
    }
    assert sums == {trial["id"]: trial["display_name"][-1] for trial in trials}
    assert sorted(sums.values()) == ["1", "2"]


def test_yaml_errors_and_command_lines_for_bash(himl: Himl, sources: Path, tmp_path: Path) -> None:
    for content, options, code, message in [
        ("command: [\n", (), 2, "'job.yml', line 2"),
        ("command: ls\n", ("--num_nodes", "2"), 2, "--num_nodes does not apply to a job's YAML"),
        ("command: ls\n", ("--set", "inputs.x"), 2, "--set needs KEY=VALUE, not 'inputs.x'."),
        ("command: ls ${{inputs.x}}\ninputs: {x: {path: 'azureml:none:1'}}\n", (), 3, "no dataset or folder 'none'"),
        ("command: ls\ncompute: azureml:gpu\n", (), 2, "needs an Azure ML workspace, and none is configured"),
    ]:
        (sources / "job.yml").write_text(content)
        outcome = himl("submit", "job.yml", *options)
        assert (outcome.code, message in outcome.stderr) == (code, True), outcome.stderr
    write_files(tmp_path / "my data", {"n.txt": "20"})
    part = {
        "type": "command",
        "code": ".",
        "command": 'cat ${{inputs.data}}/n.txt && cat "${{inputs.data}}/n.txt" && python train.py --n 2 --data '
        "${{inputs.data}} "
        "--out ${{outputs.sum}} && echo ${{inputs.word}} > outputs/in.txt",
        "environment": "azureml:lab@latest",
        "inputs": {"data": {"type": "uri_folder", "path": str(tmp_path / "my data")}},
        "outputs": {"sum": "${{parent.outputs.final}}", "artifacts": None},  # Azure ML fills the latter
    }
    command = "cat ${{inputs.of_b}}/outputs/in.txt ${{inputs.of_b}}/user_logs/std_log.txt"
    reads = {
        "command": command,
        "environment": "azureml:lab@latest",
        "inputs": {"of_b": "${{parent.jobs.b.outputs.artifacts}}"},
    }
    write_yaml(
        sources,
        "pipeline.yml",
        {"type": "pipeline", "outputs": {"final": {"type": "uri_folder"}}, "jobs": {"b": part, "c": reads}},
    )
    run = himl.ok("submit", "pipeline.yml", "--json", "--set", "jobs.b.inputs.word=1e3").json()
    assert himl.ok("runs", "logs", f"{run['id']}_b").stdout.startswith("2020trained 22")
    assert himl.ok("runs", "logs", f"{run['id']}_c").stdout.startswith("1e3\n2020trained 22")
    himl.ok("download", f"{run['id']}_b", "--output_key", "artifacts", "--output_dir", "all", "--flat")
    assert (sources / "all" / "outputs" / "in.txt").read_text() == "1e3\n"
    himl.ok("download", run["id"], "--output_key", "final", "--output_dir", "got", "--flat")
    assert (sources / "got" / "n.txt").read_text() == "22"
    for target, message in {
        "train.py": "applies to jobs in YAML only",
        "pipe.json": "does not apply to a pipeline file",
    }.items():
        (sources / "pipe.json").write_text(
            json.dumps({"step1": {"type": "PythonScriptStep", "script": "train.py", "source_directory": "."}})
        )
        assert message in himl("submit", target, "--set", "inputs.lr=1").stderr
