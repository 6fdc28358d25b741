"""`himl submit` with data: here it comes from the workspace that is configured, on a cluster it stays there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.running import Himl, write_files

DEFAULT = "workspaceblobstore"
SCRIPT = """
import os, pathlib
given = pathlib.Path(os.environ["AZURE_ML_INPUT_scans"])
made = pathlib.Path(os.environ["AZURE_ML_OUTPUT_maps"])
files = sorted(path.relative_to(given).as_posix() for path in given.rglob("*") if path.is_file())
print("found", files)
(made / "count.txt").write_text(str(len(files)))
"""


@pytest.fixture
def scans(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """A project of the workspace, in whose default datastore lies a folder `scans`."""
    azure_environment.write_config(project)
    azure_environment.put_blobs(DEFAULT, {"scans/a.png": b"1", "scans/deep/b.png": b"22"})
    write_files(project, {"train.py": SCRIPT, "environment.yml": "name: lab\ndependencies: [python=3.11]\n"})
    return azure_environment


def test_a_job_here_gets_data_from_azure(stage: Stage, scans: StagedWorkspace, himl: Himl, project: Path) -> None:
    done = himl.ok("submit", "train.py", "--input", "scans=scans", "--output", "maps=maps")
    assert "found ['a.png', 'deep/b.png']" in done.stdout
    assert (project / ".himl" / "datastores" / "local" / "maps" / "count.txt").read_text() == "2"
    assert f"Input 'scans': dataset 'scans' of {scans.label} comes to" in " ".join(done.stderr.split())
    stage.log.clear()
    assert "found ['a.png', 'deep/b.png']" in himl.ok("submit", "train.py", "--input", "scans=scans", "--output", "maps=maps").stdout
    assert not stage.log.find(r"GET [^ ]*/scans/")


def test_a_folder_here_comes_before_azure(stage: Stage, scans: StagedWorkspace, himl: Himl, project: Path) -> None:
    write_files(project, {".himl/datastores/local/scans/mine.png": "1"})
    assert "found ['mine.png']" in himl.ok("submit", "train.py", "--input", "scans=scans", "--output", "maps=maps").stdout
    assert stage.log.all() == []


def test_a_default_datastore_of_azure_does_not_stop_a_job_here(scans: StagedWorkspace, himl: Himl, project: Path) -> None:
    write_files(project, {"himl.toml": f'[submit]\ndefault_datastore = "{DEFAULT}"\n'})
    himl.ok("submit", "train.py", "--input", "scans=scans", "--output", "maps=maps")
    assert (project / ".himl" / "datastores" / "local" / "maps" / "count.txt").read_text() == "2"
    write_files(project, {"write.py": "import os, pathlib; pathlib.Path(os.environ['AZURE_ML_OUTPUT_OUTPUT_0'], 'x').touch()"})
    himl.ok("submit", "write.py", "--output", "made")
    assert (project / ".himl" / "datastores" / "local" / "made" / "x").exists()


def test_data_that_is_nowhere_ends_before_anything_is_made(scans: StagedWorkspace, himl: Himl, project: Path) -> None:
    done = himl("submit", "train.py", "--input", "scans=lungs", "--output", "maps=maps")
    assert done.code == 3
    assert f"no data asset 'lungs' in {scans.label}" in " ".join(done.stderr.split())
    assert not (project / ".himl").exists()


def test_a_job_on_a_cluster_reads_and_writes_there(scans: StagedWorkspace, himl: Himl) -> None:
    command = ("submit", "train.py", "--cluster", "cpu-cluster", "--input", "scans=scans", "--output", "maps=maps", "--wait", "--follow")
    with scans.run_jobs():
        done = himl.ok(*command)
    assert "found ['a.png', 'deep/b.png']" in done.stdout
    assert scans.get_blob(DEFAULT, "maps/count.txt") == b"2"
    assert set(scans.state.assets["data"]) >= {"scans", "maps"}


def test_unknown_data_or_cluster_fails_before_any_upload(stage: Stage, scans: StagedWorkspace, himl: Himl) -> None:
    done = himl("submit", "train.py", "--cluster", "cpu-cluster", "--input", "scans=scans:7", "--output", "maps=maps")
    assert done.code == 3
    done = himl("submit", "train.py", "--cluster", "cpu-clutser", "--input", "scans=scans", "--output", "maps=maps")
    assert done.code == 3
    assert "cpu-cluster" in done.stderr
    assert not stage.log.find("startPendingUpload")
