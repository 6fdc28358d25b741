"""Slides that lie in a folder of a datastore."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches
from pathlib import Path, PureWindowsPath

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.montage import SlideUnreadable
from himl_cli.services.montage.ahead import Ahead
from himl_cli.services.montage.cache_limit import GB, VARIABLE
from himl_cli.services.montage.companions import companions
from himl_cli.services.montage.places import SlidePlace
from himl_cli.services.montage.slide_cache import SlideCache
from himl_cli.services.montage.upcoming import Coming
from himl_cli.services.transfer.filters import Filters
from himl_cli.services.transfer.names import folded
from himl_cli.services.transfer.plan import TargetFolder
from himl_cli.services.transfer.upload import checked_prefix
from himl_cli.workspaces.base import BlobStore, LocalStore

CSV = ".csv"


@contextmanager
def open_stored(
    store: BlobStore, dataset: str, cache_bytes: int, notify: Notify
) -> Iterator[tuple[SlidePlace, str | None]]:
    """The folder of *store* that *dataset* means, or that the CSV lies in that it means; and the name of that CSV
    there.

    Its files are read where they lie, if that is on this machine; else those that are expected are brought to the
    user's cache, which takes *cache_bytes* at most. It is listed once, here. Raises NotFound for what is not there,
    BadUsage for a name that leads out of the store, and what listing it raises.
    """
    name = checked_prefix(dataset)
    folder, csv = posixpath.split(name) if name.lower().endswith(CSV) else (name, None)
    files = _files(store, folder, csv or "")
    if csv is not None and csv not in files:
        raise _no_csv(store, folder, csv, files)
    if isinstance(store, LocalStore):
        yield PlaceHere(store, store, folder, files), csv
        return
    with StoredPlace(store, folder, files, cache_bytes, notify) as place:
        yield place, csv


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


class _Listed:
    """The half of a place that its list of files knows."""

    def __init__(self, store: BlobStore, folder: str, files: Mapping[str, BlobInfo]) -> None:
        self._store = store
        self._files = files
        self.label = f"folder '{folder}' of {store.label}" if folder else store.label

    def names(self) -> Iterator[str]:
        return iter(self._files)

    def has(self, name: str) -> bool:
        return name in self._files

    def text(self, name: str) -> str:
        """As `SlidePlace.text`; to be called before anything is expected. Raises what the store raises."""
        if name not in self._files:
            raise NotFound(f"There is no file '{name}' in {self.label}.")
        try:
            return b"".join(self._store.read(self._files[name].name)).decode("utf-8-sig")
        except UnicodeDecodeError as err:
            raise BadUsage(
                f"'{name}' in {self.label} is not UTF-8 text (byte {err.start}).",
                hint="Save it as UTF-8; Excel calls that 'CSV UTF-8'.",
            ) from err

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


class PlaceHere(_Listed):
    """A folder of a store whose files lie on this machine; implements `SlidePlace`."""

    is_read_twice = True

    def __init__(self, store: BlobStore, paths: LocalStore, folder: str, files: Mapping[str, BlobInfo]) -> None:
        super().__init__(store, folder, files)
        self._paths = paths

    def expect(self, names: Sequence[str]) -> None:
        """All files are here."""

    @contextmanager
    def at_hand(self, name: str) -> Iterator[Path]:
        """As `SlidePlace.at_hand`. Raises SlideUnreadable for a file that is not there, and for one that is not below
        the folder."""
        path = self._paths.path_of(self._blob(name).name)
        if path is None:
            raise SlideUnreadable(f"there is no such file in {self.label}")
        yield path

    def stop(self) -> None:
        """Nobody waits."""


class StoredPlace(_Listed):
    """A folder of a store whose files are brought to the user's cache; implements `SlidePlace`. To be entered, and left
    when no file is read any more.

    The store is used by one thread at a time: until files are expected by the caller's, then by that which brings them.
    """

    def __init__(
        self, store: BlobStore, folder: str, files: Mapping[str, BlobInfo], cache_bytes: int, notify: Notify
    ) -> None:
        super().__init__(store, folder, files)
        self._stored = [blob.name for blob in files.values()]
        self._by_stored = {blob.name: blob for blob in files.values()}
        self._cache = SlideCache(store.origin, cache_bytes)
        self._notify = notify
        self._ahead: Ahead | None = None
        self._fallen: Mapping[str, str] = {}
        self.is_read_twice = False

    def __enter__(self) -> StoredPlace:
        return self

    def __exit__(self, *error: object) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._cache.close()

    def expect(self, names: Sequence[str]) -> None:
        """As `SlidePlace.expect`, once. That there is no room for all of them is told. Raises DiskFailed where the
        cache cannot be used."""
        if self._ahead is not None:
            raise ValueError("what is expected was said before")
        uses = Counter(blob.name for blob in map(self._known, names) if blob is not None)
        slides = [
            Coming(name, [self._by_stored[each] for each in (name, *companions(name, self._stored))], count)
            for name, count in uses.items()
        ]
        self._fallen = self._falling_together(slides)
        slides = [slide for slide in slides if slide.name not in self._fallen]
        sizes = {blob.name: blob.size for slide in slides for blob in slide.files}
        size, room = sum(sizes.values()), self._cache.room()
        self.is_read_twice = size <= room
        if not self.is_read_twice:
            self._notify(Notice(_say_excess(size, room, self._cache.limit)))
        self._ahead = Ahead(self._store, self._cache, slides, self._notify, is_kept=self.is_read_twice)

    def _known(self, name: str) -> BlobInfo | None:
        try:
            return self._blob(name)
        except SlideUnreadable:  # said when it is asked for
            return None

    def _falling_together(self, slides: Sequence[Coming]) -> Mapping[str, str]:
        """Slides whose names, in the cache, would be those of others, which they differ from in case only."""
        if not TargetFolder(self._cache.root).folds_names():
            return {}
        first: dict[str, str] = {}
        return {
            slide.name: other
            for slide in slides
            if (other := first.setdefault(folded(slide.name), slide.name)) != slide.name
        }

    def at_hand(self, name: str) -> AbstractContextManager[Path]:
        """As `SlidePlace.at_hand`, for files that were expected; raises ValueError before any were.

        Raises SlideUnreadable for a file that is not there or not below the folder, and where the disk takes its name
        for another slide's.
        """
        blob = self._blob(name)
        if blob.name in self._fallen:
            raise SlideUnreadable(
                f"on this disk its name is that of '{self._fallen[blob.name]}', which differs in upper and lower "
                "case only"
            )
        if self._ahead is None:
            raise ValueError(f"'{name}' was not expected")
        return self._ahead.at_hand(blob.name)

    def stop(self) -> None:
        if self._ahead is not None:
            self._ahead.stop()


def _say_excess(size: int, room: int, limit: int) -> str:
    """That *size* bytes of slides are more than the *room* for them, of which the user set *limit*, and what follows
    from it."""
    place = (
        f"fit the cache ({_in_gb(limit)})"
        if room == limit
        else f"fit the disk of himl's cache ({_in_gb(max(room, 0))} free for them)"
    )
    way_out = f" {VARIABLE}={-(-size // GB)} changes that, where the disk has room." if room == limit else ""
    return (
        f"The slides ({_in_gb(size)}) do not {place}: each is read once, and cells of --layout fit are 4:3, "
        f"whatever the slides' shapes.{way_out}"
    )


def _in_gb(size: int) -> str:
    return f"{size / GB:,.1f} GB" if size >= GB or not size else f"{size / 1e6:,.1f} MB"
