"""What a job gets that starts from a checkpoint: brought to this machine, or read by the cluster where it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, IntegrityFailed
from himl_cli.core.events import Event, Notice, ignore
from himl_cli.core.jobs import Entry, EntryKind, JobSpec, Snapshot
from himl_cli.core.runs import RunStatus
from himl_cli.services.checkpoints.fetch import INPUT, bring_checkpoint, refer_to_checkpoint
from himl_cli.workspaces.base import BlobStore
from himl_cli.workspaces.local.launch_request import LaunchRequest, job_environment
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import opened
from tests.support.running import write_files
from tests.support.runs import RecordedRuns

HERE = "outputs/checkpoints"
SPEC = JobSpec("lab", Entry(EntryKind.script, "train.py"), Snapshot(Path(), (), 0))
HALF = b"PK\x03\x04 no more"


def no_address(address: str) -> BlobStore:
    raise AssertionError(address)


@pytest.mark.parametrize(("source", "kind", "words"), [
    ("none.ckpt", BadUsage, "none.ckpt' is empty, and no checkpoint."),
    ("half.pt", BadUsage, "half.pt' was not written to its end"),
    ("halves", BadUsage, "half.pt' was not written to its end"),
    ("train_1_aa:half.pt", IntegrityFailed, "'outputs/checkpoints/half.pt' was not written to its end"),
    (".", BadUsage, "'.' is the folder of a project, and no checkpoint."),
])  # fmt: skip
def test_no_job_starts_from_what_is_empty_or_torn(project: Path, source: str, kind: type[Exception], words: str) -> None:
    runs = RecordedRuns(project)
    runs.add("train_1_aa", files={f"{HERE}/half.pt": HALF})
    write_files(project, {"none.ckpt": "", "half.pt": HALF, "halves/half.pt": HALF, "halves/mark": ""})
    with pytest.raises(kind, match=words):
        bring_checkpoint(source, runs.workspace, SPEC, project, ignore, no_address)


def test_job_start_from_folder_of_running_run_gives_notice(azure_environment: StagedWorkspace, project: Path) -> None:
    """The folder is one entry of the command however many files it has; an empty one is refused."""
    azure, said = azure_environment, list[Event]()
    files = {f"{HERE}/shards.ckpt/{number}.pt": b"weights" for number in range(40)}
    azure.put_artifacts(azure.add_run("early", "train", status=RunStatus.running.value), {**files, f"{HERE}/none/a.pt": b""})
    with opened(azure, project) as workspace:
        spec = refer_to_checkpoint("early:shards.ckpt/", workspace, workspace, SPEC, project, said.append, no_address)
        with pytest.raises(IntegrityFailed, match="'outputs/checkpoints/none' of run 'early' is empty"):
            refer_to_checkpoint("early:none/", workspace, workspace, SPEC, project, ignore, no_address)
    assert spec.brought == {f"{HERE}/last.ckpt/": f"{INPUT}/"}
    assert "Run 'early' has not ended: the job begins with 'outputs/checkpoints/shards.ckpt' as that is when the job starts." in texts(said)


def test_files_of_a_folder_here_are_uploaded_once_to_one_place(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    azure, said = azure_environment, list[Event]()
    write_files(project, {"new/last.ckpt": "new", "new/deep/a.pt": "deep", "new/.cache/x": "hidden"})
    with opened(azure, project) as workspace:
        for source, brought in (("new", {f"{HERE}/": f"{INPUT}/"}), ("new/deep/a.pt", {f"{HERE}/last.pt": f"{INPUT}/a.pt"})):
            for is_again in (False, True):
                stage.log.clear()
                spec = refer_to_checkpoint(source, workspace, workspace, SPEC, project, said.append, no_address)
                assert spec.brought == brought
                assert (stage.log.find(r"^PUT \S+himl_checkpoints") == []) == is_again
    names = {name.split("/", 2)[2] for name in azure.blob_names("workspaceblobstore", "himl_checkpoints/")}
    assert names == {"last.ckpt", "deep/a.pt", "a.pt"}
    assert not any("has not ended" in text for text in texts(said))


def test_a_job_here_does_not_get_the_settings_of_its_submit(tmp_path: Path) -> None:
    order = LaunchRequest(str(tmp_path), SPEC, "python train.py", {}, {})
    env = job_environment(order, {"HIML_SUBMIT_CHECKPOINT": "https://h/x?sig=hush", "HIML_CACHE": "kept"})
    assert "HIML_SUBMIT_CHECKPOINT" not in env
    assert env["HIML_CACHE"] == "kept"


def texts(said: list[Event]) -> list[str]:
    return [event.text for event in said if isinstance(event, Notice)]
