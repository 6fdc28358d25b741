"""A script that sends itself to Azure ML: what is sent, and what is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.api.ranks import local_ranks
from tests.api.scripts import run_script, write_script
from tests.api.sent_scripts import CLUSTER, CONDA, HERE, job_of, send, sent
from tests.api.sent_scripts import lab as lab
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import write_files

LIST = "print(sorted(path.as_posix() for path in Path('.').rglob('*') if path.is_file()), sys.argv)"


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


def test_the_variable_of_the_experiment_goes_before_the_argument(lab: StagedWorkspace, project: Path) -> None:
    send(write_script(project, "train.py", f'{CLUSTER}, experiment_name="mine"', HERE), env={"HIML_EXPERIMENT_NAME": "night__ly-2"})
    assert sent(lab).experiment.name == "night_ly-2"


def test_a_dataset_with_a_name_of_its_own_is_found_by_it(lab: StagedWorkspace, project: Path) -> None:
    lab.put_blob("workspaceblobstore", "faces/1.png", b"1")
    call = f'{CLUSTER}, input_datasets=[DatasetConfig("faces", data_name="images")], output_datasets=[DatasetConfig("made", data_name="masks")]'
    read = "print((info.input_datasets[0] / '1.png').read_text(), info.output_datasets[0].is_dir(), sys.argv[1:])"
    with lab.run_jobs():
        send(write_script(project, "train.py", call, read), "--data", "${{inputs.images}}")
        run = lab.wait_for(sent(lab).run_id, "Completed")
    assert {*job_of(lab)["inputs"]} == {"images"}
    assert "masks" in job_of(lab)["outputs"]
    log = lab.logs(run.run_id)
    assert "1 True ['--data', '/" in log


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


def test_a_plain_job_is_sent_without_mpi_unless_that_is_wanted(lab: StagedWorkspace, project: Path) -> None:
    send(write_script(project, "first.py", f"{CLUSTER}, use_mpi_run_for_single_node_jobs=True", HERE))
    send(write_script(project, "second.py", CLUSTER, HERE))
    kinds = {run.experiment.name: (run.job or {}).get("distribution") for run in lab.state.runs.values()}
    assert kinds["first"] is not None
    assert kinds["first"]["distributionType"] == "Mpi"
    assert kinds["second"] is None


def test_services_and_resources_reach_the_job(lab: StagedWorkspace, project: Path) -> None:
    (project / "id.pub").write_text("ssh-ed25519 AAAAC3Nz ada@lab\n")
    call = (
        f"""{CLUSTER}, instance_type="gpu-large", resources_properties={{"priority": "high"}}, jupyter=True, ssh_key="id.pub", tensorboard_logs=Path("logs")"""
    )
    send(write_script(project, "train.py", call, HERE))
    job = job_of(lab)
    assert (job["resources"]["instanceType"], job["resources"]["properties"]) == ("gpu-large", {"priority": "high"})
    assert {name: service["jobServiceType"] for name, service in job["services"].items()} == {
        "vscode": "VSCode",
        "jupyterlab": "JupyterLab",
        "tensorboard": "TensorBoard",
        "ssh": "SSH",
    }
    assert job["services"]["tensorboard"]["properties"] == {"logDir": "logs"}
    assert job["services"]["ssh"]["properties"] == {"sshPublicKeys": "ssh-ed25519 AAAAC3Nz ada@lab"}


def test_vs_code_may_connect_unless_that_is_not_wanted(lab: StagedWorkspace, project: Path) -> None:
    send(write_script(project, "first.py", CLUSTER, HERE))
    send(write_script(project, "second.py", f"{CLUSTER}, vscode=False", HERE))
    services = {run.experiment.name: (run.job or {}).get("services") for run in lab.state.runs.values()}
    assert services == {"first": {"vscode": {"jobServiceType": "VSCode"}}, "second": None}


def test_a_command_takes_the_place_of_the_script(lab: StagedWorkspace, project: Path) -> None:
    call = f"""{CLUSTER}, entry_script="gone.py", entry_command="cd lab && torchrun --nproc_per_node 2 train.py" """
    send(write_script(project, "send.py", call, HERE), "--lr", "a b")
    job = job_of(lab)
    assert job["command"] == "cd lab && torchrun --nproc_per_node 2 train.py --lr 'a b'"
    assert job["experimentName"] == "train"


def test_another_program_starts_the_script(lab: StagedWorkspace, project: Path) -> None:
    send(write_script(project, "train.py", f'{CLUSTER}, python_executable="uv run"', HERE), "--lr", "1")
    assert job_of(lab)["command"] == "uv run train.py --lr 1"


def test_the_prefix_of_hyperparameters_is_theirs(lab: StagedWorkspace, project: Path) -> None:
    args = '{"parameter_sampling": {"lr": [0.1, 0.01]}}'
    send(write_script(project, "train.py", f'{CLUSTER}, hyperparam_args={args}, hyperdrive_argument_prefix="+"', HERE))
    assert job_of(lab)["trial"]["command"] == "python train.py +lr=${{search_space.lr}}"


def test_the_image_is_built_from_the_sdks_build_context(lab: StagedWorkspace, project: Path) -> None:
    write_files(project, {"image/Dockerfile.gpu": "FROM python:3.11\n"})
    script = write_script(project, "train.py", f'{CLUSTER}, build_context=BuildContext(path="image", dockerfile_path="Dockerfile.gpu")', HERE)
    script.write_text(f"from azure.ai.ml.entities import BuildContext\n{script.read_text()}")
    done = subprocess.run([sys.executable, str(script), "--azureml"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name, version = job_of(lab)["environmentId"].rpartition("/environments/")[2].split("/versions/")
    assert lab.state.assets["environments"][name][version]["build"]["dockerfilePath"] == "Dockerfile.gpu"
    assert lab.state.assets["environments"][name][version]["condaFile"] is None


def test_the_process_goes_on_with_the_job_where_that_is_wanted(lab: StagedWorkspace, project: Path) -> None:
    after = "print('GOES ON', type(info).__module__.split('.')[:3], info.name)"
    script = write_script(project, "train.py", f"{CLUSTER}, exit_on_completion=False", after)
    done = subprocess.run([sys.executable, str(script), "--azureml"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"GOES ON ['azure', 'ai', 'ml'] {sent(lab).run_id}" in done.stdout


def test_the_current_folder_is_sent_without_ignored_ones(lab: StagedWorkspace, project: Path) -> None:
    write_files(project, {"lib/a.py": "", "big/x.bin": "x", "also/y.bin": "y", "data/raw/z.bin": "z", "outputs/old.txt": "", ".env": "SECRET=1"})
    script = write_script(project, "train.py", rf'{CLUSTER}, ignored_folders=["big", Path("also").absolute(), r"data\raw"]', LIST)
    with lab.run_jobs():
        send(script, "-n", "3")
        lab.wait_for(sent(lab).run_id, "Completed")
    assert "['config.json', 'environment.yml', 'lib/a.py', 'train.py'] ['train.py', '-n', '3']" in lab.logs(sent(lab).run_id)


def test_secrets_stay_here(lab: StagedWorkspace, project: Path) -> None:
    write_files(project, {".netrc": "secret", "lib/server.pem": "-----BEGIN PRIVATE KEY-----"})
    told = "2 files that may hold secrets are left out: '.netrc', 'lib/server.pem'."
    assert told in send(write_script(project, "train.py", CLUSTER, HERE)).stderr


def test_folder_above_repository_is_sent_only_if_named(lab: StagedWorkspace, project: Path) -> None:
    write_files(project, {"repo/.git/HEAD": "", "other/a.txt": ""})
    script = write_script(project / "repo", "train.py", CLUSTER, HERE)
    done = subprocess.run([sys.executable, str(script), "--azureml"], cwd=project, capture_output=True, text=True)
    assert (done.returncode != 0, f"snapshot_root_directory {project / 'repo'}" in done.stderr, lab.state.runs) == (True, True, {})
    named = write_script(project / "repo", "train.py", f'{CLUSTER}, snapshot_root_directory="."', HERE)
    subprocess.run([sys.executable, str(named), "--azureml"], cwd=project, check=True, capture_output=True)
    assert len(lab.state.runs) == 1


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


def test_nearest_conda_file_above_current_folder_is_used(lab: StagedWorkspace, project: Path) -> None:
    (project / "deep").mkdir()
    (project / "scripts").mkdir()
    (project / "scripts" / "environment.yml").write_text("not: [valid")
    (project / "environment.yml").write_text(CONDA.replace("3.11", "3.12"))
    call = f'{CLUSTER}, snapshot_root_directory="..", entry_script="scripts/train.py"'
    write_script(project / "scripts", "train.py", call, HERE)
    send(project / "scripts" / "train.py", cwd=project / "deep")
    assert "python=3.12" in json.dumps(lab.state.assets["environments"])
    assert job_of(lab)["command"] == "python scripts/train.py"
