"""Where slides lie: a folder of this machine, or one of a datastore whose files are downloaded when they are needed."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches
from pathlib import Path, PureWindowsPath
from typing import Protocol

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import BadUsage, DiskFailed, NotFound
from himl_cli.core.events import Notify
from himl_cli.core.files import walk_files
from himl_cli.core.montage import SlideUnreadable
from himl_cli.services.montage.slide_cache import SlideDownloads, companions
from himl_cli.services.transfer.filters import Filters
from himl_cli.services.transfer.upload import checked_prefix
from himl_cli.workspaces.base import BlobStore, LocalStore

GZIP = b"\x1f\x8b"
CSV = ".csv"
UTF8_HINT = "Save it as UTF-8; Excel calls that 'CSV UTF-8'."


class SlideFolder(Protocol):
    """Files by name (`/` separators, relative to the folder)."""

    @property
    def label(self) -> str:
        """What messages call it: `folder '/data'`, `folder 'slides' of datastore 'lab'`."""

    @property
    def is_rereadable(self) -> bool:
        """Whether a file may be asked for again at no cost, now that all are expected. If not, the layout is made
        without looking into slides before."""

    def names(self) -> Iterator[str]:
        """Every file in it and in its subfolders, sorted. Raises HimlError where it cannot be listed."""

    def has(self, name: str) -> bool:
        """Whether there is a file of that name. Raises HimlError."""

    def text(self, name: str) -> str:
        """The whole of a small UTF-8 file (a byte order mark is dropped). Raises NotFound, BadUsage where it is no
        UTF-8, DiskFailed."""

    def expect(self, names: Sequence[str]) -> None:
        """These files, and no others, will be asked for, roughly in this order: they may be downloaded ahead."""

    def local_path(self, name: str) -> AbstractContextManager[Path]:
        """The file's path on this machine, good until the context ends; may be called by several threads at once.

        A path may be given also for a file that is not there: whoever reads it says so. No call waits until another
        one's context ends, so that one thread may have several files open. Raises SlideUnreadable where this file
        cannot be given, with the reason; DiskFailed and others where no file can be.
        """

    def stop(self) -> None:
        """No file is wanted any more: calls of `local_path` that wait for one raise Interrupted at once. May be called
        by any thread."""


class LocalFolder:
    """A SlideFolder of this machine. Absolute names are files anywhere on it.

    Bytes of file names that are no UTF-8 are kept as surrogates, as Python does.
    """

    is_rereadable = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.label = f"folder '{folder}'"

    def names(self) -> Iterator[str]:
        """As `SlideFolder.names`; links are followed, loops of them once. Broken links and what else is no file are
        named too; himl's workspaces (`.himl`) and bookkeeping are left out. Raises NotFound where there is no such
        folder, DiskFailed."""
        if not self.folder.is_dir():
            raise NotFound(
                f"There is no folder '{self.folder}'.", hint="Check the path; it is relative to the current folder."
            )
        try:
            for found in walk_files(str(self.folder), skip_workspaces=True, of_any_kind=True):
                yield found.name
        except OSError as err:
            raise DiskFailed(
                f"Cannot list folder '{Path(err.filename or self.folder)}': {err.strerror}.",
                hint="Let it be read, or name a folder beside or below it.",
            ) from err

    def has(self, name: str) -> bool:
        return os.path.isfile(self.folder / name)

    def text(self, name: str) -> str:
        """As `SlideFolder.text`. Raises NotFound, DiskFailed, BadUsage for a file that is packed by gzip or no
        UTF-8."""
        path = self.folder / name
        try:
            data = path.read_bytes()
        except FileNotFoundError as err:
            raise NotFound(f"There is no file '{path}'.") from err
        except OSError as err:
            raise DiskFailed(f"Cannot read '{path}': {err.strerror}.") from err
        if data.startswith(GZIP):
            raise BadUsage(f"'{path}' is packed by gzip.", hint="Unpack it first.")
        return _decoded(data, f"'{path}'")

    def expect(self, names: Sequence[str]) -> None:
        """All files are on this machine."""

    def stop(self) -> None:
        """Nothing is waited for."""

    @contextmanager
    def local_path(self, name: str) -> Iterator[Path]:
        """The file's path. Raises SlideUnreadable for an empty name."""
        if not name:
            raise SlideUnreadable("no image is named")
        yield self.folder / name


