"""A storage service that makes up blobs while it lists them, and the real listing and plan of a download on it, in a process of its own."""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from stress.load.measured import growth_wrong, measured
from stress.records import Outcome, Result
from stress.world import World
from tests.support.machine import ROOT

GROWTH = 6.0
"""MiB for ten times as many blobs."""
PAGE = 5000
MODIFIED = "Mon, 02 Mar 2026 12:00:00 GMT"
MD5 = "XrY7u+Ae7tCTyyK7j1rNww=="


def blob_name(number: int) -> str:
    """Names in order, of some 60 signs."""
    return f"outputs/part_{number // 10_000:04d}/sample_{number:09d}_{'x' * 20}.bin"


def page_of(start: int, count: int) -> bytes:
    """The answer with the blobs from *start* on, of *count* in all."""
    stop = min(start + PAGE, count)
    properties = (
        f"<Creation-Time>{MODIFIED}</Creation-Time><Last-Modified>{MODIFIED}</Last-Modified><Etag>0x8D4BCC2E4835CD0</Etag><Content-Length>16</Content-Length>"
        f"<Content-Type>application/octet-stream</Content-Type><Content-MD5>{MD5}</Content-MD5><BlobType>BlockBlob</BlobType><LeaseStatus>unlocked</LeaseStatus>"
    )
    blobs = "".join(f"<Blob><Name>{blob_name(number)}</Name><Properties>{properties}</Properties></Blob>" for number in range(start, stop))
    marker = str(stop) if stop < count else ""
    return f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>'.encode()


class _Handler(BaseHTTPRequestHandler):
    """`/account/COUNT?comp=list…`: the container's name says how many blobs it has."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        marker = parse_qs(address.query).get("marker", ["0"])[0]
        content = page_of(int(marker), int(address.path.rpartition("/")[2]))
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def service_that_makes_up_blobs() -> Iterator[int]:
    """Its port."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def planned(few: int, many: int) -> Callable[[World, random.Random], Result]:
    """The case of so many blobs, next to that of few."""

    def run(world: World, dice: random.Random) -> Result:
        problems: list[str] = []
        peaks: list[float] = []
        facts: dict[str, object] = {}
        seconds = 0.0
        with service_that_makes_up_blobs() as port:
            for count in (few, many):
                out = world.folder / f"{count}.out"
                command = [sys.executable, "-m", "stress.load.planning", f"http://127.0.0.1:{port}/account/{count}", str(world.folder / f"target_{count}")]
                done = measured(command, out, ROOT, {**world.environment(), "NO_PROXY": "*"})
                problems += wrong_plan(out.read_text(), count) if done.code == 0 else [f"{count:,}: exit code {done.code}: {done.stderr[-300:]}"]
                peaks.append(done.peak)
                facts |= {f"mib_of_{count}": round(done.peak, 1), f"seconds_of_{count}": round(done.seconds, 1)}
                seconds += done.seconds
        problems += growth_wrong(peaks[0], peaks[1], GROWTH)
        return Result(Outcome.lost if problems else Outcome.survived, 0, seconds, many, why=world.tidy("; ".join(problems)), facts=facts)

    return run


def wrong_plan(printed: str, count: int) -> list[str]:
    """What is wrong with a plan of *count* blobs that is told in *printed*: how many are wanted, of how many bytes, and the first and the last of them."""
    told = json.loads(printed)
    wanted = {"wanted": count, "bytes": 16 * count, "first": blob_name(0), "last": blob_name(count - 1), "in_order": True}
    return [f"{count:,} blobs are planned as {told}"] if told != wanted else []


def synthetic_cases() -> Iterator[tuple[str, Callable[[World, random.Random], Result]]]:
    yield "synthetic/1000000", planned(100_000, 1_000_000)
    yield "synthetic/100000", planned(10_000, 100_000)
