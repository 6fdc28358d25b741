"""Memory does not grow with the number of files, nor with their size."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FEW, MANY = 1500, 12_000
HEADER = """
import json, sys
from pathlib import Path
from himl_cli.core.blobs import BlobInfo
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest

PIECE = bytes(range(256)) * 4096
LONG = "x" * 200

class Synthetic:
    '''Blobs that are made up while they are listed and fetched.'''

    label = origin = "the store"

    def __init__(self, number, size):
        self.number, self.size, self.md5_of_all = number, size, None

    def list(self, prefix=""):
        for start in range(0, self.number, 1000):
            yield [BlobInfo(f"{LONG}/{index:06d}{LONG}", self.size, "1", self.md5_of_all) for index in range(start, min(start + 1000, self.number))]

    def md5(self, blob):
        return blob.md5

    def fetch(self, requests, sink, *, workers):
        for request in requests:
            end = request.offset + request.length
            for offset in range(request.offset, end, len(PIECE)):
                sink.write(request, offset, PIECE[: end - offset])
            sink.finish(request, None)

def peak():
    status = Path("/proc/self/status").read_text()  # getrusage would count the peak of the process that started this one
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

def fetched(name, number, size):
    result = download(Synthetic(number, size), DownloadRequest(Path(sys.argv[1]) / name))
    assert result.problem() is None and result.files + result.skipped == number, result
    return peak()
"""

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="NEEDS Linux, which tells a process's peak of memory")


def peaks(body: str, folder: Path) -> list[int]:
    """What the script prints as JSON: its peak of memory at several times, in bytes."""
    done = subprocess.run([sys.executable, "-c", HEADER + textwrap.dedent(body), str(folder)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: list[int] = json.loads(done.stdout)
    return found


def test_many_files_need_no_more_memory_than_few(tmp_path: Path) -> None:
    few, many, again = peaks(f'print(json.dumps([fetched("few", {FEW}, 1), fetched("many", {MANY}, 1), fetched("many", {MANY}, 1)]))', tmp_path)
    assert many - few < 4 << 20, "their names alone would be 4 MB more than the 2 that there are"
    assert again - many < 2 << 20


def test_a_large_file_needs_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    small, large = peaks('print(json.dumps([fetched("small", 1, 40 << 20), fetched("large", 1, 160 << 20)]))', tmp_path)
    assert large - small < 20 << 20
