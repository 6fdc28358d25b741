"""The records of submitted jobs, sweeps and trials, made from the `properties` of a job. The records of sweeps follow
the recordings (wire document 2.8).
"""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Mapping
from typing import Any

from tests.azureml_double.jobs.command import (
    LONGEST_SWEEP,
    MOST_TRIALS,
    Manner,
    Value,
    Values,
    as_job,
    seconds_of,
    size_of,
    with_values,
)
from tests.azureml_double.state import Json, Run, Workspace, new_id

FIRST_STATUS = {"Command": "Starting", "Sweep": "Running", "Pipeline": "NotStarted"}
RUN_TYPES = {"Command": "azureml.scriptrun", "Sweep": "hyperdrive", "Pipeline": "azureml.PipelineRun"}
JOB_TYPES = {"hyperdrive": "Sweep", "azureml.PipelineRun": "Pipeline", "automl": "AutoML"}
GENERATORS = {"Random": "RANDOM", "Grid": "GRID", "Bayesian": "BayesianOptimization"}
SYSTEM_PREFIX, VALUE_PREFIX, HYPERPARAMETERS = "_aml_system_", "AZUREML_SWEEP_", "hyperparameters"
OWN_TAGS = {"tag": (HYPERPARAMETERS, SYSTEM_PREFIX + HYPERPARAMETERS), "system_tag": (SYSTEM_PREFIX + HYPERPARAMETERS,)}
"""The tags of a trial that contain its values, by `values_in`."""
WORDS = (("boring", "sincere", "quiet", "jolly"), ("boat", "wolf", "pine", "lamp"))
AS_IT_IS = Manner()


def job_type_of(run: Run) -> str:
    return str((run.job or {}).get("jobType") or JOB_TYPES.get(run.run_type, "Command"))


def new_job(workspace: Workspace, name: str, properties: Json, *, definition: Json | None = None) -> Run:
    """Make the record of an accepted job according to its `jobType`, before the job starts. *definition* is that of
    azureml-core, if azureml-core sent it.
    """
    kind = properties["jobType"]
    run = Run(
        name,
        workspace.experiment(properties.get("experimentName") or "Default"),
        FIRST_STATUS[kind],
        run_type=RUN_TYPES[kind],
        job=properties,
    )
    run.parent_id = properties.get("parentJobName")
    run.display_name, run.description = properties.get("displayName") or name, properties.get("description")
    run.tags, run.properties = dict(properties.get("tags") or {}), dict(properties.get("properties") or {})
    if properties.get("codeId") or (properties.get("trial") or {}).get("codeId"):
        run.properties["ContentSnapshotId"] = new_id()
    run.target = (properties.get("computeId") or "").rpartition("/")[2] or None
    run.definition, run.script = definition, (definition or {}).get("script")
    if kind == "Sweep":
        run.started = run.created
        run.tags |= _tags_of_sweep(workspace, run, properties)
        size, metric = size_of(properties["searchSpace"]), _json(_metric(properties))
        run.properties |= {
            "primary_metric_config": metric,
            "resume_from": "null",
            "runTemplate": "HyperDrive",
            "azureml.runsource": "hyperdrive",
        }
        run.properties |= {
            "platform": "AML",
            "user_agent": "managementfrontend/228017e6e7be02bc1a1868402fb250fbc89e44f8",
        }
        run.properties |= {"space_size": str(size)} if size is not None else {}
    return workspace.keep_run(run)


