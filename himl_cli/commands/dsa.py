"""`himl dsa`: annotations of slides in a Digital Slide Archive.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import OutputOptions, WorkspaceOptions, option
from himl_cli.commands.session import lazy_workspace, output_session
from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notice
from himl_cli.core.redaction import LOCAL_HOSTS
from himl_cli.core.text import non_blank, read_text

if TYPE_CHECKING:
    from himl_cli.core.events import Notify
    from himl_cli.services.dsa import SlideArchive

app = group("Upload annotations of slides to a Digital Slide Archive, and list what it holds.")

RUN_FILE = "outputs/test/test_output.csv"
URL = option(
    "The archive's address (default: the variable DSA_URL); the API key is in DSA_API_KEY.",
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
    run: str | None = option("The run that FILE is of.", "RUN", parse=non_blank, panel="Which annotations"),
    id_filter: str = option("Only slides with this in their id.", "TEXT", "", show_default=False),
    kind: Kind = option("How a CSV is drawn: rectangles or heatmap.", "KIND", Kind.rectangles, show_default=False),
    value: str = option("The CSV's column of values.  [default: bag_attn]", "NAME", "bag_attn", show_default=False),
    no_rescale: bool = option("Colours from 0 to 1, not from a slide's least value to its greatest.", default=False),
    name: str | None = option(
        "The annotation's name (default: that of FILE, or the run's id and name).", "TEXT", parse=non_blank
    ),
    url: str | None = URL,
    folder: str | None = option("Look for slides in this folder only.", "COLLECTION/FOLDER", parse=non_blank),
    item: str | None = option("The item's name or id, in place of the slide's id.", "ITEM", parse=non_blank),
    overwrite: bool = option("Replace an annotation of that name that differs.", default=False, panel="How"),
    dry_run: bool = option("Print the annotations as JSON, and send nothing.", default=False),
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="A CSV (slide_id, left, top, right, bottom, bag_attn) or GeoJSON; with --run, one of the run's files.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Upload attention maps and other annotations to slides.

    Each slide of the file is looked for by its id in the names of the archive's items. With --run and without FILE, the
    file is the run's outputs/test/test_output.csv. What was uploaded before is skipped.

    \b
      himl dsa upload --run RUN --url https://dsa.example.org
      himl dsa upload attention.csv --folder Biopsies/PANDA --kind heatmap
      himl dsa upload tumour.geojson --item slide_1.svs --overwrite
    """
    from himl_cli.core.runs import RunSelection
    from himl_cli.render.results import print_annotations
    from himl_cli.services.dsa import TileOptions, read_documents, run_file, upload_documents
    from himl_cli.services.runs.lookup import find_runs, parse_reference
    from himl_cli.workspaces.resolve import open_runs

    cwd = Path.cwd()
    with (
        output_session(output_opts) as (output, notify),
        lazy_workspace(lambda: open_runs(*workspace_opts.names, start=cwd)) as workspace,
    ):
        if run is not None:
            parse_reference(run)  # before a workspace is looked for
            (found,) = find_runs(workspace(), RunSelection(runs=[run]), cwd=cwd, notify=notify)
            text = run_file(workspace().run_files(found.id), file or RUN_FILE, found.id)
            is_named = found.display_name not in ("", found.id)
            default_name = f"{found.id} ({found.display_name})" if is_named else found.id
        elif file is not None:
            text, default_name = read_text(Path(file), "FILE"), PurePosixPath(file).stem
        else:
            raise BadUsage("No file is named.", hint="Give a CSV or GeoJSON, or a run by --run.")
        source = f"{found.id}/{file or RUN_FILE}" if run is not None else file or ""
        documents = read_documents(
            text,
            source,
            name=name or default_name,
            slide=item or PurePosixPath(file or RUN_FILE).stem,
            id_filter=id_filter,
            options=TileOptions(value, kind is Kind.heatmap, not no_rescale),
        )
        if dry_run:
            return output.json(documents, is_form=True)
        with _open_archive(url, notify) as archive:
            rows, error = upload_documents(
                archive, documents, folder=folder, item=item, overwrite=overwrite, notify=notify
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
    """List collections, the folders and items in one, or the annotations of an item.

    \b
      himl dsa list
      himl dsa list Biopsies/PANDA
      himl dsa list Biopsies/PANDA/slide_1.svs --json
    """
    from himl_cli.render.results import ARCHIVE_COLUMNS

    with output_session(output_opts) as (output, notify), _open_archive(url, notify) as archive:
        rows = archive.rows(path)
    output.table(rows, ARCHIVE_COLUMNS, quiet=lambda row: str(row["id"]), empty="Nothing is there.")


@contextmanager
def _open_archive(url: str | None, notify: Notify) -> Iterator[SlideArchive]:
    from himl_cli.services.dsa import SlideArchive
    from himl_cli.workspaces.girder import GirderClient

    address = url or os.environ.get("DSA_URL", "")
    if not address:
        raise BadUsage("No Digital Slide Archive is named.", hint="Give its address by --url, or set DSA_URL.")
    client = GirderClient(address, os.environ.get("DSA_API_KEY", ""))
    if not client.is_encrypted and client.host not in LOCAL_HOSTS:
        notify(Notice(f"warning: the way to {client.host} is not encrypted: others may read the API key. Use https."))
    try:
        yield SlideArchive(client.request, client.host)
    finally:
        client.close()
