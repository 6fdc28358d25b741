"""Starting processes that outlive this one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any


def detached() -> dict[str, Any]:
    """Arguments of Popen for a process that a closed terminal and Ctrl-C do not reach."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}
