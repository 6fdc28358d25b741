"""Tests of a montage's files: its folder before, during and after the command, however that ends, its record, and files
that it must not replace.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from threading import enumerate as enumerate_threads
from typing import Any

import numpy as np
import pytest
from PIL import Image

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError
from himl_cli.core.events import Event, Notice, ignore
from himl_cli.slides.compose import make_montage
from himl_cli.slides.output_folder import STAGING, earlier_files, output_folder, publish, write_record
from himl_cli.slides.query import LocalFolder, SlideQuery, list_slides, local_lists
from himl_cli.slides.slide_records import Box, CellOutcome, ImageFormat, MontageRequest, SlideEntry
from tests.support.folders import SmallDisk, contents
from tests.support.montages import left_in, rows_of
from tests.support.running import write_files
from tests.support.slides import slide_picture, write_tiff

PNG, DZI, ALL = (ImageFormat.png,), (ImageFormat.dzi,), tuple(ImageFormat)
needs_links = pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")


def test_files_and_folders_take_their_places_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_files(
        out,
        dict.fromkeys(
            ("montage.png", "montage_files/0/0_0.jpg", "montage_files/9/0_0.jpg", "montage.jpg", "other.txt"), b"old"
        ),
    )
    with output_folder(out) as new:
        write_files(new, dict.fromkeys(("montage.png", "montage_files/0/0_0.jpg", "montage.csv"), b"new"))
        with pytest.raises(HimlError, match="Another himl montage is writing to"), output_folder(out):
            pytest.fail("entered")
        assert (out / "montage.png").read_bytes() == b"old"
        publish(out, ["montage.png", "montage_files", "montage.csv"], ["montage.jpg"])
    assert contents(out) == {
        "montage.csv": b"new",
        "montage.png": b"new",
        "montage_files/0/0_0.jpg": b"new",
        "other.txt": b"old",
    }
    assert not (out / STAGING).exists()
    with output_folder(out):
        pass


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    write_files(tmp_path, {"out/montage.png": "old"})
    (tmp_path / "empty").mkdir()
    for name in ("out", "empty", "made/below"):
        with suppress(KeyboardInterrupt), output_folder(tmp_path / name) as new:
            write_files(new, {"montage.png": "new", "montage.csv": "new"})
            raise KeyboardInterrupt
    assert sorted(os.listdir(tmp_path)) == ["empty", "home", "out"]
    assert (os.listdir(tmp_path / "empty"), os.listdir(tmp_path / "out")) == ([], ["montage.png"])
    assert (tmp_path / "out" / "montage.png").read_text() == "old"


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL there")
def test_what_a_killed_montage_left_is_removed(tmp_path: Path) -> None:
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from himl_cli.slides.output_folder import output_folder
        with output_folder(Path("out")) as new:
            (new / "montage.png").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / "out" / STAGING / "new" / "montage.png").exists()
    with output_folder(tmp_path / "out") as new:
        assert os.listdir(new) == []
    assert os.listdir(tmp_path / "out") == []


def test_a_file_or_dead_link_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    said = "'link' is a link to 'nowhere', which does not exist"
    for name, reason in {
        "out": "it is a file",
        "out/below": "Cannot write to",
        "link": said,
        "link/below": said,
    }.items():
        with pytest.raises(BadUsage if "link" in name else DiskFailed, match=reason), output_folder(tmp_path / name):
            pytest.fail("entered")
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "nowhere").exists()


def slide(folder: Path, name: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(slide_picture(1, (20, 16))).save(folder / name, format="PNG")
    return folder / name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for both the slides and the montage, with one slide."""
    return slide(tmp_path / "data", "a.png").parent


def made(out: Path, data: Path, formats: Sequence[ImageFormat] = PNG, **query: str | Path | None) -> list[str]:
    events: list[Event] = []
    place, chosen = LocalFolder(data), SlideQuery(**query)  # type: ignore[arg-type]
    entries = list_slides(place, chosen, ignore)
    make_montage(
        MontageRequest(out, 60, formats=tuple(formats)), entries, place, events.append, local_lists(place, chosen)
    )
    return [event.text for event in events if isinstance(event, Notice) and "montage.jpg" in event.text]


def refused(out: Path, data: Path, formats: Sequence[ImageFormat] = PNG, **query: str | Path | None) -> str:
    before = contents(data.parent)
    with pytest.raises(BadUsage) as caught:
        made(out, data, formats, **query)
    assert caught.value.hint == "Use another folder with --output_path."
    assert contents(data.parent) == before
    return str(caught.value)


