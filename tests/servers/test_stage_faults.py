"""Each fault does what it says: as a client sees it on the wire."""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor, wait
from email.utils import parsedate_to_datetime

import pytest

from tests.servers.asking import ARM, VERSION, Answer, ask, token_for
from tests.servers.azureml.faults import (
    ChangeEtag,
    Drip,
    ExpireSas,
    FlipByte,
    Latency,
    Meanwhile,
    Page,
    Reset,
    ResetUpload,
    SmallPages,
    Stall,
    Status,
    Truncate,
    WrongDate,
    WrongMd5,
)
from tests.servers.azureml.seeding import StagedWorkspace

BODY = bytes(range(256)) * 400
MD5 = base64.b64encode(hashlib.md5(BODY).digest()).decode()
STORE = "workspaceblobstore"


@pytest.fixture
def link(azure: StagedWorkspace) -> str:
    """A signed link to a blob that holds BODY."""
    azure.put_blob(STORE, "blob", BODY)
    return azure.state.storage.blob_link(azure.state.default_datastore.container, "blob", permissions="rcw")


def put(azure: StagedWorkspace, link: str, content: bytes) -> Answer:
    return ask(azure.stage, "PUT", link, headers={"x-ms-blob-type": "BlockBlob"}, body=content)


def test_without_a_fault_the_blob_comes_as_it_is(azure: StagedWorkspace, link: str) -> None:
    answer = ask(azure.stage, "GET", link)
    assert (answer.status, answer.body, answer.headers["content-md5"]) == (200, BODY, MD5)


def test_a_status_comes_with_its_code_and_when_to_ask_again(azure: StagedWorkspace, link: str) -> None:
    azure.stage.faults.add(Status(503, retry_after=3), "/blob", times=2)
    for method in ("GET", "HEAD"):
        answer = ask(azure.stage, method, link)
        assert (answer.status, answer.headers["retry-after"], answer.headers["x-ms-error-code"]) == (503, "3", "ServerBusy")
    assert ask(azure.stage, "GET", link).body == BODY


def test_status_fault_has_service_form_and_reads_whole_request(azure: StagedWorkspace) -> None:
    token = token_for(azure.stage, azure.state.principal)
    azure.stage.faults.add(Status(429, retry_after=1, code="TooManyRequests", message="Slow down."), "listSecrets")
    answer = ask(azure.stage, "POST", f"{ARM}{azure.state.path}/datastores/{STORE}/listSecrets{VERSION}", token=token, body=b"{}" * 10_000)
    assert (answer.status, answer.json["error"]["code"], answer.headers["retry-after"]) == (429, "TooManyRequests", "1")
    assert azure.stage.log.find("listSecrets")[0].sent == 20_000


def test_a_page_may_come_in_place_of_the_answer(azure: StagedWorkspace, link: str) -> None:
    azure.stage.faults.add(Page("<p>Sign in to the network"), times=2)
    for url in (link, ARM + azure.state.path + VERSION):
        answer = ask(azure.stage, "GET", url)
        assert (answer.status, answer.headers["content-type"], answer.body) == (200, "text/html", b"<p>Sign in to the network")


@pytest.mark.parametrize("after", [0, 1, 70_000])
def test_a_reset_comes_within_the_body(azure: StagedWorkspace, link: str, after: int) -> None:
    azure.stage.faults.add(Reset(after), "/blob")
    with pytest.raises((ConnectionError, http.client.IncompleteRead)):  # which one is OpenSSL's choice
        ask(azure.stage, "GET", link)
    assert azure.stage.log.find("/blob")[0].received == after
    assert ask(azure.stage, "GET", link).body == BODY


def test_reset_loses_response_of_completed_request(azure: StagedWorkspace, link: str) -> None:
    azure.stage.faults.add(Reset(), "^PUT")
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        put(azure, link, b"new")
    assert azure.get_blob(STORE, "blob") == b"new"


def test_an_upload_may_break_within_its_body(azure: StagedWorkspace, link: str) -> None:
    azure.stage.faults.add(ResetUpload(after=1_000_000), "^PUT")
    with pytest.raises((OSError, http.client.HTTPException)):
        put(azure, link, bytes(8_000_000))
    assert azure.get_blob(STORE, "blob") == BODY
    assert put(azure, link, b"after").status == 201


def test_a_body_may_end_too_early(azure: StagedWorkspace, link: str) -> None:
    azure.stage.faults.add(Truncate(after=1234), "/blob")
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(azure.stage, "GET", link)
    assert caught.value.partial == BODY[:1234]


def test_a_reset_is_no_orderly_end(azure: StagedWorkspace, link: str) -> None:
    azure.stage.faults.add(Truncate(after=100), "/blob")
    azure.stage.faults.add(Reset(after=100), "/blob", skip=1)
    read_to_the_end(azure, link)
    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        read_to_the_end(azure, link)


def read_to_the_end(azure: StagedWorkspace, link: str) -> None:
    """Read an answer until the server closes; raises where it does so without saying it."""
    host, path = azure.state.storage.host, link.removeprefix(f"https://{azure.state.storage.host}")
    context = ssl.create_default_context(cafile=str(azure.stage.ca_file))
    with socket.create_connection(("127.0.0.1", azure.stage.port), timeout=60) as plain:
        plain.sendall(f"CONNECT {host}:443 HTTP/1.1\r\n\r\n".encode())
        assert plain.recv(1000).startswith(b"HTTP/1.1 200")
        with context.wrap_socket(plain, server_hostname=host, suppress_ragged_eofs=False) as secure:
            secure.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            while secure.recv(65536):
                pass


