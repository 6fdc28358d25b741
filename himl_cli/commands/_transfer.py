"""What the commands that move files share: their options, and how they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from himl_cli.commands._bundles import Bundle
from himl_cli.commands._options import split_list
from himl_cli.core.errors import BadUsage

if TYPE_CHECKING:
    from himl_cli.core.blobs import TransferResult
    from himl_cli.render.output import Output
    from himl_cli.services.transfer.filters import Filters

FILES, WHERETO, CHECKS = "Which files", "Where to", "How"
WORKERS, MOST_WORKERS = 32, 256

OverwriteOpt = Annotated[bool, typer.Option("--overwrite", help="Replace files that differ.", rich_help_panel=CHECKS)]
WorkersOpt = Annotated[
    int,
    typer.Option(
        "--workers",
        metavar="N",
        help="Transfers at once, 1 to 256.  [default: 32]",
        rich_help_panel=CHECKS,
        show_default=False,
    ),
]
StripOpt = Annotated[
    bool, typer.Option("--strip_prefix", help="Drop the folders of the prefix from the names.", rich_help_panel=FILES)
]


def checked_workers(workers: int) -> int:
    """The number, where so many transfers can go on at once. Raises BadUsage."""
    if not 1 <= workers <= MOST_WORKERS:
        raise BadUsage(f"--workers takes a whole number from 1 to {MOST_WORKERS}, got {workers}.")
    return workers


class GlobOptions(Bundle):
    """Globs over names."""

    def __init__(
        self,
        include: Annotated[
            list[str] | None,
            typer.Option(
                "--include", metavar="GLOB", help="Only names that match, e.g. '*.ckpt'.", rich_help_panel=FILES
            ),
        ] = None,
        exclude: Annotated[
            list[str] | None,
            typer.Option(
                "--exclude", metavar="GLOB", help="No names that match, e.g. 'tmp/**'.", rich_help_panel=FILES
            ),
        ] = None,
    ) -> None:
        self.include = tuple(split_list(include))
        self.exclude = tuple(split_list(exclude))

    def filters(self, prefix: str = "") -> Filters:
        from himl_cli.services.transfer.filters import Filters

        filters = Filters(prefix, self.include, self.exclude)
        filters.admit("")  # raises BadUsage for a glob that cannot be read
        return filters


class MovingOptions(Bundle):
    """How files are moved."""

    def __init__(
        self,
        overwrite: OverwriteOpt = False,
        no_validate: Annotated[
            bool, typer.Option("--no_validate", help="Do not check MD5s.", rich_help_panel=CHECKS)
        ] = False,
        workers: WorkersOpt = WORKERS,
    ) -> None:
        self.overwrite = overwrite
        self.validate = not no_validate
        self.workers = checked_workers(workers)


def conclude(
    output: Output, result: TransferResult, verb: str, places: Sequence[str], *, inside: str = "", nothing: str = ""
) -> None:
    """Show the outcome (*inside* is what the places are part of, *nothing* what to say where there was nothing to
    move).

    Raises the error that it amounts to, if any.
    """
    from himl_cli.render.transfers import say_transferred

    is_listed = say_transferred(output, result, verb, places, inside, nothing)
    problem = result.problem(is_listed=is_listed)
    if problem is not None:
        raise problem
