"""The snapshot of a job: the files below its root that no ignore file excludes and that contain no secrets.

pathspec parses each part of a pattern, and the last pattern that matches an entry decides, as in git. Differences from
git are, within brackets, `[:alpha:]` and other classes, backslashes, slashes and reversed ranges, and `***` in patterns
of several parts. himl distinguishes cases, even with `core.ignorecase`. Versions of pathspec before 1.1 match an open
bracket literally.

Matching takes polynomial time for every pattern: parts are matched against parts, and within a part, a `*` before
another `*` never backtracks.
"""

from __future__ import annotations

import codecs
import errno
import os
import posixpath
import re
import stat
import warnings
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property, lru_cache
from operator import attrgetter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, cast

from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.core.files import LATEST_RUN_FILE, WORKSPACE_FOLDER, Globs, as_found, is_bookkeeping
from himl_cli.core.jobs import Snapshot, SnapshotReport
from himl_cli.core.records import dataclass
from himl_cli.core.settings import find_upward
from himl_cli.core.text import named
from himl_cli.services.submission.git import RESULTS_OF_EARLIER_RUNS, checkout_of
from himl_cli.services.submission.secret_files import MOST_ALIKE, ending_of, is_private_folder, is_secret_file
from himl_cli.services.transfer.state import fetched_files, targets

if TYPE_CHECKING:
    from pathspec import RegexPattern

ROOT_MARKERS = ("pyproject.toml", "environment.yml", ".git")
ALWAYS_LEFT_OUT = frozenset(
    {".git", ".hg", ".svn", WORKSPACE_FOLDER, LATEST_RUN_FILE, "__pycache__", ".ipynb_checkpoints"}
)
# Files in environments of Python and conda
ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")
GIT_FILE, OWN_FILE = ".gitignore", ".amlignore"

# A pattern ends before a trailing slash (for folders only) and before unescaped spaces, never within an escape.
LINE = re.compile(r"(?P<sign>!?)(?P<body>(?:[^\\]|\\.)*?)(?P<slash>/?)", re.DOTALL)
# Follows the parts of patterns and names, which cannot contain it. Without it, pathspec would also match the
# contents of a folder.
END = "\0"
STAR = "[^/]*"
SPECIAL = re.compile(r"[]*?[\\]")
PLAIN = re.compile(r"(?!.*\*\*)[^][?\\!]*")  # a part with single stars only
BRACKETS = re.compile(r"\[[!^]?[^]!^[\\][^][\\]*\]")  # without brackets or escapes in them


def find_snapshot_root(start: Path) -> Path:
    """The nearest folder from *start* upward with a marker of a project's root, else *start*."""
    marker = next(find_upward((start, *start.parents), ROOT_MARKERS, by_folder=True), None)
    return start if marker is None else marker.parent


