"""Select the slides of a montage: files of a folder, or rows of a CSV with the columns `image` and `slide_id`, and
optionally `label` and `mask`, without those that a list of ids excludes. Local folders."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import replace
from fnmatch import translate
from functools import cache
from glob import escape
from pathlib import Path, PurePosixPath, PureWindowsPath
from posixpath import basename, dirname, join, splitext

from himl_cli.core.errors import BadUsage, DiskFailed, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import LONGEST_GLOB, expand_user, walk_files
from himl_cli.core.records import dataclass
from himl_cli.core.text import did_you_mean, listed, read_text
from himl_cli.services.submission.snapshot import fits
from himl_cli.slides.output_folder import COLUMNS, DZI, FILES, RECORD, TILED_COLUMNS, TILES, TILES_RECORD, plain
from himl_cli.slides.slide_records import HEAD_BYTES, SlideEntry, SlideFolder, SlideUnreadable

DATASET_CSV = "dataset.csv"
EXTENSIONS = (
    *("bif", "czi", "dcm", "mrxs", "ndpi", "scn", "svs", "svslide", "tif", "tiff", "vms", "vmu"),  # OpenSlide's
    *("jpeg", "jpg", "png"),
)
DICOM_EXTENSION, HAMAMATSU_EXTENSIONS = ".dcm", (".vms", ".vmu")
# The UIDs of the study and the series, which are adjacent only outside the sequences of a DICOM file, near its start.
SERIES = re.compile(rb" \0\r\0.{4}[\d.]*\0? \0\x0e\0.{4}([\d.]+)", re.DOTALL)
TILE = re.compile(rf"(?:(?P<folder>.*)/)?{TILES}/\d+/\d+_\d+\.jpg", re.ASCII | re.DOTALL)
SEPARATORS = ",;\t"
REQUIRED, OPTIONAL = ("image", "slide_id"), ("label", "mask")
# A first line in which Excel declares the separator.
DECLARED = re.compile(r'"?sep=([^"\w\s]|\t)"?[ ]*(?=[\r\n])', re.IGNORECASE)
MOST_COLUMNS, LONGEST_NAME = 12, 80
HEADER_HINT = "The header must contain the columns image and slide_id, and may contain label and mask."

INCLUDE, EXCLUDE = "--include_by_slide_id", "--exclude_by_slide_id"
LABELS, ON = "--labels", "--on"
ID_COLUMNS = ("slide_id", "slide id", "slideid", "image_id")
LABEL_IDS = (*ID_COLUMNS, "slide")
LABEL_COLUMNS = ("label", "isup_grade", "category")  # the last ones are those of PANDA and slideflow
HEADERS = {
    *(*ID_COLUMNS, "slide", "slides", "image", "images"),
    *("filename", "file_name", "file name", "file", "path", "name", "id"),
}
LARGEST_LIST = 64 << 20
SHAPE = "The list must be a text with one id per line, or a CSV with a column slide_id."


@dataclass(frozen=True)
class SlideQuery:
    """Selection of slides in a folder.

    `image_glob` is a pattern of names from the root of the folder. With None, every possible slide is selected. `csv`
    is the name of a CSV in the folder. With None, `dataset.csv` is used if it exists and there is no `image_glob`.
    `include` and `exclude`, one of which is None, are local files with ids.
    """

    image_glob: str | None = None
    csv: str | None = None
    include: Path | None = None
    exclude: Path | None = None


class LocalFolder:
    """A local SlideFolder. Absolute names are local files in any folder.

    Bytes of file names that are not UTF-8 are represented as surrogates, as in Python.
    """

    is_rereadable = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.label = f"folder '{folder}'"

    def names(self) -> Iterator[str]:
        """Yield names as `SlideFolder.names`. Links are followed, and loops of links once. The names include broken
        links and special files, but not himl's workspaces (`.himl`) and bookkeeping. Raises NotFound for a missing
        folder, DiskFailed."""
        if not self.folder.is_dir():
            raise NotFound(
                f"There is no folder '{self.folder}'.", hint="Check the path, relative to the current folder."
            )
        try:
            for found in walk_files(str(self.folder), skip_workspaces=True, of_any_kind=True):
                yield found.name
        except OSError as err:
            raise DiskFailed(
                f"Cannot list folder '{Path(err.filename or self.folder)}': {err.strerror}.",
                hint="Give read permission, or use another folder.",
            ) from err

    def has(self, name: str) -> bool:
        return os.path.isfile(self.folder / name)

    def text(self, name: str) -> str:
        path = self.folder / name
        try:
            return decoded(path.read_bytes(), f"'{path}'")
        except FileNotFoundError as err:
            raise NotFound(f"There is no file '{path}'.") from err
        except OSError as err:
            raise DiskFailed(f"Cannot read '{path}': {err.strerror}.") from err

    def head(self, name: str) -> bytes:
        path = self.folder / name
        with suppress(OSError):
            if path.is_file():  # opening a pipe would block
                with path.open("rb") as file:
                    return file.read(HEAD_BYTES)
        return b""

    def version(self, name: str) -> str:
        try:
            found = os.stat(self.folder / name)
        except (OSError, ValueError):  # ValueError: a null byte in the name
            return ""
        return f"{found.st_size} {found.st_mtime_ns}"

    def expect(self, names: Sequence[str]) -> None:
        """Do nothing, because all files are local."""

    def stop(self) -> None:
        """Do nothing, because there is nothing to wait for."""

    @contextmanager
    def local_path(self, name: str) -> Iterator[Path]:
        if not name:
            raise SlideUnreadable("the path of its image is empty")
        yield self.folder / name


def decoded(data: bytes, what: str) -> str:
    """Text of the small UTF-8 file *what*, as `SlideFolder.text`."""
    if data.startswith(b"\x1f\x8b"):
        raise BadUsage(f"{what} is compressed with gzip.", hint="Decompress it first.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise BadUsage(
            f"{what} is not UTF-8 text (byte {err.start}).", hint="Save it as UTF-8. In Excel: 'CSV UTF-8'."
        ) from err


def local_dataset(dataset: Path) -> tuple[LocalFolder, str | None]:
    """Folder of the slides, and the name of the CSV in it, if the user gave one.

    Raises NotFound for a missing path, BadUsage for a slide.
    """
    if dataset.is_dir():
        return LocalFolder(dataset), None
    if not dataset.exists():
        raise NotFound(
            f"There is no folder or CSV '{dataset}'.", hint="Check the path, relative to the current folder."
        )
    if may_be_slide(dataset.name):
        words = shlex.join([str(dataset.parent), "--image_glob", escape(dataset.name)])
        hint = f"To select one slide, use its folder: {words}"
        raise BadUsage(f"'{dataset}' is neither a folder nor a CSV.", hint=hint)
    return LocalFolder(dataset.parent), dataset.name


def list_slides(folder: SlideFolder, query: SlideQuery, notify: Notify) -> list[SlideEntry]:
    """Slides that *query* selects, in the order of the CSV or sorted by name. Never empty.

    Raises BadUsage for an invalid query, list or CSV, or if no slide is left, NotFound if the folder or its CSV is
    missing or has no slides, DiskFailed, and what *folder* raises.
    """
    path, option = (query.exclude, EXCLUDE) if query.include is None else (query.include, INCLUDE)
    ids = None if path is None else read_ids(path, option)  # before the folder is listed
    pattern, csv_name = image_pattern(query.image_glob, query.csv), query.csv
    if pattern is None and csv_name is None and folder.has(DATASET_CSV):
        csv_name = DATASET_CSV
        notify(
            Notice(
                f"Using the slides in {DATASET_CSV} of {folder.label}. To use the files of the folder, add "
                "--image_glob, such as '**/*.tiff'."
            )
        )
    slides = _folder_slides(folder, pattern, notify) if csv_name is None else _table_slides(folder, csv_name, notify)
    if ids is not None:
        slides = _selected(slides, ids, f"{option}: '{path}'", of_folder=csv_name is None)
    counts = Counter(slide.slide_id for slide in slides)
    repeated = [f"{_quoted(slide_id)} ({count:,} times)" for slide_id, count in counts.items() if count > 1]
    if len(repeated) == 1:
        notify(Notice(f"One slide id occurs several times, and all its slides are shown: {repeated[0]}."))
    elif repeated:
        notify(Notice(f"{len(repeated):,} slide ids occur several times, all slides are shown: {listed(repeated)}."))
    return slides


def local_lists(folder: SlideFolder, query: SlideQuery) -> list[Path]:
    """Local files that define the slides of *query*. Call this before *folder* expects files."""
    lists = [each for each in (query.include, query.exclude) if each is not None]
    if query.csv is not None and folder.is_rereadable:
        with folder.local_path(query.csv) as path:
            lists.append(path)
    return lists


class Pattern:
    """A pattern of names with `/` separators, matched from the root like `Path.glob`. `**` matches any number of
    folders, and other wildcards match within a part.

    A leading `/` or `./` is ignored. A final `**` matches every file below. Names that begin with a dot match. On
    Windows, `\\` is a separator, and case is ignored. Raises BadUsage for a pattern that is empty or leaves the folder.
    """

    def __init__(self, text: str, *, windows: bool = sys.platform == "win32") -> None:
        self.text = text
        parts = [part for part in (text.replace("\\", "/") if windows else text).split("/") if part not in ("", ".")]
        if not parts:
            raise BadUsage(
                "--image_glob is empty.", hint="Give a pattern, for example '**/*.tiff', or omit --image_glob."
            )
        if len(text) > LONGEST_GLOB:
            raise BadUsage(f"--image_glob has {len(text):,} characters. The maximum is {LONGEST_GLOB:,}.")
        if ".." in parts:
            raise BadUsage(
                f"--image_glob '{text}' leaves the folder.",
                hint="Patterns are relative to the folder. Use a parent folder instead.",
            )
        case = re.IGNORECASE if windows else 0
        if parts[-1] == "**":
            parts.append("*")
        self._parts = [None if part == "**" else re.compile(translate(part), case) for part in parts]

    def matches(self, name: str) -> bool:
        """Whether the whole *name* matches. The time is bounded by the number of its parts times those of the
        pattern."""
        return fits(self._parts, name.split("/"))


def image_pattern(glob: str | None, csv_name: str | None) -> Pattern | None:
    """Pattern of `--image_glob`, if there is one. Raises BadUsage for an invalid one, or one together with a CSV."""
    if glob is not None and csv_name is not None:
        raise BadUsage(
            f"--image_glob selects files of a folder, but '{csv_name}' is a CSV.",
            hint="Omit --image_glob, or give the folder.",
        )
    return None if glob is None else Pattern(glob)


@cache
def _slide_extensions() -> tuple[str, ...]:
    import tifffile

    return tuple(f".{each}" for each in (*EXTENSIONS, *tifffile.TIFF.FILE_EXTENSIONS))


def may_be_slide(name: str) -> bool:
    """Whether OpenSlide, tifffile or, for plain images, Pillow reads the extension of *name*."""
    return name.lower().endswith(_slide_extensions())


def _quoted(name: str) -> str:
    return f"'{name}'" if len(name) <= LONGEST_NAME else f"'{name[: LONGEST_NAME - 1]}…'"


def _folder_slides(folder: SlideFolder, pattern: Pattern | None, notify: Notify) -> list[SlideEntry]:
    """Files that match *pattern*, including hidden ones. With None, visible files that may be slides. Sorted by name,
    never empty.

    Earlier montages and tiles in the folder, and parts of slides, are omitted, with a notice. Ids are file names, or
    relative paths if file names repeat. `&` appears as `%26` in some mounted datasets. Raises BadUsage if nothing
    matches, NotFound if the folder has no slides.
    """
    every = list(folder.names())
    if pattern is None:
        wanted = [name for name in every if may_be_slide(name) and not name.startswith(".") and "/." not in name]
    else:
        wanted = list(filter(pattern.matches, every))
    records, zooms, tiled = (
        {dirname(name) for name in every if basename(name) == file} for file in (RECORD, DZI, TILES_RECORD)
    )
    names: list[str] = []
    made: list[str] = []
    for name in wanted:
        tile = TILE.fullmatch(name)
        is_file = (basename(name) in FILES and dirname(name) in records) or dirname(name) in tiled
        is_made = is_file or (tile is not None and (tile["folder"] or "") in zooms)
        (made if is_made else names).append(name)
    parts = _parts(folder, names, {*every})
    if parts:
        shown = listed([_quoted(name) for name in parts])
        notify(Notice(f"Omitting files that are parts of other slides (DICOM series, .vms, .mrxs): {shown}."))
        names = [name for name in names if name not in {*parts}]
    if made:
        notify(Notice(f"Omitting files of earlier montages and tiles: {listed([_quoted(name) for name in made])}."))
    count = f"{len(every):,} file{'' if len(every) == 1 else 's'}"
    if not names and pattern is None:
        raise NotFound(
            f"No slides among the {count} in {folder.label}."
            if every
            else f"No slides in {folder.label}, which has no files.",
            hint="Select files with --image_glob.",
        )
    if not names and pattern is not None:
        hint = (
            "The pattern is relative to the folder. For subfolders, use '**/*.tiff'. Quote it to protect it from the "
            "shell."
        )
        what = f"matches no file in {folder.label}, which has {count if every else 'no files'}."
        raise BadUsage(f"--image_glob '{pattern.text}' {what}", hint=hint)
    bases = [basename(name) for name in names]
    ids = bases if len(set(bases)) == len(bases) else names
    return [SlideEntry(each.replace("%26", "&"), name) for each, name in zip(ids, names, strict=True)]


def _parts(folder: SlideFolder, names: Sequence[str], every: AbstractSet[str]) -> list[str]:
    """Those of *names* that are parts of another one: DICOM files after the first of their series, images that a `.vms`
    or `.vmu` lists, and files in the folder of a `.mrxs`. *every* are all files of the folder."""
    parts: set[str] = set()
    series: set[tuple[str, bytes]] = set()
    of_mirax = {splitext(name)[0] for name in names if name.lower().endswith(".mrxs")}
    of_mirax = {each for each in of_mirax if f"{each}/Slidedat.ini" in every}
    for name in names:
        if of_mirax and not of_mirax.isdisjoint(map(str, PurePosixPath(name).parents)):
            parts.add(name)
        elif name.lower().endswith(HAMAMATSU_EXTENSIONS):
            values = [line.partition(b"=")[2].strip() for line in folder.head(name).splitlines()]
            parts |= {join(dirname(name), os.fsdecode(value)) for value in values if value}
        elif name.lower().endswith(DICOM_EXTENSION) or not may_be_slide(name):
            uid = series_of(folder.head(name))
            if uid is not None and (dirname(name), uid) in series:
                parts.add(name)
            elif uid is not None:
                series.add((dirname(name), uid))
    return [name for name in names if name in parts]


def series_of(head: bytes) -> bytes | None:
    """The SeriesInstanceUID of a DICOM file that begins with *head*. None for other files."""
    uid = SERIES.search(head) if head[128:132] == b"DICM" else None
    return None if uid is None else uid[1]


def _table_slides(slides: SlideFolder, name: str, notify: Notify) -> list[SlideEntry]:
    """Slides of the CSV *name*, in its order. Never empty. Images and masks are names in the folder, or absolute paths.

    Values are texts. Rows without an id are named after their images, with a notice. Raises BadUsage for an invalid
    CSV, NotFound, DiskFailed.
    """
    rows = read_table(slides.text(name), name)
    unnamed = [f"line {line}" for line, values, _ in rows if not values[1]]
    if unnamed:
        notify(Notice(f"'{name}': without a slide_id, and named after their images: {listed(unnamed)}."))
    entries = []
    for _, (image, slide_id, label, mask), more in rows:
        image_name, mask_name = (_located(slides, dirname(name), each) for each in (image, mask))
        entries.append(SlideEntry(slide_id or image, image_name, label or None, mask_name or None, more))
    alike: dict[tuple[str, bytes], dict[str, None]] = {}
    for image in dict.fromkeys(entry.image for entry in entries if entry.image.lower().endswith(DICOM_EXTENSION)):
        if uid := series_of(slides.head(image)):
            alike.setdefault((dirname(image), uid), {})[image] = None
    if repeated := [_quoted(each) for files in alike.values() for each in [*files][1:]]:
        notify(Notice(f"'{name}': these files show the slides of earlier lines (DICOM series): {listed(repeated)}."))
    return entries


def read_table(text: str, name: str) -> list[tuple[int, Sequence[str], Mapping[str, str]]]:
    """Rows of a CSV with their line numbers: image, slide_id, label and mask, empty if missing, and the other columns
    by name. Blank lines are skipped. Raises BadUsage."""
    shown, slides = _read_csv(text, name, REQUIRED, HEADER_HINT)
    header = [_column_name(value) for value in shown]
    if tuple(header) in (COLUMNS, TILED_COLUMNS):
        raise BadUsage(
            f"'{name}' describes {'a montage' if tuple(header) == COLUMNS else 'tiles'}, and is not a list of slides.",
            hint="Use the folder of the slides, and this file with --include_by_slide_id.",
        )
    for column in (*REQUIRED, *OPTIONAL):
        if column in REQUIRED and column not in header:
            raise _no_column(name, column, shown, HEADER_HINT)
    _check_rows(name, header, slides)
    places = [header.index(column) if column in header else None for column in (*REQUIRED, *OPTIONAL)]
    others = {title: place for place, title in enumerate(shown) if place not in places}
    return [
        (
            line,
            ["" if place is None else values[place].strip() for place in places],
            {title: values[place].strip() for title, place in others.items() if title},
        )
        for line, values in slides
    ]


def _no_column(name: str, column: str, shown: Sequence[str], hint: str) -> BadUsage:
    more = f" and {len(shown) - MOST_COLUMNS:,} more" if len(shown) > MOST_COLUMNS else ""
    columns = ", ".join(_quoted(each) for each in shown[:MOST_COLUMNS]) + more
    return BadUsage(f"'{name}' has no column '{column}', only {columns}.", hint=hint)


def _read_csv(
    text: str, name: str, wanted: Sequence[str], hint: str
) -> tuple[Sequence[str], list[tuple[int, Sequence[str]]]]:
    """The header of a CSV with some of the *wanted* columns, and the rows below with their line numbers. Raises
    BadUsage, with *hint* for an empty file."""
    if "\0" in text:
        raise BadUsage(f"'{name}' is not a CSV, because it contains NUL bytes.", hint="Save it as 'CSV UTF-8'.")

    def header_of(separator: str) -> Sequence[str]:
        """Fields of the header with this *separator*. Empty if it would be malformed."""
        with suppress(csv.Error):
            return next((values for _, values in _rows(text, separator, False)), ())
        return ()

    def rank(separator: str) -> tuple[int, int]:
        """Order of separators: the number of wanted columns in the header, then the number of its fields."""
        fields = [_column_name(field) for field in header_of(separator)]
        return len({*fields} & {*wanted}), len(fields)

    if declared := DECLARED.match(text):
        text = text[declared.end() :]
    separator = declared[1] if declared else max(SEPARATORS, key=rank)
    # Blanks after separators, as in `image, slide_id`, are not part of the values.
    is_spaced = any(field.startswith(" ") for field in header_of(separator)[1:])
    try:
        rows = list(_rows(text, separator, is_spaced))
    except csv.Error as err:
        line, reason = err.args
        raise BadUsage(
            f"'{name}', line {line}: {reason}.",
            hint="Enclose fields with quotes or separators in double quotes, and double the quotes in them.",
        ) from err
    if not rows:
        raise BadUsage(f"'{name}' is empty.", hint=hint)
    (_, header), *below = rows
    for column, count in Counter(map(_column_name, header)).items():
        if column and count > 1:
            raise BadUsage(f"'{name}' has {count} columns '{column}'.", hint="Rename or remove all but one.")
    return [value.strip().strip('"') for value in header], below


def _check_rows(name: str, header: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]) -> None:
    """Raise BadUsage if there are no *rows*, or one is not as wide as the *header*."""
    wrong = [f"line {line} has {len(values)}" for line, values in rows if len(values) != len(header)]
    if wrong:
        raise BadUsage(
            f"'{name}': the header has {len(header)} field{'' if len(header) == 1 else 's'}, but {listed(wrong)}.",
            hint="Each line must have as many fields as the header.",
        )
    if not rows:
        raise BadUsage(f"'{name}' has no rows below its header.", hint="Add a row for each slide.")


def with_labels(slides: Sequence[SlideEntry], path: Path, on: str | None, notify: Notify) -> list[SlideEntry]:
    """*slides* with the columns of the CSV *path*, whose column *on* has their ids, with or without the extension of a
    file. The first of LABEL_COLUMNS is the label.

    Without *on*, the first of LABEL_IDS is used. *notify* receives the columns unless they are `slide_id` and `label`,
    and the slides without a row. Raises BadUsage for an invalid CSV, a missing column, different rows for one id, or a
    CSV without any of the slides.
    """
    name, hint = str(path), f"Name the column with the ids of slides: {ON} NAME"
    shown, rows = _read_csv(read_text(path, LABELS), name, [_column_name(on)] if on else LABEL_IDS, hint)
    header = [_column_name(value) for value in shown]
    column = next((each for each in ([_column_name(on)] if on else LABEL_IDS) if each in header), None)
    if column is None:
        raise _no_column(name, on or LABEL_IDS[0], shown, hint)
    _check_rows(name, header, rows)
    label = next((each for each in LABEL_COLUMNS if each in header and each != column), None)
    by_id: dict[str, tuple[int, Sequence[str]]] = {}
    for line, values in rows:
        row = [value.strip() for value in values]
        key = row[header.index(column)]
        first, known = by_id.setdefault(key, (line, row))
        if known != row:
            what = f"'{name}', lines {first} and {line}: different rows for {_quoted(key)}."
            raise BadUsage(what, hint="Keep one of them.")
    found, lacking = list[SlideEntry](), list[SlideEntry]()
    for slide in slides:
        keys = [slide.slide_id, plain(slide.slide_id), basename(slide.image)]
        keys += [splitext(key)[0] for key in keys if may_be_slide(key)]
        own = next((by_id[each][1] for each in keys if each in by_id), None)
        if own is None:
            lacking.append(slide)
            found.append(slide)
        else:
            titled = zip(shown, own, strict=True)
            more = {title: value for title, value in titled if title and _column_name(title) not in (column, label)}
            given = own[header.index(label)] if label else slide.label
            found.append(replace(slide, label=given or None, more={**slide.more, **more}))
    if len(lacking) == len(slides):
        near = did_you_mean(slides[0].slide_id, by_id) or f"An id of a slide is {_quoted(slides[0].slide_id)}."
        raise BadUsage(f"{LABELS}: '{name}' has no row for any of the {len(slides):,} slides.", hint=f"{near} {hint}")
    if (column, label) != ("slide_id", "label"):
        what = f"labels are in column '{label}'" if label else f"no column is named {' or '.join(LABEL_COLUMNS)}"
        notify(Notice(f"'{name}': ids of slides are in column '{column}' (see {ON}), {what}."))
    if lacking:
        notify(Notice(f"'{name}' has no row for: {listed([_quoted(each.slide_id) for each in lacking])}."))
    return found


def _column_name(field: str) -> str:
    return field.strip().strip('"').casefold()


def _rows(text: str, separator: str, is_spaced: bool) -> Iterator[tuple[int, Sequence[str]]]:
    """Rows that are not blank, with the number of their first line. Raises csv.Error with the line number and the
    reason."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=is_spaced, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            raise csv.Error(line, str(err)) from err
        if any(value.strip() for value in values):
            yield line, values


