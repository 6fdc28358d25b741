"""Local files: sorted lists of folders, globs, atomic writes, the home folder. Each function wraps one operation of the
file system, so they share little code."""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import NamedTuple, TypeVar

from himl_cli.core.errors import BadUsage, DiskFailed, NotFound
from himl_cli.core.patterns import lazy_pattern

PART_SUFFIX = ".himl-part"
# Bookkeeping of earlier versions beside a user's files
STATE_NAME, RANKS_NAME = ".himl-transfer", ".himl-ranks"
# Names of files with folders, of which no part is special in any file system but that of Windows
PLAIN_NAME = lazy_pattern(r"(?:[\w-][\w.=+-]{0,254}/)*[\w-][\w.=+-]{0,254}", re.ASCII)
WORKSPACE_FOLDER = ".himl"
LATEST_RUN_FILE = "most_recent_run.txt"
LONG_PATH = 3500  # bytes, less than what Linux and macOS allow with another name of 255 bytes (4096)
SECONDS_IN_USE = 1.0 if sys.platform == "win32" else 0.0
COPIED_AT_ONCE = 8 << 20  # bytes that are copied between checks for a request to stop
BINARY = getattr(os, "O_BINARY", 0)
T = TypeVar("T")


HAS_SYNCFS = sys.platform == "linux"


class Globs:
    """Any of *globs*, as `services.transfer.plan.Filters` describes them, for whole names. Raises BadUsage for one that
    is too long or invalid."""

    def __init__(self, globs: Sequence[str]) -> None:
        self._parts: list[list[str]] = []  # of each glob, in reverse order
        for glob in globs:
            if len(glob) > LONGEST_GLOB:
                raise BadUsage(f"A glob has {len(glob):,} characters. The limit is {LONGEST_GLOB:,}.")
            for characters in re.findall(r"\[(.[^]]*)\]", glob):
                if any(first > last for first, last in re.findall(r"(.)-(.)", characters)):
                    raise BadUsage(
                        f"Not a glob: {glob} (bad character range).", hint="Write a set of characters as [a-c]."
                    )
            body = glob.removeprefix("/")
            parts = (f"{body}**" if body.endswith("/") else body).replace("[^", "[!").split("/")
            if parts[-1] == "**":
                parts.append("*")
            self._parts.append([*reversed(parts), *([] if glob.startswith("/") else ["**"])])
            if may_name_folder(glob):
                self._parts.append(["*", "**", *self._parts[-1]])

    def matches(self, name: str) -> bool:
        parts = name.split("/")
        return any(_matches(glob, parts) for glob in self._parts)


def may_name_folder(glob: str) -> bool:
    """Whether *glob* also matches the files below a folder: it ends with a name, and does not begin with a slash."""
    last = glob.rpartition("/")[2]
    return bool(last) and not glob.startswith("/") and not {*"*?["} & {*last}


def _matches(glob: Sequence[str], name: Sequence[str]) -> bool:
    """Whether the parts of a name match those of a glob, which are in reverse order, since most names differ at their
    end. The time grows only with the product of both lengths."""
    reached = {len(name)}  # possible numbers of parts that the rest of the glob must match
    for part in glob:
        if part == "**":
            reached = set(range(max(reached) + 1))
        else:
            reached = {number - 1 for number in reached if number > 0 and fnmatchcase(name[number - 1], part)}
        if not reached:
            return False
    return 0 in reached


def is_event_file(name: str) -> bool:
    """Whether TensorBoard reads the file called *name* as one of its own."""
    return "tfevents" in name.rpartition("/")[2]


PLUGIN_FILE = lazy_pattern(r"(?:^|/)(?:plugins/.|tfdbg_events\.|projector_config\.pbtxt$)|\.pt\.trace\.json(?:\.gz)?$")


def is_board_file(name: str) -> bool:
    """Whether TensorBoard or one of its plugins reads the file called *name*: an event file, a trace of PyTorch's
    profiler, the configuration of the projector, or a file below `plugins/`."""
    return is_event_file(name) or PLUGIN_FILE.search(name) is not None


class FoundFile(NamedTuple):
    """A file found in a folder: its name with `/` separators, its path, and its state at that time."""

    name: str
    path: str
    stat: os.stat_result


def is_bookkeeping(base: str) -> bool:
    """Whether *base*, a file or folder name, belongs to himl's records of transfers."""
    if not base.startswith("."):
        return False
    folded = base.casefold()
    return folded.startswith((STATE_NAME, RANKS_NAME)) or folded.endswith(PART_SUFFIX)


