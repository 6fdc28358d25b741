"""A script that cannot send itself to Azure ML: which error it gets, and that nothing is sent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.scripts import run_script, shows_hints, write_script
from tests.api.sent_scripts import CLUSTER, HERE
from tests.api.sent_scripts import lab as lab
from tests.servers.azureml.seeding import StagedWorkspace


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
        (f'{CLUSTER}, ssh_key="config.json"', "ssh_key 'config.json' holds no public key"),
        (f'{CLUSTER}, ssh_key="~/.ssh/none.pub"', "ssh_key '~/.ssh/none.pub' is neither a public key nor a file"),
        (f"{CLUSTER}, build_context=object()", "build_context is neither a folder nor a BuildContext, but of type object"),
        (f'{CLUSTER}, build_context="none"', "build_context 'none' is no folder"),
        (f'{CLUSTER}, build_context=".", conda_environment_file="environment.yml"', "build_context and conda_environment_file were both given"),
        (f'{CLUSTER}, entry_command=" "', "entry_command got an empty value"),
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


def test_an_environment_has_to_be_said(lab: StagedWorkspace, project: Path) -> None:
    (project / "environment.yml").unlink()
    done = run_script(write_script(project, "train.py", CLUSTER, HERE), "--azureml")
    assert done.returncode == 2
    assert "environment.yml" in done.stderr
    assert "conda_environment_file" in done.stderr
    assert "--conda_env" not in done.stderr
    assert lab.requests() == []


@shows_hints
def test_a_notebooks_traceback_has_the_hint(lab: StagedWorkspace, project: Path) -> None:
    script = write_script(project, "train.py", "", HERE)
    script.write_text(f"import traceback\ntry:\n    exec({script.read_text()!r})\nexcept ValueError:\n    print(traceback.format_exc())\n")
    assert run_script(script, "--azureml").stdout.rstrip().splitlines()[-1] == "To run the script here, leave --azureml out."


def test_without_a_workspace_nothing_is_made(project: Path) -> None:
    done = run_script(write_script(project, "train.py", CLUSTER, HERE), "--azureml")
    assert done.returncode == 2
    assert "No Azure ML workspace is given, and none is configured." in done.stderr
    assert [path.name for path in project.iterdir()] == ["train.py"]


@pytest.mark.parametrize("is_started", [False, True])
def test_unknown_cluster_is_one_line_error_with_exit_code_3(lab: StagedWorkspace, project: Path, *, is_started: bool) -> None:
    done = run_script(write_script(project, "train.py", 'compute_cluster_name="gpu"', HERE), "--azureml", is_started=is_started)
    snapshot, error = done.stderr.splitlines()
    assert (done.returncode, done.stdout, snapshot[:11]) == (3, "", "Snapshot of")
    assert error.startswith("error: ")
    assert "'gpu'" in error
    assert "cpu-cluster" in error
    assert lab.state.runs == {}


def test_caught_error_ends_nothing_and_others_keep_traceback(lab: StagedWorkspace, project: Path) -> None:
    """The process's hook for exceptions is himl's from the first error on, and knows that one alone."""
    script = write_script(project, "train.py", 'compute_cluster_name="gpu"', HERE)
    caught = f"from himl_cli.core.errors import NotFound\ntry:\n    exec({script.read_text()!r})\nexcept NotFound as err:\n"
    script.write_text(f"{caught}    print('NOT FOUND')\n    raise RuntimeError('mine') from err\n")
    done = run_script(script, "--azureml")
    assert (done.returncode, done.stdout) == (1, "NOT FOUND\n")
    assert done.stderr.count("Traceback (most recent call last)") > 1
    assert done.stderr.rstrip().endswith("RuntimeError: mine")


def test_pythons_prompt_goes_on(lab: StagedWorkspace, project: Path) -> None:
    script = write_script(project, "train.py", 'compute_cluster_name="gpu"', HERE)
    done = subprocess.run([sys.executable, "-i", str(script), "--azureml"], cwd=project, input="print('still', 'here')\n", capture_output=True, text=True)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (0, "still here\n", False)
