"""`himl submit --command`: any program as a job, and what a job on a cluster may be given beside it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import SUBMIT
from tests.support.azure import azure_project as azure_project
from tests.support.azure import running as running
from tests.support.folders import files_with
from tests.support.running import Himl, write_files

TRAIN = "import os, sys; print(sys.argv[1:], os.environ.get('RANK'), os.path.exists('.himl'))\n"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGk1 ada@lab"
CLUSTER = ("submit", "--cluster", "cpu-cluster")


@pytest.fixture
def script(project: Path) -> Path:
    write_files(project, {"lab/train.py": TRAIN, "pyproject.toml": ""})
    return project / "lab" / "train.py"


def ran(himl: Himl) -> dict[str, Any]:
    found: dict[str, Any] = himl.ok("runs", "show", "latest", "--json").json()
    return found


@pytest.mark.usefixtures("script")
@pytest.mark.parametrize(
    ("line", "said", "experiment"),
    [
        ("python lab/train.py --a 'b c'", "['--a', 'b c', '--lr', '$X'] None False", "train"),
        ("cd lab && python train.py", "['--lr', '$X'] None False", "train"),
        ("python -m lab.train", "['--lr', '$X'] None False", "lab_train"),
        ("echo", "--lr $X", "echo"),
    ],
)
def test_it_runs_from_a_snapshot_and_is_recorded(himl: Himl, line: str, said: str, experiment: str) -> None:
    assert himl.ok("submit", "--command", line, "--", "--lr", "$X").stdout == f"{said}\n"
    run = ran(himl)
    assert (run["experiment"], run["status"]) == (experiment, "Completed")
    assert run["tags"]["command_line"].startswith("--command ")


@pytest.mark.usefixtures("script")
def test_python_is_the_interpreter_that_was_asked_for(himl: Himl, project: Path) -> None:
    other = project / "other-python"
    if sys.platform == "win32":
        pytest.skip("a program there is no text file")
    other.write_text(f'#!/bin/sh\necho this one\nexec {sys.executable} "$@"\n')
    other.chmod(0o755)
    assert himl.ok("submit", "--command", "python lab/train.py", "--python", str(other)).stdout == "this one\n[] None False\n"


@pytest.mark.usefixtures("script")
def test_each_rank_runs_it(himl: Himl) -> None:
    assert himl.ok("submit", "--command", "python lab/train.py", "--processes_per_node", "2").stdout == "[] 0 False\n"
    assert "[] 1 False" in himl.ok("runs", "logs", "--file", "std_log_process_1.txt").stdout


@pytest.mark.usefixtures("script")
@pytest.mark.parametrize("line", ["python lab/train.py", "python lab/train.py --lr ${{search_space.lr}}", "cd lab && python train.py"])
def test_trials_get_their_values(himl: Himl, line: str) -> None:
    run_id = himl.ok("submit", "--command", line, "--sweep", "lr=1,2", "-q").stdout.strip()
    logs = [himl.ok("runs", "logs", f"{run_id}_{index}").stdout for index in (0, 1)]
    assert sorted(logs) == [f"['--lr', '{value}'] None False\n" for value in (1, 2)]


@pytest.mark.skipif(sys.platform == "win32", reason="its PATH has more that is needed")
@pytest.mark.usefixtures("script")
def test_plain_command_runs_without_bash_but_shell_line_fails(himl: Himl, project: Path) -> None:
    env = {"PATH": str(project / "nothing")}
    assert himl.ok("submit", "--command", "python lab/train.py --a 'b c'", env=env).stdout == "['--a', 'b c'] None False\n"
    done = himl("submit", "--command", "cd lab && python train.py", env=env)
    assert (done.code, "for bash, which is not installed here" in done.stderr) == (3, True)


@pytest.mark.usefixtures("script")
def test_what_does_not_go_together_is_refused(himl: Himl, project: Path) -> None:
    cases = {
        ("lab/train.py", "--command", "x"): "A script and --command were both given.",
        ("-m", "lab.train", "--command", "x"): "-m MODULE and --command were both given.",
        ("--command", ""): "--command got an empty value.",
        ("--command", "cat ${{inputs.a}}"): "'${{inputs.a}}' names no input",
        ("--resume", "latest", "--command", "x"): "--command does not go with --resume",
    }
    for options, message in cases.items():
        done = himl("submit", *options)
        assert (done.code, message in done.stderr) == (2, True), done.stderr
    assert not (project / ".himl").exists()


def test_secrets_in_it_are_not_kept(himl: Himl, script: Path, tmp_path: Path) -> None:
    himl.ok("submit", "--command", "python lab/train.py --password marked-secret", "-v")
    kept = files_with(tmp_path, "marked-secret")
    assert [path.name for path in kept] == ["std_log.txt"]  # the script printed it
    for shown in ("--dry_run", "--show_settings"):
        done = himl.ok("submit", "--command", "python x.py --password marked-secret", shown)
        assert "python x.py --password ***" in done.stdout
        assert "marked-secret" not in done.stdout


def test_on_a_cluster_the_service_runs_it(himl: Himl, running: StagedWorkspace, project: Path) -> None:
    write_files(project, {"lab/other.py": "import sys; print(sys.argv[1:])"})
    done = himl.ok(*CLUSTER, "--command", "cd lab && python other.py", "--follow", "--", "a b")
    assert done.stdout == "['a b']\n"
    (run,) = running.state.runs.values()
    assert (run.job or {})["command"] == "cd lab && python other.py 'a b'"


def test_what_a_job_may_be_given_reaches_the_service(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    write_files(project, {"image/Dockerfile": "FROM python:3.11\n", "image/.env": "SECRET=1", "id.pub": KEY})
    (project / "environment.yml").unlink()
    options = ("--instance_type", "gpu-large", "--vscode", "--jupyter", "--ssh_key", "id.pub")
    for built in (("--build_context", "image"), ("--dockerfile", "image/Dockerfile"), ("--build_context", "image", "--dockerfile", "Dockerfile")):
        done = himl.ok(*SUBMIT, *options, *built)
        assert f"Build context '{project / 'image'}': One file that may hold secrets is left out: '.env'." in " ".join(done.stderr.split())
    jobs = [run.job or {} for run in azure_project.state.runs.values()]
    assert len({job["environmentId"] for job in jobs}) == 1
    assert jobs[0]["resources"]["instanceType"] == "gpu-large"
    assert sorted(jobs[0]["services"]) == ["jupyterlab", "ssh", "vscode"]
    assert jobs[0]["services"]["ssh"]["properties"]["sshPublicKeys"] == KEY
    assert [name.rpartition("/")[2] for name in azure_project.blob_names("workspaceblobstore", "himl-environments/")] == ["Dockerfile"]


def test_bad_options_are_refused_before_any_service_request(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    private = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
    write_files(
        project, {"image/Dockerfile": "FROM x\n", "id_rsa": private, "empty/a.txt": "", ".gitignore": "Dockerfile.own\n", "image/Dockerfile.own": "FROM x"}
    )
    cases = {
        ("--ssh_key", "id_rsa"): "--ssh_key 'id_rsa' holds a private key, which has to stay on this machine.",
        ("--ssh_key", "train.py"): "--ssh_key 'train.py' holds no public key of SSH.",
        ("--ssh_key", "gone.pub"): "--ssh_key 'gone.pub' is neither a public key nor a file that can be read.",
        ("--build_context", "gone"): "--build_context 'gone' is no folder.",
        ("--build_context", "empty"): f"There is no 'Dockerfile' in '{project / 'empty'}'.",
        ("--dockerfile", "gone/Dockerfile"): "There is no file --dockerfile 'gone/Dockerfile'.",
        ("--build_context", "empty", "--dockerfile", "image/Dockerfile"): "--dockerfile 'image/Dockerfile' lies outside of --build_context 'empty'.",
        ("--build_context", "image", "--environment", "lab:1"): "--build_context and --environment were both given.",
        ("--dockerfile", "image/Dockerfile", "--conda_env", "environment.yml"): "--dockerfile and --conda_env were both given.",
        ("--dockerfile", str(Path.home() / "Dockerfile")): f"The image would be built from all of '{Path.home()}'.",
        ("--instance_type", " "): "--instance_type got an empty value.",
        ("--job_tier", "cheap"): "--job_tier cannot be 'cheap'.",
    }
    if os.environ.get("GIT_DIR") is None:
        write_files(project, {"image/.gitignore": "Dockerfile.own\n"})
        cases["--build_context", "image", "--dockerfile", "Dockerfile.own"] = "'Dockerfile.own' is left out of the build context"
    for options, message in cases.items():
        done = himl(*SUBMIT, *options)
        assert (done.code, message in done.stderr.splitlines()[0]) == (2, True), done.stderr
    assert azure_project.requests() == []


def test_here_it_is_passed_over_and_said(himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": ""})
    done = himl.ok("submit", "train.py", "--vscode", "--instance_type", "x", "--job_tier", "spot", "--ssh_key", "gone.pub", "--build_context", "gone")
    assert "Passed over, since the job runs here and not on a cluster: --instance_type, --job_tier, --build_context, --vscode, --ssh_key." in " ".join(
        done.stderr.split()
    )


def test_settings_of_another_environment_give_way(himl: Himl, azure_project: StagedWorkspace, project: Path) -> None:
    known = azure_project.add_environment("torch", "7")
    write_files(project, {"image/Dockerfile": "FROM python:3.11\n", "himl.toml": '[submit]\nbuild_context = "image"\n'})
    himl.ok(*SUBMIT, "--environment", "torch:7")
    assert [(run.job or {})["environmentId"] for run in azure_project.state.runs.values()] == [known]
    himl.ok(*SUBMIT, "--conda_env", "environment.yml")
    assert "himl-build-context" not in json.dumps(azure_project.state.assets["environments"])
    himl.ok(*SUBMIT)
    assert "himl-build-context" in json.dumps(azure_project.state.assets["environments"])


def test_many_runs_have_no_services(himl: Himl, azure_project: StagedWorkspace) -> None:
    done = himl.ok(*SUBMIT, "--sweep", "lr=1,2", "--vscode", "--instance_type", "gpu-large")
    assert "single jobs only, and this is many: --vscode." in " ".join(done.stderr.split())
    (run,) = azure_project.state.runs.values()
    assert (run.job or {})["trial"]["resources"]["instanceType"] == "gpu-large"
