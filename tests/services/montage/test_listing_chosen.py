"""Which slides a montage shows by a list of ids to include or exclude."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import SlideEntry
from tests.services.montage.listed import Folder, refused
from tests.services.montage.listed import folder as folder
from tests.support.hostile_texts import SECONDS, within


class TestLists:
    @pytest.fixture
    def lists(self, folder: Folder, tmp_path: Path) -> Folder:
        folder.lay("a/1.tiff", "a/2.tiff", "b/3.tiff", "H%26E.tiff")
        return Folder(tmp_path)

    def test_included_are_shown_in_the_order_of_the_folder(self, folder: Folder, lists: Folder) -> None:
        assert folder.ids(include=lists.write("list.txt", "3.tiff\n1.tiff\n1.tiff\n")) == ["1.tiff", "3.tiff"]
        assert folder.said == []

    def test_a_list_of_one_line_is_one_id(self, folder: Folder, lists: Folder) -> None:
        assert folder.ids(include=lists.write("list.txt", "2.tiff")) == ["2.tiff"]
        assert folder.ids(exclude=lists.write("list.txt", "2.tiff")) == ["H&E.tiff", "1.tiff", "3.tiff"]

    @pytest.mark.parametrize("name", ["1.tiff", "a/1.tiff"])
    def test_slides_of_a_folder_go_by_file_name_and_by_path(self, folder: Folder, lists: Folder, name: str) -> None:
        assert folder.slides(include=lists.write("list.txt", name)) == [SlideEntry("1.tiff", "a/1.tiff")]
        folder.lay("b/1.tiff")
        expected = {"1.tiff": ["a/1.tiff", "b/1.tiff"], "a/1.tiff": ["a/1.tiff"]}[name]
        assert folder.ids(include=lists.write("list.txt", name)) == expected

    @pytest.mark.parametrize("name", ["H&E.tiff", "H%26E.tiff"])
    def test_an_ampersand_matches_in_both_ways(self, folder: Folder, lists: Folder, name: str) -> None:
        assert folder.ids(include=lists.write("list.txt", name)) == ["H&E.tiff"]

    def test_slides_of_a_csv_go_by_their_ids_alone(self, folder: Folder, lists: Folder) -> None:
        folder.write("dataset.csv", "image,slide_id\na/1.tiff,one\na/2.tiff,two\n")
        assert folder.ids(exclude=lists.write("list.txt", "one\na/2.tiff\n")) == ["two"]
        assert folder.said[1:] == ["--exclude_by_slide_id: no slide has the id 'a/2.tiff'."]

    def test_all_slides_of_a_repeated_id_are_meant(self, folder: Folder, lists: Folder) -> None:
        folder.write("dataset.csv", "image,slide_id\na/1.tiff,one\na/2.tiff,one\nb/3.tiff,two\n")
        assert folder.ids(include=lists.write("list.txt", "one")) == ["one", "one"]
        assert folder.ids(exclude=lists.write("list.txt", "one")) == ["two"]

    @pytest.mark.parametrize("content", ["", "\n \r\n", "slide_id\n", "\ufeff", "slide_id,reason\n\n"])
    def test_an_empty_list_means_what_it_says(self, folder: Folder, lists: Folder, content: str) -> None:
        path = lists.write("list.txt", content)
        assert len(folder.ids(exclude=path)) == 4
        assert folder.said == []
        assert str(refused(folder, include=path)) == f"--include_by_slide_id: '{path}' has no ids, so that no slide remains."

    def test_strangers_are_named_and_counted(self, folder: Folder, lists: Folder) -> None:
        path = lists.write("list.txt", "\n".join(["1.tiff", *(f"x{n}" for n in range(1500)), "y" * 300]))
        assert folder.ids(include=path) == ["1.tiff"]
        assert folder.said == ["--include_by_slide_id: no slide has one of these 1,501 ids: 'x0', 'x1', 'x2' and 1,498 more."]

    def test_no_slide_left_is_an_error(self, folder: Folder, lists: Folder) -> None:
        path = lists.write("list.txt", "x\n" + "y" * 300)
        assert str(refused(folder, include=path)) == f"--include_by_slide_id: '{path}' has the id of no slide; it has 'x', '{'y' * 79}…'."
        every = lists.write("all.txt", "1.tiff\n2.tiff\n3.tiff\nH&E.tiff\n")
        assert str(refused(folder, exclude=every)) == f"--exclude_by_slide_id: '{every}' excludes every slide, 4 in all."

    def test_what_is_no_list_is_refused(self, folder: Folder, lists: Folder) -> None:
        with pytest.raises(BadUsage, match=r"--include_by_slide_id: there is no file '.*no'"):
            folder.slides(include=lists.root / "no")
        with pytest.raises(BadUsage, match=r"--exclude_by_slide_id: cannot read"):
            folder.slides(exclude=lists.root)
        with pytest.raises(BadUsage, match=r"is not UTF-8 text"):
            folder.slides(exclude=lists.write("list", b"II*\0\xff\xfe"))
        assert "NUL bytes" in str(refused(folder, exclude=lists.write("list", b"II*\0")))
        assert "is a broken CSV" in str(refused(folder, exclude=lists.write("list", 'slide_id,b\n"x,y\n')))
        huge = lists.write("huge", b"")
        os.truncate(huge, (64 << 20) + 1)
        assert "larger than 64 MiB" in str(refused(folder, exclude=huge))

    def test_lists_are_looked_at_before_the_folder(self, folder: Folder, lists: Folder) -> None:
        gone = Folder(folder.root / "gone")
        with pytest.raises(BadUsage, match="there is no file"):
            gone.slides(include=lists.root / "no")

    def test_thousands_of_slides_and_ids_take_no_time(self, folder: Folder, lists: Folder) -> None:
        folder.write("dataset.csv", "image,slide_id,label\n" + "".join(f"images/{n}.tiff,slide {n},{n % 3}\n" for n in range(20_000)))
        path = lists.write("list.csv", "slide_id,why\n" + "".join(f"slide {n},blurred\n" for n in range(0, 40_000, 2)))
        with within(SECONDS):
            assert len(folder.ids(exclude=path)) == 10_000
        assert folder.said[1:] == ["--exclude_by_slide_id: no slide has one of these 10,000 ids: 'slide 20000', 'slide 20002', 'slide 20004' and 9,997 more."]
