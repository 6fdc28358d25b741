"""Tests of files on the web, as a store of one blob: complete with any server, resumed, checked, and without showing
secrets of the URL.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.blobs import FetchRequest, TransferResult
from himl_cli.core.errors import BadUsage, HimlError, IntegrityFailed, NotAllowed, NotFound, ServiceFailed
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.plan import DownloadRequest
from himl_cli.workspaces.transfer_engine.curl import CurlPool
from himl_cli.workspaces.web import WebFile
from tests.support.azure import HASTY_STORE, PATIENT
from tests.support.folders import files_below, transfers
from tests.support.stores import Received, listed, named
from tests.support.web import Asked, FileServer, serving_files

MIB = 1 << 20
SMALL, MIDDLE, LARGE = os.urandom(3000), os.urandom(6 * MIB), os.urandom(36 * MIB)
SECRET = "sv=2024-11-04&se=2099-01-01&sig=very%2Fsecret"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "here"


def opened(address: str) -> WebFile:
    return WebFile(address, pool=CurlPool(PATIENT, PATIENT), policy=HASTY_STORE)


def fetch(address: str, folder: Path) -> TransferResult:
    return download(opened(address), DownloadRequest(folder, overwrite=True))


def failure(address: str, folder: Path) -> HimlError:
    """Return the download's error. No file may have the final name."""
    try:
        problem = fetch(address, folder).problem()
    except HimlError as error:
        problem = error
    assert problem is not None
    assert not [path for path in folder.glob("*") if not path.name.startswith(".")]
    return problem


SERVERS: list[tuple[dict[str, object], tuple[bytes, ...]]] = [
    ({}, (b"", LARGE)),
    ({"ranges": False}, (b"", MIDDLE)),
    ({"etag": "", "modified": ""}, (SMALL, LARGE)),
    ({"etag": 'W/"x"'}, (MIDDLE,)),
    ({"if_range": False}, (LARGE,)),
    ({"head": False}, (b"", SMALL)),
]


@pytest.mark.large("downloads large files")
@pytest.mark.parametrize(("how", "bodies"), SERVERS, ids=range(6))
def test_file_comes_whole_whatever_the_server_can(
    web: FileServer, folder: Path, how: dict[str, object], bodies: tuple[bytes, ...]
) -> None:
    for number, body in enumerate(bodies):
        web.put(f"/models/{number}.ckpt", body, **how)
        result = fetch(web(f"/models/{number}.ckpt", SECRET), folder)
        assert (result.problem(), result.files) == (None, 1)
        assert (folder / f"{number}.ckpt").read_bytes() == body


@pytest.mark.large("takes long, and other tests run its branches")
def test_repeated_download_with_new_signature_takes_one_request(web: FileServer, folder: Path) -> None:
    web.put(
        "/last.ckpt", LARGE, headers={"x-ms-blob-content-md5": base64.b64encode(hashlib.md5(LARGE).digest()).decode()}
    )
    fetch(web("/last.ckpt", SECRET), folder)
    before = len(web.seen)
    again = fetch(web("/last.ckpt", "sv=2024-11-04&sig=another"), folder)
    assert (again.skipped, again.bytes, len(web.seen) - before, again.unverified) == (1, 0, 1, 0)
    web.put("/last.ckpt", MIDDLE, etag='"two"')
    assert fetch(web("/last.ckpt"), folder).files == 1
    assert (folder / "last.ckpt").read_bytes() == MIDDLE


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize(("etag", "body"), [('"one"', LARGE), ('W/"x"', MIDDLE)], ids=["etag", "time"])
def test_what_was_broken_off_is_resumed_and_no_query_written(
    web: FileServer, folder: Path, caplog: pytest.LogCaptureFixture, etag: str, body: bytes
) -> None:
    caplog.set_level("DEBUG")
    web.put("/last.ckpt", body, etag=etag)
    web.cuts = [50_000] * 1000
    error = failure(web("/last.ckpt", SECRET), folder)
    assert isinstance(error, ServiceFailed)
    written = b"".join(
        path.read_bytes() for top in (folder, transfers()) for path in files_below(top) if path.stat().st_size < MIB
    )
    assert b"localhost" in written
    assert "secret" not in f"{error} {error.hint} {caplog.text} {written!r}"
    web.cuts = [MIB + 1] * 1000  # a request that got a MiB has all its attempts again
    result = fetch(web("/last.ckpt", "sig=renewed"), folder)
    assert (result.problem(), result.bytes < len(body)) == (None, True)
    assert (folder / "last.ckpt").read_bytes() == body


@pytest.mark.parametrize(
    "how", [{"ranges": False}, {"etag": "", "modified": ""}], ids=["no ranges", "nothing to tell changes by"]
)
def test_unresumable_broken_download_restarts_from_zero(web: FileServer, folder: Path, how: dict[str, object]) -> None:
    web.put("/last.ckpt", MIDDLE, **how)
    web.cuts = [2 * MIB]
    error = failure(web("/last.ckpt"), folder)
    assert (type(error), "cannot resume" in str(error)) == (ServiceFailed, True)
    other = os.urandom(len(MIDDLE))
    web.put("/last.ckpt", other, **{"etag": '"two"', **how})
    result = fetch(web("/last.ckpt"), folder)
    assert (result.problem(), result.bytes) == (None, len(other))
    assert (folder / "last.ckpt").read_bytes() == other
    assert web.ranges == [""] * 2