def _located(slides: SlideFolder, folder: str, path: str) -> str:
    """Name in *slides* of *path*, relative to the CSV's *folder*. Backslashes are separators, and `~` is the home
    folder, if only that gives a file."""
    if not path or PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute():
        return path
    name = _joined(folder, path)
    if path.startswith("~") and not slides.has(name):
        return expand_user(path)
    if "\\" in path and not slides.has(name) and slides.has(other := _joined(folder, path.replace("\\", "/"))):
        return other
    return name


def _joined(folder: str, path: str) -> str:
    above = folder.split("/") if folder else []
    parts = path.split("/")
    while parts and (parts[0] == "." or (parts[0] == ".." and above)):
        if parts.pop(0) == "..":
            above.pop()
    return "/".join([*above, *parts])


def _selected(slides: Sequence[SlideEntry], ids: Sequence[str], source: str, *, of_folder: bool) -> list[SlideEntry]:
    """*slides* that remain, in order, after the *ids* of *source* (an option and its file).

    Slides of a folder also match by file name or path, with or without the extension. All match names as a montage's
    record escapes them for UTF-8. Raises BadUsage if none remain, and for ids of no slide, since a list of other names
    would exclude nothing.
    """
    excludes = source.startswith(EXCLUDE)
    if not ids and not excludes:
        raise no_ids(source)
    wanted = set(ids)
    known: dict[str, None] = {}
    left = []
    for slide in slides:
        names = [slide.slide_id]
        if of_folder:
            names += [slide.image, basename(slide.image)]
            names += [splitext(name)[0] for name in names if may_be_slide(name)]
        keys = {each.strip(): None for name in names for each in (name, plain(name))}
        known |= keys
        if wanted.isdisjoint(keys) == excludes:
            left.append(slide)
    unknown = [each for each in ids if each not in known]
    if unknown:
        near = did_you_mean(unknown[0], known) or f"An id of a slide is {_quoted(slides[0].slide_id)}."
        what = "no slide has the id" if len(unknown) == 1 else f"no slides have these {len(unknown):,} ids:"
        raise BadUsage(f"{source}: {what} {listed([_quoted(each) for each in unknown])}.", hint=f"{near} {SHAPE}")
    if not left:
        raise BadUsage(f"{source} excludes all {len(slides):,} slides.", hint="Remove some ids from the list.")
    return left


