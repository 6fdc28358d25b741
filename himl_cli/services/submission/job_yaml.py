"""A job in Azure ML's YAML (command, sweep or pipeline), made ready to run here or to be sent with changes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import (
    HERE,
    DataSpec,
    DocumentChanges,
    Entry,
    EntryKind,
    JobSpec,
    PipelineSpec,
    Snapshot,
    SnapshotReport,
    StepOutput,
    StepSpec,
)
from himl_cli.core.redaction import mask_document
from himl_cli.core.sweeps import Draw, EarlyStop, Scalar, SearchRange, SweepSpec, argument_names
from himl_cli.services.naming import automatic_tags, choose_experiment, git_facts
from himl_cli.services.submission.entry import find_python
from himl_cli.services.submission.job_yaml_commands import (
    AROUND,
    COMMAND,
    COMMAND_KEYS,
    NAMING,
    PIPELINE,
    RUNNING,
    SWEEP,
    JobDocument,
    Laid,
    Part,
    Values,
    changed_code,
    command_job,
    component_at,
    note_idle,
    read_document,
    read_input,
    read_inputs,
    read_output,
    running,
    with_defaults,
)
from himl_cli.services.submission.pipelines import CycleFound, data_order
from himl_cli.services.submission.prepare import command_line, shortened
from himl_cli.services.submission.request import (
    SubmitRequest,
    check_options,
    check_place,
    file_remarks,
    parse_duration,
    target_path,
)
from himl_cli.services.submission.snapshot import ignored_remarks, secrets_but
from himl_cli.services.submission.sweeps import (
    AZURE_WORDS,
    SAMPLINGS,
    check_sweep,
    checked_range,
    checked_stop,
    points_of,
    seeded,
)
from himl_cli.services.yaml_files import dump_mapping

SWEEP_KEYS = (
    *NAMING,
    *AROUND,
    "trial",
    "search_space",
    "sampling_algorithm",
    "objective",
    "early_termination",
    "resources",
)
TRIAL_KEYS = (*NAMING, *RUNNING, "inputs", "outputs", "is_deterministic")
LIMITS = ("max_total_trials", "max_concurrent_trials", "timeout", "trial_timeout")
STOP_KEYS = ("type", "evaluation_interval", "delay_evaluation", "slack_factor", "slack_amount", "truncation_percentage")


def sweep_job(part: Part, common: JobSpec, laid: Laid) -> JobSpec:
    """The job with its sweep. Raises BadUsage naming the key."""
    part.check_keys(SWEEP_KEYS)
    trial = component_at(part, "trial") if isinstance(part.given("trial"), str) else part.part("trial")
    trial.check_keys(TRIAL_KEYS)
    sweep = _sweep(part)
    values = with_defaults(trial, read_inputs(part.part("inputs")))
    job = running(trial, replace(common, sweep=sweep), values, laid, outputs_of=part, space=sweep.space)
    limits = part.part("limits")
    if limits.given("timeout") is not None:
        laid.idle["limits.timeout"] = None
    note_idle(part, laid)
    seconds = limits.seconds("trial_timeout")
    return replace(job, max_seconds=common.max_seconds or seconds)


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
    points = (
        points_of(ranges.values())
        if sampling == "grid" and all(found.draw is Draw.choice for found in ranges.values())
        else most
    )
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
    _checked(part, spec)
    return seeded(spec, on_cluster=False)


def _checked(part: Part, spec: SweepSpec) -> None:
    """Raises BadUsage where the sweep cannot run here; in the words of the file, not of options."""
    words = {
        "--sampling": "sampling_algorithm",
        "--goal": "objective.goal",
        "--early_stop": "early_termination",
        "--max_trials": "limits.max_total_trials",
    }
    try:
        check_sweep(spec, on_cluster=False)
    except BadUsage as err:
        message, hint = str(err), err.hint
        for option, key in words.items():
            message, hint = message.replace(option, f"{key}:"), hint.replace(option, f"{key}:")
        raise BadUsage(f"'{part.shown}': {message}", hint=hint) from err


def _range(part: Part, where: str) -> SearchRange:
    word = part.text("type").lower()
    if word not in [draw.value for draw in Draw]:
        raise part.wrong(
            "type", f"cannot be '{word}'.", hint=f"It is one of: {', '.join(draw.value for draw in Draw)}."
        )
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
            raise algorithm.wrong(
                "rule", "cannot be 'sobol' here.", hint="Leave it out, or name a cluster with --cluster."
            )
    if word.lower() not in SAMPLINGS:
        raise part.wrong(
            "sampling_algorithm",
            f"cannot be '{word}'." if word else "is missing.",
            hint=f"It is one of: {', '.join(SAMPLINGS)}.",
        )
    return word.lower(), int(seed) if seed is not None else None


def _early_stop(part: Part) -> EarlyStop | None:
    if not part.content:
        return None
    part.check_keys(STOP_KEYS)
    word = part.text("type").lower()
    percentage = part.number("truncation_percentage")
    interval, delay = part.number("evaluation_interval"), part.number("delay_evaluation")
    stop = EarlyStop(
        AZURE_WORDS.get(word, word),
        evaluation_interval=int(interval) if interval else 1,
        delay_evaluation=int(delay) if delay else 0,
        slack_factor=part.number("slack_factor"),
        slack_amount=part.number("slack_amount"),
        truncation_percentage=int(percentage) if percentage is not None else None,
    )
    return checked_stop(stop, f"'{part.shown}': 'early_termination'")


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


_COUNTING = (
    "cluster",
    "experiment",
    "experiment_from_branch",
    "display_name",
    "description",
    "tags",
    "build",
    "env_vars",
    "include_secret",
)
COUNTING_THERE = frozenset(_COUNTING)
COUNTING_HERE = frozenset((*_COUNTING, "python", "max_run_duration", "ignored_folders", "default_datastore"))
WHAT = "a job's YAML"


@dataclass(frozen=True)
class PreparedDocument:
    """A job's YAML, checked. Here it is `job` or `pipeline`; on `cluster` it goes as the file says, but for
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
    compute = request.cluster if request.cluster is not None else document.compute
    is_here = compute in ("", HERE)
    check_options(request, COUNTING_HERE if is_here else COUNTING_THERE, WHAT)
    request = replace(request, cluster=HERE if is_here else compute)
    check_place(request)
    changes, remarks = _changes(request, document, path)
    if not is_here:
        return PreparedDocument(document, changes, remarks=remarks)
    if document.kind not in (COMMAND, SWEEP, PIPELINE):
        raise document.root.wrong(
            "type",
            f"'{document.kind}' cannot run here.",
            hint="Command, sweep and pipeline jobs can; for others name a cluster with --cluster.",
        )
    remarks += file_remarks(request, WHAT)
    if not document.compute:
        remarks.append("It names no compute and runs here; --cluster NAME runs it on Azure ML.")
    return _here(request, document, changes, remarks, os.environ if env is None else env)


