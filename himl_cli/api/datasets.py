"""The datasets of a script, and where it finds them inside and outside of a job."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.api.distributed import set_environment_variables_for_multi_node
from himl_cli.api.exceptions import NoWorkspace, naming_submit_arguments
from himl_cli.api.job_folders import DataFolders
from himl_cli.api.open_workspace import resolve_workspace
from himl_cli.api.transfer import PathLike
from himl_cli.core.errors import BadUsage, DiskFailed, NotFound
from himl_cli.core.files import nearest_local
from himl_cli.core.jobs import DataSpec
from himl_cli.core.text import read_json
from himl_cli.services.submission.data import KEY
from himl_cli.services.transfer.ranks import LONGEST_VARIABLE, local_rank
from himl_cli.workspaces.base import CloudWorkspace, Workspace

if TYPE_CHECKING:
    from himl_cli.api.workspace import Run

log = logging.getLogger(__name__)


@dataclass
class DatasetConfig:
    """One dataset that a script reads or writes: *name* as it is registered, or a folder of *datastore*.

    *datastore* empty means the default one. *version* counts for inputs only, None is the latest. *use_mounting* None
    means that inputs are downloaded and outputs mounted. *target_folder* is where a job finds an input (None: a folder
    of the service's choice). *local_folder* is where the data lies outside of a job. *overwrite_existing* False makes
    the submission fail where an output of that name exists. *data_name* is the dataset's key in the job (None: INPUT_i,
    OUTPUT_i, by its place in the list), so that arguments of the script may say `${{inputs.DATA_NAME}}`. Raises
    ValueError for an empty name, for `.` as *target_folder*, and for a *data_name* that cannot be a key.
    """

    name: str
    datastore: str = ""
    overwrite_existing: bool = True
    version: int | str | None = None
    use_mounting: bool | None = None
    target_folder: str | os.PathLike[str] | None = None
    local_folder: str | os.PathLike[str] | None = None
    data_name: str | None = None

    def __post_init__(self) -> None:
        self.name = self.name.strip()
        if not self.name:
            raise ValueError("The name of the dataset is empty.")
        self.target_folder = _path_or_none(self.target_folder)
        self.local_folder = _path_or_none(self.local_folder)
        if self.target_folder == Path("."):
            raise ValueError(
                f"Dataset '{self.name}': '.' cannot be the target_folder, the data would cover the script's own folder."
            )
        if self.data_name is not None and not KEY.fullmatch(self.data_name):
            raise ValueError(
                f"Dataset '{self.name}': '{self.data_name}' cannot be the data_name: letters, digits and _, no digit "
                "first."
            )

    def to_input(self, index: int) -> DataSpec:
        """The dataset as an input of a job, INPUT_*index* unless *data_name* is set."""
        return DataSpec(
            key=self.data_name or f"INPUT_{index}",
            name=self.name,
            version=None if self.version is None else str(self.version),
            datastore=self.datastore or None,
            mode="mount" if self.use_mounting else "download",
            target=None if self.target_folder is None else Path(self.target_folder).as_posix(),
            local=None if self.local_folder is None else str(self.local_folder),
        )

    def to_output(self, index: int) -> DataSpec:
        """The dataset as an output of a job, OUTPUT_*index* unless *data_name* is set; outputs have no target folder
        and no version to ask for."""
        if self.target_folder is not None:
            log.warning(
                "Output dataset '%s': its target_folder is not used; the job's output has a folder of its own.",
                self.name,
            )
        return DataSpec(
            key=self.data_name or f"OUTPUT_{index}",
            name=self.name,
            datastore=self.datastore or None,
            mode="upload" if self.use_mounting is False else "mount",
            local=None if self.local_folder is None else str(self.local_folder),
            overwrite=self.overwrite_existing,
        )


def as_configs(datasets: Sequence[str | DatasetConfig] | None) -> list[DatasetConfig]:
    """Names and `DatasetConfig`s, all as the latter. Raises TypeError for anything but a list of them, ValueError for
    an empty name."""
    if isinstance(datasets, (str, DatasetConfig)):
        raise TypeError("Datasets are given as a list, also a single one: input_datasets=[...].")
    configs: list[DatasetConfig] = []
    for dataset in datasets or ():
        if not isinstance(dataset, (str, DatasetConfig)):
            raise TypeError(f"A dataset is a name or a DatasetConfig, not {type(dataset).__qualname__}.")
        configs.append(DatasetConfig(dataset) if isinstance(dataset, str) else dataset)
    return configs


def _path_or_none(given: str | os.PathLike[str] | None) -> Path | None:
    """An empty text is no path, as in hi-ml."""
    return Path(given) if given is not None and os.fspath(given) else None


Datasets = Sequence[str | DatasetConfig]


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


def info_in_job(inputs: list[DatasetConfig], outputs: list[DatasetConfig], is_wanted: bool) -> AzureRunInfo:
    """What the job that this process is part of, one of Azure ML or one that himl runs here, says of the datasets.

    Costs no request and no heavy import. Raises DiskFailed where the folders cannot be made.
    """
    from himl_cli.api.context import RUN_CONTEXT
    from himl_cli.workspaces.resolve import is_in_azure_job, own_local_run

    is_in_azure = own_local_run() is None and is_in_azure_job()  # a job of Azure ML may run others of himl
    if is_wanted and not is_in_azure:
        log.warning(
            "The script runs in a job of himl already, and is not sent to Azure ML. To send it, start it with python."
        )
    set_environment_variables_for_multi_node()

    def folders(kind: str, specs: list[DataSpec]) -> list[Path | None]:
        found = [DataFolders(kind).get(spec.key) for spec in specs]
        for spec, folder in zip(specs, found, strict=True):
            if folder is None:
                log.warning("The job was submitted without the %s dataset '%s'; its path is None.", kind, spec.name)
        return found

    return AzureRunInfo(
        input_datasets=folders("input", [config.to_input(index) for index, config in enumerate(inputs)]),
        output_datasets=folders("output", [config.to_output(index) for index, config in enumerate(outputs)]),
        mount_contexts=[],
        run=RUN_CONTEXT,
        is_running_in_azure_ml=is_in_azure,
        output_folder=_make_folder(Path("outputs")),
        logs_folder=_make_folder(Path("logs")),
    )


def _make_folder(folder: Path) -> Path:
    """*folder*, which exists from now on. Raises DiskFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DiskFailed(f"Cannot make the folder '{folder}': {err.strerror}.") from err
    return folder


