"""Going on with a run that stopped before its end."""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Notify
from himl_cli.core.jobs import MANY, SWEPT
from himl_cli.core.redaction import mask_arguments
from himl_cli.core.runs import Run, RunSelection
from himl_cli.services.runs.logs import MAIN_LOG
from himl_cli.services.runs.lookup import find_runs
from himl_cli.services.submission.prepare import command_line, note_latest
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.submission.sweeps import (
    KINDS,
    KINDS_OF_OPTION,
    requested_sweep,
    single_sweep_option,
    sweep_text,
    without_seed,
)
from himl_cli.workspaces.base import FolderWorkspace, Workspace

COUNT = ("max_concurrent", "env_vars")
# Options that may be given again, and then have to say what the run's record says.
OF_RECORD = (*KINDS, *KINDS_OF_OPTION)


def resume_run(workspace: Workspace, wanted: str, request: SubmitRequest, notify: Notify) -> tuple[Run, int]:
    """Go on with the run that *wanted* names, and give it, and where in its log begins what is new.

    Of *request*, `env_vars` and `max_concurrent` count; what else it says has to agree with the run's record.
    Raises RunNotFound, and BadUsage for a run that cannot go on or that was another job.
    """
    (run,) = find_runs(workspace, RunSelection(runs=(wanted,)), cwd=request.cwd)
    home = workspace.home_of(run.id)
    if not isinstance(home, FolderWorkspace):
        raise BadUsage(
            f"Run '{run.id}' is in {home.label}, where no run can be resumed.",
            hint="Submit it again; a job that a cluster pre-empts is started again by Azure ML itself.",
        )
    _check_agrees(run, request)
    # the log of a sweep or a pipeline goes on; another try of a job has a log of its own
    log = workspace.run_files(run.id).stat(MAIN_LOG) if MANY in run.tags else None
    resumed = home.resume(run.id, env=request.env_vars, max_concurrent=request.max_concurrent, notify=notify)
    note_latest(resumed, Path(request.cwd), notify)
    return resumed, log.size if log else 0


def _check_agrees(run: Run, request: SubmitRequest) -> None:
    leave_out = f": himl submit --resume {run.id}"
    made_by = run.tags.get("command_line", run.command)
    if request.target or request.module:
        asked = command_line(request)
        if asked != made_by:
            raise BadUsage(
                f"Run '{run.id}' was made by '{made_by}', not by '{asked}'.", hint=f"Leave the script out{leave_out}"
            )
    elif request.arguments:
        given, words = mask_arguments(request.arguments), [""]
        with suppress(ValueError):  # of another client
            words = shlex.split(made_by)
        if given != words[2 if words[:1] == ["-m"] else 1 :]:
            raise BadUsage(
                f"Run '{run.id}' goes on with the arguments of '{made_by}', not with '{shlex.join(given)}'.",
                hint=f"Leave them out{leave_out}",
            )
    if any(map(request.is_typed, OF_RECORD[: len(KINDS)])):
        of_settings = [name for name in KINDS if not request.is_typed(name)]
        again = requested_sweep(single_sweep_option(request.without("max_concurrent", *of_settings)))
        text, made = sweep_text(again) if again else "a single run", run.tags.get(SWEPT, "")
        if text not in (made, without_seed(made)):
            was = made or ("a pipeline" if run.tags.get(MANY) == "pipeline" else "a single run")
            raise BadUsage(f"Run '{run.id}' is: {was}; not: {text}.", hint=f"Leave these options out{leave_out}")
