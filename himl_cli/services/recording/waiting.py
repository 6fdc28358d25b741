"""Waiting until a run that has ended here is told as a whole."""

from __future__ import annotations

import time
from collections.abc import Sequence

from himl_cli.core.errors import HimlError
from himl_cli.core.events import Notice, Notify
from himl_cli.core.runs import STOPPED, Run
from himl_cli.services.recording.note import NoteFile
from himl_cli.workspaces.base import FolderWorkspace

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_TO_TAKE_OVER = 3.0
"""So long nobody may be at work on it: the process that records takes over from the one that submitted."""
WORTH_SAYING = 3.0


def wait_until_told(here: FolderWorkspace, run: Run, there: str, notify: Notify, interrupted: Sequence[int]) -> bool:
    """Whether all of *run* has arrived in *there*; False once *interrupted* holds a signal, or nothing arrives at
    present.

    *notify* hears of what is still to come, and of a recording that was refused.
    """
    file, begun = NoteFile(here.folder, run.id), time.monotonic()
    worked_on, is_said = begun, False
    while (note := file.read()) is not None:
        now = time.monotonic()
        worked_on = now if file.is_worked_on() else worked_on
        if note.refused_since:
            notify(
                Notice(
                    f"warning: not all of the run is in {there}: {note.away} It is kept here, and himl commands in "
                    "this workspace try again later."
                )
            )
            return False
        if interrupted or note.away or now - worked_on > SECONDS_TO_TAKE_OVER:
            why = f" ({note.away.rstrip('.')})" if note.away else ""
            notify(
                Notice(
                    f"Not all of the run is in {there} yet{why}; that goes on in the background. See how it goes: himl "
                    f"runs show {run.id}"
                )
            )
            return False
        if not is_said and now - begun > WORTH_SAYING:
            is_said = True
            notify(
                Notice(
                    f"The job has ended. The rest of it is on its way to {there}; Ctrl-C leaves that to the background."
                )
            )
        time.sleep(SECONDS_BETWEEN_LOOKS)
    why = _why_stopped(here, run.id)
    if why:
        notify(Notice(f"warning: not all of the run is in {there}: {why}"))
    return not why


def _why_stopped(here: FolderWorkspace, run_id: str) -> str:
    try:
        return here.run(run_id).tags.get(STOPPED, "")
    except HimlError:
        return ""
