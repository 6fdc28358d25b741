"""The live checks of one call: which ones, what they cost, and their course from the first job to the clean-up."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from himl_cli.core.errors import BadUsage, ChecksFailed, HimlError, NotFound
from himl_cli.core.events import Notify
from himl_cli.core.records import dataclass
from himl_cli.core.text import did_you_mean
from himl_cli.core.workspaces import Check
from himl_cli.services.live_checks import jobs, probe, reading, storing
from himl_cli.services.live_checks.masking import Mask
from himl_cli.services.live_checks.report import JSON_FILE, REPORT_PAGE, Report, Verdict, read_report
from himl_cli.services.live_checks.session import (
    CODE,
    LIVE_EXPERIMENT,
    SCRIPT,
    LiveCheck,
    LiveSession,
    clean_up,
    run_checks,
)
from himl_cli.workspaces.base import ObservedWorkspace, Workspace

# The first two look at the first submissions of their jobs, and the last one deletes a job
ALL_CHECKS = (*jobs.CHECKS, *storing.CHECKS[:-1], *reading.CHECKS, storing.CHECKS[-1])


@dataclass(frozen=True)
class CheckPlan:
    """The checks of a call on a cluster, and the report in `folder` that it starts or continues. `names` identify the
    workspace, the cluster and the user, and are no part of the report. `wanted` are the checks that the user named."""

    workspace: ObservedWorkspace
    cluster: str
    names: Mapping[str, str]
    wanted: Sequence[str]
    checks: Sequence[LiveCheck]
    report: Report
    is_continued: bool
    folder: Path


def prepare(workspace: Workspace, cluster: str, wanted: Sequence[str], folder: Path) -> CheckPlan:
    """The checks called *wanted*, or all that the report in *folder* lacks. Submits nothing. Raises BadUsage for an
    unknown name and for a report on another place, NotFound without such a cluster."""
    known = {check.name: check for check in ALL_CHECKS}
    if unknown := next((name for name in wanted if name not in known), None):
        hint = did_you_mean(unknown, known) or f"Checks: {', '.join(known)}."
        raise BadUsage(f"Unknown check '{unknown}'.", hint=hint)
    found = read_report(folder)
    if not isinstance(workspace, ObservedWorkspace):
        raise BadUsage(f"{workspace.label} has no live checks.", hint="Name the config.json of an Azure ML workspace.")
    if not workspace.has_cluster(cluster):
        raise NotFound(f"No cluster '{cluster}' in {workspace.label}.", hint="List the clusters in Studio.")
    names = {**workspace.identifying_names(), cluster: "cluster"}
    if found is not None and found.place != _place(found.session, names):
        raise BadUsage(
            f"'{JSON_FILE}' in this folder is a report on another workspace or cluster.",
            hint="Move the file, or run the command in another folder.",
        )
    is_continued = found is not None and not found.is_finished
    report = found if found is not None and is_continued else _next_session(found if wanted else None, names)
    left = [check for check in ALL_CHECKS if check.name not in report.checks or check.name in unfinished(report)]
    checks = [known[name] for name in dict.fromkeys(wanted)] or left
    return CheckPlan(workspace, cluster, names, wanted, checks, report, is_continued, folder)


def _next_session(before: Report | None, names: Mapping[str, str]) -> Report:
    """The report of a new session, with the results *before* it."""
    session = os.urandom(4).hex()
    return Report(session, _place(session, names), checks=before.checks if before else {})


def _place(session: str, names: Mapping[str, str]) -> str:
    """A digest of the workspace and the cluster, from which their names cannot be found."""
    told = sorted(name.lower() for name, kind in names.items() if kind != "user")
    return hashlib.sha256(repr([session, told]).encode()).hexdigest()[:16]


def announcement(plan: CheckPlan, *, keeps: bool) -> Iterator[str]:
    """What the checks do and cost, a line each."""
    new = {key for check in plan.checks for key in check.jobs} - plan.report.jobs.keys()
    yield f"Checks: {', '.join(check.name for check in plan.checks) or 'none is left'}."
    if plan.report.jobs:
        yield f"himl continues an earlier call, which started {len(plan.report.jobs)} of the runs."
    if new:
        jobs, run = ("a short job", "It runs") if len(new) == 1 else (f"{len(new)} short jobs", "They run")
        yield (
            f"himl submits {jobs} to cluster '{plan.cluster}', in the experiment '{LIVE_EXPERIMENT}'. {run} for "
            f"seconds{', most of them on one node' * (len(new) > 1)}. Azure charges for the nodes, also while they "
            "start and idle."
        )
    yield f"himl stores a few MB in the workspace. At the end, it {'keeps' if keeps else 'deletes'} its runs and files."
    yield f"The results go to {JSON_FILE} and {REPORT_PAGE} in this folder, without names and secrets."


def perform(plan: CheckPlan, environment: str | None, notify: Notify, *, keeps: bool) -> Iterator[Check]:
    """Run the checks and yield their findings. The report has every finding at once. At the end, delete the runs,
    unless the call *keeps* them or a check must be tried again. Jobs use the registered *environment*, or himl's
    default. Raises DiskFailed."""
    own = environment.partition(":")[0].partition("@")[0] if environment and "://" not in environment else ""
    report, mask = plan.report, Mask({**plan.names, own: "environment"})
    with tempfile.TemporaryDirectory(prefix="himl-live-") as temporary:
        folder, save = Path(temporary), partial(report.save, plan.folder)
        (folder / CODE).mkdir()
        shutil.copy(str(probe.__file__), folder / SCRIPT)
        # Another digest of the code in each session, so that its first job uploads it
        (folder / CODE / "session.txt").write_text(report.session, encoding="utf-8")
        place = (plan.workspace, plan.cluster, environment)
        live = LiveSession(*place, report, plan.is_continued, folder, mask, save, notify)
        save()
        try:
            yield from run_checks(live, plan.checks)
            if not keeps and not unfinished(report):
                clean_up(live)
        finally:
            report.write_page(plan.folder, {check.name: check.asks for check in ALL_CHECKS})


def conclusion(report: Report) -> Iterator[str]:
    """What remains in the workspace, and where the report is."""
    for line in report.remains:
        yield f"Remains: {line}."
    if not report.is_finished:
        yield "The runs of the checks remain. The same command without --keep continues and deletes them."
    yield f"Wrote {JSON_FILE} and {REPORT_PAGE}, which you can send to the project."


def verdict(plan: CheckPlan) -> HimlError | None:
    """The error for assumptions that do not hold, or for checks that a later call must complete, or None. It is about
    the named checks, or else about the whole report."""
    checks = {name: one for name, one in plan.report.checks.items() if name in (plan.wanted or plan.report.checks)}
    found = {name: {finding.verdict for finding in one.findings.values()} for name, one in checks.items()}
    if refuted := [name for name, verdicts in found.items() if Verdict.refuted in verdicts]:
        return ChecksFailed(
            f"Assumptions of these checks do not hold: {', '.join(refuted)}.", hint=f"See {REPORT_PAGE}."
        )
    if left := [name for name in unfinished(plan.report) if name in checks]:
        return ChecksFailed(f"himl could not complete these checks: {', '.join(left)}.", hint="Run the command again.")
    return None


def unfinished(report: Report) -> list[str]:
    return [name for name, record in report.checks.items() if not record.is_complete]
