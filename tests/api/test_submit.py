"""Tests of scripts that submit themselves to Azure ML: what they send, refuse and wait for, and their data paths in and
outside of jobs.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from himl_cli.api.submit_if_needed import DEFAULT_ENVIRONMENT_VARIABLES
from himl_cli.core.installation import install_command
from tests.api.ranks import local_ranks
from tests.api.scripts import CLUSTER, CONDA, HERE, job_of, run_script, said, send, sent, shows_hints, write_script
from tests.api.scripts import lab as lab
from tests.api.scripts import v1_lab as v1_lab
from tests.azure.lab import client_python
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.clients import HIML_V1
from tests.support.running import Himl, write_files

LIST = (
    "print(sorted(path.as_posix() for path in Path('.').rglob('*') if path.is_file() and path.parts[0] not in "
    "('data', 'outputs', 'logs')), sys.argv)"
)
PLACED = ("--data", "${{inputs.images}}")


def test_flag_sends_script_once_and_ends_each_rank(lab: StagedWorkspace, project: Path) -> None:
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
    assert job["tags"]["command_line"] == job["tags"]["commandline_args"] == "train.py -n 3 'a b'"
    assert not (project / "outputs").exists()
    send(project / "train.py", env=local_ranks(3)[1])
    assert sent(lab) is run


def test_an_argument_may_decide_in_place_of_the_flag(lab: StagedWorkspace, project: Path) -> None:
    call = f"""{CLUSTER}, submit_to_azureml='--cloud' in sys.argv, experiment_name="mine", python_executable="uv run",
        vscode=False,
        use_mpi_run_for_single_node_jobs=True"""
    write_files(project, {".netrc": "secret", "lib/server.pem": "-----BEGIN PRIVATE KEY-----"})
    script = write_script(project, "train.py", call, HERE)
    assert run_script(script, "--azureml").stdout == "this ran here\n"
    assert lab.state.runs == {}
    done = run_script(script, "--cloud", env={"HIML_EXPERIMENT_NAME": "night__ly-2"})
    assert done.returncode == 0, done.stderr
    assert "himl left out 2 files that may contain secrets: '.netrc', 'lib/server.pem'." in done.stderr
    job = job_of(lab)
    assert (job["command"], job["experimentName"], job.get("services")) == (
        "uv run train.py --cloud",
        "night_ly-2",
        None,
    )
    assert job["distribution"]["distributionType"] == "Mpi"


def test_all_arguments_reach_the_job(lab: StagedWorkspace, project: Path) -> None:
    lab.put_blob("workspaceblobstore", "faces/1.png", b"1")
    call = f"""{CLUSTER}, script_params=["--epochs", 2], experiment_name="my experiment",
        environment_variables={{"A": "1"}}, docker_shm_size="2g",
        docker_base_image="mcr.microsoft.com/azureml/other:1", pip_extra_index_url="https://index.example/simple/",
            num_nodes=2, max_run_duration="1.5h",
        tags={{"team": "blue", "number": 3}}, display_name="my run", identity_based_auth=True,
            pytorch_processes_per_node_v2=4,
        input_datasets=["faces", DatasetConfig("faces", datastore="workspaceblobstore", use_mounting=True,
            target_folder="/tmp/faces")],
        output_datasets=["small", DatasetConfig("tiny", use_mounting=False)], default_datastore="workspaceblobstore",
        instance_type="gpu-large", resources_properties={{"priority": "high"}}, jupyter=True, ssh_key="id.pub",
            tensorboard_logs=Path("logs")"""
    (project / "id.pub").write_text("ssh-ed25519 AAAAC3Nz ada@lab\n")
    send(write_script(project, "train.py", call, HERE))
    job = job_of(lab)
    assert job["command"].endswith("; export AZURE_ML_INPUT_INPUT_1=/tmp/faces; python train.py --epochs 2")
    assert (job["experimentName"], job["displayName"], job["limits"]["timeout"]) == (
        "my_experiment",
        "my run",
        "PT1H30M",
    )
    assert job["environmentVariables"]["A"] == "1"
    assert {"team": "blue", "number": "3"}.items() <= job["tags"].items()
    assert (job["resources"]["instanceCount"], job["resources"]["shmSize"]) == (2, "2g")
    assert (job["distribution"]["distributionType"], job["distribution"]["processCountPerInstance"]) == ("PyTorch", 4)
    assert job["identity"]["identityType"] == "UserIdentity"
    first, second = job["inputs"]["INPUT_0"], job["inputs"]["INPUT_1"]
    assert (first["mode"], second["mode"]) == ("Download", "ReadOnlyMount")
    outputs = {key: (output["mode"], output["assetName"]) for key, output in job["outputs"].items() if key != "default"}
    assert outputs == {"OUTPUT_0": ("ReadWriteMount", "small"), "OUTPUT_1": ("Upload", "tiny")}
    assert (job["resources"]["instanceType"], job["resources"]["properties"]) == ("gpu-large", {"priority": "high"})
    kinds = {"vscode": "VSCode", "jupyterlab": "JupyterLab", "tensorboard": "TensorBoard", "ssh": "SSH"}
    assert {name: service["jobServiceType"] for name, service in job["services"].items()} == kinds
    assert job["services"]["tensorboard"]["properties"] == {"logDir": "logs"}
    assert job["services"]["ssh"]["properties"] == {"sshPublicKeys": "ssh-ed25519 AAAAC3Nz ada@lab"}


def test_waited_job_has_current_folder_and_its_datasets(lab: StagedWorkspace, project: Path) -> None:
    lab.put_blob("workspaceblobstore", "faces/1.png", b"1")
    write_files(
        project,
        {
            "lib/a.py": "",
            "big/x.bin": "x",
            "also/y.bin": "y",
            "data/raw/z.bin": "z",
            "outputs/old.txt": "",
            ".env": "SECRET=1",
        },
    )
    call = rf"""{CLUSTER}, input_datasets=[DatasetConfig("faces", data_name="images"),
        DatasetConfig("faces", target_folder="data/faces")],
        output_datasets=[DatasetConfig("made", data_name="masks")], ignored_folders=["big", Path("also").absolute(),
            r"data\raw"],
        wait_for_completion=True, wait_for_completion_show_output=True"""
    read = (
        "(info.input_datasets[0] / '1.png').read_text(), info.input_datasets[1] == "
        "Path('data/faces').absolute(), Path('data/faces/1.png').read_text()"
    )
    with lab.run_jobs():
        done = run_script(
            write_script(project, "train.py", call, f"print({read}, info.output_datasets[0].is_dir())\n{LIST}"),
            *PLACED,
            "--azureml",
        )
    assert (done.returncode, sent(lab).status, "Completed in" in done.stderr) == (0, "Completed", True), done.stderr
    assert {*job_of(lab)["inputs"]} == {"images", "INPUT_1"}
    assert "masks" in job_of(lab)["outputs"]
    found, files = done.stdout.splitlines()[-2:]
    assert found == "1 True 1 True"
    assert files.startswith("['config.json', 'environment.yml', 'lib/a.py', 'train.py'] ['train.py', '--data', '/")


def test_command_takes_the_place_of_script_in_known_environment(lab: StagedWorkspace, project: Path) -> None:
    known = lab.add_environment("torch", "7")
    (project / "environment.yml").write_text("not: [valid")
    known_alone = 'aml_environment_name="torch:7", pip_extra_index_url="https://index.example"'
    call = f"""{CLUSTER}, {known_alone}, entry_script="gone.py",
        entry_command="cd lab && torchrun --nproc_per_node 2 train.py" """
    send(write_script(project, "send.py", call, HERE), "--lr", "a b")
    job = job_of(lab)
    assert job["environmentId"] == known
    assert job["command"] == "cd lab && torchrun --nproc_per_node 2 train.py --lr 'a b'"
    assert (job["experimentName"], job.get("distribution"), job["services"]) == (
        "train",
        None,
        {"vscode": {"jobServiceType": "VSCode"}},
    )


def started(script: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `python SCRIPT --azureml`. Packages other than himl may print warnings."""
    return subprocess.run(
        [sys.executable, str(script), "--azureml", *arguments], cwd=cwd or script.parent, capture_output=True, text=True
    )


