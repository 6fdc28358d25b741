"""What a job's code, inputs and outputs are called in a request to Azure ML: found out, checked, nothing left to look
up."""

from __future__ import annotations

from dataclasses import dataclass

SERVICE_NEEDS = {"tensorboard": "log_dir", "ssh": "ssh_public_keys"}
"""What the value of such a service of a job is, as azure-ai-ml calls it."""
LATEST = "latest"
"""The word for the newest version of what has versions."""
INPUT_MODES = {"mount": "ro_mount", "download": "download"}
OUTPUT_MODES = {"mount": "rw_mount", "upload": "upload"}
"""himl's words for how data reaches a job, and azure-ai-ml's."""


@dataclass(frozen=True)
class CodeAsset:
    """A snapshot as a registered code version: `id` is its resource id; `is_new` where it was uploaded just now."""

    id: str
    is_new: bool


@dataclass(frozen=True)
class JobInput:
    """One input: `type` is `uri_folder`, `uri_file` or `mltable`; `mode` a value of INPUT_MODES.

    `path` is what goes into the request: the resource id of a version of a data asset, or
    `azureml://datastores/D/paths/P/`. `target` is the path at which the job is to find it, None for one that the
    service chooses: for requests that can say it.
    """

    type: str
    path: str
    mode: str
    target: str | None = None


@dataclass(frozen=True)
class JobOutput:
    """One output: a folder at `path` (`azureml://datastores/D/paths/P/`) that the job fills, `mode` a value of
    OUTPUT_MODES.

    It is registered at the job's end as the next version of the data asset `asset_name`; None registers nothing.
    """

    path: str
    mode: str
    asset_name: str | None = None
    type: str = "uri_folder"
