"""A job's YAML as `--dry_run` shows it: with the changes that were asked for, and without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.redaction import mask_document
from himl_cli.services.job_yaml.document import COMMAND, PIPELINE, SWEEP
from himl_cli.services.job_yaml.prepare import PreparedDocument
from himl_cli.services.yaml_files import dump_mapping


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