def _tags_of_sweep(workspace: Workspace, run: Run, job: Json) -> dict[str, str]:
    """The service's tags on a sweep, in addition to the user's. One of them is longer than all the others together."""
    limits = job.get("limits") or {}
    total = limits.get("maxTotalTrials") or MOST_TRIALS
    tags: Json = {"max_concurrent_jobs": str(limits.get("maxConcurrentTrials") or total), "max_total_jobs": str(total)}
    tags |= {"max_duration_minutes": str(max(1, int(seconds_of(limits.get("timeout") or LONGEST_SWEEP) // 60)))}
    tags |= {
        "policy_config": _policy(job.get("earlyTermination")),
        "generator_config": _generator(job),
        "primary_metric_config": _metric(job),
    }
    tags |= {
        "platform_config": _platform(workspace, run, job["trial"]),
        "resume_child_runs": "null",
        "all_jobs_generated": "false",
    }
    tags |= {"cancellation_requested": "false"}
    return {f"{SYSTEM_PREFIX}{name}": value if isinstance(value, str) else _json(value) for name, value in tags.items()}


def _metric(job: Json) -> Json:
    return {"name": job["objective"]["primaryMetric"], "goal": str(job["objective"]["goal"]).lower()}


def _generator(job: Json) -> Json:
    sampling = job["samplingAlgorithm"]
    kind = sampling["samplingAlgorithmType"]
    own = {"rule": sampling.get("rule") or "Random", "logbase": sampling.get("logbase"), "seed": sampling.get("seed")}
    return {
        "name": GENERATORS[kind],
        "parameter_space": job["searchSpace"],
        **({"properties": own} if kind == "Random" else {}),
    }


def _policy(policy: Json | None) -> Json:
    if policy is None:
        return {"name": "Default", "properties": {}}
    names = {
        "slackFactor": "slack_factor",
        "slackAmount": "slack_amount",
        "truncationPercentage": "truncation_percentage",
    }
    own: Json = {name: policy[key] for key, name in names.items() if policy.get(key)}
    if policy["policyType"] == "TruncationSelection":
        own["exclude_finished_jobs"] = False
    when = {
        "evaluation_interval": policy.get("evaluationInterval") or 1,
        "delay_evaluation": policy.get("delayEvaluation") or 0,
    }
    return {"name": policy["policyType"], "properties": {**when, **own}}


def _platform(workspace: Workspace, run: Run, trial: Json) -> Json:
    """The configuration that starts a trial. It includes the image recipe, which is long."""
    recipe = "FROM docker.io/python:3.11\n" + "".join(
        f"RUN python -m pip install 'package-{number:03d}==1.{number}.0'\n" for number in range(160)
    )
    overrides: Json = {"Script": None, "Command": trial["command"], "UseAbsolutePath": True, "Target": run.target}
    overrides |= {"NodeCount": (trial.get("resources") or {}).get("instanceCount") or 1}
    overrides |= {
        "Environment": {
            "AssetId": trial.get("environmentId"),
            "Docker": {"BaseImage": None, "BaseDockerfile": recipe},
            "EnvironmentVariables": {},
        }
    }
    overrides |= {"History": {"OutputCollection": True, "DirectoriesToWatch": ["logs"], "EnableMLflowTracking": True}}
    definition = {
        "Overrides": overrides,
        "SnapshotId": run.properties.get("ContentSnapshotId"),
        "DisplayName": run.display_name,
        "Properties": {},
        "Tags": {},
    }
    where = {
        "SubscriptionId": workspace.subscription,
        "ResourceGroupName": workspace.group,
        "WorkspaceName": workspace.name,
    }
    address = {"ServiceAddress": f"https://{workspace.data_plane_host}", **where, "ExperimentName": run.experiment.name}
    return {**address, "Definition": definition, "ParentRunId": run.run_id}


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def add_trial(workspace: Workspace, sweep: Run, index: int, values: Values, manner: Manner = AS_IT_IS) -> Run:
    """Make the record of trial number *index*, before the trial starts. Its values are a tag of the trial and a tag
    of the sweep.
    """
    name, text = f"{sweep.run_id}_{index}", json.dumps(values)
    sweep.tags[f"{'' if manner.values_in == 'old_sweep' else SYSTEM_PREFIX}{name}"] = text
    sweep.revision += 1
    definition = None
    # azureml-core's definition lists the values after the script's arguments.
    if sweep.definition is not None:
        given = [
            word
            for name, value in values.items()
            for word in (name if name.startswith("-") else f"--{name}", value_text(value))
        ]
        definition = {**sweep.definition, "arguments": [*(sweep.definition.get("arguments") or []), *given]}
    trial = Run(
        name,
        sweep.experiment,
        "NotStarted",
        user_name=sweep.user_name,
        parent_id=sweep.run_id,
        target=sweep.target,
        script=sweep.script,
    )
    trial.display_name = "_".join((*map(random.choice, WORDS), secrets.token_hex(4)))
    trial.tags = dict.fromkeys(OWN_TAGS.get(manner.values_in, ()), text)
    trial.properties = {
        "_azureml.ComputeTargetType": "amlctrain",
        **{key: value for key, value in sweep.properties.items() if key == "ContentSnapshotId"},
    }
    trial.definition, trial.job = definition, _trial_job(sweep.job or {}, definition, values)
    return workspace.keep_run(trial)


def _trial_job(sweep: Json, definition: Json | None, values: Values) -> Json:
    trial = sweep["trial"] if definition is None else as_job(definition, sweep["trial"]["codeId"])
    told = {f"{VALUE_PREFIX}{name}": value_text(value) for name, value in values.items()}
    shown = {name: f"${VALUE_PREFIX}{name}" for name in values}
    timeout = (sweep.get("limits") or {}).get("trialTimeout")
    form: Json = {"jobType": "Command", "command": with_values(trial["command"], shown)}
    form |= {name: trial.get(name) for name in ("codeId", "environmentId", "distribution", "resources")}
    form |= {
        **{name: trial.get(name) or sweep.get(name) or {} for name in ("inputs", "outputs")},
        "computeId": sweep.get("computeId"),
    }
    form |= {
        "environmentVariables": {**(trial.get("environmentVariables") or {}), **told},
        "identity": sweep.get("identity"),
    }
    return form | {"limits": {"jobLimitsType": "Command", "timeout": timeout} if timeout else None}


def value_text(value: Value) -> str:
    return value if isinstance(value, str) else str(value) if isinstance(value, bool) else json.dumps(value)


def sweep_variables(workspace: Workspace, run: Run, data: Mapping[str, str]) -> dict[str, str]:
    parent = workspace.runs.get(run.parent_id or "")
    is_trial = parent is not None and parent.run_type == RUN_TYPES["Sweep"]
    return {f"{VALUE_PREFIX}{name}": place for name, place in data.items()} if is_trial else {}
