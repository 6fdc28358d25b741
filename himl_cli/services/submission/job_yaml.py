"""A job in Azure ML's YAML (command, sweep or pipeline), made ready to run here or to be sent with changes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import (
    HERE,
    DataSpec,
    DocumentChanges,
    JobSpec,
    PipelineSpec,
    SnapshotReport,
    StepOutput,
    StepSpec,
)
from himl_cli.core.redaction import mask_document
from himl_cli.core.sweeps import Draw, EarlyStop, Scalar, SearchRange, SweepSpec, argument_names
from himl_cli.services.submission.job_yaml_commands import (
    AROUND,
    COMMAND,
    COMMAND_KEYS,
    NAMING,
    PIPELINE,
    RUNNING,
    SWEEP,
    CommandReader,
    JobDocument,
    Part,
    Values,
    changed_code,
    component_at,
    read_document,
    read_input,
    read_inputs,
    read_output,
    with_defaults,
)
from himl_cli.services.submission.pipelines import CycleFound, topological_order
from himl_cli.services.submission.prepare import command_line, job_of_options
from himl_cli.services.submission.request import SubmitRequest, beside_file, check_values, target_path
from himl_cli.services.submission.search_space import AZURE_WORDS, SAMPLINGS, checked_range, checked_stop, points_of
from himl_cli.services.submission.snapshot import ignored_remarks, secrets_but
from himl_cli.services.submission.sweep_options import check_sweep, with_seed
from himl_cli.services.yaml_files import dump_mapping

SEARCH_KEYS = ("trial", "search_space", "sampling_algorithm", "objective", "early_termination")
SWEEP_KEYS = (*NAMING, *AROUND, "resources", *SEARCH_KEYS)
TRIAL_KEYS = (*NAMING, *RUNNING, "inputs", "outputs", "is_deterministic")
LIMITS = ("max_total_trials", "max_concurrent_trials", "timeout", "trial_timeout")
STOP_KEYS = ("type", "evaluation_interval", "delay_evaluation", "slack_factor", "slack_amount", "truncation_percentage")
OPTION_KEYS = {
    "--sampling": "sampling_algorithm",
    "--goal": "objective.goal",
    "--early_stop": "early_termination",
    "--max_trials": "limits.max_total_trials",
}
"""What the file calls the options that errors about sweeps name."""
PIPELINE_KEYS = (*NAMING, "inputs", "outputs", "jobs", "settings", "compute", "identity", "services", "queue_settings")
STEP_KEYS = (*COMMAND_KEYS, "component")
COMPONENT_KEYS = (*COMMAND_KEYS, "additional_includes")

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,254}")
_BINDING = re.compile(
    r"\$\{\{\s*parent\.(?:inputs\.(?P<input>\w+)|outputs\.(?P<outer>\w+)"
    r"|jobs\.(?P<job>[\w-]+)\.outputs\.(?P<output>\w+))\s*\}\}"
)


@dataclass(frozen=True)
class PreparedDocument:
    """A job's YAML, checked. Here it is `job` or `pipeline`; on a cluster it goes as the file says, but for
    `changes`."""

    document: JobDocument
    changes: DocumentChanges
    job: JobSpec | None = None
    pipeline: PipelineSpec | None = None
    reports: Sequence[SnapshotReport] = ()
    remarks: Sequence[str] = ()

    @property
    def goes_to_azure(self) -> bool:
        return self.job is None and self.pipeline is None


def prepare_document(request: SubmitRequest, env: Mapping[str, str] | None = None) -> PreparedDocument:
    """Check all that was asked for; no network, and nothing is written. Raises BadUsage naming the key."""
    path = target_path(request)
    document = read_document(path, str(request.target))
    root, env = document.root, os.environ if env is None else env
    compute = request.cluster if request.cluster is not None else document.compute
    is_local = compute in ("", HERE)
    request = replace(request, cluster=HERE if is_local else compute)
    request, file_remarks = beside_file(request, ["yaml", "yaml_local"] if is_local else ["yaml"], "a job's YAML")
    check_values(request)
    if request.experiment is None and not request.experiment_from_branch:
        request = replace(request, experiment=root.text("experiment_name") or None)
    common, remarks = job_of_options(request, path.with_suffix(".py").name, path.parent, env)
    own_tags = {key: root.part("tags").text(key) for key in root.part("tags").content}
    common = replace(common, tags={**common.tags, **own_tags, **request.tags})
    changes = DocumentChanges(
        experiment=common.experiment,
        display_name=request.display_name,
        description=request.description,
        tags=common.tags,
        env=request.env_vars,
        cluster=request.on_cluster if request.cluster != document.compute else "",
        command=command_line(request),
        code=changed_code(root),
        is_secret=secrets_but(request.include_secret),
    )
    if not is_local:
        return PreparedDocument(document, changes, remarks=remarks)
    if document.kind not in (COMMAND, SWEEP, PIPELINE):
        raise root.wrong(
            "type",
            f"'{document.kind}' cannot run here.",
            hint="Command, sweep and pipeline jobs can; for others name a cluster with --cluster.",
        )
    remarks += file_remarks
    if not document.compute:
        remarks.append("It names no compute and runs here; --cluster NAME runs it on Azure ML.")
    common = replace(
        common,
        display_name=common.display_name or root.text("display_name"),
        description=common.description or root.text("description"),
    )
    commands = CommandReader(request)
    job: JobSpec | None = None
    pipeline: PipelineSpec | None = None
    if document.kind == PIPELINE:
        reader = _PipelineReader(root, common, commands)
        pipeline = PipelineSpec(
            experiment=common.experiment,
            steps=reader.steps(),
            outputs=reader.made,
            display_name=common.display_name,
            description=common.description,
            tags=common.tags,
            default_datastore=common.default_datastore,
            command=changes.command,
        )
    elif document.kind == SWEEP:
        job = _sweep_job(root, common, commands)
    else:
        root.check_keys(COMMAND_KEYS)
        job = commands.job(root, common, read_inputs(root.part("inputs")), root)
    remarks += commands.remarks
    if commands.idle:
        remarks.append(f"Passed over, since it runs here and not on a cluster: {', '.join(commands.idle)}.")
    reports = list(commands.snapshots.values())
    return PreparedDocument(document, changes, job, pipeline, reports, [*remarks, *ignored_remarks(reports)])


def changed_yaml(prepared: PreparedDocument) -> str:
    """The file's job with the changes in it and without secrets, as `--dry_run` shows it; its paths are relative to the
    file's folder, as they are there. Raises BadUsage for what no key can say."""
    changes, kind = prepared.changes, prepared.document.kind
    content = _with_code(prepared.document.root.content, changes.code)
    names = {"experiment_name": changes.experiment, "display_name": changes.display_name}
    names["description"] = changes.description
    content |= {key: value for key, value in names.items() if value}
    content["tags"] = dict(changes.tags)
    if changes.cluster and kind == PIPELINE:
        content["settings"] = {**(content.get("settings") or {}), "default_compute": f"azureml:{changes.cluster}"}
    elif changes.cluster:
        content["compute"] = f"azureml:{changes.cluster}"
    if changes.env:
        trial = content if kind == COMMAND else content.get("trial") if kind == SWEEP else None
        if not isinstance(trial, Mapping):
            raise BadUsage(
                f"--env_var has no key in the YAML of this {kind} job.",
                hint="Write the variables into the file, or leave --dry_run out.",
            )
        trial = {**trial, "environment_variables": {**(trial.get("environment_variables") or {}), **changes.env}}
        content = trial if kind == COMMAND else {**content, "trial": trial}
    return dump_mapping(mask_document(content))


