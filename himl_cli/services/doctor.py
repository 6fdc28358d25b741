"""What `himl doctor` checks: the installation, the settings, each workspace."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from himl_cli.core.errors import ChecksFailed, HimlError, NotAllowed, WorkspaceNotFound
from himl_cli.core.installation import PACKAGE, install_command
from himl_cli.core.workspaces import HOW_TO_CONFIGURE, Check, CheckState, WorkspaceFacts, tried
from himl_cli.workspaces.base import FoundWorkspace

# Dependencies whose versions are worth a line when somebody asks for help
NAMED = ("azure-core", "azure-identity", "azure-storage-blob", "azure-ai-ml", "pycurl", "typer")
SETTINGS, CONFIGURATION, SIGN_IN = "settings", "configuration", "sign-in"
NO_AZURE = (
    "No Azure ML workspace is configured: no config.json with its keys was found here or above, and no HIML_* "
    "variables."
)
_EXTRA = re.compile(r"""extra == ["']([\w-]+)["']|["']([\w-]+)["'] == extra""")


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
    if not found:
        hint = f"{HOW_TO_CONFIGURE} Or run 'himl submit SCRIPT', which makes a local workspace."
        yield Check.failed(CONFIGURATION, f"No workspace. {NO_AZURE}", hint)
    for each in found:
        yield Check.passed(CONFIGURATION, f"{each.facts.label}, from {each.facts.source}.")
    if found and all(each.facts.kind == "local" and not each.is_named for each in found):
        yield Check.note(CONFIGURATION, NO_AZURE, HOW_TO_CONFIGURE)
    yield from (Check.note(CONFIGURATION, remark) for remark in remarks())
    for each in found:
        try:
            workspace = each.open()
        except NotAllowed as err:  # what is set for signing in cannot be used
            yield Check.failed(SIGN_IN, str(err), err.hint)
        else:
            yield from workspace.checks()


def verdict(checks: Sequence[Check]) -> HimlError | None:
    """The error to raise once all was shown: what failed, or None."""
    failed = list(dict.fromkeys(check.name for check in checks if check.state is CheckState.failed))
    if not failed:
        return None
    hint = "Mend the first one first: what comes after may depend on it." if len(failed) > 1 else ""
    return ChecksFailed(f"Not in order: {', '.join(failed)}.", hint=hint)


def installation_checks(lines: Sequence[str] | None = None) -> Iterator[Check]:
    """The interpreter, of which there are often several, packages and extras; *lines* are requirements in the form of
    package metadata, by default himl's own."""
    yield Check.passed("python", f"{platform.python_version()} on {platform.system()} ({sys.executable}).")
    try:
        wanted = requirements(lines if lines is not None else requires(PACKAGE) or ())
    except PackageNotFoundError:
        message = f"Not looked at: {PACKAGE} is not installed, and runs from '{Path(__file__).parents[1]}'."
        yield Check.note("packages", message, f"To install it: {sys.executable} -m {install_command()}")
        return
    found = {one.name: _installed(one.name) for one, _ in wanted}
    wrong = [f"{one.name} is missing" for one, extra in wanted if not extra and found[one.name] is None]
    for one, extra in wanted:
        have = found[one.name]
        if not extra and have is not None and not one.specifier.contains(have, prereleases=True):
            wrong.append(f"{one.name} {have} is not {one.specifier}")
    if wrong:
        command = install_command(options="--upgrade")
        yield Check.failed("packages", f"{'; '.join(wrong)}.", f"Install himl again: {sys.executable} -m {command}")
    else:
        versions = ", ".join(f"{name} {found[name]}" for name in NAMED if found.get(name))
        himl = _installed(PACKAGE) or "from its sources"
        yield Check.passed("packages", f"himl {himl}, {versions}." if versions else "All there.")
    # The extra 'all' only stands for the others
    lacking = sorted({extra for one, extra in wanted if extra not in ("", "all") and found[one.name] is None})
    if lacking:
        hint = f"To install one: {install_command(lacking[0])}"
        yield Check.note("extras", f"Not installed: {', '.join(lacking)}.", hint)


def requirements(lines: Sequence[str]) -> list[tuple[Requirement, str]]:
    """The requirements that hold on this Python, each with the extra that its marker names ('' the base install)."""
    found: list[tuple[Requirement, str]] = []
    for line in lines:
        one = Requirement(line)
        match = _EXTRA.search(str(one.marker or ""))
        extra = (match[1] or match[2]) if match else ""
        if one.marker is None or one.marker.evaluate({"extra": extra}):
            found.append((one, extra))
    return found


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def facts_of(found: Sequence[FoundWorkspace], *, ask: bool = True) -> list[tuple[WorkspaceFacts, HimlError | None]]:
    """What is known of each of *found*: without *ask*, and of one that does not answer, what its configuration says;
    and what a request to it raised.

    Raises WorkspaceNotFound where there is none.
    """
    if not found:
        raise WorkspaceNotFound(
            "No workspace is configured, and there is none here.", hint="'himl doctor' says where one is looked for."
        )
    described: list[tuple[WorkspaceFacts, HimlError | None]] = []
    for each in found:
        try:
            asked = replace(each.open().describe(), source=each.facts.source) if ask else each.facts
            described.append((asked, None))
        except HimlError as err:
            described.append((each.facts, err))
    return described
