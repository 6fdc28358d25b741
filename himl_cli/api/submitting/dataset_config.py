"""Datasets as a script names them, and as jobs know them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from himl_cli.core.jobs import DataSpec
from himl_cli.services.submission.data import KEY

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
        self.target_folder = _path(self.target_folder)
        self.local_folder = _path(self.local_folder)
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


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    """An empty text is no path, as in hi-ml."""
    return Path(given) if given is not None and os.fspath(given) else None