def _with_code(content: Mapping[str, Any], code: Mapping[str, str], prefix: str = "") -> dict[str, Any]:
    """*content*, which stands below *prefix*, with the folders of *code*, which are by keys with dots."""
    changed = dict(content)
    for key, value in content.items():
        path = f"{prefix}{key}"
        if path in code:
            changed[key] = code[path]
        elif isinstance(value, Mapping) and any(each.startswith(f"{path}.") for each in code):
            changed[key] = _with_code(value, code, f"{path}.")
    return changed


# Sweeps


def _sweep_job(part: Part, common: JobSpec, commands: CommandReader) -> JobSpec:
    """The job with its sweep. Raises BadUsage naming the key."""
    part.check_keys(SWEEP_KEYS)
    trial = component_at(part, "trial")
    trial.check_keys(TRIAL_KEYS)
    sweep = _sweep(part)
    values = with_defaults(trial, read_inputs(part.part("inputs")))
    job = commands.job(trial, replace(common, sweep=sweep), values, part, sweep.space)
    limits = part.part("limits")
    if limits.given("timeout") is not None:
        commands.idle["limits.timeout"] = None
    return replace(job, max_seconds=common.max_seconds or limits.seconds("trial_timeout"))


def _sweep(part: Part) -> SweepSpec:
    space = part.part("search_space")
    if not space.content:
        raise part.wrong("search_space", "is missing.")
    ranges = {name: _range(space.part(name), f"'{part.shown}': '{space.prefix}{name}'") for name in space.content}
    objective, limits = part.part("objective"), part.part("limits")
    limits.check_keys(LIMITS)
    sampling, seed = _sampling(part)
    most = limits.count("max_total_trials")
    if most is None and sampling != "grid":
        raise limits.wrong("max_total_trials", "is missing.", hint="Only a grid has an end of its own.")
    is_listed = all(found.draw is Draw.choice for found in ranges.values())
    points = points_of(ranges.values()) if sampling == "grid" and is_listed else most
    spec = SweepSpec(
        space=ranges,
        sampling=sampling,
        max_trials=min(filter(None, (most, points)), default=1),
        max_concurrent=limits.count("max_concurrent_trials"),
        primary_metric=objective.text("primary_metric"),
        goal=objective.text("goal").lower(),
        early_stop=_early_stop(part.part("early_termination")),
        seed=seed,
    )
    for key, value in (("primary_metric", spec.primary_metric), ("goal", spec.goal)):
        if not value:
            raise objective.wrong(key, "is missing.")
    try:
        check_sweep(spec, on_cluster=False)
    except BadUsage as err:
        message, hint = str(err), err.hint
        for option, key in OPTION_KEYS.items():
            message, hint = message.replace(option, f"{key}:"), hint.replace(option, f"{key}:")
        raise BadUsage(f"'{part.shown}': {message}", hint=hint) from err
    return with_seed(spec, on_cluster=False)


