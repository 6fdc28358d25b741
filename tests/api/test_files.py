"""Downloads and uploads from Python, with hi-ml's names, on a local workspace."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from himl_cli import (
    Datastore,
    download_checkpoints_from_run_id,
    download_files_from_run_id,
    download_from_datastore,
    get_most_recent_run,
    get_workspace,
    upload_to_datastore,
)
from himl_cli.core.errors import BadUsage, NotFound, RunNotFound
from tests.api.conftest import FILES
from tests.api.places import arrived
from tests.support.running import write_files
from tests.support.runs import RecordedRuns
from tests.support.terminals import Terminal


def stored(runs: RecordedRuns) -> dict[str, str]:
    return arrived(runs.folder / ".himl" / "datastores" / "local")


@pytest.mark.usefixtures("local_runs")
def test_all_files_of_a_run_keep_their_names(tmp_path: Path) -> None:
    download_files_from_run_id("train_1_aa", tmp_path / "out")
    assert arrived(tmp_path / "out") == FILES
    download_files_from_run_id(run_id="train:train_1_aa", output_folder=tmp_path / "again", workspace=get_workspace(), validate_checksum=True)
    assert arrived(tmp_path / "again") == FILES


def test_a_prefix_is_kept_in_the_names(local_runs: RecordedRuns, tmp_path: Path) -> None:
    """The example of hi-ml's documentation."""
    local_runs.add("doc_3_cc", files={"outputs/abc/def/1.txt": "1", "outputs/abc/2.txt": "2", "outputs/other.txt": "3"})
    download_files_from_run_id("doc_3_cc", tmp_path / "my_outputs", prefix="outputs/abc")
    assert arrived(tmp_path / "my_outputs") == {"outputs/abc/def/1.txt": "1", "outputs/abc/2.txt": "2"}


@pytest.mark.usefixtures("local_runs")
def test_download_replaces_differing_files_and_keeps_complete(tmp_path: Path) -> None:
    write_files(tmp_path / "out", {"outputs/model.bin": "older", "outputs/mine.txt": "mine"})
    download_files_from_run_id("train_1_aa", tmp_path / "out", "outputs/")
    before = os.stat(tmp_path / "out" / "outputs" / "model.bin")
    download_files_from_run_id("train_1_aa", tmp_path / "out", "outputs/")
    assert arrived(tmp_path / "out")["outputs/model.bin"] == "m" * 10
    assert arrived(tmp_path / "out")["outputs/mine.txt"] == "mine"
    assert os.stat(tmp_path / "out" / "outputs" / "model.bin").st_mtime_ns == before.st_mtime_ns


@pytest.mark.usefixtures("local_runs")
def test_nothing_that_matches_is_hi_mls_error_and_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No file in run 'train_1_aa' starts with 'output_'") as caught:
        download_files_from_run_id("train_1_aa", tmp_path / "out", prefix="output_")
    assert isinstance(caught.value, NotFound)
    assert "outputs" in caught.value.hint
    assert not (tmp_path / "out").exists()
    with pytest.raises(RunNotFound, match="No run 'nope'"):
        download_files_from_run_id("nope", tmp_path / "out")


@pytest.mark.usefixtures("local_runs")
@pytest.mark.parametrize("meant", ["outputs/checkpoints", "outputs/checkpoints/", Path("outputs/checkpoints"), "outputs/checkpoints/last.ckpt"])
def test_checkpoints_of_a_folder_or_one_of_them(meant: str | Path, tmp_path: Path) -> None:
    download_checkpoints_from_run_id("train_1_aa", meant, tmp_path / "out")
    assert arrived(tmp_path / "out") == {"outputs/checkpoints/last.ckpt": "last"}


@pytest.mark.usefixtures("local_runs")
def test_a_folder_of_checkpoints_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No file in run 'train_1_aa' starts with 'outputs/check/'") as caught:
        download_checkpoints_from_run_id("train_1_aa", "outputs/check", tmp_path / "out")
    assert "Did you mean 'outputs/checkpoints" in getattr(caught.value, "hint")  # noqa: B009


@pytest.mark.usefixtures("local_runs")
def test_files_of_a_datastore_keep_the_whole_path(tmp_path: Path) -> None:
    """The example of hi-ml's documentation."""
    download_from_datastore("local", "foo/bar", tmp_path / "outputs")
    assert arrived(tmp_path / "outputs") == {"foo/bar/1.txt": "one", "foo/bar/2.txt": "two"}
    download_from_datastore("local", file_prefix="foo/other.txt", output_folder=tmp_path / "single", aml_workspace=get_workspace())
    assert arrived(tmp_path / "single") == {"foo/other.txt": "three"}


