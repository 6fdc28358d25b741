"""A script that sends itself by azureml-core: `strictly_aml_v1=True`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from himl_cli.core.installation import install_command
from tests.api.scripts import run_script, write_script
from tests.azure.conftest import client_python
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.clients import HIML_V1

CONDA = "name: lab\ndependencies:\n- python=3.11\n- pip:\n  - himl-cli\n"


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> StagedWorkspace:
    """A workspace whose config.json and an environment.yml are in the project. azureml-core does not wait between its tries."""
    azure_environment.write_config(project)
    azure_environment.add_compute("cpu-cluster")
    for name in ("AZUREML_DEFAULT_BACKOFF", "AZUREML_DEFAULT_500_BACKOFF", "AZUREML_DEFAULT_503_BACKOFF"):
        monkeypatch.setenv(name, "0")
    (project / "environment.yml").write_text(CONDA)
    return azure_environment


@pytest.mark.skipif(importlib.util.find_spec("azureml") is not None, reason="azureml-core is installed here")
def test_without_the_extra_one_line_says_how_to_get_it(lab: StagedWorkspace, project: Path) -> None:
    done = run_script(write_script(project, "train.py", 'compute_cluster_name="cpu-cluster", strictly_aml_v1=True', "say()"), "--azureml")
    assert done.returncode == 2
    assert f"Install it: {install_command('v1')}" in done.stderr
    assert lab.requests() == []


@pytest.mark.timeout(1800)  # the first use of a client builds its environment
def test_v1_submission_returns_sdk_run_and_passes_data(lab: StagedWorkspace, project: Path) -> None:
    """The run given to after_submission is one of azureml-core, and the job gets its input and output data."""
    lab.put_blob("workspaceblobstore", "faces/1.txt", b"smile")
    call = """compute_cluster_name="cpu-cluster", strictly_aml_v1=True, wait_for_completion=True, input_datasets=["faces"], output_datasets=["made"],
        default_datastore="workspaceblobstore", tags={"team": "blue"},
        after_submission=lambda run: print("AFTER", sorted(each.__module__ for each in type(run).__mro__ if each.__name__ == "Run"), run.id)"""
    after = """
(info.output_datasets[0] / "copy.txt").write_text((info.input_datasets[0] / "1.txt").read_text())
heavy = sorted({"azure", "azureml", "yaml", "pycurl", "requests"} & set(sys.modules))
(info.output_folder / "said.json").write_text(json.dumps([info.is_running_in_azure_ml, heavy]))
"""
    script = write_script(project, "train.py", call, after)
    with lab.run_jobs():
        done = subprocess.run([str(client_python(HIML_V1)), str(script), "--azureml"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = lab.state.runs.values()
    assert f"AFTER ['azureml.core.run'] {run.run_id}" in done.stdout
    assert run.tags["team"] == "blue"
    assert json.loads(lab.artifacts(run.run_id)["outputs/said.json"]) == [True, []]
    made = [name for name in lab.blob_names("workspaceblobstore") if name.endswith("copy.txt")]
    assert [lab.get_blob("workspaceblobstore", name) for name in made] == [b"smile"]
