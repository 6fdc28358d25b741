"""The process that looks after a sweep or a pipeline: starts its children one after another, and records how the whole
ended.

Started as a job's supervisor is, and tells the same. The children have supervisors of their own: when this process is
killed, those that run go on to their end, and what is missing can be gone on with later.
"""

from __future__ import annotations

from pathlib import Path

from himl_cli.core.runs import RunStatus
from himl_cli.core.sweeps import GOAL, MANY, PRIMARY_METRIC
from himl_cli.workspaces.local.keeping import CANCELED, TERMINATED, Outcome, RunKeeper, read_order, tell
from himl_cli.workspaces.local.kept_files import bring_file, lay_snapshot
from himl_cli.workspaces.local.many.child_orders import step_outputs
from himl_cli.workspaces.local.many.children import Children
from himl_cli.workspaces.local.many.course import Course
from himl_cli.workspaces.local.many.family import Family
from himl_cli.workspaces.local.many.plan import PIPELINE, Plan, plan_from_json
from himl_cli.workspaces.local.many.steps import run_steps
from himl_cli.workspaces.local.many.trials import Trials
from himl_cli.workspaces.local.run_store import NewRun, RunStore


def main() -> None:
    KeeperOfMany(plan_from_json(read_order())).keep()


class KeeperOfMany(RunKeeper):
    """One sweep, or one pipeline."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.run_folder, plan.workspace, again=plan.again)
        self._plan = plan

    def new_run(self) -> NewRun:
        plan = self._plan
        return NewRun(
            id=plan.run_id,
            job=plan.run_id,
            experiment=plan.experiment,
            display_name=plan.display_name,
            description=plan.description,
            command=plan.command,
            folder=str(self.folder.path / plan.jobs[0].place),
            tags={**plan.tags, **self._facts()},
        )

    def _facts(self) -> dict[str, str]:
        if self._plan.kind == PIPELINE:
            return {MANY: PIPELINE}
        return {MANY: self._plan.kind, PRIMARY_METRIC: self._plan.sweep.primary_metric, GOAL: self._plan.sweep.goal}

    def work(self, store: RunStore) -> Outcome:
        plan = self._plan if self._plan.again else self._lay()
        course = Course(self.folder.user_logs / "std_log.txt")
        store.start(plan.run_id)
        tell("started")
        family = Family(plan, store, Children(self.folder.path.parent), course, self._why_stopped)
        return run_steps(family) if plan.kind == PIPELINE else Trials(family).run()

    def _lay(self) -> Plan:
        self.folder.user_logs.mkdir()
        (self.folder.user_logs / "std_log.txt").touch()
        for place, spec in {job.place: job.spec for job in self._plan.jobs}.items():
            target = self.folder.path / place
            target.mkdir(parents=True)
            lay_snapshot(spec.snapshot, target, is_stopped=self.is_stopped)
            for name, source in spec.brought.items():
                bring_file(Path(source), target / name, is_stopped=self.is_stopped)
        plan = self._plan.laid()
        self.folder.write_plan({"many": plan.kept()})
        made = {job.key: step_outputs(plan, job) for job in plan.jobs} if plan.outputs else {}
        self.folder.write_record({"outputs": {name: made[step][key] for name, (step, key) in plan.outputs.items()}})
        return plan

    def _why_stopped(self) -> Outcome | None:
        """How the whole ends where it was told to stop."""
        if self._terminated:
            return Outcome(RunStatus.failed, reason=TERMINATED)
        return Outcome(RunStatus.canceled, reason=CANCELED) if self.folder.is_cancel_asked() else None


if __name__ == "__main__":
    main()
