"""`himl montage`: combine many slides into one picture.

Functions import the services that they use, to keep help fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import OutputOptions, WorkspaceOptions, option, parse_folder, parse_list
from himl_cli.core.errors import BadUsage
from himl_cli.core.text import non_blank
from himl_cli.slides.slide_options import (
    ClusterOptions,
    ReaderOptions,
    SlideOptions,
    check_packages,
    parse_member,
    parse_mpp,
    run_on_azure,
    slide_folder,
)
from himl_cli.slides.slide_records import Backend, ImageFormat, LayoutStyle, MontageRequest

app = group()

MOST_WIDTH, MOST_DIGITS = 1_000_000, 4


def _parse_width(option: str, width: int) -> int:
    if not 1 <= width <= MOST_WIDTH:
        raise BadUsage(f"{option} must be a number of pixels from 1 to {MOST_WIDTH:,}, not {width}.")
    return width


def _parse_level(option: str, text: str) -> int | None:
    digits = text.strip()
    if digits.lower() == "auto":
        return None
    is_number = text.isascii() and digits.isdecimal()
    if is_number and len(digits) <= MOST_DIGITS:
        return int(digits)
    too_long = f"must have at most {MOST_DIGITS} digits, not {len(digits):,}."
    wrong = too_long if is_number else f"must be an integer from 0, or 'auto', not '{text}'."
    raise BadUsage(f"{option} {wrong}", hint="Level 0 is the finest level of a slide.")


def _parse_formats(option: str, values: Sequence[str] | None) -> Sequence[ImageFormat]:
    formats = dict.fromkeys(parse_member(option, name, ImageFormat) for name in parse_list(option, values))
    return tuple(formats) or (ImageFormat.png, ImageFormat.jpg)


@command(app, "montage")
def montage(
    *,
    dataset: str | None = option("DATASET, as an option.", "DATASET", parse=non_blank, panel="Slides"),
    slides: SlideOptions,
    width: int | None = option(
        "Width without hi-ml's lines (default: by the slides; hi-ml layout: 60000).",
        "PIXELS",
        kind=int | None,
        parse=_parse_width,
        panel="Picture",
    ),
    level: int | None = option("Level of the slides, 0 the finest, or auto.", "N", "1", parse=_parse_level),
    mpp: float | None = option(
        "Scale of all slides, in micrometres per pixel.", "MPP", kind=float | None, parse=parse_mpp
    ),
    assume_mpp: float | None = option(
        "Micrometres per pixel of level 0 of slides without a scale.", "MPP", kind=float | None, parse=parse_mpp
    ),
    layout: LayoutStyle = option(
        "fit keeps the slides' shapes, hi-ml stretches them.",
        "HOW",
        LayoutStyle.fit.value,
        parse=lambda name, text: parse_member(name, text, LayoutStyle),
    ),
    image_format: Sequence[ImageFormat] = option(
        "png, jpg, dzi (a zoomable page).  [default: png,jpg]", "F,...", many=True, parse=_parse_formats
    ),
    output_path: Path = option("Destination folder.", "DIR", "outputs", parse=parse_folder),
    reader: ReaderOptions,
    job: ClusterOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    named: Annotated[
        str | None,
        typer.Argument(metavar="DATASET", help="Folder of slides, or CSV that lists them.", show_default=False),
    ] = None,
) -> None:
    """Combine slides into one picture.

    himl writes montage.png, montage.jpg and montage.csv, which lists positions. For a folder, himl reads its
    dataset.csv. The columns are image and slide_id, and optionally label and mask. Without the file, himl uses all
    slides in the folder and its subfolders. Unreadable slides leave a marked cell, and himl lists them at the end.

    \b
      himl montage slides
      himl montage slides --width 20000 --image_format jpg,dzi
      himl montage slides/dataset.csv --level auto --output_path overview
      himl montage slides --mpp 8
      himl montage scans --datastore lab --cluster cpu --private_wheel FILE
    """
    name = _dataset_name(named, dataset)
    _check_scale(mpp, assume_mpp, width, level, layout)
    if not job.is_here:
        values = {
            "width": width,
            "level": None if mpp is not None else "auto" if level is None else level,
            "mpp": mpp,
            "assume_mpp": assume_mpp,
            "layout": layout.value,
            "image_format": ",".join(each.value for each in image_format),
        }
        return run_on_azure(
            workspace_opts, output_opts, job.job("montage", name, slides, reader, output_path, values), job.wait
        )
    check_packages("A montage needs")
    from himl_cli.slides.compose import make_montage
    from himl_cli.slides.output_folder import written_files
    from himl_cli.slides.query import list_slides, local_lists
    from himl_cli.slides.slide_views import print_montage
    from himl_cli.slides.threads import cores

    workers = reader.workers or cores()
    request = MontageRequest(
        output_path,
        width,
        level if mpp is None else None,
        layout,
        tuple(image_format),
        reader.backend,
        workers,
        mpp,
        assume_mpp,
    )
    with slide_folder(name, slides.datastore, job, workspace_opts, output_opts) as (folder, csv, output, notify):
        query = slides.query(csv)
        entries = list_slides(folder, query, notify)
        result = make_montage(request, entries, folder, notify, local_lists(folder, query))
    print_montage(output, result, written_files(result))
    if reader.strict and result.problem is not None:
        raise result.problem


def _check_scale(
    mpp: float | None, assume_mpp: float | None, width: int | None, level: int | None, layout: LayoutStyle
) -> None:
    """Raise BadUsage for options that a scale determines, and for --assume_mpp without one."""
    if mpp is None and assume_mpp is not None:
        raise BadUsage("--assume_mpp has no effect without a scale.", hint="Add --mpp.")
    given = {"--width": width is not None, "--level": level != 1, "--layout hi-ml": layout is LayoutStyle.himl}
    wrong = next((name for name, is_given in given.items() if is_given), None)
    if mpp is not None and wrong is not None:
        raise BadUsage(f"--mpp and {wrong} cannot be combined, because the scale sets it.", hint="Omit one of them.")


def _dataset_name(argument: str | None, option: str | None) -> str:
    """DATASET, from the argument or the option. Raises BadUsage if both are missing, or differ."""
    named = {non_blank("DATASET", argument), option} - {None}
    if len(named) > 1:
        raise BadUsage(f"DATASET '{argument}' and --dataset '{option}' differ.", hint="Use only one of them.")
    if not named:
        raise BadUsage("DATASET is missing.", hint="himl montage FOLDER, or himl montage FILE.csv")
    return str(named.pop())


def option_kinds() -> dict[str, str]:
    from himl_cli.commands.completion import choice_of

    return {
        "--backend": choice_of(Backend),
        "--image_format": f"list+{choice_of(ImageFormat)}",
        "--layout": choice_of(LayoutStyle),
    }


def check_settings(folder: Path) -> None:
    from himl_cli.slides.stored import cache_limit

    cache_limit(folder)
