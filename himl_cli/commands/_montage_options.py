"""The options of `himl montage`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from himl_cli.commands.options import MOST_WORKERS, Bundle, checked_workers, split_list
from himl_cli.core.errors import BadUsage
from himl_cli.core.files import expand_home
from himl_cli.core.montage import Backend, ImageFormat, LayoutStyle, MontageRequest
from himl_cli.core.text import did_you_mean, non_blank

SLIDES, PICTURE, HOW, CLUSTER = "Which slides", "The picture", "How", "On a cluster"
MOST_WIDTH = 1_000_000
MOST_DIGITS = 4
DEFAULT_FORMATS = (ImageFormat.png, ImageFormat.jpg)
Kind = TypeVar("Kind", bound=Enum)
Text = str | None

DatasetArg = Annotated[
    str | None,
    typer.Argument(metavar="DATASET", help="A folder of slides, or a CSV that lists them.", show_default=False),
]


class SlideOptions(Bundle):
    """Which slides are shown, and where they lie."""

    def __init__(
        self,
        dataset: Annotated[
            Text, typer.Option("--dataset", metavar="DATASET", help="DATASET, as an option.", rich_help_panel=SLIDES)
        ] = None,
        image_glob: Annotated[
            Text,
            typer.Option(
                "--image_glob",
                metavar="GLOB",
                help="Files of the folder, e.g. '**/*.tiff' (default: all slides).",
                rich_help_panel=SLIDES,
            ),
        ] = None,
        include_by_slide_id: Annotated[
            Text,
            typer.Option(
                "--include_by_slide_id",
                metavar="FILE",
                help="Only the ids in this file: text or CSV.",
                rich_help_panel=SLIDES,
            ),
        ] = None,
        exclude_by_slide_id: Annotated[
            Text,
            typer.Option(
                "--exclude_by_slide_id", metavar="FILE", help="All but the ids in this file.", rich_help_panel=SLIDES
            ),
        ] = None,
        datastore: Annotated[
            Text,
            typer.Option(
                "--datastore",
                metavar="NAME",
                help="DATASET is a folder or a CSV of this datastore.",
                rich_help_panel=SLIDES,
            ),
        ] = None,
    ) -> None:
        if include_by_slide_id is not None and exclude_by_slide_id is not None:
            raise BadUsage(
                "--include_by_slide_id and --exclude_by_slide_id cannot be used together.",
                hint="Leave one of them out.",
            )
        self._dataset = non_blank("--dataset", dataset)
        self.image_glob = non_blank("--image_glob", image_glob)
        self.include = None if include_by_slide_id is None else path_of("--include_by_slide_id", include_by_slide_id)
        self.exclude = None if exclude_by_slide_id is None else path_of("--exclude_by_slide_id", exclude_by_slide_id)
        self.datastore = non_blank("--datastore", datastore)

    def dataset(self, argument: str | None) -> str:
        """DATASET, be it an argument or an option. Raises BadUsage where it is neither, or both and they differ."""
        named = {non_blank("DATASET", argument), self._dataset} - {None}
        if len(named) > 1:
            raise BadUsage(
                f"Two datasets at once: '{argument}' and --dataset '{self._dataset}'.", hint="Give one of them."
            )
        if not named:
            raise BadUsage("No dataset was named.", hint="himl montage FOLDER, or himl montage FILE.csv")
        return str(named.pop())


class PictureOptions(Bundle):
    """What the picture is to be, and where it goes."""

    def __init__(
        self,
        width: Annotated[
            int | None,
            typer.Option(
                "--width",
                metavar="PIXELS",
                help="Its width, without hi-ml's lines (default: as the slides need; for hi-ml's layout 60000).",
                rich_help_panel=PICTURE,
            ),
        ] = None,
        level: Annotated[
            str,
            typer.Option(
                "--level",
                metavar="N",
                help="The slides' level, 0 the finest; auto: by the cells.",
                rich_help_panel=PICTURE,
            ),
        ] = "1",
        layout: Annotated[
            str,
            typer.Option(
                "--layout",
                metavar="HOW",
                help="fit keeps the slides' shapes, hi-ml stretches them.",
                rich_help_panel=PICTURE,
            ),
        ] = LayoutStyle.fit.value,
        image_format: Annotated[
            list[str] | None,
            typer.Option(
                "--image_format",
                metavar="F,...",
                help="png, jpg, dzi (a zoomable page).  [default: png,jpg]",
                rich_help_panel=PICTURE,
            ),
        ] = None,
        output_path: Annotated[
            str, typer.Option("--output_path", metavar="DIR", help="The folder it goes to.", rich_help_panel=PICTURE)
        ] = "outputs",
    ) -> None:
        if width is not None and not 1 <= width <= MOST_WIDTH:
            raise BadUsage(f"--width takes a whole number of pixels from 1 to {MOST_WIDTH:,}, got {width}.")
        self.width = width
        self.level = _level(level)
        self.layout = _choice("--layout", layout, LayoutStyle)
        self.formats = _formats(image_format)
        self.output = path_of("--output_path", output_path)
        if self.output.exists() and not self.output.is_dir():
            raise BadUsage(
                f"--output_path '{output_path}' is a file, and no folder.",
                hint="Name a folder; it is made where it is missing.",
            )


class HowOptions(Bundle):
    """How slides are read."""

    def __init__(
        self,
        backend: Annotated[
            str,
            typer.Option(
                "--backend",
                metavar="NAME",
                help="auto, tifffile, openslide or cucim: what reads slides.",
                rich_help_panel=HOW,
            ),
        ] = Backend.auto.value,
        workers: Annotated[
            int | None,
            typer.Option(
                "--workers",
                metavar="N",
                help=f"Threads, 1 to {MOST_WORKERS} (default: one a core).",
                rich_help_panel=HOW,
            ),
        ] = None,
        strict: Annotated[
            bool, typer.Option("--strict", help="Exit with 1 if a slide could not be read.", rich_help_panel=HOW)
        ] = False,
    ) -> None:
        self.backend = _choice("--backend", backend, Backend)
        self.workers = None if workers is None else checked_workers(workers)
        self.strict = strict


class ClusterOptions(Bundle):
    """A montage that is made on Azure ML."""

    def __init__(
        self,
        cluster: Annotated[
            Text,
            typer.Option(
                "--cluster", metavar="NAME", help="Azure ML compute; absent or 'local': here.", rich_help_panel=CLUSTER
            ),
        ] = None,
        conda_env: Annotated[
            list[str] | None,
            typer.Option(
                "--conda_env", metavar="FILE,...", help="Conda files of its environment.", rich_help_panel=CLUSTER
            ),
        ] = None,
        private_wheel: Annotated[
            Text,
            typer.Option(
                "--private_wheel", metavar="FILE", help="A wheel of himl to install there.", rich_help_panel=CLUSTER
            ),
        ] = None,
        shm_size: Annotated[
            Text,
            typer.Option("--shm_size", metavar="SIZE", help="Shared memory (default: 100g).", rich_help_panel=CLUSTER),
        ] = None,
        experiment: Annotated[
            Text,
            typer.Option(
                "--experiment", metavar="NAME", help="The experiment (default: montage).", rich_help_panel=CLUSTER
            ),
        ] = None,
        display_name: Annotated[
            Text, typer.Option("--display_name", metavar="NAME", help="What Studio calls it.", rich_help_panel=CLUSTER)
        ] = None,
        wait: Annotated[bool, typer.Option("--wait", help="Wait for the job's end.", rich_help_panel=CLUSTER)] = False,
    ) -> None:
        cluster = non_blank("--cluster", cluster)
        self.cluster = None if cluster == "local" else cluster
        self.conda_env = tuple(split_list(conda_env))
        self.private_wheel = non_blank("--private_wheel", private_wheel)
        self.shm_size = non_blank("--shm_size", shm_size)
        self.experiment = non_blank("--experiment", experiment)
        self.display_name = non_blank("--display_name", display_name)
        self.wait = wait

    @property
    def given(self) -> Sequence[str]:
        """The options that only a job on a cluster heeds, of those that were given."""
        values: dict[str, object] = {
            "conda_env": self.conda_env,
            "private_wheel": self.private_wheel,
            "shm_size": self.shm_size,
            "experiment": self.experiment,
            "display_name": self.display_name,
            "wait": self.wait,
        }
        return [f"--{name}" for name, value in values.items() if value]


def montage_request(picture: PictureOptions, how: HowOptions) -> MontageRequest:
    """The montage that the options ask for."""
    from himl_cli.services.montage.threads import cores

    return MontageRequest(
        picture.output,
        picture.width,
        picture.level,
        picture.layout,
        picture.formats,
        how.backend,
        how.workers or cores(),
    )


def _level(text: str) -> int | None:
    if text.strip().lower() == "auto":
        return None
    if not (text.isascii() and text.strip().isdecimal()):
        raise BadUsage(
            f"--level takes a whole number from 0, or 'auto', got '{text}'.", hint="0 is the finest level of a slide."
        )
    if len(text.strip()) > MOST_DIGITS:
        raise BadUsage(
            f"--level has at most {MOST_DIGITS} digits, got {len(text.strip()):,}.",
            hint="0 is the finest level of a slide.",
        )
    return int(text)


def _formats(values: list[str] | None) -> tuple[ImageFormat, ...]:
    if values is None:
        return DEFAULT_FORMATS
    names = split_list(values)
    non_blank("--image_format", ",".join(names))
    return tuple(dict.fromkeys(_choice("--image_format", name, ImageFormat) for name in names))


def _choice(option: str, text: str, kind: type[Kind]) -> Kind:
    """The member of *kind* that is called *text*, in any case. Raises BadUsage naming the nearest."""
    known = {str(each.value): each for each in kind}
    found = known.get(text.strip().lower())
    if found is None:
        raise BadUsage(
            f"{option} cannot be '{text}'.",
            hint=f"{did_you_mean(text.lower(), known)} It is one of: {', '.join(known)}.".strip(),
        )
    return found


def path_of(option: str, text: str) -> Path:
    """The path *text*, the value of *option*. Raises BadUsage where it is blank, NotFound for the home folder of
    nobody."""
    non_blank(option, text)
    return expand_home(text)
