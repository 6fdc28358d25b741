"""Which Python runs a job on this machine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from himl_cli.core.errors import BadUsage

ISOLATED_MARKS = (
    "pipx_metadata.json",
    "uv-receipt.toml",
)  # what pipx and `uv tool` leave in the environments they make


def find_python(asked: str | None, env: Mapping[str, str], own_prefix: Path) -> str:
    """The interpreter: *asked*, else the active environment's, else that of *own_prefix* unless it only holds a tool,
    else `python3` on PATH.

    Raises BadUsage when what was asked for, or any of them, cannot be run.
    """
    if asked:
        return _check(asked, shutil.which(os.path.expanduser(asked), path=env.get("PATH")))
    for prefix in (env.get("VIRTUAL_ENV"), env.get("CONDA_PREFIX")):
        if prefix and (found := _python_in(Path(prefix))):
            return found
    if not any((own_prefix / mark).exists() for mark in ISOLATED_MARKS) and (found := _python_in(own_prefix)):
        return found
    found_on_path = shutil.which("python3", path=env.get("PATH")) or shutil.which("python", path=env.get("PATH"))
    return _check("python3", found_on_path)


def _check(asked: str, found: str | None) -> str:
    if found is None:
        raise BadUsage(f"No Python interpreter '{asked}'.", hint="Name one that exists: --python /path/to/python")
    return os.path.abspath(found)  # not resolved: a virtual environment's python is a link


def _python_in(prefix: Path) -> str | None:
    names = ("python.exe", "Scripts/python.exe") if sys.platform == "win32" else ("bin/python", "bin/python3")
    return next((str(prefix / name) for name in names if os.access(prefix / name, os.X_OK)), None)
