"""The folders of a job's inputs and outputs, as the job's variables tell them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from himl_cli.core.errors import NotFound

PREFIXES = {"input": "AZURE_ML_INPUT_", "output": "AZURE_ML_OUTPUT_"}
"""How the variables begin that tell the folders; Azure ML writes the key behind them as it is, or in upper case: its
sources disagree."""
OF_ORDER = ("himl_after_", "himl_done")
"""How keys begin that only keep the order of a pipeline's steps: nobody reads them."""
LEGACY_PREFIX = "AZUREML_DATAREFERENCE_"
LEGACY_LISTS = {
    "input": ("AZUREML_DATASET_ENVIRONMENT_VARS", ",", ":"),
    "output": ("AZUREML_DATASET_FILE_OUTPUTS", ";", "/"),
}
"""In jobs that the older SDK submitted variables are called as the data, and one more lists them: its name, what parts
its items, what ends a name."""


class NoSuchData(NotFound, KeyError):
    """The job has no input or output of that key."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would put it in quotes


class DataFolders(Mapping[str, Path]):
    """Folders by key, read from the environment when they are asked for. Raises NoSuchData (also a KeyError) for a key
    that is not there.

    A key in another case than it was submitted in may be found, where the service or (on Windows) the system tells
    names in upper case.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._prefix = PREFIXES[kind]

    def __getitem__(self, key: str) -> Path:
        folder = self._told(key)
        if not folder:
            raise NoSuchData(
                f"No {self._kind} '{key}'; there are: {', '.join(self) or 'none'}.",
                hint=f"Submit with --{self._kind} {key}=NAME",
            )
        return Path(folder)

    def __iter__(self) -> Iterator[str]:
        told = [name[len(self._prefix) :] for name in os.environ if name.startswith(self._prefix) and os.environ[name]]
        keys = {*told, *(key for key in self._listed() if self._told(key))}
        in_upper_case = {key.upper() for key in keys if key != key.upper()}
        return iter(sorted(key for key in keys - in_upper_case if not key.lower().startswith(OF_ORDER)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"{self._kind}s({dict(self)})"

    def _told(self, key: str) -> str | None:
        """What the first variable says that is set: the exact one, in upper case, those of the older SDK."""
        names = [
            f"{self._prefix}{key}",
            f"{self._prefix}{key.upper()}",
            f"{LEGACY_PREFIX}{key}",
            *([key] if self._may_be_bare(key) else ()),
        ]
        return next(filter(None, map(os.environ.get, names)), None)

    def _may_be_bare(self, key: str) -> bool:
        """Whether the variable of the key's own name is the data's and not any other: it is listed, or has the name
        that himl gives."""
        return key in self._listed() or key.startswith(f"{self._kind.upper()}_")

    def _listed(self) -> list[str]:
        name, parting, end = LEGACY_LISTS[self._kind]
        return [item.partition(end)[0] for item in os.environ.get(name, "").split(parting) if item.partition(end)[0]]


def inputs() -> DataFolders:
    """The folders of the job's inputs by key: `inputs()["mnist"]` for `--input mnist=NAME`; empty outside a job."""
    return DataFolders("input")


def outputs() -> DataFolders:
    """The folders of the job's outputs by key; empty outside a job."""
    return DataFolders("output")
