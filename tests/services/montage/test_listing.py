"""Which slides a montage shows: those of a folder, of a pattern, or of a CSV."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import tifffile

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.montage import SlideEntry
from himl_cli.services.montage import files
from himl_cli.services.montage.query import local_dataset
from tests.services.montage.listed import Folder, refused
from tests.services.montage.listed import folder as folder


class TestFolders:
    def test_files_with_the_extension_of_a_slide_are_slides(self, folder: Folder) -> None:
        slides = ["A.SVS", "b.ome.tif", "c.Tiff", "d.mrxs", "e.ndpi", "f.png", "g.jpeg", "h.dcm", "i.qptiff"]
        folder.lay(*slides, "notes.txt", "labels.csv", "d/Data0000.dat", "tiff", "x.tiff.bak", ".hidden.tiff", ".hidden/y.tiff", "._A.svs")
        assert folder.slides() == [SlideEntry(name, name) for name in slides]
        assert folder.said == []

    def test_whatever_tifffile_reads_counts(self, folder: Folder) -> None:
        names = sorted(f"x.{extension}" for extension in tifffile.TIFF.FILE_EXTENSIONS)
        folder.lay(*names)
        assert folder.ids() == names

    def test_file_names_are_ids_while_they_are_unique(self, folder: Folder) -> None:
        folder.lay("b/1.tiff", "a/2.tiff")
        assert folder.slides() == [SlideEntry("2.tiff", "a/2.tiff"), SlideEntry("1.tiff", "b/1.tiff")]

    def test_else_all_ids_are_paths(self, folder: Folder) -> None:
        folder.lay("b/1.tiff", "a/1.tiff", "a/2.tiff", "c/1.txt")
        assert folder.ids() == ["a/1.tiff", "a/2.tiff", "b/1.tiff"]

    def test_names_that_are_not_slides_do_not_count_for_that(self, folder: Folder) -> None:
        folder.lay("a/1.tiff", ".thumbs/1.tiff")
        assert folder.ids() == ["1.tiff"]

    def test_an_escaped_ampersand_is_shown_as_one(self, folder: Folder) -> None:
        folder.lay("H%26E.tiff")
        assert folder.slides() == [SlideEntry("H&E.tiff", "H%26E.tiff")]

    @pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
    def test_names_of_any_bytes_are_slides(self, folder: Folder) -> None:
        with open(os.path.join(os.fsencode(folder.root), b"\xff.tiff"), "wb"):
            pass
        assert folder.slides() == [SlideEntry("\udcff.tiff", "\udcff.tiff")]
        listed = folder.write("list", r"\xff.tiff")
        assert folder.ids(include=listed) == ["\udcff.tiff"]
        assert folder.said == []

    def test_a_folder_without_slides_is_an_error(self, folder: Folder) -> None:
        assert str(refused(folder, NotFound)) == f"No slides in folder '{folder.root}': it has no files."
        folder.lay("a.txt", "b.dat", "montage.csv")
        assert "it has 3 files, none of them a slide" in str(refused(folder, NotFound))

    def test_an_earlier_montage_is_no_slide_and_that_is_said(self, folder: Folder) -> None:
        own = ["montage.png", "montage.jpg", "montage.csv", "montage.dzi", "index.html", "montage_files/12/10_0.jpg"]
        folder.lay(
            "a.tiff", "sub/montage_files/b.tiff", "sub/montage.png", *own, *(f"outputs/{name}" for name in own), "outputs/.montage.himl-part/new/montage.png"
        )
        assert folder.ids() == ["a.tiff", "montage.png", "b.tiff"]
        assert folder.said == ["Files of an earlier montage are left out: 'montage.jpg', 'montage.png', 'montage_files/12/10_0.jpg' and 3 more."]
        folder.said.clear()
        assert folder.ids(glob="**/*") == ["a.tiff", "montage.png", "b.tiff"]
        assert len(folder.said) == 1

    def test_only_tiles_beside_their_description_belong_to_one(self, folder: Folder) -> None:
        mine = ["montage_files/12/0_0.tiff", "montage_files/12/mine.jpg", "montage_files/12/x/0_0.jpg", "montage_files/mine.tiff"]
        folder.lay("montage.csv", "montage.dzi", "montage_files/12/0_0.jpg", *mine, "sub/montage.csv", "sub/montage_files/1/0_0.jpg")
        assert [slide.image for slide in folder.slides()] == [*mine, "sub/montage_files/1/0_0.jpg"]

    @pytest.mark.skipif(sys.platform == "win32", reason="links need a right there, and there are no pipes")
    def test_broken_links_and_pipes_named_as_slides_are_listed(self, folder: Folder) -> None:
        """They become slides that fail, so that they are not missed without a word."""
        folder.lay("a.tiff", "notes.txt")
        (folder.root / "dead.tiff").symlink_to("nowhere")
        (folder.root / "dead.txt").symlink_to("nowhere")
        os.mkfifo(folder.root / "pipe.tiff")
        assert folder.ids() == ["a.tiff", "dead.tiff", "pipe.tiff"]
        assert folder.ids(glob="dead*f") == ["dead.tiff"]


class TestGlobs:
    @pytest.mark.parametrize(
        ("glob", "expected"),
        [
            ("**/*.tiff", ["1.tiff", "a/2.tiff", "a/b/3.tiff"]),
            ("/**/*.tiff", ["1.tiff", "a/2.tiff", "a/b/3.tiff"]),
            ("./*.tiff", ["1.tiff"]),
            ("*.tiff", ["1.tiff"]),
            ("a/*", ["a/2.tiff", "a/x.bin"]),
            ("a/**", ["a/2.tiff", "a/b/3.tiff", "a/x.bin"]),
            ("**/b/*", ["a/b/3.tiff"]),
            ("a/**/[!2]*.tiff", ["a/b/3.tiff"]),
            ("*/?.tiff", ["a/2.tiff"]),
            ("**/*.bin", ["a/x.bin"]),
            ("a/x.bin", ["a/x.bin"]),
            ("**/.*/*", [".c/4.tif"]),
            ("**/*.tif", [".c/4.tif"]),
        ],
    )
    def test_a_pattern_is_matched_from_the_root(self, folder: Folder, glob: str, expected: list[str]) -> None:
        folder.lay("1.tiff", "a/2.tiff", "a/b/3.tiff", "a/x.bin", ".c/4.tif")
        assert [slide.image for slide in folder.slides(glob=glob)] == expected

    @pytest.mark.parametrize("glob", ["*.svs", "1.tiff/**", "/tmp/*.tiff", "**/a", "[", "a/*.tiff/*"])
    def test_no_match_is_an_error_that_names_the_pattern(self, folder: Folder, glob: str) -> None:
        folder.lay("1.tiff", "a/2.tiff")
        assert str(refused(folder, glob=glob)) == f"--image_glob '{glob}' matches no file in folder '{folder.root}', which has 2 files."

    def test_a_pattern_stays_in_the_folder(self, folder: Folder) -> None:
        folder.lay("1.tiff")
        assert "leaves the folder" in str(refused(folder, glob="../*.tiff"))
        assert "has no pattern" in str(refused(folder, glob=""))
        assert "has no pattern" in str(refused(folder, glob="/"))

    def test_it_wins_over_the_csv(self, folder: Folder) -> None:
        folder.lay("1.tiff").write("dataset.csv", "image,slide_id\n1.tiff,one\n")
        assert folder.ids(glob="*.tiff") == ["1.tiff"]
        assert folder.said == []


class TestTables:
    def test_the_csv_of_a_folder_is_used_and_that_is_said(self, folder: Folder) -> None:
        folder.lay("1.tiff", "2.tiff").write("dataset.csv", "slide_id,image,label,mask,site\n007,2.tiff,1,m/2.png,x\nnan,gone.tiff,,,y\n")
        assert folder.slides() == [SlideEntry("007", "2.tiff", "1", "m/2.png"), SlideEntry("nan", "gone.tiff")]
        assert folder.said == [f"The slides are those of dataset.csv in folder '{folder.root}'; --image_glob '**/*.tiff' would take its files instead."]

    def test_one_that_is_named_is_used_without_a_word(self, folder: Folder) -> None:
        folder.write("dataset.csv", "image,slide_id\n1.tiff,one\n")
        folder.write("other.csv", "image,slide_id\n2.tiff,two\n")
        assert folder.ids(csv="other.csv") == ["two"]
        assert folder.said == []
        assert "'other.csv' is a CSV" in str(refused(folder, csv="other.csv", glob="*.tiff"))
        refused_missing = pytest.raises(NotFound, match=r"There is no file '.*third\.csv'")
        with refused_missing:
            folder.slides(csv="third.csv")

    def test_images_are_relative_to_the_csv(self, folder: Folder, tmp_path: Path) -> None:
        away = str(tmp_path / "away.tiff")
        folder.write(
            "sub/deep/list.csv",
            f"image,slide_id,mask\n1.tiff,a,./m.png\n../2.tiff,b,../../m.png\n../../../3.tiff,c,\n{away},d,\nx/../4.tiff,e,\nD:\\5.tiff,f,\n",
        )
        listed = folder.slides(csv="sub/deep/list.csv")
        assert [slide.image for slide in listed] == ["sub/deep/1.tiff", "sub/2.tiff", "../3.tiff", away, "sub/deep/x/../4.tiff", "D:\\5.tiff"]
        assert [slide.mask for slide in listed] == ["sub/deep/m.png", "m.png", *[None] * 4]

    @pytest.mark.skipif(sys.platform == "win32", reason="backslashes are separators there")
    def test_backslashes_separate_where_only_that_names_a_file(self, folder: Folder) -> None:
        folder.lay("a/1.tiff", "a\\2.tiff", "a/2.tiff").write("dataset.csv", "image,slide_id\na\\1.tiff,1\na\\2.tiff,2\na\\3.tiff,3\n")
        assert [slide.image for slide in folder.slides()] == ["a/1.tiff", "a\\2.tiff", "a\\3.tiff"]

    def test_repeated_ids_stay_and_are_named_once(self, folder: Folder) -> None:
        folder.write("dataset.csv", "image,slide_id\n1.tiff,a\n2.tiff,a\n3.tiff,b\n")
        assert [slide.image for slide in folder.slides()] == ["1.tiff", "2.tiff", "3.tiff"]
        assert folder.said[1:] == ["One slide id stands for several slides, all are shown: 'a' (2 times)."]
        folder.write("dataset.csv", "image,slide_id\n" + "".join(f"{n}.tiff,{n % 5}\n" for n in range(10)))
        folder.said.clear()
        assert len(folder.slides()) == 10
        assert folder.said[1:] == ["5 slide ids stand for several slides each, all are shown: '0' (2 times), '1' (2 times), '2' (2 times) and 2 more."]

    def test_an_entry_without_image_stays(self, folder: Folder) -> None:
        folder.write("dataset.csv", "image,slide_id\n,a\n  ,b\n2.tiff,c\n")
        assert folder.slides() == [SlideEntry("a", ""), SlideEntry("b", ""), SlideEntry("c", "2.tiff")]

    def test_the_record_of_a_montage_lists_no_slides(self, folder: Folder) -> None:
        folder.write("montage.csv", ",".join(files.COLUMNS) + "\n" + "a" + "," * (len(files.COLUMNS) - 1) + "\n")
        error = refused(folder, csv="montage.csv")
        assert str(error) == "'montage.csv' tells of a montage, and is no list of slides."
        assert error.hint == "Name the folder of the slides, with --include_by_slide_id 'montage.csv'."

    def test_one_without_id_is_called_by_its_image(self, folder: Folder) -> None:
        folder.write("dataset.csv", "image,slide_id\n1.tiff,a\n\nsub/2.tiff,\n")
        assert folder.slides()[1:] == [SlideEntry("sub/2.tiff", "sub/2.tiff")]
        assert folder.said[1:] == ["'dataset.csv': without a slide_id, called by their images: line 4."]


class TestDatasets:
    def test_a_folder_or_a_csv(self, folder: Folder) -> None:
        path = folder.write("some.csv", "image,slide_id\n")
        assert [local_dataset(each)[1] for each in (folder.root, path)] == [None, "some.csv"]
        assert [local_dataset(each)[0].folder for each in (folder.root, path)] == [folder.root, folder.root]

    def test_nothing_there(self, folder: Folder) -> None:
        with pytest.raises(NotFound, match=r"There is no folder or CSV '.*gone'\."):
            local_dataset(folder.root / "gone")

    def test_a_slide_is_refused_with_what_shows_it(self, folder: Folder) -> None:
        path = folder.write("a[1].svs", b"x")
        with pytest.raises(BadUsage, match="neither a folder nor a CSV") as caught:
            local_dataset(path)
        assert caught.value.hint == f"To show one slide: himl montage '{folder.root}' --image_glob 'a[[]1].svs'"
        assert folder.ids(glob="a[[]1].svs") == ["a[1].svs"]
