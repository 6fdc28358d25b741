"""Private wheels that an environment installs from a file."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from himl_cli.core.errors import BadUsage

_NAME = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[\w.]*[A-Za-z0-9])?)-(?P<version>[A-Za-z0-9_.!+]+)(?:-(?P<build>\d[\w.]*))?"
    r"-(?P<python>[A-Za-z0-9_.]+)-(?P<abi>[A-Za-z0-9_.]+)-(?P<platform>[A-Za-z0-9_.]+)\.whl"
)
_RUNS_THERE = ("any", "linux", "manylinux")


def check_wheel(path: Path, shown: str) -> Path:
    """*path*, a wheel that can be installed on Linux. Raises BadUsage, saying *shown* as the user typed it."""
    if not path.is_file():
        raise BadUsage(
            f"--private_wheel: there is no file '{shown}'.",
            hint="Build one with 'python -m build --wheel', then name the file in dist/.",
        )
    if path.suffix != ".whl":
        raise BadUsage(
            f"--private_wheel: '{shown}' is no wheel.",
            hint="Its name ends in .whl; 'python -m build --wheel' makes one.",
        )
    named = _NAME.fullmatch(path.name)
    if named is None:
        raise BadUsage(
            f"--private_wheel: '{path.name}' is no name of a wheel, so pip would not install it.",
            hint="Give it the name it was built with: NAME-VERSION-py3-none-any.whl",
        )
    if not any(tag.startswith(_RUNS_THERE) for tag in named["platform"].split(".")):
        raise BadUsage(
            f"--private_wheel: '{path.name}' is for another system ({named['platform']}); jobs run on Linux.",
            hint="Build the wheel on Linux.",
        )
    if not zipfile.is_zipfile(path):
        raise BadUsage(
            f"--private_wheel: '{shown}' is no wheel: its content is broken.", hint="Build it again, or copy it again."
        )
    return path.resolve()
