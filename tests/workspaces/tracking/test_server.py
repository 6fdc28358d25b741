"""Tests of the server on the network: a job's variables, access, limits, concurrency, strangers, and shutdown."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.core.errors import RunNotFound
from himl_cli.workspaces.local.run_store import Database
from himl_cli.workspaces.local.tracking.http_connection import LARGEST_BODY
from himl_cli.workspaces.local.tracking.protocol import experiment_number
from himl_cli.workspaces.local.tracking.tracking_server import Limits, TrackingServer, client_environment
from tests.support.running import until, write_files
from tests.workspaces.tracking.tracked_job import API, JOB, TrackedJob, tracked_job


def variables(base: dict[str, str], home: Path) -> dict[str, str]:
    return dict(client_environment({"HOME": str(home), "USERPROFILE": str(home), **base}, port=5, secret="s3"))


def test_a_job_is_told_its_server_and_to_be_silent_but_no_run_that_others_lack(job: TrackedJob, tmp_path: Path) -> None:
    found = variables({"MLFLOW_RUN_ID": "of others", "MLFLOW_EXPERIMENT_ID": "7"}, tmp_path)
    assert {name: found[name] for name in found if name.startswith("MLFLOW_")} == {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5",
        "MLFLOW_TRACKING_TOKEN": "s3",
        **dict.fromkeys(("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"), "true"),
    }
    seen = job.server.environment(
        {
            "MLFLOW_TRACKING_USERNAME": "someone",
            "MLFLOW_TRACKING_PASSWORD": "something",
            "MLFLOW_TRACKING_AWS_SIGV4": "true",
        }
    )
    assert [
        name
        for name in seen
        if name.startswith(("MLFLOW_TRACKING_USER", "MLFLOW_TRACKING_PASS", "MLFLOW_TRACKING_AWS"))
    ] == []
    numbers = [experiment_number(name) for name in ("train", "train", "évaluation", "")]
    assert (numbers[0] == numbers[1], len(set(numbers))) == (True, 3)
    assert all(number.isdigit() and number != "0" for number in numbers)


@pytest.mark.skipif(sys.platform == "win32", reason="NO_PROXY and no_proxy are one variable on Windows")
def test_loopback_address_is_added_to_no_proxy(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, str], tuple[str, str]]] = [
        ({}, ("127.0.0.1", "127.0.0.1")),
        ({"NO_PROXY": "a.org, b.org"}, ("a.org,b.org,127.0.0.1", "a.org,b.org,127.0.0.1")),
        ({"no_proxy": "a.org", "NO_PROXY": "b.org"}, ("b.org,127.0.0.1", "a.org,127.0.0.1")),
        ({"no_proxy": "*"}, ("*", "*")),
    ]
    for base, expected in cases:
        found = variables(base, tmp_path)
        assert (found["NO_PROXY"], found["no_proxy"]) == expected


def test_secret_is_sent_another_way_beside_credentials_of_others(tmp_path: Path) -> None:
    for name in (".netrc", "_netrc", "elsewhere"):
        base = {"NETRC": str(tmp_path / name)} if name == "elsewhere" else {}
        assert variables(base, tmp_path)["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5"
        for who, path in (("default", "/s3"), ("machine 127.0.0.1", "/s3"), ("machine github.com", "")):
            (tmp_path / name).write_text(f"{who} login a password b")
            assert variables(base, tmp_path)["MLFLOW_TRACKING_URI"] == f"http://127.0.0.1:5{path}"
        (tmp_path / name).unlink()
    assert "MLFLOW_TRACKING_PASSWORD" not in variables({}, tmp_path)
    write_files(tmp_path, {".mlflow/credentials": ""})
    found = variables({}, tmp_path)
    assert (found["MLFLOW_TRACKING_USERNAME"], found["MLFLOW_TRACKING_PASSWORD"], found["MLFLOW_TRACKING_URI"]) == (
        "himl",
        "s3",
        "http://127.0.0.1:5",
    )


GET_RUN = f"{API}runs/get?run_id={JOB}"


def raw(job: TrackedJob, request: bytes) -> bytes:
    """Return the response to raw bytes, up to the server's close."""
    with socket.create_connection(("127.0.0.1", job.server.port), timeout=60) as client:
        found = b""
        # The server may have closed already, with a reset if it left bytes unread.
        with suppress(OSError):
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
        with suppress(OSError):  # data from before a reset can still be read
            while piece := client.recv(65536):
                found += piece
    return found


