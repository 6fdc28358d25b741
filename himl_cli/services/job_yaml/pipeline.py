"""A pipeline job of Azure ML's YAML as steps that run on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from himl_cli.core.jobs import DataSpec, JobSpec
from himl_cli.core.pipelines import StepOutput, StepSpec
from himl_cli.services.job_yaml.command import COMMAND_KEYS, NAMING, Laid, note_idle, running
from himl_cli.services.job_yaml.components import component_at, with_defaults
from himl_cli.services.job_yaml.data import Values, read_input, read_inputs, read_output
from himl_cli.services.job_yaml.document import COMMAND, Part
from himl_cli.services.pipelines.order import CycleFound, data_order

PIPELINE_KEYS = (*NAMING, "inputs", "outputs", "jobs", "settings", "compute", "identity", "services", "queue_settings")
STEP_KEYS = (*COMMAND_KEYS, "component")
COMPONENT_KEYS = (*COMMAND_KEYS, "additional_includes")

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,254}")
_BINDING = re.compile(
    r"\$\{\{\s*parent\.(?:inputs\.(?P<input>\w+)|outputs\.(?P<outer>\w+)"
    r"|jobs\.(?P<job>[\w-]+)\.outputs\.(?P<output>\w+))\s*\}\}"
)


class PipelineReader:
    """Makes steps of the jobs of one pipeline file."""

    def __init__(self, part: Part, common: JobSpec, laid: Laid) -> None:
        part.check_keys(PIPELINE_KEYS)
        self.part = part
        self.common = common
        self.laid = laid
        self.jobs = part.part("jobs")
        self.inputs = read_inputs(part.part("inputs"))
        self.outputs = part.part("outputs")
        self.made: dict[str, StepOutput] = {}
        """Whose outputs those of the pipeline are, once `steps` has read them."""

    def steps(self) -> Sequence[StepSpec]:
        """All steps, in an order in which they can run. Raises BadUsage naming the key."""
        if not self.jobs.content:
            raise self.part.wrong("jobs", "is missing.")
        self._check_keys()
        note_idle(self.part, self.laid)
        steps = {key: self._step(key) for key in self.jobs.content}
        for step in steps.values():
            self._check_taken(step, steps)
        try:
            order = data_order(list(steps), {key: list(step.after) for key, step in steps.items()})
        except CycleFound as err:
            raise self.jobs.wrong(
                err.way[0],
                f"closes a cycle: {err}.",
                hint="Each reads what the next makes; one of them has to read other data.",
            ) from None
        return [steps[key] for key in order]

    def _check_keys(self) -> None:
        """Raises BadUsage for a key that cannot be in the name of a run's folder on every machine."""
        seen: dict[str, str] = {}
        for key in self.jobs.content:
            if not _KEY.fullmatch(key):
                raise self.jobs.wrong(
                    key,
                    "cannot be the key of a job.",
                    hint="It has to be letters, digits, '_' and '-', no digit and no '-' first.",
                )
            twin = seen.setdefault(key.lower(), key)
            if twin != key:
                raise self.jobs.wrong(
                    key, f"and '{twin}' differ only in capital letters.", hint="Give one of them another key."
                )

    def _step(self, key: str) -> StepSpec:
        part = self.jobs.part(key)
        part.check_keys(STEP_KEYS)
        kind = part.text("type") or COMMAND
        if kind != COMMAND:
            raise part.wrong(
                "type",
                f"'{kind}' cannot run here as a step.",
                hint="Only command jobs can; name a cluster with --cluster.",
            )
        component = component_at(part, "component") if part.given("component") is not None else part
        component.check_keys(COMPONENT_KEYS if component is not part else STEP_KEYS)
        if component.given("additional_includes"):
            raise component.wrong("additional_includes", "cannot be had here.", hint="Put what it names below 'code'.")
        values, takes = self._values(part)
        given = Values(
            values.literals, {**values.data, **{name: DataSpec(name, source.output) for name, source in takes.items()}}
        )
        given = with_defaults(component, given) if component is not part else given
        outputs = self._outputs(key, part, component)
        holder = Part(
            component.shown,
            component.folder,
            {**component.content, "outputs": {name: {} for name in outputs}},
            component.prefix,
        )
        job = running(holder, replace(self.common, display_name=""), given, self.laid, outputs_of=holder)
        if component is not part:
            job = self._changed(part, job)
        job = replace(job, outputs=list(outputs.values()), display_name=part.text("display_name") or key)
        return StepSpec(key, part.text("display_name") or key, job, takes)

    def _changed(self, part: Part, job: JobSpec) -> JobSpec:
        """The job of a component with what the step says instead: variables and limits."""
        note_idle(part, self.laid)
        variables = part.part("environment_variables")
        seconds = part.part("limits").seconds("timeout")
        env = {**job.env, **{name: variables.text(name) for name in variables.content}, **self.common.env}
        return replace(job, env=env, max_seconds=self.common.max_seconds or seconds or job.max_seconds)

    def _values(self, part: Part) -> tuple[Values, dict[str, StepOutput]]:
        """The inputs of a step: plain values and data, and those that come from other steps."""
        inputs = part.part("inputs")
        values, takes = Values(), {}
        for key, value in inputs.content.items():
            path = value.get("path") if isinstance(value, Mapping) else value
            bound = self._bound(inputs, key, path)
            found = bound if bound is not None else read_input(inputs, key)
            if isinstance(found, StepOutput):
                takes[key] = found
            elif isinstance(found, DataSpec):
                values.data[key] = replace(found, key=key)
            elif found:
                values.literals[key] = found
            elif isinstance(found, str):
                values.literals[key] = "''"  # nothing at all would shift what follows
        return values, takes

    def _bound(self, inputs: Part, key: str, text: object) -> StepOutput | DataSpec | str | None:
        """What a binding stands for; None for what is none."""
        if not isinstance(text, str) or "${{" not in text:
            return None
        found = _BINDING.fullmatch(text.strip())
        if found is None or found["outer"]:
            raise inputs.wrong(
                key,
                f"has '{text}', which names nothing.",
                hint="Bindings are ${{parent.inputs.KEY}} and ${{parent.jobs.JOB.outputs.KEY}}",
            )
        if found["job"]:
            return StepOutput(found["job"], found["output"])
        name = found["input"]
        if name in self.inputs.literals:
            return self.inputs.literals[name]
        if name in self.inputs.data:
            return self.inputs.data[name]
        there = ", ".join((*self.inputs.literals, *self.inputs.data)) or "none"
        raise inputs.wrong(key, f"has '{text}', and the pipeline has no such input; there are: {there}.")

    def _outputs(self, step: str, part: Part, component: Part) -> dict[str, DataSpec]:
        """The outputs of a step by key: in the folder that it or the pipeline names, else each in one of its own."""
        outputs = part.part("outputs")
        declared = component.part("outputs")
        found = {key: DataSpec(key, "") for key in declared.content if key not in outputs.content}
        for key, value in outputs.content.items():
            text = value.get("path") if isinstance(value, Mapping) else value
            bound = _BINDING.fullmatch(text.strip()) if isinstance(text, str) else None
            if bound is None:
                found[key] = read_output(outputs, key)
            elif bound["outer"] and bound["outer"] in self.outputs.content:
                found[key] = replace(read_output(self.outputs, bound["outer"]), key=key)
                self.made[bound["outer"]] = StepOutput(step, key)
            else:
                raise outputs.wrong(
                    key,
                    f"has '{text}', and the pipeline has no such output.",
                    hint=f"There are: {', '.join(self.outputs.content) or 'none'}.",
                )
        return found

    def _check_taken(self, step: StepSpec, steps: Mapping[str, StepSpec]) -> None:
        """Raises BadUsage for a binding to a step or an output that is not there."""
        for key, source in step.takes.items():
            inputs = self.jobs.part(step.key).part("inputs")
            if source.step not in steps:
                raise inputs.wrong(
                    key, f"names the job '{source.step}', which is not there.", hint=f"There are: {', '.join(steps)}."
                )
            made = [output.key for output in steps[source.step].job.outputs]
            if source.output not in made:
                raise inputs.wrong(
                    key,
                    f"names the output '{source.output}', which '{source.step}' does not make.",
                    hint=f"It makes: {', '.join(made) or 'none'}.",
                )
