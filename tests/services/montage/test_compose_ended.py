"""Montages that do not come to their end: nothing of them is left, and nothing earlier is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from himl_cli.core.errors import DiskFailed, HimlError
from himl_cli.core.events import Counting, Event, ignore
from himl_cli.core.montage import ImageFormat, MontageRequest, SlideEntry
from himl_cli.services.montage.compose import make_montage
from himl_cli.services.montage.query import LocalFolder
from tests.support.folders import SmallDisk
from tests.support.slides import slide_picture, write_tiff

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from pathlib import Path
from himl_cli.core.events import Counted
from himl_cli.core.montage import ImageFormat, MontageRequest, SlideEntry
from himl_cli.services.montage.compose import make_montage
from himl_cli.services.montage.query import LocalFolder

def notify(event):
    if isinstance(event, Counted):
        print("counted", flush=True)

out, slides, width = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
entries = [SlideEntry(str(number), "0.tiff") for number in range(60)]
try:
    make_montage(MontageRequest(out, width, level=0, formats=tuple(ImageFormat), workers=2), entries, LocalFolder(slides), notify)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def slides(tmp_path: Path) -> LocalFolder:
    folder = tmp_path / "slides"
    folder.mkdir()
    write_tiff(folder / "0.tiff", slide_picture(0, (600, 400)), compression="deflate")
    return LocalFolder(folder)


def request(out: Path, width: int = 1000) -> MontageRequest:
    return MontageRequest(out, width, level=0, formats=(ImageFormat.png, ImageFormat.jpg), workers=2)


@contextmanager
def started(out: Path, slides: LocalFolder) -> Iterator[subprocess.Popen[str]]:
    """A montage that would take a minute, at work; it ends with the `with`."""
    command = [sys.executable, "-c", SCRIPT, str(out), str(slides.folder), "60000"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "counted\n"
            assert (out / ".montage.himl-part" / "new" / "montage.png").is_file()
            yield process
        finally:
            process.kill()


def at_work() -> list[str]:
    """The threads of montages."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("himl-montage")]


@pytest.mark.skipif(os.name == "nt", reason="signals are sent")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] if os.name == "posix" else [])
def test_a_signal_ends_it_at_once_and_nothing_is_left(number: signal.Signals, slides: LocalFolder, tmp_path: Path) -> None:
    with started(tmp_path / "out", slides) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (130, "")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="signals are sent")
def test_after_a_kill_the_next_montage_clears_up(slides: LocalFolder, tmp_path: Path) -> None:
    with started(tmp_path / "out", slides):
        pass
    assert os.listdir(tmp_path / "out") == [".montage.himl-part"]
    make_montage(request(tmp_path / "out"), [SlideEntry("a", "0.tiff")], slides, ignore)
    assert sorted(os.listdir(tmp_path / "out")) == ["montage.csv", "montage.jpg", "montage.png"]


@pytest.mark.skipif(os.name == "nt", reason="signals are sent")
def test_a_second_montage_into_the_same_folder_is_refused(slides: LocalFolder, tmp_path: Path) -> None:
    with started(tmp_path / "out", slides) as process:
        with pytest.raises(HimlError, match="Another montage is being written"):
            make_montage(request(tmp_path / "out"), [SlideEntry("a", "0.tiff")], slides, ignore)
        assert process.poll() is None


def test_a_full_disk_is_told_and_what_was_there_stays(small_disk: SmallDisk, slides: LocalFolder) -> None:
    if not small_disk.is_shared:
        pytest.skip("the disk is seen by commands only")
    out = small_disk.folder / "out"
    make_montage(request(out, 300), [SlideEntry("a", "0.tiff")], slides, ignore)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    write_tiff(slides.folder / "noise.tiff", noise, compression=None)
    for formats in ((ImageFormat.png,), (ImageFormat.dzi,)):
        with pytest.raises(DiskFailed, match=rf"^Cannot write '{out}/montage[^']*': no space left on the disk\.$") as full:
            make_montage(replace(request(out, 3000), formats=formats), [SlideEntry("a", "noise.tiff")], slides, ignore)
        assert full.value.hint == "Free some space, or choose another folder with --output_path, and run the command again."
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert at_work() == []


def test_an_error_of_whoever_watches_ends_it_too(slides: LocalFolder, tmp_path: Path) -> None:
    def notify(event: Event) -> None:
        if isinstance(event, Counting):
            raise ValueError("seen enough")

    with pytest.raises(ValueError, match="seen enough"):
        make_montage(request(tmp_path / "out"), [SlideEntry("a", "0.tiff")], slides, notify)
    assert not (tmp_path / "out").exists()
    assert at_work() == []
