"""The order for one child: a trial with its values, a step with the folders that it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from himl_cli.core.jobs import STEP, STEP_AFTER, DataSpec, EntryKind, JobSpec
from himl_cli.core.sweeps import (
    HYPERPARAMETERS,
    PLACEHOLDER,
    SEARCH_SPACE,
    SWEPT,
    TRIAL,
    Scalar,
    value_text,
    values_text,
    with_search_space,
)
from himl_cli.workspaces.local.command_line import fill_command
from himl_cli.workspaces.local.job_data import output_folder, trial_output
from himl_cli.workspaces.local.jobs import shown_command, tagged
from himl_cli.workspaces.local.many.plan import Plan, PlannedJob
from himl_cli.workspaces.local.order import Order

LONGEST_KEY = 30  # in the id of a step's run: names of files end at 255 bytes


def trial_id(plan: Plan, index: int) -> str:
    return f"{plan.run_id}_{index}"


def step_id(plan: Plan, job: PlannedJob) -> str:
    key = job.key if len(job.key) <= LONGEST_KEY else f"{job.key[:LONGEST_KEY]}_{plan.jobs.index(job)}"
    return f"{plan.run_id}_{key}"


def trial_order(plan: Plan, index: int, values: Mapping[str, Scalar]) -> Order:
    """The order for trial *index*."""
    job, texts = plan.jobs[0], {name: value_text(value) for name, value in values.items()}
    own = {name: value for name, value in job.spec.tags.items() if name != SWEPT}
    tags = {**own, HYPERPARAMETERS: json.dumps(dict(values)), TRIAL: str(index)}
    spec = replace(
        filled(job.spec, texts),
        tags=tags,
        display_name=values_text(values),
        parent=plan.run_id,
        sweep=None,
        description="",
    )
    return _order(
        plan,
        job,
        spec,
        trial_id(plan, index),
        outputs=[trial_output(item) for item in spec.outputs],
        inputs=job.inputs,
        values=texts,
    )


def step_order(plan: Plan, job: PlannedJob) -> Order:
    """The order for a step, whose inputs are there once the steps before it are completed."""
    by_key = {each.key: each for each in plan.jobs}
    taken = {key: step_outputs(plan, by_key[step])[output] for key, (step, output) in job.takes.items()}
    tags = {**plan.tags, **job.spec.tags, STEP: job.key, STEP_AFTER: ",".join(job.after)}
    spec = replace(
        job.spec, tags=tags, display_name=job.name or job.key, parent=plan.run_id, experiment=plan.experiment
    )
    return _order(
        plan, job, spec, step_id(plan, job), outputs=list(spec.outputs), inputs={**job.inputs, **taken}, values={}
    )


def step_outputs(plan: Plan, job: PlannedJob) -> dict[str, str]:
    """The folders of a step's outputs, by key."""
    return _outputs(job, list(job.spec.outputs), step_id(plan, job))


def filled(spec: JobSpec, values: Mapping[str, str]) -> JobSpec:
    """The job with the values of its hyperparameters in its arguments, or in its command line."""
    if spec.entry.kind is EntryKind.command:
        spec = replace(spec, entry=replace(spec.entry, target=fill_command(spec.entry.target, {SEARCH_SPACE: values})))

    def fill(argument: str) -> str:
        return PLACEHOLDER.sub(lambda found: values[found[2]] if found[1] == SEARCH_SPACE else found[0], argument)

    arguments = spec.arguments if spec.entry.kind is EntryKind.command else with_search_space(spec.arguments, values)
    return replace(spec, arguments=[fill(argument) for argument in arguments])


def _order(
    plan: Plan,
    job: PlannedJob,
    spec: JobSpec,
    run_id: str,
    *,
    outputs: list[DataSpec],
    inputs: Mapping[str, str],
    values: Mapping[str, str],
) -> Order:
    folder = Path(plan.run_folder).with_name(run_id)
    child = tagged(spec, run_id)
    return Order(
        str(folder),
        plan.workspace,
        child,
        shown_command(child),
        dict(inputs),
        _outputs(job, outputs, run_id),
        again=folder.exists(),
        values=values,
    )


def _outputs(job: PlannedJob, outputs: list[DataSpec], run_id: str) -> dict[str, str]:
    """Whether they may exist already was asked when the whole was submitted."""
    return {
        item.key: str(output_folder(replace(item, overwrite=True), Path(job.datastore), run_id)) for item in outputs
    }
