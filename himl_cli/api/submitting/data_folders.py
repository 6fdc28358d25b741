"""The folders of a job's inputs and outputs, as the job's variables tell them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from himl_cli.core.errors import NotFound

NAMES = {"input": ("AZURE_ML_INPUT_{}", "AZUREML_DATAREFERENCE_{}", "{}"), "output": ("AZURE_ML_OUTPUT_{}", "AZUREML_DATAREFERENCE_{}", "{}")}
"""Variables that tell a dataset's folder, the usual one first; the others are those of jobs that the older SDK submitted."""


class NoSuchData(NotFound, KeyError):
    """The job has no input or output of that key."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would put it in quotes


class DataFolders(Mapping[str, Path]):
    """Folders by key, read from the environment when they are asked for. Raises NoSuchData (also a KeyError) for a key that is not there.

    Windows does not tell upper from lower case in variables: there, keys are found in any case and listed in upper case.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._prefix = NAMES[kind][0].format("")

    def __getitem__(self, key: str) -> Path:
        folder = os.environ.get(self._prefix + key)
        if not folder:
            raise NoSuchData(f"No {self._kind} '{key}'; there are: {', '.join(self) or 'none'}.", hint=f"Submit with --{self._kind} {key}=NAME")
        return Path(folder)

    def __iter__(self) -> Iterator[str]:
        return (name[len(self._prefix) :] for name in sorted(os.environ) if name.startswith(self._prefix) and os.environ[name])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"{self._kind}s({dict(self)})"


def inputs() -> DataFolders:
    """The folders of the job's inputs by key: `inputs()["mnist"]` for `--input mnist=NAME`; empty outside a job."""
    return DataFolders("input")


def outputs() -> DataFolders:
    """The folders of the job's outputs by key; empty outside a job."""
    return DataFolders("output")


def numbered_folder(kind: str, index: int) -> Path | None:
    """The folder of `INPUT_index` or `OUTPUT_index`; None where the job has no such dataset."""
    key = f"{kind.upper()}_{index}"
    folder = next(filter(None, (os.environ.get(name.format(key)) for name in NAMES[kind])), None)
    return Path(folder) if folder else None