def test_the_token_opens_as_bearer_as_password_or_in_the_path(job: TrackedJob) -> None:
    password = b64encode(f"himl:{job.secret}".encode()).decode()
    for prefix, authorization in (
        ("", f"Bearer {job.secret}"),
        ("", f"Basic {password}"),
        (f"/{job.secret}", ""),
        (f"/{job.secret}", "Basic c29tZW9uZTp4"),
    ):
        assert job.send("GET", prefix + GET_RUN, headers={"Authorization": authorization}).status == 200
    for authorization in ("", "Bearer", "Bearer x", "Bearer " + "0" * 48, "Basic c29tZW9uZTp4", "Bearer \xe9"):
        for prefix in ("", "/" + "0" * 48, "/x"):
            reply = job.send("GET", prefix + GET_RUN, headers={"Authorization": authorization})
            assert reply.error == (401, "UNAUTHENTICATED"), (authorization, prefix)
            assert ("~/.mlflow/credentials" in reply.body["message"]) == authorization.startswith("Basic")
            assert job.secret.partition("-")[0] not in json.dumps(reply.body)


def test_other_hosts_two_hosts_and_two_lengths_are_refused(job: TrackedJob) -> None:
    for name in ("evil.example", "127.0.0.1", "127.0.0.1:1", ""):
        assert job.send("GET", GET_RUN, headers={"Host": name}).error == (403, "PERMISSION_DENIED"), name
    assert job.send("GET", GET_RUN, headers={"Host": f"localhost:{job.server.port}"}).status == 200
    host, token = ours(job)
    for hosts in ((host, "Host: evil.example"), ("Host: evil.example", host)):
        assert raw(job, head(job, *hosts, token)).startswith(b"HTTP/1.1 403 ")
    body = json.dumps({"run_id": JOB, "key": "k", "value": "v"})
    lengths = (f"Content-Length: {len(body)}", "Content-Length: 2")
    # The second request is incomplete.
    for wrong in (lengths, (f"Content-Length: {len(body) + 9}",)):
        assert raw(job, head(job, host, token, *wrong, line=SET_TAG) + body.encode()).startswith(b"HTTP/1.1 400 ")
    assert "k" not in job.run().tags


def test_it_listens_on_the_loopback_interface_only(job: TrackedJob) -> None:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        # It sends nothing, but selects the interface that leads outside.
        probe.connect(("192.0.2.1", 9))
        outside = probe.getsockname()[0]
    if outside.startswith("127."):
        pytest.skip("NEEDS a second network interface")
    with closing(socket.socket()) as client:
        client.settimeout(60)
        assert client.connect_ex((outside, job.server.port)) != 0


def test_broken_http_and_too_much_get_an_error_in_json(job: TrackedJob) -> None:
    reply = job.send("POST", f"{API}runs/log-batch", b"x" * (LARGEST_BODY + 1))
    assert reply.error == (413, "REQUEST_LIMIT_EXCEEDED")
    assert job.post("runs/set-tag", run_id=JOB, key="big", value="x" * 2_000_000).status == 200
    assert len(job.run().tags["big"]) == 2_000_000
    requests = {
        b"nonsense\r\n\r\n": 400,
        b"GET / HTTP/9.9\r\n\r\n": 505,
        b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n": 501,
        b"POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n": 400,
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n": 400,
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": 411,
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n": 414,
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n": 431,
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 60_000) for number in range(3)): 431,
        b"GET / HTTP/1.1\r\n\r\n": 403,
    }
    for request, status in requests.items():
        found, _, body = raw(job, request).partition(b"\r\n\r\n")
        assert found.split()[1] == str(status).encode(), request[:60]
        assert set(json.loads(body)) == {"error_code", "message"}
    assert job.send("GET", GET_RUN).status == 200