@pytest.mark.usefixtures("local_runs")
def test_files_that_exist_here_are_left_unless_overwritten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_files(tmp_path / "out", {"foo/bar/1.txt": "mine"})
    with caplog.at_level(logging.WARNING, logger="himl_cli"):
        download_from_datastore("local", "foo/bar", tmp_path / "out")
    assert arrived(tmp_path / "out") == {"foo/bar/1.txt": "mine", "foo/bar/2.txt": "two"}
    assert "exist with another content: 'foo/bar/1.txt'" in caplog.text
    download_from_datastore("local", "foo/bar", tmp_path / "out", overwrite=True)
    assert arrived(tmp_path / "out") == {"foo/bar/1.txt": "one", "foo/bar/2.txt": "two"}


@pytest.mark.usefixtures("local_runs")
def test_an_unknown_datastore_or_prefix_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No datastore 'nope'"):
        download_from_datastore("nope", "foo", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="No file in datastore 'local' starts with 'food'"):
        download_from_datastore("local", "food", tmp_path / "out")


def test_a_folders_contents_are_uploaded(local_runs: RecordedRuns, tmp_path: Path) -> None:
    """The example of hi-ml's documentation."""
    write_files(tmp_path / "foo" / "bar", {"1.txt": "1", "2.txt": "2", "deep/3.txt": "3"})
    upload_to_datastore("local", tmp_path / "foo" / "bar", Path("baz"))
    assert {name: text for name, text in stored(local_runs).items() if name.startswith("baz")} == {"baz/1.txt": "1", "baz/2.txt": "2", "baz/deep/3.txt": "3"}


def test_files_that_exist_there_are_left_unless_overwritten(local_runs: RecordedRuns, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_files(tmp_path / "data", {"1.txt": "mine", "3.txt": "new"})
    with caplog.at_level(logging.WARNING, logger="himl_cli"):
        upload_to_datastore("local", tmp_path / "data", "foo/bar")
    assert (stored(local_runs)["foo/bar/1.txt"], stored(local_runs)["foo/bar/3.txt"]) == ("one", "new")
    assert "exist with another content: 'foo/bar/1.txt'" in caplog.text
    upload_to_datastore("local", tmp_path / "data", "foo/bar", overwrite=True)
    assert stored(local_runs)["foo/bar/1.txt"] == "mine"


@pytest.mark.usefixtures("local_runs")
def test_only_folders_with_files_are_uploaded(tmp_path: Path) -> None:
    write_files(tmp_path, {"file.txt": "x"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadUsage, match="is a file, and a folder is uploaded"):
        upload_to_datastore("local", tmp_path / "file.txt", "x")
    with pytest.raises(FileNotFoundError, match="There is nothing to upload"):
        upload_to_datastore("local", tmp_path / "empty", "x")
    with pytest.raises(FileNotFoundError, match="There is no file or folder"):
        upload_to_datastore("local", tmp_path / "nope", "x")
    with pytest.raises(BadUsage, match="leads out of the store"):
        upload_to_datastore("local", tmp_path, "../x")


PROGRAM = """
import sys
import himl_cli
himl_cli.download_from_datastore("local", "foo/", sys.argv[1], show_progress=sys.argv[2] == "show")
himl_cli.upload_to_datastore("local", sys.argv[1] + "/foo/bar", "copy", show_progress=sys.argv[2] == "show")
"""


@pytest.mark.usefixtures("local_runs")
def test_they_are_silent_unless_progress_is_asked_for(tmp_path: Path) -> None:
    said = {}
    for how in ("silent", "show"):
        done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / how), how], capture_output=True, text=True, check=True)
        said[how] = (done.stdout, done.stderr.splitlines())
    assert said["silent"] == ("", [])
    assert said["show"][0] == ""
    assert [line.split(" in ")[0] for line in said["show"][1]] == [
        f"Downloaded 3 files (11 B) to '{tmp_path / 'show'}'",
        "Uploaded 0 files (0 B) to 'copy'",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of our own making are POSIX ones")
def test_on_a_terminal_progress_is_a_bar(local_runs: RecordedRuns, tmp_path: Path) -> None:
    write_files(local_runs.folder / ".himl" / "datastores" / "local", {f"foo/many/{number}.bin": b"x" * 100_000 for number in range(50)})
    terminal = Terminal([sys.executable, "-c", PROGRAM, str(tmp_path / "out"), "show"], cwd=local_runs.folder)
    assert terminal.finish() == 0
    assert "MB" in terminal.screen
    assert "Downloaded 53 files" in terminal.screen


@pytest.mark.usefixtures("local_runs")
def test_missing_datastore_and_run_file_raise_file_not_found(tmp_path: Path) -> None:
    workspace = get_workspace()
    with pytest.raises(FileNotFoundError, match="No datastore 'nope'") as caught:
        Datastore.get(workspace, "nope")
    assert isinstance(caught.value, NotFound)
    with pytest.raises(FileNotFoundError, match="No datastore 'nope'"):
        upload_to_datastore("nope", tmp_path, "x", workspace)
    with pytest.raises(FileNotFoundError, match="There is no file") as missing:
        get_most_recent_run(tmp_path / "missing", workspace)
    assert isinstance(missing.value, NotFound)
    assert "--run" not in missing.value.hint