warned: set[Path] = set()
"""Paths of which the current command has warned, so that it warns once."""


def is_inside(path: str | Path, folder: str) -> bool:
    """Whether *path* is *folder*, a real path, or in it, after all links are followed."""
    place, start = os.fspath(path), os.path.join(folder, "")
    if sys.platform == "win32" or not place.startswith(start) or _has_link(start, place[len(start) :]):
        place = os.path.realpath(place)
    return os.path.join(place, "").startswith(start)


def _has_link(start: str, below: str) -> bool:
    """Whether a name in *below* may lead elsewhere than below *start*."""
    for name in below.split("/"):
        start = f"{start}{name}"
        try:
            if name == ".." or stat.S_ISLNK(os.lstat(start).st_mode):
                return True
        except FileNotFoundError:
            return ".." in below
        except OSError:
            return True
        start += "/"
    return False


def real_path(descriptor: int, path: str) -> str:
    """The real path of the file that was opened at *path*. On Linux, that is so even if a link replaced it
    meanwhile."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return os.path.realpath(path)


def walk_files(
    folder: str,
    prefix: str = "",
    *,
    skip_workspaces: bool = False,
    of_any_kind: bool = False,
    is_omitted: Callable[[str, os.DirEntry[str]], bool] = lambda name, entry: False,
) -> Iterator[FoundFile]:
    """Files in *folder* and below with names that start with *prefix*, sorted as plain strings (`a-b` < `a/x` < `a0`).

    Symlinks are followed (a loop once, a broken one not at all). Sockets, pipes, devices and himl's bookkeeping are
    omitted, and `.himl` folders with *skip_workspaces*. *of_any_kind* includes broken links (with the state of the
    link), sockets, pipes and devices. Entries for which *is_omitted* is true are omitted. Memory is that of the folders
    on the path to one file. A folder that vanishes meanwhile has no files. One that cannot be read raises OSError.
    """
    names_in = partial(_names, prefix, skip_workspaces, of_any_kind, is_omitted)
    try:
        here = os.stat(folder)
    except FileNotFoundError:
        return
    # The folders on the path to one file, with their names that are left. There may be more than Python's stack allows
    levels = [(folder, "", (here.st_dev, here.st_ino), names_in(folder, ""))]
    above = {levels[0][2]}
    while levels:
        folder, under, identity, names = levels[-1]
        if (name := next(names, None)) is None:
            levels.pop()
            above.remove(identity)
            continue
        path = os.path.join(folder, name.removesuffix("/"))
        status = _status(path, of_any_kind)
        if status is None:
            continue
        identity = status.st_dev, status.st_ino
        if not name.endswith("/"):
            yield FoundFile(under + name, path, status)
        elif identity not in above:
            above.add(identity)
            levels.append((path, under + name, identity, names_in(path, under + name)))


def _names(
    prefix: str,
    skip_workspaces: bool,
    of_any_kind: bool,
    is_omitted: Callable[[str, os.DirEntry[str]], bool],
    folder: str,
    under: str,
) -> Iterator[str]:
    """The names in *folder* that `walk_files` wants, sorted. Those of folders end with a slash, so that their files
    have the right place among its neighbours."""
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    is_folder, is_file = entry.is_dir(), entry.is_file()
                except OSError:  # a link to itself
                    is_folder = is_file = False
                name = under + entry.name
                if is_bookkeeping(entry.name) or (skip_workspaces and is_folder and entry.name == WORKSPACE_FOLDER):
                    continue
                is_wanted = name.startswith(prefix) and (is_file or of_any_kind)
                if is_folder:
                    is_wanted = (name + "/").startswith(prefix) or prefix.startswith(name + "/")
                if is_wanted and not is_omitted(name, entry):
                    names.append(entry.name + "/" * is_folder)
    except (FileNotFoundError, NotADirectoryError):
        pass
    return iter(sorted(names))


def _status(path: str, of_any_kind: bool) -> os.stat_result | None:
    """None for a vanished entry, and for a broken link or a loop of links unless all kinds count."""
    for look in (os.stat, os.lstat) if of_any_kind else (os.stat,):
        with suppress(OSError):
            return look(path)
    return None


def flush(folder: Path, files: Iterable[str] | None = None) -> None:
    """Write cached data of *files* below *folder* (None: of all) to the disk, so that it survives a power cut. Linux
    writes all data and names of its file system (`man 2 syncfs`). Raises OSError."""
    if HAS_SYNCFS:
        import ctypes  # a large import

        handle = os.open(folder, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(handle):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
        finally:
            os.close(handle)
        return
    for path in (found.path for found in walk_files(str(folder))) if files is None else files:
        with suppress(FileNotFoundError, PermissionError):  # removed meanwhile, or read-only on Windows
            flush_file(path)


def flush_file(path: str) -> None:
    """Write cached data of one file to the disk. Raises OSError."""
    # Windows flushes only files that are open for writing
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def walk_folders(top: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder from *top* down, the names of its folders, of which the caller may remove some, and other names. As
    os.walk, which needs a stack as deep as the folders before Python 3.12."""
    waiting = [top]
    while waiting:
        folder, folders, names = waiting.pop(), list[str](), list[str]()
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                (folders if entry.is_dir() else names).append(entry.name)
        yield folder, folders, names
        paths = (os.path.join(folder, name) for name in folders)
        waiting += [path for path in paths if not os.path.islink(path)]