def azure_workspace(given: object | None, config_file: PathLike | None) -> Workspace | None:
    """The workspace that is given, named or configured, opened without a request; None where there is none in Azure ML.

    Raises ConfigNotFound for a config file that is not there, BadUsage for one that cannot be used, TypeError for what
    is no workspace.
    """
    from himl_cli.workspaces.resolve import address_of

    try:
        workspace = resolve_workspace(given, config_file)
    except NoWorkspace:
        return None
    return workspace if address_of(workspace) else None


def info_outside(
    inputs: list[DatasetConfig],
    outputs: list[DatasetConfig],
    workspace: object | None,
    config_file: PathLike | None,
    default_datastore: str | None,
) -> AzureRunInfo:
    """Folders below the current one for what the script writes, and for each dataset its folder, None where it has none
    here.

    Raises what the Azure ML workspace raises where a dataset is only there, BadUsage for an output that must not exist.
    """
    azure = cache(partial(azure_workspace, workspace, config_file))
    with naming_submit_arguments():
        return AzureRunInfo(
            input_datasets=[
                _input_folder(config, index, azure, default_datastore) for index, config in enumerate(inputs)
            ],
            output_datasets=[_output_folder(config, default_datastore) for config in outputs],
            mount_contexts=[],
            run=None,
            is_running_in_azure_ml=False,
            output_folder=_make_folder(Path.cwd() / "outputs"),
            logs_folder=_make_folder(Path.cwd() / "logs"),
        )


def _input_folder(
    config: DatasetConfig, index: int, azure: Callable[[], Workspace | None], default_datastore: str | None
) -> Path | None:
    if config.local_folder is not None:
        folder = Path(config.local_folder)
        if not folder.exists():
            log.warning("Dataset '%s': its local_folder '%s' does not exist.", config.name, folder)
        return folder
    local = _in_local_datastore(config, default_datastore)
    if local is not None and local.exists():
        return local
    return _download(config.to_input(index), azure(), default_datastore)


def _output_folder(config: DatasetConfig, default_datastore: str | None) -> Path | None:
    if config.local_folder is not None:
        return _make_folder(Path(config.local_folder))
    folder = _in_local_datastore(config, default_datastore)
    if folder is not None and not config.overwrite_existing and folder.exists():
        raise BadUsage(
            f"Dataset '{config.name}': '{folder}' exists, and overwrite_existing=False was given.",
            hint="Choose another name.",
        )
    return None if folder is None else _make_folder(folder)


def _in_local_datastore(config: DatasetConfig, default_datastore: str | None) -> Path | None:
    """The folder in the local datastore of the name that is given, else in the default one; None without a local
    workspace."""
    from himl_cli.workspaces.resolve import open_workspace

    name, start = Path(config.name), Path.cwd()
    local = nearest_local(start)
    if local is None or name.is_absolute() or ".." in name.parts:
        return None
    datastores = {info.name: info.location for info in open_workspace(str(local), None, start=start).datastores()}
    first = next(iter(datastores.values()))
    return Path(datastores.get(config.datastore or default_datastore or "", first)) / name


DOWNLOADED_VARIABLE = "HIML_BROUGHT_DATASETS"
"""Where datasets were downloaded to, by what identifies them, for the ranks that a script starts itself, as PyTorch
Lightning does: they need not wait for rank 0, which has been here before they began."""


def _download(spec: DataSpec, azure: object | None, default_datastore: str | None) -> Path | None:
    """Where the dataset was downloaded to, once on each node; None where no workspace has it. A version that was named
    must be there."""
    if not isinstance(azure, CloudWorkspace):
        return None
    identity = repr((azure.label, spec, default_datastore)).encode("utf-8", "surrogateescape")
    mark = hashlib.sha256(identity).hexdigest()[:12]
    me, known = local_rank(os.environ), downloaded().get(mark)
    if known and me is not None and me.rank > 0 and os.path.exists(known):
        return Path(known)
    from himl_cli.render.output import Output
    from himl_cli.render.progress import observing
    from himl_cli.services.submission.data import bring_dataset

    try:
        with observing(Output()) as notify:
            folder = bring_dataset(azure, spec, default_datastore, notify)
    except NotFound as err:
        if spec.version is not None:
            raise
        log.warning("%s The path of dataset '%s' is None.", err, spec.name)
        return None
    text = json.dumps({**downloaded(), mark: str(folder)})
    if len(text) <= LONGEST_VARIABLE:
        os.environ[DOWNLOADED_VARIABLE] = text
    return folder


def downloaded() -> dict[str, str]:
    """What DOWNLOADED_VARIABLE says; nothing where it was damaged."""
    try:
        found = read_json(os.environ.get(DOWNLOADED_VARIABLE, "{}"))
    except ValueError:
        return {}
    return {mark: place for mark, place in found.items() if isinstance(place, str)} if isinstance(found, dict) else {}
