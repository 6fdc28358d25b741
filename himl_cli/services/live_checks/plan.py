"""The live checks of one call: which ones, what they cost, and their course from the first job to the clean-up."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from himl_cli.core.errors import BadUsage, ChecksFailed, HimlError, NotFound
from himl_cli.core.events import Notify
from himl_cli.core.records import dataclass
from himl_cli.core.workspaces import Check
from himl_cli.services.live_checks import jobs, probe, reading, storing
from himl_cli.services.live_checks.report import JSON_FILE, PAGE, Report, Verdict, read_report
from himl_cli.services.live_checks.session import (
    EXPERIMENT,
    SCRIPT,
    LiveCheck,
    LiveSession,
    clean_up,
    next_report,
    run_checks,
    selected,
)
from himl_cli.workspaces.base import ObservedWorkspace, Workspace

# The first two look at the first submissions of their jobs, and the last one deletes a job
CHECKS = (*jobs.CHECKS, *storing.CHECKS[:-1], *reading.CHECKS, storing.CHECKS[-1])


@dataclass(frozen=True)
class Plan:
    """The checks of a call on a cluster, and the report in *folder* that it starts or continues."""

    workspace: ObservedWorkspace
    cluster: str
    checks: Sequence[LiveCheck]
    report: Report
    folder: Path
    is_continued: bool


def prepare(workspace: Workspace, cluster: str, names: Sequence[str], folder: Path) -> Plan:
    """The checks called *names*, or all that are left, with the report in *folder*. Submits nothing. Raises BadUsage
    for an unknown name and for a report on another place, NotFound without such a cluster."""
    found = read_report(folder)
    checks = selected(CHECKS, names, found)
    if not isinstance(workspace, ObservedWorkspace):
        raise BadUsage(f"{workspace.label} has no live checks.", hint="Name the config.json of an Azure ML workspace.")
    if not workspace.has_cluster(cluster):
        raise NotFound(f"No cluster '{cluster}' in {workspace.label}.", hint="List the clusters in Studio.")
    report = next_report(found, names, workspace, cluster)
    return Plan(workspace, cluster, checks, report, folder, is_continued=report is found)


def announcement(plan: Plan, *, keeps: bool) -> Iterator[str]:
    """What the checks do and cost, a line each."""
    new = dict.fromkeys(key for check in plan.checks for key in check.jobs if key not in plan.report.jobs)
    yield f"Checks: {', '.join(check.name for check in plan.checks) or 'none is left'}."
    if plan.report.jobs:
        yield f"himl continues with {len(plan.report.jobs)} runs of an earlier call."
    if new:
        yield (
            f"himl submits {len(new)} short jobs to cluster '{plan.cluster}', in the experiment '{EXPERIMENT}'. They "
            "run for seconds, most of them on one node. Azure charges for the nodes, also while they start and idle."
        )
    yield f"himl stores a few MB in the workspace. At the end, it {'keeps' if keeps else 'deletes'} its runs and files."
    yield f"The results go to {JSON_FILE} and {PAGE} in this folder, without names and secrets."


def perform(plan: Plan, environment: str | None, notify: Notify, *, keeps: bool) -> Iterator[Check]:
    """Run the checks and yield their findings. The report has every finding at once. At the end, delete the runs,
    unless the call *keeps* them or a check must be tried again. Jobs use the registered *environment*, or himl's
    default. Raises DiskFailed."""
    report = plan.report
    with tempfile.TemporaryDirectory(prefix="himl-live-") as temporary:
        code = Path(temporary)
        shutil.copy(str(probe.__file__), code / SCRIPT)
        # Another digest of the code in each session, so that its first job uploads it
        (code / "session.txt").write_text(report.session, encoding="utf-8")
        save = partial(report.save, plan.folder)
        live = LiveSession(plan.workspace, plan.cluster, environment, report, code, save, notify, plan.is_continued)
        save()
        try:
            yield from run_checks(live, plan.checks)
            if not keeps and not unfinished(report):
                clean_up(live)
        finally:
            report.write_page(plan.folder, {check.name: check.asks for check in CHECKS})


def conclusion(report: Report) -> Iterator[str]:
    """What remains in the workspace, and where the report is."""
    for line in report.remains:
        yield f"Remains: {line}."
    if not report.is_finished:
        yield "The runs of the checks remain. The same command without --keep continues and deletes them."
    yield f"Wrote {JSON_FILE} and {PAGE}, which you can send to the project."


def verdict(report: Report) -> HimlError | None:
    """The error of a report with assumptions that do not hold, or with checks that a later call must complete."""
    refuted = [
        name
        for name, record in report.checks.items()
        if any(one.verdict is Verdict.refuted for one in record.findings.values())
    ]
    if refuted:
        return ChecksFailed(f"Assumptions of these checks do not hold: {', '.join(refuted)}.", hint=f"See {PAGE}.")
    if left := unfinished(report):
        return ChecksFailed(f"himl could not complete these checks: {', '.join(left)}.", hint="Run the command again.")
    return None


def unfinished(report: Report) -> list[str]:
    return [name for name, record in report.checks.items() if not record.is_complete]