def take_snapshot(
    root: Path, ignored_folders: Sequence[str] = (), include_secret: Sequence[str] = (), *, is_data: bool = False
) -> SnapshotReport:
    """List the files of the snapshot below *root*, by the rules of `.amlignore` if the root has one, else of git: files
    that it tracks, and others that no ignore rule excludes, at every level.

    The snapshot never contains version control, workspaces, caches, environments of Python and conda, files with
    secrets, results of earlier runs (`outputs` and `logs` at the top level), or unchanged downloads of himl that git
    does not track. It follows symlinks, loops once, and skips special files. Raises BadUsage for a folder, an ignore
    file or a glob that cannot be read.

    *ignored_folders* are paths, absolute or relative to *root*, or names of folders at any level, with `/` or `\\`. The
    report lists those that matched nothing. *include_secret* are globs, as in `himl download --include`, of files that
    are included even though they may contain secrets.

    With *is_data*, *root* has data for a job: git's rules for the project, earlier results and downloads do not matter.
    """
    ignored = {folder: _ignored_names(root, folder) for folder in ignored_folders}
    included = Globs(include_secret) if include_secret else None
    walk = _Walk(root, frozenset().union(*ignored.values()), included, is_data=is_data)
    try:
        walk.start()
    except OSError as err:
        raise BadUsage(
            f"Cannot read '{err.filename}' for the snapshot: {err.strerror}.",
            hint="Exclude it in an ignore file or with --ignored_folders.",
        ) from err
    # Always excluded, so they need no warning if they are missing
    usual = ALWAYS_LEFT_OUT | RESULTS_OF_EARLIER_RUNS
    missed = [
        folder
        for folder, names in ignored.items()
        if not names & walk.met
        and not any(posixpath.basename(name) in usual for name in names)
        and not any(os.path.isdir(root / name) for name in names if not name.startswith("./.."))
    ]
    return SnapshotReport(
        Snapshot(root, walk.files, sum(walk.by_top.values()), [*ignored_folders], [*include_secret]),
        dict(walk.by_top),
        walk.ignore_file,
        walk.downloads,
        missed,
        walk.secrets,
        walk.untracked,
        walk.checkout.problem if walk.checkout and walk.has_excluded else "",
        walk.others,
    )


@dataclass(frozen=True)
class _Place:
    """A folder in the walk. `name` is its path below the root with a final slash, or empty. `rules` are those of its
    parents, nearest last, each with the path from its folder to this one. `above` identifies the parents. `fetched` are
    the downloads of himl, by the name of the folder that they are in. In a folder that `is_ignored`, only tracked files
    count."""

    path: str
    name: str
    rules: Sequence[tuple[str, Rules]]
    above: frozenset[tuple[int, int]]
    fetched: Mapping[str, Mapping[str, tuple[int, int]]]
    is_private: bool = False
    is_ignored: bool = False


