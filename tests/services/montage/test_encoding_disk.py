"""What encoders do when the disk fails, and when the montage is given up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from himl_cli.core.errors import DiskFailed
from himl_cli.services.montage.encoding import JpegFile, PngFile
from himl_cli.services.montage.threads import Pool
from tests.services.montage.banded import busy_pool, put, shades
from tests.support.folders import SmallDisk

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = type[PngFile] | type[JpegFile]
KINDS = [PngFile, JpegFile]

FILL = """
import os, sys, threading
from pathlib import Path
import numpy as np
from himl_cli.core.errors import DiskFailed
from himl_cli.services.montage import encoding
from himl_cli.services.montage.threads import Pool
kind = getattr(encoding, sys.argv[1])
noise = np.random.default_rng(0).integers(0, 256, (200, 2000, 3), dtype=np.uint8)
open_before = os.listdir("/proc/self/fd")
with Pool(2) as pool:
    sink = kind(Path(sys.argv[2]), (2000, 20_000), pool)
    try:
        for _ in range(100):
            sink.write(noise)
        sink.finish()
    except DiskFailed as err:
        print(err.code, err, err.hint, sep="\\n")
    sink.abort()
    sink.abort()
    assert os.listdir("/proc/self/fd") == open_before
assert threading.active_count() == 1
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_told_and_everything_ends(kind: Kind, small_disk: SmallDisk) -> None:
    path = small_disk.folder / "x"
    ran = subprocess.run([*small_disk.prefix, sys.executable, "-c", FILL, kind.__name__, str(path)], capture_output=True, text=True, timeout=100)
    assert ran.stderr == ""
    code, message, hint = ran.stdout.splitlines()
    assert code == "disk_full"
    assert message == f"Cannot write '{path}': no space left on the disk."
    assert "--output_path" in hint


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_cannot_be_written_is_told(kind: Kind, tmp_path: Path, read_only: Callable[[Path], Path]) -> None:
    (tmp_path / "fixed").mkdir()
    folder = read_only(tmp_path / "fixed")
    with Pool(1) as pool, pytest.raises(DiskFailed, match=r"^Cannot write '.*fixed.x': .+\.$"):
        kind(folder / "x", (20, 10), pool)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_folder_is_told(kind: Kind, tmp_path: Path) -> None:
    with Pool(1) as pool, pytest.raises(DiskFailed, match="No such file or directory"):
        kind(tmp_path / "none" / "x", (20, 10), pool)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_up_is_closed(kind: Kind, tmp_path: Path) -> None:
    """Also where the pool never gets to it; nothing is written afterwards."""
    pixels, path = shades((2000, 1500)), tmp_path / "x"
    with busy_pool() as pool:
        sink = kind(path, (2000, 1500), pool)
        sink.write(pixels[:700])
        sink.abort()
        left = path.read_bytes()
        path.unlink()  # which Windows refuses for a file that is open
        sink.abort()
    assert len(left) < pixels.nbytes
    assert not path.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_abort_may_follow_the_end(kind: Kind, tmp_path: Path) -> None:
    pixels, path = shades((200, 150)), tmp_path / "x"
    with Pool(2) as pool:
        sink = kind(path, (200, 150), pool)
        put(sink, pixels, (64,))
        complete = path.read_bytes()
        sink.abort()
    assert path.read_bytes() == complete


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
def test_names_may_be_any_bytes(kind: Kind, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9"))
    with Pool(2) as pool:
        put(kind(path, (20, 10), pool), shades((20, 10)), (10,))
    assert path.stat().st_size > 100


@pytest.mark.parametrize("kind", KINDS)
def test_what_had_the_name_is_replaced(kind: Kind, tmp_path: Path) -> None:
    white: NDArray[np.uint8] = np.full((10, 20, 3), 255, np.uint8)
    path, other = tmp_path / "x", tmp_path / "other"
    other.write_bytes(b"kept" * 10_000)
    os.link(other, path)
    with Pool(2) as pool:
        put(kind(path, (20, 10), pool), white, (10,))
    assert path.stat().st_size < 2000
    assert other.read_bytes() == b"kept" * 10_000