def make_folder(path: Path) -> None:
    """Create a folder and those above it, unless they exist, however deep it is. Raises OSError."""
    missing = [path]
    while missing:
        try:
            missing[-1].mkdir(exist_ok=True)
            missing.pop()
        except FileNotFoundError:
            if missing[-1] == missing[-1].parent:
                raise
            missing.append(missing[-1].parent)


def copy_file(
    source: str | Path, target: str | Path, check: Callable[[], None] = lambda: None
) -> tuple[os.stat_result, os.stat_result] | None:
    """Copy one file with its permissions. Returns the states of the source, before himl read it, and of the copy. Calls
    *check* after each block. Raises OSError. Linux copies in the kernel, which shares blocks if the file system can.

    Skips a file that was deleted since it was listed, such as an editor's temporary file.
    """
    try:
        original = os.open(source, os.O_RDONLY | BINARY)
    except FileNotFoundError:
        return None
    copy = -1
    try:
        facts = os.fstat(original)
        mode, left = facts.st_mode & 0o777, facts.st_size
        copy = _create(target, mode)
        with suppress(OSError):  # then the rest is read and written, which raises the error of a disk
            while left > 0 and hasattr(os, "copy_file_range"):
                count = os.copy_file_range(original, copy, min(left, COPIED_AT_ONCE))
                if not count:
                    break
                left -= count
                check()
        if left or not facts.st_size:  # also a file of the kernel, which has no size
            with open(original, "rb", closefd=False) as stream, open(copy, "wb", closefd=False) as rest:
                while block := stream.read(COPIED_AT_ONCE):
                    rest.write(block)
                    check()
    finally:
        os.close(original)
        if copy >= 0:
            os.close(copy)
    found = os.stat(target)  # on network file systems, closing a file changes its times
    if found.st_mode & 0o777 != mode:
        os.chmod(target, mode)
        found = os.stat(target)
    return facts, found


def _create(target: str | Path, mode: int) -> int:
    """The handle of the file *target*, which is new or empty. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | BINARY
    try:
        return os.open(target, flags, mode)
    except FileNotFoundError:
        make_folder(Path(target).parent)
        return os.open(target, flags, mode)


def remove_tree(path: Path) -> None:
    """Delete a folder and its contents. Another process may delete it at the same time. Raises OSError for the first
    file that cannot be deleted."""
    import shutil  # imports ten modules

    while path.exists():
        with suppress(FileNotFoundError):
            if sys.platform != "win32" and not path.is_symlink():
                _remove_below(str(path))
            shutil.rmtree(path)


@contextmanager
def temporary_folder(parent: Path | None = None, prefix: str = "himl-") -> Iterator[Path]:
    """A new folder below *parent* (None: that for temporary files), until the context ends. As
    tempfile.TemporaryDirectory, which needs a stack as deep as its folders. Raises OSError."""
    import tempfile  # imports twenty modules

    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield folder
    finally:
        with suppress(OSError):  # on Windows, a program may have a file open
            remove_tree(folder)


def _remove_below(top: str) -> None:
    """Delete the files and folders below *top*, however deep. The order of files is that of their inodes, as in `rm`,
    since a disk may take many times as long in the folder's order. Raises OSError for the first file that cannot be
    deleted, after the others."""
    folders, errors = [top], list[OSError]()

    def noted(act: Callable[..., T], *paths: str) -> T | None:
        try:
            return act(*paths)
        except FileNotFoundError:
            return None
        except OSError as err:
            errors.append(err)
            return None

    for folder in folders:
        if len(os.fsencode(folder)) > LONG_PATH:
            folders.append(os.path.join(top, os.urandom(16).hex()))
            noted(os.rename, folder, folders[-1])
            continue
        for entry in noted(_by_inode, folder) or ():
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                noted(os.unlink, entry.path)
    for folder in reversed(folders[1:]):
        noted(os.rmdir, folder)
    if errors:
        raise errors[0]


def _by_inode(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.inode())


def once_free(act: Callable[[], T], seconds: float = SECONDS_IN_USE) -> T:
    """Call *act*, and retry for *seconds* while the file is in use, since Windows cannot replace a file that another
    process reads."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return act()
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.02)


