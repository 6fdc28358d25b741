"""Slides in a folder of a datastore: the same cases where its files lie on this machine, and where they are brought from Azure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Thread

import pytest

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import ignore
from himl_cli.core.montage import SlideFolder, SlideUnreadable
from himl_cli.services.montage.query import SlideQuery, list_slides
from himl_cli.services.montage.stored import open_stored
from himl_cli.workspaces.base import Workspace
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support import workspaces
from tests.support.running import write_files

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


@pytest.fixture(params=["local", "azure"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workspace]:
    folder = tmp_path / "lab"
    folder.mkdir()
    with getattr(workspaces, request.param)(request, folder) as opened:
        if request.param == "local":
            write_files(folder / ".himl" / "datastores" / "local", FILES)
        else:
            staged: StagedWorkspace = request.getfixturevalue("azure_environment")
            staged.put_blobs("workspaceblobstore", FILES)
        yield opened


@contextmanager
def opened(workspace: Workspace, dataset: str, expected: Sequence[str] = ()) -> Iterator[SlideFolder]:
    with open_stored(workspace.datastore(), dataset, LIMIT, ignore) as (place, _):
        place.expect(expected)
        yield place


def read(place: SlideFolder, name: str) -> bytes:
    with place.local_path(name) as path:
        return path.read_bytes()


def reason(place: SlideFolder, name: str) -> str:
    with pytest.raises(SlideUnreadable) as caught, place.local_path(name):
        pass
    return str(caught.value)


def test_a_folder_s_files_by_their_names_from_there(workspace: Workspace) -> None:
    with opened(workspace, "slides/") as place:
        assert [*place.names()] == sorted(name.removeprefix("slides/") for name in FILES if name.startswith("slides/"))
        assert place.has("deep/b c.tif")
        assert not any(map(place.has, ["", "deep", "b c.tif", "../other/z.tif", "slides/a.tif"]))
        assert place.label == f"folder 'slides' of {workspace.datastore().label}"


def test_the_whole_datastore(workspace: Workspace) -> None:
    with opened(workspace, ".", ["other/z.tif"]) as place:
        assert [*place.names()] == sorted(FILES)
        assert read(place, "other/z.tif") == b"z"
        assert place.label == workspace.datastore().label


def test_slides_are_at_hand_as_often_as_they_are_asked_for(workspace: Workspace) -> None:
    names = ["a.tif", "deep/b c.tif", "deep/größe.svs", "empty.tif"]
    with opened(workspace, "slides", [*names, "a.tif"]) as place:
        assert place.is_rereadable
        for _ in range(3):
            assert [read(place, name) for name in names] == [FILES[f"slides/{name}"] for name in names]
        with place.local_path("a.tif") as path:
            assert path.name == "a.tif"


def test_several_threads_have_several_slides_at_hand_at_once(workspace: Workspace) -> None:
    names = ["a.tif", "deep/b c.tif", "deep/größe.svs"]
    together = Barrier(2 * len(names), timeout=60)
    seen: list[tuple[str, bytes]] = []

    def hold(name: str) -> None:
        with place.local_path(name) as path:
            together.wait()
            seen.append((name, path.read_bytes()))

    with opened(workspace, "slides", names) as place:
        threads = [Thread(target=hold, args=(name,)) for name in names * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(seen) == sorted((name, FILES[f"slides/{name}"]) for name in names * 2)


def test_what_is_read_along_with_a_slide_lies_beside_it(workspace: Workspace) -> None:
    with opened(workspace, "slides", ["many.mrxs"]) as place, place.local_path("many.mrxs") as path:
        assert {each.name: each.read_bytes() for each in (path.parent / "many").iterdir()} == {"Data0001.dat": b"level", "Slidedat.ini": b"order"}


def test_what_cannot_be_had_is_told_slide_by_slide(workspace: Workspace) -> None:
    label = f"folder 'slides' of {workspace.datastore().label}"
    wrong = {
        "gone.tif": f"there is no such file in {label}",
        "deep": f"there is no such file in {label}",
        "../other/z.tif": f"it leads out of {label}",
        "deep/../../other/z.tif": f"it leads out of {label}",
        "/other/z.tif": f"an absolute path; here they are relative to the CSV, and mean files of {label}",
        "C:\\slides\\a.tif": f"an absolute path; here they are relative to the CSV, and mean files of {label}",
        "": "no image is named",
    }
    with opened(workspace, "slides", [*wrong, "a.tif"]) as place:
        assert {name: reason(place, name) for name in wrong} == wrong
        assert read(place, "a.tif") == b"first"


def test_names_that_wander_within_the_folder_are_followed(workspace: Workspace) -> None:
    names = ["./a.tif", "deep/../a.tif", "deep//b c.tif"]
    with opened(workspace, "slides", names) as place:
        assert [read(place, name) for name in names] == [b"first", b"first", FILES["slides/deep/b c.tif"]]


def test_the_csv_of_a_folder_is_read_from_there(workspace: Workspace) -> None:
    with opened(workspace, "slides") as place:
        assert place.text("dataset.csv") == "image,slide_id,label\na.tif,A,ä\n"
        (slide,) = list_slides(place, SlideQuery(), ignore)
        assert (slide.slide_id, slide.image, slide.label) == ("A", "a.tif", "ä")
        with pytest.raises(NotFound, match=r"There is no file 'gone\.csv' in folder 'slides' of "):
            place.text("gone.csv")
        with pytest.raises(BadUsage, match=r"'latin\.csv' in folder 'slides' of .* is not UTF-8 text \(byte 15\)"):
            place.text("latin.csv")


def test_a_csv_may_be_named_and_means_what_lies_below_its_folder(workspace: Workspace) -> None:
    with open_stored(workspace.datastore(), "lists/picked.csv", LIMIT, ignore) as (place, csv):
        assert csv == "picked.csv"
        (slide,) = list_slides(place, SlideQuery(csv=csv), ignore)
        place.expect([slide.image, slide.mask or ""])
        assert reason(place, slide.image) == f"it leads out of folder 'lists' of {workspace.datastore().label}"


@pytest.mark.parametrize(
    ("dataset", "said", "hint"),
    [
        ("slide", "There is no folder 'slide' with files in ", "Did you mean 'slides'?"),
        ("slides/a.tif", "There is no folder 'slides/a.tif' with files in ", "There is: "),
        ("slides/datasets.csv", "There is no file 'slides/datasets.csv' in ", "Did you mean 'slides/dataset.csv'?"),
        ("nowhere/dataset.csv", "There is no file 'nowhere/dataset.csv' in ", "There is: "),
    ],
)
def test_what_is_not_there_is_told_with_what_is(workspace: Workspace, dataset: str, said: str, hint: str) -> None:
    with pytest.raises(NotFound) as caught, opened(workspace, dataset):
        pass
    assert str(caught.value) == f"{said}{workspace.datastore().label}."
    assert hint in caught.value.hint


def test_a_name_that_leads_out_of_the_datastore_is_refused(workspace: Workspace) -> None:
    with pytest.raises(BadUsage, match=r"'\.\./slides' leads out of the store"), opened(workspace, "../slides"):
        pass


def test_missing_datastore_error_names_existing_ones(workspace: Workspace) -> None:
    default = workspace.datastores()[0].name
    with pytest.raises(NotFound, match="nowhere") as caught:
        workspace.datastore("nowhere")
    assert default in f"{caught.value} {caught.value.hint}"