def test_new_montage_removes_files_of_earlier_montage(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_files(out, {"index.html": "mine"})
    assert made(out, folder) == []
    assert left_in(out) == ["index.html", "montage.csv", "montage.png"], "what is not known to be ours stays"
    (out / "index.html").unlink()
    made(out, folder, ALL)
    made(out, folder, ALL, include=out / "montage.csv")
    assert sorted(os.listdir(out)) == [
        "index.html",
        "montage.csv",
        "montage.dzi",
        "montage.jpg",
        "montage.png",
        "montage_files",
    ]
    (said,) = made(out, folder)
    assert left_in(out) == ["montage.csv", "montage.png"]
    assert said.startswith("Removed montage.jpg, index.html, montage.dzi and montage_files of an earlier montage")


@pytest.mark.parametrize("name", ["montage.png", "montage.jpg", "montage.dzi", "montage.csv"])
def test_foreign_files_are_never_replaced_or_removed(name: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_files(out, {name: "mine"})
    for _ in range(2):
        assert (
            refused(out, folder)
            == f"'{out / name}' does not belong to a montage, because himl's montage.csv is not in that folder."
        )
    assert ((out / name).read_text(), os.listdir(out)) == ("mine", [name])


@pytest.mark.parametrize(
    ("name", "formats"),
    [("montage.png", ALL), ("montage.jpg", PNG), ("montage_files/mine.png", PNG), ("montage_files/3/mine.png", ALL)],
)
def test_slide_named_like_montage_file_is_refused_and_kept(
    name: str, formats: Sequence[ImageFormat], folder: Path
) -> None:
    """himl refuses even if this montage has no such file. The next one would assume that it belongs to this one."""
    slide(folder, name)
    (folder / "montage.dzi").write_text("<Image/>")
    assert (
        refused(folder, folder, formats)
        == f"'{folder / name}' is a slide or a mask of this montage, but has the name of a file of the montage."
    )
    other = folder / ".." / folder.name
    assert "is a slide" in refused(other, folder)
    assert "is a slide" in refused(folder, other)


@needs_links
@pytest.mark.parametrize("name", ["montage.jpg", "montage_files/x.png"])
def test_a_slide_that_is_a_link_to_a_montage_file_is_kept(name: str, tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "out"
    slide(out, name)
    (out / "montage.dzi").write_text("<Image/>")
    (folder / "linked.png").symlink_to(out / name)
    assert "linked.png' is a slide" in refused(out, folder, ALL)
    (tmp_path / "link").symlink_to(out)
    assert "linked.png' is a slide" in refused(tmp_path / "link", folder, ALL)


def test_masks_and_lists_are_not_lost_either(folder: Path) -> None:
    slide(folder, "montage.jpg")
    write_files(folder, {"dataset.csv": "image,slide_id,mask\na.png,a,montage.jpg\n"})
    assert "montage.jpg' is a slide or a mask" in refused(folder, folder)
    (folder / "montage.jpg").unlink()
    listed, record = "image,slide_id\na.png,a\na.png,b\n", folder / "montage.csv"
    options: list[tuple[str, Any]] = [
        (listed, {"csv": "montage.csv"}),
        ("a\n", {"include": record}),
        ("b\n", {"exclude": record, "csv": "dataset.csv"}),
    ]
    for content, query in options:
        write_files(folder, {"dataset.csv": listed, "montage.csv": content})
        assert "montage.csv' is a list of slides" in refused(folder, folder, **query)


def test_a_folder_in_the_place_of_a_file_is_kept(folder: Path) -> None:
    for name in ("montage.png", "montage.csv", "index.html"):
        write_files(folder, {f"{name}/precious.txt": "data"})
        assert (
            refused(folder, folder, ALL) == f"'{folder / name}' is a folder, but a montage has a file with that name."
        )
        shutil.rmtree(folder / name)
    made(folder, folder)
    write_files(folder, {"montage.jpg/precious.txt": "data"})
    assert "montage.jpg' is a folder" in refused(folder, folder), "one that an earlier montage would have had"


def test_foreign_page_and_tile_folder_are_never_overwritten(folder: Path) -> None:
    """himl only replaces these files if an earlier montage with a montage.dzi wrote them."""
    tiles, page = folder / "montage_files", folder / "index.html"
    tiles.write_text("mine")
    assert "montage_files' is a file, but a montage has a folder with that name." in refused(folder, folder, DZI)
    tiles.unlink()
    (tiles / "mine").mkdir(parents=True)
    assert (
        "montage_files' contains files that are not from a montage, because there is no montage.dzi beside it."
        in refused(folder, folder, DZI)
    )
    (tiles / "mine").rmdir()
    page.write_text("<h1>mine</h1>")
    assert "index.html' is not a montage's page, because there is no montage.dzi beside it." in refused(
        folder, folder, DZI
    )
    made(folder, folder, PNG)
    assert page.read_text() == "<h1>mine</h1>"
    page.unlink()
    for _ in range(2):
        made(folder, folder, DZI)
    assert (tiles / "0" / "0_0.jpg").is_file()


@pytest.mark.skipif(os.name == "nt", reason="pipes have no place in folders there")
def test_a_pipe_that_is_called_as_the_record_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "montage.csv")
    slide(folder, "montage.jpg")
    found: list[BadUsage] = []

    def look() -> None:
        try:
            earlier_files(folder, ["montage.png"])
        except BadUsage as err:
            found.append(err)

    thread = Thread(target=look, daemon=True)
    thread.start()
    thread.join(60)
    with suppress(OSError):
        # Releases the thread if it waits for the pipe.
        os.close(os.open(folder / "montage.csv", os.O_WRONLY | os.O_NONBLOCK))
    assert [str(err) for err in found] == [
        f"'{folder / 'montage.jpg'}' does not belong to a montage, because himl's montage.csv is not in that folder."
    ]


def test_a_full_disk_is_told_and_what_was_there_stays(small_disk: SmallDisk, tmp_path: Path) -> None:
    if not small_disk.is_shared:
        pytest.skip("the disk is seen by commands only")
    out, entry = small_disk.folder / "out", SlideEntry("a", "noise.tiff")
    write_tiff(
        tmp_path / "noise.tiff",
        np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8),
        compression=None,
    )

    def make(width: int, format: ImageFormat) -> None:
        make_montage(
            MontageRequest(out, width, level=0, formats=(format,), workers=2), [entry], LocalFolder(tmp_path), ignore
        )

    make(300, ImageFormat.png)
    before = contents(out)
    for format in ImageFormat:
        with pytest.raises(
            DiskFailed, match=rf"^Cannot write '{out}/montage[^']*': no space left on the disk\.$"
        ) as full:
            make(6000, format)
        assert (
            full.value.hint == "Free some space, or use another folder with --output_path, and run the command again."
        )
        assert [thread.name for thread in enumerate_threads() if thread.name.startswith("himl-montage")] == []
    assert contents(out) == before
    assert [
        path
        for path in map(os.path.realpath, Path("/proc/self/fd").iterdir())
        if path.startswith(str(small_disk.folder))
    ] == []


PLACE: Any = {"column": 3, "row": 2, "box": Box(10, 20, 300, 200)}
READ = CellOutcome(
    "a",
    "a.tiff",
    "1",
    **PLACE,
    picture=Box(11, 22, 290, 180),
    level=1,
    backend="tifffile",
    is_ok=True,
    remark="level 2 is missing",
)
FAILED = CellOutcome(
    "a", "a.tiff", None, "m.png", **PLACE, picture=None, level=None, backend="", is_ok=False, reason="it is empty"
)


def test_a_line_of_the_record_tells_all_of_a_cell(tmp_path: Path) -> None:
    write_record(tmp_path / "montage.csv", [READ, FAILED, replace(READ, reason="mask: it is empty")])
    rows = rows_of(tmp_path)
    header = (
        "slide_id,label,image,mask,column,row,x,y,width,height,picture_x,picture_y,picture_width,"
        "picture_height,level,backend,status,reason,remark"
    )
    assert ",".join(rows[0]) == header
    assert ",".join(rows[0].values()) == "a,1,a.tiff,,3,2,10,20,300,200,11,22,290,180,1,tifffile,ok,,level 2 is missing"
    assert ",".join(rows[1].values()) == "a,,a.tiff,m.png,3,2,10,20,300,200,,,,,,,failed,it is empty,"
    assert (rows[2]["status"], rows[2]["reason"]) == ("mask failed", "mask: it is empty")
    texts = {"=1+1": "=1+1", 'say "x", b': 'say "x", b', "two\nlines": "two\nlines", "é \U0001f52c ‮": "é \U0001f52c ‮"}
    texts |= {"caf\udce9.tiff": "caf\\xe9.tiff", "\ud800": "\\ud800", "\0": "\\u0000", "a\rb": "a\\rb"}
    write_record(tmp_path / "montage.csv", [replace(READ, slide_id=text) for text in texts])
    assert [row["slide_id"] for row in rows_of(tmp_path)] == list(texts.values())
    with pytest.raises(DiskFailed, match=r"Cannot write .*montage\.csv.*No such file"):
        write_record(tmp_path / "gone" / "montage.csv", [READ])
