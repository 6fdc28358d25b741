"""A script that sends itself to Azure ML: what is sent, what is said, how the process ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.api.ranks import local_ranks
from tests.api.scripts import run_script, shows_hints, write_script
from tests.running import Himl, write_files
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.state import Run

CONDA = "name: lab\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n      - himl-cli\n"
CLUSTER = 'compute_cluster_name="cpu-cluster"'
HERE = 'print("this ran " + ("on Azure ML" if info.is_running_in_azure_ml else "here"))'
LIST = "print(sorted(path.as_posix() for path in Path('.').rglob('*') if path.is_file()), sys.argv)"


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """A workspace with a cluster; the project has its config.json and an environment.yml."""
    azure_environment.add_compute("cpu-cluster")
    azure_environment.write_config(project)
    (project / "environment.yml").write_text(CONDA)
    return azure_environment


def sent(lab: StagedWorkspace) -> Run:
    """The one run that was submitted."""
    (run,) = lab.state.runs.values()
    return run


def job_of(lab: StagedWorkspace) -> Mapping[str, Any]:
    """The one job that was submitted, as the service got it."""
    job = sent(lab).job
    assert job is not None
    return job


def send(script: Path, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script with the flag; it has to end well, and before what comes after the call."""
    done = run_script(script, *arguments, "--azureml", cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    assert "this ran" not in done.stdout
    return done


def test_the_flag_sends_the_script_and_ends_the_process(lab: StagedWorkspace, project: Path) -> None:
    done = run_script(write_script(project, "train.py", CLUSTER, HERE), "-n", "3", "--azureml", "a b")
    assert (done.returncode, "this ran" in done.stdout) == (0, False), done.stderr
    run = sent(lab)
    assert run.run_id.startswith("train_")
    assert done.stdout.splitlines()[0] == run.run_id
    assert "Experiment  train" in done.stdout
    assert f"https://ml.azure.com/runs/{run.run_id}" in done.stdout
    assert (project / "most_recent_run.txt").read_text().strip() == f"train:{run.run_id}"
    job = job_of(lab)
    assert job["command"] == "python train.py -n 3 'a b'"
    assert job["experimentName"] == "train"
    assert job["tags"]["command_line"] == "train.py -n 3 'a b'"
    assert not (project / "outputs").exists()


def test_a_launcher_that_starts_several_ranks_submits_once(lab: StagedWorkspace, project: Path) -> None:
    script = write_script(project, "train.py", CLUSTER, HERE)
    for rank in local_ranks(3):
        send(script, env=rank)
    assert sent(lab).experiment.name == "train"


def test_an_argument_may_decide_in_place_of_the_flag(lab: StagedWorkspace, project: Path) -> None:
    script = write_script(project, "train.py", f"{CLUSTER}, submit_to_azureml='--cloud' in sys.argv", HERE)
    assert run_script(script, "--azureml").stdout == "this ran here\n"
    assert lab.state.runs == {}
    assert run_script(script, "--cloud").returncode == 0
    assert job_of(lab)["command"] == "python train.py --cloud"


def test_all_arguments_reach_the_job(lab: StagedWorkspace, project: Path) -> None:
    lab.put_blob("workspaceblobstore", "faces/1.png", b"1")
    call = f"""{CLUSTER}, script_params=["--epochs", 2], experiment_name="my experiment", environment_variables={{"A": "1"}}, docker_shm_size="2g",
        docker_base_image="mcr.microsoft.com/azureml/other:1", pip_extra_index_url="https://index.example/simple/", num_nodes=2, max_run_duration="1.5h",
        tags={{"team": "blue", "number": 3}}, display_name="my run", identity_based_auth=True, pytorch_processes_per_node_v2=4,
        input_datasets=["faces", DatasetConfig("faces", datastore="workspaceblobstore", use_mounting=True, target_folder="/tmp/faces")],
        output_datasets=["small", DatasetConfig("tiny", use_mounting=False)], default_datastore="workspaceblobstore" """
    send(write_script(project, "train.py", call, HERE))
    job = job_of(lab)
    assert job["command"].endswith("; export AZURE_ML_INPUT_INPUT_1=/tmp/faces; python train.py --epochs 2")
    assert (job["experimentName"], job["displayName"], job["limits"]["timeout"]) == ("my_experiment", "my run", "PT1H30M")
    assert job["environmentVariables"]["A"] == "1"
    assert {"team": "blue", "number": "3"}.items() <= job["tags"].items()
    assert (job["resources"]["instanceCount"], job["resources"]["shmSize"]) == (2, "2g")
    assert (job["distribution"]["distributionType"], job["distribution"]["processCountPerInstance"]) == ("PyTorch", 4)
    assert job["identity"]["identityType"] == "UserIdentity"
    first, second = job["inputs"]["INPUT_0"], job["inputs"]["INPUT_1"]
    assert (first["mode"], second["mode"]) == ("Download", "ReadOnlyMount")
    outputs = {key: (output["mode"], output["assetName"]) for key, output in job["outputs"].items() if key != "default"}
    assert outputs == {"OUTPUT_0": ("ReadWriteMount", "small"), "OUTPUT_1": ("Upload", "tiny")}


def test_a_script_finds_its_dataset_at_the_target_folder(lab: StagedWorkspace, project: Path) -> None:
    lab.put_blob("workspaceblobstore", "faces/1.png", b"1")
    call = f'{CLUSTER}, input_datasets=[DatasetConfig("faces", target_folder="data/faces")]'
    with lab.run_jobs():
        send(write_script(project, "train.py", call, "print(info.input_datasets, Path('data/faces/1.png').read_text())"))
        run = lab.wait_for(sent(lab).run_id, "Completed")
    assert "[PosixPath('data/faces')] 1" in lab.logs(run.run_id)


def test_a_registered_environment_counts_alone(lab: StagedWorkspace, project: Path) -> None:
    known = lab.add_environment("torch", "7")
    (project / "environment.yml").write_text("not: [valid")
    send(write_script(project, "train.py", f'{CLUSTER}, aml_environment_name="torch:7", pip_extra_index_url="https://index.example"', HERE))
    assert job_of(lab)["environmentId"] == known


def test_a_plain_job_is_sent_as_mpi_unless_that_is_not_wanted(lab: StagedWorkspace, project: Path) -> None:
    send(write_script(project, "first.py", CLUSTER, HERE))
    send(write_script(project, "second.py", f"{CLUSTER}, use_mpi_run_for_single_node_jobs=False", HERE))
    kinds = {run.experiment.name: (run.job or {}).get("distribution") for run in lab.state.runs.values()}
    assert kinds["first"] is not None
    assert kinds["first"]["distributionType"] == "Mpi"
    assert kinds["second"] is None


def test_the_current_folder_is_sent_without_ignored_ones(lab: StagedWorkspace, project: Path) -> None:
    write_files(project, {"lib/a.py": "", "big/x.bin": "x", "also/y.bin": "y", "data/raw/z.bin": "z", "outputs/old.txt": "", ".env": "SECRET=1"})
    script = write_script(project, "train.py", rf'{CLUSTER}, ignored_folders=["big", Path("also").absolute(), r"data\raw"]', LIST)
    with lab.run_jobs():
        send(script, "-n", "3")
        lab.wait_for(sent(lab).run_id, "Completed")
    assert "['config.json', 'environment.yml', 'lib/a.py', 'train.py'] ['train.py', '-n', '3']" in lab.logs(sent(lab).run_id)


def test_a_parent_may_be_sent_and_another_script_started(lab: StagedWorkspace, project: Path) -> None:
    write_files(project, {"lib/tools.py": "word = 'from a tool'", "jobs/train.py": "import sys\nsys.path.append('.')\nfrom lib.tools import word\nprint(word)"})
    call = f'{CLUSTER}, snapshot_root_directory=Path("..").resolve(), entry_script="jobs/train.py"'
    script = write_script(project / "jobs", "send.py", call, HERE)
    with lab.run_jobs():
        send(script)
        lab.wait_for(sent(lab).run_id, "Completed")
    assert job_of(lab)["command"] == "python jobs/train.py"
    assert "from a tool" in lab.logs(sent(lab).run_id)


def test_a_module_is_sent_as_a_module(lab: StagedWorkspace, project: Path) -> None:
    (project / "lab").mkdir()
    write_files(project, {"lab/__init__.py": ""})
    write_script(project / "lab", "train.py", CLUSTER, HERE)
    done = subprocess.run([sys.executable, "-m", "lab.train", "--azureml", "-n", "3"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert job_of(lab)["command"] == "python -m lab.train -n 3"


def test_waiting_shows_the_log_and_ends_well(lab: StagedWorkspace, project: Path) -> None:
    script = write_script(project, "train.py", f"{CLUSTER}, wait_for_completion=True, wait_for_completion_show_output=True", HERE)
    with lab.run_jobs():
        done = run_script(script, "--azureml")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "this ran on Azure ML"), done.stderr
    assert sent(lab).status == "Completed"
    assert "Completed in" in done.stderr


@pytest.mark.parametrize("shown", [True, False])
def test_waiting_for_a_run_that_fails_raises(lab: StagedWorkspace, project: Path, shown: bool) -> None:
    script = write_script(
        project, "train.py", f"{CLUSTER}, wait_for_completion=True, wait_for_completion_show_output={shown}", "print('bad luck')\nsys.exit(3)"
    )
    catching = project / "catching.py"
    catching.write_text(
        f"import sys\nsys.argv[0] = 'train.py'\ntry:\n    exec(open({str(script)!r}).read())\nexcept ValueError as err:\n    print('caught', err)\n"
    )
    with lab.run_jobs():
        done = run_script(script, "--azureml")
        run_id = sent(lab).run_id
        caught = run_script(catching, "--azureml")
    assert done.returncode == 1
    assert "bad luck" in done.stdout + done.stderr
    assert f"NotCompleted: Run '{run_id}' failed" in done.stderr
    assert "caught Run '" in caught.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_while_waiting_leaves_the_run_alone(lab: StagedWorkspace, project: Path) -> None:
    script = write_script(project, "train.py", f"{CLUSTER}, wait_for_completion=True", HERE)
    with lab.run_jobs(hold=True):
        process = subprocess.Popen([sys.executable, str(script), "--azureml"], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        assert process.stderr is not None
        for line in process.stderr:
            if "is queued" in line:
                break
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=100)
        assert process.returncode == 130, said
        assert f"Stopped watching; run '{run_id}' goes on. To cancel it: himl runs cancel {run_id}" in said
        assert sent(lab).status == "Queued"


def test_after_submission_gets_the_job_and_a_client(lab: StagedWorkspace, project: Path) -> None:
    after = (
        "lambda job, client: print('AFTER', type(job).__name__, job.name, job.experiment_name, type(client).__name__, client.workspace_name,"
        " client.jobs.get(job.name).name)"
    )
    done = send(write_script(project, "train.py", f"{CLUSTER}, after_submission={after}", HERE))
    run_id = sent(lab).run_id
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("AFTER")]
    assert line == f"AFTER Command {run_id} train MLClient {lab.state.name} {run_id}"


def test_a_client_of_the_sdk_says_which_workspace(lab: StagedWorkspace, project: Path) -> None:
    (project / "config.json").unlink()
    state = lab.state
    client = f"MLClient(DefaultAzureCredential(), {state.subscription!r}, {state.group!r}, {state.name!r})"
    script = write_script(project, "train.py", f"{CLUSTER}, ml_client={client}, after_submission=lambda job, given: print('SAME', given is not None)", HERE)
    script.write_text(f"from azure.ai.ml import MLClient\nfrom azure.identity import DefaultAzureCredential\n{script.read_text()}")
    done = subprocess.run([sys.executable, str(script), "--azureml"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "SAME True" in done.stdout
    assert job_of(lab)["command"] == "python train.py"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("", "compute_cluster_name does not name a cluster"),
        (f"{CLUSTER}, hyperdrive_config=object()", "hyperdrive_config is no HyperDriveConfig, but of type object"),
        (f"{CLUSTER}, hyperparam_args=dict(a=1)", "hyperparam_args: unknown 'a'"),
        (f"{CLUSTER}, hyperparam_args=dict()", "hyperparam_args: 'parameter_sampling' is missing"),
        (f"{CLUSTER}, hyperparam_args=[1]", "hyperparam_args is a dictionary, not list"),
        (f'{CLUSTER}, max_run_duration="soon"', "'soon' is no duration"),
        (f'{CLUSTER}, docker_shm_size="big"', "docker_shm_size 'big' is no size"),
        (f'{CLUSTER}, conda_environment_file="none.yml"', "none.yml"),
        (f'{CLUSTER}, private_pip_wheel_path="none.whl"', "none.whl"),
        (f'{CLUSTER}, snapshot_root_directory="none"', "snapshot_root_directory"),
        (f'{CLUSTER}, entry_script="none.py"', "none.py"),
        (f'{CLUSTER}, input_datasets=[""]', "The name of the dataset is empty"),
        (f"{CLUSTER}, pytorch_processes_per_node_v2=0", "pytorch_processes_per_node_v2 0: at least 1 is needed"),
        (f"{CLUSTER}, pytorch_processes_per_node_v2=10**30", "pytorch_processes_per_node_v2 can be 1,024 at most"),
        (f"{CLUSTER}, pytorch_processes_per_node_v2=2.5", "pytorch_processes_per_node_v2 must be a whole number from 1 on, not 2.5"),
        (f"{CLUSTER}, num_nodes=65_001", "num_nodes can be 65,000 at most"),
    ],
)
def test_arguments_that_cannot_be_used_are_value_errors(lab: StagedWorkspace, project: Path, call: str, said: str) -> None:
    script = write_script(project, "train.py", call, HERE)
    script.write_text(f"import traceback\ntry:\n    exec({script.read_text()!r})\nexcept ValueError as err:\n    print('VALUE', err)\n")
    done = run_script(script, "--azureml")
    assert done.stdout.startswith("VALUE"), done.stderr
    assert said in done.stdout
    assert "--" not in done.stdout.replace("--azureml", "")
    assert lab.requests() == []


@shows_hints
def test_an_environment_has_to_be_said(lab: StagedWorkspace, project: Path) -> None:
    (project / "environment.yml").unlink()
    done = run_script(write_script(project, "train.py", CLUSTER, HERE), "--azureml")
    assert done.returncode == 1
    assert "environment.yml" in done.stderr
    assert "conda_environment_file" in done.stderr
    assert "--conda_env" not in done.stderr
    assert lab.requests() == []


def test_the_nearest_conda_file_above_the_current_folder_is_taken(lab: StagedWorkspace, project: Path) -> None:
    (project / "deep").mkdir()
    (project / "scripts").mkdir()
    (project / "scripts" / "environment.yml").write_text("not: [valid")
    (project / "environment.yml").write_text(CONDA.replace("3.11", "3.12"))
    call = f'{CLUSTER}, snapshot_root_directory="..", entry_script="scripts/train.py"'
    write_script(project / "scripts", "train.py", call, HERE)
    send(project / "scripts" / "train.py", cwd=project / "deep")
    assert "python=3.12" in json.dumps(lab.state.assets["environments"])
    assert job_of(lab)["command"] == "python scripts/train.py"


@shows_hints
def test_the_hint_is_in_the_traceback(lab: StagedWorkspace, project: Path) -> None:
    done = run_script(write_script(project, "train.py", "", HERE), "--azureml")
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-1 if sys.version_info >= (3, 11) else 0] == "To run the script here, leave --azureml out."


