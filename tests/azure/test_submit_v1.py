"""`himl submit --sdk v1`: azureml-core, unmodified, sends the job to the double, which runs it; himl reads what comes of it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.azure.v1_project import CONDA, TRAIN, definition_of, found_by, submitted
from tests.azure.v1_project import himl as himl
from tests.azure.v1_project import lab as lab
from tests.azure.v1_project import running as running
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, write_files

pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment


@pytest.mark.usefixtures("running")
def test_a_script_is_sent_run_and_read_by_the_same_commands(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    options = ("--display_name", "first try", "--description", "of the old kind", "--tag", "team=blue", "--env_var", "COLOUR=red")
    run_id = submitted(himl, "train.py", *options, "--", "--name", "a 'b' $HOME")
    lab.wait_for(run_id, "Completed")
    shown = himl.ok("runs", "show", run_id, "--json").json()
    assert (shown["status"], shown["display_name"], shown["experiment"]) == ("Completed", "first try", "train")
    assert shown["tags"]["team"] == "blue"
    assert shown["tags"]["run_recovery_id"] == f"train:{run_id}"
    assert lab.state.runs[run_id].description == "of the old kind"
    assert "trained --name a 'b' $HOME" in himl.ok("runs", "logs", run_id).stdout
    assert [run["id"] for run in himl.ok("runs", "list", "--experiment", "train", "--json").json()] == [run_id]
    assert (project / "most_recent_run.txt").read_text().strip() == f"train:{run_id}"
    found = found_by(himl, run_id, project / "out")
    assert found == {"arguments": ["--name", "a 'b' $HOME"], "files": ["config.json", "environment.yml", "train.py"], "colour": "red"}


@pytest.mark.usefixtures("running")
def test_waiting_follows_the_log_and_ends_as_the_job_does(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    write_files(project, {"fails.py": "print('before'); raise SystemExit(3)\n"})
    good = himl.ok("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "--wait", "--follow", "train.py")
    assert "trained" in good.stdout
    bad = himl("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "--wait", "fails.py")
    assert bad.code == 1
    assert "before" in bad.stderr + bad.stdout


def test_it_says_that_v1_is_deprecated(lab: StagedWorkspace, himl: Himl) -> None:
    done = himl.ok("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "train.py")
    assert "deprecated" in " ".join(done.stderr.split())
    assert "Warning" not in done.stderr
    assert "azureml-core said" not in done.stderr


def test_unchanged_code_is_not_uploaded_again(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    first = himl.ok("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "train.py")
    assert "not uploaded again" not in " ".join(first.stderr.split())
    lab.stage.log.clear()
    second = himl.ok("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "train.py")
    assert "not uploaded again" in " ".join(second.stderr.split())
    assert lab.requests("PUT .*blob") == lab.requests("/snapshots/") == []
    write_files(project, {"train.py": TRAIN + "# changed\n"})
    lab.stage.log.clear()
    himl.ok("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "train.py")
    assert len(lab.requests("PUT .*blob")) == 1


@pytest.mark.usefixtures("running")
def test_ignore_files_are_honoured_as_git_does(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    files = {".gitignore": "*.bin\nconfig.json\n", "keep/.gitignore": "!*.bin\n", "keep/a.bin": "kept", "drop/b.bin": "left", "grün #1.txt": "x"}
    write_files(project, files)
    run_id = submitted(himl, "train.py")
    lab.wait_for(run_id, "Completed")
    found = found_by(himl, run_id, project / "out")["files"]
    assert found == ["environment.yml", "grün #1.txt", "keep/.gitignore", "keep/a.bin", "train.py"]


@pytest.mark.usefixtures("running")
def test_modules_and_shell_scripts_run_as_commands(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    write_files(project, {"lab/__init__.py": "", "lab/train.py": TRAIN, "train.sh": 'python train.py "$@"\n'})
    for arguments in (("-m", "lab.train"), ("train.sh",)):
        run_id = submitted(himl, *arguments, "--", "it's", "a b")
        lab.wait_for(run_id, "Completed")
        assert found_by(himl, run_id, project / "out")["arguments"] == ["it's", "a b"]


@pytest.mark.usefixtures("running")
def test_data_reach_the_job_and_come_back(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    lab.put_blobs("workspaceblobstore", {"mnist/one.txt": b"1", "mnist/two.txt": b"22"})
    script = """
