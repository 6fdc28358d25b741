"""Listing the slides that were asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.blobs import listed
from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice, Notify
from himl_cli.core.montage import SlideEntry
from himl_cli.services.montage.listing.folder import folder_slides
from himl_cli.services.montage.listing.id_lists import Restriction
from himl_cli.services.montage.listing.naming import quoted
from himl_cli.services.montage.listing.patterns import Pattern
from himl_cli.services.montage.listing.table import table_slides
from himl_cli.services.montage.places import SlidePlace

DATASET_CSV = "dataset.csv"


@dataclass(frozen=True, slots=True)
class SlideQuery:
    """Which slides of a place are meant.

    `image_glob`: files whose names match, from the place's root; None: every file that may be a slide. `csv` is the
    name of a CSV in the place; None: its `dataset.csv` if it has one and there is no `image_glob`. `include` and
    `exclude` are files of this machine with ids.
    """

    image_glob: str | None = None
    csv: str | None = None
    include: Path | None = None
    exclude: Path | None = None


def list_slides(place: SlidePlace, query: SlideQuery, notify: Notify) -> list[SlideEntry]:
    """The slides that *query* means, in the order of the CSV or sorted by name; never empty.

    Raises BadUsage for a query, a list or a CSV that is wrong, or that leaves no slide; NotFound where the place or its
    CSV is missing, or has no slides; DiskFailed, and what the place raises.
    """
    restriction = Restriction.read(query.include, query.exclude)
    pattern = None if query.image_glob is None else Pattern(query.image_glob)
    csv = _csv_of(place, query, notify)
    if csv is None:
        slides = restriction.applied(folder_slides(place, pattern, notify), notify, of_folder=True)
    else:
        slides = restriction.applied(table_slides(place, csv, notify), notify, of_folder=False)
    _say_repeated(slides, notify)
    return slides


def lists_here(place: SlidePlace, query: SlideQuery) -> list[Path]:
    """The files of this machine that say which slides *query* means. To be called before *place* expects files."""
    lists = [each for each in (query.include, query.exclude) if each is not None]
    if query.csv is not None and place.is_read_twice:
        with place.at_hand(query.csv) as path:
            lists.append(path)
    return lists


def _csv_of(place: SlidePlace, query: SlideQuery, notify: Notify) -> str | None:
    if query.csv is not None and query.image_glob is not None:
        raise BadUsage(
            f"--image_glob chooses files of a folder, and '{query.csv}' is a CSV.",
            hint="Leave --image_glob out, or name the folder.",
        )
    if query.csv is not None or query.image_glob is not None or not place.has(DATASET_CSV):
        return query.csv
    notify(
        Notice(
            f"The slides are those of {DATASET_CSV} in {place.label}; --image_glob '**/*.tiff' would take its files "
            "instead."
        )
    )
    return DATASET_CSV


def _say_repeated(slides: list[SlideEntry], notify: Notify) -> None:
    repeated = [
        f"{quoted(slide_id)} ({count:,} times)"
        for slide_id, count in Counter(slide.slide_id for slide in slides).items()
        if count > 1
    ]
    if len(repeated) == 1:
        notify(Notice(f"One slide id stands for several slides, all are shown: {repeated[0]}."))
    elif repeated:
        notify(Notice(f"{len(repeated):,} slide ids stand for several slides each, all are shown: {listed(repeated)}."))
