"""Which files of a store are meant: a prefix and globs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import islice
from typing import Any

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.workspaces.base import BlobStore

LONGEST_GLOB = 1000
SHOWN = 6


@dataclass(frozen=True)
class Filters:
    """*prefix* is a string prefix, or the name of one file (then only it, and what lies in a folder of that name, is
    meant).

    Globs: `*` and `?` stay within a folder, `**` in place of a folder stands for any number of them, `[a-c]` is a set;
    a glob matches the end of a name from a folder's start on (`*.ckpt`, `checkpoints/*`), a leading `/` ties it to the
    whole name. With *include*, one of them has to match; whatever matches one of *exclude* is left out.
    """

    prefix: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @cached_property
    def _globs(self) -> tuple[Globs, Globs]:
        return Globs(self.include), Globs(self.exclude)

    def admit(self, name: str) -> bool:
        """Whether the globs let *name* through. Raises BadUsage for a glob that cannot be read."""
        include, exclude = self._globs
        return (not self.include or include.matches(name)) and not (self.exclude and exclude.matches(name))

    def select(self, store: BlobStore) -> Iterator[BlobInfo]:
        """The blobs that are meant, sorted by name, fetched as they are consumed. Raises NotFound when there are none
        although something was asked for."""
        any_found = any_admitted = False
        folder = None
        for page in store.list(self.prefix):
            for blob in page:
                if not any_found and self.prefix and blob.name == self.prefix:
                    folder = self.prefix + "/"
                if folder is not None and blob.name != self.prefix and not blob.name.startswith(folder):
                    continue
                any_found = True
                if self.admit(blob.name):
                    any_admitted = True
                    yield blob
        if any_found and not any_admitted:
            below = f" below '{self.prefix}'" if self.prefix else ""
            raise NotFound(
                f"No file{below} in {store.label} passes --include and --exclude.",
                hint="Quote globs; '*' stays within a folder, '**' crosses folders.",
            )
        if self.prefix and not any_found:
            hint = _existing_names(store, self.prefix)
            raise NotFound(f"No file in {store.label} starts with '{self.prefix}'.", hint=hint)


class Globs:
    """Any of *globs*, as `Filters` describes them, over whole names. Raises BadUsage for one that is too long or cannot
    be read."""

    def __init__(self, globs: Sequence[str]) -> None:
        self._parts: list[list[str]] = []  # of each glob, the last one first
        for glob in globs:
            if len(glob) > LONGEST_GLOB:
                raise BadUsage(f"A glob has {len(glob):,} characters, and {LONGEST_GLOB:,} is the most.")
            for characters in re.findall(r"\[(.[^]]*)\]", glob):
                if any(first > last for first, last in re.findall(r"(.)-(.)", characters)):
                    message = f"Not a glob: {glob} (bad character range)."
                    raise BadUsage(message, hint="A set of characters reads [a-c].")
            body = glob.removeprefix("/")
            parts = (f"{body}**" if body.endswith("/") else body).replace("[^", "[!").split("/")
            if parts[-1] == "**":
                parts.append("*")
            self._parts.append([*reversed(parts), *([] if glob.startswith("/") else ["**"])])

    def matches(self, name: str) -> bool:
        parts = name.split("/")
        return any(_matches(glob, parts) for glob in self._parts)


def _matches(glob: Sequence[str], name: Sequence[str]) -> bool:
    """Whether the parts of a name are those of a glob, whose last one is the first of *glob*: most names fail at that.
    The time grows with the product of their numbers only."""
    reached = {len(name)}  # numbers of parts of the name that the rest of the glob has to take up
    for part in glob:
        if part == "**":
            reached = set(range(max(reached) + 1))
        else:
            reached = {number - 1 for number in reached if number > 0 and fnmatchcase(name[number - 1], part)}
        if not reached:
            return False
    return 0 in reached


def literal(name: str) -> str:
    """The glob that means the one file called *name*, whatever characters that has."""
    return "/" + "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def list_files(store: BlobStore, filters: Filters, *, run: str = "") -> Iterator[dict[str, Any]]:
    """The files of *store* that *filters* mean, sorted by name, as lists show them. Raises NotFound when nothing
    matches."""
    for blob in filters.select(store):
        yield {"name": blob.name, "size": blob.size, "modified": blob.modified, "md5": blob.md5, "run": run}


def _existing_names(store: BlobStore, prefix: str) -> str:
    from difflib import get_close_matches

    names = [*islice((blob.name for page in store.list() for blob in page), 10_000)]
    if not names:
        return "It holds no files at all."
    tops = [*dict.fromkeys(re.sub("/.*", "/", name, flags=re.DOTALL) for name in names)]
    folders = dict.fromkeys(name.rpartition("/")[0] or name for name in names)
    near = get_close_matches(prefix.rstrip("/"), [*folders, *tops], n=1)
    suggestion = f"Did you mean '{near[0]}'? " if near else ""
    return f"{suggestion}There is: {', '.join(tops[:SHOWN])}{', ...' if len(tops) > SHOWN else ''}"
