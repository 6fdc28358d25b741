"""Checkpoints fetched, changed, pushed and linked to from Python, on both workspaces; the example that does it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from himl_cli import checkpoint_url, create_aml_run_object, download_files_from_run_id, fetch_checkpoint, fetch_run, get_workspace, push_checkpoints
from himl_cli.core.errors import BadUsage, NotFound, TransferIncomplete
from tests.api.places import arrived
from tests.api.scripts import run_script
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns

EXAMPLE = Path(__file__).parents[2] / "examples" / "modify_checkpoint"
CHECKPOINTS = {"outputs/checkpoints/epoch=0-val_loss=0.5.ckpt": b"zero", "outputs/checkpoints/last.ckpt": b"one"}


@pytest.fixture(params=["local", "azure"])
def place(request: pytest.FixtureRequest, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, whose workspace, here or in Azure ML, has the run train_1_aa."""
    monkeypatch.chdir(project)
    if request.param == "local":
        RecordedRuns(project).add("train_1_aa", files=CHECKPOINTS)
    else:
        azure: StagedWorkspace = request.getfixturevalue("azure_environment")
        azure.put_artifacts(azure.add_run("train_1_aa", "train", status="Completed"), CHECKPOINTS)
        azure.write_config(project)
    return project


def test_changed_checkpoints_become_a_run(place: Path) -> None:
    folder = fetch_checkpoint("train_1_aa:outputs/checkpoints/")
    assert folder == Path("checkpoints/train_1_aa")
    (folder / "last.ckpt").write_text("changed")
    with pytest.raises(TransferIncomplete, match=r"last\.ckpt") as caught:
        fetch_checkpoint("train_1_aa")
    assert caught.value.hint == "overwrite=True replaces what differs."
    run = push_checkpoints(folder, "train_1_aa", "changed", "new head", tags={"by": "Ada"})
    assert (run.status, run.experiment.name, run.display_name) == ("Completed", "changed", "new head")
    assert (run.tags["himl.checkpoint_from"], run.tags["by"], run.workspace) == ("train_1_aa", "Ada", fetch_run(None, "train_1_aa").workspace)
    assert fetch_checkpoint(run.id).read_text() == "changed"
    assert fetch_checkpoint(run.id, "weights", select="best").read_text() == "zero"
    assert fetch_checkpoint("train_1_aa", overwrite=True).read_text() == "one"
    assert fetch_checkpoint(folder / "last.ckpt") == folder / "last.ckpt"
    with pytest.raises(BadUsage, match="one can be selected, and the source is a path here"):
        fetch_checkpoint(str(folder), select="best")


def test_nothing_is_pushed_where_something_is_wrong(place: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file 'none\.ckpt'"):
        push_checkpoints(["none.ckpt"], "train_1_aa", "changed")
    write_files(place, {"empty.ckpt": ""})
    with pytest.raises(BadUsage, match=r"empty\.ckpt' is empty"):
        push_checkpoints([Path("empty.ckpt")], "train_1_aa", "changed")
    assert [*get_workspace().experiment("changed").get_runs()] == []


def test_hi_mls_way_of_changing_checkpoints(place: Path) -> None:
    """The four steps that hi-ml's documentation names."""
    download_files_from_run_id("train_1_aa", Path("down"), prefix="outputs/checkpoints/")
    folder = Path("down/outputs/checkpoints")
    for path in folder.iterdir():
        path.write_text(f"changed {path.read_text()}")
    with create_aml_run_object("changed", workspace=get_workspace()) as run:
        run.upload_folder("outputs/checkpoints", str(folder))
    download_files_from_run_id(run.id, Path("again"), prefix="outputs/checkpoints/")
    assert arrived(Path("again")) == {name: f"changed {content.decode()}" for name, content in CHECKPOINTS.items()}


def test_a_link_reads_the_file_and_only_that(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    azure = azure_environment
    azure.put_artifacts(azure.add_run("train_1_aa", "train", status="Completed"), CHECKPOINTS)
    azure.write_config(project)
    monkeypatch.chdir(project)
    link = checkpoint_url("train_1_aa", expiry_days=0.5)
    assert fetch_checkpoint(link, tmp_path / "out").read_bytes() == b"one"
    assert "sig=" in link
    with pytest.raises(NotFound):
        checkpoint_url("train_1_aa:none.ckpt")
    with pytest.raises(BadUsage, match=r"takes a number from 0\.001"):
        checkpoint_url("train_1_aa", 0)


def modified(himl: Himl, folder: Path, run_id: str) -> str:
    """The run that the example's script makes of the checkpoints of *run_id*."""
    done = run_script(folder / "modify_checkpoint.py", run_id)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("changed ") == 4
    new = done.stdout.splitlines()[-1]
    tags = himl.ok("runs", "show", "--run", new, "--json", cwd=folder).json()["tags"]
    assert (tags["himl.checkpoint_from"], new.startswith("changed_checkpoints_")) == (run_id, True)
    return new


def test_the_example_here(himl: Himl, tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLE, tmp_path / "example")
    first = himl.ok("submit", "train.py", "-q", cwd=folder).stdout.strip()
    misfit = himl("submit", "train.py", "--checkpoint", first, "--", "--layer", "head", cwd=folder)
    assert (misfit.code, "KeyError: 'head.weight'" in misfit.stdout) == (1, True)
    new = modified(himl, folder, first)
    assert "starting from last.ckpt: head.weight, head.bias" in himl.ok("submit", "train.py", "--checkpoint", new, "--", "--layer", "head", cwd=folder).stdout


def test_the_example_on_azure_ml(azure_environment: StagedWorkspace, himl: Himl, tmp_path: Path) -> None:
    azure = azure_environment
    folder = shutil.copytree(EXAMPLE, tmp_path / "example")
    azure.add_compute("gpu")
    azure.write_config(folder)
    (folder / "environment.yml").write_text("dependencies: [python=3.11]\n")
    azure.run_jobs()
    submit = ("submit", "train.py", "--cluster", "gpu", "--wait", "-q")
    new = modified(himl, folder, himl.ok(*submit, cwd=folder).stdout.strip())
    last = himl.ok(*submit, "--checkpoint", new, "--", "--layer", "head", cwd=folder).stdout.strip()
    assert "starting from last.ckpt: head.weight, head.bias" in himl.ok("runs", "logs", "--run", last, cwd=folder).stdout
    assert json.loads(azure.artifacts(last)["outputs/checkpoints/last.ckpt"])["state_dict"].keys() == {"head.weight", "head.bias"}
