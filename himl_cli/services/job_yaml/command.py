"""A command job of Azure ML's YAML as a job that runs on this machine."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from himl_cli.core.jobs import DISTRIBUTIONS, Entry, EntryKind, JobSpec, Snapshot, SnapshotReport
from himl_cli.services.job_yaml.command_line import filled, filled_command
from himl_cli.services.job_yaml.data import Values, local_path, read_inputs, read_output
from himl_cli.services.job_yaml.document import Part
from himl_cli.services.snapshot import take_snapshot
from himl_cli.services.submission.quantities import MOST_NODES, MOST_PROCESSES
from himl_cli.services.written_paths import as_found

NAMING = (
    "$schema",
    "type",
    "name",
    "version",
    "experiment_name",
    "display_name",
    "description",
    "tags",
    "properties",
    "id",
)
RUNNING = ("code", "command", "environment", "environment_variables", "distribution", "resources")
AROUND = ("inputs", "outputs", "compute", "limits", "identity", "services", "queue_settings", "is_deterministic")
COMMAND_KEYS = (*NAMING, *RUNNING, *AROUND)
IDLE = ("environment", "identity", "services", "queue_settings", "resources")
"""What is of a cluster, and does no harm where there is none."""
ELSEWHERE = ("azureml:", "git+", "http:", "https:")


@dataclass
class Laid:
    """What was found on the way: snapshots by folder, and keys that count on a cluster only."""

    ignored_folders: Sequence[str] = ()
    include_secret: Sequence[str] = ()
    snapshots: dict[Path, SnapshotReport] = field(default_factory=dict)
    idle: dict[str, None] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def command_job(part: Part, common: JobSpec, laid: Laid) -> JobSpec:
    """The job of the whole file. Raises BadUsage naming the key."""
    part.check_keys(COMMAND_KEYS)
    return running(part, common, read_inputs(part.part("inputs")), laid, outputs_of=part)


def running(
    part: Part,
    common: JobSpec,
    values: Values,
    laid: Laid,
    *,
    outputs_of: Part,
    space: Mapping[str, object] | None = None,
) -> JobSpec:
    """The job whose command, code and ranks *part* holds, with its inputs' *values* and the outputs and limits of
    *outputs_of*."""
    outputs = outputs_of.part("outputs")
    text = filled_command(part, values, list(outputs.content), list(space or {}))
    processes, distribution = _ranks(part, laid)
    note_idle(part, laid)
    if part is not outputs_of:
        note_idle(outputs_of, laid)
    return replace(
        common,
        entry=Entry(EntryKind.command, text),
        snapshot=_snapshot(part, laid),
        processes=processes,
        distribution=distribution,
        max_seconds=common.max_seconds or outputs_of.part("limits").seconds("timeout"),
        env={**_variables(part, values), **common.env},
        inputs=[item for key, item in values.data.items()],
        outputs=[read_output(outputs, key) for key in outputs.content],
    )


def note_idle(part: Part, laid: Laid) -> None:
    """Remember which keys of a cluster *part* has."""
    for key in IDLE:
        given = part.given(key)
        if given:
            names = [f"{key}.{name}" for name in given] if key == "resources" and isinstance(given, Mapping) else [key]
            laid.idle.update(dict.fromkeys(name for name in names if name != "resources.instance_count"))


def changed_code(root: Part) -> dict[str, str]:
    """The folders of code in the whole file that have `\\` for `/`, by their keys with dots, as this machine finds
    them."""
    parts = [root, *_mappings(root.part("jobs"))]
    parts += [each for part in parts for each in _mappings(part, ("trial", "component"))]
    given = {f"{part.prefix}code": part.given("code") for part in parts}
    local = {key: code for key, code in given.items() if isinstance(code, str) and not code.startswith(ELSEWHERE)}
    return {key: found for key, code in local.items() if (found := as_found(root.folder, code)) != code}


def _mappings(part: Part, keys: Collection[str] | None = None) -> list[Part]:
    """Those of the entries of *part* (of *keys*) that are mappings."""
    return [
        part.part(key) for key in part.content if isinstance(part.given(key), Mapping) and (keys is None or key in keys)
    ]


def _snapshot(part: Part, laid: Laid) -> Snapshot:
    """The files of `code`; none where there is no such key."""
    code = part.text("code")
    if not code:
        return Snapshot(part.folder, (), 0)
    if code.startswith(ELSEWHERE):
        raise part.wrong("code", f"'{code}' cannot be had here.", hint="Here it is a folder.")
    folder = local_path(part, code)
    if not os.path.isdir(folder):  # also for a name that no file system takes
        raise part.wrong("code", f"'{code}' is no folder.", hint=f"It is relative to '{part.folder}'.")
    folder = folder.resolve()
    if folder not in laid.snapshots:
        laid.snapshots[folder] = take_snapshot(folder, laid.ignored_folders, laid.include_secret)
    return laid.snapshots[folder].snapshot


def _variables(part: Part, values: Values) -> dict[str, str]:
    variables = part.part("environment_variables")
    plain = Values(literals=values.literals)
    return {key: filled(variables, key, _variable(variables, key), plain, {}) for key in variables.content}


def _variable(variables: Part, key: str) -> str:
    value = variables.given(key)
    return str(value).lower() if isinstance(value, bool) else variables.text(key)


def _ranks(part: Part, laid: Laid) -> tuple[int | None, str]:
    """Processes (None: a plain one) and what starts them."""
    nodes = part.part("resources").count("instance_count", 1, most=MOST_NODES)
    if nodes is not None and nodes > 1:
        laid.remarks.append(f"'{part.prefix}resources.instance_count': one node here in place of {nodes}.")
    distribution = part.part("distribution")
    if not distribution.content:
        return None, "pytorch"
    kind = distribution.text("type").lower()
    if kind not in DISTRIBUTIONS:
        raise distribution.wrong(
            "type", f"'{kind}' cannot be had here.", hint=f"Here it is one of: {', '.join(DISTRIBUTIONS)}."
        )
    return distribution.count("process_count_per_instance", 1, most=MOST_PROCESSES), kind
