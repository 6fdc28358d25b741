"""Which files of a store are meant: a prefix and globs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.workspaces.base import BlobStore

LOOKED_AT_FOR_HINT = 10_000
SHOWN = 6


@dataclass(frozen=True)
class Filters:
    """*prefix* is a string prefix, or the name of one file (then only it, and what lies in a folder of that name, is meant).

    Globs: `*` and `?` stay within a folder, `**` crosses folders, `[a-c]` is a set; a glob matches the end of a name from a
    folder's start on (`*.ckpt`, `checkpoints/*`), a leading `/` ties it to the whole name. With *include*, one of them has to
    match; whatever matches one of *exclude* is left out.
    """

    prefix: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
        return _any_of(self.include), _any_of(self.exclude)

    def admit(self, name: str) -> bool:
        """Whether the globs let *name* through."""
        include, exclude = self._patterns
        return (include is None or bool(include.fullmatch(name))) and not (exclude is not None and exclude.fullmatch(name))

    def select(self, store: BlobStore) -> Iterator[BlobInfo]:
        """The blobs that are meant, sorted by name. Raises NotFound when there are none although something was asked for."""
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
                f"No file{below} in {store.label} passes --include and --exclude.", hint="Quote globs; '*' stays within a folder, '**' crosses folders."
            )
        return NotFound(f"No file in {store.label} starts with '{self.prefix}'.", hint=_what_there_is(store, self.prefix))


def literal(name: str) -> str:
    """The glob that means the one file called *name*, whatever signs that has."""
    return "/" + "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def list_blobs(store: BlobStore, filters: Filters) -> Iterator[BlobInfo]:
    """The blobs of *store* that *filters* mean, sorted by name, fetched as they are consumed. Raises NotFound when there are none to match."""
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


def _any_of(globs: Sequence[str]) -> re.Pattern[str] | None:
    if not globs:
        return None
    try:
        return re.compile("|".join(f"(?:{_as_regex(glob)})" for glob in globs), re.DOTALL)
    except re.error as err:
        raise BadUsage(f"Not a glob: {' or '.join(globs)} ({err.msg}).", hint="A set of characters reads [a-c].") from err


def _as_regex(glob: str) -> str:
    """*glob* as a regular expression over whole names."""
    body = glob[1:] if glob.startswith("/") else glob
    if body.endswith("/"):
        body += "**"
    made, place = "", 0
    while place < len(body):
        piece, place = _next_piece(body, place)
        made += piece
    return made if glob.startswith("/") else f"(?:.*/)?{made}"


def _next_piece(glob: str, place: int) -> tuple[str, int]:
    """The expression for what stands at *place*, and the place after it."""
    if glob.startswith("**/", place):
        return "(?:.*/)?", place + 3
    if glob.startswith("**", place):
        return ".*", place + 2
    if glob[place] == "*":
        return "[^/]*", place + 1
    if glob[place] == "?":
        return "[^/]", place + 1
    end = glob.find("]", place + 2) if glob[place] == "[" else -1
    if end < 0:
        return re.escape(glob[place]), place + 1
    inside = glob[place + 1 : end]
    negated = inside[0] in "!^" and len(inside) > 1
    return f"(?!/)[{'^' if negated else ''}{_escaped_set(inside[negated:])}]", end + 1


def _escaped_set(inside: str) -> str:
    """The characters and ranges of a set, with nothing in it that means more to a regular expression."""
    made, place = "", 0
    while place < len(inside):
        if inside[place + 1 : place + 2] == "-" and place + 2 < len(inside):
            made += f"{re.escape(inside[place])}-{re.escape(inside[place + 2])}"
            place += 3
        else:
            made += re.escape(inside[place])
            place += 1
    return made
