"""The two workspaces of a recording."""

from __future__ import annotations

from typing import Protocol

from himl_cli.core.errors import DiskFailed, HimlError, NotAllowed, NotAllowedNow, NotFound, ServiceFailed
from himl_cli.workspaces.abilities import RecordsRuns, RetellsRuns
from himl_cli.workspaces.base import Workspace
from himl_cli.workspaces.job_abilities import SubmitsJobs


class Source(Workspace, RetellsRuns, SubmitsJobs, Protocol):
    """Where the run is kept: what it logged is safe there, however long the other one is away."""


class Target(Workspace, RecordsRuns, Protocol):
    """Where the run is told to."""


def passes(failure: HimlError) -> bool:
    """Whether what went wrong may be over some time later, without anybody's doing."""
    return isinstance(failure, (DiskFailed, NotAllowedNow)) or (
        isinstance(failure, ServiceFailed) and not failure.is_lasting
    )


def is_refusal(failure: HimlError) -> bool:
    """Whether it is not this or that which is not taken, but us: no right, no such run, no such workspace."""
    return isinstance(failure, (NotAllowed, NotFound)) and not passes(failure)


def may_be_allowed(failure: HimlError) -> bool:
    """Whether what is missing is a right, which somebody may give (again): roles that are taken for some hours lapse at
    night."""
    return isinstance(failure, NotAllowed)
