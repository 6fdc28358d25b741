"""This machine as the engine of local jobs: a supervisor in a separate session, which the lock of its run's folder
identifies. The lock's file names the machine, its start and the process, for machines that do not see the lock."""

from __future__ import annotations

import logging
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.locks import is_locked, unseen_holder
from himl_cli.core.processes import detached, take_standby
from himl_cli.workspaces.local import SUPERVISOR
from himl_cli.workspaces.local.engines.base import ENDED, LOG, RUNNING, UNKNOWN, EngineJob, JobState, OwnJob
from himl_cli.workspaces.local.run_folder import RunFolder

if TYPE_CHECKING:
    from himl_cli.core.events import Notify
    from himl_cli.core.jobs import EngineSpec, JobSpec
    from himl_cli.core.workspaces import Check
    from himl_cli.workspaces.local.launch_request import LaunchRequest
    from himl_cli.workspaces.local.ranks import Ends, Rank

log = logging.getLogger(__name__)

NAME, LABEL, DOCTOR = "here", "this machine", ""
OPTIONS: Mapping[str, str] | None = {}


def unavailable() -> HimlError | None:
    return None


def largest_array() -> int:
    return 0


def site(handle: str = "", spec: JobSpec | None = None) -> str:
    return platform.node()


def preview(job: EngineJob) -> str:
    return job.document


def submit(job: EngineJob, notify: Notify) -> str:
    """Start the job. Its handle is the path of its lock."""
    process = start(job.folder, job.document)
    process.returncode = 0  # without it, Popen warns that the process is still running
    return str(RunFolder(job.folder).lock)


def start(
    folder: Path, document: str, handles: Sequence[int] = (), module: str = SUPERVISOR
) -> subprocess.Popen[bytes]:
    """Start *module* in a separate session, in the run's *folder*. It inherits *handles*, reads *document* from its
    stdin, and reports on its stdout. Raises OSError."""
    log.debug("starting a supervisor (%s) for %s", module, folder)
    process = None if handles else take_standby(module)
    if process is None:
        with (folder / LOG).open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=folder,
                pass_fds=handles,
                **detached(),
            )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # the process died at once; the caller detects that it reports nothing
        process.stdin.write(document.encode())
        process.stdin.close()
    return process


def states(jobs: Mapping[str, str]) -> Mapping[str, JobState]:
    return {name: _state(Path(handle)) for name, handle in jobs.items()}


def _state(lock: Path) -> JobState:
    if is_locked(lock):
        return JobState(RUNNING)
    if holder := unseen_holder(lock):
        return JobState(UNKNOWN, f"{holder} holds its lock")
    return JobState(ENDED, "its supervisor has ended")


def part_of(handle: str, part: str) -> str:
    raise NotImplementedError(f"no part {part} of {handle}, since it has no arrays")


def cancel(jobs: Mapping[str, str], *, only_waiting: bool = False) -> None:
    for handle in () if only_waiting else jobs.values():
        RunFolder(Path(handle).parent).ask_to_cancel()


def places() -> Sequence[tuple[str, str, str]]:
    return ()


def checks(folder: Path, spec: EngineSpec | None) -> Iterator[Check]:
    """None, since the workspace has its own (`LocalWorkspace.checks`)."""
    return iter(())


def ranks_of_nodes(request: LaunchRequest, log: Path, ends: Ends) -> Rank:
    raise BadUsage(f"A job on {LABEL} has one node, not {request.nodes}.")


def own_job() -> OwnJob | None:
    return None