def _changes(request: SubmitRequest, document: JobDocument, path: Path) -> tuple[DocumentChanges, list[str]]:
    """What counts instead of what the file says, experiment and tags worked out; and what the user should know of
    it."""
    git = git_facts(path.parent)
    asked = request.experiment or (
        None if request.experiment_from_branch else document.root.text("experiment_name") or None
    )
    experiment, said_of_it = choose_experiment(
        asked, path.with_suffix(".py").name, from_branch=request.experiment_from_branch, git=git
    )
    automatic = automatic_tags(git, request.build, command_line(request))
    own = document.root.part("tags")
    said = {key: own.text(key) for key in own.content}
    changes = DocumentChanges(
        experiment=experiment,
        display_name=request.display_name,
        description=request.description,
        tags={**(shortened(automatic) if request.on_cluster else automatic), **said, **request.tags},
        env=request.env_vars,
        cluster=request.on_cluster if request.cluster != document.compute else "",
        command=command_line(request),
        code=changed_code(document.root),
        is_secret=secrets_but(request.include_secret),
    )
    return changes, said_of_it


def _here(
    request: SubmitRequest, document: JobDocument, changes: DocumentChanges, remarks: list[str], env: Mapping[str, str]
) -> PreparedDocument:
    root = document.root
    common = JobSpec(
        experiment=changes.experiment,
        entry=Entry(EntryKind.command, ""),
        snapshot=Snapshot(root.folder, (), 0),
        python=find_python(request.python, env, Path(sys.prefix)),
        max_seconds=parse_duration(request.max_run_duration, "--max_run_duration")
        if request.max_run_duration
        else None,
        env=changes.env,
        tags=changes.tags,
        display_name=changes.display_name or root.text("display_name"),
        description=changes.description or root.text("description"),
        default_datastore=request.default_datastore,
    )
    laid = Laid(request.ignored_folders, request.include_secret)
    job: JobSpec | None = None
    pipeline: PipelineSpec | None = None
    if document.kind == PIPELINE:
        reader = PipelineReader(root, common, laid)
        pipeline = PipelineSpec(
            experiment=common.experiment,
            steps=reader.steps(),
            outputs=reader.made,
            display_name=common.display_name,
            description=common.description,
            tags=common.tags,
            default_datastore=request.default_datastore,
            command=changes.command,
        )
    else:
        job = (sweep_job if document.kind == SWEEP else command_job)(root, common, laid)
    idle = [f"Passed over, since it runs here and not on a cluster: {', '.join(laid.idle)}."] if laid.idle else []
    reports = list(laid.snapshots.values())
    return PreparedDocument(
        document, changes, job, pipeline, reports, [*remarks, *laid.remarks, *idle, *ignored_remarks(reports)]
    )


def changed_yaml(prepared: PreparedDocument) -> str:
    """The file's job with the changes in it; its paths are relative to the file's folder, as they are there. Raises
    BadUsage for what no key can say."""
    changes, kind = prepared.changes, prepared.document.kind
    content = _with_code(prepared.document.root.content, changes.code)
    texts = {
        "experiment_name": changes.experiment,
        "display_name": changes.display_name,
        "description": changes.description,
    }
    content |= {key: value for key, value in texts.items() if value}
    content["tags"] = dict(changes.tags)
    if changes.cluster and kind == PIPELINE:
        content["settings"] = {**(content.get("settings") or {}), "default_compute": f"azureml:{changes.cluster}"}
    elif changes.cluster:
        content["compute"] = f"azureml:{changes.cluster}"
    if changes.env:
        if kind not in (COMMAND, SWEEP) or (kind == SWEEP and not isinstance(content.get("trial"), Mapping)):
            raise BadUsage(
                f"--env_var has no key in the YAML of this {kind} job.",
                hint="Write the variables into the file, or leave --dry_run out.",
            )
        content = (
            _with_variables(content, changes.env)
            if kind == COMMAND
            else {**content, "trial": _with_variables(content["trial"], changes.env)}
        )
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


def _with_variables(content: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    return {**content, "environment_variables": {**(content.get("environment_variables") or {}), **env}}
