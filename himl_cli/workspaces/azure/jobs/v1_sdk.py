"""azureml-core, which is not part of every installation: found, imported, kept quiet, signed in as himl is; what its
exceptions mean."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, ServiceFailed
from himl_cli.core.installation import install_command
from himl_cli.core.jobs import Snapshot
from himl_cli.core.redaction import redact
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import silence_libraries
from himl_cli.workspaces.azure.jobs.sdk import restored_variables
from himl_cli.workspaces.azure.service_errors import ErrorResponse, is_network_error, network_error, refusal

EXTRA = "v1"
VARIABLES = {
    "AML_SNAPSHOT_NO_FILE_LIMIT": "1",  # azureml-core's own bound of 2,000 files does not count
    "HBI_WORKSPACE_JOB": "true",  # azureml-telemetry then tells nobody what is submitted
}
"""Variables that azureml's packages read."""
IGNORE_FILES = (".amlignore", ".gitignore")
"""At the root: azureml-core would apply them once more, without those of the folders below, which may take something
back in."""

log = logging.getLogger(__name__)


def is_installed(module: str) -> bool:
    """Whether *module* of azureml could be imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nothing called azureml at all
        return False


def sdk_run(connection: Connection, run_id: str) -> Any:
    """The `azureml.core.Run` of that id, signed in as himl is. Raises BadUsage without azureml-core, NotFound, and as
    `Rest` does."""
    require_sdk()
    with quiet_sdk(), sdk_errors(connection):
        from azureml.core import Run as SdkRun

        return SdkRun.get(sdk_workspace(connection), run_id)


def require_sdk() -> None:
    """Raises BadUsage with the command that installs azureml-core, where it is missing. Imports nothing of it."""
    if not is_installed("azureml.core"):
        raise BadUsage(
            "--sdk v1 needs azureml-core, which is not installed.", hint=f"Install it: {install_command(EXTRA)}"
        )


@contextmanager
def quiet_sdk() -> Iterator[None]:
    """Within it, what azureml-core prints goes to himl's debug log, and its warnings and logs nowhere; its bounds on
    snapshots do not count.

    It prints to both streams from wherever it is, logs warnings about itself, and refuses more than 300 MB, where himl
    only warns.
    """
    silence_libraries()
    printed = io.StringIO()
    logger = logging.getLogger("azureml")
    level = logger.level
    try:
        with (
            warnings.catch_warnings(),
            restored_variables(*VARIABLES),
            redirect_stdout(printed),
            redirect_stderr(printed),
        ):
            os.environ.update(VARIABLES)
            warnings.simplefilter("ignore")
            logger.setLevel(logging.CRITICAL)
            from azureml._restclient import snapshots_client

            snapshots_client.SNAPSHOT_MAX_SIZE_BYTES = 1 << 40
            yield
    finally:
        logger.setLevel(level)
        if printed.getvalue().strip():
            log.debug("azureml-core said: %s", redact(printed.getvalue().strip()))


@contextmanager
def sdk_errors(connection: Connection) -> Iterator[None]:
    """Within it, what azureml-core raises becomes the HimlError that fits; an error in himl stays what it is."""
    from azure.core.exceptions import AzureError
    from azureml.exceptions import AzureMLException, UserErrorException
    from msrest.exceptions import ClientException, HttpOperationError
    from requests import RequestException

    try:
        yield
    except (AzureError, AzureMLException, ClientException, RequestException, OSError) as err:
        chain = list(_chain(err))
        inner = next((one for one in chain if isinstance(one, HimlError)), None)
        if inner is not None:  # himl's own failure to sign in, which azureml-core asked for and wrapped
            raise inner from err
        failure = next(filter(None, map(_failure_of, chain)), None)
        if failure is not None:
            credential = connection.tokens.credential_for(connection.address.cloud.management_scope)
            raise refusal(failure, connection.address, credential) from err
        if is_network_error(err):
            raise network_error(err, connection.record().data_plane) from err
        if isinstance(err, OSError) and not isinstance(err, RequestException):
            raise DiskFailed(
                f"azureml-core cannot use a file: {err.strerror or err}: '{err.filename}'.",
                hint="It keeps notes in ~/.azureml.",
            ) from err
        line = redact(" ".join(str(getattr(err, "message", "") or err).split())[:300])
        hyperdrive: Any = sys.modules.get("azureml.train.hyperdrive.exceptions")  # None where nobody has loaded it
        users = (
            (UserErrorException,) if hyperdrive is None else (UserErrorException, hyperdrive.HyperDriveConfigException)
        )
        if isinstance(err, users) and not isinstance(err, HttpOperationError):
            raise BadUsage(f"azureml-core refuses the job: {line}") from err
        raise ServiceFailed(
            f"azureml-core failed: {line}",
            hint="Try again; without --sdk v1 the job goes by azure-ai-ml, which is maintained.",
        ) from err


def sdk_workspace(connection: Connection) -> Any:
    """The `azureml.core.Workspace` of *connection*; one request. Raises what azureml-core raises, and NotAllowed where
    himl cannot sign in."""
    from azureml.core import Workspace
    from azureml.core.authentication import TokenAuthentication

    address, cloud = connection.address, connection.address.cloud
    auth = TokenAuthentication(lambda audience: connection.tokens.get(cloud.management_scope), cloud=cloud.name)
    return Workspace(address.subscription_id, address.resource_group, address.name, auth=auth, _cloud=cloud.name)


@contextmanager
def staged(snapshot: Snapshot) -> Iterator[Path]:
    """A temporary folder with the snapshot's files (hard links where the disk allows it), gone afterwards: azureml-core
    takes a folder and applies its own idea of ignore files to it. Raises DiskFailed."""
    with tempfile.TemporaryDirectory(prefix="himl-snapshot-", ignore_cleanup_errors=True) as folder:
        try:
            for name in snapshot.files:
                if name in IGNORE_FILES:
                    continue
                # resolved: a link to a link would point to nowhere from the other folder
                source, target = (snapshot.root / name).resolve(), Path(folder) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(source, target)
                except OSError:
                    shutil.copyfile(source, target)
        except OSError as err:
            raise DiskFailed(f"The snapshot cannot be laid out: {err.strerror or err}: '{err.filename}'.") from err
        yield Path(folder)


def _chain(err: BaseException) -> Iterator[BaseException]:
    inner: BaseException | None = err
    for _ in range(50):  # one may be its own cause
        if inner is None:
            return
        yield inner
        nested = getattr(inner, "inner_exception", None)  # with some it is the service's document, not an exception
        inner = nested if isinstance(nested, BaseException) else inner.__cause__ or inner.__context__


def _failure_of(err: BaseException) -> ErrorResponse | None:
    """The service's answer: as JSON in the message, or as the response that an exception holds.

    The response is that of requests, or of azure-core, whose text is a function and whose address is the request's.
    """
    message = str(getattr(err, "message", "") or "")
    document = _json(message[message.find("{") :]) if "{" in message else None
    if isinstance(document, Mapping) and isinstance(document.get("status_code"), int):
        url = str(document.get("url") or "").partition("?")[0]
        return ErrorResponse("POST", url, document["status_code"], {}, document.get("error_details"))
    response: Any = getattr(err, "response", None)
    if not isinstance(getattr(response, "status_code", None), int):
        return None
    request = getattr(response, "request", None)
    url = str(getattr(response, "url", "") or getattr(request, "url", "")).partition("?")[0]
    text = response.text() if callable(response.text) else response.text
    headers = {str(name).lower(): str(value) for name, value in dict(response.headers).items()}
    return ErrorResponse(str(getattr(request, "method", "")), url, response.status_code, headers, _json(text))


def _json(text: str) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text.strip())[0]
    except ValueError:
        return text
