"""A pipeline as it was asked for: jobs as steps, and whose output each of them reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from himl_cli.core.clusters import ClusterSpec
from himl_cli.core.jobs import JobSpec

STEP = "himl.step"
"""The tag of a step's run that holds the step's key."""
STEP_AFTER = "himl.after"
"""The tag of a step's run that holds the keys of the steps it waited for, with commas between."""


@dataclass(frozen=True)
class StepOutput:
    """The output called *output* of the step called *step* (its key)."""

    step: str
    output: str


@dataclass(frozen=True)
class StepSpec:
    """One step. `key` names it in the pipeline (`step1`), `name` is for people.

    `job` is all that it needs to run; its `experiment` and `tags` are the pipeline's. Inputs of `job` whose key is in
    `takes` come from the outputs of other steps, whatever their DataSpec says; the others are datasets or folders as of
    any job. Beside the steps that it takes from, it `waits_for` those of these keys.
    """

    key: str
    name: str
    job: JobSpec
    takes: Mapping[str, StepOutput] = field(default_factory=dict)
    waits_for: Sequence[str] = ()

    @property
    def after(self) -> Sequence[str]:
        """The keys of the steps that have to be completed before this one starts."""
        return [*dict.fromkeys((*(output.step for output in self.takes.values()), *self.waits_for))]


@dataclass(frozen=True)
class PipelineSpec:
    """Steps in an order in which they can run one after the other. `cluster` empty: they run here.

    `run_id` is empty where the workspace chooses it. `new_cluster` is the one to make, where there is none of its name,
    once all else is found to be in order. `outputs` are those of steps that are the pipeline's own too, by the name
    that they have there.
    """

    experiment: str
    steps: Sequence[StepSpec]
    display_name: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""
    default_datastore: str | None = None
    command: str = ""
    run_id: str = ""
    new_cluster: ClusterSpec | None = None
    outputs: Mapping[str, StepOutput] = field(default_factory=dict)
