"""Going on with a run that stopped before its end: a job by another try, a sweep or a pipeline by what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.core.jobs import STEP
from himl_cli.core.redaction import MASK
from himl_cli.core.runs import Run, RunStatus
from himl_cli.core.sweeps import TRIAL
from himl_cli.workspaces.local.job_form import job_from_kept_form
from himl_cli.workspaces.local.jobs import check_shell, own_stdin, tagged
from himl_cli.workspaces.local.laying import LAID
from himl_cli.workspaces.local.many.plan import Plan, plan_from_kept
from himl_cli.workspaces.local.order import Order
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.starting import KEEPER_OF_MANY, SUPERVISOR, begin_again

SUBMIT_AGAIN = "Submit it again as a new run."


def resume(workspace: Path, run: Run, *, env: Mapping[str, str], max_concurrent: int | None) -> None:
    """Go on with *run*; returns once it is at work again. Raises BadUsage where it cannot be gone on with, DiskFailed,
    Interrupted."""
    _check_state(run)
    folder = RunFolder(workspace / "runs" / run.id)
    plan = folder.read_plan()
    if "many" in plan:
        with _on_record(folder):
            _check_kept(run, [job["spec"] for job in plan["many"]["jobs"]], env)
            whole = _with_concurrency(plan_from_kept(plan["many"], folder.path, workspace, env), max_concurrent)
        for job in whole.jobs:
            check_shell(job.spec)
        begin_again(KEEPER_OF_MANY, whole.to_json(), folder)
        return
    record = folder.read_record()
    if "job" not in plan or not record.get(LAID):
        raise BadUsage(
            f"Run '{run.id}' cannot be resumed: what it was to run is not on record, or its files were never laid.",
            hint=SUBMIT_AGAIN,
        )
    with _on_record(folder):
        _check_kept(run, [plan["job"]], env)
        spec = tagged(job_from_kept_form(plan["job"], env), run.id)
        inputs, outputs = record["inputs"], record["outputs"]
    check_shell(spec)
    with own_stdin(spec) as (stdin, handles):
        order = Order(str(folder.path), str(workspace), spec, run.command, inputs, outputs, stdin, again=True)
        begin_again(SUPERVISOR, order.to_json(), folder, handles)


@contextmanager
def _on_record(folder: RunFolder) -> Iterator[None]:
    """Within it, what is kept of the run is taken apart: where it has another form, DiskFailed is raised."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as err:
        raise DiskFailed(
            f"What '{folder.path}' keeps of the run has another form than himl writes ({type(err).__name__}: {err}).",
            hint=SUBMIT_AGAIN,
        ) from err


def _check_state(run: Run) -> None:
    if run.parent and (TRIAL in run.tags or STEP in run.tags):
        what = "trial" if TRIAL in run.tags else "step"
        raise BadUsage(
            f"Run '{run.id}' is a {what} of run '{run.parent}'.",
            hint=f"Resume the whole: himl submit --resume {run.parent}",
        )
    if run.parent:
        raise BadUsage(
            f"Run '{run.id}' was nested in run '{run.parent}' by its script.",
            hint=f"Resume the whole: himl submit --resume {run.parent}",
        )
    if not run.status.is_final:
        raise BadUsage(
            f"Run '{run.id}' is still at work.",
            hint=f"To see it: himl runs show {run.id}, to stop it: himl runs cancel {run.id}",
        )
    if run.status is RunStatus.completed:
        raise BadUsage(f"Run '{run.id}' is completed: nothing is left to do.", hint=f"See himl runs show {run.id}")


def _check_kept(run: Run, forms: list[dict[str, Any]], env: Mapping[str, str]) -> None:
    """Raises BadUsage where the record lacks what no file may hold."""
    masked = [name for form in forms if form["has_secrets"] for name in _masked_names(form)]
    if masked:
        named = ", ".join(dict.fromkeys(masked))
        raise BadUsage(
            f"Run '{run.id}' cannot be resumed: its arguments hold a secret, which is not kept, or look so: {named}.",
            hint=f"{SUBMIT_AGAIN} Give secrets by --env_var NAME=VALUE.",
        )
    missing = sorted({name for form in forms for name in form["env_names"]} - set(env))
    if missing:
        again = " ".join(f"--env_var {name}=…" for name in missing)
        raise BadUsage(
            f"Run '{run.id}' had variables whose values are not kept: {', '.join(missing)}.",
            hint=f"Give them again: {again}",
        )


def _masked_names(form: Mapping[str, Any]) -> list[str]:
    """The arguments that were masked: `--name` of one whose value was, else what is left of it."""
    words = form["arguments"]
    pairs = [(words[at - 1] if at else "", word) for at, word in enumerate(words) if MASK in word]
    names = [before if word == MASK and before.startswith("-") else word for before, word in pairs]
    return names or ["its command line"]


def _with_concurrency(plan: Plan, most: int | None) -> Plan:
    if most is None or plan.jobs[0].spec.sweep is None:
        return plan
    job = plan.jobs[0]
    return replace(plan, jobs=[replace(job, spec=replace(job.spec, sweep=replace(plan.sweep, max_concurrent=most)))])
