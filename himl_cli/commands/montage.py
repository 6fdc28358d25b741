"""`himl montage`: many slides in one picture.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from himl_cli.commands._montage_options import (
    ClusterOptions,
    DatasetArg,
    HowOptions,
    PictureOptions,
    SlideOptions,
    montage_request,
    path_of,
)
from himl_cli.commands.groups import command, group
from himl_cli.commands.options import OutputOptions, WorkspaceOptions
from himl_cli.commands.session import For, open_session, output_session

if TYPE_CHECKING:
    from himl_cli.core.events import Notify
    from himl_cli.render.output import Output
    from himl_cli.services.montage.places import SlidePlace

app = group()


@command(app, "montage")
def montage(
    slides: SlideOptions,
    picture: PictureOptions,
    how: HowOptions,
    cluster: ClusterOptions,
    where: WorkspaceOptions,
    talk: OutputOptions,
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
    name = slides.dataset(named)
    if cluster.cluster:
        from himl_cli.commands._montage_cluster import montage_on_cluster

        montage_on_cluster(where, talk, name, slides, picture, how, cluster)
    else:
        _montage_here(where, talk, name, slides, picture, how, passed_over=cluster.given)


def _montage_here(
    where: WorkspaceOptions,
    talk: OutputOptions,
    dataset: str,
    slides: SlideOptions,
    picture: PictureOptions,
    how: HowOptions,
    *,
    passed_over: Sequence[str],
) -> None:
    """Make the montage and tell of it. Raises SlidesFailed, and what listing slides and making a montage raise."""
    from himl_cli.render.montage import say_montage
    from himl_cli.services.montage.installation import check_installed

    check_installed()
    request = montage_request(picture, how)
    with _place_of(dataset, slides, where, talk) as (place, csv, output, notify), _readers_quiet(unless=talk.verbose):
        from himl_cli.services.montage.compose.making import make_montage
        from himl_cli.services.montage.listing.query import SlideQuery, list_slides, lists_here
        from himl_cli.services.montage.written import written_files

        if passed_over:
            output.notice(
                f"Passed over, since the montage is made here and not on a cluster: {', '.join(passed_over)}."
            )
        query = SlideQuery(slides.image_glob, csv, slides.include, slides.exclude)
        entries = list_slides(place, query, notify)
        result = make_montage(request, entries, place, notify, lists_here(place, query))
    say_montage(output, result, written_files(result))
    if how.strict and result.problem is not None:
        raise result.problem


@contextmanager
def _readers_quiet(*, unless: bool) -> Iterator[None]:
    """What tifffile logs names no slide, and is told of the slide in himl's words."""
    import logging

    log = logging.getLogger("tifffile")
    before = log.level
    if not unless:
        log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _place_of(
    dataset: str, slides: SlideOptions, where: WorkspaceOptions, talk: OutputOptions
) -> Iterator[tuple[SlidePlace, str | None, Output, Notify]]:
    """Where the slides lie, the name of the CSV that was named (None: a folder was), where to print, and whom to tell
    of progress.

    A workspace is opened for a datastore only.
    """
    if slides.datastore is None:
        from himl_cli.services.montage.listing.dataset import local_dataset

        with output_session(talk) as (output, notify):
            yield (*local_dataset(path_of("DATASET", dataset)), output, notify)
    else:
        from himl_cli.services.montage.cache_limit import cache_limit
        from himl_cli.services.montage.stored_place import open_stored

        with (
            open_session(where, talk, For.data) as session,
            open_stored(
                session.workspace.datastore(slides.datastore), dataset, cache_limit(session.cwd), session.notify
            ) as (place, csv),
        ):
            yield place, csv, session.output, session.notify
