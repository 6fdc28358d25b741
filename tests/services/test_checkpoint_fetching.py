"""What fetching a checkpoint leaves to whoever calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from himl_cli.core.blobs import TransferResult
from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notify, ignore
from himl_cli.core.runs import Choice
from himl_cli.services.checkpoints.fetch import CheckpointRequest, fetch_checkpoint
from himl_cli.workspaces.base import BlobStore, Workspace
from tests.support.running import write_files
from tests.support.runs import RecordedRuns

HERE = "outputs/checkpoints"
RUN = "train_1_aa"


def no_workspace() -> Workspace:
    raise AssertionError("a path needs no workspace")


def no_address(address: str) -> BlobStore:
    raise AssertionError(address)


def told_nothing(folder: Path, key: str, act: Callable[[], TransferResult], *, notify: Notify = ignore) -> TransferResult:
    """As for a rank that was started by a script which had fetched before."""
    return TransferResult()


def test_a_rank_that_was_told_nothing_finds_the_path_by_itself(project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add(RUN, files={f"{HERE}/best.ckpt": "weights", f"{HERE}/last.ckpt": "last"})
    request = CheckpointRequest(RUN, Choice("best"), root=project / "here")
    first = fetch_checkpoint(request, lambda: runs.workspace, no_address, project)
    other = fetch_checkpoint(request, lambda: runs.workspace, no_address, project, once=told_nothing)
    assert (other.path, other.status, other.size) == (first.path, "complete", 7)
    assert first.path == project / "here" / RUN / "best.ckpt"


def test_ranks_share_checkpoint_folder_and_key_per_request(project: Path) -> None:
    runs = RecordedRuns(project)
    runs.add(RUN, files={f"{HERE}/last.ckpt": "last"})
    seen: list[tuple[Path, str]] = []

    def once(folder: Path, key: str, act: Callable[[], TransferResult], *, notify: Notify = ignore) -> TransferResult:
        seen.append((folder, key))
        return act()

    for source in (RUN, f"{RUN}:last.ckpt", RUN):
        fetch_checkpoint(CheckpointRequest(source, folder=project / "out"), lambda: runs.workspace, no_address, project, once=once)
    assert [folder for folder, _ in seen] == [project / "out"] * 3
    assert seen[0] == seen[2] != seen[1]


def test_one_of_several_is_chosen_of_runs_only(project: Path) -> None:
    write_files(project, {"last.ckpt": "w"})
    assert fetch_checkpoint(CheckpointRequest("last.ckpt"), no_workspace, no_address, project).shown == "last.ckpt"
    for source in ("last.ckpt", "https://example.org/last.ckpt"):
        with pytest.raises(BadUsage, match="Of the checkpoints of a run one can be selected"):
            fetch_checkpoint(CheckpointRequest(source, Choice("best")), no_workspace, no_address, project)