@pytest.mark.parametrize("how", [{}, {"etag": "", "if_range": False}], ids=lambda how: "-".join(how) or "plain")
def test_two_states_of_a_file_are_never_put_together(web: FileServer, folder: Path, how: dict[str, object]) -> None:
    size = 6 * MIB if how else 36 * MIB  # the larger file comes in many parts
    first, second = os.urandom(size), os.urandom(size)
    web.put("/last.ckpt", first, **how)
    web.cuts = [MIB]

    def replace(asked: Asked) -> None:
        if len(web.ranges) == 2:
            new = {"etag": '"two"', "modified": "Sat, 03 Jan 2026 03:04:05 GMT"} | {
                name: value for name, value in how.items() if value in ("", False)
            }
            web.put("/last.ckpt", second, **(how | new))

    web.before = replace
    result = fetch(web("/last.ckpt"), folder)
    assert result.problem() is None
    assert (folder / "last.ckpt").read_bytes() == second


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize(
    ("body", "field"), [(SMALL, "x-ms-blob-content-md5"), (LARGE, "Content-MD5")], ids=["small", "large"]
)
def test_a_wrong_md5_is_said_and_leaves_nothing(web: FileServer, folder: Path, body: bytes, field: str) -> None:
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    web.put("/last.ckpt", body, headers={field: wrong})
    error = failure(web("/last.ckpt", SECRET), folder)
    assert (type(error), "Checksums do not match" in str(error)) == (IntegrityFailed, True), error


def test_one_that_ends_too_early_is_said(web: FileServer, folder: Path) -> None:
    web.put("/last.ckpt", SMALL, headers={"Content-Range": f"bytes 0-0/{len(SMALL) + 5}"})
    web.before = lambda asked: web.files["/last.ckpt"].headers.clear() if asked.range != "bytes=0-0" else None
    web.files["/last.ckpt"].length = False  # the response ends with the connection
    assert isinstance(failure(web("/last.ckpt"), folder), IntegrityFailed)


def test_refusals_name_the_address_without_its_secret(web: FileServer, folder: Path) -> None:
    for status, kind, words in (
        (404, NotFound, "No file at https://localhost"),
        (403, NotAllowed, "has expired or does not allow reading (403 Denied)"),
        (400, ServiceFailed, "refused the request"),
        (503, ServiceFailed, "is busy"),
        (500, ServiceFailed, "keeps failing (500)"),
    ):
        web.put("/last.ckpt", b"<Error><Code>Denied</Code></Error>", status=status)
        before = len(web.seen)
        error = failure(web("/last.ckpt", SECRET), folder)
        assert (isinstance(error, kind), words in str(error)) == (True, True), error
        assert "secret" not in f"{error}{error.hint}"
        assert len(web.seen) - before == (HASTY_STORE.attempts if status >= 500 else 1)
    web.put("/last.ckpt", b"", status=403)
    error = failure(web("/last.ckpt", "se=2024-05-06T07%3A08%3A09Z&sig=x"), folder)
    assert f"The link to {web('/last.ckpt')} has expired (2024-05-06 07:08 UTC)." in str(error)
    assert "himl checkpoint url" in error.hint


def test_redirect_is_requested_again_when_its_link_expires(web: FileServer, folder: Path) -> None:
    web.put("/resolve/model.ckpt", b"", moved_to="/signed/1?sig=first")
    web.put("/signed/1", LARGE)

    def expire(asked: Asked) -> None:
        if len(web.ranges) == 3:
            web.put("/resolve/model.ckpt", b"", moved_to="/signed/2?sig=second")
            web.put("/signed/1", b"", status=403)
            web.put("/signed/2", LARGE)

    web.before = expire
    assert fetch(web("/resolve/model.ckpt", "token=x"), folder).problem() is None
    assert (folder / "model.ckpt").read_bytes() == LARGE
    assert not [asked for asked in web.seen if "token" in asked.query and asked.path != "/resolve/model.ckpt"]


def test_user_in_the_address_is_sent_to_its_own_host_only(web: FileServer, folder: Path, tmp_path: Path) -> None:
    with serving_files(None) as other:
        other.put("/b.ckpt", SMALL)
        other.put("/a.ckpt", b"", moved_to=f"http://127.0.0.1:{other.address.rpartition(':')[2]}/b.ckpt")
        address = other("/a.ckpt").replace("://", "://ada:pa%20ss@")
        assert fetch(address, folder).problem() is None
    assert {(asked.path, asked.headers.get("authorization", "")) for asked in other.seen} == {
        ("/a.ckpt", "Basic YWRhOnBhIHNz"),
        ("/b.ckpt", ""),
    }
    assert "ada" not in opened(address).label + opened(address).origin
    is_versioned = [
        any("x-ms-version: " in header for header in opened(f"https://lab.{kind}/a/b").signed("").headers)
        for kind in ("blob.example", "example")
    ]
    assert is_versioned == [True, False]


