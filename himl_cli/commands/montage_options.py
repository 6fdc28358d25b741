"""The options of `himl montage`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from himl_cli.commands.options import MOST_WORKERS, Bundle, option, parse_list, parse_workers, split_list
from himl_cli.core.errors import BadUsage
from himl_cli.core.files import expand_home
from himl_cli.core.montage import Backend, ImageFormat, LayoutStyle, MontageRequest
from himl_cli.core.text import did_you_mean, non_blank

MOST_WIDTH = 1_000_000
MOST_DIGITS = 4
Kind = TypeVar("Kind", bound=Enum)

DatasetArg = Annotated[
    str | None,
    typer.Argument(metavar="DATASET", help="A folder of slides, or a CSV that lists them.", show_default=False),
]


def parse_path(option: str, text: str | None) -> Path | None:
    """The path *text*, the value of *option*. Raises BadUsage where it is blank, NotFound for the home folder of
    nobody."""
    return None if non_blank(option, text) is None else expand_home(str(text))


def _parse_width(option: str, width: int | None) -> int | None:
    if width is not None and not 1 <= width <= MOST_WIDTH:
        raise BadUsage(f"{option} takes a whole number of pixels from 1 to {MOST_WIDTH:,}, got {width}.")
    return width


def _parse_level(option: str, text: str) -> int | None:
    digits = text.strip()
    if digits.lower() == "auto":
        return None
    if text.isascii() and digits.isdecimal() and len(digits) <= MOST_DIGITS:
        return int(digits)
    if text.isascii() and digits.isdecimal():
        wrong = f"{option} has at most {MOST_DIGITS} digits, got {len(digits):,}."
    else:
        wrong = f"{option} takes a whole number from 0, or 'auto', got '{text}'."
    raise BadUsage(wrong, hint="0 is the finest level of a slide.")


def _parse_formats(option: str, values: Sequence[str] | None) -> Sequence[ImageFormat]:
    names = split_list(values)
    non_blank(option, None if values is None else ",".join(names))
    formats = dict.fromkeys(_member(option, name, ImageFormat) for name in names)
    return tuple(formats) or (ImageFormat.png, ImageFormat.jpg)


def _parse_output(option: str, text: str) -> Path:
    non_blank(option, text)
    folder = expand_home(text)
    if folder.exists() and not folder.is_dir():
        raise BadUsage(
            f"{option} '{text}' is a file, and no folder.", hint="Name a folder; it is made where it is missing."
        )
    return folder


def _member(option: str, text: str, kind: type[Kind]) -> Kind:
    """The member of *kind* that is called *text*, in any case. Raises BadUsage naming the nearest."""
    known = {str(each.value): each for each in kind}
    found = known.get(text.strip().lower())
    if found is None:
        raise BadUsage(
            f"{option} cannot be '{text}'.",
            hint=f"{did_you_mean(text.lower(), known)} It is one of: {', '.join(known)}.".strip(),
        )
    return found


class SlideOptions(Bundle, panel="Which slides"):
    """Which slides are shown, and where they lie."""

    dataset: str | None = option("DATASET, as an option.", "DATASET", parse=non_blank)
    image_glob: str | None = option(
        "Files of the folder, e.g. '**/*.tiff' (default: all slides).", "GLOB", parse=non_blank
    )
    include_by_slide_id: Path | None = option("Only the ids in this file: text or CSV.", "FILE", parse=parse_path)
    exclude_by_slide_id: Path | None = option("All but the ids in this file.", "FILE", parse=parse_path)
    datastore: str | None = option("DATASET is a folder or a CSV of this datastore.", "NAME", parse=non_blank)

    def validate(self) -> None:
        if self.include_by_slide_id is not None and self.exclude_by_slide_id is not None:
            raise BadUsage(
                "--include_by_slide_id and --exclude_by_slide_id cannot be used together.",
                hint="Leave one of them out.",
            )

    def name(self, argument: str | None) -> str:
        """DATASET, be it an argument or an option. Raises BadUsage where it is neither, or both and they differ."""
        named = {non_blank("DATASET", argument), self.dataset} - {None}
        if len(named) > 1:
            raise BadUsage(
                f"Two datasets at once: '{argument}' and --dataset '{self.dataset}'.", hint="Give one of them."
            )
        if not named:
            raise BadUsage("No dataset was named.", hint="himl montage FOLDER, or himl montage FILE.csv")
        return str(named.pop())


class PictureOptions(Bundle, panel="The picture"):
    """What the picture is to be, and where it goes."""

    width: int | None = option(
        "Its width, without hi-ml's lines (default: as the slides need; for hi-ml's layout 60000).",
        "PIXELS",
        kind=int | None,
        parse=_parse_width,
    )
    level: int | None = option("The slides' level, 0 the finest; auto: by the cells.", "N", "1", parse=_parse_level)
    layout: LayoutStyle = option(
        "fit keeps the slides' shapes, hi-ml stretches them.",
        "HOW",
        LayoutStyle.fit.value,
        parse=lambda name, text: _member(name, text, LayoutStyle),
    )
    image_format: Sequence[ImageFormat] = option(
        "png, jpg, dzi (a zoomable page).  [default: png,jpg]", "F,...", many=True, parse=_parse_formats
    )
    output_path: Path = option("The folder it goes to.", "DIR", "outputs", parse=_parse_output)


class ReadingOptions(Bundle, panel="How"):
    """How slides are read."""

    backend: Backend = option(
        "auto, tifffile, openslide or cucim: what reads slides.",
        "NAME",
        Backend.auto.value,
        parse=lambda name, text: _member(name, text, Backend),
    )
    workers: int | None = option(
        f"Threads, 1 to {MOST_WORKERS} (default: one a core).", "N", kind=int | None, parse=parse_workers
    )
    strict: bool = option("Exit with 1 if a slide could not be read.", default=False)


class ClusterOptions(Bundle, panel="On a cluster"):
    """A montage that is made on Azure ML; but for `cluster`, options that only a job there heeds."""

    cluster: str | None = option("Azure ML compute; absent or 'local': here.", "NAME", parse=non_blank)
    conda_env: Sequence[str] = option("Conda files of its environment.", "FILE,...", many=True, parse=parse_list)
    private_wheel: str | None = option("A wheel of himl to install there.", "FILE", parse=non_blank)
    shm_size: str | None = option("Shared memory (default: 100g).", "SIZE", parse=non_blank)
    experiment: str | None = option("The experiment (default: montage).", "NAME", parse=non_blank)
    display_name: str | None = option("What Studio calls it.", "NAME", parse=non_blank)
    wait: bool = option("Wait for the job's end.", default=False)


def montage_request(picture: PictureOptions, reading: ReadingOptions) -> MontageRequest:
    """The montage that the options ask for."""
    from himl_cli.services.montage.threads import cores

    return MontageRequest(
        picture.output_path,
        picture.width,
        picture.level,
        picture.layout,
        tuple(picture.image_format),
        reading.backend,
        reading.workers or cores(),
    )
