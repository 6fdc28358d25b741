"""Where jobs on a cluster find their data, and where their logs are found: `himl submit --cluster` on the double, which runs the jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, write_files

TRAIN = "import sys\nprint('trained', *sys.argv[1:])\n"
SUBMIT = ("submit", "train.py", "--cluster", "cpu-cluster")


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """A project with a script and an environment, and the config.json of a workspace."""
    azure_environment.write_config(project)
    write_files(project, {"train.py": TRAIN, "environment.yml": "dependencies:\n- python=3.11\n- pip:\n  - himl-cli\n"})
    return azure_environment


@pytest.fixture
def running(lab: StagedWorkspace) -> Iterator[StagedWorkspace]:
    """As `lab`, and the jobs are run."""
    with lab.run_jobs():
        yield lab


LOOK = """
import sys
from pathlib import Path
from himl_cli.job import inputs
assert inputs()["scans"] == Path("in/scans") and inputs()["more"] == Path(sys.argv[2]).parent, dict(inputs())
print(Path("in/scans/a.txt").read_text(), Path(sys.argv[2]).read_text(), sys.argv[1])
"""


@pytest.mark.parametrize("options", [("--processes_per_node", "2"), ("--num_nodes", "2", "--distribution", "mpi")])
def test_inputs_lie_at_their_targets_for_every_rank(himl: Himl, running: StagedWorkspace, project: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    running.put_blobs("workspaceblobstore", {"scans/a.txt": b"A"})
    write_files(project, {"look.py": LOOK})
    fixed = (tmp_path / "with blanks" / "scans").as_posix()
    data = ("--input", "scans=scans,target=in/scans", "--input", f"more=scans,target={fixed},mode=mount")
    sent = himl.ok("submit", "look.py", "--cluster", "cpu-cluster", *data, *options, "-q", "--wait", "--", "${{inputs.scans}}", "${{inputs.more}}/a.txt")
    for rank in range(2):
        assert himl.ok("runs", "logs", sent.stdout.strip(), "--file", f"std_log_process_{rank}.txt").stdout == "A A in/scans\n"


def test_occupied_input_target_fails_job_with_reason_in_log(himl: Himl, running: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    running.put_blobs("workspaceblobstore", {"scans/a.txt": b"A"})
    taken = tmp_path / "taken"
    write_files(taken, {"own.txt": "mine"})
    outcome = himl(*SUBMIT, "--input", f"scans,target={taken.as_posix()}", "--follow")
    assert outcome.code == 1
    assert f"himl: the input INPUT_0 cannot lie at {taken.as_posix()}: something else is there" in outcome.stdout
    assert [path.name for path in taken.iterdir()] == ["own.txt"]


def test_logs_of_ranks_are_found_by_number_however_it_is_written(himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    write_files(project, {"train.py": "import os\nprint('rank', os.environ['RANK'])\n"})
    with lab.run_jobs(log_digits=3):
        run_id = himl.ok(*SUBMIT, "--processes_per_node", "2", "-q", "--wait").stdout.strip()
    assert sorted(lab.artifacts(run_id)) == ["user_logs/std_log_process_000.txt", "user_logs/std_log_process_001.txt"]
    assert himl.ok("runs", "logs", run_id).stdout == "rank 0\n"
    for name in ("std_log_process_1.txt", "user_logs/std_log_process_1.txt", "user_logs/std_log_process_001.txt"):
        assert himl.ok("runs", "logs", run_id, "--file", name).stdout == "rank 1\n"
    assert "has no log 'std_log_process_2.txt'" in himl("runs", "logs", run_id, "--file", "std_log_process_2.txt").stderr


def test_the_launcher_s_log_is_not_taken_for_the_script_s(himl: Himl, running: StagedWorkspace) -> None:
    run_id = himl.ok(*SUBMIT, "--distribution", "mpi", "-q", "--wait").stdout.strip()
    assert {"user_logs/mpi_log.txt", "user_logs/std_log_process_0.txt"} <= set(running.artifacts(run_id))
    assert himl.ok("runs", "logs", run_id).stdout == "trained\n"
    assert himl.ok("runs", "logs", run_id, "--file", "mpi_log.txt").stdout != ""


def test_input_and_output_names_are_found_in_upper_case(himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    lab.put_blobs("workspaceblobstore", {"scans/a.txt": b"A"})
    script = "from himl_cli.job import inputs, outputs\n(outputs()['made'] / 'b.txt').write_text((inputs()['scans'] / 'a.txt').read_text() * 2)\n"
    write_files(project, {"train.py": script})
    with lab.run_jobs(data_names="upper"):
        himl.ok(*SUBMIT, "--input", "scans=scans", "--output", "made=doubled", "--wait")
    assert lab.get_blob("workspaceblobstore", "doubled/b.txt") == b"AA"


def test_unsent_file_and_module_get_hints_that_work(himl: Himl, running: StagedWorkspace, project: Path) -> None:
    write_files(project, {"train.py": "print(open('outputs/a.txt').read())", "outputs/a.txt": "there", "jobs/environment.yml": "dependencies:\n- pip\n"})
    hint = himl(*SUBMIT, "--wait").stderr.splitlines()[-1]
    assert "make it data of the job, himl datastore upload outputs outputs, then --input outputs, and read it in the folder that" in hint
    himl.ok("datastore", "upload", "outputs", "outputs")
    write_files(project, {"train.py": "import os; print(open(os.environ['AZURE_ML_INPUT_INPUT_0'] + '/a.txt').read())"})
    assert himl.ok(*SUBMIT, "--input", "outputs", "--follow").stdout == "there\n"
    write_files(project, {"jobs/train.py": "import tools", "tools.py": ""})
    submit = ("submit", "jobs/train.py", "--cluster", "cpu-cluster", "--follow")
    assert f"'tools' lies in '{project}', which is not sent: add --snapshot_root . --env_var PYTHONPATH=." in himl(*submit).stderr
    himl.ok(*submit, "--snapshot_root", ".", "--env_var", "PYTHONPATH=.")


def test_a_path_for_a_dataset_s_name_is_told_with_what_works(himl: Himl, running: StagedWorkspace, project: Path) -> None:
    write_files(project, {"data/a.txt": "there", "train.py": "import os; print(os.listdir(os.environ['AZURE_ML_INPUT_INPUT_0']))"})
    told = "On a cluster: himl datastore upload ./data data, then --input data"
    outcome = himl(*SUBMIT, "--input", "./data")
    assert (outcome.code, told in outcome.stderr) == (2, True)
    himl.ok("datastore", "upload", "./data", "data")
    assert himl.ok(*SUBMIT, "--input", "data", "--follow").stdout == "['a.txt']\n"
