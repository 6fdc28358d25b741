"""A script that has sent itself to Azure ML and goes on here: it waits for the run, meets the job and the client, finds the results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.scripts import run_script, write_script
from tests.api.sent_scripts import CLUSTER, HERE, send, sent
from tests.api.sent_scripts import lab as lab
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl


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
    assert f"\nerror: Run '{run_id}' failed" in done.stderr
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
