"""Slides in a folder of this machine."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, DiskFailed, NotFound
from himl_cli.core.montage import SlideFolder, SlideUnreadable
from himl_cli.services.montage.query import LocalFolder


def laid(root: Path, *names: str) -> LocalFolder:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return LocalFolder(root)


def test_it_is_a_place_and_says_where(tmp_path: Path) -> None:
    place: SlideFolder = LocalFolder(tmp_path)
    assert place.label == f"folder '{tmp_path}'"
    assert place.is_rereadable


def test_names_are_sorted_as_text_without_himl_folders(tmp_path: Path) -> None:
    place = laid(tmp_path, "b.tiff", "a/10.tiff", "a/9.tiff", "a-b.tiff", ".himl/runs/r/outputs/montage.png", ".hidden/x.tiff", ".a.tiff.himl-part")
    assert list(place.names()) == [".hidden/x.tiff", "a-b.tiff", "a/10.tiff", "a/9.tiff", "b.tiff"]


def test_a_missing_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"There is no folder '.*nowhere'\."):
        list(LocalFolder(tmp_path / "nowhere").names())


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_links_are_followed_loops_end_broken_ones_listed(tmp_path: Path) -> None:
    place = laid(tmp_path / "data", "a/1.tiff")
    outside = laid(tmp_path / "other", "2.tiff")
    (tmp_path / "data/linked.tiff").symlink_to(outside.folder / "2.tiff")
    (tmp_path / "data/broken.tiff").symlink_to(tmp_path / "gone")
    (tmp_path / "data/others").symlink_to(outside.folder)
    (tmp_path / "data/a/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/self").symlink_to(tmp_path / "data/self")
    assert list(place.names()) == ["a/1.tiff", "broken.tiff", "linked.tiff", "others/2.tiff", "self"]
    assert place.has("linked.tiff")
    assert not place.has("broken.tiff")


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are Linux's")
def test_names_of_any_bytes_survive(tmp_path: Path) -> None:
    with open(os.path.join(os.fsencode(tmp_path), b"caf\xe9.tiff"), "wb") as slide:
        slide.write(b"pixels")
    place = LocalFolder(tmp_path)
    assert list(place.names()) == ["caf\udce9.tiff"]
    assert place.has("caf\udce9.tiff")
    with place.local_path("caf\udce9.tiff") as path:
        assert path.read_bytes() == b"pixels"


AS_SOMEBODY = """
import os
from pathlib import Path
from himl_cli.core.errors import DiskFailed
from himl_cli.services.montage.query import LocalFolder
if os.geteuid() == 0:
    os.setuid(54321)
try:
    print(*LocalFolder(Path()).names())
except DiskFailed as err:
    print(err)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are other ones there")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path) -> None:
    laid(tmp_path / "data", "1.tiff", "closed/1.tiff")
    closed = tmp_path / "data/closed"

    def listed() -> str:
        return subprocess.run([sys.executable, "-c", AS_SOMEBODY], cwd=tmp_path / "data", capture_output=True, text=True, check=True).stdout.strip()

    assert listed() == "1.tiff closed/1.tiff"
    closed.chmod(0)
    try:
        assert listed() == "Cannot list folder 'closed': Permission denied."
    finally:
        closed.chmod(0o700)


def test_only_files_are_there(tmp_path: Path) -> None:
    place = laid(tmp_path / "data", "sub/1.tiff")
    other = laid(tmp_path, "other.tiff").folder / "other.tiff"
    assert place.has("sub/1.tiff")
    assert place.has(str(other))
    assert not any(map(place.has, ["", "sub", "2.tiff", "x" * 5000, "nul\0.tiff"]))


def test_text_is_utf8_and_a_byte_order_mark_is_no_part_of_it(tmp_path: Path) -> None:
    place = laid(tmp_path, "plain.csv")
    (tmp_path / "plain.csv").write_bytes("\ufeffä\r\n".encode())
    assert place.text("plain.csv") == "ä\r\n"
    (tmp_path / "plain.csv").write_bytes("ä".encode("latin-1"))
    with pytest.raises(BadUsage, match=r"plain\.csv' is not UTF-8 text \(byte 0\)\."):
        place.text("plain.csv")
    (tmp_path / "plain.csv").write_bytes(gzip.compress(b"image,slide_id"))
    with pytest.raises(BadUsage, match=r"plain\.csv' is packed by gzip\.") as packed:
        place.text("plain.csv")
    assert packed.value.hint == "Unpack it first."
    with pytest.raises(NotFound, match=r"There is no file '.*missing\.csv'\."):
        place.text("missing.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DiskFailed, match=r"Cannot read '.*folder\.csv': "):
        place.text("folder.csv")


def test_a_path_is_given_for_any_name(tmp_path: Path) -> None:
    place = laid(tmp_path / "data", "sub/1.tiff")
    place.expect(["sub/1.tiff"])
    for name, path in {"sub/1.tiff": tmp_path / "data/sub/1.tiff", "gone.tiff": tmp_path / "data/gone.tiff", str(tmp_path / "x"): tmp_path / "x"}.items():
        with place.local_path(name) as given:
            assert given == path


def test_an_empty_name_is_an_unreadable_slide(tmp_path: Path) -> None:
    with pytest.raises(SlideUnreadable, match="no image is named"), LocalFolder(tmp_path).local_path(""):
        pass