class _Walk:
    """The listing of one snapshot, by `start`. Raises OSError."""

    def __init__(
        self, root: Path, ignored_names: frozenset[str], included: Globs | None, *, is_data: bool = False
    ) -> None:
        self._root, self._ignored_names, self._included, self._is_data = root, ignored_names, included, is_data
        self.checkout = None if is_data else checkout_of(root)
        self._results = frozenset[str]() if is_data else RESULTS_OF_EARLIER_RUNS
        self.ignore_file = OWN_FILE if (root / OWN_FILE).is_file() else GIT_FILE
        self._tracked = self.checkout.tracked if self.checkout else None
        # An explicit list of files to exclude has precedence over git
        self._wanted = (self._tracked or frozenset()) if self.ignore_file == GIT_FILE else frozenset()
        self.has_excluded = False
        self.files: list[str] = []
        self.by_top: defaultdict[str, int] = defaultdict(int)
        self.met: set[str] = set()
        self.downloads: list[str] = []
        self.secrets: list[str] = []
        self.others: list[str] = []

    def start(self) -> None:
        root, checkout, rules = self._root, self.checkout, list[tuple[str, Rules]]()
        # The rules of the checkout that contains the root, nearest last, beginning with those for all of it, each with
        # the path from its folder to the root. Without a checkout, files above the root do not apply
        if checkout is not None and self.ignore_file == GIT_FILE:
            above = [(each, each / GIT_FILE) for each in reversed(root.parents) if each.is_relative_to(checkout.top)]
            for folder, path in [*((checkout.top, path) for path in checkout.excludes), *above]:
                if found := read_rules(path):
                    rules.append(("".join(f"{part}/" for part in root.relative_to(folder).parts), found))
        identity = _identity(str(self._root), self._root.stat())
        fetched = {"": fetched_files(self._root) or {}} if identity in self._fetched_folders else {}
        levels = [self._enter(_Place(str(self._root), "", rules, frozenset({identity}), fetched))]
        while levels:  # there may be more than Python's stack allows
            if (below := next(levels[-1], None)) is None:
                levels.pop()
            else:
                levels.append(self._enter(below))

    @property
    def untracked(self) -> list[str] | None:
        """The files that git does not track. It tracks those behind a tracked link where they are."""
        if self._tracked is None:
            return None
        root, found = os.path.realpath(self._root), list[str]()
        for name in (name for name in self.files if name not in self._tracked):
            is_linked = any(above.as_posix() in self._tracked for above in PurePosixPath(name).parents)
            place = Path(os.path.relpath(os.path.realpath(self._root / name), root)).as_posix() if is_linked else name
            found += [] if place in self._tracked else [name]
        return found

    @cached_property
    def _fetched_folders(self) -> set[tuple[int, int]]:
        """The identities of the folders that himl downloaded to, or none without a cache."""
        found: set[tuple[int, int]] = set()
        if self._is_data:
            return found
        with suppress(BadUsage, DiskFailed, OSError):
            found.update(_identity(str(each), os.stat(each)) for each in targets() if os.path.isdir(each))
        return found

    @cached_property
    def _sorted(self) -> Sequence[str]:
        return sorted(self._wanted)

    def _has_tracked(self, folder: str) -> bool:
        """Whether git tracks a file in *folder*, which has a final slash."""
        at = bisect_left(self._sorted, folder)
        return at < len(self._sorted) and self._sorted[at].startswith(folder)

    def _enter(self, place: _Place) -> Iterator[_Place]:
        """Add the files in *place*. The caller enters each folder in it that this yields."""
        with os.scandir(place.path) as found:  # first, since an error names the folder
            entries = sorted(found, key=attrgetter("name"))
        if own := read_rules(os.path.join(place.path, self.ignore_file)):
            place = replace(place, rules=[*place.rules, ("", own)])
        endings = [ending_of(entry.name) for entry in entries]
        count = Counter(endings)
        for entry, ending in zip(entries, endings, strict=True):
            name = place.name + entry.name
            if entry.name in ALWAYS_LEFT_OUT or is_bookkeeping(entry.name) or name in self._results:
                self.others += [] if place.name else [name]
                continue
            try:
                info = entry.stat()
            except OSError as err:
                # A link may be dangling or a loop, and a file may have been deleted after the listing
                is_left_out = self._is_named(name) or self._is_ignored(place, entry.name, is_folder=True)
                if isinstance(err, PermissionError) and not is_left_out:
                    raise
                continue
            if stat.S_ISDIR(info.st_mode):
                yield from self._add_folder(place, entry, info)
            elif stat.S_ISREG(info.st_mode):
                # So many files of one ending in a folder count as data
                self._add_file(place, entry, info, is_data=count[ending] > MOST_ALIKE)

    def _is_named(self, folder: str) -> bool:
        """Whether --ignored_folders contains *folder*."""
        names = self._ignored_names & {posixpath.basename(folder), f"./{folder}"}
        self.met.update(names)
        return bool(names)

    def _is_ignored(self, place: _Place, base: str, *, is_folder: bool) -> bool:
        """Whether the nearest rule that matches excludes the entry, instead of including it again with `!`, as in
        git."""
        if place.is_ignored or not place.rules:
            return place.is_ignored
        verdicts = (verdict(each, path + base, is_folder=is_folder) for path, each in reversed(place.rules))
        is_excluded = next((excludes for excludes in verdicts if excludes is not None), False)
        self.has_excluded = self.has_excluded or is_excluded
        return is_excluded

    def _add_folder(self, place: _Place, entry: os.DirEntry[str], info: os.stat_result) -> Iterator[_Place]:
        name = f"{place.name}{entry.name}/"
        if self._is_named(name.rstrip("/")):
            return
        is_ignored, identity = self._is_ignored(place, entry.name, is_folder=True), _identity(entry.path, info)
        if (is_ignored and not self._has_tracked(name)) or identity in place.above:
            return
        if any(os.path.exists(f"{entry.path}/{mark}") for mark in ENVIRONMENTS):
            self.others += [] if place.name else [entry.name]
            return
        fetched = place.fetched
        if identity in self._fetched_folders:
            files = fetched_files(Path(entry.path))
            if files is None:  # another himl has its records open
                self.downloads.append(name.rstrip("/"))
            fetched, is_ignored = {**fetched, name: files or {}}, is_ignored or files is None
        rules = [(f"{path}{entry.name}/", each) for path, each in place.rules]
        is_private = place.is_private or any(map(is_private_folder, _spellings(entry)))
        kept, left_out = len(self.files) + len(self.secrets), len(self.downloads)
        yield _Place(entry.path, name, rules, place.above | {identity}, fetched, is_private, is_ignored)
        if len(self.downloads) > left_out and len(self.files) + len(self.secrets) == kept:
            self.downloads[left_out:] = [name.rstrip("/")]  # it contains nothing else

    def _add_file(self, place: _Place, entry: os.DirEntry[str], info: os.stat_result, *, is_data: bool) -> None:
        name = place.name + entry.name
        if name not in self._wanted and self._is_ignored(place, entry.name, is_folder=False):
            return
        if place.fetched and name not in (self._tracked or ()):
            stamp = (info.st_size, info.st_mtime_ns)
            if any(files.get(name[len(folder) :]) == stamp for folder, files in place.fetched.items()):
                self.downloads.append(name)
                return
        is_secret = is_secret_file(entry.path, info.st_size, place.is_private, is_data=is_data)
        if entry.is_symlink() and not is_secret:
            path = os.path.realpath(entry.path)
            folders = set(Path(path).parents) - set(Path(os.path.realpath(self._root)).parents)
            is_secret = is_secret_file(path, info.st_size, any(is_private_folder(str(each)) for each in folders))
        if is_secret and not (self._included and self._included.matches(name)):
            self.secrets.append(name)
        elif not info.st_mode & stat.S_IROTH and not os.access(entry.path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), entry.path)
        else:
            self.files.append(name)
            self.by_top[name.split("/", 1)[0]] += info.st_size


