"""Which version of Python a project uses here, found without starting one."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

_VERSION = re.compile(r"(\d+\.\d+)(?:\.\d+)?")
_IN_VENV = re.compile(r"^\s*version(?:_info)?\s*=\s*(\d+\.\d+)", re.MULTILINE)
_IN_CONDA = re.compile(r"python-(\d+\.\d+)\.\d.*\.json")


def python_version(start: Path, root: Path, env: Mapping[str, str]) -> str:
    """`3.11`: by the nearest `.python-version` from *start* up to *root*, else by the active environment, else by
    himl's own Python."""
    return next(_found(start, root, env), f"{sys.version_info.major}.{sys.version_info.minor}")


def _found(start: Path, root: Path, env: Mapping[str, str]) -> Iterator[str]:
    for folder in folders_up_to(start, root):
        for line in _read(folder / ".python-version").splitlines():
            if named := _VERSION.fullmatch(line.strip()):
                yield named[1]
    if env.get("VIRTUAL_ENV") and (said := _IN_VENV.search(_read(Path(env["VIRTUAL_ENV"], "pyvenv.cfg")))):
        yield said[1]
    if env.get("CONDA_PREFIX"):
        names = sorted(path.name for path in Path(env["CONDA_PREFIX"], "conda-meta").glob("python-3*.json"))
        yield from (match[1] for name in names if (match := _IN_CONDA.fullmatch(name)))


def folders_up_to(start: Path, root: Path) -> list[Path]:
    """*start* and the folders above it as far as *root*; *root* alone where *start* does not lie in it."""
    if not start.is_relative_to(root):
        return [root]
    return [folder for folder in (start, *start.parents) if folder.is_relative_to(root)]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
