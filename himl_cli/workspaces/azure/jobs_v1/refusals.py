"""What azureml-core's exceptions mean, as himl's errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, ServiceFailed
from himl_cli.core.redaction import redact
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.errors import refusal
from himl_cli.workspaces.azure.requests.failure import Failure
from himl_cli.workspaces.azure.requests.unreachable import is_network_error, network_error


@contextmanager
def sdk_errors(connection: Connection) -> Iterator[None]:
    """Within it, what azureml-core raises becomes the HimlError that fits; an error in himl stays what it is."""
    from azure.core.exceptions import AzureError
    from azureml.exceptions import AzureMLException, UserErrorException
    from msrest.exceptions import ClientException, HttpOperationError
    from requests import RequestException

    try:
        yield
    except (AzureError, AzureMLException, ClientException, RequestException) as err:
        found = _himl_error_within(err)
        if found is not None:
            raise found from err
        failure = _failure_of(err)
        if failure is not None:
            raise refusal(
                failure, connection.address, connection.tokens.credential_for(connection.address.cloud.management_scope)
            ) from err
        if is_network_error(err):
            raise network_error(err, connection.record().data_plane) from err
        if _is_of(err, UserErrorException, *_of_bad_sweeps()) and not isinstance(err, HttpOperationError):
            raise BadUsage(f"azureml-core refuses the job: {_line(err)}") from err
        raise ServiceFailed(
            f"azureml-core failed: {_line(err)}",
            hint="Try again; without --sdk v1 the job goes by azure-ai-ml, which is maintained.",
        ) from err
    except OSError as err:
        if is_network_error(err):
            raise network_error(err, connection.record().data_plane) from err
        raise DiskFailed(
            f"azureml-core cannot use a file: {err.strerror or err}: '{err.filename}'.",
            hint="It keeps notes in ~/.azureml.",
        ) from err


def _is_of(err: BaseException, *kinds: type[BaseException]) -> bool:
    return isinstance(err, kinds)


def _of_bad_sweeps() -> tuple[type[BaseException], ...]:
    """What azureml-train-core raises for a HyperDriveConfig that cannot be; nothing where nobody has loaded it."""
    module = sys.modules.get("azureml.train.hyperdrive.exceptions")
    return () if module is None else (module.HyperDriveConfigException,)


def _chain(err: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    inner: BaseException | None = err
    while inner is not None and id(inner) not in seen:
        seen.add(id(inner))
        yield inner
        told = getattr(inner, "inner_exception", None)  # with some it is the service's document, not an exception
        inner = told if isinstance(told, BaseException) else inner.__cause__ or inner.__context__


def _himl_error_within(err: BaseException) -> HimlError | None:
    """himl's own failure to sign in, which azureml-core asked for and wrapped."""
    return next((inner for inner in _chain(err) if isinstance(inner, HimlError)), None)


def _failure_of(err: BaseException) -> Failure | None:
    """The service's answer: as JSON in the message, or as the response that an exception holds."""
    for inner in _chain(err):
        told = _told(str(getattr(inner, "message", "") or ""))
        if told is not None:
            return told
        response = getattr(inner, "response", None)
        if response is not None and isinstance(getattr(response, "status_code", None), int):
            return _answered(response)
    return None


def _answered(response: Any) -> Failure:
    """*response* is that of requests, or of azure-core, whose text is a function and whose address is the request's."""
    request = getattr(response, "request", None)
    url = str(getattr(response, "url", "") or getattr(request, "url", ""))
    text = response.text() if callable(response.text) else response.text
    headers = {str(name).lower(): str(value) for name, value in dict(response.headers).items()}
    return Failure(
        str(getattr(request, "method", "")), url.partition("?")[0], response.status_code, headers, _body(text)
    )


def _told(message: str) -> Failure | None:
    at = message.find("{")
    document = _body(message[at:]) if at >= 0 else None
    if not isinstance(document, Mapping) or not isinstance(document.get("status_code"), int):
        return None
    return Failure(
        "POST",
        str(document.get("url") or "").partition("?")[0],
        document["status_code"],
        {},
        document.get("error_details"),
    )


def _body(text: str) -> Any:
    try:
        return json.JSONDecoder().raw_decode(text.strip())[0]
    except ValueError:
        return text


def _line(err: BaseException) -> str:
    text = str(getattr(err, "message", "") or err).strip()
    return redact(" ".join(text.split())[:300])