def _spellings(entry: os.DirEntry[str]) -> list[str]:
    return [entry.path, os.path.realpath(entry.path)] if entry.is_symlink() else [entry.path]


def list_upload(path: Path, is_data: bool, include_secret: Sequence[str] = ()) -> SnapshotReport:
    """List what leaves this machine of *path*, a folder of code or of data (*is_data*), or one file. Raises as
    `take_snapshot`."""
    if not path.is_file():
        return take_snapshot(path, (), include_secret, is_data=is_data)
    size = path.stat().st_size
    is_secret = is_secret_file(str(path), size, is_private_folder(str(path.parent))) and not Globs(
        include_secret
    ).matches(path.name)
    files, secrets = ([], [path.name]) if is_secret else ([path.name], [])
    return SnapshotReport(Snapshot(path.parent, files, size), {}, OWN_FILE, secrets=secrets)


def ignored_remarks(reports: Sequence[SnapshotReport]) -> list[str]:
    """Remarks on files that the snapshots exclude or include by mistake, for example because of a typo in
    --ignored_folders, and on excluded downloads."""
    first = reports[0].missed if reports else ()
    missed = ", ".join(f"'{folder}'" for folder in first if all(folder in report.missed for report in reports))
    texts = (
        [f"warning: --ignored_folders {missed} excludes nothing: the snapshot has no such folder."] if missed else []
    )
    for report in reports:
        if report.git_problem:
            what = f"The snapshot of '{report.snapshot.root}' excludes tracked files that an ignore rule matches"
            texts.append(
                f"warning: {what}, because git does not list them: {report.git_problem}. "
                "To choose the files without git, list the others in .amlignore."
            )
        if report.downloads:
            what = f"Not in the snapshot: {named(report.downloads)} (downloaded by himl)"
            texts.append(f"{what}. Does the job need them? Use --input, or copy them.")
    return texts


