"""`himl dsa`: annotations of slides in a Digital Slide Archive.

Functions import the services that they use, to keep help fast.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from himl_cli.commands.groups import command, subcommands
from himl_cli.commands.options import OutputOptions, WorkspaceOptions, option
from himl_cli.commands.session import lazy_workspace, output_session
from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.events import Notice
from himl_cli.core.redaction import LOCAL_HOSTS
from himl_cli.core.text import non_blank, read_text

if TYPE_CHECKING:
    from himl_cli.core.events import Notify
    from himl_cli.slides.slide_archive import SlideArchive

app = subcommands("Upload annotations of slides to a Digital Slide Archive, and list its contents.")

RUN_FILE = "outputs/test/test_output.csv"
URL = option(
    "Address of the archive (default: DSA_URL). Set the API key in DSA_API_KEY.",
    "URL",
    parse=non_blank,
    panel="Archive",
)


class Kind(str, Enum):
    rectangles = "rectangles"
    heatmap = "heatmap"


@command(app, "upload")
def upload(
    *,
    run: str | None = option("Run that contains FILE.", "RUN", parse=non_blank, panel="Annotations"),
    id_filter: str = option("Only slides with this text in their id.", "TEXT", "", show_default=False),
    kind: Kind = option("Annotations of a CSV: rectangles or heatmap.", "KIND", Kind.rectangles, show_default=False),
    value: str = option("Column of values in the CSV.  [default: bag_attn]", "NAME", "bag_attn", show_default=False),
    no_rescale: bool = option("Color scale from 0 to 1 (default: each slide's range).", default=False),
    name: str | None = option(
        "Name of the annotation (default: FILE, or the run's id and name).", "TEXT", parse=non_blank
    ),
    url: str | None = URL,
    folder: str | None = option("Only slides in this folder of the archive.", "COLLECTION/FOLDER", parse=non_blank),
    item: str | None = option("Name or id of the item, in place of the slide's id.", "ITEM", parse=non_blank),
    overwrite: bool = option("Replace an annotation that differs.", default=False, panel="Upload"),
    dry_run: bool = option("Print the annotations as JSON without uploading.", default=False),
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="CSV (slide_id, left, top, right, bottom, bag_attn) or GeoJSON.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Upload attention maps and other annotations to slides.

    himl finds each slide of the file by its id in the names of the archive's items. With --run, FILE is a file of the
    run. Its default is outputs/test/test_output.csv. himl skips annotations that the archive already has.

    \b
      himl dsa upload --run RUN --url https://dsa.example.org
      himl dsa upload attention.csv --folder Biopsies/PANDA --kind heatmap
      himl dsa upload tumour.geojson --item slide_1.svs --overwrite
    """
    from himl_cli.core.runs import RunSelection
    from himl_cli.services.runs.lookup import find_runs, parse_reference
    from himl_cli.slides.annotations import TileOptions, read_documents, run_file
    from himl_cli.slides.slide_archive import incomplete, upload_documents
    from himl_cli.slides.slide_views import print_annotations
    from himl_cli.workspaces.resolve import open_runs

    cwd = Path.cwd()
    with (
        output_session(output_opts) as (output, notify),
        lazy_workspace(lambda: open_runs(*workspace_opts.names, start=cwd)) as workspace,
    ):
        if run is not None:
            parse_reference(run)  # before himl opens a workspace
            (found,) = find_runs(workspace(), RunSelection(runs=[run]), cwd=cwd, notify=notify)
            text = run_file(workspace().run_files(found.id), file or RUN_FILE, found.id)
            is_named = found.display_name not in ("", found.id)
            default_name = f"{found.id} ({found.display_name})" if is_named else found.id
        elif file is not None:
            text, default_name = read_text(Path(file), "FILE"), PurePosixPath(file).stem
        else:
            raise BadUsage("FILE is missing.", hint="Name a CSV or GeoJSON file, or a run with --run.")
        source = f"{found.id}/{file or RUN_FILE}" if run is not None else file or ""
        problems: dict[str, HimlError] = {}
        documents = read_documents(
            text,
            source,
            problems,
            name=name or default_name,
            slide=item or PurePosixPath(file or RUN_FILE).stem,
            id_filter=id_filter,
            options=TileOptions(value, kind is Kind.heatmap, not no_rescale),
        )
        if dry_run:
            output.json(documents, is_form=True)
            for slide_id, problem in problems.items():
                output.notice(f"{slide_id}: {problem}")
            if problems:
                raise incomplete([*problems.values()], len(documents) + len(problems))
            return
        with _open_archive(url, notify) as archive:
            rows, error = upload_documents(
                archive, documents, problems, folder=folder, item=item, overwrite=overwrite, notify=notify
            )
    print_annotations(output, name or default_name, rows, error)


@command(app, "list")
def list_archive(
    *,
    url: str | None = URL,
    output_opts: OutputOptions,
    path: Annotated[
        str,
        typer.Argument(
            metavar="[PATH]", help="COLLECTION, COLLECTION/FOLDER or COLLECTION/FOLDER/ITEM.", show_default=False
        ),
    ] = "",
) -> None:
    """List collections, folders and items, or an item's annotations.

    \b
      himl dsa list
      himl dsa list Biopsies/PANDA
      himl dsa list Biopsies/PANDA/slide_1.svs --json
    """
    from himl_cli.slides.slide_views import ARCHIVE_COLUMNS

    with output_session(output_opts) as (output, notify), _open_archive(url, notify) as archive:
        rows = archive.rows(path)
    output.table(
        rows, ARCHIVE_COLUMNS, quiet=lambda row: str(row["id"]), empty="The archive has no entries at this path."
    )


@contextmanager
def _open_archive(url: str | None, notify: Notify) -> Iterator[SlideArchive]:
    from himl_cli.slides.girder import GirderClient
    from himl_cli.slides.slide_archive import SlideArchive

    address = url or os.environ.get("DSA_URL", "")
    if not address:
        raise BadUsage("The Digital Slide Archive has no address.", hint="Set --url or DSA_URL.")
    client = GirderClient(address, os.environ.get("DSA_API_KEY", ""))
    if not client.is_encrypted and client.host not in LOCAL_HOSTS:
        notify(Notice(f"warning: {client.host} uses plain http, where others can read the API key. Use https."))
    try:
        yield SlideArchive(client.request, client.host)
    finally:
        client.close()


def option_kinds() -> dict[str, str]:
    from himl_cli.commands.completion import choice_of

    return {"--kind": choice_of(Kind)}
