"""A script that runs outside of any job reads datasets that only Azure ML has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.ranks import local_ranks
from tests.api.scripts import run_script, said, write_script
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import write_files

READ = "say(found=[folder and {path.name: path.read_text() for path in folder.iterdir() if path.is_file()} for folder in info.input_datasets])"


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """A workspace with two versions of a dataset and a folder of files; the project has its config.json."""
    azure_environment.put_blobs("workspaceblobstore", {"v1/a.txt": b"one", "v2/a.txt": b"two", "faces/b.txt": b"b"})
    for version in ("1", "2"):
        azure_environment.add_data("digits", f"azureml://datastores/workspaceblobstore/paths/v{version}/", version)
    azure_environment.write_config(project)
    return azure_environment


def test_a_dataset_is_downloaded_the_latest_version_unless_told(lab: StagedWorkspace, project: Path) -> None:
    call = 'input_datasets=["digits", DatasetConfig("digits", version=1), "faces"], output_datasets=["made"]'
    assert said(write_script(project, "train.py", call, READ)) == {"found": [{"a.txt": "two"}, {"a.txt": "one"}, {"b.txt": "b"}]}
    fetches = lab.requests(r"GET .*/v2/a\.txt")
    assert len(fetches) == 1
    assert said(write_script(project, "train.py", call, READ))["found"][0] == {"a.txt": "two"}
    assert lab.requests(r"GET .*/v2/a\.txt") == fetches


def test_the_target_folder_is_where_it_goes(lab: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    target = tmp_path / "mnist"
    call = f'input_datasets=[DatasetConfig("digits", target_folder={str(target)!r}, use_mounting=True)]'
    done = run_script(write_script(project, "train.py", call, "say(folder=info.input_datasets[0])"))
    assert json.loads(done.stdout) == {"folder": str(target)}
    assert (target / "a.txt").read_text() == "two"
    assert "nothing is mounted here" in done.stderr


def test_what_lies_here_is_not_asked_for(lab: StagedWorkspace, project: Path) -> None:
    write_files(project, {"own/a.txt": "mine", ".himl/datastores/local/faces/b.txt": "kept"})
    call = 'input_datasets=[DatasetConfig("digits", local_folder="own"), "faces"]'
    assert said(write_script(project, "train.py", call, READ)) == {"found": [{"a.txt": "mine"}, {"b.txt": "kept"}]}
    assert lab.requests() == []


def test_a_dataset_that_nobody_has_has_no_path_and_that_is_said(lab: StagedWorkspace, project: Path) -> None:
    done = run_script(write_script(project, "train.py", 'input_datasets=["nothing", "faces"]', READ))
    assert json.loads(done.stdout) == {"found": [None, {"b.txt": "b"}]}
    assert "The path of dataset 'nothing' is None." in done.stderr


def test_an_unknown_version_is_not_replaced_by_another(lab: StagedWorkspace, project: Path) -> None:
    done = run_script(write_script(project, "train.py", 'input_datasets=[DatasetConfig("digits", version=9)]', READ))
    assert done.returncode == 1
    assert "NotFound" in done.stderr
    assert "version '9'" in done.stderr or "version 9" in done.stderr or "digits:9" in done.stderr


def test_a_service_that_refuses_is_an_error(lab: StagedWorkspace, project: Path) -> None:
    script = write_script(project, "train.py", 'input_datasets=["digits"]', READ)
    done = run_script(script, env={"HIML_SERVICE_PRINCIPAL_PASSWORD": "wrong"})
    assert done.returncode == 1
    assert "NotAllowed" in done.stderr


def test_all_ranks_of_a_node_share_one_download(lab: StagedWorkspace, project: Path) -> None:
    script = write_script(project, "train.py", 'input_datasets=["faces"]', READ)
    running = [
        subprocess.Popen([sys.executable, str(script)], cwd=project, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True) for own in local_ranks(3)
    ]
    found = [json.loads(process.communicate(timeout=100)[0]) for process in running]
    assert found == [{"found": [{"b.txt": "b"}]}] * 3


def test_self_started_ranks_reuse_downloaded_datasets(lab: StagedWorkspace, project: Path) -> None:
    """As PyTorch Lightning does it: rank 0 has been through the call before it starts the others."""
    start = "subprocess.run([sys.executable, *sys.argv], env={**os.environ, 'LOCAL_RANK': '1'}, check=True)"
    again = f"import os, subprocess\nif 'LOCAL_RANK' not in os.environ:\n    {start}\n"
    done = run_script(write_script(project, "train.py", 'input_datasets=["faces"]', f"{again}{READ}"))
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"found": [{"b.txt": "b"}]}] * 2
    assert len(lab.requests(r"GET .*/faces/b\.txt")) == 1
