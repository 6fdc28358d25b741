"""Pages of List Blobs, as records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote
from xml.etree import ElementTree

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import ServiceFailed
from himl_cli.core.text import shorten
from himl_cli.workspaces.azure.requests.times import http_time
from himl_cli.workspaces.azure.storage.blobs.wire import md5_from, size_from


@dataclass(frozen=True, slots=True)
class ListedPage:
    """A page: its blobs without directories; `marker` asks for the next one and is empty on the last.

    `is_hierarchical` says that the account's namespace is (only such accounts tell what is a file and what a
    directory).
    """

    blobs: Sequence[BlobInfo]
    marker: str
    is_hierarchical: bool = False


def listed_page(xml: bytes, root: str) -> ListedPage:
    """The page in a List Blobs answer, names without *root*. Raises ServiceFailed for what is no such answer."""
    tree, found = _entries(xml)
    blobs = [blob for one in found.iterfind("Blob") if (blob := _blob(one, root)) is not None]
    return ListedPage(blobs, tree.findtext("NextMarker") or "", found.find("Blob/Properties/ResourceType") is not None)


def listed_level(xml: bytes, root: str) -> Sequence[str]:
    """The names in an answer that was asked for by a delimiter: of blobs, and of folders with a slash at the end;
    without *root*."""
    return [_name(one)[len(root) :] for one in _entries(xml)[1] if one.tag in ("Blob", "BlobPrefix")]


def _entries(xml: bytes) -> tuple[ElementTree.Element, ElementTree.Element]:
    """The answer, and the part of it that lists."""
    try:
        tree = ElementTree.fromstring(xml)
    except (
        ElementTree.ParseError,
        LookupError,
        ValueError,
    ) as err:  # the latter for an encoding that it claims to be in
        raise ServiceFailed(
            f"The list of blobs that storage sent cannot be read ({err}).",
            hint="Is a proxy in between that changes answers?",
        ) from err
    found = tree.find("Blobs")
    if found is None:
        raise ServiceFailed(
            "Storage sent something else than a list of blobs.", hint="Is a proxy or a log-in page in between?"
        )
    return tree, found


def _blob(one: ElementTree.Element, root: str) -> BlobInfo | None:
    """The blob, or None for a directory of a hierarchical account."""
    texts: dict[str, str] = {}
    for part in one:
        if part.tag == "Properties":
            texts = {text.tag: text.text or "" for text in part}
        elif part.tag == "Metadata" and any(
            mark.tag.lower() == "hdi_isfolder" and (mark.text or "").lower() == "true" for mark in part
        ):
            return None
    if texts.get("ResourceType") == "directory":
        return None
    name, length, md5 = _name(one)[len(root) :], texts.get("Content-Length", ""), texts.get("Content-MD5")
    size = size_from(length)
    if size is None:
        told = f"'{shorten(length, 20)}'" if length else "nothing"
        raise ServiceFailed(
            f"The list of blobs that storage sent has {told} for the size of '{shorten(name)}'.",
            hint="Is a proxy in between that changes answers?",
        )
    return BlobInfo(
        name,
        size,
        texts.get("Etag", "").strip('"'),
        md5_from(md5) if md5 else None,
        http_time(texts.get("Last-Modified", "")),
    )


def _name(one: ElementTree.Element) -> str:
    found = one.find("Name")
    if found is None or found.text is None:
        return ""
    return unquote(found.text) if found.get("Encoded") == "true" else found.text
