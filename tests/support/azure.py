"""Workspaces of the double of Azure ML, with connections, data and stores; the program `az`; and projects that
submit jobs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest

from himl_cli.core.runs import RunQuery
from himl_cli.workspaces.azure.config import WorkspaceAddress, azure_settings, current_cloud
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.storage.container import AzureBlobs
from himl_cli.workspaces.azure.storage.signing import SasSigner
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.retry import CONTROL_PLANE, RetryPolicy
from himl_cli.workspaces.transfer_engine.curl import CurlPool
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.azureml_double.state import Principal, Right, make_token
from tests.support.running import write_files
from tests.support.web import Served, serving_files


@contextmanager
def opened(
    staged: StagedWorkspace,
    folder: Path,
    policy: RetryPolicy = CONTROL_PLANE,
    *,
    address: WorkspaceAddress | None = None,
) -> Iterator[AzureWorkspace]:
    """The workspace of a command in *folder*. The variables of `staged.environment()` must be set. With *address*, as
    from `address_of_job()` in a job, those of `staged.job_environment(run)` must be set."""
    connection = Connection.open(address or address_of(staged), settings=azure_settings(folder), policy=policy)
    with closing(AzureWorkspace(connection)) as workspace:
        yield workspace


HASTY = replace(CONTROL_PLANE, first=0.01)
SIGN_IN = (
    "HIML_TENANT_ID",
    "HIML_SERVICE_PRINCIPAL_ID",
    "HIML_SERVICE_PRINCIPAL_PASSWORD",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
)


def address_of(staged: StagedWorkspace, **other: Any) -> WorkspaceAddress:
    """The address of *staged*, with fields replaced by *other*."""
    state = staged.state
    fields = {
        "subscription_id": state.subscription,
        "resource_group": state.group,
        "name": state.name,
        "source": "a test",
    } | other
    return WorkspaceAddress(cloud=current_cloud(), **fields)


@contextmanager
def connected(staged: StagedWorkspace, folder: Path, **other: Any) -> Iterator[Connection]:
    """A connection of a command in *folder*, from the current variables and settings, but with short waits."""
    with Connection.open(address_of(staged, **other), settings=azure_settings(folder), policy=HASTY) as connection:
        yield connection


def sign_ins(stage: Stage) -> int:
    """The number of token requests to the identity service."""
    return len(stage.log.find(r"POST login\.[^ ]*/token"))


def write_program(folder: Path, name: str, source: str) -> Path:
    """Write a program *name* with Python *source* to *folder*, for use on PATH."""
    folder.mkdir(exist_ok=True)
    script = folder / f"{name}.py"
    script.write_text(source)
    if sys.platform == "win32":
        (folder / f"{name}.cmd").write_text(f'@"{sys.executable}" "{script}" %*\n')
    else:
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{script}" "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def write_settings(folder: Path, values: Mapping[str, Any], name: str = "himl.private.toml") -> Path:
    """Write an `[azure]` section to a settings file."""
    path = folder / name
    path.write_text(
        "[azure]\n"
        + "".join(
            f'{key} = "{value}"\n' if isinstance(value, str) else f"{key} = {value}\n" for key, value in values.items()
        )
    )
    return path


HASTY_STORE = RetryPolicy(attempts=4, first=0.01, longest=0.02, longest_asked=2.0)
PATIENT = 60.0  # seconds, longer than any reply of the double takes
DEFAULT = "workspaceblobstore"


def hasty_store(
    azure: StagedWorkspace, *, root: str = "", retries: RetryPolicy = HASTY_STORE, stall: float = 120.0
) -> AzureBlobs:
    """The default datastore's container, with a separate SAS. A request without progress fails after *stall*
    seconds.
    """
    storage, container = azure.state.storage, azure.state.datastores[DEFAULT].container
    signer = SasSigner(storage.container_sas(container, permissions="rcwl"))
    return AzureBlobs(
        f"https://{storage.host}/{container}",
        signer,
        root=root,
        label="the store",
        pool=CurlPool(PATIENT, stall),
        policy=retries,
    )


def use(azure: StagedWorkspace, environment: pytest.MonkeyPatch, rights: set[Right]) -> None:
    """Sign in as an application with *rights*."""
    set_all(environment, azure.environment(azure.add_principal(rights)))


def set_all(environment: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)


@contextmanager
def storage_that_lists(
    names: Sequence[str],
    body: bytes,
    *,
    content_range: str = "",
    marker: str = "",
    connections: list[int] | None = None,
    tells_md5: bool = True,
) -> Iterator[AzureBlobs]:
    """A storage service that lists any *names*, and replies to every request for one of them with *body*.

    It ignores ranges, but claims to send one with *content_range*. With *marker*, there is always another page. Each
    connection adds its port to *connections*. Without *tells_md5*, its replies have no `Content-MD5`."""
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
    properties = (
        f"<Properties><Content-Length>{len(body)}</Content-Length><Etag>0x1</Etag><Content-MD5>{md5}</"
        "Content-MD5></Properties>"
    )
    blobs = "".join(f"<Blob><Name>{escape(name)}</Name>{properties}</Blob>" for name in sorted(names))
    listing = (
        f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>".encode()
    )
    headers = {"ETag": '"0x1"'} | ({"Content-MD5": md5} if tells_md5 else {})
    blob = Served(
        body,
        status=206 if content_range else 200,
        headers=headers | ({"Content-Range": content_range} if content_range else {}),
    )
    with serving_files(None) as server:
        server.connections = connections if connections is not None else []
        server.before = lambda asked: server.files.update(
            {asked.path: Served(listing, status=200) if "comp=list" in asked.query else blob}
        )
        yield AzureBlobs(
            f"{server.address}/account/container", SasSigner("sig=x"), label="the store", policy=HASTY_STORE
        )


AZ = """
import json, pathlib, sys
folder, arguments = pathlib.Path(__file__).parent, sys.argv[1:]
with open(folder / "asked.txt", "a") as file:
    file.write(" ".join(arguments) + "\\n")
