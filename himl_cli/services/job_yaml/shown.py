"""A job's YAML as `--dry_run` shows it: with the changes that were asked for, and without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import mask_arguments, redact
from himl_cli.services.job_yaml.document import COMMAND, PIPELINE, SWEEP
from himl_cli.services.job_yaml.prepare import PreparedDocument
from himl_cli.services.yaml_files import dump_mapping


def changed_yaml(prepared: PreparedDocument) -> str:
    """The file's job with the changes in it; its paths are relative to the file's folder, as they are there. Raises BadUsage for what no key can say."""
    changes, kind = prepared.changes, prepared.document.kind
    content = dict(prepared.document.root.content)
    texts = {"experiment_name": changes.experiment, "display_name": changes.display_name, "description": changes.description}
    content |= {key: value for key, value in texts.items() if value}
    content["tags"] = dict(changes.tags)
    if changes.cluster and kind == PIPELINE:
        content["settings"] = {**(content.get("settings") or {}), "default_compute": f"azureml:{changes.cluster}"}
    elif changes.cluster:
        content["compute"] = f"azureml:{changes.cluster}"
    if changes.env:
        if kind not in (COMMAND, SWEEP) or (kind == SWEEP and not isinstance(content.get("trial"), Mapping)):
            raise BadUsage(f"--env_var has no key in the YAML of this {kind} job.", hint="Write the variables into the file, or leave --dry_run out.")
        content = _with_variables(content, changes.env) if kind == COMMAND else {**content, "trial": _with_variables(content["trial"], changes.env)}
    return dump_mapping(_masked(content))


def _with_variables(content: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    return {**content, "environment_variables": {**(content.get("environment_variables") or {}), **env}}


def _masked(value: Any, name: str = "") -> Any:
    """*value* with credentials masked, in any text in it and where a name says that it is one."""
    if isinstance(value, str):
        option = f"--{name}="
        return mask_arguments([option + value])[0].removeprefix(option) if name else redact(value)
    if isinstance(value, Mapping):
        return {key: _masked(item, str(key)) for key, item in value.items()}
    return [_masked(item) for item in value] if isinstance(value, list) else value
