"""`himl datastore`: up, down and listed."""

from __future__ import annotations

import os
import sys
from pathlib import Path, PurePosixPath

import pytest

from tests.support.folders import contents
from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns

FILES = {"train.csv": b"a,b\n1,2\n", "images/1.png": b"one", "images/2.png": b"two"}


@pytest.fixture
def store(project: Path) -> Path:
    """The default datastore's folder; `data/` in the project holds FILES, and there is a second datastore `shared`."""
    RecordedRuns(project)
    write_files(project / "data", FILES)
    (project / ".himl/datastores/shared").mkdir()
    return project / ".himl/datastores/local"


def files_in(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if ".himl-" not in PurePosixPath(name).name}


def test_a_folder_goes_up_and_comes_back(himl: Himl, project: Path, store: Path) -> None:
    up = himl.ok("datastore", "upload", "data", "digits")
    again = himl.ok("datastore", "upload", "data", "digits/", "--json").json()
    down = himl.ok("datastore", "download", "digits", "back")
    assert files_in(store) == {f"digits/{name}": body for name, body in FILES.items()}
    assert files_in(project / "back") == files_in(store)
    assert up.stdout.startswith("Uploaded 3 files (14 B) to 'digits' (datastore 'local' of local workspace '.himl') in ")
    assert (again["files"], again["skipped"], again["places"]) == (0, 3, ["digits"])
    assert down.stdout.startswith("Downloaded 3 files (14 B) to 'back' in ")


def test_globs_strip_prefix_and_another_datastore(himl: Himl, project: Path, store: Path) -> None:
    himl.ok("datastore", "upload", "data", ".", "--datastore", "shared", "--include", "*.png", "--exclude", "2.*")
    himl.ok("datastore", "upload", "data/train.csv", "tables", "--datastore", "shared")
    himl.ok("datastore", "download", "images/", "back", "--strip_prefix", "--datastore", "shared")
    assert files_in(store) == {}
    assert files_in(store.parent / "shared") == {"images/1.png": b"one", "tables/train.csv": FILES["train.csv"]}
    assert files_in(project / "back") == {"1.png": b"one"}


def test_what_differs_in_the_store_is_left_unless_overwritten(himl: Himl, store: Path) -> None:
    write_files(store, {"digits/train.csv": "other"})
    left = himl("datastore", "upload", "data", "digits")
    kept = (store / "digits/train.csv").read_bytes()
    replaced = himl.ok("datastore", "upload", "data", "digits", "--overwrite")
    assert (left.code, kept) == (1, b"other")
    assert "Left as it is, because it differs: 'digits/train.csv'." in left.stderr
    assert "2 complete already" in replaced.stdout
    assert (store / "digits/train.csv").read_bytes() == FILES["train.csv"]


def test_a_file_that_rotted_in_the_store_is_an_integrity_failure(himl: Himl, project: Path, store: Path) -> None:
    himl.ok("datastore", "upload", "data", "digits")
    rotten = store / "digits/images/1.png"
    before = rotten.stat()
    rotten.write_bytes(b"0ne")
    os.utime(rotten, ns=(before.st_atime_ns, before.st_mtime_ns))
    outcome = himl("datastore", "download", "digits", "back", "--json")
    assert (outcome.code, outcome.error_json()["code"]) == (6, "integrity_failed")
    assert outcome.json()["failed"][0]["name"] == "digits/images/1.png"
    assert {*files_in(project / "back")} == {"digits/train.csv", "digits/images/2.png"}


def test_list_shows_names_and_sizes(himl: Himl, store: Path) -> None:
    empty = himl.ok("datastore", "list")
    himl.ok("datastore", "upload", "data", "digits")
    everything = himl.ok("datastore", "list", "--json").json()
    some = himl.ok("datastore", "list", "digits/images", "-q")
    table = himl.ok("datastore", "list", "--include", "*.csv")
    assert empty.stdout == "name\tsize\tmodified\n"
    assert [(file["name"], file["size"]) for file in everything] == [(f"digits/{name}", len(FILES[name])) for name in sorted(FILES)]
    assert everything[0]["md5"] == "f97c5d29941bfb1b2fdab0874906ab82"
    assert some.stdout == "digits/images/1.png\ndigits/images/2.png\n"
    assert table.stdout.splitlines()[1].startswith("digits/train.csv\t8\t2")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["upload", "gone", "x"], 3, "no file or folder 'gone'"),
        (["upload", "data", "../x"], 2, "leads out"),
        (["upload", "data"], 2, "REMOTE_PREFIX"),
        (["upload", "data", "x", "--include", "*.tif"], 3, "nothing to upload"),
        (["upload", "data", "x", "--datastore", "nope"], 3, "there are: local, shared"),
        (["download", "nothing", "back"], 3, "holds no files"),
        (["download", "nothing", "data/train.csv"], 2, "is a file"),
        (["list", "nothing"], 3, "starts with 'nothing'"),
    ],
)
@pytest.mark.usefixtures("store")
def test_bad_input_is_said_in_a_line_and_leaves_nothing(himl: Himl, project: Path, arguments: list[str], code: int, said: str) -> None:
    outcome = himl("datastore", *arguments)
    assert (outcome.code, outcome.stdout) == (code, "")
    assert said in outcome.stderr
    assert sorted(path.name for path in project.iterdir()) == [".himl", "data"]


def test_a_file_of_another_workspace_is_not_replaced(himl: Himl, project: Path) -> None:
    for name in ("one", "two"):
        write_files(project / name / ".himl/datastores/local", {"d/f.txt": f"of {name}".encode()})
    himl.ok("datastore", "download", "d", "out", "--workspace", "one")
    assert himl("datastore", "download", "d", "out", "--workspace", "two").code == 1
    assert (project / "out/d/f.txt").read_text() == "of one"


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("prefix", "place"), [("/abs/", "abs"), ("a//b", "a/b"), (".", "."), ("/", ".")])
def test_the_summary_names_the_folder_that_the_files_lie_in(himl: Himl, prefix: str, place: str) -> None:
    assert f" to '{place}' (" in himl.ok("datastore", "upload", "data/train.csv", prefix).stdout


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS file names with line breaks")
def test_upload_refuses_names_that_cannot_be_downloaded_again(himl: Himl, project: Path, store: Path) -> None:
    write_files(project / "odd", {"plain": b"1", "C:\\x": b"2", "two\nlines": b"3"})
    up = himl("datastore", "upload", "odd", "odd")
    assert files_in(store) == {"odd/plain": b"1"}
    assert (up.code, "it is an absolute path on Windows" in up.stderr, "it has control characters in it" in up.stderr) == (1, True, True), up.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS file names with line breaks")
def test_list_escapes_line_breaks_and_null_prints_raw_names(himl: Himl, project: Path, store: Path) -> None:
    write_files(store, {"a b": b"", "two\nlines": b"", "z\u2028\r": b""})
    assert himl.ok("datastore", "list", "-q").stdout.splitlines() == ["a b", "two\\nlines", "z\\u2028\\r"]
    assert himl.ok("datastore", "list", "--null").stdout == "a b\0two\nlines\0z\u2028\r\0"
