"""The checks of `himl doctor`: the installation, the settings and each workspace."""

from __future__ import annotations

import platform
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from himl_cli.core.errors import ChecksFailed, HimlError, NotAllowed, WorkspaceNotFound
from himl_cli.core.installation import PACKAGE, install_command
from himl_cli.core.workspaces import HOW_TO_CONFIGURE, Check, CheckState, WorkspaceFacts, tried
from himl_cli.services.transfer.state import KEPT_DAYS
from himl_cli.services.transfer.unused import unused_downloads
from himl_cli.workspaces.base import FoundWorkspace

# Dependencies whose versions are useful in a request for help
NAMED = ("azure-core", "azure-identity", "azure-storage-blob", "azure-ai-ml", "pycurl", "typer")
SETTINGS, CONFIGURATION, SIGN_IN, COMPILED, CACHE = "settings", "configuration", "sign-in", "compiled modules", "cache"
NO_AZURE = (
    "No Azure ML workspace is configured: there is no config.json with its keys in this folder or above, and no "
    "HIML_* environment variables."
)
_EXTRA = re.compile(r"""extra == ["']([\w-]+)["']|["']([\w-]+)["'] == extra""")


def checkup(
    find: Callable[[], Sequence[FoundWorkspace]],
    remarks: Callable[[], Sequence[str]] = tuple,
    settings: Callable[[], Sequence[str]] = tuple,
) -> Iterator[Check]:
    """Check the installation, the settings, and each workspace of *find*. Continue after a failure if possible.

    *remarks* returns remarks on the search for workspaces, and *settings* the places where options are set.
    """
    yield from installation_checks()
    set_well = tried(
        SETTINGS,
        lambda: Check.passed(SETTINGS, f"{', '.join(settings()) or 'None are set'}."),
        "See the options: himl submit --help",
    )
    yield set_well
    if (unused := unused_downloads()).files:
        text = f"himl's cache has {unused.files:,} files that nothing used for {KEPT_DAYS} days"
        yield Check.note(CACHE, f"{text} ({unused.size / 1e6:,.1f} MB).", "Delete them: himl gc --yes")
    try:
        found = find()
    except HimlError as err:
        is_reported = str(err) == set_well.message
        yield (
            Check.skipped(CONFIGURATION, f"Not checked, because the {SETTINGS} failed.")
            if is_reported
            else Check.failed(CONFIGURATION, str(err), err.hint)
        )
        return
    if not found:
        hint = f"{HOW_TO_CONFIGURE} Or run 'himl submit SCRIPT', which creates a local workspace."
        yield Check.failed(CONFIGURATION, f"No workspace. {NO_AZURE}", hint)
    for each in found:
        yield Check.passed(CONFIGURATION, f"{each.facts.label}, from {each.facts.source}.")
    if found and all(each.facts.kind == "local" and not each.is_named for each in found):
        yield Check.note(CONFIGURATION, NO_AZURE, HOW_TO_CONFIGURE)
    yield from (Check.note(CONFIGURATION, remark) for remark in remarks())
    for each in found:
        try:
            workspace = each.open()
        except NotAllowed as err:  # the settings for signing in are invalid
            yield Check.failed(SIGN_IN, str(err), err.hint)
        else:
            yield from workspace.checks()


def verdict(checks: Sequence[Check]) -> HimlError | None:
    """The error to raise after all checks, or None if none failed."""
    failed = list(dict.fromkeys(check.name for check in checks if check.state is CheckState.failed))
    if not failed:
        return None
    hint = "Fix the first one first, because the others may depend on it." if len(failed) > 1 else ""
    return ChecksFailed(f"Failed checks: {', '.join(failed)}.", hint=hint)


def installation_checks(lines: Sequence[str] | None = None) -> Iterator[Check]:
    """Check the interpreter, because a machine often has several, the packages and the extras. *lines* are requirements
    in the format of package metadata, by default himl's own."""
    yield Check.passed("python", f"{platform.python_version()} on {platform.system()} ({sys.executable}).")
    try:
        wanted = requirements(lines if lines is not None else requires(PACKAGE) or ())
    except PackageNotFoundError:
        message = f"Not checked, because {PACKAGE} is not installed and runs from '{Path(__file__).parents[1]}'."
        yield Check.note("packages", message, f"Install it: {sys.executable} -m {install_command()}")
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
        yield Check.passed("packages", f"himl {himl}, {versions}." if versions else "All are installed.")
    loaded = [module.__spec__ for name, module in [*sys.modules.items()] if name.partition(".")[0] == "himl_cli"]
    if lacking := [spec for spec in loaded if spec and spec.cached and not Path(spec.cached).exists()]:
        text = f"Python compiles {len(lacking)} modules of himl in each command, because they have no .pyc files."
        hint = f"Write these: {sys.executable} -m compileall -q {shlex.quote(str(Path(__file__).parents[1]))}"
        yield Check.note(COMPILED, text, hint)
    # The extra 'all' is the sum of the others
    extras = sorted({extra for one, extra in wanted if extra not in ("", "all") and found[one.name] is None})
    if extras:
        hint = f"Install one: {install_command(extras[0])}"
        yield Check.note("extras", f"Not installed: {', '.join(extras)}.", hint)


def requirements(lines: Sequence[str]) -> list[tuple[Requirement, str]]:
    """The requirements that apply to this Python, each with the extra of its marker (an empty text for none)."""
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
    """The description of each workspace in *found*, and the error of the request to it, if any. Without *ask*, and for
    a workspace that does not respond, the description comes from its configuration.

    Raises WorkspaceNotFound if there is none.
    """
    if not found:
        raise WorkspaceNotFound(
            "No workspace is configured, and there is no local workspace.", hint="See where himl looks: himl doctor"
        )
    described: list[tuple[WorkspaceFacts, HimlError | None]] = []
    for each in found:
        try:
            asked = replace(each.open().describe(), source=each.facts.source) if ask else each.facts
            described.append((asked, None))
        except HimlError as err:
            described.append((each.facts, err))
    return described
