"""Tests of the slides of a montage: those of a folder, a pattern or a CSV file, without those that a list of ids
excludes.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, NotFound
from himl_cli.core.events import Event, Notice
from himl_cli.slides import output_folder
from himl_cli.slides.query import (
    HEADERS,
    LocalFolder,
    Pattern,
    SlideQuery,
    list_slides,
    local_dataset,
    parse_ids,
    read_ids,
    read_table,
    with_labels,
)
from himl_cli.slides.slide_records import SlideEntry, SlideFolder, SlideUnreadable
from tests.support.folders import files_below
from tests.support.hostile_texts import SECONDS, within
from tests.support.slides import slide_picture, write_dicom


@dataclass
class Folder:
    """A dataset folder, and the events of listing its slides."""

    root: Path
    said: list[str] = field(default_factory=list)

    def lay(self, *names: str) -> Folder:
        for name in names:
            self.write(name, b"x")
        return self

    def write(self, name: str, content: bytes | str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def slides(
        self,
        *,
        glob: str | None = None,
        csv: str | None = None,
        include: Path | None = None,
        exclude: Path | None = None,
    ) -> list[SlideEntry]:
        def note(event: Event) -> None:
            assert isinstance(event, Notice)
            self.said.append(event.text)

        return list_slides(LocalFolder(self.root), SlideQuery(glob, csv, include, exclude), note)

    def ids(self, **query: str | Path | None) -> list[str]:
        return [slide.slide_id for slide in self.slides(**query)]  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    root = tmp_path / "slides"
    root.mkdir()
    return Folder(root)


def refused(folder: Folder, kind: type[HimlError] = BadUsage, **query: str | Path | None) -> HimlError:
    with pytest.raises(kind) as caught:
        folder.slides(**query)  # type: ignore[arg-type]
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_files_with_the_extension_of_a_slide_are_slides(folder: Folder) -> None:
    slides = ["A.SVS", "b.ome.tif", "c.Tiff", "d.mrxs", "e.ndpi", "f.png", "g.jpeg", "h.dcm", "i.qptiff"]
    folder.lay(
        *slides,
        "notes.txt",
        "labels.csv",
        "d/Data0000.dat",
        "tiff",
        "x.tiff.bak",
        ".hidden.tiff",
        ".hidden/y.tiff",
        "._A.svs",
    )
    assert folder.slides() == [SlideEntry(name, name) for name in slides]
    deep = Folder(folder.root / "deep").lay("b/1.tiff", "a/2%26E.tiff", ".thumbs/1.tiff")
    assert deep.slides() == [SlideEntry("2&E.tiff", "a/2%26E.tiff"), SlideEntry("1.tiff", "b/1.tiff")]
    assert deep.lay("a/1.tiff", "c/1.txt").ids() == ["a/1.tiff", "a/2&E.tiff", "b/1.tiff"]
    assert folder.said == deep.said == []


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
def test_names_of_any_bytes_are_slides(folder: Folder) -> None:
    (folder.root / "caf\udce9.tiff").write_bytes(b"pixels")
    assert folder.slides() == [SlideEntry("caf\udce9.tiff", "caf\udce9.tiff")]
    assert folder.ids(include=folder.write("list", r"caf\xe9.tiff")) == ["caf\udce9.tiff"]
    assert folder.said == []
    place = LocalFolder(folder.root)
    assert place.has("caf\udce9.tiff")
    with place.local_path("caf\udce9.tiff") as path:
        assert path.read_bytes() == b"pixels"


def test_local_folders_give_paths_and_texts_or_say_what_is_wrong(folder: Folder) -> None:
    assert str(refused(folder, NotFound)) == f"No slides in folder '{folder.root}', which has no files."
    folder.lay("a.txt", "b.dat", "montage.csv")
    assert "No slides among the 3 files in " in str(refused(folder, NotFound))
    with pytest.raises(NotFound, match=r"There is no folder '.*nowhere'\."):
        list(LocalFolder(folder.root / "nowhere").names())
    place: SlideFolder = LocalFolder(folder.root)
    assert (place.label, place.is_rereadable) == (f"folder '{folder.root}'", True)
    with place.local_path("sub/1.tiff") as one, place.local_path(str(folder.root.parent / "x")) as other:
        assert (one, other) == (folder.root / "sub/1.tiff", folder.root.parent / "x")
    with pytest.raises(SlideUnreadable, match="the path of its image is empty"), place.local_path(""):
        pass
    folder.write("plain.csv", "\ufeffä\r\n".encode())
    assert place.text("plain.csv") == "ä\r\n"
    folder.write("plain.csv", "ä".encode("latin-1"))
    with pytest.raises(BadUsage, match=r"plain\.csv' is not UTF-8 text \(byte 0\)\."):
        place.text("plain.csv")
    folder.write("plain.csv", gzip.compress(b"image,slide_id"))
    with pytest.raises(BadUsage, match=r"plain\.csv' is compressed with gzip\.") as packed:
        place.text("plain.csv")
    assert packed.value.hint == "Decompress it first."
    with pytest.raises(DiskFailed, match=rf"Cannot read '{folder.root}': "):
        place.text("")


def test_an_earlier_montage_is_no_slide_and_that_is_said(folder: Folder) -> None:
    own = ["montage.png", "montage.jpg", "montage.csv", "montage.dzi", "index.html", "montage_files/12/10_0.jpg"]
    mine = [f"outputs/montage_files/{name}" for name in ("12/0_0.tiff", "12/mine.jpg", "12/x/0_0.jpg", "mine.tiff")]
    folder.lay(
        "a.tiff", "sub/montage_files/b.tiff", "sub/montage.png", *own, *(f"outputs/{name}" for name in own), *mine
    )
    folder.lay("outputs/.montage.himl-part/new/montage.png", "z/montage.csv", "z/montage_files/1/0_0.jpg")
    slides = ["a.tiff", *mine, "sub/montage.png", "sub/montage_files/b.tiff", "z/montage_files/1/0_0.jpg"]
    for glob in (None, "**/*"):
        assert [slide.image for slide in folder.slides(glob=glob)] == slides
    assert (
        folder.said[0] == "Omitting files of earlier montages and tiles: 'montage.jpg', 'montage.png', "
        "'montage_files/12/10_0.jpg' and 3 more."
    )
    assert len(folder.said) == 2


PARTS = ["**", "*", "a", "b", "a*", "*b", "?", "[ab]", "[!a]", "*.t", ".*", "[", "A"]


def test_patterns_start_at_the_folder_and_many_stars_take_no_time(folder: Folder) -> None:
    folder.lay("1.tiff", "a/2.tiff", "a/x.bin", ".c/4.tif").write("dataset.csv", "image,slide_id\n1.tiff,one\n")
    for glob, expected in {
        "/**/*.tiff": ["1.tiff", "a/2.tiff"],
        "./*.tiff": ["1.tiff"],
        "a/**": ["a/2.tiff", "a/x.bin"],
        "**/*.tif": [".c/4.tif"],
    }.items():
        assert [slide.image for slide in folder.slides(glob=glob)] == expected
    assert folder.said == []
    for glob in ("*.svs", "1.tiff/**", "/tmp/*.tiff", "["):
        assert (
            str(refused(folder, glob=glob))
            == f"--image_glob '{glob}' matches no file in folder '{folder.root}', which has 5 files."
        )
    for glob, reason in {"../*.tiff": "leaves the folder", "": "is empty", "/": "is empty"}.items():
        assert reason in str(refused(folder, glob=glob))
    pattern = Pattern("/".join(["**", "*"] * 12) + "/**/x")
    assert not pattern.matches("/".join(["a"] * 200))
    assert pattern.matches("/".join(["a"] * 200) + "/x")
    with within(SECONDS):
        assert not Pattern("**/" * 333 + "x").matches("/".join(["a"] * 200))
        assert not Pattern("*a" * 25 + "b").matches("a" * 200)
    with pytest.raises(BadUsage, match=r"--image_glob has 20,001 characters\. The maximum is 1,000"):
        Pattern("*" + "[" * 20_000)
    assert [
        Pattern("A\\*", windows=windows).matches(name)
        for windows, name in ((False, "A\\b"), (False, "A/b"), (True, "a/b"))
    ] == [True, False, True]


@pytest.mark.large("compares many patterns")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).filter(lambda parts: parts[-1] != "**"))
def test_patterns_match_what_path_glob_finds(folder: Folder, parts: list[str]) -> None:
    folder.lay("a", "b/a", "b/b", "c/a/b", "c/ab/a/x.t", "c/.h/y.t", ".h/a", "b/ab", "[", "c/b/c/b")
    glob, names = "/".join(parts), [path.relative_to(folder.root).as_posix() for path in files_below(folder.root)]
    found = {path.relative_to(folder.root).as_posix() for path in folder.root.glob(glob) if path.is_file()}
    pattern = Pattern(glob)
    assert {name for name in names if pattern.matches(name)} == found


def test_the_csv_of_a_folder_is_used_or_the_one_that_is_named(folder: Folder) -> None:
    folder.lay("1.tiff", "2.tiff").write(
        "dataset.csv", "slide_id,image,label,mask,site\n007,2.tiff,1,m/2.png,x\nnan,gone.tiff,,,y\n"
    )
    assert folder.slides() == [
        SlideEntry("007", "2.tiff", "1", "m/2.png", {"site": "x"}),
        SlideEntry("nan", "gone.tiff", more={"site": "y"}),
    ]
    assert folder.said == [
        f"Using the slides in dataset.csv of folder '{folder.root}'. To use the files of the folder, add "
        "--image_glob, such as '**/*.tiff'."
    ]
    folder.said.clear()
    folder.write("other.csv", "image,slide_id\n2.tiff,two\n")
    assert folder.ids(csv="other.csv") == ["two"]
    assert folder.said == []
    assert "'other.csv' is a CSV" in str(refused(folder, csv="other.csv", glob="*.tiff"))
    with pytest.raises(NotFound, match=r"There is no file '.*third\.csv'"):
        folder.slides(csv="third.csv")
    assert [local_dataset(each)[1] for each in (folder.root, folder.root / "other.csv")] == [None, "other.csv"]
    assert [local_dataset(each)[0].folder for each in (folder.root, folder.root / "other.csv")] == [
        folder.root,
        folder.root,
    ]
    with pytest.raises(NotFound, match=r"There is no folder or CSV '.*gone'\."):
        local_dataset(folder.root / "gone")
    with pytest.raises(BadUsage, match="neither a folder nor a CSV") as caught:
        local_dataset(folder.write("a[1].svs", b"x"))
    assert (
        caught.value.hint
        == f"To select one slide, use its folder: {shlex.join([str(folder.root), '--image_glob', 'a[[]1].svs'])}"
    )
    assert folder.ids(glob="a[[]1].svs") == ["a[1].svs"]
    folder.write(
        "montage.csv", ",".join(output_folder.COLUMNS) + "\n" + "a" + "," * (len(output_folder.COLUMNS) - 1) + "\n"
    )
    error = refused(folder, csv="montage.csv")
    assert str(error) == "'montage.csv' describes a montage, and is not a list of slides."
    assert error.hint == "Use the folder of the slides, and this file with --include_by_slide_id."


def test_images_are_relative_to_the_csv(folder: Folder, tmp_path: Path) -> None:
    away = str(tmp_path / "away.tiff")
    lines = f"1.tiff,a,./m.png\n../2.tiff,b,../../m.png\n../../../3.tiff,c,\n{away},d,\nx/../4.tiff,e,\nD:\\5.tiff,f,\n"
    folder.write("sub/deep/list.csv", f"image,slide_id,mask\n{lines}")
    slides = folder.slides(csv="sub/deep/list.csv")
    assert [slide.image for slide in slides] == [
        "sub/deep/1.tiff",
        "sub/2.tiff",
        "../3.tiff",
        away,
        "sub/deep/x/../4.tiff",
        "D:\\5.tiff",
    ]
    assert [slide.mask for slide in slides] == ["sub/deep/m.png", "m.png", *[None] * 4]
    if sys.platform != "win32":
        folder.lay("a/1.tiff", "a\\2.tiff", "a/2.tiff").write(
            "dataset.csv", "image,slide_id\na\\1.tiff,1\na\\2.tiff,2\na\\3.tiff,3\n"
        )
        assert [slide.image for slide in folder.slides()] == ["a/1.tiff", "a\\2.tiff", "a\\3.tiff"]


def test_a_tilde_is_the_home_folder(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.root.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.root.parent))
    folder.lay("~b.tiff").write("dataset.csv", "Image, Slide_ID ,MASK\n ~/x.tiff , a , ~/m.png\n~b.tiff,b,\n")
    assert folder.slides() == [
        SlideEntry("a", os.path.join(folder.root.parent, "x.tiff"), mask=os.path.join(folder.root.parent, "m.png")),
        SlideEntry("b", "~b.tiff"),
    ]


def test_repeated_and_missing_ids_stay_and_are_named_once(folder: Folder) -> None:
    folder.write("dataset.csv", "image,slide_id\n1.tiff,a\n2.tiff,a\n3.tiff,b\n")
    assert [slide.image for slide in folder.slides()] == ["1.tiff", "2.tiff", "3.tiff"]
    folder.write("dataset.csv", "image,slide_id\n" + "".join(f"{n}.tiff,{n % 5}\n" for n in range(10)))
    assert len(folder.slides()) == 10
    folder.write("dataset.csv", "image,slide_id\n,a\n  ,b\n\nsub/2.tiff,\n")
    assert folder.slides() == [SlideEntry("a", ""), SlideEntry("b", ""), SlideEntry("sub/2.tiff", "sub/2.tiff")]
    assert folder.said[1::2] == [
        "One slide id occurs several times, and all its slides are shown: 'a' (2 times).",
        "5 slide ids occur several times, all slides are shown: '0' (2 times), '1' (2 times), '2' (2 "
        "times) and 2 more.",
        "'dataset.csv': without a slide_id, and named after their images: line 5.",
    ]


values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.text(
    "a,;\t\" \r\n'é", max_size=6
)
slides = st.lists(
    st.tuples(values, values, values, values).filter(lambda row: any(value.strip() for value in row)),
    min_size=1,
    max_size=6,
)
COLUMNS = ("image", "slide_id", "label", "mask")


def read(text: str) -> list[tuple[str, ...]]:
    return [tuple(values) for _, values, _ in read_table(text, "dataset.csv")]


@pytest.mark.large("takes long, and other tests run its branches")
@given(
    slides,
    st.sampled_from(",;\t"),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.permutations([*COLUMNS, "site"]),
    st.booleans(),
)
def test_a_csv_that_is_written_is_read_back(
    rows: list[tuple[str, ...]], separator: str, line_end: str, columns: list[str], is_quoted: bool
) -> None:
    # With minimal quoting, the csv module does not quote line ends of other systems.
    quoting: Literal[0, 1] = csv.QUOTE_ALL if is_quoted or line_end != "\r\n" else csv.QUOTE_MINIMAL
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text, columns, restval="elsewhere", delimiter=separator, lineterminator=line_end, quoting=quoting
    )
    writer.writeheader()
    writer.writerows(dict(zip(COLUMNS, row, strict=True)) for row in rows)
    assert read(text.getvalue()) == [tuple(value.strip() for value in row) for row in rows]


def test_ways_to_write_the_same_csv() -> None:
    for text in (
        "image,slide_id\ra b.tiff,007",
        "\n\nimage,slide_id\n\n,\na b.tiff,007\n , \n",
        "image , slide_id\na b.tiff, 007\n",
        '"image", "slide_id"\n"a b.tiff", "007"\n',
        "Image;Slide_ID;remark, if any, or none, or more\na b.tiff;007;x\n",
        "sep=;\nimage;slide_id\na b.tiff;007\n",
        '"SEP=|"\r\nimage|slide_id\r\na b.tiff|007\r\n',
        "sep=\t\nslide_id\timage\n007\ta b.tiff\n",
        "n,image,,slide_id,\n1,a b.tiff,,007,\n",
    ):
        assert read(text) == [("a b.tiff", "007", "", "")], text
    assert read("image,slide_id\n a b.tiff , b \n") == [("a b.tiff", "b", "", "")]


WRONG = [
    (" \n\n", "'dataset.csv' is empty."),
    ("image,slide_id\n,\n", "'dataset.csv' has no rows below its header."),
    ("image_id;isup;site\na;b;c\n", "'dataset.csv' has no column 'image', only 'image_id', 'isup', 'site'."),
    (
        ",".join(f"c{n}" for n in range(14)),
        "'dataset.csv' has no column 'image', only " + "".join(f"'c{n}', " for n in range(12))[:-2] + " and 2 more.",
    ),
    ("image,slide_id,Image\na,b,c\n", "'dataset.csv' has 2 columns 'image'."),
    ("image,slide_id,case,Case\na,b,c,d\n", "'dataset.csv' has 2 columns 'case'."),
    ("image,slide_id\na\nb,c\nd,e,f\n", "'dataset.csv': the header has 2 fields, but line 2 has 1, line 4 has 3."),
    ("sep=;", "'dataset.csv' has no column 'image', only 'sep=', ''."),
    ('image,slide_id\na,"b\nc"\nd\n', "'dataset.csv': the header has 2 fields, but line 4 has 1."),
    ('image,slide_id\na,b\n"c,d\ne,f\n', "'dataset.csv', line 3: unexpected end of data."),
    ("image,slide_id\n" + "x" * 200_000 + ",a\n", "'dataset.csv', line 2: field larger than field limit (131072)."),
    ("image,slide_id\na\0,b\n", "'dataset.csv' is not a CSV, because it contains NUL bytes."),
]


def test_what_is_wrong_with_a_csv_is_said() -> None:
    for text, expected in WRONG:
        with pytest.raises(BadUsage) as caught:
            read(text)
        assert str(caught.value) == expected
        assert caught.value.hint


@pytest.fixture
def lists(folder: Folder, tmp_path: Path) -> Folder:
    folder.lay("a/1.tiff", "a/2.tiff", "b/3.tiff", "H%26E.tiff")
    return Folder(tmp_path)


def test_included_are_shown_in_the_order_of_the_folder(folder: Folder, lists: Folder) -> None:
    def included(text: str) -> list[str]:
        return folder.ids(include=lists.write("list.txt", text))

    assert included("3.tiff\n1.tiff\n1.tiff\n") == ["1.tiff", "3.tiff"]
    assert folder.ids(exclude=lists.write("list.txt", "2.tiff")) == ["H&E.tiff", "1.tiff", "3.tiff"]
    assert included("H&E.tiff") == included("H%26E.tiff") == ["H&E.tiff"]
    assert included("a/1.tiff") == ["1.tiff"]
    assert included("1\n2\n") == included("a/1\na/2\n") == ["1.tiff", "2.tiff"], "as --labels"
    folder.lay("b/1.tiff")
    assert included("a/1.tiff") == ["a/1.tiff"]
    assert included("1.tiff") == ["a/1.tiff", "b/1.tiff"]
    assert folder.said == []
    folder.write("dataset.csv", "image,slide_id\na/1.tiff,one\na/2.tiff,two\nb/3.tiff,two\n")
    for content in (
        "one",
        "case_id,slide_id\n7,one\n",
        ",Slide_ID\n0,one\n",
        ";image\n0;one\n",
        "image\tslide_id\na/1.tiff\tone\n",
        "sep=;\ncase_id;slide_id\n7;one\n",
    ):
        assert folder.ids(exclude=lists.write("list.txt", content)) == ["two", "two"]
    path = lists.write("list.txt", "one\na/2.tiff\n")
    assert str(refused(folder, exclude=path)) == f"--exclude_by_slide_id: '{path}': no slide has the id 'a/2.tiff'."


@pytest.mark.parametrize(
    ("text", "on", "label", "more", "said"),
    [
        ("slide_id,label,patient\n1.tiff,tumor,P1\n", None, "tumor", {"patient": "P1"}, ""),
        # CLAM, PANDA and slideflow
        ("case_id,slide_id,label\nP1,1,tumor\n", None, "tumor", {"case_id": "P1"}, ""),
        (
            "image_id,data_provider,isup_grade\n1,karolinska,3\n",
            None,
            "3",
            {"data_provider": "karolinska"},
            "column 'image_id' (see --on), labels are in column 'isup_grade'",
        ),
        (
            "patient;slide;category\nP1;1;LUAD\n",
            None,
            "LUAD",
            {"patient": "P1"},
            "column 'slide' (see --on), labels are in column 'category'",
        ),
        (
            ",Slide_ID, Stage \n0,1,II\n",
            None,
            None,
            {"Stage": "II"},
            "no column is named label or isup_grade or category",
        ),
        ("slide_id,scan,label\nx,1.tiff,tumor\n", "Scan", "tumor", {"slide_id": "x"}, "column 'scan'"),
    ],
)
def test_labels_of_another_csv_are_joined(
    folder: Folder, lists: Folder, text: str, on: str | None, label: str | None, more: dict[str, str], said: str
) -> None:
    slides, told = folder.slides(), list[str]()

    def note(event: Event) -> None:
        assert isinstance(event, Notice)
        told.append(event.text)

    path = lists.write("labels.csv", text)
    found = {slide.slide_id: slide for slide in with_labels(slides, path, on, note)}
    assert (found["1.tiff"].label, found["1.tiff"].more) == (label, more)
    assert (found["2.tiff"].label, found["2.tiff"].more) == (None, {})
    assert told.pop() == f"'{path}' has no row for: 'H&E.tiff', '2.tiff', '3.tiff'."
    assert [said in each for each in told] == ([True] if said else [])


@pytest.mark.parametrize(
    ("text", "on", "problem", "hint"),
    [
        (
            "case,label\n1,a\n",
            None,
            "has no column 'slide_id', only 'case', 'label'.",
            "Name the column with the ids of slides: --on NAME",
        ),
        ("slide_id,label\n1,a\n", "scan", "has no column 'scan', only 'slide_id', 'label'.", "Name the column"),
        ("slide_id,label\n1,a\n1,b\n", None, "lines 2 and 3: different rows for '1'.", "Keep one of them."),
        (
            "slide_id,label\n7,a\n",
            None,
            "has no row for any of the 4 slides.",
            "An id of a slide is 'H&E.tiff'. Name the column",
        ),
        ("slide_id,label\n1\n", None, "the header has 2 fields, but line 2 has 1.", "Each line"),
        ("slide_id,label,Label\n1,a,b\n", None, "has 2 columns 'label'.", "Rename or remove all but one."),
        ("slide_id,label\n", None, "has no rows below its header.", "Add a row"),
        ("", None, "is empty.", "Name the column"),
    ],
)
def test_labels_that_cannot_be_joined_are_refused(
    folder: Folder, lists: Folder, text: str, on: str | None, problem: str, hint: str
) -> None:
    with pytest.raises(BadUsage) as caught:
        with_labels(folder.slides(), lists.write("labels.csv", text), on, lambda event: None)
    assert problem in str(caught.value)
    assert caught.value.hint.startswith(hint)


def test_empty_lists_and_unknown_ids_are_named(folder: Folder, lists: Folder) -> None:
    for content in ("", "slide_id\n", "\ufeff", "slide_id,reason\n\n"):
        path = lists.write("list.txt", content)
        assert len(folder.ids(exclude=path)) == 4
        assert folder.said == []
        assert (
            str(refused(folder, include=path))
            == f"--include_by_slide_id: '{path}' has no ids, so that no slides remain."
        )
    path = lists.write("list.txt", "\n".join(["1.tiff", *(f"x{n}" for n in range(1500)), "y" * 300]))
    for option, error in (("include", refused(folder, include=path)), ("exclude", refused(folder, exclude=path))):
        assert (
            str(error)
            == f"--{option}_by_slide_id: '{path}': no slides have these 1,501 ids: 'x0', 'x1', 'x2' and 1,498 more."
        )
    error = refused(folder, exclude=lists.write("list.txt", "1.tif\n" + "y" * 300))
    assert str(error).endswith(f"no slides have these 2 ids: '1.tif', '{'y' * 79}…'.")
    assert error.hint.startswith("Did you mean '1.tiff' or 'a/1.tiff'? The list must be")
    every = lists.write("all.txt", "1.tiff\n2.tiff\n3.tiff\nH&E.tiff\n")
    assert str(refused(folder, exclude=every)) == f"--exclude_by_slide_id: '{every}' excludes all 4 slides."


def test_what_is_no_list_is_refused(folder: Folder, lists: Folder) -> None:
    # himl reads the lists before the folder.
    gone = Folder(folder.root / "gone")
    with pytest.raises(BadUsage, match=r"--include_by_slide_id: there is no file '.*no'"):
        gone.slides(include=lists.root / "no")
    with pytest.raises(BadUsage, match=r"--exclude_by_slide_id: cannot read"):
        folder.slides(exclude=lists.root)
    with pytest.raises(BadUsage, match=r"is not UTF-8 text"):
        folder.slides(exclude=lists.write("list", b"II*\0\xff\xfe"))
    assert "NUL bytes" in str(refused(folder, exclude=lists.write("list", b"II*\0")))
    for content in ('slide_id,b\n"x,y\n', "b,slide_id\n1.tiff\n", "slide_id,Slide_ID\n1.tiff,2.tiff\n"):
        assert "is a malformed CSV" in str(refused(folder, exclude=lists.write("list", content)))
    huge = lists.write("huge", b"")
    os.truncate(huge, (64 << 20) + 1)
    assert "larger than 64 MiB" in str(refused(folder, exclude=huge))


line_ids = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), min_size=1, max_size=12)
    .map(str.strip)
    .filter(bool)
)


@pytest.mark.large("takes long, and other tests run its branches")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(line_ids, max_size=6),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["", " ", "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@example(["a,b", 'c"d', '"e"', "#f"], "\n", "", "utf-8")
def test_a_line_is_an_id(tmp_path: Path, ids: list[str], line_end: str, around: str, encoding: str) -> None:
    text = line_end.join(["", *(f"{around}{each}{around}" for each in ids), around])
    ids = list(dict.fromkeys(ids))
    if ids and not HEADERS.isdisjoint(name.strip(' "').casefold() for name in re.split("[,;\t]", ids[0])):
        return
    (tmp_path / "ids.csv").write_bytes(text.encode(encoding))
    assert read_ids(tmp_path / "ids.csv", "--include_by_slide_id") == ids


def test_headers_and_what_only_looks_like_one() -> None:
    texts = {
        "slide_id\na,b\n": ["a,b"],
        "slide_id,why\na,b\n": ["a"],
        ' "slide_id" ; "why"\n"a;b";c\n': ["a;b"],
        "\n\nfilename\na\n": ["a"],
    }
    texts |= {
        "case,why\na,b\n": ["case,why", "a,b"],
        "a\nslide_id\n": ["a", "slide_id"],
        "x" * 200_000 + "\na\n": ["x" * 200_000, "a"],
    }
    assert {text: [*filter(None, parse_ids(text))] for text in texts} == texts


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there, and there are no pipes")
def test_links_are_followed_loops_end_broken_ones_listed(folder: Folder, tmp_path: Path) -> None:
    """Links with a loop, broken links, and pipes with a slide's name become failed slides, so that users notice
    them.
    """
    folder.lay("a/1.tiff", "notes.txt", ".himl/runs/r/outputs/montage.png", ".hidden/x.tiff", ".a.tiff.himl-part")
    other = Folder(tmp_path / "other").lay("2.tiff").root
    links = {
        "linked.tiff": other / "2.tiff",
        "broken.tiff": tmp_path / "gone",
        "dead.txt": Path("nowhere"),
        "others": other,
        "a/up": folder.root,
    }
    for name, target in (*links.items(), ("self", folder.root / "self")):
        (folder.root / name).symlink_to(target)
    place = LocalFolder(folder.root)
    assert list(place.names()) == [
        ".hidden/x.tiff",
        "a/1.tiff",
        "broken.tiff",
        "dead.txt",
        "linked.tiff",
        "notes.txt",
        "others/2.tiff",
        "self",
    ]
    assert place.has("linked.tiff")
    assert place.has(str(other / "2.tiff"))
    assert not any(map(place.has, ["broken.tiff", "", "a", "2.tiff", "x" * 5000, "nul\0.tiff"]))
    os.mkfifo(folder.root / "pipe.tiff")
    assert folder.ids() == ["1.tiff", "broken.tiff", "linked.tiff", "2.tiff", "pipe.tiff"]
    assert folder.ids(glob="bro*f") == ["broken.tiff"]


AS_SOMEBODY = """
import os
import re
from pathlib import Path
from himl_cli.core.errors import DiskFailed
from himl_cli.slides.query import LocalFolder
if os.geteuid() == 0:
    os.setuid(54321)
