"""The options of `himl submit` about data and about what follows, and all of them as one request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from himl_cli.commands._bundles import Bundle
from himl_cli.core.errors import BadUsage

if TYPE_CHECKING:
    from himl_cli.services.submission.request import SubmitRequest

DATA, AFTER = "Data", "After"
TYPED = "command line"
RENAMED = {"env_var": "env_vars", "tag": "tags", "input": "inputs", "output": "outputs"}
"""Options whose field in a request is called otherwise."""
Text = str | None


class DataOptions(Bundle):
    """Folders the job reads and writes."""

    def __init__(
        self,
        input: Annotated[
            list[str] | None,
            typer.Option(
                "--input",
                metavar="SPEC",
                help="Data it reads: [KEY=]NAME[:VERSION][,OPTION=...]. Options: datastore, mode (download, mount), "
                "target, local.",
                rich_help_panel=DATA,
            ),
        ] = None,
        output: Annotated[
            list[str] | None,
            typer.Option(
                "--output",
                metavar="SPEC",
                help="Data it writes: [KEY=]NAME[,OPTION=...]. Options: datastore, mode (mount, upload), overwrite "
                "(true, false), local.",
                rich_help_panel=DATA,
            ),
        ] = None,
        default_datastore: Annotated[
            Text,
            typer.Option(
                "--default_datastore",
                metavar="NAME",
                help="Datastore of inputs and outputs that name none.",
                rich_help_panel=DATA,
            ),
        ] = None,
        checkpoint: Annotated[
            Text,
            typer.Option(
                "--checkpoint",
                metavar="SOURCE",
                help="Start with this in outputs/checkpoints: a file, a folder, an https address, RUN (its last "
                "checkpoint), RUN:FILE or RUN:FOLDER/.",
                rich_help_panel=DATA,
            ),
        ] = None,
    ) -> None:
        self.fields = {
            "inputs": tuple(input or ()),
            "outputs": tuple(output or ()),
            "default_datastore": default_datastore,
            "checkpoint": checkpoint,
        }


class AfterOptions(Bundle):
    """What happens once the job is submitted, or in its place."""

    def __init__(
        self,
        wait: Annotated[
            bool | None,
            typer.Option(
                "--wait/--no_wait",
                help="Wait for the end (default: here yes, on a cluster no).",
                rich_help_panel=AFTER,
                show_default=False,
            ),
        ] = None,
        follow: Annotated[
            bool,
            typer.Option(
                "--follow", help="Wait, and show the output as it comes (always so here).", rich_help_panel=AFTER
            ),
        ] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry_run", help="Print the job as Azure ML YAML; send nothing.", rich_help_panel=AFTER)
        ] = False,
        show_settings: Annotated[
            bool,
            typer.Option(
                "--show_settings",
                help="Show each option's value and where it came from; run nothing.",
                rich_help_panel=AFTER,
            ),
        ] = False,
        sdk: Annotated[
            str,
            typer.Option(
                "--sdk",
                metavar="SDK",
                help="v2, or v1: by the deprecated azureml-core.",
                rich_help_panel=AFTER,
                show_default=True,
            ),
        ] = "v2",
    ) -> None:
        self.wait = wait
        self.follow = follow
        self.dry_run = dry_run
        self.show_settings = show_settings
        self.fields = {"sdk": sdk}

    def waits(self, *, on_cluster: bool, sources: Mapping[str, str]) -> bool:
        """Whether to wait for the end: as was said, else here. What was typed wins over what is set. Raises BadUsage
        for both at once."""
        if self.follow and self.wait is False:
            typed = {name for name in ("follow", "wait") if sources.get(name) == TYPED}
            if len(typed) != 1:
                raise BadUsage(
                    "--follow and --no_wait exclude each other.", hint="Follow later: himl runs logs --follow RUN"
                )
            return typed == {"follow"}
        return (self.follow or not on_cluster) if self.wait is None else self.wait


class _HasFields(Protocol):
    """Options in the form of a request's fields."""

    fields: Any


def submit_request(
    cwd: Path,
    target: str | None,
    module: str | None,
    command: str | None,
    arguments: tuple[str, ...],
    bundles: tuple[_HasFields, ...],
    sources: Mapping[str, str],
) -> SubmitRequest:
    """All options as the service takes them; *sources* say where each value came from."""
    from himl_cli.services.submission.request import SubmitRequest

    typed = frozenset(RENAMED.get(name, name) for name, source in sources.items() if source == TYPED)
    fields: dict[str, Any] = {}
    for bundle in bundles:
        fields |= bundle.fields
    return SubmitRequest(
        cwd=cwd, target=target, module=module, command=command, arguments=arguments, typed=typed, **fields
    )