def test_addresses_that_are_not_read() -> None:
    for address in (
        *(
            "http://example.org/a.ckpt?sig=secret",
            "https:///a.ckpt",
            "https://[::1/a.ckpt",
            "ftp://example.org/a",
            "https://example.org/\udcffa.ckpt",
        ),
        "https://ada:secret@example.org:99999/a?sig=secret",
    ):
        with pytest.raises(BadUsage) as caught:
            WebFile(address)
        assert "secret" not in f"{caught.value}{caught.value.hint}"
        assert "99999" not in address or "an invalid host or port" in str(caught.value)
    origins = {
        WebFile(f"https://example.org/download?{query}").origin
        for query in ("id=3&sig=a", "id=3&sig=b", "id=4&sig=a", "sig=a", "token=b")
    }
    assert len(origins) == 3, "those that mean two files are told apart"


def test_what_leads_nowhere_or_is_no_file_is_refused(web: FileServer, folder: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"moved_to": "http://localhost:1/b.ckpt"}, "by plain http"),
        ({"moved_to": "file:///etc/passwd"}, "redirects to an invalid address"),
        ({"moved_to": "/last.ckpt"}, "redirects too many times"),
        ({"headers": {"Content-Type": "text/html; charset=utf-8"}}, "is a web page, not a file"),
        ({"length": False, "ranges": False}, "does not send the size of"),
    ]
    for how, words in cases:
        web.put("/last.ckpt", SMALL, **how)
        assert words in str(failure(web("/last.ckpt"), folder))
    web.put("/later.ckpt", MIDDLE)
    web.before = lambda asked: web.files["/later.ckpt"].headers.update(
        {"Content-Encoding": "br"} if asked.range != "bytes=0-0" else {}
    )
    assert "only compressed (br)" in str(failure(web("/later.ckpt"), folder))


@pytest.mark.large("takes long, and other tests run its branches")
def test_only_bytes_that_are_not_compressed_are_read(web: FileServer, folder: Path) -> None:
    for ranges in (True, False):
        web.put("/last.ckpt", gzip.compress(SMALL), ranges=ranges, headers={"Content-Encoding": "gzip"})
        error = failure(web("/last.ckpt", SECRET), folder)
        assert (type(error), f"sends {web('/last.ckpt')} only compressed (gzip)" in str(error)) == (ServiceFailed, True)
    for path, encoding in (("/one.ckpt", "identity"), ("/two.ckpt", "aws-chunked"), ("/last.tar.gz", "x-gzip")):
        web.put(path, SMALL, headers={"Content-Encoding": encoding})
        fetch(web(path), folder)
        assert (folder / path[1:]).read_bytes() == SMALL


def test_file_is_named_by_its_address_or_the_server(web: FileServer, folder: Path) -> None:
    for number, (path, disposition, name) in enumerate((
        ("/a/last%20one.ckpt", "", "last one.ckpt"),
        ("/last.ckpt", 'attachment; filename="other.ckpt"', "last.ckpt"),
        ("/files/content", 'attachment; filename="model.ckpt"', "model.ckpt"),
        ("/files/content", "attachment; filename*=UTF-8''mod%C3%A9le.ckpt", "modéle.ckpt"),
        ("/files/content", 'attachment; filename="../../.bashrc"', "bashrc"),
        ("/files/a%2F..%2Fb.ckpt", "", "a_.._b.ckpt"),
        ("/nul.ckpt", "", "_nul.ckpt"),
        ("/", "", "checkpoint"),
    )):  # fmt: skip
        web.put(path, SMALL, headers={"Content-Disposition": disposition} if disposition else {})
        fetch(web(path), folder / str(number))
        assert [path.name for path in (folder / str(number)).glob("[!.]*")] == [name]


@pytest.mark.parametrize("ranges", [True, False])
def test_parts_come_in_any_order_each_once(web: FileServer, ranges: bool) -> None:
    web.put("/last.ckpt", MIDDLE, ranges=ranges)
    store, received = opened(web("/last.ckpt")), Received()
    blob = named(store, "last.ckpt")
    places = [(0, 10), (MIB, 2 * MIB), (3 * MIB, 5), (100, 7), (len(MIDDLE) - 3, 3)]
    store.fetch([FetchRequest(blob, start, length) for start, length in places], received, workers=4)
    assert received.errors == {}
    assert [received.bodies[("last.ckpt", start)] for start, _ in places] == [
        MIDDLE[start : start + length] for start, length in places
    ]
    assert b"".join(store.read("last.ckpt", 5 * MIB)) == MIDDLE[5 * MIB :]
    assert (store.stat("other"), listed(store, "x")) == (None, [])
