"""What the head of an answer says of a file on the web."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.redaction import last_name, safe_name
from himl_cli.workspaces.azure.requests.times import http_time
from himl_cli.workspaces.azure.storage.blobs.lines import Line
from himl_cli.workspaces.azure.storage.blobs.properties import whole_md5
from himl_cli.workspaces.azure.storage.blobs.wire import size_from

BY_TIME = "Last-Modified "
PAGES = (".html", ".htm", ".xhtml")
PACKED = (".gz", ".tgz", ".zst", ".br")
PACKINGS = {"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"}

LONGEST_DISPOSITION = 2000

_TOTAL = re.compile(r"bytes\s+(?:(?P<start>\d+)-[-\d]+|\*)/(?P<total>\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Told:
    """The file, and whether parts of it can be asked for: `blob.etag` is what tells one state of it from the next,
    empty where nothing does."""

    blob: BlobInfo
    takes_ranges: bool

    @property
    def comes_in_parts(self) -> bool:
        """Whether parts that were asked for one by one make one file for certain."""
        return self.takes_ranges and self.blob.etag != ""


def told_by(line: Line, address: str) -> Told | None:
    """What the answer to a GET for the first byte of *address* tells; None where it does not tell the size."""
    size = total_of(line)
    if size is None and line.status == 416:  # even the first byte does not exist
        size = 0
    if size is None:
        return None
    blob = BlobInfo(
        name_of(line, address), size, validator_of(line), whole_md5(line), http_time(line.header(b"last-modified"))
    )
    return Told(blob, takes_ranges=line.status == 206)


def total_of(line: Line) -> int | None:
    """Bytes of the whole file, as the answer to a GET tells them."""
    if line.status == 200:
        return size_from(line.header(b"content-length"))
    found = _TOTAL.fullmatch(line.header(b"content-range"))
    return size_from(found["total"]) if found else None


def start_of(line: Line) -> int | None:
    """Where the part begins that the answer has; None where it does not say."""
    found = _TOTAL.fullmatch(line.header(b"content-range"))
    return size_from(found["start"]) if found and found["start"] else None


def validator_of(line: Line) -> str:
    """What changes whenever the content does: a strong ETag as it is, else the time of change where that is sure to
    differ; else empty.

    A time counts from one second on after it: within that second the file may change once more (RFC 9110, 8.8.2.2).
    """
    etag = line.header(b"etag")
    if etag and not etag.startswith("W/"):
        return etag
    changed, now = http_time(line.header(b"last-modified")), http_time(line.header(b"date"))
    if changed is None or now is None or (now - changed).total_seconds() < 1:
        return ""
    return BY_TIME + line.header(b"last-modified")


def if_range(validator: str) -> str:
    """The header that asks for a part only of the file that *validator* is of."""
    return f"If-Range: {validator.removeprefix(BY_TIME)}"


def name_of(line: Line, address: str) -> str:
    """The file's name: the end of the address where that has an ending, else what the server calls it, else the end of
    the address."""
    last = last_name(address)
    return safe_name(last if "." in last.strip(".") else _called(line) or last)


def is_page(line: Line, address: str) -> bool:
    """Whether the answer is a page for people, such as a log-in, where a file was asked for."""
    kind = line.header(b"content-type").partition(";")[0].strip().lower()
    return kind in ("text/html", "application/xhtml+xml") and not last_name(address).lower().endswith(PAGES)


def packed_by(line: Line, address: str) -> str:
    """How the bytes are compressed that are sent for the file, though it was asked for as it is; empty for not at all,
    and for files that are archives."""
    told = {one.strip().lower() for one in line.header(b"content-encoding").split(",")} & PACKINGS
    return "" if last_name(address).lower().endswith(PACKED) else ", ".join(sorted(told))


def _called(line: Line) -> str:
    """The name in Content-Disposition, without folders; empty for none, and for a longer header than one with a
    name."""
    field = line.header(b"content-disposition")
    if not field or len(field) > LONGEST_DISPOSITION:
        return ""
    message = Message()
    message["Content-Disposition"] = re.sub(r"[^\t -~\xa0-\xff]", "", field)
    return re.split(r"[/\\]", message.get_filename("") or "")[-1]
