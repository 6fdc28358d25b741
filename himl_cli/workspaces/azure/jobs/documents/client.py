"""azure-ai-ml at work on a job until that can be sent; the job itself is himl's to send."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from azure.ai.ml import MLClient
from azure.ai.ml._utils._asset_utils import get_content_hash
from azure.ai.ml.exceptions import MlException
from azure.core.exceptions import AzureError, HttpResponseError
from azure.core.pipeline.transport import HttpTransport, RequestsTransport

from himl_cli.core.errors import HimlError, ServiceFailed
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import secrets_text
from himl_cli.core.redaction import redact
from himl_cli.core.text import read_json
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.client import Composed, client_for, same_cloud
from himl_cli.workspaces.azure.jobs.sdk import silenced
from himl_cli.workspaces.azure.requests.errors import refusal
from himl_cli.workspaces.azure.requests.failure import Failure
from himl_cli.workspaces.azure.requests.trust import ca_bundle
from himl_cli.workspaces.azure.requests.unreachable import network_error

_JOB = re.compile(r"/workspaces/[^/]+/jobs/[^/]+$", re.IGNORECASE)


def made_ready(
    connection: Connection, act: Callable[[MLClient], object], is_secret: Callable[[str, str], bool], notify: Notify
) -> Composed:
    """The request for a job that *act* makes azure-ai-ml compose; it stays here, while all that it asks, uploads and
    registers before that is sent.

    Of folders of code the files that are secrets, by a folder and a path, are left out, and *notify* hears of them.

    Raises what azure-ai-ml raises for a wrong job, and himl's errors for what the services refuse.
    """
    with silenced(), same_cloud():
        try:
            client = client_for(connection, transport=_UpToTheJob())
            _leave_out_secrets(client._code, is_secret, notify)  # what uploads code, whoever asks for it
            act(client)
        except Composed as request:
            return request
        except HttpResponseError as err:
            raise _refused(err, connection) from err
        except AzureError as err:
            if isinstance(err, MlException):
                raise
            raise network_error(err, connection.arm()) from err
    raise RuntimeError("azure-ai-ml made no request for a job")


def _leave_out_secrets(uploads: Any, is_secret: Callable[[str, str], bool], notify: Notify) -> None:
    """Make azure-ai-ml pass over secrets: in the hash that it knows code by, and in what it uploads. There is no public
    way to tell it."""
    upload = uploads.create_or_update

    def without_secrets(code: Any) -> Any:
        if not hasattr(code, "_ignore_file"):  # nothing of this machine
            return upload(code)
        folder, is_excluded, secrets = str(code.path), code._ignore_file.is_file_excluded, set[str]()

        def excludes(path: Any) -> bool:
            if is_excluded(path):
                return True
            if not is_secret(folder, str(path)):
                return False
            secrets.add(Path(os.path.relpath(path, folder)).as_posix())
            return True

        code._ignore_file.is_file_excluded = excludes
        code._hash_sha256 = get_content_hash(code.path, code._ignore_file)
        if secrets:
            notify(Notice(secrets_text(sorted(secrets))))
        return upload(code)

    uploads.create_or_update = without_secrets


def _refused(err: HttpResponseError, connection: Connection) -> HimlError:
    """The service's refusal of a request that azure-ai-ml sent, as himl tells it."""
    answer: Any = err.response
    if answer is None:
        return ServiceFailed(f"azure-ai-ml could not make the job ready: {redact(str(err.message))}")
    try:
        body = read_json(answer.text())
    except ValueError:
        body = answer.text()
    headers = {name.lower(): value for name, value in answer.headers.items()}
    url = answer.request.url.partition("?")[0]
    return refusal(
        Failure(str(answer.request.method), url, answer.status_code, headers, body),
        connection.address,
        "azure-ai-ml's sign-in",
    )


class _UpToTheJob(HttpTransport[Any, Any]):
    """Sends everything but the request for a job: that is himl's to send."""

    def __init__(self) -> None:
        self._way: Any = RequestsTransport(connection_verify=ca_bundle())

    def send(self, request: Any, **options: Any) -> Any:
        if request.method == "PUT" and _JOB.search(urlsplit(request.url).path):
            raise Composed(request)
        return self._way.send(request, **options)

    def open(self) -> None:
        self._way.open()

    def close(self) -> None:
        self._way.close()

    def __exit__(self, *error: object) -> None:
        self.close()
