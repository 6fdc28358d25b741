"""What is sent with a job: the files below the snapshot root that no ignore file excludes."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.core.files import WORKSPACE_FOLDER, is_bookkeeping
from himl_cli.core.jobs import Snapshot, SnapshotReport
from himl_cli.services.naming import FILE_NAME
from himl_cli.services.secret_files import PUBLIC_ENDING, is_private_folder, may_hold_secrets
from himl_cli.services.submission.ignore_rules import IgnoreRules, read_rules
from himl_cli.services.text_files import as_found
from himl_cli.services.transfer.filters import Globs
from himl_cli.services.transfer.state import has_fetched_files, targets

ROOT_MARKERS = ("pyproject.toml", "environment.yml", ".git")
ALWAYS_LEFT_OUT = frozenset({".git", ".hg", ".svn", WORKSPACE_FOLDER, "__pycache__", ".ipynb_checkpoints"})
RESULTS_OF_EARLIER_RUNS = frozenset({"outputs", "logs"})
GIT_FILE, OWN_FILE = ".gitignore", ".amlignore"


def find_snapshot_root(start: Path) -> Path:
    """The nearest folder from *start* upward that looks like a project's root, else *start*."""
    for folder in (start, *start.parents):
        if any((folder / marker).exists() for marker in ROOT_MARKERS):
            return folder
    return start


def take_snapshot(
    root: Path, ignored_folders: Sequence[str] = (), include_secret: Sequence[str] = ()
) -> SnapshotReport:
    """List the files below *root* to be sent: `.amlignore` rules (where the root has one), else `.gitignore` rules, at
    every level as in git.

    Left out whatever the rules say: version control, workspaces, caches, virtual environments, files of secrets,
    results of earlier runs (`outputs` and `logs` at the top level, and folders that himl downloaded to). Symlinks are
    followed, loops once; what is neither a file nor a folder is passed over. Raises BadUsage for a folder or a glob
    that cannot be read.

    *ignored_folders* are paths, from *root* or absolute, or names of folders at any level, with `/` or `\\`; the report
    has those that met none. *include_secret* are globs, as `himl download --include` reads them, of files of secrets
    that are sent all the same.
    """
    name = OWN_FILE if (root / OWN_FILE).is_file() else GIT_FILE
    files: list[str] = []
    by_top: dict[str, int] = {}
    ignored = {folder: _ignored_names(root, folder) for folder in ignored_folders}
    walk = _Walk(root, name, frozenset().union(*ignored.values()), Globs(include_secret))
    for relative, size in walk.files():
        files.append(relative)
        top = relative.split("/", 1)[0]
        by_top[top] = by_top.get(top, 0) + size
    usual = ALWAYS_LEFT_OUT | RESULTS_OF_EARLIER_RUNS  # left out anyhow, also where they are not there yet
    missed = [
        folder
        for folder, names in ignored.items()
        if not names & walk.met
        and not any(posixpath.basename(name) in usual for name in names)
        and not any(os.path.isdir(root / name) for name in names if not name.startswith("./.."))
    ]
    return SnapshotReport(
        Snapshot(root, files, sum(by_top.values())), by_top, name, walk.downloads, missed, walk.secrets
    )


def secrets_but(include_secret: Sequence[str]) -> Callable[[str, str], bool]:
    """Whether a file below a folder is left out of its snapshot as one of secrets, for both their paths. Raises
    BadUsage for a glob that cannot be read."""
    included = Globs(include_secret)

    def is_secret(folder: str, path: str) -> bool:
        name = Path(os.path.relpath(path, folder)).as_posix()
        above = [os.path.join(folder, *name.split("/")[:count]) for count in range(1, name.count("/") + 1)]
        is_private = any(map(is_private_folder, above)) and not name.endswith(PUBLIC_ENDING)
        return (
            os.path.isfile(path)
            and (is_private or may_hold_secrets(path, os.path.getsize(path)))
            and not included.matches(name)
        )

    return is_secret


def ignored_remarks(reports: Sequence[SnapshotReport]) -> list[str]:
    """Which ignored folders are in none of the snapshots, a sentence: else a slip of the pen would send what was to be
    left out, and nobody would know."""
    first = reports[0].missed if reports else ()
    names = ", ".join(f"'{folder}'" for folder in first if all(folder in report.missed for report in reports))
    text = f"warning: nothing is left out for --ignored_folders {names}: what is sent has no folder of such a name."
    return [text] if names else []


