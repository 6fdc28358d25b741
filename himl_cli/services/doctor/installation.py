"""Checks of the installation: Python, the packages that himl needs, those of its extras."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from operator import eq, ge, gt, le, lt, ne
from typing import NamedTuple

from himl_cli.core.checks import Check

PACKAGE = "himl-cli"
EVERYTHING = "all"
"""The extra that only stands for the others."""
OLDEST_PYTHON = (3, 10)
NAMED = ("azure-core", "azure-identity", "azure-storage-blob", "azure-ai-ml", "pycurl", "typer")
"""Dependencies whose versions are worth a line when somebody asks for help."""

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[^\]]*\])?\s*(?P<bounds>[^;]*)(?:;\s*(?P<marker>.*))?")
_BOUND = re.compile(r"(>=|<=|==|!=|<|>)\s*([\w.]+)")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")
_COMPARE = {">=": ge, "<=": le, "==": eq, "!=": ne, "<": lt, ">": gt}


class Requirement(NamedTuple):
    """One line of a package's metadata: a package, the versions that will do, and the extra that asks for it ('' the base install)."""

    name: str
    bounds: str
    extra: str


def installation_checks(lines: Sequence[str] | None = None) -> Iterator[Check]:
    """Python, packages and extras; *lines* are requirements in the form of package metadata, by default himl's own."""
    yield python_check(sys.version_info[:2])
    wanted = requirements(lines if lines is not None else requires(PACKAGE) or ())
    yield packages_check([one for one in wanted if not one.extra])
    yield from _extras_check([one for one in wanted if one.extra])


def python_check(running: tuple[int, ...]) -> Check:
    """Whether *running* (major, minor) is new enough; names the interpreter, of which there are often several."""
    said = f"{platform.python_version()} on {platform.system()} ({sys.executable})."
    if running < OLDEST_PYTHON:
        return Check.failed("python", said, f"himl needs Python {'.'.join(map(str, OLDEST_PYTHON))} or later.")
    return Check.passed("python", said)


def packages_check(wanted: Sequence[Requirement]) -> Check:
    """Whether each is installed in a version that will do."""
    found = {one.name: installed(one.name) for one in wanted}
    wrong = [f"{one.name} is missing" for one in wanted if found[one.name] is None]
    wrong += [f"{one.name} {have} is not {one.bounds}" for one in wanted if (have := found[one.name]) is not None and not fits(have, one.bounds)]
    if wrong:
        return Check.failed("packages", f"{'; '.join(wrong)}.", f"Install himl again: {sys.executable} -m pip install --upgrade {PACKAGE}")
    versions = ", ".join(f"{name} {found[name]}" for name in NAMED if found.get(name))
    return Check.passed("packages", f"himl {installed(PACKAGE) or 'from its sources'}, {versions}." if versions else "All there.")


def _extras_check(wanted: Sequence[Requirement]) -> Iterator[Check]:
    """What is not installed, for information: nothing that the other commands need."""
    lacking = sorted({one.extra for one in wanted if one.extra != EVERYTHING and installed(one.name) is None})
    if lacking:
        yield Check.note("extras", f"Not installed: {', '.join(lacking)}.", f"To install one: pip install '{PACKAGE}[{lacking[0]}]'")


def requirements(lines: Sequence[str]) -> list[Requirement]:
    """The requirements that hold on this Python: markers other than extras are those of older versions."""
    found: list[Requirement] = []
    for line in lines:
        parts = _REQUIREMENT.match(line)
        if parts is None:
            continue
        marker = parts["marker"] or ""
        extra = _EXTRA.search(marker)
        if extra or not marker:
            found.append(Requirement(parts["name"], parts["bounds"].strip().strip("()"), extra[1] if extra else ""))
    return found


def installed(name: str) -> str | None:
    """The version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def fits(have: str, bounds: str) -> bool:
    """Whether version *have* is within *bounds* (`>=1.2,<2`). Letters of pre-releases are not compared."""
    return all(_COMPARE[sign](*_comparable(have, bound)) for sign, bound in _BOUND.findall(bounds))


def _comparable(one: str, two: str) -> tuple[list[int], list[int]]:
    numbers = [[int(number) for number in re.findall(r"\d+", text)] for text in (one, two)]
    size = max(map(len, numbers))
    first, second = ([*each, *[0] * (size - len(each))] for each in numbers)
    return first, second