def no_ids(source: str) -> BadUsage:
    """Error for the empty list of ids *source* (an option and its file)."""
    return BadUsage(
        f"{source} has no ids, so that no slides remain.",
        hint=f"{SHAPE} To show all slides, omit {INCLUDE}.",
    )


def read_ids(path: Path, option: str) -> list[str]:
    """Unique ids in the file *path* of *option*, without surrounding blanks.

    Raises BadUsage for a missing file, a file that is not text, or a malformed CSV.
    """
    with suppress(OSError, ValueError):  # reading the file gives a better message
        if path.stat().st_size > LARGEST_LIST:
            what = f"{option}: '{path}' is not a list of ids, because it is larger than {LARGEST_LIST >> 20} MiB."
            raise BadUsage(what, hint=SHAPE)
    text = read_text(path, option)
    if "\0" in text:
        raise BadUsage(f"{option}: '{path}' is not text, because it contains NUL bytes.", hint=SHAPE)
    try:
        return list(dict.fromkeys(filter(None, map(str.strip, parse_ids(text)))))
    except csv.Error as err:
        raise BadUsage(f"{option}: '{path}' is a malformed CSV: {err}.", hint=SHAPE) from err


def parse_ids(text: str) -> Iterator[str]:
    """Ids of a list: its lines, or one column of a CSV. Raises csv.Error.

    A CSV has a header with one of ID_COLUMNS, or one whose first name is in HEADERS. Row numbers, which pandas writes
    below an empty name, may precede it.
    """
    declared = DECLARED.match(text)
    lines = io.StringIO(text[declared.end() :] if declared else text, newline=None).read().split("\n")
    start = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    if start == len(lines):
        return
    separators = declared[1] if declared else SEPARATORS
    separators = separators if len(lines[start]) <= csv.field_size_limit() else ""
    for separator in separators:
        header = next(csv.reader([lines[start]], delimiter=separator, skipinitialspace=True), [])
        names = [name.strip().casefold() for name in header]
        named = next((name for name in ID_COLUMNS if name in names), next(filter(None, names), ""))
        if named in HEADERS:
            break
    else:
        yield from lines[start:]
        return
    column = names.index(named)
    if names.count(named) > 1:
        raise csv.Error(f"it has {names.count(named)} columns '{named}'")
    if len(header) == 1:
        separator = "\ud800"  # decoded text never contains it
    rest = io.StringIO("\n".join(lines[start + 1 :]), newline="")
    for row in csv.reader(rest, delimiter=separator, skipinitialspace=True, strict=True):
        if row and len(row) <= column:
            raise csv.Error(f"the row '{','.join(row)}' has no column {header[column]!r}")
        yield from row[column : column + 1]