def _range(part: Part, where: str) -> SearchRange:
    word = part.text("type").lower()
    known = [draw.value for draw in Draw]
    if word not in known:
        raise part.wrong("type", f"cannot be '{word}'.", hint=f"It is one of: {', '.join(known)}.")
    draw = Draw(word)
    if draw is Draw.choice:
        values = part.given("values")
        if not isinstance(values, list) or not all(isinstance(value, (str, int, float)) for value in values):
            raise part.wrong("values", "must be a list of plain values.")
        return checked_range(SearchRange(draw, values), where)
    names = argument_names(draw)
    part.check_keys(("type", *names))
    numbers: list[Scalar] = []
    for name in names:
        number = part.number(name)
        if number is None:
            raise part.wrong(name, "is missing.")
        numbers.append(number)
    return checked_range(SearchRange(draw, numbers), where)


def _sampling(part: Part) -> tuple[str, int | None]:
    """The word and the seed of `sampling_algorithm`, which is a word or a mapping."""
    if isinstance(part.given("sampling_algorithm"), str):
        word, seed = part.text("sampling_algorithm"), None
    else:
        algorithm = part.part("sampling_algorithm")
        algorithm.check_keys(("type", "seed", "rule", "logbase"))
        word, seed = algorithm.text("type"), algorithm.number("seed")
        if algorithm.text("rule").lower() == "sobol":
            hint = "Leave it out, or name a cluster with --cluster."
            raise algorithm.wrong("rule", "cannot be 'sobol' here.", hint=hint)
    if word.lower() not in SAMPLINGS:
        what = f"cannot be '{word}'." if word else "is missing."
        raise part.wrong("sampling_algorithm", what, hint=f"It is one of: {', '.join(SAMPLINGS)}.")
    return word.lower(), int(seed) if seed is not None else None


def _early_stop(part: Part) -> EarlyStop | None:
    if not part.content:
        return None
    part.check_keys(STOP_KEYS)
    word = part.text("type").lower()
    percentage = part.number("truncation_percentage")
    stop = EarlyStop(
        AZURE_WORDS.get(word, word),
        evaluation_interval=int(part.number("evaluation_interval") or 1),
        delay_evaluation=int(part.number("delay_evaluation") or 0),
        slack_factor=part.number("slack_factor"),
        slack_amount=part.number("slack_amount"),
        truncation_percentage=int(percentage) if percentage is not None else None,
    )
    return checked_stop(stop, f"'{part.shown}': 'early_termination'")


# Pipelines