class StoredFolder:
    """A SlideFolder of a datastore: its files are read where they lie, if that is on this machine, else downloaded.

    The store is used by one thread at a time: until files are expected by the caller's, then by that which downloads.
    """

    def __init__(
        self, store: BlobStore, folder: str, files: Mapping[str, BlobInfo], cache_bytes: int, notify: Notify
    ) -> None:
        self._store, self._files = store, files
        self._paths = store if isinstance(store, LocalStore) else None
        self._cache_bytes, self._notify = cache_bytes, notify
        self._downloads: SlideDownloads | None = None
        self.label = f"folder '{folder}' of {store.label}" if folder else store.label

    @property
    def is_rereadable(self) -> bool:
        return self._paths is not None or (self._downloads is not None and self._downloads.are_kept)

    def names(self) -> Iterator[str]:
        return iter(self._files)

    def has(self, name: str) -> bool:
        return name in self._files

    def text(self, name: str) -> str:
        """As `SlideFolder.text`; to be called before anything is expected. Raises what the store raises."""
        if name not in self._files:
            raise NotFound(f"There is no file '{name}' in {self.label}.")
        return _decoded(b"".join(self._store.read(self._files[name].name)), f"'{name}' in {self.label}")

    def expect(self, names: Sequence[str]) -> None:
        """As `SlideFolder.expect`, once. Raises DiskFailed where the cache cannot be used."""
        if self._paths is not None:
            return
        if self._downloads is not None:
            raise ValueError("files were expected before")
        uses: Counter[str] = Counter()
        for name in names:
            try:
                uses[self._blob(name).name] += 1
            except SlideUnreadable:  # said when it is asked for
                continue
        blobs = {blob.name: blob for blob in self._files.values()}
        stored = [*blobs]
        slides = {name: ([blobs[each] for each in (name, *companions(name, stored))], uses[name]) for name in uses}
        self._downloads = SlideDownloads(self._store, slides, self._cache_bytes, self._notify)

    @contextmanager
    def local_path(self, name: str) -> Iterator[Path]:
        """As `SlideFolder.local_path`, for files that were expected. Raises SlideUnreadable for a file that is not
        there, or not below the folder."""
        blob = self._blob(name)
        if self._paths is not None:
            path = self._paths.path_of(blob.name)
            if path is None:
                raise SlideUnreadable(f"there is no such file in {self.label}")
            yield path
        elif self._downloads is None:
            raise ValueError(f"'{name}' was not expected")
        else:
            with self._downloads.local_path(blob.name) as path:
                yield path

    def stop(self) -> None:
        if self._downloads is not None:
            self._downloads.stop()

    def close(self) -> None:
        """No file is read any more: remove what was downloaded."""
        if self._downloads is not None:
            self._downloads.close()

    def _blob(self, name: str) -> BlobInfo:
        """The file called *name*. Raises SlideUnreadable for what is not there, and for what cannot be: only files
        below the folder are read."""
        if not name:
            raise SlideUnreadable("no image is named")
        if posixpath.isabs(name) or PureWindowsPath(name).is_absolute():
            raise SlideUnreadable(
                f"an absolute path; here they are relative to the CSV, and mean files of {self.label}"
            )
        inside = posixpath.normpath(name)
        if inside.split("/")[0] == "..":
            raise SlideUnreadable(f"it leads out of {self.label}")
        if inside not in self._files:
            raise SlideUnreadable(f"there is no such file in {self.label}")
        return self._files[inside]


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise BadUsage(f"{what} is not UTF-8 text (byte {err.start}).", hint=UTF8_HINT) from err


@contextmanager
def open_stored(
    store: BlobStore, dataset: str, cache_bytes: int, notify: Notify
) -> Iterator[tuple[StoredFolder, str | None]]:
    """The folder of *store* that *dataset* means, or that the CSV lies in that it means; and the name of that CSV
    there.

    What is downloaded of it takes *cache_bytes* at most. It is listed once, here. Raises NotFound for what is not
    there, BadUsage for a name that leads out of the store, and what listing it raises.
    """
    folder, csv = split_dataset(checked_prefix(dataset))
    files = _files(store, folder, csv or "")
    if csv is not None and csv not in files:
        raise _no_csv(store, folder, csv, files)
    stored = StoredFolder(store, folder, files, cache_bytes, notify)
    try:
        yield stored, csv
    finally:
        stored.close()


def split_dataset(name: str) -> tuple[str, str | None]:
    """The folder that *name* means, and the name of the CSV in it, if it means one."""
    return posixpath.split(name) if name.lower().endswith(CSV) else (name, None)


def check_csv(store: BlobStore, name: str) -> None:
    """Raises NotFound, naming a near one, where *store* has no CSV called *name*, and what asking for it raises."""
    folder, csv = posixpath.split(checked_prefix(name))
    if store.stat(posixpath.join(folder, csv)) is None:
        raise _no_csv(store, folder, csv, _files(store, folder, csv))


def _no_csv(store: BlobStore, folder: str, csv: str, files: Iterable[str]) -> NotFound:
    near = get_close_matches(csv, [each for each in files if each.lower().endswith(CSV)], n=1)
    hint = f"Did you mean '{posixpath.join(folder, near[0])}'?" if near else ""
    return NotFound(f"There is no file '{posixpath.join(folder, csv)}' in {store.label}.", hint=hint)


def _files(store: BlobStore, folder: str, csv: str) -> Mapping[str, BlobInfo]:
    """The files below *folder*, by their names from there, sorted. Raises NotFound where there are none, naming what
    was looked for."""
    start = f"{folder}/" if folder else ""
    try:
        files = {blob.name[len(start) :]: blob for blob in Filters(start).select(store)}
    except NotFound as err:
        what = f"There is no file '{start}{csv}'" if csv else f"There is no folder '{folder}' with files"
        raise NotFound(f"{what} in {store.label}.", hint=err.hint) from err
    if not files:
        raise NotFound(f"There are no files in {store.label}.", hint="Upload some: himl datastore upload FOLDER slides")
    return files
