"""A job's inputs: literals as they are, data copied to the job's disk, whether it was to be mounted or downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tests.servers.azureml.jobs.failures import DataMissing
from tests.servers.azureml.jobs.fixed_folders import FixedFolders
from tests.servers.azureml.jobs.places import data_version, names_data_version, place_of
from tests.servers.azureml.jobs.transfers import fetch_file, fetch_folder
from tests.servers.azureml.state import Json, Workspace

LITERAL = "literal"
FOLDERS = ("uri_folder", "mltable")


@dataclass(frozen=True)
class Inputs:
    """Where data is laid: below `folder` as `INPUT_{name}`, or where `pathOnCompute` says."""

    workspace: Workspace
    folder: Path
    fixed: FixedFolders

    def lay(self, name: str, given: Json) -> str:
        """What stands for the input *name* in the command: its value, or the path of its data. Raises DataMissing."""
        if given["jobInputType"] == LITERAL:
            return str(given["value"])
        uri, kind = self._resolved(given)
        if given.get("mode") == "Direct":
            return uri
        folder = self.fixed.take(given["pathOnCompute"]) if given.get("pathOnCompute") else self.folder / f"INPUT_{name}"
        place = place_of(self.workspace, uri)
        target = folder / PurePosixPath(place.path).name
        if kind not in FOLDERS and fetch_file(place, target):
            return str(target)
        if kind == "uri_file" or fetch_folder(place, folder) == 0:
            raise DataMissing(uri)
        return str(folder)

    def _resolved(self, given: Json) -> tuple[str, str]:
        """The place of an input's data, and its kind."""
        uri = str(given["uri"])
        if not names_data_version(uri):
            return uri, given["jobInputType"]
        version = data_version(self.workspace, uri)
        if version is None:
            raise DataMissing(uri)
        return str(version["dataUri"]), str(version["dataType"])
