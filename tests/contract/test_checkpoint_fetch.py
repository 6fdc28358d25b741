"""Fetching checkpoints of runs: the same cases on both workspaces."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, IntegrityFailed, NotFound, TransferIncomplete
from himl_cli.core.events import Event, Notice
from himl_cli.core.jobs import BEST_TRIAL, MANY
from himl_cli.core.runs import FetchedCheckpoint
from himl_cli.services.checkpoints.fetch import CheckpointRequest, digest_of, fetch_checkpoint
from himl_cli.services.checkpoints.select import choice_of
from himl_cli.workspaces.base import BlobStore, Workspace
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import opened
from tests.support.folders import files_below
from tests.support.running import write_files
from tests.support.runs import RecordedRuns

HERE, RETRY = "outputs/checkpoints", "outputs/retry_001/checkpoints"
WEIGHTS = bytes(range(256)) * 100
RUNS: Mapping[str, Mapping[str, bytes]] = {
    "train_1_aa": {
        f"{HERE}/epoch=0.ckpt": b"zero",
        f"{HERE}/epoch=1.ckpt": WEIGHTS,
        f"{HERE}/last.ckpt": b"the first try",
        f"{HERE}/same/epoch=7.ckpt": b"seven",
        f"{HERE}/epoch=7-v2.ckpt": b"seven",
        f"{HERE}/epoch=8-step=81.ckpt": b"8",
        f"{HERE}/epoch=8-step=82.ckpt": b"9",
        f"{RETRY}/last.ckpt": b"the second try",
    },
    "sharded_1_aa": {f"{HERE}/last.ckpt/latest": b"1", f"{HERE}/last.ckpt/1/model.pt": WEIGHTS, f"{HERE}/last.ckptx": b"", "outputs/log.csv": b"a"},
    "empty_1_aa": {"user_logs/std_log.txt": b"nothing kept"},
}
LOSSES = {0: 0.5, 1: 0.25}


@dataclass(frozen=True)
class Place:
    """A workspace with the runs above, and the folder that checkpoints go to."""

    workspace: Workspace
    folder: Path

    def fetch(
        self, source: str, select: str | None = None, metric: str | None = None, *, overwrite: bool = False, folder: str | None = None
    ) -> FetchedCheckpoint:
        request = CheckpointRequest(
            source, choice_of(select, metric), Path(self.folder, folder) if folder is not None else None, overwrite, root=self.folder / "checkpoints"
        )
        return fetch_checkpoint(request, lambda: self.workspace, no_address, self.folder)


def no_address(address: str) -> BlobStore:
    raise AssertionError(address)


Seed = Callable[[pytest.FixtureRequest, Path], AbstractContextManager[Workspace]]


@contextmanager
def local(request: pytest.FixtureRequest, folder: Path) -> Iterator[Workspace]:
    runs = RecordedRuns(folder)
    for run_id, files in RUNS.items():
        runs.add(run_id, files=files)
    runs.log("train_1_aa", [("val_loss", value, step, step) for step, value in LOSSES.items()])
    runs.add("sweep_1_aa", tags={MANY: "sweep", BEST_TRIAL: "train_1_aa"})
    yield runs.workspace


@contextmanager
def azure(request: pytest.FixtureRequest, folder: Path) -> Iterator[Workspace]:
    staged: StagedWorkspace = request.getfixturevalue("azure_environment")
    for run_id, files in RUNS.items():
        run = staged.add_run(run_id, "train")
        staged.put_artifacts(run, files)
        if run_id == "train_1_aa":
            staged.add_metric(run, "val_loss", list(LOSSES.values()), steps=list(LOSSES))
    staged.add_run("sweep_1_aa", "train", tags={MANY: "sweep", BEST_TRIAL: "train_1_aa"})
    with opened(staged, folder) as workspace:
        yield workspace


@pytest.fixture(params=[local, azure], ids=["local", "azure"])
def place(request: pytest.FixtureRequest, project: Path, tmp_path: Path) -> Iterator[Place]:
    seed: Seed = request.param
    with seed(request, project) as workspace:
        yield Place(workspace, tmp_path / "here")


def test_last_checkpoint_of_newest_try_is_fetched_once(place: Place) -> None:
    first = place.fetch("train_1_aa")
    assert first.path == place.folder / "checkpoints" / "train_1_aa" / RETRY / "last.ckpt"
    assert first.path.read_bytes() == b"the second try"
    assert first.run is not None
    assert (first.run.id, first.status, first.names, first.size, first.unverified) == ("train_1_aa", "fetched", [f"{RETRY}/last.ckpt"], 14, 0)
    assert digest_of(first) == hashlib.md5(b"the second try").hexdigest()
    again = place.fetch("train_1_aa")
    assert (again.path, again.status) == (first.path, "complete")
    older = place.fetch("train:train_1_aa:last.ckpt")
    assert older.path == place.folder / "checkpoints" / "train_1_aa" / "last.ckpt"
    assert (older.path.read_bytes(), first.path.read_bytes()) == (b"the first try", b"the second try")


def test_the_best_by_what_was_logged(place: Place) -> None:
    best = place.fetch("train_1_aa", "best", "val_loss")
    assert (best.shown, best.path.read_bytes()) == (str(place.folder / "checkpoints/train_1_aa/epoch=1.ckpt"), WEIGHTS)
    assert (best.epoch, best.metric, best.value) == (1, "val_loss", 0.25)
    assert place.fetch("sweep_1_aa", None, "val_loss").path == best.path


def test_one_content_is_no_ambiguity_and_two_are(place: Place) -> None:
    assert place.fetch("train_1_aa", "epoch=7").path.read_bytes() == b"seven"
    with pytest.raises(BadUsage, match="2 checkpoints of epoch 8") as caught:
        place.fetch("train_1_aa", "epoch=8")
    assert caught.value.hint == "Name one: train_1_aa:epoch=8-step=81.ckpt, train_1_aa:epoch=8-step=82.ckpt"


def test_a_checkpoint_that_is_a_folder_comes_whole_and_alone(place: Place) -> None:
    sharded = place.fetch("sharded_1_aa", folder="out")
    assert sharded.path == place.folder / "out" / "last.ckpt"
    assert {path.relative_to(sharded.path).as_posix(): path.stat().st_size for path in files_below(sharded.path)} == {
        "latest": 1,
        "1/model.pt": len(WEIGHTS),
    }
    assert not (place.folder / "out" / "last.ckptx").exists()
    assert digest_of(sharded) is None


def test_a_folder_of_a_run_keeps_its_names(place: Place) -> None:
    assert place.fetch("train_1_aa:same/").path == place.folder / "checkpoints" / "train_1_aa" / "same"
    whole = place.fetch("train_1_aa:outputs/checkpoints/")
    assert whole.path == place.folder / "checkpoints" / "train_1_aa"
    assert (len(whole.names), (whole.path / "epoch=0.ckpt").read_bytes()) == (7, b"zero")
    outputs = place.fetch("sharded_1_aa:outputs/")
    assert (outputs.path.name, (outputs.path / "checkpoints" / "last.ckpt" / "latest").read_bytes()) == ("outputs", b"1")


def test_changed_local_checkpoint_is_replaced_only_on_overwrite(place: Place) -> None:
    path = place.fetch("train_1_aa:epoch=1.ckpt").path
    path.write_bytes(b"my own work")
    with pytest.raises(TransferIncomplete, match=r"Left as it is, because it differs: 'epoch=1.ckpt'") as caught:
        place.fetch("train_1_aa:epoch=1.ckpt")
    assert (caught.value.hint, path.read_bytes()) == ("Add --overwrite to replace it.", b"my own work")
    assert place.fetch("train_1_aa:epoch=1.ckpt", overwrite=True).path.read_bytes() == WEIGHTS


def test_what_is_not_there_is_said_with_what_is(place: Place) -> None:
    with pytest.raises(NotFound, match=r"Run 'train_1_aa' has no 'best.ckpt'") as caught:
        place.fetch("train_1_aa:best.ckpt")
    assert f"{HERE}/epoch=0.ckpt" in caught.value.hint
    with pytest.raises(NotFound) as nothing:
        place.fetch("empty_1_aa")
    assert nothing.value.hint == "It kept nothing in outputs/."
    assert not place.folder.exists()


def test_a_path_here_is_given_back_as_it_is(place: Place) -> None:
    write_files(place.folder, {"train_1_aa": b"a file of that name"})
    found = place.fetch("train_1_aa")
    assert (found.shown, found.status, found.size) == ("train_1_aa", "local", 19)


def test_truncated_checkpoint_is_error_and_stays_on_disk(place: Place) -> None:
    for _ in range(2):
        with pytest.raises(IntegrityFailed, match="is as it lies in the run, but was not written to its end"):
            place.fetch("sharded_1_aa:last.ckptx")
    assert (place.folder / "checkpoints/sharded_1_aa/last.ckptx").read_bytes() == b""
    write_files(place.folder, {"half.pt": b"PK\x03\x04 no more", "none.ckpt": ""})
    for name in ("half.pt", "none.ckpt"):
        with pytest.raises(IntegrityFailed, match=f"'{name}' was not written to its end"):
            place.fetch(name)


def test_a_path_in_a_run_may_be_written_as_paths_are(place: Place) -> None:
    for path in ("./last.ckpt", "outputs//checkpoints/./last.ckpt", "outputs\\checkpoints\\last.ckpt"):
        assert place.fetch(f"train_1_aa:{path}").path.read_bytes() == b"the first try"


def test_fetch_names_local_files_that_run_no_longer_has(place: Place) -> None:
    said: list[Event] = []
    request = CheckpointRequest("sharded_1_aa:last.ckpt/", root=place.folder)
    for _ in range(2):
        fetched = fetch_checkpoint(request, lambda: place.workspace, no_address, place.folder, notify=said.append)
        assert ([event.text for event in said if isinstance(event, Notice) and "any more" in event.text] == []) == (not (fetched.path / "old").exists())
        write_files(fetched.path, {"old/model.pt": "of an earlier save"})
    assert any(isinstance(event, Notice) and event.text.endswith("(any more): old/model.pt.") for event in said), said
