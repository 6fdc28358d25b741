"""Checks of the installation: Python, the packages that himl needs, those of its extras."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from himl_cli.core.installing import PACKAGE, install_command
from himl_cli.core.workspaces import Check
from himl_cli.services.submission.environment import OLDEST_PYTHON

EVERYTHING = "all"
"""The extra that only stands for the others."""
NAMED = ("azure-core", "azure-identity", "azure-storage-blob", "azure-ai-ml", "pycurl", "typer")
"""Dependencies whose versions are worth a line when somebody asks for help."""

_EXTRA = re.compile(r"""extra == ["']([\w-]+)["']|["']([\w-]+)["'] == extra""")


class Wanted(NamedTuple):
    """One line of a package's metadata: a package, the versions that will do, and the extra that asks for it ('' the
    base install)."""

    name: str
    bounds: SpecifierSet
    extra: str


def installation_checks(lines: Sequence[str] | None = None) -> Iterator[Check]:
    """Python, packages and extras; *lines* are requirements in the form of package metadata, by default himl's own."""
    yield python_check(sys.version_info[:2])
    try:
        wanted = requirements(lines if lines is not None else requires(PACKAGE) or ())
    except PackageNotFoundError:
        said = f"Not looked at: {PACKAGE} is not installed, and runs from '{Path(__file__).parents[2]}'."
        yield Check.note("packages", said, f"To install it: {sys.executable} -m {install_command()}")
        return
    yield packages_check([one for one in wanted if not one.extra])
    yield from _extras_check([one for one in wanted if one.extra])


def python_check(running: tuple[int, ...]) -> Check:
    """Whether *running* (major, minor) is new enough; names the interpreter, of which there are often several."""
    said = f"{platform.python_version()} on {platform.system()} ({sys.executable})."
    if running < OLDEST_PYTHON:
        return Check.failed("python", said, f"himl needs Python {'.'.join(map(str, OLDEST_PYTHON))} or later.")
    return Check.passed("python", said)


def packages_check(wanted: Sequence[Wanted]) -> Check:
    """Whether each is installed in a version that will do."""
    found = {one.name: installed(one.name) for one in wanted}
    wrong = [f"{one.name} is missing" for one in wanted if found[one.name] is None]
    wrong += [
        f"{one.name} {have} is not {one.bounds}"
        for one in wanted
        if (have := found[one.name]) is not None and not one.bounds.contains(have, prereleases=True)
    ]
    if wrong:
        return Check.failed(
            "packages",
            f"{'; '.join(wrong)}.",
            f"Install himl again: {sys.executable} -m {install_command(options='--upgrade')}",
        )
    versions = ", ".join(f"{name} {found[name]}" for name in NAMED if found.get(name))
    return Check.passed(
        "packages", f"himl {installed(PACKAGE) or 'from its sources'}, {versions}." if versions else "All there."
    )


def _extras_check(wanted: Sequence[Wanted]) -> Iterator[Check]:
    """What is not installed, for information: nothing that the other commands need."""
    lacking = sorted({one.extra for one in wanted if one.extra != EVERYTHING and installed(one.name) is None})
    if lacking:
        yield Check.note(
            "extras", f"Not installed: {', '.join(lacking)}.", f"To install one: {install_command(lacking[0])}"
        )


def requirements(lines: Sequence[str]) -> list[Wanted]:
    """The requirements that hold on this Python, each with the extra that its marker names."""
    found: list[Wanted] = []
    for line in lines:
        one = Requirement(line)
        extra = _EXTRA.search(str(one.marker or ""))
        name = next(filter(None, extra.groups())) if extra else ""
        if one.marker is None or one.marker.evaluate({"extra": name}):
            found.append(Wanted(one.name, one.specifier, name))
    return found


def installed(name: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
