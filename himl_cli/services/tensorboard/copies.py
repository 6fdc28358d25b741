"""Event files of runs and files of TensorBoard's plugins, found in place on this machine or copied incrementally from
a service."""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import re
import shutil
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TypeAlias, cast

from himl_cli.core.blobs import MOST_CHECKED, BlobInfo, Bytes, FetchRequest
from himl_cli.core.errors import BlobChanged, DiskFailed, HimlError, NotFound
from himl_cli.core.files import PART_SUFFIX, is_board_file, is_event_file, make_folder, walk_files
from himl_cli.core.records import dataclass
from himl_cli.core.runs import Run, RunStatus, later_starts
from himl_cli.services.transfer.local_files import OPEN_FLAGS, UnsafeName, disk_error, folded, safe_relative, write_all
from himl_cli.workspaces.base import BlobStore, FolderWorkspace, LocalStore, Workspace

log = logging.getLogger(__name__)

# If event files are outside the requested folder, one of this many listings covers the whole run, and the others cover
# the common folder of the files.
FULL_LISTING_EVERY = 4
# Attempts per update to read files that change meanwhile. Attempts that fetch new bytes do not count.
COPY_ATTEMPTS = 3
# Bytes of the copy that himl requests again. They contain the checksum of the last record, which identifies the file.
OVERLAP = 16
# The seconds since 1970 in the name of an event file
CREATED = re.compile(r"tfevents\.(\d{9,11})\.[^/]*$")
# Suffix of a copy whose original was replaced by another file. TensorFlow uses the suffix `.v2` itself.
LATER_VERSION = re.compile(r"\.himl\d+$")
# The configuration of the projector, its paths of other files, and the folder of its plugin
PROJECTOR_CONFIG, PROJECTOR_PATH = "projector_config.pbtxt", re.compile(r"""_path\s*:\s*["']([^"']+)""")
PROJECTOR_FOLDER = "plugins/org_tensorflow_tensorboard_projector/"


@dataclass()
class CopyStats:
    """Counts for one update of a run: new bytes in its files, received bytes, and complete `files`."""

    expected: int = 0
    received: int = 0
    files: int = 0


def board_files(names: Iterable[str], text_of: Callable[[str], str]) -> set[str]:
    """Those of *names* that TensorBoard or a plugin reads. *text_of* returns the content of a file of that name, by
    which projectors name their vectors, labels and pictures."""
    names = [*names]
    found = {name for name in names if is_board_file(name)}
    for config in [name for name in found if posixpath.basename(name) == PROJECTOR_CONFIG]:
        folder, paths = posixpath.dirname(config), list[str]()
        with suppress(OSError, NotFound):  # it was removed meanwhile
            paths = [posixpath.join(folder, path) for path in PROJECTOR_PATH.findall(text_of(config))]
        starts = tuple(map(posixpath.normpath, paths))  # of names, since a checkpoint has several files
        found.update(name for name in names if name.startswith(starts))
    return found


def is_of_projector(name: str) -> bool:
    """Whether a configuration of the projector names the file. The projector rejects links out of its folder."""
    return not is_board_file(name) or PROJECTOR_FOLDER in name


