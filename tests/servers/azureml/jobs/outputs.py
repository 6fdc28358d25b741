"""A job's named outputs: folders that it writes to, and what becomes of them at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.servers.azureml.arm_assets import may_be_registered, register_version
from tests.servers.azureml.jobs.fixed_folders import FixedFolders
from tests.servers.azureml.jobs.places import Place, place_of
from tests.servers.azureml.jobs.transfers import fetch_file, fetch_folder, send_file, send_folder
from tests.servers.azureml.state import Json, Output, Run, Workspace

DEFAULT = "default"
KINDS = {
    "uri_folder": "UriFolder",
    "uri_file": "UriFile",
    "mltable": "MLTable",
    "custom_model": "CustomModel",
    "mlflow_model": "MLFlowModel",
    "triton_model": "TritonModel",
}


def uri_of_output(workspace: Workspace, run: Run, name: str, given: Json) -> str:
    """Where the output *name* goes, in the long form."""
    default = f"azureml://datastores/{workspace.default_datastore.name}/paths/azureml/{run.run_id}/{name}/"
    uri = str(given.get("uri") or default).replace("${{name}}", run.run_id).replace("${{output_name}}", name)
    short = "azureml://datastores/"
    if not uri.startswith(short):
        return uri
    return f"azureml://subscriptions/{workspace.subscription}/resourcegroups/{workspace.group}/workspaces/{workspace.name}/datastores/{uri.removeprefix(short)}"


@dataclass(frozen=True)
class LaidOutput:
    """One output of one attempt: `path` on the job's disk, `place` in storage. With `direct` the job writes to `uri` itself."""

    name: str
    given: Json
    uri: str
    path: Path
    place: Place

    @property
    def is_direct(self) -> bool:
        return self.given.get("mode") == "Direct"

    @property
    def shown(self) -> str:
        """What stands for it in the command."""
        return self.uri if self.is_direct else str(self.path)

    def restore(self) -> None:
        """Lay what an earlier try wrote through a mount: it went to storage then."""
        if self.is_direct or self.given.get("mode") == "Upload":
            return
        if self.given["jobOutputType"] != "uri_file":
            fetch_folder(self.place, self.path)
        else:
            fetch_file(self.place, self.path)

    def send(self, *, succeeded: bool) -> None:
        """To storage: what was mounted in any case, what was to be uploaded only after success."""
        if self.is_direct or (self.given.get("mode") == "Upload" and not succeeded):
            return
        if self.given["jobOutputType"] != "uri_file":
            send_folder(self.path, self.place)
        elif self.path.is_file():
            send_file(self.path, self.place)


@dataclass(frozen=True)
class Outputs:
    """Where outputs are laid: below `folder` by their names, or where `pathOnCompute` says."""

    workspace: Workspace
    run: Run
    folder: Path
    fixed: FixedFolders

    def lay(self, name: str, given: Json) -> LaidOutput:
        """Raises DataMissing where it points to no datastore of the workspace."""
        uri = uri_of_output(self.workspace, self.run, name, given)
        path = self.fixed.take(given["pathOnCompute"]) if given.get("pathOnCompute") else self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        if given["jobOutputType"] == "uri_file":
            path = path / (uri.rstrip("/").rpartition("/")[2] or name)
        return LaidOutput(name, given, uri, path, place_of(self.workspace, uri))


def record(workspace: Workspace, run: Run, output: LaidOutput) -> None:
    """Note the output as an asset: under the name that was asked for with the next version, else under one made from the run's.

    The job itself does not tell which version that is. An asset of another type does not get it, and nobody is told.
    """
    given = output.given
    asset = given.get("assetName") or f"azureml_{run.run_id}_output_data_{output.name}"
    versions = workspace.assets["data"].get(asset, {})
    numbers = [int(version) for version in versions if version.isdigit()]
    version = str(given.get("assetVersion") or max(numbers, default=0) + 1)
    is_anonymous = not given.get("assetName")
    properties = {"dataType": given["jobOutputType"], "dataUri": output.uri, "isAnonymous": is_anonymous, "description": given.get("description")}
    if not is_anonymous and version not in versions and may_be_registered(workspace, asset, given["jobOutputType"]):
        register_version(workspace, "data", asset, version, properties)
    place = f"azureml://locations/{workspace.location}/workspaces/{workspace.workspace_id}/data/{asset}/versions/{version}"
    run.outputs[output.name] = Output(output.uri, place, KINDS[given["jobOutputType"]])
