"""Montages that would replace what they are made of, or what is no montage's: nothing is made, nothing is touched."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
from PIL import Image

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import ignore
from himl_cli.core.montage import ImageFormat, MontageRequest, SlideEntry
from himl_cli.services.montage.compose import make_montage
from himl_cli.services.montage.files import earlier_files
from himl_cli.services.montage.query import LocalFolder, SlideQuery, list_slides, local_lists
from tests.support.slides import slide_picture

PNG, DZI, ALL = (ImageFormat.png,), (ImageFormat.dzi,), tuple(ImageFormat)
needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where both the slides and the montage are; it has one slide."""
    (tmp_path / "data").mkdir()
    return slide(tmp_path / "data", "a.png").parent


def slide(folder: Path, name: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(slide_picture(1, (20, 16))).save(folder / name, format="PNG")
    return folder / name


def made(out: Path, data: Path, formats: Sequence[ImageFormat] = PNG, **query: str | Path | None) -> None:
    place, asked = LocalFolder(data), SlideQuery(**query)  # type: ignore[arg-type]
    make_montage(MontageRequest(out, 60, formats=tuple(formats)), list_slides(place, asked, ignore), place, ignore, local_lists(place, asked))


def state(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def refused(out: Path, data: Path, formats: Sequence[ImageFormat] = PNG, **query: str | Path | None) -> str:
    before = state(data.parent)
    with pytest.raises(BadUsage) as caught:
        made(out, data, formats, **query)
    assert caught.value.hint == "Choose another folder with --output_path."
    assert state(data.parent) == before
    return str(caught.value)


@pytest.mark.parametrize("name", ["montage.png", "montage.jpg", "montage_files/mine.png", "montage_files/3/mine.png"])
@pytest.mark.parametrize("formats", [PNG, ALL])
def test_slide_named_like_montage_file_is_refused_and_kept(name: str, formats: Sequence[ImageFormat], folder: Path) -> None:
    """Nor where this montage has no such file: the next one would take it for a part of this."""
    slide(folder, name)
    (folder / "montage.dzi").write_text("<Image/>")
    assert refused(folder, folder, formats) == f"'{folder / name}' is a slide or a mask of this montage, and the montage's own files have that name."


def in_other_words(folder: Path) -> Path:
    return folder / ".." / folder.name


def through_a_link(folder: Path) -> Path:
    link = folder.parent / "link"
    if not link.is_symlink():
        link.symlink_to(folder)
    return link


@pytest.mark.parametrize("way", [in_other_words, pytest.param(through_a_link, marks=needs_links)])
def test_however_the_folder_is_called(way: Callable[[Path], Path], folder: Path) -> None:
    slide(folder, "montage.png")
    assert "is a slide" in refused(way(folder), folder)
    assert "is a slide" in refused(folder, way(folder))


@needs_links
@pytest.mark.parametrize("name", ["montage.jpg", "montage_files/x.png"])
def test_a_slide_that_is_a_link_to_one_of_its_files(name: str, tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "out"
    slide(out, name)
    (out / "montage.dzi").write_text("<Image/>")
    (folder / "linked.png").symlink_to(out / name)
    assert "linked.png' is a slide" in refused(out, folder, ALL)


def test_masks_and_lists_are_not_lost_either(folder: Path) -> None:
    slide(folder, "montage.jpg")
    (folder / "dataset.csv").write_text("image,slide_id,mask\na.png,a,montage.jpg\n")
    assert "montage.jpg' is a slide or a mask" in refused(folder, folder)
    (folder / "montage.jpg").unlink()
    (folder / "dataset.csv").write_text("image,slide_id\na.png,a\n")
    (folder / "montage.csv").write_text("image,slide_id\na.png,a\n")
    assert "montage.csv' is a list of slides" in refused(folder, folder, csv="montage.csv")
    (folder / "montage.csv").write_text("a\n")
    assert "montage.csv' is a list of slides" in refused(folder, folder, include=folder / "montage.csv")
    (folder / "montage.csv").write_text("b\n")
    assert "montage.csv' is a list of slides" in refused(folder, folder, exclude=folder / "montage.csv", csv="dataset.csv")


def test_record_of_earlier_montage_works_as_include_list(folder: Path) -> None:
    made(folder, folder, ALL)
    made(folder, folder, ALL, include=folder / "montage.csv")
    assert sorted(os.listdir(folder)) == ["a.png", "index.html", "montage.csv", "montage.dzi", "montage.jpg", "montage.png", "montage_files"]


@pytest.mark.parametrize("name", ["montage.png", "montage.jpg", "montage.csv", "montage.dzi", "index.html"])
def test_a_folder_in_the_place_of_a_file_is_kept(name: str, folder: Path) -> None:
    (folder / name).mkdir()
    (folder / name / "precious.txt").write_text("data")
    assert refused(folder, folder, ALL) == f"'{folder / name}' is a folder, and a montage has a file of that name."


def test_folder_named_like_earlier_montage_file_is_kept(folder: Path) -> None:
    made(folder, folder)
    (folder / "montage.jpg").mkdir()
    (folder / "montage.jpg" / "precious.txt").write_text("data")
    assert "montage.jpg' is a folder" in refused(folder, folder)


def test_foreign_page_and_tile_folder_are_never_overwritten(folder: Path) -> None:
    """What an earlier montage with a montage.dzi wrote there is replaced."""
    (folder / "montage_files").write_text("mine")
    assert "montage_files' is a file, and a montage has a folder of that name." in refused(folder, folder, DZI)
    (folder / "montage_files").unlink()
    (folder / "montage_files" / "mine").mkdir(parents=True)
    assert "montage_files' has files in it that are no montage's: there is no montage.dzi beside it." in refused(folder, folder, DZI)
    (folder / "montage_files" / "mine").rmdir()
    (folder / "index.html").write_text("<h1>mine</h1>")
    assert "index.html' is no montage's page: there is no montage.dzi beside it." in refused(folder, folder, DZI)
    made(folder, folder, PNG)
    assert (folder / "index.html").read_text() == "<h1>mine</h1>"
    (folder / "index.html").unlink()
    made(folder, folder, DZI)
    made(folder, folder, DZI)
    assert (folder / "montage_files" / "0" / "0_0.jpg").is_file()


@pytest.mark.skipif(os.name == "nt", reason="no name has a null byte there")
def test_names_that_no_file_can_have_are_slides_that_fail(folder: Path) -> None:
    made(folder, folder)
    place = LocalFolder(folder)
    entries = [SlideEntry("a", "a.png"), SlideEntry("b", "b\0.png"), SlideEntry("c", "c" * 5000), SlideEntry("d", "")]
    result = make_montage(MontageRequest(folder, 60, formats=PNG), entries, place, ignore)
    assert [cell.is_ok for cell in result.cells] == [True, False, False, False]


@pytest.mark.skipif(os.name == "nt", reason="pipes have no place in folders there")
def test_a_pipe_that_is_called_as_the_record_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "montage.csv")
    slide(folder, "montage.jpg")
    found: list[tuple[list[str], list[str]]] = []
    thread = Thread(target=lambda: found.append(earlier_files(folder, ["montage.png"])), daemon=True)
    thread.start()
    thread.join(60)
    with suppress(OSError):
        os.close(os.open(folder / "montage.csv", os.O_WRONLY | os.O_NONBLOCK))  # whoever waits goes on
    assert found == [([], ["montage.jpg"])]
