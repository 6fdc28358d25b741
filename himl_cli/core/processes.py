"""Processes that are started apart from this one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any


def detached() -> dict[str, Any]:
    """Arguments of Popen for a process that a closed terminal and Ctrl-C do not reach."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def end_detached(process: subprocess.Popen[bytes]) -> None:
    """End at once a process that was started so, and what it started that did not leave it (on Windows, it alone)."""
    if sys.platform == "win32":
        process.kill()
    else:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass  # the group is empty (macOS says so with EPERM)
    process.wait()
