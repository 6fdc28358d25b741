"""`himl submit --cluster` through the installed program, on the double of Azure ML, which runs the jobs."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import CONDA, SUBMIT, TRAIN
from tests.support.azure import azure_project as azure_project
from tests.support.azure import running as running
from tests.support.folders import files_with
from tests.support.running import Himl, write_files


def test_a_job_goes_its_whole_way(himl: Himl, running: StagedWorkspace, project: Path) -> None:
    """Submitted, followed, shown, its log read, tagged, listed, downloaded."""
    outcome = himl.ok(*SUBMIT, "--follow", "--tag", "team=blue", "--display_name", "First try", "--", "--epochs", "3")
    assert outcome.stdout == "epochs 3 blue\n"
    experiment, run_id = (project / "most_recent_run.txt").read_text().strip().split(":")
    assert experiment == "train"
    assert f"Run {run_id} (experiment train) in {running.label}. Studio: https://ml.azure.com/runs/{run_id}?" in outcome.stderr
    assert not (project / ".himl").exists()
    shown = himl.ok("runs", "show", "--json").json()
    assert (shown["id"], shown["status"], shown["display_name"], shown["tags"]["team"]) == (run_id, "Completed", "First try", "blue")
    assert shown["tags"]["run_recovery_id"] == f"train:{run_id}"
    assert himl.ok("runs", "logs").stdout == "epochs 3 blue\n"
    himl.ok("runs", "tag", run_id, "stage=final")
    assert himl.ok("runs", "list", "--tags", "stage=final", "-q").stdout == f"{run_id}\n"
    himl.ok("download", "--prefix", "outputs")
    assert (project / "outputs" / run_id / "outputs" / "best.txt").read_text() == "0.9"


def test_submit_without_wait_prints_run_experiment_and_url(himl: Himl, azure_project: StagedWorkspace) -> None:
    outcome = himl.ok(*SUBMIT, "--", "--epochs", "3")
    run_id, experiment, studio = outcome.stdout.splitlines()
    assert experiment == "Experiment  train"
    assert studio.startswith(f"Studio      https://ml.azure.com/runs/{run_id}?wsid={azure_project.state.path.replace('resourceGroups', 'resourcegroups')[:20]}")
    assert f"himl runs logs --follow {run_id}" in outcome.stderr
    assert f"himl runs cancel {run_id}" in outcome.stderr
    document = himl.ok(*SUBMIT, "--json", "--", "--epochs", "3").json()
    assert (document["experiment"], document["status"]) == ("train", "Queued")
    assert document["url"].startswith("https://ml.azure.com/runs/")


def test_code_that_did_not_change_is_not_uploaded_again(himl: Himl, azure_project: StagedWorkspace) -> None:
    first = himl.ok(*SUBMIT, "--", "--epochs", "3")
    second = himl.ok(*SUBMIT, "--", "--epochs", "4")
    assert "not uploaded again" not in first.stderr
    assert "Code unchanged since an earlier submit: not uploaded again." in second.stderr
    assert len(azure_project.state.runs) == 2


def test_a_dry_run_shows_the_job_and_asks_nobody(himl: Himl, project: Path) -> None:
    """No workspace is needed; what is a secret is masked, and that is said."""
    write_files(project, {"train.py": TRAIN, "environment.yml": CONDA})
    index = "https://ada:marked-secret@pypi.example.org/simple"
    options = ("--env_var", "API_TOKEN=marked-secret", "--pip_extra_index_url", index, "--dry_run")
    outcome = himl.ok(*SUBMIT, *options, "--", "--epochs", "3", "--password", "marked-secret")
    lines = outcome.stdout.splitlines()
    assert "compute: azureml:cpu-cluster" in lines
    assert "command: python train.py --epochs 3" in outcome.stdout
    assert "marked-secret" not in outcome.stdout + outcome.stderr
    assert "Secrets are shown as ***" in outcome.stderr
    assert himl.ok(*SUBMIT, *options, "--json").json()["job_yaml"].count("compute: azureml:cpu-cluster") == 1
    assert himl.ok("submit", "train.py", "--dry_run", "-q").stdout.count("compute: local") == 1
    assert sorted(path.name for path in project.iterdir()) == ["environment.yml", "train.py"]


def test_a_dry_run_says_that_a_private_wheel_is_not_in_the_text(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": TRAIN, "environment.yml": CONDA})
    with ZipFile(project / "own-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("own-1.0.dist-info/METADATA", "Name: own\nVersion: 1.0\n")
    outcome = himl.ok(*SUBMIT, "--private_wheel", "own-1.0-py3-none-any.whl", "--dry_run")
    assert "'own-1.0-py3-none-any.whl' is put into the image by himl submit" in outcome.stderr


def test_job_secrets_reach_neither_terminal_nor_local_files(himl: Himl, azure_project: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    index = "https://ada:marked-secret@pypi.example.org/simple"
    options = ("--env_var", "API_TOKEN=marked-secret", "--pip_extra_index_url", index, "-v")
    for _ in range(2):  # the second time from what was kept of the first
        outcome = himl.ok(*SUBMIT, *options, "--", "--password", "marked-secret")
        assert "marked-secret" not in outcome.stdout + outcome.stderr
    sent = [(run.job or {})["environmentVariables"]["API_TOKEN"] for run in azure_project.state.runs.values()]
    assert sent == ["marked-secret"] * 2
    assert files_with(tmp_path, "marked-secret") == []
    assert "marked-secret" not in str([run.tags for run in azure_project.state.runs.values()])


def test_several_nodes_and_processes(himl: Himl, running: StagedWorkspace, project: Path) -> None:
    write_files(project, {"train.py": "import os\nprint(*(os.environ[n] for n in ('RANK', 'LOCAL_RANK', 'NODE_RANK', 'WORLD_SIZE')))\n"})
    outcome = himl.ok(*SUBMIT, "--num_nodes", "2", "--processes_per_node", "2", "--follow")
    assert outcome.stdout == "0 0 0 4\n"
    assert himl.ok("runs", "logs", "--file", "std_log_process_3.txt").stdout == "3 1 1 4\n"


def test_what_is_wrong_is_said_before_the_service_is_asked(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    cases = {
        ("--in_place",): "--in_place: that is for jobs that run here",
        ("--python", "python3"): "--python python3: that is for jobs that run here",
        ("--record_in", "azure"): "--record_in azure: that is for jobs that run here",
        ("--shm_size", "lots"): "--shm_size 'lots' is no size",
        ("--environment", "lab:1", "--conda_env", "environment.yml"): "--environment and --conda_env were both given",
        ("--private_wheel", "gone.whl"): "gone.whl",
        ("--conda_env", "gone.yml"): "gone.yml",
        ("--identity", "nobody"): "--identity cannot be 'nobody'",
        ("--display_name", "n" * 300): "Azure ML takes 256",
        ("--workspace", "local"): "has no clusters",
    }
    for options, message in cases.items():
        outcome = himl(*SUBMIT, *options)
        lines = outcome.stderr.strip().splitlines()
        assert (outcome.code, message in lines[0], len(lines)) == (2, True, 2), outcome.stderr
    assert azure_project.requests() == []
    assert sorted(path.name for path in project.iterdir()) == ["config.json", "environment.yml", "train.py"]


def test_a_cluster_that_does_not_exist_names_those_that_do(himl: Himl, azure_project: StagedWorkspace) -> None:
    outcome = himl("submit", "train.py", "--cluster", "gpu")
    assert (outcome.code, outcome.stdout) == (3, "")
    assert "cpu-cluster" in outcome.stderr
    assert "gpu-cluster" in outcome.stderr
    assert not azure_project.requests("^PUT")


def test_submit_to_failed_cluster_warns_but_sends_job(himl: Himl, azure_project: StagedWorkspace) -> None:
    """A cluster that is being deleted is refused."""
    errors = [{"code": "ClusterCoreQuotaReached", "message": "The quota of this family is reached."}]
    azure_project.state.computes["cpu-cluster"] |= {"state": "Failed", "errors": errors}
    sent = himl.ok(*SUBMIT, "--", "--epochs", "3")
    assert "The compute 'cpu-cluster' is in state Failed: The quota of this family is reached." in " ".join(sent.stderr.split())
    assert list(azure_project.state.runs) == sent.stdout.split()[:1]
    azure_project.state.computes["cpu-cluster"]["state"] = "Deleting"
    assert himl(*SUBMIT).code == 2


def test_cluster_in_settings_is_used_unless_flag_says_local(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    """What settings say about the other place is passed over; what was typed and does not fit is said."""
    settings = 'cluster = "cpu-cluster"\npython = "python3"\nnum_nodes = 2\nshm_size = "8g"\nfollow = false\nenv_var = {COLOUR = "red"}\n'
    write_files(project, {"himl.toml": f"[submit]\n{settings}"})
    run_id = himl.ok("submit", "train.py", "-q").stdout.strip()
    resources = (azure_project.state.runs[run_id].job or {})["resources"]
    assert (resources["instanceCount"], resources["shmSize"]) == (2, "8g")
    here = himl.ok("submit", "train.py", "--cluster", "local", "--docker_args", "--ipc=host", "--", "--epochs", "1")
    assert here.stdout == "epochs 1 red\n"
    assert "Passed over, since the job runs here and not on a cluster: --docker_args, num_nodes = 2." in here.stderr


def test_a_job_that_runs_here_gets_its_input_from_azure(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    write_files(project, {"train.py": "import os, pathlib\nprint((pathlib.Path(os.environ['AZURE_ML_INPUT_pets']) / 'cat.txt').read_text())\n"})
    azure_project.put_blobs("workspaceblobstore", {"animals/cat.txt": b"meow"})
    outcome = himl.ok("submit", "train.py", "--input", "pets=animals")
    assert outcome.stdout == "meow\n"
    assert not azure_project.requests("^PUT")


def test_azure_only_default_datastore_does_not_stop_local_job(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    azure_project.add_datastore("lake")
    write_files(project, {"himl.toml": "[submit]\ndefault_datastore = 'lake'\n", "train.py": "print('ran')"})
    assert himl.ok("submit", "train.py", "--output", "y=preds").stdout == "ran\n"


def test_a_workspace_named_by_its_config_takes_the_job(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    (project / "config.json").rename(project / "lab.json")
    assert himl(*SUBMIT).code == 2
    assert himl.ok(*SUBMIT, "--config_file", "lab.json", "-q").stdout.strip() in azure_project.state.runs
