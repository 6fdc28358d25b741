"""A pipeline as it goes to Azure ML, nothing left to look up: what each step runs, and what it is bound to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.jobs import SERVERLESS, DataSpec, PipelineSpec, StepSpec
from himl_cli.workspaces.azure.jobs.command_text import command_text
from himl_cli.workspaces.azure.jobs.forms import INPUT_MODES, OUTPUT_MODES, JobInput
from himl_cli.workspaces.azure.runs.limits import limit_of

Answer = TypeVar("Answer")
FOLDER = "uri_folder"
DIRECT = "direct"
"""The mode of an input of which only the address is told: nothing of it is read."""
AFTER, DONE = "himl_after_", "himl_done"
"""What an input is called that a step has only to wait for another one, before the name of that; and the output that it
is bound to where there is no other."""


@dataclass(frozen=True)
class StepForm:
    """One step but for its code and environment. `node` is what the service calls it, `shown` what people read: no two
    steps of a pipeline are shown alike.

    `inputs` say what each key is bound to: data, or `${{parent.jobs.NODE.outputs.KEY}}`; `outputs` are places, None
    where the service chooses. Among them are those that only keep the order: Azure ML knows none but that of data.
    """

    spec: StepSpec
    node: str
    shown: str
    command: str
    inputs: Mapping[str, JobInput]
    outputs: Mapping[str, str | None]

    @property
    def compute(self) -> str:
        return "" if self.spec.job.cluster.lower() == SERVERLESS else self.spec.job.cluster

    @property
    def seconds(self) -> int | None:
        limit = self.spec.job.max_seconds
        return None if limit is None else limit_of(limit)

    def output_mode(self, key: str) -> str:
        modes = {item.key: item.mode for item in self.spec.job.outputs}
        return OUTPUT_MODES[modes.get(key) or "mount"]


def node_names(steps: Sequence[StepSpec]) -> dict[str, str]:
    """What the service is to call each step, by its key: small letters, digits and `_`, a letter first, no name
    twice."""
    names: dict[str, str] = {}
    for step in steps:
        plain = re.sub(r"[^a-z0-9_]", "_", step.key.lower())
        plain = plain if plain[:1].isalpha() else f"step_{plain}"
        name, number = plain, 1
        while name in names.values():
            number += 1
            name = f"{plain}_{number}"
        names[step.key] = name
    return names


def step_forms(spec: PipelineSpec, data: Mapping[tuple[str, str], JobInput]) -> list[StepForm]:
    """The steps of *spec*, whose own inputs were found to be *data*, by the step's key and theirs.

    Raises BadUsage for a placeholder in a step's arguments that names nothing.
    """
    names = node_names(spec.steps)
    return [of_step(step.key, partial(_form, spec, step, names, data)) for step in spec.steps]


def of_step(step: str, act: Callable[[], Answer]) -> Answer:
    """What *act* gives; what it finds wrong or missing is told with the key of the *step* before it."""
    try:
        return act()
    except (BadUsage, NotFound) as err:
        if type(err) not in (BadUsage, NotFound):
            raise
        raise type(err)(f"{step}: {err}", hint=err.hint) from err


def _form(
    spec: PipelineSpec, step: StepSpec, names: Mapping[str, str], data: Mapping[tuple[str, str], JobInput]
) -> StepForm:
    inputs: dict[str, JobInput] = {}
    for item in step.job.inputs:
        taken = step.takes.get(item.key)
        if taken is None:
            inputs[item.key] = data[step.key, item.key]
        else:
            bound = f"${{{{parent.jobs.{names[taken.step]}.outputs.{taken.output}}}}}"
            inputs[item.key] = JobInput(FOLDER, bound, INPUT_MODES[item.mode or "download"], item.target)
    outputs = {item.key: _place(spec, step, item) for item in step.job.outputs}
    steps = {other.key: other for other in spec.steps}
    for other in _merely_awaited(step):
        inputs[f"{AFTER}{names[other]}"] = JobInput(
            FOLDER, f"${{{{parent.jobs.{names[other]}.outputs.{_first_output(steps[other])}}}}}", DIRECT
        )
    if not outputs and any(step.key in _merely_awaited(other) for other in spec.steps):
        outputs[DONE] = None
    return StepForm(step, names[step.key], _shown(spec, step), command_text(step.job), inputs, outputs)


def _merely_awaited(step: StepSpec) -> list[str]:
    """The keys of the steps that *step* waits for and takes nothing from."""
    sources = {output.step for output in step.takes.values()}
    return [key for key in step.after if key not in sources]


def _first_output(step: StepSpec) -> str:
    """The output by which others see that *step* is done: it is there once the step is completed, whatever is in it."""
    return step.job.outputs[0].key if step.job.outputs else DONE


def _shown(spec: PipelineSpec, step: StepSpec) -> str:
    name = step.name or step.key
    return (
        f"{name} ({step.key})"
        if any(other.key != step.key and (other.name or other.key) == name for other in spec.steps)
        else name
    )


def _place(spec: PipelineSpec, step: StepSpec, item: DataSpec) -> str | None:
    """Where a step's output goes: anew for each run (`${{name}}` is the step's), below what the service would choose by
    itself."""
    datastore = item.datastore or step.job.default_datastore
    if not datastore or datastore == spec.default_datastore:
        return None
    return f"azureml://datastores/{datastore}/paths/azureml/${{{{name}}}}/{item.key}/"