@pytest.mark.large("imports azure-ai-ml")
def test_objects_of_the_sdk_are_taken(lab: StagedWorkspace, project: Path) -> None:
    """The script passes a BuildContext and a client that selects the workspace. It can continue with the SDK's job."""
    write_files(project, {"image/Dockerfile.gpu": "FROM python:3.11\n"})
    (project / "config.json").unlink()
    state = lab.state
    client = (
        f"ml_client=MLClient(DefaultAzureCredential(), {state.subscription!r}, {state.group!r}, "
        f"{state.name!r}), exit_on_completion=False"
    )
    told = (
        "type(job).__name__, job.name, job.experiment_name, type(given).__name__, given.workspace_name, "
        "given.jobs.get(job.name).name"
    )
    after = f"after_submission=lambda job, given: print('AFTER', {told})"
    call = f'{CLUSTER}, build_context=BuildContext(path="image", dockerfile_path="Dockerfile.gpu"), {client}, {after}'
    script = write_script(
        project, "train.py", call, "print('GOES ON', type(info).__module__.split('.')[:3], info.name)"
    )
    imports = (
        "from azure.ai.ml import MLClient\nfrom azure.ai.ml.entities import BuildContext\n"
        "from azure.identity import DefaultAzureCredential\n"
    )
    script.write_text(imports + script.read_text())
    done = started(script)
    assert done.returncode == 0, done.stderr
    run_id = sent(lab).run_id
    said = (f"AFTER Command {run_id} train MLClient {state.name} {run_id}", f"GOES ON ['azure', 'ai', 'ml'] {run_id}")
    assert [text for text in said if text not in done.stdout] == []
    name, version = job_of(lab)["environmentId"].rpartition("/environments/")[2].split("/versions/")
    environment = lab.state.assets["environments"][name][version]
    assert (environment["build"]["dockerfilePath"], environment["condaFile"]) == ("Dockerfile.gpu", None)


