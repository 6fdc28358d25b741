"""The output folder: what is in it before, during and after a montage, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError
from himl_cli.services.montage.compose.output_folder import OutputFolder
from himl_cli.services.montage.disk_errors import ASIDE

ROOT = Path(__file__).parents[3]
needs_kills = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL there")
needs_links = pytest.mark.skipif(os.name == "nt", reason="links need a right there")


def tree(folder: Path) -> dict[str, str]:
    """The files below *folder*, by their names."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(folder: Path, text: str, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def killed(tmp_path: Path, code: str) -> None:
    """Run *code* in a process that ends by SIGKILL."""
    setting = "import os, signal, sys\nfrom pathlib import Path\nfrom himl_cli.services.montage.compose.output_folder import OutputFolder\n"
    end = subprocess.run([sys.executable, "-c", setting + textwrap.dedent(code)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert end.returncode == -signal.SIGKILL


def test_files_and_folders_take_their_places_whole(tmp_path: Path) -> None:
    fill(tmp_path, "old", "montage.png", "montage_files/0/0_0.jpg", "montage_files/9/0_0.jpg", "montage.jpg", "other.txt")
    with OutputFolder(tmp_path) as folder:
        fill(folder.new, "new", "montage.png", "montage_files/0/0_0.jpg", "montage.csv")
        assert (tmp_path / "montage.png").read_text() == "old"
        folder.publish(["montage.png", "montage_files", "montage.csv"], ["montage.jpg"])
    assert tree(tmp_path) == {"montage.csv": "new", "montage.png": "new", "montage_files/0/0_0.jpg": "new", "other.txt": "old"}
    assert not (tmp_path / ASIDE).exists()


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, "old", "montage.png")
    with suppress(KeyboardInterrupt), OutputFolder(out) as folder:
        fill(folder.new, "new", "montage.png", "montage.csv")
        raise KeyboardInterrupt
    assert tree(out) == {"montage.png": "old"}
    assert os.listdir(out) == ["montage.png"]


def test_folders_that_were_made_for_nothing_are_gone_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), OutputFolder(tmp_path / "out" / "below"):
        raise KeyboardInterrupt
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_else_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt), OutputFolder(tmp_path / "out"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path / "out") == []


@needs_links
def test_where_one_file_cannot_take_its_place_none_does(tmp_path: Path) -> None:
    fill(tmp_path, "old", "montage.png", "montage.jpg", "montage_files/0/0_0.jpg")
    with OutputFolder(tmp_path) as folder:
        fill(folder.new, "new", "montage.png", "montage_files/0/0_0.jpg", "a/b")
        (tmp_path / "a").symlink_to(tmp_path)  # no folder can replace it
        with pytest.raises(DiskFailed, match="Cannot put the montage into"):
            folder.publish(["montage.png", "montage_files", "a"], ["montage.jpg"])
    (tmp_path / "a").unlink()
    assert tree(tmp_path) == {"montage.png": "old", "montage.jpg": "old", "montage_files/0/0_0.jpg": "old"}
    assert not (tmp_path / ASIDE).exists()


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with OutputFolder(tmp_path) as folder:
        with pytest.raises(HimlError, match="Another montage is being written to"), OutputFolder(tmp_path):
            pytest.fail("entered")
        fill(folder.new, "new", "montage.png")
        folder.publish(["montage.png"], [])
    with OutputFolder(tmp_path):
        pass
    assert tree(tmp_path) == {"montage.png": "new"}


@needs_kills
def test_what_a_killed_call_left_is_removed(tmp_path: Path) -> None:
    killed(
        tmp_path,
        """
        with OutputFolder(Path("out")) as folder:
            (folder.new / "montage.png").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert (tmp_path / "out" / ASIDE / "new" / "montage.png").exists()
    with OutputFolder(tmp_path / "out") as folder:
        assert os.listdir(folder.new) == []
    assert os.listdir(tmp_path / "out") == []


def killed_while_publishing(tmp_path: Path) -> Path:
    """A folder where the first new file is in its place, and the old folder of another one out of the way."""
    out = tmp_path / "out"
    fill(out, "old", "montage.png", "montage_files/0/0_0.jpg", "montage.jpg")
    killed(
        tmp_path,
        """
        with OutputFolder(Path("out")) as folder:
            (folder.new / "montage_files").mkdir()
            for name in ("montage.png", "montage.csv", "montage_files/1"):
                (folder.new / name).write_text("new")
            def watch(event, arguments):
                if event == "os.rename" and Path(arguments[1]) == Path("out/montage_files"):
                    os.kill(os.getpid(), signal.SIGKILL)
            sys.addaudithook(watch)
            folder.publish(["montage.png", "montage_files", "montage.csv"], ["montage.jpg"])
        """,
    )
    assert (out / "montage.png").read_text() == "new"
    assert not (out / "montage_files").exists()
    return out


@needs_kills
def test_a_call_that_was_killed_at_its_end_is_brought_to_it(tmp_path: Path) -> None:
    out = killed_while_publishing(tmp_path)
    with OutputFolder(out):
        pass
    assert tree(out) == {"montage.csv": "new", "montage.png": "new", "montage_files/1": "new"}


@needs_kills
def test_where_that_cannot_be_done_all_is_as_before_and_it_is_tried_again(tmp_path: Path) -> None:
    out = killed_while_publishing(tmp_path)
    (out / "montage.csv").mkdir()
    (out / "montage.csv" / "x").write_text("")
    (out / "montage_files").symlink_to(tmp_path)  # no folder can replace it
    with pytest.raises(DiskFailed, match="Cannot write to"), OutputFolder(out):
        pytest.fail("entered")
    assert (out / "montage.png").read_text() == (out / "montage.jpg").read_text() == "old"
    (out / "montage_files").unlink()
    with OutputFolder(out):
        pass
    assert tree(out) == {"montage.csv": "new", "montage.png": "new", "montage_files/1": "new"}


@needs_kills
def test_a_call_that_was_killed_while_it_removes_old_files_gives_none_back(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old", "montage.jpg")
    killed(
        tmp_path,
        """
        with OutputFolder(Path("out")) as folder:
            (folder.new / "montage.png").write_text("new")
            sys.addaudithook(lambda event, arguments: event == "shutil.rmtree" and os.kill(os.getpid(), signal.SIGKILL))
            folder.publish(["montage.png"], ["montage.jpg"])
        """,
    )
    with OutputFolder(tmp_path / "out"):
        pass
    assert tree(tmp_path / "out") == {"montage.png": "new"}


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DiskFailed, match="it is a file"), OutputFolder(tmp_path / "out"):
        pytest.fail("entered")
    with pytest.raises(DiskFailed, match="Cannot write to"), OutputFolder(tmp_path / "out" / "below"):
        pytest.fail("entered")


@needs_links
@pytest.mark.parametrize("path", ["out", "out/below"])
def test_a_link_that_leads_nowhere_is_told(path: str, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("nowhere")
    with pytest.raises(BadUsage, match="'out' is a link to 'nowhere', which does not exist"), OutputFolder(tmp_path / path):
        pytest.fail("entered")
    assert (tmp_path / "out").is_symlink()
    assert not (tmp_path / "nowhere").exists()
