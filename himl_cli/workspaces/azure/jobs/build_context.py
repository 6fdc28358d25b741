"""The folder from which Azure ML builds an image: one of the user's, or a Dockerfile, a conda file and private
wheels."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BadUsage, HimlError, NotFound
from himl_cli.core.jobs import DOCKERFILE, USUAL_DATASTORE, EnvironmentSpec, Snapshot
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.code_upload import folder_for
from himl_cli.workspaces.azure.requests.threads import AT_ONCE
from himl_cli.workspaces.azure.storage.datastore_records import BLOB, DatastoreRecord
from himl_cli.workspaces.azure.storage.datastores import Datastores

CONDA_FILE = "conda.yml"
FOLDER = "himl-environments"
"""The folder of USUAL_DATASTORE that contexts lie in, each under the digest of its contents."""
"""In the workspace's own storage account, whatever its default datastore is: from others Azure ML may not be let read
what it builds of."""
_OTHER_WAY = "Register an environment that has what the job needs, and name it with --environment."
_PLACE = "/himl-environment"
_PREFIX = "/azureml-envs/himl"
_WITH_CONDA = f"""\
RUN conda env create --prefix {_PREFIX} --file {_PLACE}/{CONDA_FILE} && conda clean --all --yes
ENV CONDA_DEFAULT_ENV={_PREFIX}
ENV AZUREML_CONDA_ENVIRONMENT_PATH={_PREFIX}
ENV PATH={_PREFIX}/bin:$PATH
ENV LD_LIBRARY_PATH={_PREFIX}/lib:$LD_LIBRARY_PATH
"""


def dockerfile(spec: EnvironmentSpec) -> str:
    """The recipe of the image; pip finds the wheels beside the conda file that names them."""
    install = _WITH_CONDA if spec.conda else f"RUN python -m pip install --no-cache-dir {_PLACE}/*.whl\n"
    return f"FROM {spec.image}\nCOPY . {_PLACE}/\nWORKDIR {_PLACE}\n{install}WORKDIR /\n"


def context_files(spec: EnvironmentSpec) -> Mapping[str, bytes | Path]:
    """The files of the context by name: contents, those of wheels read once, or where they lie. Raises BadUsage for a
    wheel that cannot be read."""
    if isinstance(spec.context, Snapshot):
        folder_for(spec.context)
        return {name: spec.context.root / name for name in sorted(spec.context.files)}
    texts = {DOCKERFILE: dockerfile(spec)} | ({CONDA_FILE: spec.conda} if spec.conda else {})
    return {name: text.encode() for name, text in texts.items()} | {
        wheel.name: _content(wheel) for wheel in spec.wheels
    }


def context_digest(files: Mapping[str, bytes | Path]) -> str:
    """What tells this context from every other one: 64 hexadecimal digits. Raises BadUsage for a file that cannot be
    read."""
    digest = hashlib.sha256()
    for name, given in files.items():
        content = _content(given)
        digest.update(f"{len(name)} {name} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def upload_context(
    connection: Connection, datastores: Datastores, files: Mapping[str, bytes | Path], digest: str
) -> str:
    """Store the context in USUAL_DATASTORE below *digest*, and give its URL.

    Raises BadUsage where the workspace has no such blob datastore, and as uploads do.
    """
    record = _room(datastores)
    folder = f"{FOLDER}/{digest}"
    with tempfile.TemporaryDirectory(prefix="himl-") as staged:
        sink = _FirstFailure()
        requests = [_request(Path(staged), folder, name, given) for name, given in files.items()]
        datastores.of_record(record).store(requests, sink, workers=AT_ONCE)
    if sink.error is not None:
        raise sink.error
    return f"{record.url(connection.address.cloud)}/{quote(folder)}/"


def _room(datastores: Datastores) -> DatastoreRecord:
    try:
        record = datastores.find(USUAL_DATASTORE)
    except NotFound as err:
        raise BadUsage(
            f"Files for an image go into the datastore '{USUAL_DATASTORE}', which this workspace does not have.",
            hint=_OTHER_WAY,
        ) from err
    if record.kind != BLOB:
        raise BadUsage(
            f"Files for an image go into the datastore '{USUAL_DATASTORE}', which holds no blobs in this workspace.",
            hint=_OTHER_WAY,
        )
    return record


def _request(staged: Path, folder: str, name: str, given: bytes | Path) -> StoreRequest:
    """The request that stores *given*; contents are laid into *staged* for it."""
    content = _content(given)
    path = staged / name if isinstance(given, bytes) else given
    if isinstance(given, bytes):
        path.write_bytes(content)
    return StoreRequest(path, f"{folder}/{name}", len(content), hashlib.md5(content, usedforsecurity=False).digest())


def _content(given: bytes | Path) -> bytes:
    try:
        return given if isinstance(given, bytes) else given.read_bytes()
    except OSError as err:
        raise BadUsage(f"Cannot read '{given!s}' for the image: {err.strerror}.") from err


@dataclass
class _FirstFailure:
    """Hears of the files of a context, which are few and small: all of them arrive, or the first error is kept."""

    error: HimlError | None = None

    def advance(self, request: StoreRequest, amount: int) -> None:
        pass

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        pass

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        self.error = self.error or error