def test_module_and_named_folder_above_repository_are_sent(lab: StagedWorkspace, project: Path) -> None:
    write_files(project, {"repo/.git/HEAD": "", "other/a.txt": ""})
    done = run_script(write_script(project / "repo", "train.py", CLUSTER, HERE), "--azureml", cwd=project)
    assert (done.returncode != 0, f"snapshot_root_directory {project / 'repo'}" in done.stderr, lab.state.runs) == (
        True,
        True,
        {},
    )
    send(write_script(project / "repo", "train.py", f'{CLUSTER}, snapshot_root_directory="."', HERE), cwd=project)
    assert len(lab.state.runs) == 1
    lab.state.runs.clear()
    write_files(project, {"lab/__init__.py": ""})
    write_script(project / "lab", "train.py", CLUSTER, HERE)
    sent_module = subprocess.run(
        [sys.executable, "-m", "lab.train", "--azureml", "-n", "3"], cwd=project, capture_output=True, text=True
    )
    assert sent_module.returncode == 0, sent_module.stderr
    assert job_of(lab)["command"] == "python -m lab.train -n 3"


def test_parent_is_sent_with_conda_file_above_current_folder(lab: StagedWorkspace, project: Path) -> None:
    write_files(
        project,
        {
            "lib/tools.py": "word = 'from a tool'",
            "jobs/train.py": "import sys\nsys.path.append('.')\nfrom lib.tools import word\nprint(word)",
        },
    )
    write_files(
        project, {"deep/x": "", "jobs/environment.yml": "not: [valid", "environment.yml": CONDA.replace("3.11", "3.12")}
    )
    call = f'{CLUSTER}, snapshot_root_directory=Path("..").resolve(), entry_script="jobs/train.py"'
    with lab.run_jobs():
        send(write_script(project / "jobs", "send.py", call, HERE), cwd=project / "deep")
        lab.wait_for(sent(lab).run_id, "Completed")
    assert "python=3.12" in json.dumps(lab.state.assets["environments"])
    assert job_of(lab)["command"] == "python jobs/train.py"
    assert "from a tool" in lab.logs(sent(lab).run_id)


WRONG = {
    "": "compute_cluster_name must be an Azure ML cluster",
    f"{CLUSTER}, hyperdrive_config=object()": "hyperdrive_config must be a HyperDriveConfig, not object",
    f"{CLUSTER}, hyperparam_args=dict(a=1)": "hyperparam_args: unknown key 'a'",
    f'{CLUSTER}, max_run_duration="soon"': "'soon' is not a duration",
    f'{CLUSTER}, docker_shm_size="big"': "docker_shm_size 'big' is not a size",
    f'{CLUSTER}, conda_environment_file="none.yml"': "none.yml",
    f'{CLUSTER}, private_pip_wheel_path="none.whl"': "none.whl",
    f'{CLUSTER}, snapshot_root_directory="none"': "snapshot_root_directory",
    f'{CLUSTER}, entry_script="none.py"': "none.py",
    f'{CLUSTER}, input_datasets=[""]': "The name of a dataset must not be empty",
    f"{CLUSTER}, pytorch_processes_per_node_v2=0": "pytorch_processes_per_node_v2 must be at least 1, not 0",
    f"{CLUSTER}, pytorch_processes_per_node_v2=10**30": "pytorch_processes_per_node_v2 must be at most 1,024",
    f"{CLUSTER}, pytorch_processes_per_node_v2=2.5": (
        "pytorch_processes_per_node_v2 must be a positive integer, not 2.5"
    ),
    f"{CLUSTER}, num_nodes=65_001": "num_nodes must be at most 65,000",
    f'{CLUSTER}, ssh_key="config.json"': "ssh_key 'config.json' is not a public SSH key",
    f'{CLUSTER}, ssh_key="~/.ssh/none.pub"': "ssh_key '~/.ssh/none.pub' is neither a public key nor a readable file",
    f"{CLUSTER}, build_context=object()": "build_context must be a folder or a BuildContext, not object",
    f'{CLUSTER}, build_context="none"': "build_context 'none' is not a folder",
    f'{CLUSTER}, build_context=".", conda_environment_file="environment.yml"': (
        "build_context and conda_environment_file cannot be combined"
    ),
    f'{CLUSTER}, entry_command=" "': "entry_command got an empty value",
}


def test_arguments_that_cannot_be_used_are_value_errors(lab: StagedWorkspace, project: Path) -> None:
    script = project / "train.py"
    texts = [write_script(project, "train.py", call, HERE).read_text() for call in WRONG]
    script.write_text(
        f"for text in {texts!r}:\n    try:\n        exec(text)\n    except ValueError as err:\n"
        "        print('VALUE', err)\n"
    )
    done = run_script(script, "--azureml")
    lines = done.stdout.splitlines()
    assert (len(lines), "--" in done.stdout.replace("--azureml", "")) == (len(WRONG), False), done.stdout + done.stderr
    assert [
        said
        for said, line in zip(WRONG.values(), lines, strict=True)
        if not line.startswith("VALUE") or said not in line
    ] == []
    assert lab.requests() == []


