"""A trial of a sweep: a command job of its own, with the values filled in."""

from __future__ import annotations

import json
import random
import secrets
from collections.abc import Mapping

from tests.servers.azureml.jobs.command import named, with_values
from tests.servers.azureml.jobs.manner import Manner
from tests.servers.azureml.jobs.sweeps.space import Value, Values
from tests.servers.azureml.run_definitions_v1 import as_job
from tests.servers.azureml.state import Json, Run, Workspace, now

HYPERPARAMETERS = "hyperparameters"
SWEEP = "hyperdrive"
PREFIX = "AZUREML_SWEEP_"
SYSTEM_TAG = "_aml_system_"
OWN_TAGS = {"tag": (HYPERPARAMETERS, SYSTEM_TAG + HYPERPARAMETERS), "old_tag": (HYPERPARAMETERS,), "system_tag": (SYSTEM_TAG + HYPERPARAMETERS,)}
"""Of a trial: the tags with its values, by `values_in`."""
WORDS = (("boring", "sincere", "quiet", "jolly"), ("boat", "wolf", "pine", "lamp"))
AS_IT_IS = Manner()


def add_trial(workspace: Workspace, sweep: Run, index: int, values: Values, manner: Manner = AS_IT_IS) -> Run:
    """The record of the trial with this number, which nobody has started yet. Its values are its tag, and one of the sweep's."""
    text = json.dumps(values)
    sweep.tags[f"{'' if manner.values_in == 'old_sweep' else SYSTEM_TAG}{sweep.run_id}_{index}"] = text
    sweep.revision += 1
    properties = {name: sweep.properties[name] for name in ("ContentSnapshotId",) if name in sweep.properties}
    return workspace.keep_run(
        Run(
            run_id=f"{sweep.run_id}_{index}",
            experiment=sweep.experiment,
            status="NotStarted",
            created=now(),
            started=None,
            ended=None,
            display_name="_".join((*map(random.choice, WORDS), secrets.token_hex(4))),
            user_name=sweep.user_name,
            data_container_id=f"dcid.{sweep.run_id}_{index}",
            number=next(workspace.numbers),
            parent_id=sweep.run_id,
            tags=dict.fromkeys(OWN_TAGS.get(manner.values_in, ()), text),
            properties={"_azureml.ComputeTargetType": "amlctrain", **properties},
            target=sweep.target,
            script=sweep.script,
            definition=_definition(sweep, values),
            job=job_of(sweep, values, manner),
        )
    )


def job_of(run: Run, values: Values, manner: Manner) -> Json:
    """The command job that a trial of the sweep *run* is."""
    sweep = run.job or {}
    definition = _definition(run, values)
    trial = sweep["trial"] if definition is None else as_job(definition, sweep["trial"]["codeId"])
    told = {f"{PREFIX}{name}": value_text(value) for name, value in values.items()}
    timeout = (sweep.get("limits") or {}).get("trialTimeout")
    shown = {name: f"${PREFIX}{name}" if manner.values_by == "variable" else value_text(value) for name, value in values.items()}
    outputs = trial.get("outputs") or sweep.get("outputs") or {}
    if manner.trial_name == "sweep":
        outputs = {key: {**given, "uri": named(given["uri"], run.run_id)} if given.get("uri") else given for key, given in outputs.items()}
    return {
        "jobType": "Command",
        "command": with_values(trial["command"], shown),
        "codeId": trial.get("codeId"),
        "environmentId": trial.get("environmentId"),
        "computeId": sweep.get("computeId"),
        "environmentVariables": {**(trial.get("environmentVariables") or {}), **told},
        "inputs": trial.get("inputs") or sweep.get("inputs") or {},
        "outputs": outputs,
        "distribution": trial.get("distribution"),
        "resources": trial.get("resources"),
        "identity": sweep.get("identity"),
        "limits": {"jobLimitsType": "Command", "timeout": timeout} if timeout else None,
    }


def _definition(run: Run, values: Values) -> Json | None:
    """azureml-core's run definition of a trial, where the sweep is one of its own: the values stand behind the script's arguments."""
    if run.definition is None:
        return None
    given = [text for name, value in values.items() for text in (name if name.startswith("-") else f"--{name}", value_text(value))]
    return {**run.definition, "arguments": [*(run.definition.get("arguments") or []), *given]}


def value_text(value: Value) -> str:
    """A value as its variable has it, and as it stands in a command that has the text."""
    return value if isinstance(value, str) else str(value) if isinstance(value, bool) else json.dumps(value)


def sweep_variables(workspace: Workspace, run: Run, data: Mapping[str, str]) -> dict[str, str]:
    """Places of a trial's inputs and outputs under the names that sweeps have for them; nothing for other jobs."""
    parent = workspace.runs.get(run.parent_id or "")
    return {f"{PREFIX}{name}": place for name, place in data.items()} if parent is not None and parent.run_type == SWEEP else {}
