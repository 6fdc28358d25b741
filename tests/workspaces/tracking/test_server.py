"""The server as a network peer: who is let in, what is too much, many at once, and its end."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from himl_cli.core.errors import RunNotFound
from himl_cli.workspaces.local.run_store import Database
from himl_cli.workspaces.local.tracking.http_connection import LARGEST_BODY
from himl_cli.workspaces.local.tracking.tracking_server import TrackingServer
from tests.workspaces.tracking.tracked_job import API, JOB, TrackedJob, tracked_job

GET_RUN = f"{API}runs/get?run_id={JOB}"


def raw(job: TrackedJob, request: bytes) -> bytes:
    """What comes back for bytes sent as they are, until the server closes."""
    with socket.create_connection(("127.0.0.1", job.server.port), timeout=60) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        found = b""
        while piece := client.recv(65536):
            found += piece
    return found


def test_the_token_opens_as_bearer_as_password_or_in_the_path(job: TrackedJob) -> None:
    assert job.send("GET", GET_RUN).status == 200
    password = b64encode(f"himl:{job.secret}".encode()).decode()
    assert job.send("GET", GET_RUN, headers={"Authorization": f"Basic {password}"}).status == 200
    assert job.send("GET", f"/{job.secret}{GET_RUN}", headers={"Authorization": ""}).status == 200
    assert job.send("GET", f"/{job.secret}{GET_RUN}", headers={"Authorization": "Basic c29tZW9uZTp4"}).status == 200


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer x", "Bearer " + "0" * 48, "Basic c29tZW9uZTp4", "Bearer \xe9"])
@pytest.mark.parametrize("prefix", ["", "/" + "0" * 48, "/x"])
def test_without_the_token_nothing_is_told(job: TrackedJob, authorization: str, prefix: str) -> None:
    reply = job.send("GET", prefix + GET_RUN, headers={"Authorization": authorization})
    assert reply.error == (401, "UNAUTHENTICATED")
    assert ("~/.mlflow/credentials" in reply.body["message"]) == authorization.startswith("Basic")
    assert job.secret not in json.dumps(reply.body)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", ""])
def test_a_page_whose_name_was_bound_to_this_address_is_refused(job: TrackedJob, host: str) -> None:
    assert job.send("GET", GET_RUN, headers={"Host": host}).error == (403, "PERMISSION_DENIED")
    assert job.send("GET", GET_RUN, headers={"Host": f"localhost:{job.server.port}"}).status == 200


def test_it_listens_on_the_loopback_interface_only(job: TrackedJob) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: it only picks the interface that leads outside
        outside = probe.getsockname()[0]
    if outside.startswith("127."):
        pytest.skip("NEEDS a second network interface")
    with closing(socket.socket()) as client:
        client.settimeout(60)
        assert client.connect_ex((outside, job.server.port)) != 0


def test_a_body_that_is_too_large_is_refused_with_a_reason(job: TrackedJob) -> None:
    reply = job.send("POST", f"{API}runs/log-batch", b"x" * (LARGEST_BODY + 1))
    assert reply.error == (413, "REQUEST_LIMIT_EXCEEDED")
    assert job.post("runs/set-tag", run_id=JOB, key="big", value="x" * 2_000_000).status == 200
    assert len(job.run().tags["big"]) == 2_000_000


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 505),
        (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n\r\n", 403),
    ],
)
def test_broken_http_gets_an_error_in_json(job: TrackedJob, request_bytes: bytes, status: int) -> None:
    head, _, body = raw(job, request_bytes).partition(b"\r\n\r\n")
    assert head.split()[1] == str(status).encode()
    assert set(json.loads(body)) == {"error_code", "message"}
    assert job.send("GET", GET_RUN).status == 200


def test_a_body_that_ends_early_is_not_used(job: TrackedJob) -> None:
    body = json.dumps({"run_id": JOB, "key": "k", "value": "v"}).encode()
    head = (
        f"POST {API}runs/set-tag HTTP/1.1\r\nHost: 127.0.0.1:{job.server.port}\r\nAuthorization: Bearer {job.secret}\r\nContent-Length: {len(body) + 9}\r\n\r\n"
    )
    assert raw(job, head.encode() + body).startswith(b"HTTP/1.1 400 ")
    assert "k" not in job.run().tags


def test_one_connection_serves_many_requests_also_after_errors(job: TrackedJob) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", job.server.port, timeout=60)) as connection:
        connection.connect()
        first = connection.sock
        codes = []
        for method, target, headers in (("POST", f"{API}runs/none", {}), ("POST", GET_RUN, {"Authorization": "x"}), ("GET", GET_RUN, {})):
            connection.request(method, target, b"{}" if method == "POST" else None, {"Authorization": f"Bearer {job.secret}", **headers})
            response = connection.getresponse()
            response.read()
            codes.append(response.status)
        assert (codes, connection.sock is first) == ([404, 401, 200], True)


def test_the_token_reaches_no_log(job: TrackedJob, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    with caplog.at_level(logging.DEBUG):
        job.send("GET", f"/{job.secret}{GET_RUN}")
        job.send("GET", f"/{job.secret}/none")
        raw(job, f"GET /{job.secret} HTTP/9.9\r\n\r\n".encode())
    written = capfd.readouterr()
    assert job.secret not in caplog.text + written.out + written.err


@pytest.mark.parametrize(
    "line", ["GET /{token}/x y HTTP/1.1", "GET /{token} HTTP/9.9", "BREW /{token} HTTP/1.1", "{token} / HTTP/1.1", "GET /x/{token} HTTP/1.1"]
)
def test_the_token_stands_in_no_answer(job: TrackedJob, line: str) -> None:
    """Clients print what they are told, and what they print is in the job's log."""
    head = f"{line}\r\nHost: 127.0.0.1:{job.server.port}\r\nAuthorization: Bearer {job.secret}\r\n\r\n".format(token=job.secret)
    reply = raw(job, head.encode())
    assert reply.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    assert job.secret.encode() not in reply


