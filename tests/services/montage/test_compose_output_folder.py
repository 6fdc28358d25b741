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
from himl_cli.services.montage.files import STAGING, output_folder, publish

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
    setting = "import os, signal, sys\nfrom pathlib import Path\nfrom himl_cli.services.montage.files import output_folder\n"
    end = subprocess.run([sys.executable, "-c", setting + textwrap.dedent(code)], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert end.returncode == -signal.SIGKILL


def test_files_and_folders_take_their_places_whole(tmp_path: Path) -> None:
    fill(tmp_path, "old", "montage.png", "montage_files/0/0_0.jpg", "montage_files/9/0_0.jpg", "montage.jpg", "other.txt")
    with output_folder(tmp_path) as new:
        fill(new, "new", "montage.png", "montage_files/0/0_0.jpg", "montage.csv")
        assert (tmp_path / "montage.png").read_text() == "old"
        publish(tmp_path, ["montage.png", "montage_files", "montage.csv"], ["montage.jpg"])
    assert tree(tmp_path) == {"montage.csv": "new", "montage.png": "new", "montage_files/0/0_0.jpg": "new", "other.txt": "old"}
    assert not (tmp_path / STAGING).exists()


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    fill(out, "old", "montage.png")
    with suppress(KeyboardInterrupt), output_folder(out) as new:
        fill(new, "new", "montage.png", "montage.csv")
        raise KeyboardInterrupt
    assert tree(out) == {"montage.png": "old"}
    assert os.listdir(out) == ["montage.png"]


def test_folders_that_were_made_for_nothing_are_gone_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / "out" / "below"):
        raise KeyboardInterrupt
    assert not (tmp_path / "out").exists()


def test_a_folder_of_somebody_else_stays(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt), output_folder(tmp_path / "out"):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path / "out") == []


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with output_folder(tmp_path) as new:
        with pytest.raises(HimlError, match="Another montage is being written to"), output_folder(tmp_path):
            pytest.fail("entered")
        fill(new, "new", "montage.png")
        publish(tmp_path, ["montage.png"], [])
    with output_folder(tmp_path):
        pass
    assert tree(tmp_path) == {"montage.png": "new"}


@needs_kills
def test_what_a_killed_call_left_is_removed(tmp_path: Path) -> None:
    killed(
        tmp_path,
        """
        with output_folder(Path("out")) as new:
            (new / "montage.png").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert (tmp_path / "out" / STAGING / "new" / "montage.png").exists()
    with output_folder(tmp_path / "out") as new:
        assert os.listdir(new) == []
    assert os.listdir(tmp_path / "out") == []


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DiskFailed, match="it is a file"), output_folder(tmp_path / "out"):
        pytest.fail("entered")
    with pytest.raises(DiskFailed, match="Cannot write to"), output_folder(tmp_path / "out" / "below"):
        pytest.fail("entered")


@needs_links
@pytest.mark.parametrize("path", ["out", "out/below"])
def test_a_link_that_leads_nowhere_is_told(path: str, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("nowhere")
    with pytest.raises(BadUsage, match="'out' is a link to 'nowhere', which does not exist"), output_folder(tmp_path / path):
        pytest.fail("entered")
    assert (tmp_path / "out").is_symlink()
    assert not (tmp_path / "nowhere").exists()