class EventSource(ABC):
    """The event files of one run and files of plugins, updated until the run has ended. Only one thread may use it at a
    time.

    `files` are local paths by names below the run's folder in TensorBoard (with `/`). The caller updates `run`.
    `excluded` are names of event files that cannot be copied to this machine, and `reported` is the subset in notices.
    `is_behind` is true if files changed during each attempt of the last update.
    """

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name
        self.files: dict[str, Path] = {}
        self.stats = CopyStats()
        self.is_done = False
        self.is_checked = False
        self.is_behind = False
        self.excluded: set[str] = set()
        self.reported: set[str] = set()
        self._was_running = False

    @property
    @abstractmethod
    def folder(self) -> Path | None:
        """The folder of the run's event files, or None if there are none."""

    def current_files(self) -> dict[str, Path]:
        """`files` and, during an update, files that are partly copied."""
        return self.files

    def by_attempt(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """*files* with those of later attempts of the run in folders `try_2`, `try_3`, …, since TensorBoard joins the
        event files of one folder. Their names have the time in seconds at which they were created."""
        starts = [int(start.timestamp()) for start in later_starts(self.run.tags)]
        if not starts:
            return {**files}
        found = {}
        for name, path in files.items():
            created = CREATED.search(name)
            attempt = 1 + (bisect_right(starts, int(created[1])) if created else 0)
            found[f"try_{attempt}/{name}" if attempt > 1 else name] = path
        return found

    @abstractmethod
    def _update(self, *, is_last: bool) -> bool:
        """Update `files`. Returns False if a file changed meanwhile, so that another update is necessary."""

    def update(self) -> None:
        """Update the files. Raises HimlError, after which a later update continues. `run.status` is older than the
        update, so the update after a final status includes the last bytes."""
        status = self.run.status
        if self.is_checked:
            self.stats = CopyStats()
            if status is RunStatus.queued:
                return
        is_complete = self._update(is_last=status.is_final)
        self.is_behind = not is_complete
        self.is_checked = True
        if not status.is_final:
            self._was_running = True
        elif is_complete:  # after the end of a run, one more update fetches bytes that arrive late
            self.is_done, self._was_running = not self._was_running, False


class LocalSource(EventSource):
    def __init__(self, store: BlobStore, workspace: FolderWorkspace, run: Run, name: str, log_dir: str) -> None:
        super().__init__(run, name)
        self._workspace, self._store = workspace, cast(LocalStore, store)
        self._finder = EventFinder(store, log_dir)

    @property
    def folder(self) -> Path | None:
        roots = {path.parents[name.count("/")] for name, path in self.files.items()}
        return Path(os.path.commonpath(roots)) if roots else None

    def _update(self, *, is_last: bool) -> bool:
        found = self._finder.find(is_last=is_last).items()
        paths = {name: self._store.path_of(blob.name) for name, blob in found}
        self.files = {name: path.absolute() for name, path in paths.items() if path is not None}
        # Files that a running job keeps at its end are not among its logs yet
        if not self.files and not is_last:
            elsewhere = self._workspace.unkept_files(self.run.id)
            shown = board_files(elsewhere, lambda name: elsewhere[name].read_text("utf-8", "replace"))
            self.files = {name: path.absolute() for name, path in elsewhere.items() if name in shown}
        return True


class CopiedSource(EventSource):
    """Event files of a service, copied to *folder*, and the sink for their new bytes. Earlier copies in the folder are
    shown from the start.

    Requests are checked in parts. The recorded MD5 of the whole file is ignored, because it may belong to another
    version than the copied bytes, and a blob that was appended to has the MD5 of its beginning.
    """

    def __init__(self, workspace: Workspace, run: Run, name: str, log_dir: str, folder: Path) -> None:
        super().__init__(run, name)
        self._folder = folder
        self._copies: dict[str, GrowingCopy] = {}  # by name in the store
        self._in_progress: list[GrowingCopy] = []
        self._store = workspace.run_files(run.id)
        self._finder = EventFinder(self._store, log_dir)
        self._taken_names: dict[str, str] = {}
        self._is_complete = True
        self._error: HimlError | None = None
        with suppress(OSError):  # the first update reports it
            found = {file.name for file in walk_files(str(folder)) if not file.name.endswith(PART_SUFFIX)}
            first = [
                name for name in found if not (LATER_VERSION.search(name) and LATER_VERSION.sub("", name) in found)
            ]
            self.files = self._by_name(GrowingCopy(folder.joinpath(*name.split("/"))).path for name in sorted(first))

    @property
    def folder(self) -> Path | None:
        return self._folder if self.files else None

    def current_files(self) -> dict[str, Path]:
        paths = [copy.path for copy in self._in_progress]
        return self._by_name(path for path in paths if path.exists()) if paths else self.files

    def _by_name(self, paths: Iterable[Path]) -> dict[str, Path]:
        """The paths by the names of the copies. A copy that continues under a new name is a new file to TensorBoard."""
        return {path.relative_to(self._folder).as_posix(): path for path in paths}

    def _update(self, *, is_last: bool) -> bool:
        failed_attempts = 0
        while failed_attempts < COPY_ATTEMPTS:
            before = self.stats.received
            self._fetch_new_bytes(is_last)
            if self._is_complete:
                return True
            failed_attempts += self.stats.received == before
        return False

    def _fetch_new_bytes(self, is_last: bool) -> None:
        found = {name: blob for name, blob in sorted(self._finder.find(is_last=is_last).items()) if blob.size}
        kept = {name: blob for name, blob in found.items() if self._can_be_kept(name)}
        self.excluded |= found.keys() - kept.keys()
        for name, blob in kept.items():
            if blob.name not in self._copies:
                path = self._folder.joinpath(*safe_relative(copy_name(name, self._taken_names)))
                self._copies[blob.name] = (GrowingCopy if is_event_file(name) else WholeCopy)(path)
        self._in_progress = [self._copies[blob.name] for blob in kept.values()]
        self._is_complete, self._error = True, None
        requests = []
        for blob in kept.values():
            copy = self._copies[blob.name]
            request = copy.request(blob)
            if request is not None:
                requests.append(request)
                self.stats.expected += max(0, blob.size - copy.size)
        try:
            if requests:
                self._store.fetch(iter(requests), self, workers=8)
        finally:
            for copy in self._in_progress:
                copy.close()
        self.files = self.current_files()
        if self._error is not None:
            raise self._error

    def _can_be_kept(self, name: str) -> bool:
        """Whether the name is possible below the folder, and no part of its path is a link."""
        try:
            parts = safe_relative(name)
        except UnsafeName:
            return False
        path = self._folder.joinpath(*parts)
        return not any(os.path.islink(one) for one in (path, *path.parents[: len(parts)]))

    def write(self, request: FetchRequest, offset: int, data: Bytes) -> None:
        self.stats.received += self._copies[request.blob.name].write(offset, data)

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        copy = self._copies[request.blob.name]
        copy.complete(request.blob)
        self._is_complete = self._is_complete and not copy.is_other
        self.stats.files += not copy.is_other

    def fail(self, request: FetchRequest, error: HimlError) -> None:
        self._copies[request.blob.name].close()
        if isinstance(error, BlobChanged):
            self._is_complete = False
        else:
            self._error = self._error or error


def copy_name(name: str, taken: dict[str, str]) -> str:
    """The name for the copy of the event file *name*, changed if necessary to differ from those *taken* (by folded
    name) even if case is ignored. Adds the name to *taken*."""
    holder = taken.setdefault(folded(name), name)
    parts, at = name.split("/"), None
    if holder != name:
        at = next(at for at, (one, other) in enumerate(zip(parts, holder.split("/"), strict=True)) if one != other)
    elif LATER_VERSION.search(name):  # reserved for a later version of another file
        at = -1
    if at is not None:
        parts[at] = f"{parts[at]}.himl-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"
    return "/".join(parts)


class EventFinder:
    """Repeated listings of one run's event files and files of plugins, limited to the narrowest folder that contains
    them.

    Files below *log_dir* have names relative to it. If the first event files are elsewhere, all files of the run are
    included from then on with their whole names, so that names in TensorBoard never change.
    """

    def __init__(self, store: BlobStore, log_dir: str) -> None:
        self._store = store
        folder = PurePosixPath(log_dir.replace("\\", "/")).as_posix().strip("/")
        # Empty once all files are included
        self._log_dir = "" if folder in ("", ".") else f"{folder}/"
        self._is_settled = False  # whether the folder contains files
        self._common = ""
        self._listings = 0
        self._configs: dict[str, tuple[BlobInfo, str]] = {}  # of projectors, as they were read

    def find(self, *, is_last: bool = False) -> Mapping[str, BlobInfo]:
        """The event files by the names in TensorBoard. With *is_last*, the listing is complete."""
        self._listings += 1
        found: list[BlobInfo] = []
        if self._log_dir and (self._is_settled or self._listings == 1):
            found = self._listed(self._log_dir)
            self._is_settled = self._is_settled or _has_events(found)
        elif self._common and not is_last and self._listings % FULL_LISTING_EVERY:
            found = self._listed(self._common)
        if not _has_events(found) and not (self._log_dir and self._is_settled):
            found = self._listed("")
            folders = [posixpath.dirname(blob.name) for blob in found]
            is_absolute = {folder.startswith("/") for folder in folders}  # commonpath takes no mixture
            common = posixpath.commonpath(folders) if len(is_absolute) == 1 else ""
            self._common = f"{common}/" if common else ""
            below = [blob for blob in found if blob.name.startswith(self._log_dir)]
            if _has_events(below) or (below and not _has_events(found)):
                found, self._is_settled = below, _has_events(below)
            elif found:
                self._log_dir = ""
        return {blob.name[len(self._log_dir) :].lstrip("/"): blob for blob in found}

    def _listed(self, prefix: str) -> list[BlobInfo]:
        blobs = {blob.name: blob for page in self._store.list(prefix) for blob in page}

        def text_of(name: str) -> str:
            if name not in self._configs or self._configs[name][0] != blobs[name]:
                self._configs[name] = blobs[name], b"".join(self._store.read(name)).decode("utf-8", "replace")
            return self._configs[name][1]

        shown = board_files(blobs, text_of)
        return [blob for name, blob in blobs.items() if name in shown]


def _has_events(blobs: Iterable[BlobInfo]) -> bool:
    return any(is_event_file(blob.name) for blob in blobs)


class GrowingCopy:
    """The copy at *path* of an event file that another machine still writes. himl fetches and appends new bytes only.

    A copy is never replaced by a rename, which TensorBoard's data server would not notice. If the original was replaced
    by another file, the copy continues under a new name beside it. himl requests only bytes with a checksum of the
    service, so after any failure, the copy is a beginning of the original. It writes by offset, because two programs
    may write the same copy. For the same reason, a copy that is longer than the listed size can still match.
    """

    def __init__(self, path: Path) -> None:
        self._first = path
        self._version = 1
        while self._named(self._version + 1).exists():
            self._version += 1
        self.size = 0
        self._start = 0
        self._overlap = b""  # the end of the copy, from `_start`
        # The size and ETag of the original when the copy was last complete
        self._listed = 0
        self._etag = ""
        self._descriptor: int | None = None
        self.is_other = False

    @property
    def path(self) -> Path:
        return self._named(self._version)

    @property
    def _written(self) -> Path:
        return self.path

    def _named(self, version: int) -> Path:
        return self._first if version == 1 else self._first.with_name(f"{self._first.name}.himl{version}")

    def request(self, blob: BlobInfo) -> FetchRequest | None:
        """The request for the missing part of *blob*, with the end of the copy for comparison, or None. Raises
        DiskFailed."""
        if self.is_other or blob.size < self._listed:
            self._version += 1
            self._listed, self._etag = 0, ""
        self.is_other = False
        changed = self._measure(blob.size)
        if blob.size == self.size and (blob.etag == self._etag if self._etag else changed == _stamp(blob)):
            self._etag, self._listed = blob.etag, blob.size
            return None
        return FetchRequest(blob, self._start, blob.size - self._start, checked_each=MOST_CHECKED)

    def _measure(self, listed: int) -> int | None:
        """Read the size of the copy and its last bytes before *listed* or its end. Returns the time of its last change,
        in seconds."""
        if self.path.is_symlink():
            raise DiskFailed(
                f"'{self.path}' is a link, and himl copies event files to regular files only.",
                hint="Remove the link.",
            )
        try:
            with self.path.open("rb") as copy:
                found = os.fstat(copy.fileno())
                self.size = found.st_size
                end = min(self.size, listed)
                self._start = max(0, end - OVERLAP)
                copy.seek(self._start)
                self._overlap = copy.read(end - self._start)
        except FileNotFoundError:
            self.size, self._start, self._overlap = 0, 0, b""
            return None
        except OSError as err:
            raise disk_error(err, f"Cannot read '{self.path}'") from err
        return int(found.st_mtime)

    def write(self, offset: int, data: Bytes) -> int:
        """Write the new bytes among those from *offset*. Returns their number, or 0 if the original was replaced by
        another file. Raises DiskFailed."""
        known = max(0, self.size - offset)
        if known:
            start = offset - self._start
            compared = self._overlap[start : start + len(data)]
            self.is_other = self.is_other or compared != data[: len(compared)]
        new = data[known:]
        if self.is_other or not new:
            return 0
        try:
            if self._descriptor is None:
                make_folder(self.path.parent)
                self._descriptor = os.open(self._written, OPEN_FLAGS, 0o666)
            os.lseek(self._descriptor, offset + known, os.SEEK_SET)
            write_all(self._descriptor, new)
        except OSError as err:
            raise disk_error(err, f"Cannot write '{self.path}'") from err
        return len(new)

    def complete(self, blob: BlobInfo) -> None:
        """Finish the request for *blob*. The copy gets the blob's time, which a later himl process compares."""
        self.close()
        if self.is_other:
            return
        self._etag, self._listed = blob.etag, blob.size
        stamp = _stamp(blob)
        with suppress(OSError):  # after a failure, the next update compares the end again
            if stamp is not None and self.path.stat().st_size == blob.size:
                os.utime(self.path, (stamp, stamp))

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class WholeCopy(GrowingCopy):
    """The copy of a file of a plugin, which may change anywhere. It is replaced when the new content is complete."""

    @property
    def _written(self) -> Path:
        return self.path.with_name(f"{self.path.name}{PART_SUFFIX}")

    def request(self, blob: BlobInfo) -> FetchRequest | None:
        self._listed = 0  # a shorter file gets no second copy
        if super().request(blob) is None:
            return None
        self.size, self._start, self._overlap = 0, 0, b""
        return FetchRequest(blob, 0, blob.size, checked_each=MOST_CHECKED)

    def complete(self, blob: BlobInfo) -> None:
        self.close()
        try:
            os.truncate(self._written, blob.size)  # an interrupted himl may have left more
            os.replace(self._written, self.path)
        except OSError as err:
            raise disk_error(err, f"Cannot write '{self.path}'") from err
        super().complete(blob)


def _stamp(blob: BlobInfo) -> int | None:
    """The time of the last change of *blob*, in whole seconds, which every file system stores."""
    return int(blob.modified.timestamp()) if blob.modified is not None else None


_State: TypeAlias = tuple[int, ...] | None


def _state(name: str, path: Path) -> _State:
    """The state of a file of a plugin, which may change anywhere. None if it does not exist. Event files only grow."""
    if is_event_file(name):
        return ()
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


class ShownFolder:
    """The folder for TensorBoard, with a link below *root* for each file, so that TensorBoard shows only the selected
    runs, from any folder. Raises DiskFailed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # By run and name: the file, its state, the link to it, and whether the link is a copy, which himl updates
        self._shown: dict[str, dict[str, tuple[Path, _State, Path, bool]]] = {}

    def show(self, run: str, files: Mapping[str, Path]) -> None:
        shown = self._shown.setdefault(run, {})
        try:
            states = {name: _state(name, path) for name, path in files.items()}
            for name, (path, state, link, _) in [*shown.items()]:
                if (files.get(name), states.get(name)) != (path, state):
                    del shown[name]
                    # Windows does not remove a file that TensorBoard has open
                    with suppress(PermissionError):
                        link.unlink(missing_ok=True)
            for name, path in files.items():
                if states[name] is None:  # the script removed it
                    continue
                if name not in shown:
                    shown[name] = (path, states[name], *self._link(run, name, path))
                elif shown[name][3]:
                    with path.open("rb") as source, shown[name][2].open("ab") as target:
                        source.seek(target.tell())
                        shutil.copyfileobj(source, target)
        except OSError as err:
            raise disk_error(err, f"Cannot show '{err.filename}'") from err

    def _link(self, run: str, name: str, path: Path) -> tuple[Path, bool]:
        """A link to the file at *path*, and whether it is a copy. On Windows, where symlinks may need privileges, it is
        a hard link, and on another disk a copy. So are files of the projector everywhere."""
        plain = self.root.joinpath(run, *name.split("/"))
        names = (plain, *(plain.with_name(f"{plain.name}.himl{number}") for number in range(2, 1000)))
        link = next((each for each in names if not os.path.lexists(each)), plain)
        make_folder(link.parent)
        for make in (os.link,) if is_of_projector(name) else (os.symlink, os.link):
            with suppress(OSError, NotImplementedError):
                make(path, link)
                return link, False
        log.debug("'%s' is copied: cannot create a link to it at '%s'", path, link)
        # Never overwrites an existing file, which may be a hard link to a file of the user
        with path.open("rb") as source, link.open("xb") as target:
            shutil.copyfileobj(source, target)
        return link, True
