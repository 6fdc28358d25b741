"""Jobs and pipelines as the service stores them: their code, their environments, and the job for another submission."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage
from himl_cli.core.installed import NOT_LISTED, RunEnvironment
from himl_cli.core.jobs import (
    SERVERLESS,
    STEP,
    DataSpec,
    Entry,
    EntryKind,
    EnvironmentSpec,
    JobSpec,
    PipelineSpec,
    Snapshot,
    StepOutput,
    StepSpec,
    StoredJob,
)
from himl_cli.core.runs import Run, own_name
from himl_cli.core.sweeps import (
    SEARCH_SPACE,
    Draw,
    EarlyStop,
    SearchRange,
    SweepSpec,
    fill_command,
    filled_in,
    hyperparameters_of,
    value_text,
)
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import ask_all
from himl_cli.workspaces.azure.jobs.body import AFTER, DONE_OUTPUT, IDENTITIES, POLICIES
from himl_cli.workspaces.azure.jobs.command_line import INPUT_VARIABLE, STARTS, command_line, link_commands
from himl_cli.workspaces.azure.jobs.data_assets import EACH_TRIAL
from himl_cli.workspaces.azure.responses import understood
from himl_cli.workspaces.azure.run_outputs import DEFAULT_OUTPUT

Properties = Mapping[str, Any]
TITLES = "titles"
USUAL_SHM_SIZE = "2g"  # of a job that names none
IDENTITY_OPTIONS = {name: option for option, name in IDENTITIES.items()}
_MODES = {"ReadOnlyMount": "mount", "ReadWriteMount": "mount", "Download": "download", "Upload": "upload"}
# The value of an input of a step that is one of the pipeline or an output of another step, and of an output of a step
# that is one of the pipeline
_BOUND = re.compile(
    r"\s*\$\{\{\s*parent\.(?:inputs\.(?P<input>\w+)|jobs\.(?P<node>[\w-]+)\.outputs\.(?P<output>\w+))\s*\}\}\s*"
)
_OUTER = re.compile(r"\s*\$\{\{\s*parent\.outputs\.(\w+)\s*\}\}\s*")
_STOP_FIELDS = {
    "evaluation_interval": "evaluationInterval",
    "delay_evaluation": "delayEvaluation",
    "slack_factor": "slackFactor",
    "slack_amount": "slackAmount",
    "truncation_percentage": "truncationPercentage",
}


def job_properties(connection: Connection, run_id: str, record_of: Callable[[str], Properties]) -> Properties:
    """The properties of the job, with those of each trial of a sweep. A trial without code of its own, and a nested
    run, have those of their parent, if that has code. *record_of* returns the record of a run. Empty for a run without
    a job.

    A step of a pipeline has the form of a job of its own, in which inputs from other steps have the value
    `${{parent.jobs.NODE.outputs.KEY}}`, and TITLES the display names of all steps by node. Raises BadUsage for a step
    without a command.
    """
    url = connection.arm(f"/jobs/{quote(run_id, safe='')}")
    job = connection.find_object(url, "job", params={"api-version": ApiVersion.JOBS}) or {}
    with understood(url, "the job"):
        found: Properties = {**(job.get("properties") or {})}
        found = {**found, **(found.get("trial") or {})}
    if found.get("codeId") or found.get("jobs") or not (parent := (record := record_of(run_id)).get("parentRunId")):
        return found
    above = job_properties(connection, parent, record_of)
    nodes = nodes_of(above)
    node = next((name for name, given in nodes.items() if _title(name, given) == record.get("displayName")), "")
    if node and not found:
        titles = {name: _title(name, given) for name, given in nodes.items()}
        return {**_as_jobs(connection, above, {node: nodes[node]})[node], TITLES: titles}
    return above if above.get("codeId") else found


def nodes_of(properties: Properties) -> Mapping[str, Properties]:
    """The steps of a pipeline by the names of their nodes. Empty for another job."""
    return properties.get("jobs") or {}


def _title(node: str, given: Properties) -> str:
    return str(given.get("display_name") or node)


def step_key(node: str, given: Properties) -> str:
    """The key of the step, which himl notes beside the node, because not every key is valid as its name."""
    return str((given.get("tags") or {}).get(STEP) or node)


def bound_to(item: Properties) -> tuple[str, str] | None:
    """The node and the key of the output that the input *item* of a step reads, if it is one of another step."""
    found = _BOUND.fullmatch(str(item.get("value")))
    return (found["node"], found["output"]) if found and found["node"] else None


def _as_jobs(connection: Connection, pipeline: Properties, nodes: Mapping[str, Properties]) -> dict[str, Properties]:
    """The steps *nodes* of the *pipeline*, each with its component, in the form of jobs. One request per component.
    Raises BadUsage for a step without a command, and for a component that the workspace does not have."""
    for node, given in nodes.items():
        if (kind := str(given.get("type") or "command")) != "command":
            raise BadUsage(f"The step '{step_key(node, given)}' is of type '{kind}', and himl repeats commands only.")
    ids = [*dict.fromkeys(str(given.get("componentId") or "") for given in nodes.values())]
    records = ask_all(lambda each: _record(connection, each, "components", "component", ApiVersion.COMPONENTS), ids)
    known = dict(zip(ids, records, strict=True))
    found = {}
    for node, given in nodes.items():
        record = known[str(given.get("componentId") or "")]
        if record is None:
            what = f"The step '{step_key(node, given)}' is a component of another workspace, or one that was deleted."
            raise BadUsage(what)
        with understood(connection.arm("/components"), "the component"):
            found[node] = _as_job(pipeline, given, record["componentSpec"])
    return found


def _as_job(pipeline: Properties, given: Properties, component: Properties) -> Properties:
    inputs, outputs = dict[str, Properties](), dict[str, Properties]()
    settings = pipeline.get("settings") or {}
    for key, declared in (component.get("inputs") or {}).items():
        item, default = (given.get("inputs") or {}).get(key) or {}, declared.get("default")
        bound = _BOUND.fullmatch(str(item.get("value")))
        if bound is not None and bound["input"]:
            inputs[key] = {**pipeline["inputs"][bound["input"]], **({"mode": item["mode"]} if item.get("mode") else {})}
        elif item or default is not None:
            inputs[key] = _camel(item) if item else {"value": str(default)}
    for key in component.get("outputs") or {}:
        item = (given.get("outputs") or {}).get(key) or {}
        outer = _OUTER.fullmatch(str(item.get("value")))
        outputs[key] = {**pipeline["outputs"][outer[1]]} if outer is not None else _camel(item)
    spread = given.get("distribution") or component.get("distribution") or {}
    distribution = {
        "distributionType": spread.get("distribution_type") or spread.get("type"),
        "processCountPerInstance": spread.get("process_count_per_instance"),
    }
    optional = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)  # stands in the command if all of its inputs are given
    command = optional.sub(
        lambda part: part[1] if {*re.findall(r"inputs\.(\w+)", part[1])} <= {*inputs} else "", component["command"]
    )
    return {
        "command": command,
        "codeId": str(component.get("code") or "").removeprefix("azureml:"),
        "environmentId": str(component.get("environment") or "").removeprefix("azureml:"),
        "environmentVariables": given.get("environment_variables") or component.get("environment_variables") or {},
        "computeId": _without_binding(pipeline, given.get("computeId") or settings.get("default_compute")),
        "inputs": inputs,
        "outputs": outputs,
        "distribution": distribution if spread else None,
        "resources": _camel({**(component.get("resources") or {}), **(given.get("resources") or {})}),
        "limits": _camel(given.get("limits") or component.get("limits") or {}),
        "identity": _camel(given.get("identity") or {}),
    }


def _without_binding(pipeline: Properties, compute: str | None) -> str | None:
    """The compute target, or the value of the input of the pipeline that it is bound to."""
    bound = _BOUND.fullmatch(str(compute or "").rpartition("/")[2])
    return str(pipeline["inputs"][bound["input"]]["value"]) if bound and bound["input"] else compute


def _camel(item: Properties) -> Properties:
    """*item* with the names of jobs, which are in camel case, in place of those of steps, which are in snake case."""
    return {re.sub(r"_(\w)", lambda found: found[1].upper(), name): value for name, value in item.items()}


def code_uri(connection: Connection, properties: Properties) -> str | None:
    """The address of the code of a job, with a request. None for a job without registered code."""
    record = _record(connection, str(properties.get("codeId") or ""), "codes", "code version", ApiVersion.CODES)
    return None if record is None else str(record["codeUri"])


def environment_of(connection: Connection, properties: Properties) -> RunEnvironment | None:
    """The environment of a job, with a request unless it is one of a registry. None for a run without a job."""
    identity = str(properties.get("environmentId") or "")
    if not identity:
        return None
    record = _record(connection, identity, "environments", "environment", ApiVersion.ENVIRONMENTS) or {}
    named = re.search(r"/environments/([^/]+)/(?:versions|labels)/([^/]+)$", identity)
    resources, build = properties.get("resources") or {}, record.get("build") or {}
    machine = {
        "compute": str(properties.get("computeId") or "").rpartition("/")[2],
        "instance_type": str(resources.get("instanceType") or ""),
        "nodes": str(resources.get("instanceCount") or ""),
    }
    return RunEnvironment(
        problem=NOT_LISTED,
        machine={name: value for name, value in machine.items() if value},
        name=f"{named[1]}:{named[2]}" if named else identity,
        image=str(record.get("image") or build.get("contextUri") or ""),
        conda=str(record.get("condaFile") or ""),
    )


def job_again(properties: Properties, run: Run) -> StoredJob | None:
    """The job of *run*, a trial with its values, for another submission. None for a run without a command, such as a
    pipeline."""
    command = str(properties.get("command") or "")
    inputs = {key: item for key, item in (properties.get("inputs") or {}).items() if not key.startswith(AFTER)}
    outputs = {
        key: item for key, item in (properties.get("outputs") or {}).items() if key not in (DEFAULT_OUTPUT, DONE_OUTPUT)
    }
    if not command:
        return None
    literals = {key: str(item["value"]) for key, item in inputs.items() if "value" in item}
    command = fill_command(command, {"inputs": literals}) if literals else command
    resources, found = properties.get("resources") or {}, properties.get("distribution") or {}
    targets = re.findall(rf'export {INPUT_VARIABLE}(\w+)=("\$PWD"/)?(\S+); ', command)
    places = {key: shlex.split(text)[0] for key, _, text in targets}
    spec = JobSpec(
        run.experiment,
        Entry(EntryKind.command, command),
        Snapshot(Path(), (), 0),
        display_name=own_name(run),
        description=run.description,
        tags=run.tags,
        env=properties.get("environmentVariables") or {},
        processes=found.get("processCountPerInstance"),
        distribution=str(found.get("distributionType") or "").lower(),
        inputs=[_data(key, item, places.get(key)) for key, item in inputs.items() if key not in literals],
        outputs=[_output(key, item, run.id) for key, item in outputs.items()],
        cluster=_compute(properties.get("computeId")),
        environment=EnvironmentSpec(str(properties.get("environmentId") or "")),
        max_seconds=_seconds(properties),
        nodes=int(resources.get("instanceCount") or 1),
        instance_type=str(resources.get("instanceType") or ""),
        resource_properties=resources.get("properties") or {},
        shm_size=str(resources.get("shmSize") or USUAL_SHM_SIZE),
        docker_args=[each] if (each := resources.get("dockerArgs")) else (),
        job_tier=str((properties.get("queueSettings") or {}).get("jobTier") or "").lower() or None,
        identity=IDENTITY_OPTIONS.get(str((properties.get("identity") or {}).get("identityType"))),
        sweep=_sweep(properties),
    )
    spec = _with_arguments(spec)
    values = {name: value_text(value) for name, value in hyperparameters_of(run.tags).items()}
    if spec.sweep is not None and run.parent and values:
        whole = fill_command(spec.entry.target, {SEARCH_SPACE: values})
        arguments = filled_in(spec.arguments, values, spec.sweep.space)
        spec = replace(spec, entry=replace(spec.entry, target=whole), arguments=arguments, sweep=None)
    return StoredJob(spec)


def pipeline_again(
    connection: Connection, properties: Properties, run: Run
) -> tuple[PipelineSpec, Mapping[Path, str]] | None:
    """The pipeline of *run* for another submission, and the ids of the code of its steps by the roots of their
    snapshots. None for another run. Raises BadUsage for a step that is no command."""
    nodes = nodes_of(properties)
    if not nodes:
        return None
    settings, jobs = properties.get("settings") or {}, _as_jobs(connection, properties, nodes)
    keys = {node: step_key(node, given) for node, given in nodes.items()}
    steps, code, made = list[StepSpec](), dict[Path, str](), dict[str, StepOutput]()
    for node, given in nodes.items():
        takes, waits, inputs = dict[str, StepOutput](), list[str](), dict[str, Properties]()
        for key, item in jobs[node]["inputs"].items():
            if (source := bound_to(item)) is None:
                inputs[key] = item
            elif key.startswith(AFTER):
                waits.append(keys[source[0]])
            else:
                takes[key] = StepOutput(keys[source[0]], source[1])
                inputs[key] = {"uri": "", "mode": item.get("mode")}
        for key in jobs[node]["outputs"]:
            outer = _OUTER.fullmatch(str(((given.get("outputs") or {}).get(key) or {}).get("value")))
            made |= {outer[1]: StepOutput(keys[node], key)} if outer is not None else {}
        found = job_again({**jobs[node], "inputs": inputs}, run)
        assert found is not None  # a component of a command has one
        root, title = Path(jobs[node]["codeId"]), _title(node, given)
        code |= {root: jobs[node]["codeId"]} if jobs[node]["codeId"] else {}
        job = replace(found.spec, snapshot=Snapshot(root, (), 0), display_name=title, description="")
        steps.append(StepSpec(keys[node], title, job, takes, waits))
    ordered = list[StepSpec]()
    while rest := [step for step in steps if step not in ordered]:
        done = {step.key for step in ordered}
        ordered.append(next((step for step in rest if {*step.after} <= done), rest[0]))
    default = str(settings.get("default_datastore") or "").rpartition("/")[2] or None
    spec = PipelineSpec(
        run.experiment,
        ordered,
        own_name(run),
        run.description,
        run.tags,
        cluster=_compute(
            _without_binding(properties, settings.get("default_compute")) or jobs[next(iter(nodes))]["computeId"]
        ),
        default_datastore=default,
        command=run.command,
        outputs=made,
    )
    return spec, code


def _compute(identity: Any) -> str:
    """The name of a compute target of the workspace, or the id of another one."""
    text = str(identity or SERVERLESS)
    return text.rpartition("/")[2] if "/computes/" in text else text.removeprefix("azureml:")


def _output(key: str, item: Properties, run_id: str) -> DataSpec:
    """The output in a folder of its datastore, in which the id of the run is that of the new one."""
    found = _data(key, item)
    place = re.fullmatch(r"azureml://.*?datastores/([^/]+)/paths/(.+?)/?", found.name)
    if place is None:
        return replace(found, name="")
    return replace(found, datastore=place[1], name=place[2].replace(run_id, EACH_TRIAL))


def _with_arguments(spec: JobSpec) -> JobSpec:
    """*spec*, with its script or module and arguments in place of the command line, if himl would write the same line
    for these."""
    start = link_commands(spec)
    line = spec.entry.target.removeprefix(start)
    try:
        words = shlex.split(line)
    except ValueError:  # an unclosed quote
        return spec
    for kind, begin in STARTS.items():
        if words[: len(begin)] == [*begin] and len(words) > len(begin):
            target = words[len(begin)].removeprefix("./")
            if kind is not EntryKind.module and not target.endswith((".py", ".sh")):
                continue
            found = replace(spec, entry=Entry(kind, target), arguments=words[len(begin) + 1 :])
            with suppress(BadUsage):
                if command_line(found) == spec.entry.target:
                    return found
    return spec


def _data(key: str, item: Properties, target: str | None = None) -> DataSpec:
    return DataSpec(key, str(item.get("uri") or ""), mode=_MODES.get(str(item.get("mode"))), target=target)


def _seconds(properties: Properties) -> float | None:
    """The limit of a job, or of each trial of a sweep, in seconds."""
    limits = properties.get("limits") or {}
    text = limits.get("trialTimeout" if "searchSpace" in properties else "timeout")
    units = {"D": 86400.0, "H": 3600.0, "M": 60.0, "S": 1.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)([DHMS])", str(text or ""))
    return sum(float(number) * units[unit] for number, unit in parts) or None


def _sweep(properties: Properties) -> SweepSpec | None:
    if "searchSpace" not in properties:
        return None
    limits, sampling = properties.get("limits") or {}, properties.get("samplingAlgorithm") or {}
    objective, stop = properties.get("objective") or {}, properties.get("earlyTermination") or {}
    space = {}
    for name, (draw, values) in properties["searchSpace"].items():
        space[name] = SearchRange(Draw(draw), tuple(values[0] if draw == Draw.choice.value else values))
    fields = {snake: stop.get(camel) for snake, camel in _STOP_FIELDS.items()}
    policies = {name: option for option, name in POLICIES.items()}
    return SweepSpec(
        space,
        str(sampling.get("samplingAlgorithmType") or "grid").lower(),
        int(limits.get("maxTotalTrials") or 1),
        limits.get("maxConcurrentTrials"),
        str(objective.get("primaryMetric") or ""),
        str(objective.get("goal") or "minimize").lower(),
        EarlyStop(policies[stop["policyType"]], **{name: each for name, each in fields.items() if each})
        if stop
        else None,
        sampling.get("seed"),
    )


def _record(connection: Connection, identity: str, kind: str, what: str, version: str) -> Properties | None:
    """The properties of the version of an asset of the workspace, by its resource id. None for another asset, and for
    one that is gone."""
    found = re.search(rf"^/subscriptions/.*/{kind}/([^/]+)/versions/([^/]+)$", identity)
    if found is None:
        return None
    url = connection.arm(f"/{kind}/{quote(found[1], safe='')}/versions/{quote(found[2], safe='')}")
    answer = connection.find_object(url, what, params={"api-version": version})
    with understood(url, f"the {what}"):
        return None if answer is None else answer["properties"]
