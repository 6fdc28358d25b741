"""Jobs of a fixed size, and how many calls of functions they take: `python -m tests.guards.jobs NAME FOLDER` prints a JSON list.

The list has the calls, of Python's and of C's functions in all threads, of a job of size N and of one of 2 N, each done once before
at a small size. Counts do not depend on the machine, as times do; they do depend on the version of Python.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest
from himl_cli.workspaces.base import FetchSink, StoreSink

SMALL, BODY = 5, b"x" * 1000
MD5 = hashlib.md5(BODY).digest()
POINTS, METRICS = 10, 10


@dataclass(frozen=True)
class Job:
    """`prepare` makes what a job of that size needs below a folder, and gives the job itself. `size` is N."""

    size: int
    prepare: Callable[[Path, int], Callable[[], object]]


class InMemory:
    """A blob store of *count* files of the same bytes."""

    label = origin = "the store"

    def __init__(self, count: int) -> None:
        self._blobs = [BlobInfo(f"run/{number // 100:03d}/{number:06d}.bin", len(BODY), "1", MD5) for number in range(count)]

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        for start in range(0, len(self._blobs), 1000):
            yield self._blobs[start : start + 1000]

    def stat(self, name: str) -> BlobInfo | None:
        return next((blob for blob in self._blobs if blob.name == name), None)

    def md5(self, blob: BlobInfo) -> bytes | None:
        return blob.md5

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        yield BODY[offset:]

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        raise AssertionError("nothing is stored here")

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        for request in requests:
            sink.write(request, request.offset, BODY)
            sink.finish(request, MD5)


def plan(folder: Path, size: int) -> Callable[[], object]:
    """All blobs of a store, to be decided on."""
    from himl_cli.core.events import ignore
    from himl_cli.services.transfer.plan import DownloadPlan, DownloadRequest, TargetFolder, TransferStats
    from himl_cli.services.transfer.state import TransferState

    def run() -> int:
        request, store = DownloadRequest(folder / f"plan_{size}"), InMemory(size)
        target = TargetFolder(request.folder)
        with TransferState(request.folder, lambda text: None) as state:
            found = DownloadPlan(store, request, target, state, TransferStats())
            return _expect(sum(1 for _ in found.files(request.filters.select(store), ignore)), size)

    return run


def download_small(folder: Path, size: int) -> Callable[[], object]:
    """Small files, written and checked."""
    from himl_cli.services.transfer.download import download
    from himl_cli.services.transfer.plan import DownloadRequest

    return lambda: _expect(download(InMemory(size), DownloadRequest(folder / f"download_{size}")).files, size)


def listing(folder: Path, size: int) -> Callable[[], object]:
    """Answers of List Blobs, of 5,000 blobs at most."""
    from himl_cli.workspaces.azure.storage.container import listed_page

    blob = (
        "<Blob><Name>run/{0:06d}.bin</Name><Properties><Last-Modified>Sun, 01 Mar 2026 12:00:00 GMT</Last-Modified><Etag>0x8DB{0:06d}</Etag>"
        "<Content-Length>1000</Content-Length><Content-MD5>sEBIVz6qGtnXsLfvLmYMKA==</Content-MD5><BlobType>BlockBlob</BlobType></Properties></Blob>"
    )
    xml = f"<EnumerationResults><Blobs>{''.join(blob.format(number) for number in range(size))}</Blobs><NextMarker/></EnumerationResults>".encode()
    return lambda: _expect(len(listed_page(xml, "run/").blobs), size)


def runs_list(folder: Path, size: int) -> Callable[[], object]:
    """`himl runs list` of as many local runs."""
    from tests.support.runs import RecordedRuns

    place = folder / f"runs_{size}"
    RecordedRuns(place).add_many(size)
    return lambda: _command(place, "runs", "list", "--num_runs", "all")


def aggregate(folder: Path, size: int) -> Callable[[], object]:
    """`himl runs aggregate` of as many trials with METRICS metrics of POINTS points each."""
    from tests.support.runs import RecordedRuns

    place = folder / f"aggregate_{size}"
    recorded = RecordedRuns(place)
    recorded.add("sweep")
    for number in range(size):
        trial = recorded.add(f"sweep_{number}", parent="sweep")
        recorded.log(trial, [(f"metric_{metric}", float(number * step), step, step) for metric in range(METRICS) for step in range(POINTS)])
    return lambda: _command(place, "runs", "aggregate", "sweep", "--json")


def montage(folder: Path, size: int) -> Callable[[], object]:
    """A montage of as many slides of two levels."""
    from himl_cli.core.events import ignore
    from himl_cli.core.montage import ImageFormat, MontageRequest, SlideEntry
    from himl_cli.services.montage.compose import make_montage
    from himl_cli.services.montage.query import LocalFolder
    from tests.support.slides import slide_picture, write_tiff

    slides = folder / f"slides_{size}"
    slides.mkdir()
    for number in range(size):
        write_tiff(slides / f"{number}.tiff", slide_picture(number, (600, 400)), levels=2, compression="deflate", tile=128)
    entries = [SlideEntry(f"slide {number}", f"{number}.tiff") for number in range(size)]
    request = MontageRequest(folder / f"montage_{size}", 250 * size, formats=(ImageFormat.png,), workers=1)
    return lambda: _expect(len(make_montage(request, entries, LocalFolder(slides), ignore).cells), size)


JOBS: Mapping[str, Job] = {
    "plan": Job(2500, plan),
    "download": Job(250, download_small),
    "listing": Job(2500, listing),
    "runs list": Job(250, runs_list),
    "aggregate": Job(50, aggregate),
    "montage": Job(4, montage),
}


def calls_of(work: Callable[[], object]) -> int:
    """How many functions *work* calls, in this thread and in those that it starts."""
    numbers = itertools.count()

    def note(frame: FrameType, event: str, what: object) -> None:
        if event in ("call", "c_call"):
            next(numbers)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return next(numbers)


def _expect(found: int, wanted: int) -> int:
    assert found == wanted, f"{found} instead of {wanted}"
    return found


def _command(folder: Path, *arguments: str) -> None:
    """A command of himl, in this process. Raises AssertionError where it does not end with 0."""
    from himl_cli.app import main

    os.chdir(folder)
    sys.argv = ["himl", *arguments]
    try:
        main()
    except SystemExit as end:
        _expect(int(end.code or 0), 0)


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    job = JOBS[name]
    silent, out = os.open(os.devnull, os.O_WRONLY), os.dup(1)
    works = [job.prepare(folder, size) for size in (SMALL, job.size, 2 * job.size)]
    os.dup2(silent, 1)
    works[0]()  # what is imported and remembered once
    counts = [calls_of(work) for work in works[1:]]
    os.write(out, json.dumps(counts).encode())


if __name__ == "__main__":
    main()
