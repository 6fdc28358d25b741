"""Storing files among a run's artifacts: the artifact service is told their names, so that Studio lists them, and gives
links to write to.

Links for many files come in one request. A name that the service has already gets its link by another route; its
content is replaced then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any
from urllib.parse import quote

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import HimlError
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.answers import object_of
from himl_cli.workspaces.azure.requests.errors import ServiceRefused
from himl_cli.workspaces.azure.storage.artifact_links import LinkAccess
from himl_cli.workspaces.azure.storage.blobs.access import Signed
from himl_cli.workspaces.azure.storage.blobs.lines import Exchanger
from himl_cli.workspaces.azure.storage.blobs.names import reason_not_to_store
from himl_cli.workspaces.azure.storage.blobs.storing import StoreTasks
from himl_cli.workspaces.azure.storage.blobs.tasks import Run
from himl_cli.workspaces.base import StoreSink
from himl_cli.workspaces.retry import RetryPolicy, RetryState

AT_ONCE = 50
"""Names in one request, as azureml-core has it."""


class WriteAccess(LinkAccess):
    """Links to write to; one that ran out is asked for again."""

    def announce(self, names: Iterable[str]) -> None:
        """Tell the service of files of these *names*, at most `AT_ONCE`, and keep the links that it gives."""
        url = self._connection.artifact(f"/artifacts/batch/metadata/ExperimentRun/{quote(self._container_id, safe='')}")
        try:
            answer = self._connection.rest.post_object(url, "links", json={"paths": [{"path": name} for name in names]})
        except ServiceRefused as err:  # some of them are there already: each is asked for by itself then
            if err.status not in (400, 409):
                raise
            return
        given: Mapping[str, Any] = object_of(answer.get("artifactContentInformation") or {}, url, "links")
        for name, item in given.items():
            self._keep(name, object_of(item, url, "link"))

    def signed(self, name: str, query: str = "") -> Signed:
        link = self._links.get(name)
        if link is None or link[1].is_due:
            self._ask(name)
        return super().signed(name, query)

    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        self._ask(name)
        return True

    def _ask(self, name: str) -> None:
        url = self._connection.artifact(
            f"/artifacts/write/ExperimentRun/{quote(self._container_id, safe='')}/{quote(name)}"
        )
        self._keep(name, self._connection.rest.get_object(url, "link"))


def store_artifacts(
    connection: Connection,
    exchanger: Exchanger,
    container_id: str,
    label: str,
    requests: Iterable[StoreRequest],
    sink: StoreSink,
    *,
    workers: int,
) -> None:
    """As `BlobStore.store`, for the run whose files lie under *container_id*."""
    access = WriteAccess(connection, container_id, label)
    tasks = StoreTasks(_announced(iter(requests), access, sink), sink, access, RetryState(RetryPolicy(), access.pauses))
    try:
        with exchanger.lines() as lines:
            Run(lines, tasks, workers).finish()
    finally:
        tasks.close()


def _announced(requests: Iterator[StoreRequest], access: WriteAccess, sink: StoreSink) -> Iterator[StoreRequest]:
    """*requests* once the service knows their names; where it does not take them, they fail."""
    while some := [*islice(requests, AT_ONCE)]:
        try:
            access.announce([request.name for request in some if not reason_not_to_store(request.name)])
        except HimlError as err:
            for request in some:
                sink.fail(request, err)
            continue
        yield from some
