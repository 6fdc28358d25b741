"""A job on its way from `submit` to its supervisor: one JSON document through a pipe, so that no file holds its
variables; and as it is stored beside its run, where it must not hold secrets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from himl_cli.core.jobs import DataSpec, Entry, EntryKind, JobSpec, Snapshot
from himl_cli.core.redaction import mask_arguments, mask_line
from himl_cli.core.sweeps import Draw, EarlyStop, SearchRange, SweepSpec

Form = dict[str, Any]


@dataclass(frozen=True)
class LaunchRequest:
    """A job with the folders that its inputs and outputs resolve to (absolute, by key), and its command as the record
    shows it.

    `stdin` is what the job reads: a terminal by its name, or by its number a file handle that the supervisor inherits,
    for the first rank alone; '' means that there is nothing to read. `again`: the run is resumed. `values` are those of
    a trial's hyperparameters: logged as parameters unless its script logs them itself.
    """

    run_folder: str
    workspace: str
    spec: JobSpec
    command: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    stdin: str = ""
    again: bool = False
    values: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(shallow(self) | {"spec": job_form(self.spec)})


def request_from_json(text: str) -> LaunchRequest:
    form: Form = json.loads(text)
    return LaunchRequest(**{**form, "spec": job_from_form(form["spec"])})


def shallow(record: Any) -> Form:
    """The fields of a dataclass's instance as they are."""
    return {each.name: getattr(record, each.name) for each in fields(record)}


def job_form(spec: JobSpec) -> Form:
    """All of the job that counts on this machine; what is for clusters only is left out."""
    entry = {"kind": spec.entry.kind.value, "target": spec.entry.target}
    snapshot = {"root": str(spec.snapshot.root), "files": list(spec.snapshot.files), "size": spec.snapshot.size}
    data = {name: [asdict(item) for item in getattr(spec, name)] for name in ("inputs", "outputs")}
    copies = {name: dict(getattr(spec, name)) for name in ("env", "tags", "brought")}
    sweep = asdict(spec.sweep) if spec.sweep else None
    left_out: Form = {"docker_args": [], "environment": None}
    arguments = list(spec.arguments)
    whole = {"entry": entry, "snapshot": snapshot, "arguments": arguments, "sweep": sweep}
    return {**shallow(spec), **whole, **data, **copies, **left_out}


def job_from_form(form: Mapping[str, Any]) -> JobSpec:
    """The opposite of `job_form`."""
    snapshot, sweep = form["snapshot"], form["sweep"]
    if sweep:
        space = {name: SearchRange(Draw(found["draw"]), found["values"]) for name, found in sweep["space"].items()}
        early_stop = EarlyStop(**sweep["early_stop"]) if sweep["early_stop"] else None
        sweep = SweepSpec(**{**sweep, "space": space, "early_stop": early_stop})
    parts: Form = {
        "entry": Entry(EntryKind(form["entry"]["kind"]), form["entry"]["target"]),
        "snapshot": Snapshot(Path(snapshot["root"]), snapshot["files"], snapshot["size"]),
        "inputs": [DataSpec(**item) for item in form["inputs"]],
        "outputs": [DataSpec(**item) for item in form["outputs"]],
        "sweep": sweep or None,
    }
    return JobSpec(**{**form, **parts})


def stored_form(spec: JobSpec) -> Form:
    """The job as a file may hold it: variables by name only, secrets among the arguments masked (`has_secrets` where
    there are any).

    Without its list of files, which are staged once.
    """
    shown = mask_arguments(spec.arguments)
    target = mask_line(spec.entry.target) if spec.entry.kind is EntryKind.command else spec.entry.target
    has_secrets = shown != list(spec.arguments) or target != spec.entry.target
    snapshot = replace(spec.snapshot, files=())
    masked = replace(spec, arguments=shown, entry=replace(spec.entry, target=target), env={}, snapshot=snapshot)
    return {**job_form(masked), "env_names": sorted(spec.env), "has_secrets": has_secrets}


def job_from_stored_form(form: Mapping[str, Any], env: Mapping[str, str]) -> JobSpec:
    """The job of a form that was stored, with the variables of *env*."""
    known = {name: value for name, value in form.items() if name not in ("env_names", "has_secrets")}
    return job_from_form({**known, "env": dict(env)})
