"""Resuming a run that stopped before its end: a job by another attempt, a sweep or a pipeline by what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage, DiskFailed
from himl_cli.core.jobs import STEP
from himl_cli.core.redaction import MASK
from himl_cli.core.runs import Run, RunStatus
from himl_cli.core.sweeps import TRIAL
from himl_cli.workspaces.local.launch import (
    CONTROLLER,
    SUPERVISOR,
    begin_again,
    check_shell,
    own_stdin,
    with_recovery_id,
)
from himl_cli.workspaces.local.launch_request import LaunchRequest, job_from_stored_form
from himl_cli.workspaces.local.run_folder import PLAN, RECORD, RunFolder
from himl_cli.workspaces.local.staging import STAGED
from himl_cli.workspaces.local.sweep_plan import plan_from_stored

SUBMIT_AGAIN = "Submit it again as a new run."


def resume(workspace: Path, run: Run, *, env: Mapping[str, str], max_concurrent: int | None) -> None:
    """Resume *run*; returns once it is at work again. Raises BadUsage where it cannot be resumed, DiskFailed,
    Interrupted."""
    _check_state(run)
    folder = RunFolder(workspace / "runs" / run.id)
    stored, record = folder.read(PLAN), folder.read(RECORD)
    try:
        if "many" in stored:
            _check_stored(run, [job["spec"] for job in stored["many"]["jobs"]], env)
            plan = plan_from_stored(stored["many"], folder.path, workspace, env)
            if max_concurrent is not None and plan.jobs[0].spec.sweep is not None:
                sweep = replace(plan.sweep, max_concurrent=max_concurrent)
                plan = replace(plan, jobs=[replace(plan.jobs[0], spec=replace(plan.jobs[0].spec, sweep=sweep))])
            specs = [job.spec for job in plan.jobs]
        elif "job" not in stored or not record.get(STAGED):
            raise BadUsage(
                f"Run '{run.id}' cannot be resumed: what it was to run is not on record, or its files were never laid.",
                hint=SUBMIT_AGAIN,
            )
        else:
            _check_stored(run, [stored["job"]], env)
            specs = [with_recovery_id(job_from_stored_form(stored["job"], env), run.id)]
            inputs, outputs = record["inputs"], record["outputs"]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as err:
        raise DiskFailed(
            f"What '{folder.path}' keeps of the run has another form than himl writes ({type(err).__name__}: {err}).",
            hint=SUBMIT_AGAIN,
        ) from err
    for spec in specs:
        check_shell(spec)
    if "many" in stored:
        begin_again(CONTROLLER, plan.to_json(), folder)
        return
    with own_stdin(specs[0]) as (stdin, handles):
        request = LaunchRequest(
            str(folder.path), str(workspace), specs[0], run.command, inputs, outputs, stdin, again=True
        )
        begin_again(SUPERVISOR, request.to_json(), folder, handles)


def _check_state(run: Run) -> None:
    if run.parent:
        what = "trial" if TRIAL in run.tags else "step" if STEP in run.tags else ""
        problem = f"is a {what} of run '{run.parent}'" if what else f"was nested in run '{run.parent}' by its script"
        raise BadUsage(f"Run '{run.id}' {problem}.", hint=f"Resume the whole: himl submit --resume {run.parent}")
    if not run.status.is_final:
        raise BadUsage(
            f"Run '{run.id}' is still at work.",
            hint=f"To see it: himl runs show {run.id}, to stop it: himl runs cancel {run.id}",
        )
    if run.status is RunStatus.completed:
        raise BadUsage(f"Run '{run.id}' is completed: nothing is left to do.", hint=f"See himl runs show {run.id}")


def _check_stored(run: Run, forms: list[dict[str, Any]], env: Mapping[str, str]) -> None:
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