class _PipelineReader:
    """Makes steps of the jobs of one pipeline file."""

    def __init__(self, part: Part, common: JobSpec, commands: CommandReader) -> None:
        part.check_keys(PIPELINE_KEYS)
        self.common = common
        self.commands = commands
        self.jobs = part.part("jobs")
        self.inputs = read_inputs(part.part("inputs"))
        self.outputs = part.part("outputs")
        self.made: dict[str, StepOutput] = {}
        """Whose outputs those of the pipeline are, once `steps` has read them."""
        if not self.jobs.content:
            raise part.wrong("jobs", "is missing.")
        commands.note_idle(part)

    def steps(self) -> Sequence[StepSpec]:
        """All steps, in an order in which they can run. Raises BadUsage naming the key."""
        seen: dict[str, str] = {}
        for key in self.jobs.content:  # is in the name of a run's folder, on every machine
            if not _KEY.fullmatch(key):
                hint = "It has to be letters, digits, '_' and '-', no digit and no '-' first."
                raise self.jobs.wrong(key, "cannot be the key of a job.", hint=hint)
            twin = seen.setdefault(key.lower(), key)
            if twin != key:
                what = f"and '{twin}' differ only in capital letters."
                raise self.jobs.wrong(key, what, hint="Give one of them another key.")
        steps = {key: self._step(key) for key in self.jobs.content}
        for step in steps.values():
            self._check_taken(step, steps)
        try:
            order = topological_order(list(steps), {key: list(step.after) for key, step in steps.items()})
        except CycleFound as err:
            hint = "Each reads what the next makes; one of them has to read other data."
            raise self.jobs.wrong(err.path[0], f"closes a cycle: {err}.", hint=hint) from None
        return [steps[key] for key in order]

    def _step(self, key: str) -> StepSpec:
        part = self.jobs.part(key)
        part.check_keys(STEP_KEYS)
        kind = part.text("type") or COMMAND
        if kind != COMMAND:
            hint = "Only command jobs can; name a cluster with --cluster."
            raise part.wrong("type", f"'{kind}' cannot run here as a step.", hint=hint)
        component = component_at(part, "component") if part.given("component") is not None else part
        component.check_keys(COMPONENT_KEYS if component is not part else STEP_KEYS)
        if component.given("additional_includes"):
            raise component.wrong("additional_includes", "cannot be had here.", hint="Put what it names below 'code'.")
        values, takes = self._values(part)
        values = with_defaults(component, values) if component is not part else values
        outputs = self._outputs(key, part, component)
        content = {**component.content, "outputs": {name: {} for name in outputs}}
        holder = replace(component, content=content)
        job = self.commands.job(holder, replace(self.common, display_name=""), values, holder)
        if component is not part:  # the step says other variables and limits
            self.commands.note_idle(part)
            variables = part.part("environment_variables")
            env = {**job.env, **{name: variables.text(name) for name in variables.content}, **self.common.env}
            seconds = self.common.max_seconds or part.part("limits").seconds("timeout") or job.max_seconds
            job = replace(job, env=env, max_seconds=seconds)
        name = part.text("display_name") or key
        return StepSpec(key, name, replace(job, outputs=list(outputs.values()), display_name=name), takes)

    def _values(self, part: Part) -> tuple[Values, dict[str, StepOutput]]:
        """The inputs of a step: plain values and data, and those that come from other steps."""
        inputs = part.part("inputs")
        values: Values = {}
        takes: dict[str, StepOutput] = {}
        for key, value in inputs.content.items():
            path = value.get("path") if isinstance(value, Mapping) else value
            found = self._bound(inputs, key, path) if isinstance(path, str) and "${{" in path else None
            found = read_input(inputs, key) if found is None else found
            if isinstance(found, StepOutput):
                takes[key] = found
                values[key] = DataSpec(key, found.output)
            elif found is not None:
                # nothing at all would shift what follows
                values[key] = replace(found, key=key) if isinstance(found, DataSpec) else found or "''"
        return values, takes

    def _bound(self, inputs: Part, key: str, text: str) -> StepOutput | DataSpec | str:
        """What a binding stands for."""
        found = _BINDING.fullmatch(text.strip())
        if found is None or found["outer"]:
            hint = "Bindings are ${{parent.inputs.KEY}} and ${{parent.jobs.JOB.outputs.KEY}}"
            raise inputs.wrong(key, f"has '{text}', which names nothing.", hint=hint)
        if found["job"]:
            return StepOutput(found["job"], found["output"])
        if found["input"] not in self.inputs:
            there = ", ".join(sorted(self.inputs)) or "none"
            raise inputs.wrong(key, f"has '{text}', and the pipeline has no such input; there are: {there}.")
        return self.inputs[found["input"]]

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
                hint = f"There are: {', '.join(self.outputs.content) or 'none'}."
                raise outputs.wrong(key, f"has '{text}', and the pipeline has no such output.", hint=hint)
        return found

    def _check_taken(self, step: StepSpec, steps: Mapping[str, StepSpec]) -> None:
        """Raises BadUsage for a binding to a step or an output that is not there."""
        inputs = self.jobs.part(step.key).part("inputs")
        for key, source in step.takes.items():
            if source.step not in steps:
                what = f"names the job '{source.step}', which is not there."
                raise inputs.wrong(key, what, hint=f"There are: {', '.join(steps)}.")
            made = [output.key for output in steps[source.step].job.outputs]
            if source.output not in made:
                what = f"names the output '{source.output}', which '{source.step}' does not make."
                raise inputs.wrong(key, what, hint=f"It makes: {', '.join(made) or 'none'}.")
