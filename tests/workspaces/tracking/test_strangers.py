"""Whoever has no token takes little of the server: few threads, no long wait, no endless body, no endless head."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.workspaces.local.tracking.tracking_server import Limits
from tests.support.running import until
from tests.workspaces.tracking.tracked_job import API, JOB, TrackedJob, tracked_job

GET_RUN = f"{API}runs/get?run_id={JOB}"
HASTY = Limits(most=8, grace=0.1, silence=0.4, drained=1 << 20)
LIMITS = replace(HASTY, silence=600)


@pytest.fixture
def job(tmp_path: Path) -> Iterator[TrackedJob]:
    with tracked_job(tmp_path / "runs", LIMITS) as running:
        yield running


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[TrackedJob]:
    """A job that soon leaves whoever is silent."""
    with tracked_job(tmp_path / "runs", HASTY) as running:
        yield running


def connect(job: TrackedJob) -> socket.socket:
    return socket.create_connection(("127.0.0.1", job.server.port), timeout=60)


@contextmanager
def idle(job: TrackedJob, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(connect(job))) for _ in range(count)]


def head(job: TrackedJob, *lines: str, method: str = "GET", target: str = GET_RUN) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"{method} {target} HTTP/1.1", *lines, "")).encode()


def status(client: socket.socket) -> int:
    """That of the one reply that comes; 0 where the connection ends without one."""
    with client.makefile("rb") as file:
        line = file.readline()
        return int(line.split()[1]) if line else 0


def test_strangers_who_wait_are_few_and_the_job_itself_gets_in(job: TrackedJob) -> None:
    threads = threading.active_count()
    with idle(job, 60):
        assert job.send("GET", GET_RUN).status == 200
        until(lambda: threading.active_count() - threads <= LIMITS.most + 1)  # those whose turn is over have to end yet


def test_a_connection_that_showed_the_token_is_left_open(hasty: TrackedJob) -> None:
    with ExitStack() as stack:
        ours = admitted(hasty, stack)
        for _ in range(2):
            with idle(hasty, 30):
                admitted(hasty, stack)
            time.sleep(HASTY.silence + 0.1)
            assert is_answered(hasty, ours)


def admitted(job: TrackedJob, stack: ExitStack) -> socket.socket:
    """A connection that showed the token; another one where this took so long that it was left before."""
    while not is_answered(job, client := stack.enter_context(closing(connect(job)))):
        pass
    return client


def is_answered(job: TrackedJob, client: socket.socket) -> bool:
    with suppress(ConnectionError):
        client.sendall(head(job, f"Host: 127.0.0.1:{job.server.port}", f"Authorization: Bearer {job.secret}"))
        return client.recv(65536).startswith(b"HTTP/1.1 200 ")
    return False


@pytest.mark.parametrize("said", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\nabc"])
def test_a_stranger_who_falls_silent_is_left(hasty: TrackedJob, said: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    with closing(connect(hasty)) as client:
        client.sendall(said)
        assert client.recv(1) == b""
    assert capfd.readouterr() == ("", "")


def test_of_a_body_that_is_refused_little_is_read(job: TrackedJob) -> None:
    """The reply comes while the stranger still sends; how much fits into the buffers of the system is its own affair."""
    sent = 0
    with closing(connect(job)) as client, suppress(ConnectionError):
        client.sendall(head(job, f"Host: 127.0.0.1:{job.server.port}", f"Content-Length: {1 << 30}", method="POST"))
        while sent < 200 << 20:
            sent += client.send(bytes(1 << 20))
    assert sent < 100 << 20
    assert job.send("GET", GET_RUN).status == 200


def test_a_head_has_an_end(job: TrackedJob) -> None:
    with closing(connect(job)) as client:
        client.sendall(head(job, *[f"X-{number}: {'x' * 60_000}" for number in range(3)]))
        assert status(client) == 431


@pytest.mark.parametrize("lines", [("Host: 127.0.0.1:{port}", "Host: evil.example"), ("Host: evil.example", "Host: 127.0.0.1:{port}")])
def test_two_hosts_are_refused(job: TrackedJob, lines: tuple[str, ...]) -> None:
    with closing(connect(job)) as client:
        client.sendall(head(job, *(line.format(port=job.server.port) for line in lines), f"Authorization: Bearer {job.secret}"))
        assert status(client) == 403


def test_two_lengths_are_refused(job: TrackedJob) -> None:
    body = json.dumps({"run_id": JOB, "key": "k", "value": "v"})
    lengths = (f"Content-Length: {len(body)}", "Content-Length: 2")
    lines = (f"Host: 127.0.0.1:{job.server.port}", f"Authorization: Bearer {job.secret}", *lengths)
    with closing(connect(job)) as client:
        client.sendall(head(job, *lines, method="POST", target=f"{API}runs/set-tag") + body.encode())
        assert status(client) == 400
    assert "k" not in job.run().tags


def test_closing_does_not_wait_for_strangers(tmp_path: Path) -> None:
    with tracked_job(tmp_path / "j", Limits(most=4, grace=60, silence=60)) as job, idle(job, 20):
        start = time.monotonic()
        job.server.close()
        assert time.monotonic() - start < 40


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS a limit on the handles of a process")
def test_where_handles_run_out_strangers_go_first(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with tracked_job(tmp_path / "j") as job, closing(socket.socket()) as last, closing(socket.socket()) as ours, ExitStack() as stack:
        ours.settimeout(20)
        threads = threading.active_count()
        stack.enter_context(idle(job, 5))
        until(lambda: threading.active_count() == threads + 5)  # all are accepted
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            last.connect(("127.0.0.1", job.server.port))  # there may be a handle already for the next one that comes
            ours.connect(("127.0.0.1", job.server.port))
            ours.sendall(head(job, f"Host: 127.0.0.1:{job.server.port}", f"Authorization: Bearer {job.secret}"))
            assert status(ours) == 200
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
