"""Names in the order that `BlobStore.list` promises, out of the orders that storage lists them in.

Accounts with a flat namespace list by code units; whether those are UTF-8's or UTF-16's is not documented. Accounts
with a hierarchical namespace (ADLS Gen2) go through a folder before the names that continue its own, as if `/` came
before all other signs: `a`, `a/x`, `a-b` (https://github.com/Azure/azure-sdk-for-go/issues/24210).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter

from himl_cli.core.blobs import BlobInfo

HELD_AT_MOST = 20_000
_BY_NAME = attrgetter("name")
_FIRST_APART = "\ud800"  # from here on UTF-16 and plain strings are ordered differently


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
            stem = _before_high(blob.name)
        held.append(blob)
    yield from sorted(held, key=_BY_NAME)


def _before_high(name: str) -> str:
    """*name* up to its first character above U+D7FF."""
    return name[: next(place for place, sign in enumerate(name) if sign >= _FIRST_APART)]


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
    free, base = (
        folder,
        "",
    )  # all names in hand begin with `free`, a folder without rivals; those held back begin with `base`
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
            base = next(
                below for below in folders if _may_precede(blob.name, below)
            )  # the first that this name may belong before
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
