"""The steps of a pipeline, one after another; the first that does not complete ends it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from himl_cli.core.jobs import STEP
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.keeping import Outcome
from himl_cli.workspaces.local.many.child_orders import step_id, step_order, step_outputs
from himl_cli.workspaces.local.many.course import told_end
from himl_cli.workspaces.local.many.family import Family
from himl_cli.workspaces.local.many.plan import PlannedJob

LINES_OF_A_FAILURE = 10


def run_steps(family: Family) -> Outcome:
    """Run what is left of the pipeline, and give how it ended."""
    outcome = _run_in_order(family)
    family.course.say(f"{outcome.status.value.lower()}{f': {outcome.reason}' if outcome.reason else ''}")
    return outcome


def _run_in_order(family: Family) -> Outcome:
    jobs = family.plan.jobs
    known = (
        {run.tags[STEP]: (run, is_at_work) for run, is_at_work in family.recorded() if STEP in run.tags}
        if family.plan.again
        else {}
    )
    left = _left(family, {key for key, (run, _) in known.items() if run.status is RunStatus.completed})
    count = f"{len(jobs)} step{'s' * (len(jobs) != 1)}"
    family.course.say(f"resumed: {len(left)} of {count} are left" if family.plan.again else count)
    for number, job in enumerate(jobs):
        if family.stopping:
            return family.stopping
        before, is_at_work = known.get(job.key, (None, False))
        if job.key not in left:
            continue
        if before is not None and before.status is RunStatus.completed:
            family.store.reopen(before.id)  # its supervisor refuses what is completed
        run, trouble = _run_step(family, job, is_at_work)
        if family.stopping:
            return family.stopping
        if run is None or run.status is not RunStatus.completed:
            return _stopped_at(job, run, trouble, jobs[number + 1 :])
    return Outcome(RunStatus.completed)


def _left(family: Family, completed: set[str]) -> set[str]:
    """The keys of the steps that have to run: those that are not completed, and those whose output one of these reads
    and which is gone."""
    left: set[str] = set()
    lost: dict[str, str] = {}
    for job in reversed(family.plan.jobs):
        gone = (
            [path for path in step_outputs(family.plan, job).values() if not Path(path).is_dir()]
            if job.key in lost
            else []
        )
        if job.key in completed and not gone:
            continue
        if job.key in completed:
            family.course.say(f"{job.title} runs again: {lost[job.key]} reads its output, and '{gone[0]}' is gone")
        left.add(job.key)
        lost |= {step: job.key for step, _ in job.takes.values()}
    return left


def _run_step(family: Family, job: PlannedJob, is_at_work: bool) -> tuple[Run | None, str]:
    """The step's run as it ended; None, and why, where it could not be recorded."""
    run_id = step_id(family.plan, job)
    if is_at_work:
        family.children.adopt(run_id)
    else:
        family.children.start(step_order(family.plan, job))
    family.course.say(f"{job.title}: {'at work' if is_at_work else 'started'}, {run_id}")
    while (ended := family.next_end()) is None:
        _ = family.stopping  # asks it to stop where the pipeline was
    run, _, trouble = ended
    family.course.say(f"{job.title}: {told_end(run) if run else f'could not be started: {trouble}'}")
    if run is not None and run.status is RunStatus.failed:
        for line in family.last_lines(run, LINES_OF_A_FAILURE):
            family.course.say(f"  {job.key}: {line}")
    return run, trouble


def _stopped_at(job: PlannedJob, run: Run | None, trouble: str, others: Sequence[PlannedJob]) -> Outcome:
    rest = f"; not started: {', '.join(other.key for other in others)}" if others else ""
    if run is None:
        return Outcome(RunStatus.failed, reason=f"{job.title} could not be started: {trouble.rstrip('.')}{rest}")
    if run.status is RunStatus.canceled:
        return Outcome(RunStatus.canceled, run.exit_code, f"{job.title} was canceled{rest}")
    return Outcome(RunStatus.failed, run.exit_code, f"{job.title} failed: {run.reason or 'no reason is known'}{rest}")
