"""What the commands that move files share: their options, and how they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from himl_cli.commands._bundles import Bundle
from himl_cli.commands._options import split_list

if TYPE_CHECKING:
    from himl_cli.core.transfers import TransferResult
    from himl_cli.render.output import Output
    from himl_cli.services.transfer.filters import Filters

FILES, CHECKS = "Which files", "How"
WORKERS = 32

StripOpt = Annotated[bool, typer.Option("--strip_prefix", help="Drop the folders of the prefix from the names.", rich_help_panel=FILES)]


class FilterOptions(Bundle):
    """Globs over names."""

    def __init__(
        self,
        include: Annotated[
            list[str] | None, typer.Option("--include", metavar="GLOB", help="Only names that match, e.g. '*.ckpt'.", rich_help_panel=FILES)
        ] = None,
        exclude: Annotated[
            list[str] | None, typer.Option("--exclude", metavar="GLOB", help="No names that match, e.g. 'tmp/**'.", rich_help_panel=FILES)
        ] = None,
    ) -> None:
        self.include = tuple(split_list(include))
        self.exclude = tuple(split_list(exclude))

    def filters(self, prefix: str = "") -> Filters:
        from himl_cli.services.transfer.filters import Filters

        return Filters(prefix, self.include, self.exclude)


class MovingOptions(Bundle):
    """How files are moved."""

    def __init__(
        self,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that differ.", rich_help_panel=CHECKS)] = False,
        no_validate: Annotated[bool, typer.Option("--no_validate", help="Do not check MD5s.", rich_help_panel=CHECKS)] = False,
        workers: Annotated[
            int, typer.Option("--workers", metavar="N", min=1, max=256, help="Transfers at once.  [default: 32]", rich_help_panel=CHECKS, show_default=False)
        ] = WORKERS,
    ) -> None:
        self.overwrite = overwrite
        self.validate = not no_validate
        self.workers = workers


def conclude(output: Output, result: TransferResult, verb: str, places: Sequence[str], inside: str = "") -> None:
    """Show the outcome (*inside* is what the places are part of), then raise the error that it amounts to, if any."""
    from himl_cli.render.transfers import say_transferred

    say_transferred(output, result, verb, places, inside)
    problem = result.problem()
    if problem is not None:
        raise problem
