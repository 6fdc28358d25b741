"""A job as JSON: on its way through a pipe, and as it is kept beside its run, where it must not hold secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from himl_cli.core.jobs import DataSpec, Entry, EntryKind, JobSpec, Snapshot
from himl_cli.core.redaction import mask_arguments, mask_line
from himl_cli.core.sweeps import Draw, EarlyStop, SearchRange, SweepSpec

Form = dict[str, Any]


def job_form(spec: JobSpec) -> Form:
    """All of the job that counts here; what is for clusters only is left out."""
    form: Form = {each.name: getattr(spec, each.name) for each in fields(spec)}
    form["entry"] = {"kind": spec.entry.kind.value, "target": spec.entry.target}
    form["snapshot"] = {"root": str(spec.snapshot.root), "files": list(spec.snapshot.files), "size": spec.snapshot.size}
    form |= {name: [asdict(item) for item in getattr(spec, name)] for name in ("inputs", "outputs")}
    form |= {
        "arguments": list(spec.arguments),
        "env": dict(spec.env),
        "tags": dict(spec.tags),
        "docker_args": [],
        "environment": None,
        "brought": dict(spec.brought),
    }
    form["sweep"] = asdict(spec.sweep) if spec.sweep else None
    return form


def job_from_form(form: Mapping[str, Any]) -> JobSpec:
    """The opposite of `job_form`."""
    snapshot = form["snapshot"]
    return JobSpec(
        **{
            **form,
            "entry": Entry(EntryKind(form["entry"]["kind"]), form["entry"]["target"]),
            "snapshot": Snapshot(Path(snapshot["root"]), snapshot["files"], snapshot["size"]),
            "inputs": [DataSpec(**item) for item in form["inputs"]],
            "outputs": [DataSpec(**item) for item in form["outputs"]],
            "sweep": sweep_from_form(form["sweep"]) if form["sweep"] else None,
        }
    )


def sweep_from_form(form: Mapping[str, Any]) -> SweepSpec:
    space = {name: SearchRange(Draw(found["draw"]), found["values"]) for name, found in form["space"].items()}
    return SweepSpec(
        **{**form, "space": space, "early_stop": EarlyStop(**form["early_stop"]) if form["early_stop"] else None}
    )


def kept_form(spec: JobSpec) -> Form:
    """The job as a file may hold it: variables by name only, secrets among the arguments masked (`has_secrets` where
    there are any).

    Without its list of files, which are laid once.
    """
    shown = mask_arguments(spec.arguments)
    target = mask_line(spec.entry.target) if spec.entry.kind is EntryKind.command else spec.entry.target
    has_secrets = shown != list(spec.arguments) or target != spec.entry.target
    snapshot = replace(spec.snapshot, files=())
    masked = replace(spec, arguments=shown, entry=replace(spec.entry, target=target), env={}, snapshot=snapshot)
    return {**job_form(masked), "env_names": sorted(spec.env), "has_secrets": has_secrets}


def job_from_kept_form(form: Mapping[str, Any], env: Mapping[str, str]) -> JobSpec:
    """The job of a form that was kept, with the variables of *env*."""
    known = {name: value for name, value in form.items() if name not in ("env_names", "has_secrets")}
    return job_from_form({**known, "env": dict(env)})
