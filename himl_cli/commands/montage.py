"""`himl montage`: many slides in one picture.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import OutputOptions, WorkspaceOptions, option, parse_folder, split_list
from himl_cli.commands.slides import (
    ClusterOptions,
    ReaderOptions,
    SlideOptions,
    check_packages,
    parse_member,
    run_on_cluster,
    slide_folder,
)
from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import ImageFormat, LayoutStyle, MontageRequest
from himl_cli.core.text import non_blank

app = group()

MOST_WIDTH, MOST_DIGITS = 1_000_000, 4


def _parse_width(option: str, width: int | None) -> int | None:
    if width is not None and not 1 <= width <= MOST_WIDTH:
        raise BadUsage(f"{option} takes a whole number of pixels from 1 to {MOST_WIDTH:,}, got {width}.")
    return width


def _parse_level(option: str, text: str) -> int | None:
    digits = text.strip()
    if digits.lower() == "auto":
        return None
    is_number = text.isascii() and digits.isdecimal()
    if is_number and len(digits) <= MOST_DIGITS:
        return int(digits)
    too_long = f"has at most {MOST_DIGITS} digits, got {len(digits):,}."
    wrong = too_long if is_number else f"takes a whole number from 0, or 'auto', got '{text}'."
    raise BadUsage(f"{option} {wrong}", hint="0 is the finest level of a slide.")


def _parse_formats(option: str, values: Sequence[str] | None) -> Sequence[ImageFormat]:
    names = split_list(values)
    non_blank(option, None if values is None else ",".join(names))
    formats = dict.fromkeys(parse_member(option, name, ImageFormat) for name in names)
    return tuple(formats) or (ImageFormat.png, ImageFormat.jpg)


@command(app, "montage")
def montage(
    *,
    dataset: str | None = option("DATASET, as an option.", "DATASET", parse=non_blank, panel="Which slides"),
    slides: SlideOptions,
    width: int | None = option(
        "Its width, without hi-ml's lines (default: as the slides need; for hi-ml's layout 60000).",
        "PIXELS",
        kind=int | None,
        parse=_parse_width,
        panel="The picture",
    ),
    level: int | None = option("The slides' level, 0 the finest; auto: by the cells.", "N", "1", parse=_parse_level),
    layout: LayoutStyle = option(
        "fit keeps the slides' shapes, hi-ml stretches them.",
        "HOW",
        LayoutStyle.fit.value,
        parse=lambda name, text: parse_member(name, text, LayoutStyle),
    ),
    image_format: Sequence[ImageFormat] = option(
        "png, jpg, dzi (a zoomable page).  [default: png,jpg]", "F,...", many=True, parse=_parse_formats
    ),
    output_path: Path = option("The folder it goes to.", "DIR", "outputs", parse=parse_folder),
    reader: ReaderOptions,
    job: ClusterOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    named: Annotated[
        str | None,
        typer.Argument(metavar="DATASET", help="A folder of slides, or a CSV that lists them.", show_default=False),
    ] = None,
) -> None:
    """Show any number of slides in one picture: montage.png, montage.jpg, and montage.csv, which tells what lies where.

    Of a folder, its dataset.csv (columns image, slide_id; label and mask if there are any), or else all slides in it
    and in its folders. A slide that cannot be read is named at the end, and leaves a marked cell.

    \b
      himl montage slides
      himl montage slides --width 20000 --image_format jpg,dzi
      himl montage slides/dataset.csv --level auto --output_path overview
      himl montage scans --datastore lab --cluster cpu --private_wheel FILE
    """
    name = _dataset_name(named, dataset)
    if not job.is_here:
        values = {
            "width": width,
            "level": "auto" if level is None else level,
            "layout": layout.value,
            "image_format": ",".join(each.value for each in image_format),
        }
        return run_on_cluster(
            workspace_opts, output_opts, job.job("montage", name, slides, reader, output_path, values), job.wait
        )
    check_packages("A montage needs")
    from himl_cli.render.results import print_montage
    from himl_cli.services.montage.compose import make_montage
    from himl_cli.services.montage.files import written_files
    from himl_cli.services.montage.query import list_slides, local_lists
    from himl_cli.services.montage.threads import cores

    workers = reader.workers or cores()
    request = MontageRequest(output_path, width, level, layout, tuple(image_format), reader.backend, workers)
    with slide_folder(name, slides.datastore, job, workspace_opts, output_opts) as (folder, csv, output, notify):
        query = slides.query(csv)
        entries = list_slides(folder, query, notify)
        result = make_montage(request, entries, folder, notify, local_lists(folder, query))
    print_montage(output, result, written_files(result))
    if reader.strict and result.problem is not None:
        raise result.problem


def _dataset_name(argument: str | None, option: str | None) -> str:
    """DATASET, be it an argument or an option. Raises BadUsage where it is neither, or both and they differ."""
    named = {non_blank("DATASET", argument), option} - {None}
    if len(named) > 1:
        raise BadUsage(f"Two datasets at once: '{argument}' and --dataset '{option}'.", hint="Give one of them.")
    if not named:
        raise BadUsage("No dataset was named.", hint="himl montage FOLDER, or himl montage FILE.csv")
    return str(named.pop())
