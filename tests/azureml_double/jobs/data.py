"""The data of a job: its location in storage, the code, inputs and named outputs on the job's disk, and growing
logs.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from tests.azureml_double.jobs.processes import DataMissing, JobFailed
from tests.azureml_double.state import Json, Output, Run, Workspace
from tests.azureml_double.storage import Storage

WORKERS = 8
PIECE = 4 * 1024 * 1024  # largest block of an append blob, in bytes
LITERAL = "literal"
OUTPUT_KINDS = {"uri_folder": "UriFolder", "uri_file": "UriFile", "mltable": "MLTable"}
OUTPUT_KINDS |= {"custom_model": "CustomModel", "mlflow_model": "MLFlowModel", "triton_model": "TritonModel"}
_DATASTORE = re.compile(
    r"azureml://(?:subscriptions/[^/]+/resourcegroups/[^/]+/workspaces/[^/]+/)?datastores/([^/]+)/(?:paths/)?(.*)",
    re.IGNORECASE,
)
_WASBS = re.compile(r"(?:wasbs?|abfss?)://([^@/]+)@([^./]+)\.[^/]+/?(.*)", re.IGNORECASE)
_DATA_ID = re.compile(
    r"(?:(?:azureml:)?/subscriptions/.*/data/([^/]+)/versions/([^/]+)|azureml:([^:@/]+)(?::([^:@/]+)|@latest))/?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Place:
    """A location in storage. `path` is a blob, or a folder with or without a trailing `/`. An empty path is the whole
    container.
    """

    storage: Storage
    container: str
    path: str

    @property
    def prefix(self) -> str:
        return f"{self.path.rstrip('/')}/" if self.path.strip("/") else ""

    def fetch_folder(self, folder: Path) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        names = [blob.name for blob in self.storage.list(self.container, self.prefix) if not blob.name.endswith("/")]
        with ThreadPoolExecutor(WORKERS) as pool:
            for done in [pool.submit(self._fetch, name, folder / name.removeprefix(self.prefix)) for name in names]:
                done.result()
        return len(names)

    def fetch_file(self, target: Path) -> bool:
        if self.storage.properties(self.container, self.path) is None:
            return False
        self._fetch(self.path, target)
        return True

    def _fetch(self, name: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.storage.get(self.container, name))

    def send_folder(self, folder: Path) -> None:
        self.storage.put_all(
            self.container,
            ((self.prefix + path.relative_to(folder).as_posix(), path.read_bytes()) for path in files_below(folder)),
        )


def files_below(folder: Path) -> Iterator[Path]:
    found: Iterable[Path] = sorted(folder.rglob("*")) if folder.is_dir() else ()
    return (path for path in found if path.is_file())


def place_of(workspace: Workspace, uri: str) -> Place:
    """Return the location of a URI. Raises DataMissing for other forms of URIs, and for a datastore or an account
    outside the workspace.
    """
    named = _DATASTORE.fullmatch(uri)
    if named:
        datastore = workspace.datastore(named[1])
        if datastore is None:
            raise DataMissing(uri)
        return Place(datastore.storage, datastore.container, unquote(named[2]))
    blobs, parts = _WASBS.fullmatch(uri), urlsplit(uri)
    if blobs:
        account, container, path = blobs[2], blobs[1], unquote(blobs[3])
    elif parts.scheme == "https":
        account = (parts.hostname or "").partition(".")[0]
        container, _, path = unquote(parts.path).lstrip("/").partition("/")
    else:
        raise DataMissing(uri, "InvalidInput")
    for storage in (workspace.storage, workspace.second_storage):
        if storage.account == account:
            return Place(storage, container, path)
    raise DataMissing(uri)


def data_version(workspace: Workspace, uri: str) -> Json | None:
    found = _DATA_ID.fullmatch(uri)
    versions = workspace.assets["data"].get(found[1] or found[3], {}) if found else {}
    if not found or not versions:
        return None
    return versions.get(found[2] or found[4] or list(versions)[-1])


def names_data_version(uri: str) -> bool:
    return _DATA_ID.fullmatch(uri) is not None


def code_place(workspace: Workspace, code_id: str) -> Place:
    name, _, version = code_id.rpartition("/codes/")[2].partition("/versions/")
    known = workspace.assets["codes"].get(name, {}).get(version)
    if known is None:
        raise JobFailed(f"Code version {code_id} not found.", "NotFoundError")
    return place_of(workspace, str(known["codeUri"]))


@dataclass(frozen=True)
class LaidOutput:
    """An output of one attempt: `path` on the job's disk and `place` in storage. In mode Direct the job writes to
    `uri` itself.
    """

    name: str
    given: Json
    uri: str
    path: Path
    place: Place

    @property
    def is_file(self) -> bool:
        return bool(self.given["jobOutputType"] == "uri_file")

    @property
    def shown(self) -> str:
        return self.uri if self.given.get("mode") == "Direct" else str(self.path)

    def restore(self) -> None:
        if self.given.get("mode") not in ("Direct", "Upload"):
            self.place.fetch_file(self.path) if self.is_file else self.place.fetch_folder(self.path)

    def send(self, *, succeeded: bool) -> None:
        """Upload the output: always if it was mounted, only after success if its mode is upload."""
        if self.given.get("mode") == "Direct" or (self.given.get("mode") == "Upload" and not succeeded):
            return
        if not self.is_file:
            self.place.send_folder(self.path)
        elif self.path.is_file():
            self.place.storage.put(self.place.container, self.place.path, self.path.read_bytes())

    def record(self, workspace: Workspace, run: Run) -> None:
        """Register the output as an asset: under the requested name with the next version, or else under a name
        derived from the run. The job does not report the version. If an asset of another type has the name, nothing
        is registered, and there is no error.
        """
        kind, named = self.given["jobOutputType"], self.given.get("assetName")
        asset = named or f"azureml_{run.run_id}_output_data_{self.name}"
        versions = workspace.assets["data"].get(asset, {})
        numbers = [int(version) for version in versions if version.isdigit()]
        version = str(self.given.get("assetVersion") or max(numbers, default=0) + 1)
        if named and version not in versions and workspace.takes_data(asset, kind):
            properties = {"dataType": kind, "dataUri": self.uri, "description": self.given.get("description")}
            workspace.register("data", asset, version, properties)
        place = (
            f"azureml://locations/{workspace.location}/workspaces/{workspace.workspace_id}/data/{asset}/"
            f"versions/{version}"
        )
        run.outputs[self.name] = Output(self.uri, place, OUTPUT_KINDS[kind])


class Layer:
    """Sets up data below *folder*: inputs as `INPUT_{name}`, outputs by their names, or at `pathOnCompute`. `remove`
    deletes the folders that it created.
    """

    def __init__(self, workspace: Workspace, folder: Path, working_folder: Path) -> None:
        self._workspace, self._folder, self._working_folder = workspace, folder, working_folder
        self._made: list[Path] = []

    def input(self, name: str, given: Json) -> str:
        """Return the text that replaces the input *name* in the command: its value, or the path of its data, which is
        copied to the disk. Raises DataMissing.
        """
        kind = given["jobInputType"]
        if kind == LITERAL:
            return str(given["value"])
        uri = str(given["uri"])
        if names_data_version(uri):
            version = data_version(self._workspace, uri)
            if version is None:
                raise DataMissing(uri)
            uri, kind = str(version["dataUri"]), str(version["dataType"])
        if given.get("mode") == "Direct":
            return uri
        folder = self._place(given, f"INPUT_{name}")
        place = place_of(self._workspace, uri)
        target = folder / PurePosixPath(place.path).name
        if kind not in ("uri_folder", "mltable") and place.fetch_file(target):
            return str(target)
        if kind == "uri_file" or place.fetch_folder(folder) == 0:
            raise DataMissing(uri)
        return str(folder)

    def output(self, run: Run, name: str, given: Json) -> LaidOutput:
        default = f"azureml://datastores/{self._workspace.default_datastore.name}/paths/azureml/{run.run_id}/{name}/"
        uri = str(given.get("uri") or default).replace("${{name}}", run.run_id).replace("${{output_name}}", name)
        uri = self._workspace.long_uri(uri)
        path = self._place(given, name)
        path.mkdir(parents=True, exist_ok=True)
        if given["jobOutputType"] == "uri_file":
            path = path / (uri.rstrip("/").rpartition("/")[2] or name)
        return LaidOutput(name, given, uri, path, place_of(self._workspace, uri))

    def _place(self, given: Json, name: str) -> Path:
        """Return the folder of an input or output. Raises JobFailed if the folder is not empty."""
        asked = given.get("pathOnCompute")
        if not asked:
            return self._folder / name
        folder = self._working_folder / str(asked)
        if folder.is_dir() and any(folder.iterdir()):
            raise JobFailed(f"The path on compute '{asked}' is not empty.", "InvalidMountPoint", "data-capability")
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._made.append(missing[-1] if missing else folder)
        return folder

    def remove(self) -> None:
        for folder in self._made:
            shutil.rmtree(folder, ignore_errors=True)


class GrowingLog:
    """A file and the blob that follows it. With *whole* every update replaces the blob, as older agents do. Otherwise
    new text is appended.
    """

    def __init__(self, path: Path, place: Place, *, whole: bool) -> None:
        self.path, self._whole, self._sent = path, whole, -1
        self._blob = place.storage.client.get_blob_client(place.container, place.path)

    def push(self) -> None:
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size == self._sent:
            return
        if self._whole:
            self._blob.upload_blob(self.path.read_bytes(), overwrite=True)
            self._sent = size
            return
        if self._sent < 0 or size < self._sent:
            # This call replaces an existing blob in one step, so readers never find it missing.
            self._blob.create_append_blob()
            self._sent = 0
        with self.path.open("rb") as source:
            source.seek(self._sent)
            while piece := source.read(PIECE):
                self._blob.append_block(piece)
                self._sent += len(piece)

    def last_lines(self, count: int = 20) -> str:
        if not self.path.is_file():
            return ""
        return "\n".join(self.path.read_bytes()[-8192:].decode(errors="replace").splitlines()[-count:])