def _ignored_names(root: Path, folder: str) -> frozenset[str]:
    """The interpretations of *folder* below *root*: as written, and with `/` for `\\` unless a folder has a
    backslash in its name.

    A name stays as it is. A path becomes a path relative to *root* that begins with `./`, both as written and with
    links resolved.
    """
    names: set[str] = set()
    for path in {folder.rstrip("/"), as_found(root, folder).rstrip("/")}:
        if "/" not in path and not os.path.isabs(path):
            names.add(path)
            continue
        parent, base = os.path.split(os.path.normpath(root / path))
        for first, above in ((root, parent), (os.path.realpath(root), os.path.realpath(parent))):
            try:
                names.add(f"./{Path(os.path.relpath(os.path.join(above, base), first)).as_posix()}")
            except ValueError:  # on another drive of Windows
                names.add(f"./../{base}")
    return frozenset(names)


def _identity(path: str, info: os.stat_result) -> tuple[int, int]:
    """The device and inode of a folder, which on Windows the stat of a directory entry lacks."""
    info = os.stat(path) if info.st_ino == 0 else info
    return info.st_dev, info.st_ino


# A pattern for the last part of a path, or (if it is None) patterns for its parts, with None for any number of folders;
# whether the rule applies to folders only; whether it excludes.
Rule = tuple[re.Pattern[str] | None, Sequence[re.Pattern[str] | None], bool, bool]


