"""azure-ai-ml, for job YAML that users bring and for scripts that go on with it: loaded on demand, quiet, signed in as
himl is."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from himl_cli.core.errors import RunNotFound
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import silence_libraries
from himl_cli.workspaces.azure.service_errors import ServiceRefused, network_error
from himl_cli.workspaces.azure.tls import ca_bundle

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.core.credentials import AccessToken

LOGGERS = ("azure.ai.ml", "azure.ai.ml._utils._experimental")
TOKEN_SECONDS = 600
"""For how long azure-ai-ml may hold a token of ours before it asks again; himl itself knows when it ends."""


@contextmanager
def silenced() -> Iterator[None]:
    """Within it, azure-ai-ml and what it stands on warn of nothing: of what is experimental or deprecated in
    themselves. One thread at a time.

    Afterwards azure-ai-ml's loggers are as they were: a script that goes on with it hears what it has to say.
    """
    silence_libraries()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def load_sdk() -> None:
    """Import azure-ai-ml, if it is not there yet. It lets its own logger speak on stderr when it is imported;
    `silenced` undoes that."""
    with silenced():
        import azure.ai.ml
        import azure.ai.ml.entities  # noqa: F401


def client_for(connection: Connection, **options: Any) -> MLClient:
    """A client that acts as who is signed in to *connection*, for scripts that go on with azure-ai-ml itself. Call it
    after `load_sdk`.

    It leaves the variable of the cloud set, which azure-ai-ml reads again for its later requests.
    """
    from azure.ai.ml import MLClient

    address = connection.address
    return MLClient(
        SdkCredential(connection),
        address.subscription_id,
        address.resource_group,
        address.name,
        cloud=address.cloud.name,
        enable_telemetry=False,
        show_progress=False,
        connection_verify=ca_bundle(),
        **options,
    )


@contextmanager
def restored_variables(*names: str) -> Iterator[None]:
    """Afterwards the environment variables *names* are as they were: azure-ai-ml sets that of the cloud for the whole
    process, where another workspace may be in another cloud."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class SdkCredential:
    """himl's tokens in azure-core's form."""

    def __init__(self, connection: Connection) -> None:
        self._tokens = connection.tokens

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """A token for the first of *scopes*, with the claims that a service asked for."""
        from azure.core.credentials import AccessToken

        text = self._tokens.get(scopes[0])
        if options.get("claims"):
            text = self._tokens.renew(scopes[0], text, options["claims"])
        return AccessToken(text, int(time.time()) + TOKEN_SECONDS)


def sdk_view(connection: Connection, run_id: str) -> tuple[Any, Any]:
    """azure-ai-ml's `Job` and `MLClient`. Raises RunNotFound, ServiceFailed."""
    load_sdk()
    from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError

    try:
        with silenced():
            client = client_for(connection)
            return client.jobs.get(run_id), client
    except ResourceNotFoundError as err:
        raise RunNotFound(run_id, connection.address.label) from err
    except HttpResponseError as err:
        raise ServiceRefused(
            f"azure-ai-ml cannot read job '{run_id}': {err.reason} ({err.status_code}).", status=err.status_code or 0
        ) from err
    except AzureError as err:
        raise network_error(err, connection.arm("/jobs")) from err
