"""`himl tiles`: cut slides into tiles, with a CSV that lists them.

Functions import the services that they use, to keep help fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import (
    Bundle,
    OutputOptions,
    WorkspaceOptions,
    option,
    options_of,
    parse_folder,
)
from himl_cli.core.errors import BadUsage
from himl_cli.core.text import did_you_mean, non_blank, with_and
from himl_cli.render.output import Format
from himl_cli.slides.slide_options import (
    ClusterOptions,
    ReaderOptions,
    SlideOptions,
    check_packages,
    parse_member,
    parse_mpp,
    parse_path,
    run_on_azure,
    slide_folder,
)
from himl_cli.slides.slide_records import (
    ImageFormat,
    MontageRequest,
    SlideEntry,
    SlideFolder,
    SlideUnreadable,
    TileFormat,
    TilesRequest,
    TilesResult,
    TileStore,
)

if TYPE_CHECKING:
    from himl_cli.core.events import Notify

app = group()

LARGEST_TILE, MOST_LEVEL = 8192, 99
FOREGROUNDS = ("saturation", "otsu", "mask")


class TilesForm(str, Enum):
    """The values of --format: those of every command, and the form of the tiles."""

    human = "human"
    json = "json"
    quiet = "quiet"
    files = "files"
    tar = "tar"


class TilesOutputOptions(OutputOptions):
    format = option(
        "Form of the tiles: files, or tar for one tar per slide (default: files). Output: human, json or quiet.",
        "FORMAT",
        TilesForm.human,
        show_default=False,
        panel="Output",
    )

    def validate(self) -> None:
        is_tar = self.format.value == TilesForm.tar.value
        self.store = TileStore.tar if is_tar else TileStore.files
        self.format = Format(self.format.value) if self.format.value in {*Format} else Format.human
        super().validate()


def _parse_foreground(option: str, text: str) -> str:
    """The rule *text*, in any case, with N of `threshold=N` from 0 to 255. Raises BadUsage."""
    rule, _, number = text.strip().lower().partition("=")
    with suppress(ValueError):
        if rule == "threshold" and 0 <= float(number) <= 255:
            return f"threshold={float(number):g}"
    if text.strip().lower() not in FOREGROUNDS:
        hint = (
            f"{did_you_mean(rule, FOREGROUNDS)} It is saturation, otsu, mask or threshold=N, N from 0 to 255.".strip()
        )
        raise BadUsage(f"{option} cannot be '{text}'.", hint=hint)
    return rule


def _parse_count(option: str, count: int) -> int:
    if count < 1:
        raise BadUsage(f"{option} must be a positive integer, not {count}.")
    return count


def _parse_magnification(option: str, magnification: float) -> float:
    if not 0 < magnification < math.inf:
        raise BadUsage(f"{option} must be a positive number, such as 20, not {magnification}.")
    return magnification


def _check_ranges(ranges: Mapping[str, tuple[float, float, float]]) -> None:
    """Raise BadUsage for the first option whose value is not from a least to a greatest number."""
    for name, (value, least, most) in ranges.items():
        if not least <= value <= most:
            raise BadUsage(f"{name} must be a number from {least} to {most:,}, not {value}.")


def _values_of(*bundles: Bundle) -> dict[str, Any]:
    """The options of *bundles* that have a value."""
    values = {name: getattr(bundle, name) for bundle in bundles for name in options_of(type(bundle))}
    return {name: value for name, value in values.items() if value is not None}


class GridOptions(Bundle):
    tile_size: int = option("Width and height of a tile.", "PIXELS", 224, panel="Tiles")
    overlap: int = option("Overlap of adjacent tiles.", "PIXELS", 0)
    level: int | None = option("Level of the slides, 0 the finest.  [default: 0]", "N", kind=int | None)
    mpp: float | None = option(
        "Scale of the tiles, in micrometres per pixel.", "MPP", kind=float | None, parse=parse_mpp
    )
    magnification: float | None = option(
        "Scale of the tiles, as a magnification.", "M", kind=float | None, parse=_parse_magnification
    )
    assume_mpp: float | None = option(
        "Micrometres per pixel of level 0 of slides without a scale.", "MPP", kind=float | None, parse=parse_mpp
    )

    def validate(self) -> None:
        scales = {"--level": self.level, "--mpp": self.mpp, "--magnification": self.magnification}
        given = [name for name, value in scales.items() if value is not None]
        if len(given) > 1:
            raise BadUsage(f"{with_and(given)} cannot be combined.", hint="Use only one of them.")
        if self.assume_mpp is not None and given in ([], ["--level"]):
            raise BadUsage("--assume_mpp has no effect without a scale.", hint="Add --mpp or --magnification.")
        sizes = {"--tile_size": (self.tile_size, 1, LARGEST_TILE), "--overlap": (self.overlap, 0, self.tile_size - 1)}
        _check_ranges({**sizes, "--level": (self.level or 0, 0, MOST_LEVEL)})


class ForegroundOptions(Bundle):
    occupancy: float = option(
        "Minimum share of foreground in a tile, from 0 (all tiles) to 1.", "SHARE", 0.05, panel="Tiles"
    )
    foreground: str | None = option(
        "Foreground: saturation, otsu, threshold=N or mask.  [default: saturation]", "RULE", parse=_parse_foreground
    )
    masks: bool = option("Short for --foreground mask.", default=False)
    mask_threshold: float | None = option(
        "Greatest value of a mask that is background (default: 0; JPEG: 127).", "N", kind=float | None
    )
    mask_tiles: bool = option("Save the mask of each tile beside it.", default=False)
    quality: bool = option("Add the quality of each tile to dataset.csv.", default=False)

    def validate(self) -> None:
        _check_ranges({"--occupancy": (self.occupancy, 0, 1)})
        if self.masks and self.foreground not in (None, "mask"):
            raise BadUsage("--masks and --foreground cannot be combined.", hint="Omit one of them.")
        rule = "mask" if self.masks else self.foreground or "saturation"
        if self.mask_threshold is not None and rule != "mask" and not self.mask_tiles:
            what = f"--mask_threshold is for masks, not for the foreground '{rule}'."
            raise BadUsage(what, hint="Add --masks.")
        self.is_chosen = self.masks or self.foreground is not None
        self.foreground = rule


class JoinedOptions(Bundle):
    regions: Path | None = option(
        "Only tiles in regions of this GeoJSON or XML, or of a folder of them.",
        "PATH",
        parse=parse_path,
        panel="Tiles",
    )
    labels: Path | None = option(
        "CSV with labels and other columns of the slides, for dataset.csv.", "FILE", parse=parse_path
    )
    on: str | None = option(
        "Its column with the ids of slides (default: slide_id, image_id or slide).", "NAME", parse=non_blank
    )

    def validate(self) -> None:
        if self.on is not None and self.labels is None:
            raise BadUsage("--on is a column of --labels.", hint="Add --labels FILE.")
        for name, path in self.files.items():
            if not path.exists():
                raise BadUsage(f"{name}: there is no file or folder '{path}'.", hint="Check the path.")

    @property
    def files(self) -> dict[str, Path]:
        """The local files and folders, by option."""
        files = {"--regions": self.regions, "--labels": self.labels}
        return {name: path for name, path in files.items() if path is not None}


class TileChoiceOptions(Bundle):
    max_tiles: int | None = option(
        "Maximum number of tiles per slide, chosen at random.",
        "N",
        kind=int | None,
        parse=_parse_count,
        panel="Tiles",
    )
    seed: int | None = option("Seed of that choice.  [default: 0]", "N", kind=int | None)

    def validate(self) -> None:
        if self.seed is not None and self.max_tiles is None:
            raise BadUsage("--seed is for the choice of --max_tiles.", hint="Add --max_tiles N.")


@command(app, "tiles")
def tiles(
    *,
    slides: SlideOptions,
    grid: GridOptions,
    tissue: ForegroundOptions,
    joined: JoinedOptions,
    choice: TileChoiceOptions,
    image_format: TileFormat = option(
        "Image format: png or jpg.",
        "F",
        TileFormat.png.value,
        parse=lambda name, text: parse_member(name, text, TileFormat),
        panel="Tiles",
    ),
    overview: bool = option("Save pictures of the slides with tiles marked, and a page of all.", default=False),
    dry_run: bool = option("Only count the tiles and their bytes.", default=False),
    output_path: Path = option("Destination folder.", "DIR", "outputs", parse=parse_folder),
    reader: ReaderOptions,
    job: ClusterOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: TilesOutputOptions,
    dataset: Annotated[
        str,
        typer.Argument(metavar="SLIDES", help="Folder of slides, or CSV that lists them.", show_default=False),
    ],
) -> None:
    """Cut slides into tiles, with a folder per slide and a list in dataset.csv.

    Select SLIDES as for himl montage. dataset.csv has slide_id, tile_id, image, label and occupancy of each tile. It
    also has left, top, right and bottom, in pixels of level 0. himl omits tiles without enough tissue. Tiles are white
    outside the slide. To resume after an interruption, repeat the command. At the end, himl lists slides that failed.

    \b
      himl tiles slides
      himl tiles slides --level 1 --overlap 32 --image_format jpg --overview
      himl tiles slides/dataset.csv --mpp 0.5 --foreground mask
      himl tiles slides --format tar --max_tiles 500
      himl tiles slides --labels labels.csv --on slide_id
      himl tiles slides --mpp 0.5 --dry_run
      himl tiles scans --datastore lab --cluster cpu --private_wheel FILE
    """
    non_blank("SLIDES", dataset)
    if dry_run and not job.is_here:
        raise BadUsage("--dry_run counts tiles on this machine.", hint="Omit --cluster or --dry_run.")
    values = _values_of(grid, tissue, choice)
    del values["masks"]  # a short form of the foreground
    if not job.is_here:
        values |= {"on": joined.on, "image_format": image_format.value, "overview": overview}
        values["format"] = output_opts.store.value
        return run_on_azure(
            workspace_opts,
            output_opts,
            job.job("tiles", dataset, slides, reader, output_path, values, joined.files),
            job.wait,
        )
    check_packages("Cutting tiles needs")
    from himl_cli.slides.query import list_slides, with_labels
    from himl_cli.slides.regions import read_regions
    from himl_cli.slides.slide_views import print_tiles
    from himl_cli.slides.threads import cores

    request = TilesRequest(
        output=output_path,
        **values,
        format=image_format,
        store=output_opts.store,
        overview=overview,
        backend=reader.backend,
        workers=reader.workers or cores(),
        is_dry_run=dry_run,
    )
    with slide_folder(dataset, slides.datastore, job, workspace_opts, output_opts) as (folder, csv, output, notify):
        entries = list_slides(folder, slides.query(csv), notify)
        if joined.labels is not None:
            entries = with_labels(entries, joined.labels, joined.on, notify)
        if joined.regions is not None:
            request = replace(request, regions=read_regions(joined.regions, entries, notify))
        result = _cut(request, entries, folder, notify)
    print_tiles(output, result, request, is_chosen=tissue.is_chosen)
    if reader.strict and result.problem is not None:
        raise result.problem


def _cut(request: TilesRequest, entries: Sequence[SlideEntry], folder: SlideFolder, notify: Notify) -> TilesResult:
    """Cut the slides, and make the page of their overviews. A dry run writes to a temporary folder."""
    from tempfile import TemporaryDirectory

    from himl_cli.slides.cutting import cut_slides

    if request.is_dry_run:
        with TemporaryDirectory(prefix="himl-tiles-") as elsewhere:
            return cut_slides(replace(request, output=Path(elsewhere)), entries, folder, notify)
    result = cut_slides(request, entries, folder, notify)
    if request.overview:
        _write_overview_page(result, request.output, request.workers)
    return result


def _write_overview_page(result: TilesResult, output_path: Path, workers: int) -> None:
    """Combine the overviews of all slides in one page to zoom in. A slide that failed shows its reason."""
    from himl_cli.core.events import ignore
    from himl_cli.slides.compose import make_montage
    from himl_cli.slides.output_folder import OVERVIEW, OVERVIEW_PAGE
    from himl_cli.slides.query import LocalFolder

    names = [f"{slide.folder}/{OVERVIEW}" for slide in result.slides]
    reasons = {name: slide.reason for name, slide in zip(names, result.slides, strict=True) if not slide.is_ok}

    class Overviews(LocalFolder):
        @contextmanager
        def local_path(self, name: str) -> Iterator[Path]:
            if name in reasons:
                raise SlideUnreadable(reasons[name])
            yield self.folder / name

    entries = [SlideEntry(slide.slide_id, name, slide.label) for slide, name in zip(result.slides, names, strict=True)]
    request = MontageRequest(output_path / OVERVIEW_PAGE, level=0, formats=(ImageFormat.dzi,), workers=workers)
    make_montage(request, entries, Overviews(output_path), ignore)


def option_kinds() -> dict[str, str]:
    from himl_cli.commands.completion import choice_of

    return {
        "himl tiles --foreground": choice_of(FOREGROUNDS),
        "himl tiles --image_format": choice_of(TileFormat),
        "himl tiles --format": choice_of(TilesForm),
    }