import os, sys
from pathlib import Path
source, target = map(Path, sys.argv[1:3])
from himl_cli.job import inputs, outputs
assert source == inputs()["INPUT_0"] and target == outputs()["result"], os.environ
assert (list(inputs()), list(outputs())) == (["INPUT_0"], ["result"]), os.environ
for one in source.rglob("*.txt"):
    (target / one.name).write_text(one.read_text() * 2)
"""
    write_files(project, {"double.py": script})
    options = ("--input", "mnist", "--output", "result=doubled", "double.py")
    run_id = submitted(himl, *options, "--", "${{inputs.INPUT_0}}", "${{outputs.result}}")
    lab.wait_for(run_id, "Completed")
    assert {name: lab.get_blob("workspaceblobstore", name) for name in lab.blob_names("workspaceblobstore", "doubled/")} == {
        "doubled/one.txt": b"11",
        "doubled/two.txt": b"2222",
    }
    assert list(lab.state.assets["data"]["doubled"]) == ["1"]
    himl.ok("download", run_id, "--output_key", "result", "--output_dir", project / "got", "--flat")
    assert (project / "got" / "one.txt").read_text() == "11"


@pytest.mark.usefixtures("running")
def test_a_path_within_an_argument_and_a_fixed_place_work_too(lab: StagedWorkspace, himl: Himl, project: Path, tmp_path: Path) -> None:
    lab.put_blobs("workspaceblobstore", {"mnist/one.txt": b"1"})
    place = tmp_path / "fixed"
    write_files(
        project, {"look.py": "import sys\nfrom pathlib import Path\nprint('saw', Path(sys.argv[1].partition('=')[2], 'one.txt').read_text(), sys.argv[1])\n"}
    )
    run_id = submitted(himl, "--input", f"data=mnist,mode=mount,target={place.as_posix()}", "look.py", "--", "--data=${{inputs.data}}")
    lab.wait_for(run_id, "Completed")
    assert f"saw 1 --data={place.as_posix()}" in himl.ok("runs", "logs", run_id).stdout
    assert definition_of(lab, run_id)["data"]["data"]["mechanism"] == "mount"


@pytest.mark.parametrize(
    ("options", "kind", "variables"),
    [
        (("--num_nodes", "2"), "mpi", ["OMPI_COMM_WORLD_SIZE=2"]),
        (("--processes_per_node", "2"), "pytorch", ["WORLD_SIZE=2", "RANK=1"]),
        (("--num_nodes", "2", "--processes_per_node", "2"), "pytorch", ["WORLD_SIZE=4", "RANK=3"]),
    ],
)
@pytest.mark.usefixtures("running")
def test_ranks(lab: StagedWorkspace, himl: Himl, project: Path, options: tuple[str, ...], kind: str, variables: list[str]) -> None:
    names = ("WORLD_SIZE", "RANK", "OMPI_COMM_WORLD_SIZE")
    write_files(project, {"ranks.py": f"import os\nfor name in {names}:\n    print(f'{{name}}={{os.environ.get(name)}}')\n"})
    run_id = submitted(himl, *options, "ranks.py")
    lab.wait_for(run_id, "Completed")
    assert [line for line in variables if line not in lab.logs(run_id).splitlines()] == []
    assert definition_of(lab, run_id)["framework"] == {"mpi": "Python", "pytorch": "PyTorch"}[kind]


def test_what_is_asked_for_stands_in_the_run_definition(lab: StagedWorkspace, himl: Himl) -> None:
    options = ("--docker_image", "example.org/lab:1", "--shm_size", "8g", "--docker_args", "--gpus all", "--max_run_duration", "2h")
    sent = definition_of(lab, submitted(himl, *options, "train.py"))
    assert sent["target"] == "cpu-cluster"
    assert sent["maxRunDurationSeconds"] == 7200
    assert sent["docker"] == {"useDocker": True, "sharedVolumes": True, "arguments": ["--gpus all"], "shmSize": "8g"}
    assert sent["environment"]["docker"]["baseImage"] == "example.org/lab:1"
    assert sent["environment"]["environmentVariables"] == {}
    assert sent["environment"]["python"]["condaDependencies"]["dependencies"][-2:] == ["python=3.11", {"pip": ["himl-cli"]}]


def test_the_same_packages_are_the_same_environment(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    names = [definition_of(lab, submitted(himl, "train.py"))["environment"]["name"] for _ in range(2)]
    write_files(project, {"environment.yml": CONDA.replace("3.11", "3.12")})
    other = definition_of(lab, submitted(himl, "train.py"))["environment"]["name"]
    assert names[0] == names[1] != other


def test_a_registered_environment_is_taken_as_it_is(lab: StagedWorkspace, himl: Himl) -> None:
    lab.add_environment("torch", "7")
    sent = definition_of(lab, submitted(himl, "--environment", "torch:7", "train.py"))["environment"]
    assert (sent["name"], sent["version"]) == ("torch", "7")
    missing = himl("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "--environment", "nope", "train.py")
    assert missing.code == 3
    assert "nope" in missing.stderr


def test_a_private_wheel_is_built_into_the_image(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    wheel = project / "lab_tools-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("lab_tools.py", "")
        archive.writestr("lab_tools-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: lab-tools\nVersion: 1.0\n")
        archive.writestr("lab_tools-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("lab_tools-1.0.dist-info/RECORD", "")
    sent = [definition_of(lab, submitted(himl, "--private_wheel", wheel.name, "train.py"))["environment"] for _ in range(2)]
    assert sent[0]["name"] == sent[1]["name"]
    context = sent[0]["docker"]["buildContext"]
    [name] = [name for name in lab.blob_names("workspaceblobstore", "himl-environments/") if name.endswith(f"/{wheel.name}")]
    assert context["location"].endswith(f"/{name.removesuffix(wheel.name)}")
    assert lab.get_blob("workspaceblobstore", name) == wheel.read_bytes()


AFTER = """
from pathlib import Path
from himl_cli import submit_to_azure_if_needed

