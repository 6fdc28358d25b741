"""Which files of a store are meant: a prefix and globs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import NotFound
from himl_cli.services.transfer.globs import Globs
from himl_cli.workspaces.base import BlobStore

LOOKED_AT_FOR_HINT = 10_000
SHOWN = 6


@dataclass(frozen=True)
class Filters:
    """*prefix* is a string prefix, or the name of one file (then only it, and what lies in a folder of that name, is
    meant).

    Globs: `*` and `?` stay within a folder, `**` crosses folders, `[a-c]` is a set; a glob matches the end of a name
    from a folder's start on (`*.ckpt`, `checkpoints/*`), a leading `/` ties it to the whole name. With *include*, one
    of them has to match; whatever matches one of *exclude* is left out.
    """

    prefix: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @cached_property
    def _globs(self) -> tuple[Globs | None, Globs | None]:
        return Globs(self.include) if self.include else None, Globs(self.exclude) if self.exclude else None

    def admit(self, name: str) -> bool:
        """Whether the globs let *name* through. Raises BadUsage for a glob that cannot be read."""
        include, exclude = self._globs
        return (include is None or include.matches(name)) and not (exclude is not None and exclude.matches(name))

    def select(self, store: BlobStore) -> Iterator[BlobInfo]:
        """The blobs that are meant, sorted by name. Raises NotFound when there are none although something was asked
        for."""
        any_met = any_admitted = False
        folder = None
        for page in store.list(self.prefix):
            for blob in page:
                if not any_met and self.prefix and blob.name == self.prefix:
                    folder = self.prefix + "/"
                if folder is not None and blob.name != self.prefix and not blob.name.startswith(folder):
                    continue
                any_met = True
                if self.admit(blob.name):
                    any_admitted = True
                    yield blob
        if not any_admitted and (self.prefix or any_met):
            raise self._nothing(store, any_met)

    def _nothing(self, store: BlobStore, any_met: bool) -> NotFound:
        below = f" below '{self.prefix}'" if self.prefix else ""
        if any_met:
            return NotFound(
                f"No file{below} in {store.label} passes --include and --exclude.",
                hint="Quote globs; '*' stays within a folder, '**' crosses folders.",
            )
        return NotFound(
            f"No file in {store.label} starts with '{self.prefix}'.", hint=_what_there_is(store, self.prefix)
        )


def literal(name: str) -> str:
    """The glob that means the one file called *name*, whatever signs that has."""
    return "/" + "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def list_blobs(store: BlobStore, filters: Filters) -> Iterator[BlobInfo]:
    """The blobs of *store* that *filters* mean, sorted by name, fetched as they are consumed. Raises NotFound when
    there are none to match."""
    return filters.select(store)


def _what_there_is(store: BlobStore, prefix: str) -> str:
    """A hint with the nearest existing prefix, or the top-level folders."""
    from difflib import get_close_matches

    tops: dict[str, None] = {}
    folders: dict[str, None] = {}
    looked_at = 0
    for page in store.list():
        for blob in page:
            top, slash, _ = blob.name.partition("/")
            tops[top + slash] = None
            folders[blob.name.rpartition("/")[0] or blob.name] = None
        looked_at += len(page)
        if looked_at >= LOOKED_AT_FOR_HINT:
            break
    if not tops:
        return "It holds no files at all."
    near = get_close_matches(prefix.rstrip("/"), [*folders, *tops], n=1)
    meant = f"Did you mean '{near[0]}'? " if near else ""
    more = ", ..." if len(tops) > SHOWN else ""
    return f"{meant}There is: {', '.join([*tops][:SHOWN])}{more}"