def test_one_connection_serves_many_requests_also_after_errors(job: TrackedJob) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", job.server.port, timeout=60)) as connection:
        connection.connect()
        first = connection.sock
        codes = []
        for method, target, headers in (
            ("POST", f"{API}runs/none", {}),
            ("POST", GET_RUN, {"Authorization": "x"}),
            ("GET", GET_RUN, {}),
        ):
            connection.request(
                method,
                target,
                b"{}" if method == "POST" else None,
                {"Authorization": f"Bearer {job.secret}", **headers},
            )
            response = connection.getresponse()
            response.read()
            codes.append(response.status)
        assert (codes, connection.sock is first) == ([404, 401, 200], True)


def test_the_token_stands_in_no_answer_and_no_log(
    job: TrackedJob, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Clients print the server's messages, and their output is in the job's log."""
    with caplog.at_level(logging.DEBUG):
        assert job.send("GET", f"/{job.secret}{GET_RUN}").status == 200
        for line in (
            "GET /{}/x y HTTP/1.1",
            "GET /{} HTTP/9.9",
            "BREW /{} HTTP/1.1",
            "{} / HTTP/1.1",
            "GET /x/{} HTTP/1.1",
        ):
            reply = raw(
                job,
                head(
                    job,
                    f"Host: 127.0.0.1:{job.server.port}",
                    f"Authorization: Bearer {job.secret}",
                    line=line.format(job.secret),
                ),
            )
            assert reply.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
            assert job.secret.encode() not in reply, line
    written = capfd.readouterr()
    assert job.secret not in caplog.text + written.out + written.err


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_parameter_set_by_all_at_once_has_one_value(job: TrackedJob) -> None:
    # One attempt is not enough, because the moment between reading and writing is short.
    for number in range(20):
        with ThreadPoolExecutor(8) as pool:
            codes = list(
                pool.map(
                    lambda value, name=f"p{number}": (
                        job.post("runs/log-parameter", run_id=JOB, key=name, value=str(value)).status
                    ),
                    range(8),
                )
            )
        assert sorted(codes) == [200] + [400] * 7
        assert job.parameters()[f"p{number}"] == str(codes.index(200))


def test_closing_answers_what_arrived_and_refuses_the_rest(job: TrackedJob, tmp_path: Path) -> None:
    kept: list[int] = []

    def log() -> None:
        with (
            closing(http.client.HTTPConnection("127.0.0.1", job.server.port, timeout=60)) as connection,
            suppress(OSError, http.client.HTTPException),
        ):
            for step in range(100_000):
                body = json.dumps({"run_id": JOB, "key": "m", "value": step, "step": step})
                connection.request("POST", f"{API}runs/log-metric", body, {"Authorization": f"Bearer {job.secret}"})
                if connection.getresponse().read() == b"{}":
                    kept.append(step)

    thread = threading.Thread(target=log)
    thread.start()
    silent = connect(job)
    until(lambda: len(kept) >= 20)
    job.server.close()
    job.server.close()  # closing twice is harmless
    thread.join(100)
    assert job.values("m") == kept
    with closing(silent):
        assert silent.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(job)
    with closing(Database(tmp_path / "w.db", create=True)) as database, pytest.raises(RunNotFound, match="nobody"):
        TrackingServer(database, "nobody", artifacts_of=Path, new_child_id=lambda: "x")


@pytest.mark.large("takes long, and other tests run its branches")
def test_importing_the_server_is_cheap() -> None:
    code = "import sys, himl_cli.workspaces.local.tracking.tracking_server; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert (
        loaded & {"http.server", "http.client", "logging", "ssl", "email", "filelock", "msgspec", "rich", "mlflow"}
        == set()
    )


HASTY = Limits(most=8, grace=0.1, silence=0.4, drained=1 << 20)
SET_TAG = f"POST {API}runs/set-tag HTTP/1.1"


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[TrackedJob]:
    """A job whose server soon drops silent clients."""
    with tracked_job(tmp_path / "runs", HASTY) as running:
        yield running


def head(job: TrackedJob, *lines: str, line: str = f"GET {GET_RUN} HTTP/1.1") -> bytes:
    return "".join(f"{each}\r\n" for each in (line, *lines, "")).encode()


def ours(job: TrackedJob) -> tuple[str, str]:
    """Return the lines of an authorized request."""
    return f"Host: 127.0.0.1:{job.server.port}", f"Authorization: Bearer {job.secret}"


def connect(job: TrackedJob) -> socket.socket:
    return socket.create_connection(("127.0.0.1", job.server.port), timeout=60)


@contextmanager
def idle(job: TrackedJob, count: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(connect(job))) for _ in range(count)]


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_connection_that_showed_the_token_is_left_open(hasty: TrackedJob) -> None:
    with ExitStack() as stack:
        ours = admitted(hasty, stack)
        for _ in range(2):
            with idle(hasty, 30):
                admitted(hasty, stack)
            time.sleep(HASTY.silence + 0.1)
            assert is_answered(hasty, ours)


def admitted(job: TrackedJob, stack: ExitStack) -> socket.socket:
    """Return a connection that has sent the token.

    It opens another one if the server dropped the connection first on a slow machine.
    """
    while not is_answered(job, client := stack.enter_context(closing(connect(job)))):
        pass
    return client


def is_answered(job: TrackedJob, client: socket.socket) -> bool:
    with suppress(ConnectionError):
        client.sendall(head(job, *ours(job)))
        return client.recv(65536).startswith(b"HTTP/1.1 200 ")
    return False


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_stranger_who_falls_silent_is_left(hasty: TrackedJob, capfd: pytest.CaptureFixture[str]) -> None:
    with idle(hasty, 3) as strangers:
        for client, said in zip(
            strangers, (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\nabc"), strict=True
        ):
            with suppress(ConnectionError):  # left before it spoke, on a slow machine
                client.sendall(said)
                assert client.recv(1) == b""
    assert capfd.readouterr() == ("", "")


def test_of_strangers_little_is_read_and_nothing_awaited(tmp_path: Path) -> None:
    sent, before = 0, {*threading.enumerate()}
    # The server serves only a few of the strangers at a time.
    with tracked_job(tmp_path / "runs", replace(HASTY, silence=600)) as job, idle(job, 60):
        with closing(connect(job)) as client, suppress(ConnectionError):
            client.sendall(head(job, ours(job)[0], f"Content-Length: {1 << 30}", line=SET_TAG))
            while sent < 200 << 20:
                sent += client.send(bytes(1 << 20))
        assert sent < 100 << 20
        assert job.send("GET", GET_RUN).status == 200
        # Threads of dropped strangers may still have to end.
        until(lambda: len({*threading.enumerate()} - before) <= HASTY.most + 2)
    with tracked_job(tmp_path / "j", Limits(most=4, grace=600, silence=600)) as job, idle(job, 20):
        # If it waited for strangers, the test would take too long.
        job.server.close()


@pytest.mark.skipif(sys.platform == "win32", reason="NEEDS a limit on the handles of a process")
def test_where_handles_run_out_strangers_go_first(job: TrackedJob) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with closing(socket.socket()) as last, closing(socket.socket()) as mine:
        mine.settimeout(60)
        before = {*threading.enumerate()}
        with idle(job, 5):
            until(lambda: len({*threading.enumerate()} - before) >= 5)  # all are accepted
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                # The server may have one free handle, which this connection uses up.
                last.connect(("127.0.0.1", job.server.port))
                mine.connect(("127.0.0.1", job.server.port))
                mine.sendall(head(job, *ours(job)))
                assert mine.recv(65536).startswith(b"HTTP/1.1 200 ")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
