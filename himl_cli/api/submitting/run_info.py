"""What a script is told of where it runs: its data, its folders, its run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.api.submitting.data_folders import DataFolders
from himl_cli.core.errors import DiskFailed

if TYPE_CHECKING:
    from himl_cli.api.run import Run
    from himl_cli.core.jobs import DataSpec

log = logging.getLogger(__name__)

OUTPUT_FOLDER = "outputs"
LOGS_FOLDER = "logs"


@dataclass
class AzureRunInfo:
    """What a script needs to know inside and outside of a job.

    *input_datasets* and *output_datasets* are folders in the order in which the datasets were named, None for one that
    has none here. What is written to *output_folder* and *logs_folder* is kept with the run. *run* is the run to log
    to, None outside of a job. *mount_contexts* is always empty (nothing is mounted outside of a job); it is there for
    hi-ml's users.
    """

    input_datasets: list[Path | None]
    output_datasets: list[Path | None]
    mount_contexts: list[Any]
    run: Run | None = field(repr=False)  # showing it would ask for it
    is_running_in_azure_ml: bool
    output_folder: Path
    logs_folder: Path


def info_in_job(inputs: Sequence[DataSpec], outputs: Sequence[DataSpec], *, is_in_azure: bool) -> AzureRunInfo:
    """What the job that this process is part of says of *inputs* and *outputs*.

    Costs no request and no heavy import. Raises DiskFailed where the folders cannot be made.
    """
    from himl_cli.api.run_context import RUN_CONTEXT

    return AzureRunInfo(
        input_datasets=_folders("input", inputs),
        output_datasets=_folders("output", outputs),
        mount_contexts=[],
        run=RUN_CONTEXT,
        is_running_in_azure_ml=is_in_azure,
        output_folder=made(Path(OUTPUT_FOLDER)),
        logs_folder=made(Path(LOGS_FOLDER)),
    )


def _folders(kind: str, specs: Sequence[DataSpec]) -> list[Path | None]:
    folders = [DataFolders(kind).get(spec.key) for spec in specs]
    for spec, folder in zip(specs, folders, strict=True):
        if folder is None:
            log.warning("The job was submitted without the %s dataset '%s'; its path is None.", kind, spec.name)
    return folders


def made(folder: Path) -> Path:
    """*folder*, which exists from now on. Raises DiskFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DiskFailed(f"Cannot make the folder '{folder}': {err.strerror}.") from err
    return folder
