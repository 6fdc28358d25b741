"""A pipeline as it was asked for: jobs as steps, and whose output each of them reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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

    `job` is all that it needs to run; its `experiment` and `tags` are the pipeline's. Inputs of `job` whose key is in `takes` come from the outputs
    of other steps, whatever their DataSpec says; the others are datasets or folders as of any job.
    """

    key: str
    name: str
    job: JobSpec
    takes: Mapping[str, StepOutput] = field(default_factory=dict)

    @property
    def after(self) -> Sequence[str]:
        """The keys of the steps that have to be completed before this one starts."""
        return [*dict.fromkeys(output.step for output in self.takes.values())]


@dataclass(frozen=True)
class PipelineSpec:
    """Steps in an order in which they can run one after the other. `cluster` empty: they run here.

    `run_id` is empty where the workspace chooses it.
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