class Rules(list[Rule]):
    """The *rules* of one file with the text of each, the last first.

    Most rules contain plain characters, which few names have. Dictionaries find those that begin or end with some.
    """

    def __init__(self, rules: Iterable[tuple[str, Rule]]) -> None:
        super().__init__()
        # Numbers of rules, by the number of these characters of the last part of a path, with a slash before it
        self._endings: defaultdict[int, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        self._beginnings: defaultdict[int, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        # The others, each with the texts that a path must contain
        others: list[tuple[list[str], int]] = []
        for number, (body, rule) in enumerate(rules):
            self.append(rule)
            parts = f"/{body}".split("/")
            runs = SPECIAL.split(f"/{parts[-1]}")
            if len(runs[-1]) >= len(runs[0]):
                self._endings[len(runs[-1])][runs[-1]].append(number)
            elif len(runs[0]) > 1:
                self._beginnings[len(runs[0])][runs[0]].append(number)
            else:  # those outside of brackets
                plain = [BRACKETS.sub("*", part) for part in parts]
                parts = [each if "[" in text or "]" in text else text for each, text in zip(parts, plain, strict=True)]
                outside = [text for part in parts for text in (part.partition("[")[0], part.rpartition("]")[2])]
                others.append(([run for text in outside for run in SPECIAL.split(text) if run] or [""], number))
        # Of these texts, the one that the fewest rules have tells most
        shared = Counter(text for texts, _ in others for text in {*texts})
        self._rest = [(min(texts, key=lambda text: (shared[text], -len(text))), number) for texts, number in others]
        self._in_rest = re.compile("|".join(re.escape(text) for text, _ in self._rest))

    def possible(self, path: str) -> list[int]:
        """The numbers of the rules that may match the path, in ascending order."""
        name, found = f"/{path}"[path.rfind("/") + 1 :], list[int]()
        for size, endings in self._endings.items():
            found += endings.get(name[-size:], ())
        for size, beginnings in self._beginnings.items():
            found += beginnings.get(name[:size], ())
        if self._rest and self._in_rest.search(path):
            found += [number for text, number in self._rest if text in path]
        return sorted(found)


def read_rules(path: str | Path) -> Rules:
    """The rules in a file, the last first, or none if there is no such file. Raises OSError for an unreadable one."""
    try:
        with open(path, "rb") as stream:
            return parse_rules(stream.read())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return Rules([])


def parse_rules(content: bytes) -> Rules:
    """The rules in the content of a file, the last first."""
    # Latin-1 makes each byte a character, because git matches bytes regardless of the encoding
    lines = content.removeprefix(codecs.BOM_UTF8).decode("latin-1").split("\n")
    return Rules(found for line in reversed(lines) if (found := _rule(line.removesuffix("\r"))) is not None)


def verdict(rules: Rules, path: str, *, is_folder: bool) -> bool | None:
    """Whether *rules* exclude *path* (True), include it again (False), or do not match it (None). The path is relative
    to the folder of the rules' file and has `/` separators."""
    name = os.fsencode(path).decode("latin-1")
    parts = [part + END for part in name.split("/")]
    for pattern, wanted, folders_only, excludes in map(rules.__getitem__, rules.possible(name)):
        if folders_only and not is_folder:
            continue
        if pattern.match(parts[-1]) is not None if pattern is not None else fits(wanted, parts):
            return excludes
    return None


def _rule(line: str) -> tuple[str, Rule] | None:
    """The rule in one line and its text, or None for a comment, a blank line or a pattern that matches nothing, such as
    an open bracket."""
    bare = line.rstrip(" ")
    if (len(bare) - len(bare.rstrip("\\"))) % 2 and len(bare) < len(line):
        bare += " "  # it is escaped
    found = LINE.fullmatch(bare)
    if found is None or not found["body"] or line.startswith("#"):
        return None
    body, folders_only, excludes = found["body"], bool(found["slash"]), not found["sign"]
    parts = body.removeprefix("/").split("/")
    if "/" in body and parts[-1] == "**":
        parts.append("*")  # every file below
    wanted = [None if part == "**" and "/" in body else _part(part) for part in parts]
    if any(pattern is None and part != "**" for part, pattern in zip(parts, wanted, strict=True)):
        return None
    return body, (None, wanted, folders_only, excludes) if "/" in body else (wanted[0], (), folders_only, excludes)


@cache
def _git_pattern() -> Callable[[str], RegexPattern]:
    """The class that pathspec uses for a line. Its name depends on pathspec's version. Created directly, it always uses
    `re` as its engine."""
    from pathspec import GitIgnoreSpec

    return cast("Callable[[str], RegexPattern]", type(GitIgnoreSpec.from_lines(["*"]).patterns[0]))


@lru_cache(10_000)
def _part(text: str) -> re.Pattern[str] | None:
    """The pattern that a name followed by END must match, or None for a part that matches nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # `re` warns about nested brackets
            if PLAIN.fullmatch(text):  # as pathspec's, whose import takes ten milliseconds
                pattern = STAR.join(map(re.escape, f"{text}{END}".split("*")))
            elif (regex := _git_pattern()(f"/{text}{END}").regex) is not None:
                pattern = regex.pattern
            else:
                return None
            first, *stars = pattern.split(STAR)
            if len(stars) > 1:
                # A star before another star matches as little as possible and never backtracks, as in fnmatch
                *amid, last = stars
                steps = [f"(?=(?P<g{number}>{STAR}?{each}))(?P=g{number})" for number, each in enumerate(amid) if each]
                return re.compile("".join([first, *steps, STAR, last]), re.DOTALL)
            return re.compile(pattern, re.DOTALL)
    except (ValueError, re.error):
        return None


def fits(wanted: Sequence[re.Pattern[str] | None], parts: Sequence[str]) -> bool:
    """Whether *parts* match *wanted* from the first to the last, with None for any number of parts. The number of steps
    is at most the product of both lengths."""
    if None not in wanted and len(wanted) != len(parts):
        return False
    reached = {0}  # numbers of parts that the patterns so far can match
    for pattern in wanted:
        if pattern is None:
            reached = set(range(min(reached), len(parts) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(parts) and pattern.match(parts[at])}
        if not reached:
            return False
    return len(parts) in reached