def look(run):
    Path("seen.txt").write_text(f"{type(run).__module__} {run.id} {run.get_status()}")

submit_to_azure_if_needed(compute_cluster_name="cpu-cluster", strictly_aml_v1=True, submit_to_azureml=True, after_submission=look)
"""


def test_a_script_that_submits_itself_gets_azureml_cores_run(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    write_files(project, {"own.py": AFTER})
    python = himl.program.with_name("python.exe" if sys.platform == "win32" else "python")
    done = subprocess.run([python, "own.py"], cwd=project, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    [run_id] = lab.state.runs
    module, seen_id, status = (project / "seen.txt").read_text().split()
    assert module.startswith("azureml.")
    assert (seen_id, status) == (run_id, "Starting")


@pytest.mark.usefixtures("running")
def test_a_running_job_is_canceled(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    write_files(project, {"waits.py": "import time\nprint('waiting', flush=True)\ntime.sleep(600)\n"})
    run_id = submitted(himl, "waits.py")
    lab.wait_for(run_id, "Running")
    himl.ok("runs", "cancel", run_id)
    lab.wait_for(run_id, "Canceled")
    assert himl.ok("runs", "show", run_id, "--json").json()["status"] == "Canceled"


def test_the_image_is_built_from_a_folder_of_ours(lab: StagedWorkspace, himl: Himl, project: Path) -> None:
    write_files(project, {"image/Dockerfile.own": "FROM python:3.11\n"})
    (project / "environment.yml").unlink()
    run_id = submitted(himl, "train.py", "--build_context", "image", "--dockerfile", "Dockerfile.own")
    context = definition_of(lab, run_id)["environment"]["docker"]["buildContext"]
    assert (context["dockerfilePath"], context["locationType"].lower()) == ("Dockerfile.own", "storageaccount")
    (name,) = lab.blob_names("workspaceblobstore", "himl-environments/")
    assert context["location"].endswith(f"/{name.removesuffix('Dockerfile.own')}")
    assert lab.get_blob("workspaceblobstore", name) == b"FROM python:3.11\n"


@pytest.mark.usefixtures("running")
def test_a_command_is_run(lab: StagedWorkspace, himl: Himl) -> None:
    run_id = submitted(himl, "--command", "cd . && python train.py --a", "--", "b c")
    lab.wait_for(run_id, "Completed")
    assert "trained --a b c" in himl.ok("runs", "logs", run_id).stdout


def test_what_the_older_sdk_cannot_do_is_refused(lab: StagedWorkspace, himl: Himl) -> None:
    cases = {("train.py", "--vscode"): "--vscode", ("train.py", "--jupyter"): "--jupyter", ("train.py", "--instance_type", "x"): "--instance_type"}
    for options, message in cases.items():
        done = himl("submit", "--sdk", "v1", "--cluster", "cpu-cluster", *options)
        assert (done.code, f"{message}: not with --sdk v1." in done.stderr) == (2, True), done.stderr
    line = himl("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "--command", "cat ${{inputs.a}}", "--input", "a=faces")
    assert (line.code, "--command: with --sdk v1 it holds no placeholders." in line.stderr) == (2, True), line.stderr
    assert lab.requests() == []
