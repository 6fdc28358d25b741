"""Checkpoints of runs and slides of a datastore, used locally: the same cases for files on this machine and files
fetched from Azure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage, IntegrityFailed, NotFound, TransferIncomplete
from himl_cli.core.events import Event, Notice, ignore
from himl_cli.core.runs import BROUGHT, FROM_RUN, FetchedCheckpoint
from himl_cli.core.sweeps import BEST_TRIAL, MANY
from himl_cli.services.checkpoints.fetch import CheckpointRequest, digest_of, fetch_checkpoint
from himl_cli.services.checkpoints.select import choice_of
from himl_cli.slides.query import SlideQuery, list_slides
from himl_cli.slides.slide_records import SlideFolder, SlideUnreadable
from himl_cli.slides.stored import open_stored
from himl_cli.workspaces.base import BlobStore, Workspace
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.azure import opened as opened_workspace
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
    "sharded_1_aa": {
        f"{HERE}/last.ckpt/latest": b"1",
        f"{HERE}/last.ckpt/1/model.pt": WEIGHTS,
        f"{HERE}/last.ckptx": b"",
        "outputs/log.csv": b"a",
    },
    "empty_1_aa": {"user_logs/std_log.txt": b"nothing kept"},
    "began_1_aa": {
        f"{HERE}/last.ckpt": b"brought",
        f"{HERE}/best.ckpt/1.pt": b"bro",
        f"{HERE}/best.ckpt/2.pt": b"ught",
        f"{HERE}/epoch=3.ckpt": b"trained",
    },
}
MD5S = {text: hashlib.md5(text).digest() for text in (b"brought", b"bro", b"ught")}
SHARDS = b"/1.pt\n" + MD5S[b"bro"] + b"/2.pt\n" + MD5S[b"ught"]
WORDS = [f"7-{hashlib.md5(text).hexdigest()[:12]}" for text in (b"\n" + MD5S[b"brought"], SHARDS)]
TAGS = {"began_1_aa": {FROM_RUN: "old_1_aa", BROUGHT: " ".join(WORDS)}}
LOSSES = {0: 0.5, 1: 0.25}
FILES: Mapping[str, bytes] = {
    "lists/picked.csv": b"image,slide_id,mask\n../slides/a.tif,A,../slides/masks/a.png\n",
    "other/z.tif": b"z",
    "slides/a.tif": b"first",
    "slides/a.tif.xml": b"notes",
    "slides/deep/b c.tif": bytes(range(256)) * 2000,
    "slides/deep/größe.svs": b"third",
    "slides/dataset.csv": "\ufeffimage,slide_id,label\na.tif,A,ä\n".encode(),
    "slides/empty.tif": b"",
    "slides/latin.csv": b"image,slide_id\n\xe4.tif,A\n",
    "slides/many.mrxs": b"index",
    "slides/many/Data0001.dat": b"level",
    "slides/many/Slidedat.ini": b"order",
    "slides/masks/a.png": b"mask",
    "slidesX/c.tif": b"not of this folder",
}
LIMIT = 1_000_000_000
Seed = Callable[[pytest.FixtureRequest, Path], AbstractContextManager[Workspace]]


@contextmanager
def local(request: pytest.FixtureRequest, folder: Path) -> Iterator[Workspace]:
    runs = RecordedRuns(folder)
    for run_id, files in RUNS.items():
        runs.add(run_id, files=files, tags=TAGS.get(run_id))
    runs.log("train_1_aa", [("val_loss", value, step, step) for step, value in LOSSES.items()])
    runs.add("sweep_1_aa", tags={MANY: "sweep", BEST_TRIAL: "train_1_aa"})
    write_files(folder / ".himl" / "datastores" / "local", FILES)
    yield runs.workspace


@contextmanager
def azure(request: pytest.FixtureRequest, folder: Path) -> Iterator[Workspace]:
    staged: StagedWorkspace = request.getfixturevalue("azure_environment")
    for run_id, files in RUNS.items():
        run = staged.add_run(run_id, "train", tags=TAGS.get(run_id, {}))
        staged.put_artifacts(run, files)
        if run_id == "train_1_aa":
            staged.add_metric(run, "val_loss", list(LOSSES.values()), steps=list(LOSSES))
    staged.add_run("sweep_1_aa", "train", tags={MANY: "sweep", BEST_TRIAL: "train_1_aa"})
    staged.put_blobs("workspaceblobstore", FILES)
    with opened_workspace(staged, folder) as workspace:
        yield workspace


@pytest.fixture(params=[local, azure], ids=["local", "azure"])
def workspace(request: pytest.FixtureRequest, project: Path) -> Iterator[Workspace]:
    seed: Seed = request.param
    with seed(request, project) as opened:
        yield opened


@dataclass(frozen=True)
class Place:
    """The workspace, and the folder for checkpoints."""

    workspace: Workspace
    folder: Path

    def fetch(
        self, source: str, select: str | None = None, metric: str | None = None, **more: Any
    ) -> FetchedCheckpoint:
        request = CheckpointRequest(source, choice_of(select, metric), root=self.folder / "checkpoints", **more)
        return fetch_checkpoint(request, lambda: self.workspace, no_address, self.folder)


def no_address(address: str) -> BlobStore:
    raise AssertionError(address)


@pytest.fixture
def place(workspace: Workspace, tmp_path: Path) -> Place:
    return Place(workspace, tmp_path / "here")


def test_last_checkpoint_of_newest_try_is_fetched_once(place: Place) -> None:
    first = place.fetch("train_1_aa")
    assert first.path == place.folder / "checkpoints" / "train_1_aa" / RETRY / "last.ckpt"
    assert first.path.read_bytes() == b"the second try"
    assert first.run is not None
    assert (first.run.id, first.status, first.names, first.size, first.unverified) == (
        "train_1_aa",
        "fetched",
        [f"{RETRY}/last.ckpt"],
        14,
        0,
    )
    assert digest_of(first) == hashlib.md5(b"the second try").hexdigest()
    again = place.fetch("train_1_aa")
    assert (again.path, again.status) == (first.path, "complete")
    older = place.fetch("train:train_1_aa:last.ckpt")
    assert older.path == place.folder / "checkpoints" / "train_1_aa" / "last.ckpt"
    assert (older.path.read_bytes(), first.path.read_bytes()) == (b"the first try", b"the second try")


def test_what_a_run_began_with_is_not_its_last_checkpoint(place: Place) -> None:
    assert place.fetch("began_1_aa").path.read_bytes() == b"trained"
    assert place.fetch("began_1_aa:last.ckpt").path.read_bytes() == b"brought"
    with pytest.raises(NotFound, match="no checkpoint with a name that marks the best"):
        place.fetch("began_1_aa", "best")


def test_the_best_by_what_was_logged_and_two_of_an_epoch(place: Place) -> None:
    best = place.fetch("train_1_aa", "best", "val_loss")
    assert (best.shown, best.path.read_bytes()) == (str(place.folder / "checkpoints/train_1_aa/epoch=1.ckpt"), WEIGHTS)
    assert (best.epoch, best.metric, best.value) == (1, "val_loss", 0.25)
    assert place.fetch("sweep_1_aa", None, "val_loss").path == best.path
    assert place.fetch("train_1_aa", "epoch=7").path.read_bytes() == b"seven"
    with pytest.raises(BadUsage, match="2 checkpoints of epoch 8") as caught:
        place.fetch("train_1_aa", "epoch=8")
    assert caught.value.hint == "Give one: train_1_aa:epoch=8-step=81.ckpt, train_1_aa:epoch=8-step=82.ckpt"


def test_a_folder_comes_whole_alone_and_keeps_its_names(place: Place) -> None:
    sharded = place.fetch("sharded_1_aa", folder=place.folder / "out")
    assert sharded.path == place.folder / "out" / "last.ckpt"
    assert {path.relative_to(sharded.path).as_posix(): path.stat().st_size for path in files_below(sharded.path)} == {
        "latest": 1,
        "1/model.pt": len(WEIGHTS),
    }
    assert not (place.folder / "out" / "last.ckptx").exists()
    assert digest_of(sharded) is None
    assert place.fetch("train_1_aa:same/").path == place.folder / "checkpoints" / "train_1_aa" / "same"
    whole = place.fetch("train_1_aa:outputs/checkpoints/")
    assert whole.path == place.folder / "checkpoints" / "train_1_aa"
    assert (len(whole.names), (whole.path / "epoch=0.ckpt").read_bytes()) == (7, b"zero")
    outputs = place.fetch("sharded_1_aa:outputs/")
    assert (outputs.path.name, (outputs.path / "checkpoints" / "last.ckpt" / "latest").read_bytes()) == (
        "outputs",
        b"1",
    )


def test_changed_local_file_is_replaced_only_on_overwrite(place: Place) -> None:
    with pytest.raises(NotFound, match=r"Run 'train_1_aa' has no 'best.ckpt'") as missing:
        place.fetch("train_1_aa:best.ckpt")
    assert f"{HERE}/epoch=0.ckpt" in missing.value.hint
    with pytest.raises(NotFound) as nothing:
        place.fetch("empty_1_aa")
    assert nothing.value.hint == "It has no files in outputs/."
    assert not place.folder.exists()
    path = place.fetch("train_1_aa:epoch=1.ckpt").path
    path.write_bytes(b"my own work")
    with pytest.raises(TransferIncomplete, match=r"himl did not replace 'epoch=1.ckpt', because it differs") as caught:
        place.fetch("train_1_aa:epoch=1.ckpt")
    assert (caught.value.hint, path.read_bytes()) == ("Add --overwrite to replace it.", b"my own work")
    assert place.fetch("train_1_aa:epoch=1.ckpt", overwrite=True).path.read_bytes() == WEIGHTS


def test_truncated_checkpoint_is_error_and_stays_on_disk(place: Place) -> None:
    for _ in range(2):
        with pytest.raises(IntegrityFailed, match="is the same as in the run, but is incomplete"):
            place.fetch("sharded_1_aa:last.ckptx")
    assert (place.folder / "checkpoints/sharded_1_aa/last.ckptx").read_bytes() == b""
    write_files(place.folder, {"half.pt": b"PK\x03\x04 no more", "none.ckpt": ""})
    for name in ("half.pt", "none.ckpt"):
        with pytest.raises(IntegrityFailed, match=f"'{name}' is incomplete"):
            place.fetch(name)


def test_fetch_names_local_files_that_run_no_longer_has(place: Place) -> None:
    said: list[Event] = []
    request = CheckpointRequest("sharded_1_aa:last.ckpt/", root=place.folder)
    for _ in range(2):
        fetched = fetch_checkpoint(request, lambda: place.workspace, no_address, place.folder, notify=said.append)
        assert (
            [event.text for event in said if isinstance(event, Notice) and "does not have" in event.text] == []
        ) == (not (fetched.path / "old").exists())
        write_files(fetched.path, {"old/model.pt": "of an earlier save"})
    assert any(isinstance(event, Notice) and event.text.endswith("does not have: old/model.pt.") for event in said), (
        said
    )


@contextmanager
def opened(workspace: Workspace, dataset: str, expected: Sequence[str] = ()) -> Iterator[SlideFolder]:
    with open_stored(workspace.datastore(), dataset, LIMIT, ignore) as (place, _):
        place.expect(expected)
        yield place


def read(place: SlideFolder, name: str) -> bytes:
    with place.local_path(name) as path:
        return path.read_bytes()


def reason(place: SlideFolder, name: str) -> str:
    with pytest.raises(SlideUnreadable) as caught:
        read(place, name)
    return str(caught.value)


def test_files_of_a_folder_by_their_names_from_there(workspace: Workspace) -> None:
    with opened(workspace, "slides/") as place:
        assert [*place.names()] == sorted(name.removeprefix("slides/") for name in FILES if name.startswith("slides/"))
        assert place.has("deep/b c.tif")
        assert not any(map(place.has, ["", "deep", "b c.tif", "../other/z.tif", "slides/a.tif"]))
        assert place.label == f"folder 'slides' of {workspace.datastore().label}"
    with opened(workspace, ".", ["other/z.tif"]) as place:
        assert [*place.names()] == sorted(FILES)
        assert read(place, "other/z.tif") == b"z"
        assert place.label == workspace.datastore().label


def test_slides_are_at_hand_as_often_as_asked_for_by_threads(workspace: Workspace) -> None:
    names = ["a.tif", "deep/b c.tif", "deep/größe.svs", "empty.tif", "./a.tif", "deep/../a.tif", "deep//b c.tif"]
    with opened(workspace, "slides", [*names, "a.tif", "many.mrxs"]) as place:
        assert place.is_rereadable
        for _ in range(3):
            assert [read(place, name) for name in names[:4]] == [FILES[f"slides/{name}"] for name in names[:4]]
        assert [read(place, name) for name in names[4:]] == [b"first", b"first", FILES["slides/deep/b c.tif"]]
        with place.local_path("a.tif") as path:
            assert path.name == "a.tif"
        # The files that belong to a slide are next to it.
        with place.local_path("many.mrxs") as path:
            assert {each.name: each.read_bytes() for each in (path.parent / "many").iterdir()} == {
                "Data0001.dat": b"level",
                "Slidedat.ini": b"order",
            }
    names = names[:3] * 2
    together = Barrier(len(names), timeout=60)

    def hold(name: str) -> bytes:
        with place.local_path(name) as path:
            together.wait()
            return path.read_bytes()

    with opened(workspace, "slides", names) as place, ThreadPoolExecutor(len(names)) as pool:
        assert list(pool.map(hold, names)) == [FILES[f"slides/{name}"] for name in names]


def test_what_cannot_be_had_is_told_slide_by_slide(workspace: Workspace) -> None:
    label = f"folder 'slides' of {workspace.datastore().label}"
    wrong = {
        "gone.tif": f"there is no such file in {label}",
        "deep": f"there is no such file in {label}",
        "../other/z.tif": f"it leads out of {label}",
        "deep/../../other/z.tif": f"it leads out of {label}",
        "/other/z.tif": f"its path is absolute, but must be relative to the CSV, for a file of {label}",
        "C:\\slides\\a.tif": f"its path is absolute, but must be relative to the CSV, for a file of {label}",
        "": "the path of its image is empty",
    }
    with opened(workspace, "slides", [*wrong, "a.tif"]) as place:
        assert {name: reason(place, name) for name in wrong} == wrong
        assert read(place, "a.tif") == b"first"


def test_the_csv_of_a_folder_is_read_from_there(workspace: Workspace) -> None:
    with pytest.raises(BadUsage, match=r"'\.\./slides' leads out of the store"), opened(workspace, "../slides"):
        pass
    with opened(workspace, "slides") as place:
        assert place.text("dataset.csv") == "image,slide_id,label\na.tif,A,ä\n"
        (slide,) = list_slides(place, SlideQuery(), ignore)
        assert (slide.slide_id, slide.image, slide.label) == ("A", "a.tif", "ä")
        with pytest.raises(NotFound, match=r"There is no file 'gone\.csv' in folder 'slides' of "):
            place.text("gone.csv")
        with pytest.raises(BadUsage, match=r"'latin\.csv' in folder 'slides' of .* is not UTF-8 text \(byte 15\)"):
            place.text("latin.csv")
    with open_stored(workspace.datastore(), "lists/picked.csv", LIMIT, ignore) as (place, csv):
        assert csv == "picked.csv"
        (slide,) = list_slides(place, SlideQuery(csv=csv), ignore)
        place.expect([slide.image, slide.mask or ""])
        assert reason(place, slide.image) == f"it leads out of folder 'lists' of {workspace.datastore().label}"


def test_what_is_not_there_is_told_with_what_is(workspace: Workspace) -> None:
    for dataset, said, hint in (
        ("slide", "There is no folder 'slide' with files in ", "Did you mean 'slides'?"),
        ("slides/a.tif", "There is no folder 'slides/a.tif' with files in ", "Available: "),
        ("slides/datasets.csv", "There is no file 'slides/datasets.csv' in ", "Did you mean 'slides/dataset.csv'?"),
        ("nowhere/dataset.csv", "There is no file 'nowhere/dataset.csv' in ", "Available: "),
    ):
        with pytest.raises(NotFound) as caught, opened(workspace, dataset):
            pass
        assert str(caught.value) == f"{said}{workspace.datastore().label}."
        assert hint in caught.value.hint
