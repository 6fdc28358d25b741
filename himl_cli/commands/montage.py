"""`himl montage`: many slides in one picture.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import (
    MOST_WORKERS,
    OutputOptions,
    WorkspaceOptions,
    option,
    parse_folder,
    parse_list,
    parse_workers,
    split_list,
)
from himl_cli.commands.session import For, open_session, output_session
from himl_cli.core.errors import BadUsage
from himl_cli.core.montage import Backend, ImageFormat, LayoutStyle, MontageRequest, SlideFolder
from himl_cli.core.text import did_you_mean, non_blank

if TYPE_CHECKING:
    from himl_cli.core.events import Notify
    from himl_cli.render.output import Output
    from himl_cli.services.montage.cluster import ClusterMontage
    from himl_cli.services.montage.query import SlideQuery

app = group()

MOST_WIDTH, MOST_DIGITS = 1_000_000, 4
Kind = TypeVar("Kind", bound=Enum)


def _parse_path(option: str, text: str | None) -> Path | None:
    from himl_cli.core.files import expand_home

    return None if non_blank(option, text) is None else expand_home(str(text))


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
    formats = dict.fromkeys(_member(option, name, ImageFormat) for name in names)
    return tuple(formats) or (ImageFormat.png, ImageFormat.jpg)


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


@command(app, "montage")
def montage(
    *,
    dataset: str | None = option("DATASET, as an option.", "DATASET", parse=non_blank, panel="Which slides"),
    image_glob: str | None = option(
        "Files of the folder, e.g. '**/*.tiff' (default: all slides).", "GLOB", parse=non_blank
    ),
    include_by_slide_id: Path | None = option("Only the ids in this file: text or CSV.", "FILE", parse=_parse_path),
    exclude_by_slide_id: Path | None = option("All but the ids in this file.", "FILE", parse=_parse_path),
    datastore: str | None = option("DATASET is a folder or a CSV of this datastore.", "NAME", parse=non_blank),
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
        parse=lambda name, text: _member(name, text, LayoutStyle),
    ),
    image_format: Sequence[ImageFormat] = option(
        "png, jpg, dzi (a zoomable page).  [default: png,jpg]", "F,...", many=True, parse=_parse_formats
    ),
    output_path: Path = option("The folder it goes to.", "DIR", "outputs", parse=parse_folder),
    backend: Backend = option(
        "auto, tifffile, openslide or cucim: what reads slides.",
        "NAME",
        Backend.auto.value,
        parse=lambda name, text: _member(name, text, Backend),
        panel="How",
    ),
    workers: int | None = option(
        f"Threads, 1 to {MOST_WORKERS} (default: one a core).", "N", kind=int | None, parse=parse_workers
    ),
    strict: bool = option("Exit with 1 if a slide could not be read.", default=False),
    cluster: str | None = option(
        "Azure ML compute; absent or 'local': here.", "NAME", parse=non_blank, panel="On a cluster"
    ),
    conda_env: Sequence[str] = option("Conda files of its environment.", "FILE,...", many=True, parse=parse_list),
    private_wheel: str | None = option("A wheel of himl to install there.", "FILE", parse=non_blank),
    shm_size: str | None = option("Shared memory (default: 100g).", "SIZE", parse=non_blank),
    experiment: str | None = option("The experiment (default: montage).", "NAME", parse=non_blank),
    display_name: str | None = option("What Studio calls it.", "NAME", parse=non_blank),
    wait: bool = option("Wait for the job's end.", default=False),
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
    lists = {"--include_by_slide_id": include_by_slide_id, "--exclude_by_slide_id": exclude_by_slide_id}
    if None not in lists.values():
        raise BadUsage(f"{' and '.join(lists)} cannot be used together.", hint="Leave one of them out.")
    name = _dataset_name(named, dataset)
    of_job: dict[str, Any] = {
        "conda_env": conda_env,
        "private_wheel": private_wheel,
        "shm_size": shm_size,
        "experiment": experiment,
        "display_name": display_name,
    }
    if cluster in (None, "local"):
        _check_packages()
        from himl_cli.services.montage.query import SlideQuery
        from himl_cli.services.montage.threads import cores

        ignored = [f"--{key}" for key, value in {**of_job, "wait": wait}.items() if value]
        request = MontageRequest(output_path, width, level, layout, tuple(image_format), backend, workers or cores())
        query = SlideQuery(image_glob, None, include_by_slide_id, exclude_by_slide_id)
        return _montage_here(workspace_opts, output_opts, name, datastore, query, request, strict, ignored)
    from himl_cli.services.montage.cluster import OUTPUT, ClusterMontage
    from himl_cli.services.submission.request import SubmitRequest

    if output_path != Path(OUTPUT):
        raise BadUsage(
            "--output_path is for a montage that is made here; that of a job is among the outputs of its run.",
            hint="Leave it out, and fetch it: himl download RUN --output_dir DIR",
        )
    values = {  # all written out: defaults may be others there
        "width": width,
        "level": "auto" if level is None else level,
        "layout": layout.value,
        "image_format": ",".join(each.value for each in image_format),
        "backend": backend.value,
        "workers": workers,
    }
    options = [f"--{key}={value}" for key, value in values.items() if value is not None]
    job = ClusterMontage(
        job=SubmitRequest(cwd=Path.cwd(), cluster=cluster, **{key: value for key, value in of_job.items() if value}),
        dataset=name,
        image_glob=image_glob,
        options=[*options, "--strict"] if strict else options,
        lists={key: path for key, path in lists.items() if path is not None},
        datastore=datastore,
    )
    _montage_on_cluster(workspace_opts, output_opts, job, wait)


def _dataset_name(argument: str | None, option: str | None) -> str:
    """DATASET, be it an argument or an option. Raises BadUsage where it is neither, or both and they differ."""
    named = {non_blank("DATASET", argument), option} - {None}
    if len(named) > 1:
        raise BadUsage(f"Two datasets at once: '{argument}' and --dataset '{option}'.", hint="Give one of them.")
    if not named:
        raise BadUsage("No dataset was named.", hint="himl montage FOLDER, or himl montage FILE.csv")
    return str(named.pop())


def _check_packages() -> None:
    """Raises BadUsage where packages of the extra `montage` are missing; imports none of them."""
    from importlib.util import find_spec

    from himl_cli.core.installation import install_command

    packages = {  # by module
        "numpy": "numpy",
        "PIL": "pillow",
        "tifffile": "tifffile",
        "imagecodecs": "imagecodecs",
        "openslide": "openslide-python",
        "isal": "isal",
    }
    missing = [package for module, package in packages.items() if find_spec(module) is None]
    if missing:
        are, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise BadUsage(
            f"A montage needs {', '.join(missing)}, which {are} not installed.",
            hint=f"Install {them}: {install_command('montage')}",
        )


def _montage_here(
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    dataset: str,
    datastore: str | None,
    query: SlideQuery,
    request: MontageRequest,
    strict: bool,
    ignored: Sequence[str],
) -> None:
    """Make the montage and print what it is. Raises SlidesFailed, and what listing slides and making a montage
    raise."""
    import logging

    from himl_cli.render.results import print_montage
    from himl_cli.services.montage.compose import make_montage
    from himl_cli.services.montage.files import written_files
    from himl_cli.services.montage.query import list_slides, local_lists

    with _slide_folder(dataset, datastore, workspace_opts, output_opts) as (folder, csv, output, notify):
        if ignored:
            output.notice(f"Passed over, since the montage is made here and not on a cluster: {', '.join(ignored)}.")
        if not output_opts.verbose:  # what tifffile logs names no slide, and himl says it of the slide
            logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
        query = replace(query, csv=csv)
        entries = list_slides(folder, query, notify)
        result = make_montage(request, entries, folder, notify, local_lists(folder, query))
    print_montage(output, result, written_files(result))
    if strict and result.problem is not None:
        raise result.problem


@contextmanager
def _slide_folder(
    dataset: str, datastore: str | None, workspace_opts: WorkspaceOptions, output_opts: OutputOptions
) -> Iterator[tuple[SlideFolder, str | None, Output, Notify]]:
    """Where the slides lie, the name of the CSV that was named (None: a folder was), where to print, and whom to tell
    of progress. A workspace is opened for a datastore only."""
    if datastore is None:
        from himl_cli.core.files import expand_home
        from himl_cli.services.montage.query import local_dataset

        with output_session(output_opts) as (output, notify):
            yield (*local_dataset(expand_home(dataset)), output, notify)
    else:
        from himl_cli.services.montage.stored import cache_limit, open_stored

        with open_session(workspace_opts, output_opts, For.data) as session:
            store, limit = session.workspace.datastore(datastore), cache_limit(session.cwd)
            with open_stored(store, dataset, limit, session.notify) as (folder, csv):
                yield folder, csv, session.output, session.notify


def _montage_on_cluster(
    workspace_opts: WorkspaceOptions, output_opts: OutputOptions, request: ClusterMontage, waits: bool
) -> None:
    """Submit the same command as a job; what was decided for the user is said once it is there, so that an error stands
    alone. Then Ctrl-C ends the waiting only. Raises BadUsage, JobFailed, Interrupted, and what submitting raises."""
    from functools import partial
    from tempfile import TemporaryDirectory

    from himl_cli.commands.submit_job import naming_once_made, wait_or_leave
    from himl_cli.render.progress import observing
    from himl_cli.render.results import print_prepared
    from himl_cli.services.montage.cluster import check_data, prepare_montage
    from himl_cli.services.runs.logs import watching
    from himl_cli.services.submission.prepare import start_and_note
    from himl_cli.workspaces.resolve import azure_for_jobs

    azure_for_jobs(*workspace_opts.names, start=request.job.cwd)  # before anything is looked at
    with TemporaryDirectory(prefix="himl-montage-") as folder:
        job = prepare_montage(request, Path(folder))
        with open_session(workspace_opts, output_opts, For.clusters) as session, naming_once_made() as made:
            check_data(request, session.workspace.datastore)
            with observing(session.output) as notify:  # its bar is gone before anything else is printed
                start = partial(session.jobs.submit, job.spec)
                made.append(start_and_note(start, request.job.cwd, notify))
            with watching(made[0].id):
                print_prepared(session.output, job.remarks, job.report)
            wait_or_leave(session, made[0], waits=waits, follows=False)
