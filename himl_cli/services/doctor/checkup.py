"""All checks, in the order in which one depends on another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from himl_cli.core.errors import ChecksFailed, HimlError, NotAllowed
from himl_cli.core.workspaces import HOW_TO_CONFIGURE, Check, CheckState, tried
from himl_cli.services.doctor.installation import installation_checks
from himl_cli.workspaces.base import FoundWorkspace

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
    set_well = tried(SETTINGS, partial(_settings, settings), "'himl submit --help' has the options.")
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
        yield from _checks_of(each)


def _settings(places: Callable[[], Sequence[str]]) -> Check:
    """Where options are set."""
    return Check.passed(SETTINGS, f"{', '.join(places()) or 'None are set'}.")


def _checks_of(found: FoundWorkspace) -> Iterator[Check]:
    """The workspace's own checks; none of them where what is set for signing in cannot be used."""
    try:
        workspace = found.open()
    except NotAllowed as err:
        yield Check.failed(SIGN_IN, str(err), err.hint)
        return
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