@shows_hints
def test_notebooks_prompts_and_caught_errors_are_as_in_python(lab: StagedWorkspace, project: Path) -> None:
    script = write_script(project, "train.py", "", HERE)
    script.write_text(
        f"import traceback\ntry:\n    exec({script.read_text()!r})\nexcept ValueError:\n"
        "    print(traceback.format_exc())\n"
    )
    assert (
        run_script(script, "--azureml").stdout.rstrip().splitlines()[-1] == "To run the script locally, omit --azureml."
    )
    script = write_script(project, "train.py", 'compute_cluster_name="gpu"', HERE)
    caught = (
        f"from himl_cli.core.errors import NotFound\ntry:\n    exec({script.read_text()!r})\nexcept NotFound as err:\n"
    )
    script.write_text(f"{caught}    print('NOT FOUND')\n    raise RuntimeError('mine') from err\n")
    done = run_script(script, "--azureml")
    assert (done.returncode, done.stdout) == (1, "NOT FOUND\n")
    assert done.stderr.count("Traceback (most recent call last)") > 1
    assert done.stderr.rstrip().endswith("RuntimeError: mine")
    write_script(project, "train.py", 'compute_cluster_name="gpu"', HERE)
    done = subprocess.run(
        [sys.executable, "-i", str(script), "--azureml"],
        cwd=project,
        input="print('still', 'here')\n",
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (0, "still here\n", False)


def test_workspace_and_environment_have_to_be_said(project: Path, request: pytest.FixtureRequest) -> None:
    script = write_script(project, "train.py", CLUSTER, HERE)
    done = run_script(script, "--azureml")
    assert (done.returncode, "No Azure ML workspace is given or configured." in done.stderr) == (2, True)
    assert [path.name for path in project.iterdir()] == ["train.py"]
    lab: StagedWorkspace = request.getfixturevalue("lab")
    (project / "environment.yml").unlink()
    done = run_script(script, "--azureml")
    assert (
        done.returncode,
        "environment.yml" in done.stderr,
        "conda_environment_file" in done.stderr,
        "--conda_env" in done.stderr,
    ) == (2, True, True, False)
    assert lab.requests() == []


def test_unknown_cluster_is_one_line_error_with_exit_code_3(lab: StagedWorkspace, project: Path) -> None:
    done = run_script(write_script(project, "train.py", 'compute_cluster_name="gpu"', HERE), "--azureml")
    snapshot, error = done.stderr.splitlines()
    assert (done.returncode, done.stdout, snapshot[:11]) == (3, "", "Snapshot of")
    assert error.startswith("error: ")
    assert "'gpu'" in error
    assert "cpu-cluster" in error
    assert lab.state.runs == {}


def test_waiting_for_a_run_that_fails_raises(lab: StagedWorkspace, project: Path) -> None:
    call = f"{CLUSTER}, wait_for_completion=True, wait_for_completion_show_output='shown' in sys.argv"
    (project.parent / "shared_parts.py").touch()
    script = write_script(project, "train.py", call, "print('bad luck')\nimport shared_parts")
    catching = project / "catching.py"
    text = (
        f"import sys\nsys.argv[0] = 'train.py'\ntry:\n    exec(open({str(script)!r}).read())\n"
        "except ValueError as err:\n    print('caught', err)\n"
    )
    catching.write_text(text)
    with lab.run_jobs():
        done = run_script(script, "--azureml", "shown")
        run_id = sent(lab).run_id
        caught = run_script(catching, "--azureml")
    assert (done.returncode, "bad luck" in done.stdout + done.stderr) == (1, True)
    assert f"\nerror: Run '{run_id}' failed" in done.stderr
    assert "add --snapshot_root .." in done.stderr, "the hint of himl submit"
    assert "caught Run '" in caught.stdout


@pytest.mark.large("starts a script to interrupt it")
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_while_waiting_leaves_the_run_alone(lab: StagedWorkspace, project: Path) -> None:
    script = write_script(project, "train.py", f"{CLUSTER}, wait_for_completion=True", HERE)
    with lab.run_jobs(hold=True):
        process = subprocess.Popen(
            [sys.executable, str(script), "--azureml"],
            cwd=project,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        assert process.stderr is not None
        for line in process.stderr:
            if "is queued" in line:
                break
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=100)
        assert process.returncode == 130, said
        assert f"Stopped following run '{run_id}'. The run continues. To cancel it: himl runs cancel {run_id}" in said
        assert sent(lab).status == "Queued"


@pytest.mark.skipif(importlib.util.find_spec("azureml") is not None, reason="azureml-core is installed here")
def test_without_the_extra_one_line_says_how_to_get_it(v1_lab: StagedWorkspace, project: Path) -> None:
    done = run_script(
        write_script(project, "train.py", 'compute_cluster_name="cpu-cluster", strictly_aml_v1=True', "say()"),
        "--azureml",
    )
    assert done.returncode == 2
    assert f"Install it: {install_command('v1')}" in done.stderr
    assert v1_lab.requests() == []


OF_THE_SDK = """
from azureml.core import Environment, ScriptRunConfig
from azureml.core.conda_dependencies import CondaDependencies
from azureml.core.runconfig import DockerConfiguration, PyTorchConfiguration
from himl_cli import get_workspace, submit_run

plain, known = Environment("mine"), Environment("torch")
plain.docker.base_image = "mcr.microsoft.com/azureml/other:1"
plain.python.conda_dependencies = CondaDependencies.create(python_version="3.11", pip_packages=["numpy"])
plain.environment_variables = {}
known.version = "7"
docker = DockerConfiguration(True, shm_size="4g")
config = ScriptRunConfig("lab", "train.py", ["--lr", 0.1], compute_target="cpu-cluster", environment=plain,
    docker_runtime_config=docker)
config.run_config.environment_variables = {"A": "b"}
torch = PyTorchConfiguration(process_count=4, node_count=2)
several = ScriptRunConfig("lab", "train.py", compute_target="cpu-cluster", environment=known,
    distributed_job_config=torch)
command = ScriptRunConfig("lab", command=["python", "-c", "print(1)"], compute_target="cpu-cluster", environment=known)
for each in (config, several, command):
    print("FOUND", submit_run(get_workspace(), "sdk", each).id)
try:
    submit_run(get_workspace(), "sdk", ScriptRunConfig("lab", "train.py"))
except ValueError as err:
    print("FOUND", err)
"""


# The first use of a client builds its environment.
@pytest.mark.timeout(1800)
def test_v1_submission_returns_sdk_run_and_passes_data(v1_lab: StagedWorkspace, project: Path) -> None:
    v1_lab.put_blob("workspaceblobstore", "faces/1.txt", b"smile")
    v1_lab.add_environment("torch", "7")
    call = """compute_cluster_name="cpu-cluster", strictly_aml_v1=True, wait_for_completion=True,
        input_datasets=["faces"], output_datasets=["made"],
        default_datastore="workspaceblobstore", tags={"team": "blue"},
        after_submission=lambda run: print(
            "AFTER", sorted(each.__module__ for each in type(run).__mro__ if each.__name__ == "Run"), run.id
        )"""
    after = """
(info.output_datasets[0] / "copy.txt").write_text((info.input_datasets[0] / "1.txt").read_text())
heavy = sorted({"azure", "azureml", "yaml", "pycurl", "requests"} & set(sys.modules))
(info.output_folder / "said.json").write_text(json.dumps([info.is_running_in_azure_ml, heavy]))
"""
    script = write_script(project, "train.py", call, after)
    with v1_lab.run_jobs():
        done = subprocess.run(
            [str(client_python(HIML_V1)), str(script), "--azureml"], cwd=project, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    (run,) = v1_lab.state.runs.values()
    variables = (run.job or {})["environmentVariables"]
    assert DEFAULT_ENVIRONMENT_VARIABLES.items() <= variables.items()
    assert f"AFTER ['azureml.core.run'] {run.run_id}" in done.stdout
    assert run.tags["team"] == "blue"
    assert json.loads(v1_lab.artifacts(run.run_id)["outputs/said.json"]) == [True, []]
    made = [name for name in v1_lab.blob_names("workspaceblobstore") if name.endswith("copy.txt")]
    assert [v1_lab.get_blob("workspaceblobstore", name) for name in made] == [b"smile"]
    write_files(project, {"send.py": OF_THE_SDK, "lab/train.py": ""})
    done = subprocess.run([str(client_python(HIML_V1)), "send.py"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plain, known, command, refused = [
        line.partition(" ")[2] for line in done.stdout.splitlines() if line.startswith("FOUND")
    ]
    job = v1_lab.state.runs[plain].job or {}
    assert (job["command"], job["environmentVariables"], job["resources"]["shmSize"]) == (
        "python train.py --lr 0.1",
        {"A": "b"},
        "4g",
    )
    name, version = job["environmentId"].rpartition("/environments/")[2].split("/versions/")
    environment = v1_lab.state.assets["environments"][name][version]
    assert (environment["image"], "numpy" in environment["condaFile"]) == ("mcr.microsoft.com/azureml/other:1", True)
    job = v1_lab.state.runs[known].job or {}
    assert job["environmentId"].endswith("/environments/torch/versions/7")
    assert (job["distribution"], job["resources"]["instanceCount"]) == (
        {"distributionType": "PyTorch", "processCountPerInstance": 2},
        2,
    )
    assert (v1_lab.state.runs[command].job or {})["command"] == "python -c 'print(1)'"
    assert refused == "run_config has no cluster."


OUTSIDE = """
say(inputs=info.input_datasets, outputs=info.output_datasets, run=info.run, azure=info.is_running_in_azure_ml,
    out=info.output_folder, logs=info.logs_folder)
"""


def test_folders_and_datastores_here_are_used(project: Path, tmp_path: Path) -> None:
    script = write_script(project, "train.py", 'compute_cluster_name="gpu"', OUTSIDE)
    folders = {"out": str(project / "outputs"), "logs": str(project / "logs")}
    assert said(script) == {"inputs": [], "outputs": [], "run": None, "azure": False, **folders}
    assert sorted(path.name for path in project.iterdir()) == ["logs", "outputs", "train.py"]
    write_script(
        project,
        "train.py",
        'environment_variables={"A": 1, "MKL_SERVICE_FORCE_INTEL": "0"}',
        "import os; say(**os.environ)",
    )
    assert {**DEFAULT_ENVIRONMENT_VARIABLES, "A": "1", "MKL_SERVICE_FORCE_INTEL": "0"}.items() <= said(
        script, env={"A": "other"}
    ).items()
    call = f"""input_datasets=[DatasetConfig("a", local_folder="data"), "b", DatasetConfig("c", local_folder="none")],
        output_datasets=[DatasetConfig("b", local_folder={str(tmp_path / "made" / "b")!r}), "c"]"""
    (project / "data").mkdir()
    done = run_script(write_script(project, "train.py", call, OUTSIDE))
    told = json.loads(done.stdout)
    assert (told["inputs"], told["outputs"]) == (
        [str(project / "data"), None, str(project / "none")],
        [str(tmp_path / "made" / "b"), None],
    )
    assert (tmp_path / "made" / "b").is_dir()
    assert f"its local_folder '{project / 'none'}' does not exist" in done.stderr
    stores = project / ".himl" / "datastores"
    write_files(stores, {"local/a/x": "1", "big/b/x": "2"})
    call = (
        'default_datastore="other", input_datasets=["a", DatasetConfig("b", datastore="big"), "b", '
        '"../local/a"], output_datasets=["c"]'
    )
    (project / "deep").mkdir()
    found = said(write_script(project / "deep", "train.py", call, OUTSIDE))
    assert found["inputs"] == [str(stores / "local" / "a"), str(stores / "big" / "b"), None, None]
    assert found["outputs"] == [str(stores / "local" / "c")]
    assert (stores / "local" / "c").is_dir()


def test_without_flag_nothing_is_sent_and_wrong_folders_are_said(project: Path) -> None:
    cases: dict[str, list[str]] = {
        "submit_to_azureml=False": ["--azureml"],
        'script_params=["--azureml"]': ["--AZUREML", "azureml"],
    }
    for call, arguments in cases.items():
        found = said(write_script(project, "train.py", call, "say(arguments=sys.argv[1:])"), *arguments)
        assert found == {"arguments": arguments}
    write_files(project / ".himl" / "datastores" / "local", {"c/x": "1"})
    done = run_script(
        write_script(
            project, "train.py", 'output_datasets=[DatasetConfig("c", overwrite_existing=False)]', "say(came=True)"
        )
    )
    assert (done.returncode, done.stdout, "exists, and overwrite_existing is False" in done.stderr) == (1, "", True)
    (project / "outputs").rmdir()
    (project / "outputs").write_text("a file")
    done = run_script(write_script(project, "train.py", "", "say(came=True)"))
    assert [text for text in ("Cannot create the folder", "DiskFailed") if text not in done.stderr] == []


READ = (
    "say(found=[folder and {path.name: path.read_text() for path in folder.iterdir() if path.is_file()} for "
    "folder in info.input_datasets])"
)


@pytest.fixture
def data_lab(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """A workspace with two versions of a dataset and a folder of files. The project has its config.json."""
    azure_environment.put_blobs("workspaceblobstore", {"v1/a.txt": b"one", "v2/a.txt": b"two", "faces/b.txt": b"b"})
    for version in ("1", "2"):
        azure_environment.add_data("digits", f"azureml://datastores/workspaceblobstore/paths/v{version}/", version)
    azure_environment.write_config(project)
    return azure_environment


def test_dataset_is_downloaded_once_where_it_is_wanted(
    data_lab: StagedWorkspace, project: Path, tmp_path: Path
) -> None:
    target = tmp_path / "mnist"
    given = (
        '"digits", DatasetConfig("digits", version=1), "faces", DatasetConfig("digits", '
        f"target_folder={str(target)!r}, use_mounting=True)"
    )
    script = write_script(project, "train.py", f'input_datasets=[{given}], output_datasets=["made"]', READ)
    done = run_script(script)
    assert json.loads(done.stdout) == {"found": [{"a.txt": "two"}, {"a.txt": "one"}, {"b.txt": "b"}, {"a.txt": "two"}]}
    assert (target / "a.txt").read_text() == "two"
    assert "because it cannot mount it on this machine" in done.stderr
    fetches = data_lab.requests(r"GET .*/v2/a\.txt")
    assert said(script)["found"][0] == {"a.txt": "two"}
    assert data_lab.requests(r"GET .*/v2/a\.txt") == fetches


def test_dataset_here_costs_no_request_and_unknown_has_no_path(data_lab: StagedWorkspace, project: Path) -> None:
    write_files(project, {"own/a.txt": "mine", ".himl/datastores/local/faces/b.txt": "kept"})
    call = 'input_datasets=[DatasetConfig("digits", local_folder="own"), "faces"]'
    assert said(write_script(project, "train.py", call, READ)) == {"found": [{"a.txt": "mine"}, {"b.txt": "kept"}]}
    assert data_lab.requests() == []
    script = write_script(project, "train.py", 'input_datasets=["nothing"]', READ)
    done = run_script(script)
    assert (json.loads(done.stdout), "The path of dataset 'nothing' is None." in done.stderr) == (
        {"found": [None]},
        True,
    )
    refused = run_script(script, env={"HIML_SERVICE_PRINCIPAL_PASSWORD": "wrong"})
    assert (refused.returncode, "NotAllowed" in refused.stderr) == (1, True)
    unknown = run_script(write_script(project, "train.py", 'input_datasets=[DatasetConfig("digits", version=9)]', READ))
    assert (unknown.returncode, "NotFound" in unknown.stderr, "version '9'" in unknown.stderr) == (1, True, True), (
        unknown.stderr
    )


def test_self_started_ranks_reuse_downloaded_datasets(data_lab: StagedWorkspace, project: Path) -> None:
    """As in PyTorch Lightning, rank 0 makes the call before it starts the other ranks."""
    start = "subprocess.run([sys.executable, *sys.argv], env={**os.environ, 'LOCAL_RANK': '1'}, check=True)"
    again = f"import os, subprocess\nif 'LOCAL_RANK' not in os.environ:\n    {start}\n"
    done = run_script(write_script(project, "train.py", 'input_datasets=["faces"]', f"{again}{READ}"))
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"found": [{"b.txt": "b"}]}] * 2
    assert len(data_lab.requests(r"GET .*/faces/b\.txt")) == 1


HEAVY = ("azure", "azureml", "yaml", "pycurl", "requests", "msgspec", "rich", "typer", "mlflow", "msal", "pathspec")
CALL = (
    'compute_cluster_name="gpu", input_datasets=["a", DatasetConfig("b", local_folder="here")], '
    'output_datasets=["c"], submit_to_azureml=True'
)
ALL = """
say(
    inputs=info.input_datasets, outputs=info.output_datasets, azure=info.is_running_in_azure_ml,
        out=info.output_folder, logs=info.logs_folder,
    has_run=info.run is not None, heavy=sorted({name.split(".")[0] for name in sys.modules} & set(HEAVY)),
        cwd=Path.cwd(), made=Path("outputs").is_dir(),
)
""".replace("HEAVY", repr(HEAVY))


@pytest.fixture
def job(azure: StagedWorkspace) -> dict[str, str]:
    run = azure.add_run("train_1_aa", "train", status="Running")
    data = {
        "AZURE_ML_INPUT_INPUT_0": "/data/a",
        "AZURE_ML_INPUT_INPUT_1": "/data/b",
        "AZURE_ML_OUTPUT_OUTPUT_0": "/data/c",
    }
    return azure.job_environment(run) | data


def test_job_gets_own_paths_and_arguments_at_no_cost(
    azure: StagedWorkspace, job: dict[str, str], project: Path
) -> None:
    found = said(write_script(project, "train.py", CALL, ALL), env={**job, "HIML_TEST_START": "1"})
    paths = {
        "inputs": ["/data/a", "/data/b"],
        "outputs": ["/data/c"],
        "out": f"{project}/outputs",
        "logs": f"{project}/logs",
        "cwd": str(project),
    }
    assert found == {**paths, "azure": True, "has_run": True, "heavy": [], "made": True}
    assert azure.requests() == []
    torch = "[os.environ.get(name) for name in ('MASTER_ADDR', 'MASTER_PORT', 'NODE_RANK')]"
    after = f"import os\nsay(inputs=info.input_datasets, arguments=sys.argv[1:], torch={torch})"
    script = write_script(project, "train.py", 'input_datasets=["a", "b", "extra"], num_nodes=2', after)
    done = run_script(
        script,
        "--azureml",
        "--epochs",
        "3",
        env={**job, "AZ_BATCH_MASTER_NODE": "10.0.0.4:6000", "OMPI_COMM_WORLD_RANK": "1"},
    )
    given = json.loads(done.stdout)
    assert (given["inputs"], given["arguments"], given["torch"]) == (
        ["/data/a", "/data/b", None],
        ["--epochs", "3"],
        ["10.0.0.4", "6000", "1"],
    )
    assert "has no input dataset 'extra'" in done.stderr
    for name in ("AZUREML_DATAREFERENCE_INPUT_0", "INPUT_0"):  # the older SDK's names
        assert said(script, env={**job, "AZURE_ML_INPUT_INPUT_0": "", name: "/v1/a"})["inputs"][0] == "/v1/a"


def test_a_job_of_amulet_keeps_its_output_folder(job: dict[str, str], project: Path, tmp_path: Path) -> None:
    told = (
        "import os\nsay(outputs=info.output_folder, logs=info.logs_folder, rank=os.environ.get('RANK'), "
        "overall=os.environ.get('GLOBAL_RANK'))"
    )
    script, kept = write_script(project, "train.py", CLUSTER, told), tmp_path / "amlt"
    variables = {**job, "AMLT_OUTPUT_DIR": str(kept), "RANK": "3"}
    found = {"outputs": str(kept), "logs": str(kept / "logs"), "rank": None, "overall": "3"}
    assert said(script, env=variables) == found
    assert said(script, env={**variables, "LOCAL_RANK": "1"}) == {**found, "rank": "3", "overall": None}
    assert (kept / "logs").is_dir()


def test_datasets_are_found_by_all_service_variable_names(job: dict[str, str], project: Path) -> None:
    """himl reads the exact key first, then the key in upper case, then the older SDK's. It ignores unrelated
    variables.
    """
    (project / "look.py").write_text(
        "import json\nfrom himl_cli.job import inputs, outputs\n"
        "found = [str(inputs().get(key)) for key in ('seen', 'Mixed', 'referred', 'old', 'older', 'HOME', 'LANG')]\n"
        "print(json.dumps({'found': found, 'inputs': list(inputs()), 'outputs': {key: str(path) for key, "
        "path in outputs().items()}}))\n"
    )
    variables = {
        "AZURE_ML_INPUT_seen": "/exact",
        "AZURE_ML_INPUT_SEEN": "/upper",
        "AZURE_ML_INPUT_MIXED": "/mixed",
        "AZUREML_DATAREFERENCE_referred": "/referred",
        "AZUREML_DATASET_ENVIRONMENT_VARS": "old:mount,older:download",
        "old": "/old",
        "older": "/older",
        "LANG": "C",
        "AZUREML_DATASET_FILE_OUTPUTS": "made;more/",
        "made": "/made",
        "more": "/more",
    }
    found = said(project / "look.py", env=job | variables)
    assert found["found"] == ["/exact", "/mixed", "/referred", "/old", "/older", "None", "None"]
    assert found["inputs"] == ["INPUT_0", "INPUT_1", "MIXED", "old", "older", "seen"]
    assert found["outputs"] == {"OUTPUT_0": "/data/c", "made": "/made", "more": "/more"}


PARSED = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
say(epochs=parser.parse_args().epochs, arguments=sys.argv[1:])
"""


def test_job_here_has_its_paths_and_does_not_send_itself(
    himl: Himl, job: dict[str, str], project: Path, tmp_path: Path
) -> None:
    """As in hi-ml, a script's parser need not define --azureml. Files in the output folders are saved with the run."""
    write_files(project, {"data/a/x": "1"})
    after = f"{PARSED}\nimport os\nos.chdir('/')\nassert (os.environ['A'], os.environ['B']) == ('mine', '2')\n"
    after += (
        f"(info.output_folder / 'model.txt').write_text('m')\n(info.logs_folder / 'log.txt').write_text('l')\n{ALL}"
    )
    after += f"import himl_cli\nassert himl_cli.get_workspace().opened.folder == Path({str(project / '.himl')!r})\n"
    write_script(
        project, "train.py", CALL.replace(", submit_to_azureml=True", ", environment_variables={'A': 1, 'B': 2}"), after
    )
    options = ("--input", "a,local=data/a", "--output", f"c,local={project / 'made'}", "--env_var", "A=mine")
    out = himl.ok("submit", "train.py", *options, "--", "--epochs", "3", "--azureml").stdout
    assert "The script already runs in a job of himl, so himl does not submit it to Azure ML." in out
    parsed, found = map(json.loads, out.splitlines()[-2:])
    assert parsed == {"epochs": 3, "arguments": ["--epochs", "3"]}
    assert found["inputs"] == [str(project / "data" / "a"), None]
    assert (found["outputs"], found["azure"], found["has_run"], found["heavy"]) == (
        [str(project / "made")],
        False,
        True,
        [],
    )
    code = project / ".himl" / "runs" / himl.ok("runs", "list", "-q").stdout.strip() / "code"
    assert (found["out"], found["logs"]) == (str(code / "outputs"), str(code / "logs"))
    himl.ok("download", "latest", "--flat", "--output_dir", tmp_path / "got")
    assert [(tmp_path / "got" / name).read_text() for name in ("outputs/model.txt", "logs/log.txt")] == ["m", "l"]
    (project / "look.py").write_text(
        "import himl_cli; himl_cli.RUN_CONTEXT.log('a', 1); print(himl_cli.is_running_in_azure_ml())"
    )
    assert himl.ok("submit", "look.py", "--workspace", "local", env=job).stdout == "False\n"
    assert [
        metric["name"] for metric in himl.ok("runs", "show", "--workspace", "local", "--json").json()["metrics"]
    ] == ["a"]


def test_data_by_its_keys(himl: Himl, project: Path) -> None:
    write_files(project, {"data/x": "1"})
    script = project / "look.py"
    script.write_text(
        'from himl_cli.job import inputs, outputs\nprint(len(inputs()), dict(outputs()))\ninputs()["a"]\n'
    )
    done = run_script(script)
    assert (done.stdout, "No input 'a'. There are: none." in done.stderr) == ("0 {}\n", True)
    script.write_text(
        "from himl_cli.job import inputs, outputs\n"
        "print(sorted(inputs()), sorted(outputs()), len(inputs()), 'b' in inputs(), (inputs()['a'] / "
        "'x').read_text(), outputs().get('d'))\n"
        "(outputs()['c'] / 'y').write_text('2')\n"
        "inputs()['b']\n"
    )
    found = himl("submit", "look.py", "--input", "a=n,local=data", "--output", f"c=n,local={project / 'made'}")
    assert "['a'] ['c'] 1 False 1 None" in found.stdout
    assert "NoSuchData: No input 'b'. There are: a." in found.stdout
    assert (project / "made" / "y").read_text() == "2"
