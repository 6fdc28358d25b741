"""What an engine tells of a job of the local workspace."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from himl_cli.core.runs import RunStatus

QUEUED: Final = "queued"
RUNNING: Final = "running"
ENDED: Final = "ended"
UNKNOWN: Final = "unknown"


class JobState(NamedTuple):
    """The state of a job, as its engine knows it.

    `queued` and `running` are known. `ended` has evidence: the job's status at its end, and the time in milliseconds
    since 1970 if the engine has it. `unknown` has the reason for which the engine cannot tell, and nothing is recorded
    then. `handle` is the job's handle if the engine has a better one than it was given.
    """

    kind: Literal["queued", "running", "ended", "unknown"]
    reason: str = ""
    status: RunStatus | None = None
    ended: int | None = None
    handle: str = ""
