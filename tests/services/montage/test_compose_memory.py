"""How much memory a montage takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.slides import slide_picture, write_giant, write_tiff

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from pathlib import Path
from himl_cli.core.events import ignore
from himl_cli.core.montage import ImageFormat, MontageRequest, SlideEntry
from himl_cli.services.montage.compose import make_montage
from himl_cli.services.montage.query import LocalFolder

def most():
    # of this process since it began: what getrusage tells includes that of the one which started it
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024

def after(width, count, name):
    request = MontageRequest(Path(sys.argv[1], "out"), width, level=0, formats=(ImageFormat.png,), workers=2)
    make_montage(request, [SlideEntry(str(number), name) for number in range(count)], LocalFolder(Path(sys.argv[1])), ignore)
    return most()

print(after(500, 1, "small.tiff"), after(500, 1, "giant.tiff"), after(8_000, 400, "small.tiff"), after(8_000, 800, "small.tiff"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_memory_is_independent_of_slide_count_and_size(tmp_path: Path) -> None:
    """The giant has 134 MB of pixels, each 400 small ones have 72 MB: fewer than their cells, so that they are what is held.

    The first montage is of one small slide: what is imported for it is not counted.
    """
    write_giant(tmp_path / "giant.tiff", (8_000, 5_600), tile=512, compression="deflate")
    write_tiff(tmp_path / "small.tiff", slide_picture(0, (300, 200)), compression="deflate")
    ran = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True)
    of_small, of_giant, of_some, of_many = map(int, ran.stdout.split())
    assert of_giant - of_small < 90
    assert of_many - of_some < 45
