"""Jobs of this machine: a supervisor in a separate session, identified by the lock of its run. The lock's
file names the machine, its start and the process, for machines that do not see the lock."""

from __future__ import annotations

import logging
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.locks import has_restarted_since, is_locked, unseen_holder
from himl_cli.core.processes import detached, take_standby
from himl_cli.core.runs import RunStatus
from himl_cli.workspaces.local import SUPERVISOR
from himl_cli.workspaces.local.engines.base import ENDED, LOG, QUEUED, RUNNING, UNKNOWN, JobState
from himl_cli.workspaces.local.run_folder import WAITING

if TYPE_CHECKING:
    from himl_cli.core.workspaces import Check

log = logging.getLogger(__name__)

RESTARTED = "the machine restarted while it waited"


def start(
    folder: Path,
    document: str,
    handles: Sequence[int] = (),
    module: str = SUPERVISOR,
    setup: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Start *module* in a separate session, in the run's *folder*, after the lines of *setup*. It inherits *handles*,
    reads *document* from its stdin, and reports on its stdout. Raises OSError, and BadUsage for invalid lines."""
    log.debug("starting a supervisor (%s) for %s", module, folder)
    process, command = None, [sys.executable, "-m", module]
    if setup:
        from himl_cli.workspaces.local.setup_lines import after_setup, isolated_command

        place = shlex.quote(str((folder / f"{LOG}.setup").absolute()))
        command = ["bash", "-c", "\n".join(after_setup(setup, [f"exec {isolated_command(module)}"], place))]
    elif not handles:
        process = take_standby(module)
    if process is None:
        with (folder / LOG).open("ab") as stderr:
            process = subprocess.Popen(
                command,
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
    """As `Engine.states`. The handle of a job is the path of its lock."""
    states = {name: _state(Path(handle)) for name, handle in jobs.items()}
    folders = {name: Path(jobs[name]).parent for name, state in states.items() if state.kind == RUNNING}
    waiting = {name: folder for name, folder in folders.items() if (folder / WAITING).exists()}
    if waiting:
        from himl_cli.workspaces.local.claims import reasons_to_wait

        states |= {name: JobState(QUEUED, reason) for name, reason in reasons_to_wait(waiting).items()}
    return states


def checks() -> Iterator[Check]:
    """The checks of `himl doctor`."""
    if sys.platform == "win32":
        return iter(())
    from himl_cli.workspaces.local import claims

    return claims.checks()


def _state(lock: Path) -> JobState:
    if is_locked(lock):
        return JobState(RUNNING)
    if holder := unseen_holder(lock):
        return JobState(UNKNOWN, f"{holder} holds its lock")
    if (lock.parent / WAITING).exists() and has_restarted_since(lock):
        return JobState(ENDED, RESTARTED, RunStatus.canceled)
    return JobState(ENDED, "its supervisor has ended")
