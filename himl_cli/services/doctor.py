"""What `himl doctor` checks: the installation, the settings, each workspace."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from himl_cli.core.errors import ChecksFailed, HimlError, NotAllowed, WorkspaceNotFound
from himl_cli.core.installation import PACKAGE, install_command
from himl_cli.core.workspaces import HOW_TO_CONFIGURE, Check, CheckState, WorkspaceFacts, tried
from himl_cli.services.submission.environment import OLDEST_PYTHON
from himl_cli.workspaces.base import FoundWorkspace

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
        said = f"Not looked at: {PACKAGE} is not installed, and runs from '{Path(__file__).parents[1]}'."
        yield Check.note("packages", said, f"To install it: {sys.executable} -m {install_command()}")
        return
    yield packages_check([one for one in wanted if not one.extra])
    lacking = sorted({one.extra for one in wanted if one.extra not in ("", EVERYTHING) and not installed(one.name)})
    if lacking:
        yield Check.note(
            "extras", f"Not installed: {', '.join(lacking)}.", f"To install one: {install_command(lacking[0])}"
        )


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


SETTINGS, CONFIGURATION, SIGN_IN = "settings", "configuration", "sign-in"
NO_AZURE = (
    "No Azure ML workspace is configured: no config.json with its keys was found here or above, and no HIML_* "
    "variables."
)


def checkup(
    find: Callable[[], Sequence[FoundWorkspace]],
    remarks: Callable[[], Sequence[str]] = tuple,
    settings: Callable[[], Sequence[str]] = tuple,
) -> Iterator[Check]:
    """Look at the installation, the settings, then each of the workspaces that *find* gives; goes on after a failure
    where that makes sense.

    *remarks* gives what is worth knowing of how they were found, *settings* where options are set.
    """
    yield from installation_checks()
    set_well = tried(
        SETTINGS,
        lambda: Check.passed(SETTINGS, f"{', '.join(settings()) or 'None are set'}."),
        "'himl submit --help' has the options.",
    )
    yield set_well
    try:
        found = find()
    except HimlError as err:
        is_told = str(err) == set_well.message
        yield (
            Check.skipped(CONFIGURATION, f"Not looked at: the {SETTINGS} failed.")
            if is_told
            else Check.failed(CONFIGURATION, str(err), err.hint)
        )
        return
    yield from _configuration(found)
    yield from (Check.note(CONFIGURATION, remark) for remark in remarks())
    for each in found:
        try:
            workspace = each.open()
        except NotAllowed as err:  # what is set for signing in cannot be used
            yield Check.failed(SIGN_IN, str(err), err.hint)
        else:
            yield from workspace.checks()


def _configuration(found: Sequence[FoundWorkspace]) -> Iterator[Check]:
    """Which workspaces are meant, and why."""
    if not found:
        yield Check.failed(
            CONFIGURATION,
            f"No workspace. {NO_AZURE}",
            f"{HOW_TO_CONFIGURE} Or run 'himl submit SCRIPT', which makes a local workspace.",
        )
    for each in found:
        yield Check.passed(CONFIGURATION, f"{each.label}, from {each.source}.")
    if found and all(each.kind == "local" for each in found) and not any(each.is_named for each in found):
        yield Check.note(CONFIGURATION, NO_AZURE, HOW_TO_CONFIGURE)


def verdict(checks: Sequence[Check]) -> HimlError | None:
    """The error to raise once all was shown: what failed, or None."""
    failed = list(dict.fromkeys(check.name for check in checks if check.state is CheckState.failed))
    if not failed:
        return None
    hint = "Mend the first one first: what comes after may depend on it." if len(failed) > 1 else ""
    return ChecksFailed(f"Not in order: {', '.join(failed)}.", hint=hint)


@dataclass(frozen=True)
class DescribedWorkspace:
    """What is known of a workspace, and why it is no more: `error` is what the request to it raised."""

    facts: WorkspaceFacts
    error: HimlError | None = None


def facts_of(found: Sequence[FoundWorkspace], *, ask: bool = True) -> list[DescribedWorkspace]:
    """What is known of each of *found*: without *ask*, and of one that does not answer, what its configuration says.

    Raises WorkspaceNotFound where there is none.
    """
    if not found:
        raise WorkspaceNotFound(
            "No workspace is configured, and there is none here.", hint="'himl doctor' says where one is looked for."
        )
    described = []
    for each in found:
        facts, error = WorkspaceFacts(each.kind, each.label, each.source, each.facts), None
        try:
            facts = replace(each.open().describe(), source=each.source) if ask else facts
        except HimlError as err:
            error = err
        described.append(DescribedWorkspace(facts, error))
    return described