def last_lines(path: Path, count: int = 1) -> list[str]:
    """The last non-empty lines of a log, each of at most 200 characters. Empty if it cannot be read."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 16 * 1024))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    return [line[:200] for line in text.splitlines() if line.strip()][-count:]


def write_atomic(path: Path, text: str, *, is_private: bool = False) -> None:
    """Write *text* (UTF-8) to *path*, replacing an existing file. Only the owner can read a private file, at any time.
    Raises OSError."""
    with (
        atomic_replacement(path, is_private=is_private) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as stream,
    ):
        stream.write(text)


@contextmanager
def atomic_replacement(path: Path, *, is_private: bool = False) -> Iterator[str]:
    """Provide the name of a new, empty file beside *path*. It replaces *path* on success, and is deleted otherwise.
    Snapshots and uploads omit it if the process is killed before that. Raises OSError."""
    import tempfile  # imports twenty modules

    # Limit the name, which may be long
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=PART_SUFFIX)
    try:
        os.close(handle)
        yield temporary
        flush_file(temporary)
        if not is_private:
            mask = os.umask(0)  # reading the mask requires setting it
            os.umask(mask)
            os.chmod(temporary, 0o664 & ~mask)  # himl uses no settings that all users can write to
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # the file is missing if Ctrl-C came after the last line
            os.unlink(temporary)
        raise


def may_write(path: Path) -> bool:
    """Whether this process may write to the file or folder, with the capabilities that a container gave it."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def is_same_place(one: Path, other: str | Path) -> bool:
    """Whether both are the same existing file or folder."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def home_folder() -> Path | None:
    """The user's home folder. None if there is none (a container with an unknown user id)."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def expand_user(text: str) -> str:
    """The path *text* with the home folder for `~` or `~user`. Unchanged if no user can have the name."""
    try:
        return os.path.expanduser(text)
    except ValueError:  # a NUL or a lone surrogate, which documents may contain
        return text


def expand_home(text: str | Path, what: str = "file") -> Path:
    """The path *text* with the home folder for `~` or `~user`. Raises NotFound for a *what* in the home folder of an
    unknown user."""
    path = expand_user(str(text))
    if path.startswith("~"):
        raise NotFound(
            f"There is no {what} '{text}': this user has no home folder on this machine.",
            hint="For a name that begins with ~, write ./~.",
        )
    return Path(path)


def named_folder(spec: str) -> Path:
    """The local workspace that a path names: the path itself if it is called `.himl` or contains a workspace, else the
    `.himl` in it."""
    path = expand_home(spec, "folder").absolute()
    if path.name == WORKSPACE_FOLDER or (path / "workspace.db").is_file() or path.is_file():
        return path
    return path / WORKSPACE_FOLDER


def cache_of(name: str, use: str, hint: str) -> Path:
    """The folder *name* of himl's cache, readable by this user only. Raises BadUsage, naming the *use*, for a user
    without a home, and DiskFailed."""
    import platformdirs

    try:
        root = platformdirs.user_cache_path("himl", appauthor=False) / name
    except RuntimeError:
        raise BadUsage(f"There is no folder {use}, because this user has no home folder.", hint=hint) from None
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise DiskFailed(
            f"Cannot make himl's cache folder '{root}': {err.strerror or err}.",
            hint="Check the path and its permissions.",
        ) from err
    return root


LONGEST_GLOB = 1000  # characters, since the time to parse one is quadratic


def with_slashes(text: str) -> str:
    """*text* with `/` for `\\`. Unchanged if it begins with a drive, a slash or a backslash, since it is then valid on
    one machine only."""
    return text if PureWindowsPath(text).anchor else text.replace("\\", "/")


def as_found(folder: Path, text: str, *, windows: bool = sys.platform == "win32") -> str:
    """*text*, a path relative to *folder*, with `/` for `\\`, unless a file or folder has exactly this name, which is
    impossible on Windows."""
    return text if not windows and os.path.lexists(folder / text) else with_slashes(text)
