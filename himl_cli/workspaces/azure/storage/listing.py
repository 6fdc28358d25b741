"""Lists of blobs: pages as records, and names in the order that `BlobStore.list` promises.

Accounts with a flat namespace list by code units; whether those are UTF-8's or UTF-16's is not documented. Accounts
with a hierarchical namespace (ADLS Gen2) go through a folder before the names that continue its own, as if `/` came
before all other signs: `a`, `a/x`, `a-b` (https://github.com/Azure/azure-sdk-for-go/issues/24210).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from urllib.parse import unquote
from xml.etree import ElementTree

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import ServiceFailed
from himl_cli.core.text import shorten
from himl_cli.workspaces.azure.responses import http_time
from himl_cli.workspaces.azure.storage.properties import CHANGING_PROXY, md5_from, size_from

HELD_AT_MOST = 20_000
_BY_NAME = attrgetter("name")
_FIRST_APART = "\ud800"  # from here on UTF-16 and plain strings are ordered differently


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
    """The page in a List Blobs response, names without *root*. Raises ServiceFailed for what is no such response."""
    tree, found = _entries(xml)
    blobs = [blob for one in found.iterfind("Blob") if (blob := _blob(one, root)) is not None]
    return ListedPage(blobs, tree.findtext("NextMarker") or "", found.find("Blob/Properties/ResourceType") is not None)


def listed_level(xml: bytes, root: str) -> Sequence[str]:
    """The names in a List Blobs response by folder: of blobs, and of folders with a slash at the end; without
    *root*."""
    return [_name(one)[len(root) :] for one in _entries(xml)[1] if one.tag in ("Blob", "BlobPrefix")]


def _entries(xml: bytes) -> tuple[ElementTree.Element, ElementTree.Element]:
    """The response, and the part of it that lists."""
    try:
        tree = ElementTree.fromstring(xml)
    except (ElementTree.ParseError, LookupError, ValueError) as err:  # the last two for the encoding it claims
        raise ServiceFailed(
            f"The list of blobs that storage sent cannot be read ({err}).", hint=CHANGING_PROXY
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
            f"The list of blobs that storage sent has {told} for the size of '{shorten(name)}'.", hint=CHANGING_PROXY
        )
    etag, modified = texts.get("Etag", "").strip('"'), http_time(texts.get("Last-Modified", ""))
    return BlobInfo(name, size, etag, md5_from(md5) if md5 else None, modified)


def _name(one: ElementTree.Element) -> str:
    found = one.find("Name")
    if found is None or found.text is None:
        return ""
    return unquote(found.text) if found.get("Encoded") == "true" else found.text


def in_plain_order(blobs: Iterable[BlobInfo]) -> Iterator[BlobInfo]:
    """*blobs*, ordered by UTF-16 code units or as plain strings, ordered as plain strings.

    The two differ for names that have a character above U+D7FF where they first differ. Such names are held back until
    no other can come before them (all of them, where already their first characters are such); all others pass at once.
    """
    held: list[BlobInfo] = []
    stem = ""
    for blob in blobs:
        if held and not blob.name.startswith(stem):
            yield from sorted(held, key=_BY_NAME)
            held.clear()
        if not held:
            if blob.name.isascii() or max(blob.name) < _FIRST_APART:
                yield blob
                continue
            stem = blob.name[: next(index for index, sign in enumerate(blob.name) if sign >= _FIRST_APART)]
        held.append(blob)
    yield from sorted(held, key=_BY_NAME)


def out_of_folders(
    blobs: Iterable[BlobInfo], has_rivals: Callable[[str], bool], folder: str = "", held_at_most: int = HELD_AT_MOST
) -> Iterator[BlobInfo]:
    """*blobs*, all of *folder* (empty, or ending in `/`), as a hierarchical account lists them, ordered as plain
    strings.

    What lies in a folder is held back until the names are through that may have to come before it (`a-b` before `a/x`).
    When that gets too much, *has_rivals* is asked whether there are any for a folder; mostly there are not, and then
    only what lies in the folder's own last folder has to wait.
    """
    held: list[BlobInfo] = []
    # All names in hand begin with `free`, a folder without rivals; those held back begin with `base`
    free, base = folder, ""
    known = None  # the last folder that has rivals
    for blob in blobs:
        if held and not _may_precede(blob.name, base):
            yield from sorted(held, key=_BY_NAME)
            held.clear()
        if not held:
            while not blob.name.startswith(free):
                free = free[: free.rfind("/", 0, -1) + 1]
            base = _folder_below(blob.name, free)
        held.append(blob)
        while len(held) > held_at_most and base not in (blob.name, known):
            if has_rivals(base):
                known = base
                break
            free = base + "/"
            folders = (_folder_below(one.name, free) for one in held)
            base = next(below for below in folders if _may_precede(blob.name, below))
            waiting = [one for one in held if _may_precede(one.name, base)]
            yield from sorted((one for one in held if not _may_precede(one.name, base)), key=_BY_NAME)
            held = waiting
    yield from sorted(held, key=_BY_NAME)


def _folder_below(name: str, free: str) -> str:
    """The first folder of *name* below *free*, without its slash; *name* itself where it lies right there."""
    end = name.find("/", len(free))
    return name if end < 0 else name[:end]


def _may_precede(name: str, base: str) -> bool:
    """Whether *name* is *base*, lies in it, or belongs between the two in plain order."""
    return name.startswith(base) and name[len(base) : len(base) + 1] <= "/"
