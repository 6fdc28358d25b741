"""`himl montage`: many slides in one picture.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.commands.groups import command, group
from himl_cli.commands.montage_options import (
    ClusterOptions,
    DatasetArg,
    PictureOptions,
    ReadingOptions,
    SlideOptions,
    montage_request,
)
from himl_cli.commands.options import OutputOptions, WorkspaceOptions
from himl_cli.commands.session import For, open_session, output_session
from himl_cli.core.errors import BadUsage
from himl_cli.core.files import expand_home

if TYPE_CHECKING:
    from himl_cli.core.events import Notify
    from himl_cli.render.output import Output
    from himl_cli.services.montage.dataset import SlideFolder

app = group()

PACKAGES = {
    "numpy": "numpy",
    "PIL": "pillow",
    "tifffile": "tifffile",
    "imagecodecs": "imagecodecs",
    "openslide": "openslide-python",
    "isal": "isal",
}
"""The modules that montages are made with, and the packages that hold them."""


@command(app, "montage")
def montage(
    slides: SlideOptions,
    picture: PictureOptions,
    reading: ReadingOptions,
    cluster: ClusterOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    named: DatasetArg = None,
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
    dataset = slides.name(named)
    if cluster.cluster in (None, "local"):
        _montage_here(workspace_opts, output_opts, dataset, slides, picture, reading, cluster)
    else:
        _montage_on_cluster(workspace_opts, output_opts, dataset, slides, picture, reading, cluster)


def _montage_here(
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    dataset: str,
    slides: SlideOptions,
    picture: PictureOptions,
    reading: ReadingOptions,
    cluster: ClusterOptions,
) -> None:
    """Make the montage and print what it is. Raises SlidesFailed, BadUsage where packages of the extra `montage` are
    missing, and what listing slides and making a montage raise."""
    from importlib.util import find_spec

    from himl_cli.core.installation import install_command
    from himl_cli.render.montage import print_montage

    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]  # imports none of them
    if missing:
        are, them = ("is", "it") if len(missing) == 1 else ("are", "them")
        raise BadUsage(
            f"A montage needs {', '.join(missing)}, which {are} not installed.",
            hint=f"Install {them}: {install_command('montage')}",
        )
    request = montage_request(picture, reading)
    with _slide_folder(dataset, slides, workspace_opts, output_opts) as (folder, csv, output, notify):
        from himl_cli.services.montage.compose import make_montage
        from himl_cli.services.montage.files import written_files
        from himl_cli.services.montage.query import SlideQuery, list_slides, local_lists

        ignored = [f"--{name}" for name, value in vars(cluster).items() if value and name != "cluster"]
        if ignored:
            output.notice(f"Passed over, since the montage is made here and not on a cluster: {', '.join(ignored)}.")
        query = SlideQuery(slides.image_glob, csv, slides.include_by_slide_id, slides.exclude_by_slide_id)
        if not output_opts.verbose:  # what tifffile logs names no slide, and himl says it of the slide
            logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
        entries = list_slides(folder, query, notify)
        result = make_montage(request, entries, folder, notify, local_lists(folder, query))
    print_montage(output, result, written_files(result))
    if reading.strict and result.problem is not None:
        raise result.problem


@contextmanager
def _slide_folder(
    dataset: str, slides: SlideOptions, workspace_opts: WorkspaceOptions, output_opts: OutputOptions
) -> Iterator[tuple[SlideFolder, str | None, Output, Notify]]:
    """Where the slides lie, the name of the CSV that was named (None: a folder was), where to print, and whom to tell
    of progress. A workspace is opened for a datastore only."""
    if slides.datastore is None:
        from himl_cli.services.montage.query import local_dataset

        with output_session(output_opts) as (output, notify):
            yield (*local_dataset(expand_home(dataset)), output, notify)
    else:
        from himl_cli.services.montage.dataset import open_stored
        from himl_cli.services.montage.slide_cache import cache_limit

        with open_session(workspace_opts, output_opts, For.data) as session:
            store, limit = session.workspace.datastore(slides.datastore), cache_limit(session.cwd)
            with open_stored(store, dataset, limit, session.notify) as (folder, csv):
                yield folder, csv, session.output, session.notify


def _montage_on_cluster(
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    dataset: str,
    slides: SlideOptions,
    picture: PictureOptions,
    reading: ReadingOptions,
    cluster: ClusterOptions,
) -> None:
    """Submit the same command as a job; what was decided for the user is said once it is there, so that an error stands
    alone. Then Ctrl-C ends the waiting only. Raises BadUsage, JobFailed, Interrupted, and what submitting raises."""
    from tempfile import TemporaryDirectory

    from himl_cli.commands.submit_job import naming_once_made, wait_or_leave
    from himl_cli.render.job_output import print_prepared
    from himl_cli.render.progress import observing
    from himl_cli.services.montage.cluster import OUTPUT, ClusterMontage, check_data, prepare_montage
    from himl_cli.services.runs.logs import watching
    from himl_cli.services.submission.prepare import submit_job
    from himl_cli.services.submission.request import SubmitRequest
    from himl_cli.workspaces.resolve import azure_for_jobs

    cwd = Path.cwd()
    if picture.output_path != Path(OUTPUT):
        raise BadUsage(
            "--output_path is for a montage that is made here; that of a job is among the outputs of its run.",
            hint="Leave it out, and fetch it: himl download RUN --output_dir DIR",
        )
    values = {  # all written out: defaults may be others there
        "width": picture.width,
        "level": "auto" if picture.level is None else picture.level,
        "layout": picture.layout.value,
        "image_format": ",".join(each.value for each in picture.image_format),
        "backend": reading.backend.value,
        "workers": reading.workers,
    }
    options = [f"--{name}={value}" for name, value in values.items() if value is not None]
    lists = {f"--{name}": getattr(slides, name) for name in ("include_by_slide_id", "exclude_by_slide_id")}
    job_options = {name: value for name, value in vars(cluster).items() if value and name != "wait"}
    request = ClusterMontage(
        job=SubmitRequest(cwd=cwd, **job_options),
        dataset=dataset,
        image_glob=slides.image_glob,
        options=[*options, "--strict"] if reading.strict else options,
        lists={option: path for option, path in lists.items() if path is not None},
        datastore=slides.datastore,
    )
    azure_for_jobs(workspace_opts.workspace, workspace_opts.config_file, start=cwd)  # before anything is looked at
    with TemporaryDirectory(prefix="himl-montage-") as folder:
        job = prepare_montage(request, Path(folder))
        with open_session(workspace_opts, output_opts, For.clusters) as session, naming_once_made() as made:
            check_data(request, session.workspace.datastore)
            with observing(session.output) as notify:  # its bar is gone before anything else is printed
                made.append(submit_job(session.jobs, job, cwd, notify))
            with watching(made[0].id):
                print_prepared(session.output, job.remarks, job.report)
            wait_or_leave(session, made[0], waits=cluster.wait, follows=False)
