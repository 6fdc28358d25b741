"""A link to one checkpoint of a run, for somebody who does not sign in."""

from __future__ import annotations

from pathlib import Path

from himl_cli.core.blobs import listed
from himl_cli.core.checkpoints import Choice, LinkedCheckpoint
from himl_cli.core.errors import BadUsage
from himl_cli.core.runs import RECORDED_IN, Run
from himl_cli.services.checkpoints.sources import Checkpoint, find_checkpoint, kind_of
from himl_cli.workspaces.base import CloudWorkspace, Workspace

SHORTEST_DAYS, LONGEST_DAYS = 0.001, 365.0
"""The shortest is a minute and a half: nobody could use a link that is over sooner."""


def check_days(days: float) -> None:
    """Raises BadUsage for what is no time that a link may live."""
    if not SHORTEST_DAYS <= days <= LONGEST_DAYS:
        raise BadUsage(
            f"--expiry_days takes a number from {SHORTEST_DAYS:g} to {LONGEST_DAYS:g}, got {days:g}.",
            hint="Parts of a day go, too: 0.5",
        )


def check_is_of_run(source: str, cwd: Path) -> None:
    """Raises BadUsage for a SOURCE that is a path here or an address, NotFound for a path where nothing is. Opens no
    workspace."""
    kind = kind_of(source, cwd)
    if kind == "address":
        raise BadUsage(
            "This is the address of a file already.", hint="Links are made to files of runs: RUN or RUN:PATH"
        )
    if kind == "path":
        raise BadUsage(
            f"'{source}' is on this machine; links are made to files of runs.",
            hint="Name RUN or RUN:PATH, or push it to a run first.",
        )


def link_checkpoint(
    source: str, workspace: Workspace, cwd: Path, *, choice: Choice | None = None, days: float = 10.0
) -> LinkedCheckpoint:
    """A read-only link to the one file that *source* means, for so many days or, where storage allows no more, fewer.

    Raises NotFound and its kin, NotAllowed where no link can be signed, BadUsage for anything but one file of a run in
    a workspace that has links.
    """
    check_days(days)
    check_is_of_run(source, cwd)
    found = find_checkpoint(source, workspace, cwd, choice or Choice())
    assert found.run is not None
    run, name = found.run, _one_file(found, found.run, source)
    home = workspace.home_of(run.id)
    if not isinstance(home, CloudWorkspace):
        raise _of_this_machine(run, home.label)
    return LinkedCheckpoint(run, name, home.link(run.id, name, days=days))


def _of_this_machine(run: Run, label: str) -> BadUsage:
    hint = (
        f"Copy the file, or put it on Azure ML and link it there: himl checkpoint push FILE --from {run.id} "
        "--workspace config.json"
    )
    if RECORDED_IN in run.tags:
        hint = f"It is recorded in {run.tags[RECORDED_IN]} too: name that by --workspace config.json."
    return BadUsage(f"Run '{run.id}' is in {label}: there are no links to files of this machine.", hint=hint)


def _one_file(found: Checkpoint, run: Run, source: str) -> str:
    if found.folder:
        raise BadUsage(
            f"'{source}' is a folder with {len(found.names):,} file{'s' * (len(found.names) != 1)}, and a link is to "
            "one file.",
            hint=f"There are: {listed(list(found.names))}. Name one: {run.id}:PATH",
        )
    (name,) = found.names
    return name