try:
    print(*LocalFolder(Path()).names())
except DiskFailed as err:
    print(err)
"""


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.skipif(sys.platform == "win32", reason="permissions are other ones there")
def test_a_folder_that_may_not_be_listed_is_named(folder: Folder) -> None:
    closed = folder.lay("1.tiff", "closed/1.tiff").root / "closed"
    closed.chmod(0)
    try:
        ran = subprocess.run(
            [sys.executable, "-c", AS_SOMEBODY], cwd=folder.root, capture_output=True, text=True, check=True
        )
    finally:
        closed.chmod(0o700)
    assert ran.stdout.strip() == "Cannot list folder 'closed': Permission denied."


def test_parts_of_slides_are_no_slides(folder: Folder) -> None:
    """The files of a DICOM series in one folder are one slide, with or without an extension. A `.vms` lists its images,
    and a `.mrxs` has a folder of its name."""
    picture = slide_picture(1, (100, 80))
    folder.lay("x", "old/x")
    for number in range(3):
        write_dicom(folder.root / f"a{number}.dcm", picture[:: 2**number, :: 2**number], "1.2.4", number + 1)
        write_dicom(folder.root / "old" / f"{number}.dcm", picture, "1.2.4", number + 1)
    write_dicom(folder.root / "a9.DCM", picture[:20, :30], "1.2.4", 9, image_type="LABEL")
    write_dicom(folder.root / "b1", picture, "1.2.5", 1)
    write_dicom(folder.root / "b2", picture[::2, ::2], "1.2.5", 2)
    folder.write(
        "s.vms",
        "[Virtual Microscope Specimen]\r\nImageFile=s.jpg\r\nImageFile(1,0)=s(1,0).jpg\r\nMacroImage=s_macro.jpg\r\n",
    )
    folder.lay(
        "s.jpg",
        "s(1,0).jpg",
        "s_macro.jpg",
        "s 2.jpg",
        "broken.dcm",
        "m.mrxs",
        "m/Slidedat.ini",
        "m/sub/label.png",
        "n.mrxs",
        "n/a.png",
    )
    assert [slide.image for slide in folder.slides()] == [
        "a0.dcm",
        "broken.dcm",
        "m.mrxs",
        "n.mrxs",
        "n/a.png",
        "old/0.dcm",
        "s 2.jpg",
        "s.vms",
    ]
    assert folder.ids(glob="b*") == ["b1", "broken.dcm"]
    assert folder.ids(glob="s*.jpg") == ["s 2.jpg", "s(1,0).jpg", "s.jpg", "s_macro.jpg"], (
        "without the .vms they are pictures"
    )
    assert folder.ids(glob="a1.dcm") == ["a1.dcm"]
    folder.said.clear()
    csv = folder.write("list.csv", "slide_id,image\na,a0.dcm\nb,old/0.dcm\nc,a1.dcm\nd,a0.dcm\n")
    assert folder.ids(csv=csv.name) == ["a", "b", "c", "d"]
    assert folder.said == ["'list.csv': these files show the slides of earlier lines (DICOM series): 'a1.dcm'."]