def test_without_a_workspace_nothing_is_made(project: Path) -> None:
    done = run_script(write_script(project, "train.py", CLUSTER, HERE), "--azureml")
    assert done.returncode == 1
    assert "No Azure ML workspace is given, and none is configured." in done.stderr
    assert [path.name for path in project.iterdir()] == ["train.py"]


def test_an_unknown_cluster_is_said_with_those_there_are(lab: StagedWorkspace, project: Path) -> None:
    done = run_script(write_script(project, "train.py", 'compute_cluster_name="gpu"', HERE), "--azureml")
    assert done.returncode == 1
    assert "NotFound" in done.stderr
    assert "cpu-cluster" in done.stderr
    assert lab.state.runs == {}


def test_results_are_found_by_the_file_that_submit_wrote(lab: StagedWorkspace, project: Path, himl: Himl) -> None:
    script = write_script(project, "train.py", CLUSTER, "(info.output_folder / 'model.txt').write_text('m')")
    results = project / "results.py"
    results.write_text("from himl_cli import get_most_recent_run\nrun = get_most_recent_run('most_recent_run.txt')\nrun.download_file('outputs/model.txt')\n")
    with lab.run_jobs():
        send(script)
        lab.wait_for(sent(lab).run_id, "Completed")
    done = run_script(results)
    assert done.returncode == 0, done.stderr
    assert (project / "model.txt").read_text() == "m"
    (listed,) = json.loads(himl.ok("runs", "list", "--json", env=os.environ).stdout)
    assert (listed["id"], listed["status"]) == (sent(lab).run_id, "Completed")
