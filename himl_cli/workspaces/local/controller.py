"""The process that looks after a sweep or a pipeline: starts its children one after another, and records how the whole
ended.

Started as a job's supervisor is, and reports the same. The children have supervisors of their own: when this process is
killed, those that run go on to their end, and the run can be resumed later.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from himl_cli.core.jobs import STEP
from himl_cli.core.results import NewRun
from himl_cli.core.runs import Run, RunStatus
from himl_cli.core.sweeps import GOAL, MANY, PRIMARY_METRIC
from himl_cli.workspaces.local.children import Children, describe_end
from himl_cli.workspaces.local.run_folder import PLAN, RECORD
from himl_cli.workspaces.local.run_process import CANCELED, TERMINATED, Outcome, RunProcess, read_request, report
from himl_cli.workspaces.local.run_store import RunStore
from himl_cli.workspaces.local.staging import stage_files
from himl_cli.workspaces.local.sweep import Sweep
from himl_cli.workspaces.local.sweep_plan import (
    PIPELINE,
    Plan,
    PlannedJob,
    plan_from_json,
    step_id,
    step_outputs,
    step_request,
)

LINES_OF_A_FAILURE = 10


def main() -> None:
    Controller(plan_from_json(read_request())).run()


class Controller(RunProcess):
    """One sweep, or one pipeline."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.run_folder, plan.workspace, again=plan.again)
        self._plan = plan

    def add_run(self, store: RunStore) -> None:
        plan, facts = self._plan, {MANY: self._plan.kind}
        if plan.kind != PIPELINE:
            facts |= {PRIMARY_METRIC: plan.sweep.primary_metric, GOAL: plan.sweep.goal}
        tags = {**plan.tags, **facts}
        new = NewRun(plan.run_id, plan.experiment, plan.display_name, plan.description, tags, command=plan.command)
        store.add(new, folder=str(self.folder.path / plan.jobs[0].place))

    def work(self, store: RunStore) -> Outcome:
        plan = self._plan if self._plan.again else self._stage()
        store.start(plan.run_id)
        report("started")
        children = Children(plan, store, self._why_stopped)
        outcome = _run_steps(children) if plan.kind == PIPELINE else Sweep(children).run()
        children.log(f"{outcome.status.value.lower()}{f': {outcome.reason}' if outcome.reason else ''}")
        return outcome

    def _stage(self) -> Plan:
        self.folder.user_logs.mkdir()
        (self.folder.user_logs / "std_log.txt").touch()
        for place, spec in {job.place: job.spec for job in self._plan.jobs}.items():
            target = self.folder.path / place
            target.mkdir(parents=True)
            stage_files(spec, target, is_stopped=self.is_stopped)
        plan = self._plan.staged()
        self.folder.write(PLAN, {"many": plan.stored()})
        made = {job.key: step_outputs(plan, job) for job in plan.jobs} if plan.outputs else {}
        self.folder.write(RECORD, {"outputs": {name: made[step][key] for name, (step, key) in plan.outputs.items()}})
        return plan

    def _why_stopped(self) -> Outcome | None:
        """How the whole ends where it was told to stop."""
        if self._terminated:
            return Outcome(RunStatus.failed, reason=TERMINATED)
        return Outcome(RunStatus.canceled, reason=CANCELED) if self.folder.is_cancel_asked() else None


def _run_steps(children: Children) -> Outcome:
    """Run what is left of the pipeline, one step after another, and give how it ended; the first step that does not
    complete ends it."""
    plan = children.plan
    recorded = children.recorded() if plan.again else ()
    known = {run.tags[STEP]: (run, is_at_work) for run, is_at_work in recorded if STEP in run.tags}
    left = _steps_left(children, {key for key, (run, _) in known.items() if run.status is RunStatus.completed})
    count = f"{len(plan.jobs)} step{'s' * (len(plan.jobs) != 1)}"
    children.log(f"resumed: {len(left)} of {count} are left" if plan.again else count)
    for number, job in enumerate(plan.jobs):
        if children.stopping:
            return children.stopping
        before, is_at_work = known.get(job.key, (None, False))
        if job.key not in left:
            continue
        if before is not None and before.status is RunStatus.completed:
            children.store.reopen(before.id)  # its supervisor refuses what is completed
        run, trouble = _run_step(children, job, is_at_work)
        if children.stopping:
            return children.stopping
        if run is None or run.status is not RunStatus.completed:
            return _stopped_at(job, run, trouble, plan.jobs[number + 1 :])
    return Outcome(RunStatus.completed)


def _steps_left(children: Children, completed: set[str]) -> set[str]:
    """The keys of the steps that have to run: those that are not completed, and those whose output one of these reads
    and which is gone."""
    left: set[str] = set()
    read_by: dict[str, str] = {}
    for job in reversed(children.plan.jobs):
        outputs = step_outputs(children.plan, job).values() if job.key in read_by else ()
        gone = [path for path in outputs if not Path(path).is_dir()]
        if job.key in completed and not gone:
            continue
        if job.key in completed:
            children.log(f"{job.title} runs again: {read_by[job.key]} reads its output, and '{gone[0]}' is gone")
        left.add(job.key)
        read_by |= {step: job.key for step, _ in job.takes.values()}
    return left


def _run_step(children: Children, job: PlannedJob, is_at_work: bool) -> tuple[Run | None, str]:
    """The step's run as it ended; None, and why, where it could not be recorded."""
    run_id = step_id(children.plan, job)
    if is_at_work:
        children.adopt(run_id)
    else:
        children.start(step_request(children.plan, job))
    children.log(f"{job.title}: {'at work' if is_at_work else 'started'}, {run_id}")
    while (ended := children.next_end()) is None:
        _ = children.stopping  # asks it to stop where the pipeline was
    run, _, trouble = ended
    children.log(f"{job.title}: {describe_end(run) if run else f'could not be started: {trouble}'}")
    if run is not None and run.status is RunStatus.failed:
        for line in children.last_lines(run, LINES_OF_A_FAILURE):
            children.log(f"  {job.key}: {line}")
    return run, trouble


def _stopped_at(job: PlannedJob, run: Run | None, trouble: str, others: Sequence[PlannedJob]) -> Outcome:
    rest = f"; not started: {', '.join(other.key for other in others)}" if others else ""
    if run is None:
        return Outcome(RunStatus.failed, reason=f"{job.title} could not be started: {trouble.rstrip('.')}{rest}")
    if run.status is RunStatus.canceled:
        return Outcome(RunStatus.canceled, run.exit_code, f"{job.title} was canceled{rest}")
    return Outcome(RunStatus.failed, run.exit_code, f"{job.title} failed: {run.reason or 'no reason is known'}{rest}")


if __name__ == "__main__":
    main()