def test_a_byte_may_be_another(azure: StagedWorkspace, link: str) -> None:
    for at in (0, 5000, -1):
        azure.stage.faults.add(FlipByte(at), "/blob")
        body = ask(azure.stage, "GET", link).body
        assert [index for index in range(len(BODY)) if body[index] != BODY[index]] == [at % len(BODY)]
        assert len(body) == len(BODY)


@pytest.mark.parametrize("fault", [Stall(0.3), Stall(0.3, after=100), Latency(0.3), Drip(len(BODY) * 3)])
def test_an_answer_may_be_slow_and_is_whole_all_the_same(azure: StagedWorkspace, link: str, fault: Stall | Latency | Drip) -> None:
    azure.stage.faults.add(fault, "/blob")
    begun = time.monotonic()
    assert ask(azure.stage, "GET", link).body == BODY
    assert time.monotonic() - begun >= 0.29


def test_an_answer_may_wait_for_something_that_happens_meanwhile(azure: StagedWorkspace, link: str) -> None:
    azure.stage.faults.add(Meanwhile(lambda: azure.put_blob(STORE, "other", BODY)), "/blob")
    assert ask(azure.stage, "GET", link).body == BODY
    assert azure.get_blob(STORE, "other") == BODY
    assert azure.stage.log.find("/blob")[0].faults == ["Meanwhile"]


def test_answers_are_held_until_they_are_let_go(azure: StagedWorkspace, link: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        with azure.stage.holding("/blob"):
            coming = pool.submit(ask, azure.stage, "GET", link)
            assert not wait([coming], timeout=0.2).done
        assert coming.result().body == BODY


def test_another_md5_may_be_promised(azure: StagedWorkspace, link: str) -> None:
    azure.stage.faults.add(WrongMd5(), "/blob")
    answer = ask(azure.stage, "GET", link)
    assert answer.body == BODY
    assert answer.headers["content-md5"] != MD5


def test_another_writer_may_come_in_between(azure: StagedWorkspace, link: str) -> None:
    before = ask(azure.stage, "HEAD", link).headers["etag"]
    azure.stage.faults.add(ChangeEtag(), "/blob", times=2)
    assert ask(azure.stage, "GET", link).headers["etag"] != before
    answer = ask(azure.stage, "GET", link, headers={"If-Match": before})
    assert (answer.status, answer.headers["x-ms-error-code"]) == (412, "ConditionNotMet")


def test_a_signature_may_have_run_out(azure: StagedWorkspace, link: str) -> None:
    azure.stage.faults.add(ExpireSas(), "/blob")
    answer = ask(azure.stage, "GET", link)
    assert (answer.status, answer.headers["x-ms-error-code"]) == (403, "AuthenticationFailed")
    assert b"Signature not valid in the specified time frame" in answer.body


def test_a_signature_really_runs_out(azure: StagedWorkspace, link: str) -> None:
    short = azure.state.storage.blob_link(azure.state.default_datastore.container, "blob", seconds=1.0)
    time.sleep(2.1)  # signatures count whole seconds
    assert ask(azure.stage, "GET", short).status == 403


def test_the_services_clock_may_be_another(azure: StagedWorkspace, link: str) -> None:
    azure.stage.faults.add(WrongDate(7200), times=None)
    begun = time.time()
    told = parsedate_to_datetime(ask(azure.stage, "GET", link).headers["date"]).timestamp()
    assert begun - 1 <= told - 7200 <= time.time()


def test_listings_may_come_in_small_pages(azure: StagedWorkspace) -> None:
    azure.put_blobs(STORE, {f"many/{number}": b"" for number in range(5)})
    container, names, marker = azure.state.default_datastore.container, list[str](), ""
    azure.stage.faults.add(SmallPages(2), "comp=list", times=None)
    url = f"https://{azure.state.storage.host}/{container}?restype=container&comp=list&maxresults=5000&{azure.state.storage.container_sas(container)}"
    pages = 0
    while True:
        body = ask(azure.stage, "GET", f"{url}&marker={marker}").body.decode()
        names += re.findall("<Name>(.*?)</Name>", body)
        pages += 1
        found = re.search("<NextMarker>(.+?)</NextMarker>", body)
        if found is None:
            break
        marker = found[1]
    assert (names, pages) == ([f"many/{number}" for number in range(5)], 3)


def test_a_firewall_and_an_account_without_keys_say_so(azure: StagedWorkspace, link: str) -> None:
    azure.state.storage.is_open = False
    assert ask(azure.stage, "GET", link).headers["x-ms-error-code"] == "AuthorizationFailure"
    azure.state.storage.is_open, azure.state.storage.takes_keys = True, False
    assert ask(azure.stage, "GET", link).status == 200  # by the service's own identity
    container = azure.state.default_datastore.container
    by_key = f"{link.partition('?')[0]}?{azure.state.storage.container_sas(container)}"
    assert ask(azure.stage, "GET", by_key).headers["x-ms-error-code"] == "KeyBasedAuthenticationNotPermitted"