answers = json.loads((folder / "answers.json").read_text())
answer = answers["subscription" if "--subscription" in arguments else "plain"]
sys.stderr.write(answer.get("error", ""))
if "token" not in answer:
    sys.exit(1)
print(json.dumps({"accessToken": answer["token"], "expires_on": answer["expires"], "tokenType": "Bearer"}))
"""


class Az:
    """The program, with its replies and its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = write_program(folder, "az", AZ)

    def answer(self, plain: Mapping[str, object], subscription: Mapping[str, object] | None = None) -> None:
        """Set the replies with and without `--subscription`."""
        content = {"plain": plain, "subscription": plain if subscription is None else subscription}
        (self.folder / "answers.json").write_text(json.dumps(content))

    @property
    def asked(self) -> list[str]:
        """The command lines so far."""
        path = self.folder / "asked.txt"
        return path.read_text().splitlines() if path.exists() else []


def token_of(principal: Principal) -> dict[str, object]:
    text, seconds = make_token(principal, "https://management.azure.com")
    return {"token": text, "expires": int(time.time() + seconds)}


def times() -> Iterator[datetime]:
    start = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    return (start + timedelta(seconds=number) for number in range(1_000_000))


def add_many(azure: StagedWorkspace, count: int, experiment: str = "many") -> None:
    """Add the runs `0` (the oldest) to `count - 1`."""
    for number, created in zip(range(count), times(), strict=False):
        azure.add_run(str(number), experiment, created=created)


def ids(workspace: AzureWorkspace, query: RunQuery) -> list[str]:
    return [run.id for run in workspace.runs(query)]


def newest(count: int, *, of: int) -> list[str]:
    return [str(of - 1 - number) for number in range(count)]


TRAIN = """
import os, pathlib, sys
print("epochs", sys.argv[2], os.environ["COLOUR"], flush=True)
pathlib.Path("outputs").mkdir(exist_ok=True)
pathlib.Path("outputs/best.txt").write_text("0.9")
"""
CONDA = "name: lab\ndependencies:\n- python=3.11\n- pip\n- pip:\n  - mlflow-skinny\n"
SUBMIT = ("submit", "train.py", "--cluster", "cpu-cluster", "--env_var", "COLOUR=blue")


@pytest.fixture
def azure_project(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """A project with a script, an environment, and the config.json of a workspace."""
    azure_environment.write_config(project)
    write_files(project, {"train.py": TRAIN, "environment.yml": CONDA})
    return azure_environment


@pytest.fixture
def running(azure_project: StagedWorkspace) -> Iterator[StagedWorkspace]:
    """As `azure_project`, but the double also runs the jobs."""
    with azure_project.run_jobs():
        yield azure_project