def _ignored_names(root: Path, folder: str) -> frozenset[str]:
    """What *folder* may mean below *root*, as written, and with `/` for `\\` unless a folder there really has a
    backslash in its name.

    A name stays as it is, a path becomes one from *root* that begins with `./`: as it is written, and as links lead
    there.
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


class _Walk:
    """One walk over the project, with the ignore rules of the folders it is in."""

    def __init__(self, root: Path, ignore_name: str, ignored_folders: frozenset[str], include_secret: Globs) -> None:
        self.root = root
        self.ignore_name = ignore_name
        self.ignored_folders = ignored_folders
        self.include_secret = include_secret
        self.met: set[str] = set()
        self.downloads: list[str] = []
        self.secrets: list[str] = []
        self._targets = _targets_of_downloads()

    def files(self) -> Iterator[tuple[str, int]]:
        try:
            here = self.root.stat()
        except OSError as err:
            raise _unreadable(self.root, err) from err
        yield from self._folder(self.root, "", self._rules_above(), frozenset({_identity(str(self.root), here)}), False)

    def _rules_above(self) -> list[tuple[str, IgnoreRules]]:
        """Rules of the repository around the root, nearest last; each with the path from its folder to the root.

        They begin with the repository's own list (`.git/info/exclude`). Without a repository there are none: what lies
        above is none of its business.
        """
        if self.ignore_name != GIT_FILE:
            return []
        top = next((folder for folder in (self.root, *self.root.parents) if (folder / ".git").exists()), None)
        if top is None:
            return []
        between = [folder for folder in reversed(self.root.parents) if folder.is_relative_to(top)]
        found = [
            (top, read_rules(top / ".git" / "info" / "exclude")),
            *((folder, read_rules(folder / GIT_FILE)) for folder in between),
        ]
        paths = ((self.root.relative_to(folder).parts, rules) for folder, rules in found)
        return [("".join(f"{part}/" for part in parts), rules) for parts, rules in paths if rules is not None]

    def _folder(
        self,
        folder: Path,
        prefix: str,
        rules: list[tuple[str, IgnoreRules]],
        above: frozenset[tuple[int, int]],
        is_private: bool,
    ) -> Iterator[tuple[str, int]]:
        if (own := read_rules(folder / self.ignore_name)) is not None:
            rules = [*rules, ("", own)]
        for entry in _entries(folder):
            name = prefix + entry.name
            try:
                info = entry.stat()
            except OSError:
                continue  # a dangling link, or gone since it was listed
            is_folder = stat.S_ISDIR(info.st_mode)
            if self._is_left_out(name, entry.name, is_folder):
                continue
            # the nearest rule that speaks of it excludes it, or (a `!` rule) includes it again, as in git
            verdicts = (each.verdict(path + entry.name, is_folder=is_folder) for path, each in reversed(rules))
            if next((verdict for verdict in verdicts if verdict is not None), False):
                continue
            if not is_folder:
                if stat.S_ISREG(info.st_mode) and self._is_sent(name, entry, info.st_size, is_private):
                    yield name, info.st_size
                continue
            identity = _identity(entry.path, info)
            if identity in self._targets and has_fetched_files(Path(entry.path)):
                self.downloads.append(name)
                continue
            if identity not in above and not os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                deeper = [(f"{path}{entry.name}/", each) for path, each in rules]
                private = is_private or any(map(is_private_folder, _paths(entry)))
                yield from self._folder(Path(entry.path), name + "/", deeper, above | {identity}, private)

    def _is_sent(self, name: str, entry: os.DirEntry[str], size: int, is_private: bool) -> bool:
        """Whether the file holds no secrets, by its own name or by that of the file a link leads to, or is to be sent
        on purpose."""
        is_secret = any(may_hold_secrets(path, size) for path in _paths(entry)) or (
            is_private and not name.endswith(PUBLIC_ENDING)
        )
        if not is_secret or self.include_secret.matches(name):
            return True
        self.secrets.append(name)
        return False

    def _is_left_out(self, name: str, base: str, is_folder: bool) -> bool:
        if base in ALWAYS_LEFT_OUT or base == FILE_NAME or is_bookkeeping(base) or name in RESULTS_OF_EARLIER_RUNS:
            return True
        met = self.ignored_folders & {base, f"./{name}"} if is_folder else frozenset()
        self.met |= met
        return bool(met)


def _paths(entry: os.DirEntry[str]) -> list[str]:
    """Its own path, and that of what a link leads to."""
    return [entry.path, os.path.realpath(entry.path)] if entry.is_symlink() else [entry.path]


def _targets_of_downloads() -> frozenset[tuple[int, int]]:
    """The folders that himl may have downloaded to; none where there is no cache."""
    found = set()
    with suppress(BadUsage, DiskFailed):
        for folder in targets():
            with suppress(OSError):
                found.add(_identity(str(folder), folder.stat()))
    return frozenset(found)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as err:
        raise _unreadable(folder, err) from err


def _unreadable(folder: Path, err: OSError) -> BadUsage:
    return BadUsage(
        f"Cannot read '{folder}' for the snapshot: {err.strerror}.",
        hint="Exclude it in an ignore file or with --ignored_folders.",
    )


def _identity(path: str, info: os.stat_result) -> tuple[int, int]:
    """What tells folders apart, by device and inode (on Windows a directory entry's stat lacks them)."""
    if info.st_ino == 0:
        info = os.stat(path)
    return info.st_dev, info.st_ino
