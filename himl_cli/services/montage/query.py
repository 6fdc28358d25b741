"""Which slides a montage shows: files of a folder, or lines of a CSV, less those that were left out."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cache
from glob import escape
from pathlib import Path
from posixpath import basename, dirname

from himl_cli.core.blobs import listed
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.montage import SlideEntry
from himl_cli.services.montage.dataset import LocalFolder, SlideFolder
from himl_cli.services.montage.files import DZI, FILES, RECORD, TILES, plain
from himl_cli.services.montage.table import quoted, quoted_list, table_slides
from himl_cli.services.submission.ignore_rules import fits, without_repeats
from himl_cli.services.text_files import read_text

DATASET_CSV = "dataset.csv"
OPENSLIDE_EXTENSIONS = ("bif", "czi", "dcm", "mrxs", "ndpi", "scn", "svs", "svslide", "tif", "tiff", "vms", "vmu")
PLAIN_EXTENSIONS = ("jpeg", "jpg", "png")
ESCAPED_AMPERSAND = "%26"
"""How `&` in file names looks in some mounted datasets."""
_TILE = re.compile(rf"(?:(?P<folder>.*)/)?{TILES}/\d+/\d+_\d+\.jpg", re.ASCII | re.DOTALL)

INCLUDE, EXCLUDE = "--include_by_slide_id", "--exclude_by_slide_id"
HEADERS = {
    *("slide_id", "slide id", "slideid", "slide", "slides", "image_id", "image", "images"),
    *("filename", "file_name", "file name", "file", "path", "name", "id"),
}
IMPOSSIBLE = "\ud800"
"""Separates the fields of a list that has one column: no decoded text holds it."""
LONGEST_HEADER = 100_000
LARGEST = 64 << 20
SHAPE = "It is a text with one id a line, or a CSV whose first column is called slide_id."


@dataclass(frozen=True, slots=True)
class SlideQuery:
    """Which slides of a folder are meant.

    `image_glob`: files whose names match, from the folder's root; None: every file that may be a slide. `csv` is the
    name of a CSV in it; None: its `dataset.csv` if it has one and there is no `image_glob`. `include` and `exclude` are
    files of this machine with ids.
    """

    image_glob: str | None = None
    csv: str | None = None
    include: Path | None = None
    exclude: Path | None = None


def local_dataset(dataset: Path) -> tuple[LocalFolder, str | None]:
    """The folder whose slides are meant, and the name of the CSV in it, if that was named.

    Raises NotFound where there is neither folder nor file, BadUsage for a slide.
    """
    if dataset.is_dir():
        return LocalFolder(dataset), None
    if not dataset.exists():
        raise NotFound(
            f"There is no folder or CSV '{dataset}'.", hint="Check the path; it is relative to the current folder."
        )
    if may_be_slide(dataset.name):
        hint = f"To show one slide: himl montage '{dataset.parent}' --image_glob '{escape(dataset.name)}'"
        raise BadUsage(f"'{dataset}' is neither a folder nor a CSV.", hint=hint)
    return LocalFolder(dataset.parent), dataset.name


def list_slides(folder: SlideFolder, query: SlideQuery, notify: Notify) -> list[SlideEntry]:
    """The slides that *query* means, in the order of the CSV or sorted by name; never empty.

    Raises BadUsage for a query, a list or a CSV that is wrong, or that leaves no slide; NotFound where the folder or
    its CSV is missing, or has no slides; DiskFailed, and what *folder* raises.
    """
    if query.include is not None and query.exclude is not None:
        raise BadUsage(f"{INCLUDE} and {EXCLUDE} cannot be used together.", hint="Leave one of them out.")
    path, option = (query.exclude, EXCLUDE) if query.include is None else (query.include, INCLUDE)
    ids = None if path is None else read_ids(path, option)  # before the folder is looked at
    pattern = None if query.image_glob is None else Pattern(query.image_glob)
    csv_name = query.csv
    if pattern is not None and csv_name is not None:
        raise BadUsage(
            f"--image_glob chooses files of a folder, and '{csv_name}' is a CSV.",
            hint="Leave --image_glob out, or name the folder.",
        )
    if pattern is None and csv_name is None and folder.has(DATASET_CSV):
        csv_name = DATASET_CSV
        notify(
            Notice(
                f"The slides are those of {DATASET_CSV} in {folder.label}; --image_glob '**/*.tiff' would take its "
                "files instead."
            )
        )
    slides = _folder_slides(folder, pattern, notify) if csv_name is None else table_slides(folder, csv_name, notify)
    if ids is not None:
        slides = _selected(slides, ids, f"{option}: '{path}'", notify, of_folder=csv_name is None)
    counts = Counter(slide.slide_id for slide in slides)
    repeated = [f"{quoted(slide_id)} ({count:,} times)" for slide_id, count in counts.items() if count > 1]
    if len(repeated) == 1:
        notify(Notice(f"One slide id stands for several slides, all are shown: {repeated[0]}."))
    elif repeated:
        notify(Notice(f"{len(repeated):,} slide ids stand for several slides each, all are shown: {listed(repeated)}."))
    return slides


def local_lists(folder: SlideFolder, query: SlideQuery) -> list[Path]:
    """The files of this machine that say which slides *query* means. To be called before *folder* expects files."""
    lists = [each for each in (query.include, query.exclude) if each is not None]
    if query.csv is not None and folder.is_rereadable:
        with folder.local_path(query.csv) as path:
            lists.append(path)
    return lists


class Pattern:
    """A pattern of names with `/` separators, matched from the root as `Path.glob` does: `**` is any number of folders,
    other wildcards stay within a part.

    A leading `/` or `./` is dropped. A `**` at the end means every file below. Names that begin with a dot match too.
    On Windows `\\` is a separator too, and upper and lower case are the same.
    """

    def __init__(self, text: str, *, windows: bool = sys.platform == "win32") -> None:
        """Raises BadUsage for a pattern that is empty or leaves the folder."""
        self.text = text
        parts = [part for part in (text.replace("\\", "/") if windows else text).split("/") if part not in ("", ".")]
        if not parts:
            raise BadUsage(
                "--image_glob has no pattern.", hint="Write one such as '**/*.tiff', or leave --image_glob out."
            )
        if ".." in parts:
            raise BadUsage(
                f"--image_glob '{text}' leaves the folder.",
                hint="Patterns are relative to the folder; name the folder above instead.",
            )
        case = re.IGNORECASE if windows else 0
        self._parts = [None if part is None else re.compile(translate(part), case) for part in without_repeats(parts)]

    def matches(self, name: str) -> bool:
        """Whether *name* matches as a whole; the time is bounded by the number of its parts times those of the
        pattern."""
        return fits(self._parts, name.split("/"), lambda part, text: part.match(text) is not None)


@cache
def _slide_extensions() -> tuple[str, ...]:
    """Ends of the names of files that may be slides, with their dots, in lower case."""
    import tifffile

    return tuple(f".{each}" for each in (*OPENSLIDE_EXTENSIONS, *PLAIN_EXTENSIONS, *tifffile.TIFF.FILE_EXTENSIONS))


def may_be_slide(name: str) -> bool:
    """Whether the extension of *name* is one that OpenSlide, tifffile or, for plain pictures, Pillow reads."""
    return name.lower().endswith(_slide_extensions())


def _folder_slides(folder: SlideFolder, pattern: Pattern | None, notify: Notify) -> list[SlideEntry]:
    """The files that match *pattern*, hidden ones too; None: those that may be slides and are not hidden. Sorted by
    name; never empty.

    Earlier montages in the folder are left out, and that is said. Ids are file names, or all are names with their
    folders where file names repeat. Raises BadUsage where nothing matches, NotFound where the folder has no slides.
    """
    every = list(folder.names())
    if pattern is None:
        wanted = [name for name in every if may_be_slide(name) and not name.startswith(".") and "/." not in name]
    else:
        wanted = list(filter(pattern.matches, every))
    made = _made_by_himl(every)
    names = [name for name in wanted if name not in made]
    if len(names) < len(wanted):
        left_out = quoted_list([name for name in wanted if name in made])
        notify(Notice(f"Files of an earlier montage are left out: {left_out}."))
    count = f"has {len(every):,} file{'' if len(every) == 1 else 's'}" if every else "has no files"
    if not names and pattern is None:
        raise NotFound(
            f"No slides in {folder.label}: it {count}{', none of them a slide' if every else ''}.",
            hint="Choose files with --image_glob.",
        )
    if not names and pattern is not None:
        hint = (
            "The pattern is relative to the folder; '**/*.tiff' also looks into subfolders. Quote it, so that the "
            "shell leaves it as it is."
        )
        raise BadUsage(f"--image_glob '{pattern.text}' matches no file in {folder.label}, which {count}.", hint=hint)
    bases = [basename(name) for name in names]
    ids = bases if len(set(bases)) == len(bases) else names
    return [SlideEntry(each.replace(ESCAPED_AMPERSAND, "&"), name) for each, name in zip(ids, names, strict=True)]


def _made_by_himl(names: Sequence[str]) -> set[str]:
    """Those of *names* that belong to a montage: they are called so, and its record lies beside them; of tiles the
    description of their pyramid."""
    folders = {dirname(name) for name in names if basename(name) == RECORD}
    zoomable = {dirname(name) for name in names if basename(name) == DZI}
    return {
        name
        for name in names
        if (basename(name) in FILES and dirname(name) in folders)
        or ((tile := _TILE.fullmatch(name)) is not None and (tile["folder"] or "") in zoomable)
    }


def _selected(
    slides: Sequence[SlideEntry], ids: Sequence[str], source: str, notify: Notify, *, of_folder: bool
) -> list[SlideEntry]:
    """The *slides* that are left, in their order, by the *ids* of *source* (an option and its file). Those of a folder
    also go by file name and by path in it. Raises BadUsage where none is left."""
    option = source.partition(":")[0]
    wanted = set(ids)
    keys = [_keys(slide, of_folder) for slide in slides]
    left = [slide for slide, names in zip(slides, keys, strict=True) if names.isdisjoint(wanted) == (option == EXCLUDE)]
    known: set[str] = set().union(*keys)
    unknown = [each for each in ids if each not in known]
    if not left and option == EXCLUDE:
        raise BadUsage(
            f"{source} excludes every slide, {len(slides):,} in all.", hint="Leave some ids out of the list."
        )
    if not left and not ids:
        raise no_ids(source)
    if not left:
        raise BadUsage(
            f"{source} has the id of no slide; it has {quoted_list(unknown)}.",
            hint=f"{SHAPE} An id of a slide is {quoted(slides[0].slide_id)}.",
        )
    if len(unknown) == 1:
        notify(Notice(f"{option}: no slide has the id {quoted(unknown[0])}."))
    elif unknown:
        notify(Notice(f"{option}: no slide has one of these {len(unknown):,} ids: {quoted_list(unknown)}."))
    return left


def _keys(slide: SlideEntry, of_folder: bool) -> set[str]:
    """What *slide* may be called in a list: also as the record of a montage writes names that UTF-8 cannot say."""
    names = {slide.slide_id, slide.image, basename(slide.image)} if of_folder else {slide.slide_id}
    return {each.strip() for name in names for each in (name, plain(name))}


def no_ids(source: str) -> BadUsage:
    """What is wrong with the list of ids *source* (an option and its file) that is empty."""
    return BadUsage(
        f"{source} has no ids, so that no slide remains.",
        hint=f"{SHAPE} Leave {INCLUDE} out to show all slides.",
    )


def read_ids(path: Path, option: str) -> list[str]:
    """The ids that the file *path* of *option* names, each once, without blanks around them.

    Raises BadUsage for a missing file, one that is no text, or a broken CSV.
    """
    try:
        is_large = path.stat().st_size > LARGEST
    except (OSError, ValueError):
        is_large = False
    if is_large:
        raise BadUsage(f"{option}: '{path}' is no list of ids: it is larger than {LARGEST >> 20} MiB.", hint=SHAPE)
    text = read_text(path, option)
    if "\0" in text:
        raise BadUsage(f"{option}: '{path}' is no text: it has NUL bytes in it.", hint=SHAPE)
    try:
        return list(dict.fromkeys(filter(None, map(str.strip, parse_ids(text)))))
    except csv.Error as err:
        raise BadUsage(f"{option}: '{path}' is a broken CSV: {err}.", hint=SHAPE) from err


def parse_ids(text: str) -> Iterator[str]:
    """Ids as they stand in a list: its lines, or the first column below a known header. Raises csv.Error."""
    lines = io.StringIO(text, newline=None).read().split("\n")
    start = next((number for number, line in enumerate(lines) if line.strip()), len(lines))
    if start == len(lines):
        return
    separator = _separator(lines[start])
    if separator is None:
        yield from lines[start:]
        return
    rest = io.StringIO("\n".join(lines[start + 1 :]), newline="")
    rows = csv.reader(rest, delimiter=separator, skipinitialspace=True, strict=True)
    yield from (row[0] for row in rows if row)


def _separator(line: str) -> str | None:
    """What separates the columns of a CSV with the header *line*; None where its first field is no known header."""
    if len(line) > LONGEST_HEADER:
        return None
    for separator in ",;\t":
        fields = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
        if fields and fields[0].strip().casefold() in HEADERS:
            return separator if len(fields) > 1 else IMPOSSIBLE
    return None
