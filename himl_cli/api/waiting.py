"""Waiting for a run to end, from a script."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from himl_cli.core.errors import NotFound
from himl_cli.core.runs import Run
from himl_cli.services.runs.logs import GROWTH, follow_log, seconds_between_looks
from himl_cli.services.submission.wait import raise_unless_completed
from himl_cli.workspaces.base import Workspace


def wait_until_ended(workspace: Workspace, run_id: str, *, show_output: bool, raise_on_error: bool) -> Run:
    """The run as it ended. Raises RunNotFound, and JobFailed where it did not complete and *raise_on_error* is set."""
    if show_output:
        with suppress(NotFound):  # it may end without a log
            for piece in follow_log(workspace, run_id):
                _show(piece)
    pause, at_most = seconds_between_looks(workspace, run_id)
    run = workspace.run(run_id)
    while not run.status.is_final:
        time.sleep(pause)
        pause = min(at_most, pause * GROWTH)
        run = workspace.run(run_id)
    if raise_on_error:
        raise_unless_completed(run)
    return run


def _show(piece: bytes) -> None:
    """To stdout, which in a notebook takes text only."""
    raw = getattr(sys.stdout, "buffer", None)
    if raw is None:
        sys.stdout.write(piece.decode("utf-8", "replace"))
    else:
        sys.stdout.flush()
        raw.write(piece)
    sys.stdout.flush()