def test_many_connections_at_once_keep_every_value(job: TrackedJob) -> None:
    def log(number: int) -> list[int]:
        return [job.post("runs/log-metric", run_id=JOB, key=f"m{number}", value=step, timestamp=step, step=step).status for step in range(10)]

    with ThreadPoolExecutor(40) as pool:
        codes = [code for found in pool.map(log, range(40)) for code in found]
    assert set(codes) == {200}
    assert [job.values(f"m{number}") for number in range(40)] == [list(range(10))] * 40


def test_a_parameter_set_by_all_at_once_has_one_value(job: TrackedJob) -> None:
    for number in range(40):  # once is too seldom: the moment between looking and writing is short
        with ThreadPoolExecutor(8) as pool:
            codes = list(pool.map(lambda value, name=f"p{number}": job.post("runs/log-parameter", run_id=JOB, key=name, value=str(value)).status, range(8)))
        assert sorted(codes) == [200] + [400] * 7
        assert job.parameters()[f"p{number}"] == str(codes.index(200))


def test_closing_answers_what_arrived_and_refuses_the_rest(job: TrackedJob) -> None:
    kept: list[int] = []

    def log() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", job.server.port, timeout=60)) as connection:
            try:
                for step in range(100_000):
                    body = json.dumps({"run_id": JOB, "key": "m", "value": step, "step": step})
                    connection.request("POST", f"{API}runs/log-metric", body, {"Authorization": f"Bearer {job.secret}"})
                    if connection.getresponse().read() == b"{}":
                        kept.append(step)
            except (OSError, http.client.HTTPException):
                return

    thread = threading.Thread(target=log)
    thread.start()
    idle = socket.create_connection(("127.0.0.1", job.server.port), timeout=60)
    while len(kept) < 20:
        time.sleep(0.01)
    start = time.monotonic()
    job.server.close()
    assert time.monotonic() - start < 20
    thread.join(100)
    assert job.values("m") == kept
    with closing(idle):
        assert idle.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", job.server.port), timeout=60)


def test_closing_twice_or_before_it_has_served_is_fine(tmp_path: Path) -> None:
    with tracked_job(tmp_path / "j") as job:
        job.server.close()
        job.server.close()
        assert job.run().id == JOB


def test_an_unknown_job_is_refused(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "w.db", create=True)) as database, pytest.raises(RunNotFound, match="nobody"):
        TrackingServer(database, "nobody", artifacts_of=Path, new_child_id=lambda: "x")


def test_importing_the_server_is_cheap() -> None:
    code = "import sys, himl_cli.workspaces.local.tracking.tracking_server; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert loaded & {"http.server", "http.client", "logging", "ssl", "email", "filelock", "msgspec", "rich", "mlflow"} == set()
