"""The folder from which Azure ML builds an image that has private wheels in it: a Dockerfile, a conda file, the wheels."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.jobs import EnvironmentSpec
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.threads import AT_ONCE
from himl_cli.workspaces.azure.storage.datastores import Datastores

DOCKERFILE, CONDA_FILE = "Dockerfile", "conda.yml"
FOLDER = "himl-environments"
"""The folder of the workspace's default datastore that contexts lie in, each under the digest of its contents."""
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


def context_digest(spec: EnvironmentSpec) -> str:
    """What tells this context from every other one: 64 hexadecimal digits. Raises BadUsage for a wheel that cannot be read."""
    digest = hashlib.sha256()
    parts = [(DOCKERFILE, dockerfile(spec).encode()), (CONDA_FILE, spec.conda.encode()), *((wheel.name, _content(wheel)) for wheel in spec.wheels)]
    for name, content in parts:
        digest.update(f"{len(name)} {name} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def upload_context(connection: Connection, datastores: Datastores, spec: EnvironmentSpec, digest: str) -> str:
    """Store the context in the workspace's default datastore, and give its URL. Raises BadUsage for a datastore that holds no blobs, and as uploads do."""
    record = datastores.find()
    folder = f"{FOLDER}/{digest}"
    with tempfile.TemporaryDirectory(prefix="himl-") as staged:
        files = _stage(spec, Path(staged))
        sink = _FirstFailure()
        requests = [StoreRequest(path, f"{folder}/{path.name}", path.stat().st_size, hashlib.md5(path.read_bytes()).digest()) for path in files]
        datastores.of_record(record).store(requests, sink, workers=AT_ONCE)
    if sink.error is not None:
        raise sink.error
    return f"{record.url(connection.address.cloud)}/{quote(folder)}/"


def _stage(spec: EnvironmentSpec, folder: Path) -> Sequence[Path]:
    texts = {DOCKERFILE: dockerfile(spec)} | ({CONDA_FILE: spec.conda} if spec.conda else {})
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    for wheel in spec.wheels:
        (folder / wheel.name).write_bytes(_content(wheel))
    return sorted(folder.iterdir())


def _content(wheel: Path) -> bytes:
    try:
        return wheel.read_bytes()
    except OSError as err:
        raise BadUsage(f"Cannot read the wheel '{wheel}': {err.strerror}.") from err


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
